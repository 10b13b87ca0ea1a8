"""What errors mean: every known text has one class, and servers do say these texts."""

import re
from typing import Any, Final

import pytest

from raftkv import errors as server_errors
from raftkv.client import errors
from raftkv.client.errors import ClientError, OutcomeUnknown
from raftkv.client.statuses import BY_TEXT, mapped
from raftkv.client.txn import Delete, Get, Put, Txn
from raftkv.client.txn import key as k
from raftkv.errors import ApiError, Code, Outcome
from raftkv.pb import rpc_pb2
from tests.client.conftest import Face, Served

# etcd's messages by code (api/v3rpc/rpctypes/error.go), without "etcdserver: ".
ETCD: Final = {
    Code.INVALID_ARGUMENT: """
        key is not provided | key not found | value is provided | lease is provided
        | too many operations in txn request | duplicate key given in txn request
        | invalid client api version | invalid sort option | given member URLs are invalid
        | request is too large | user name is empty | role name is empty
        | authentication failed, invalid user ID or password | permission not given
        | invalid auth management | revision of auth store is old
        | wrong downgrade target version format | invalid downgrade target version""",
    Code.OUT_OF_RANGE: """
        mvcc: required revision has been compacted
        | mvcc: required revision is a future revision | too large lease TTL""",
    Code.RESOURCE_EXHAUSTED: "mvcc: database space exceeded | too many requests",
    Code.NOT_FOUND: "requested lease not found | member not found",
    Code.FAILED_PRECONDITION: """
        lease already exists | member ID already exist | Peer URLs already exists
        | re-configuration failed due to not enough started members
        | can only promote a learner member
        | can only promote a learner member which is in sync with leader
        | too many learner members in cluster | cluster ID mismatch | root user does not exist
        | root user does not have root role | user name already exists | user name not found
        | role name already exists | role name not found | role is not granted to the user
        | permission is not granted to the role | authentication is not enabled | not leader
        | not capable | rpc not supported for learner | bad leader transferee
        | cluster version not found during downgrade | cluster has a downgrade job in progress
        | no inflight downgrade job""",
    Code.CANCELLED: "watch canceled | request canceled",
    Code.PERMISSION_DENIED: "permission denied",
    Code.UNAUTHENTICATED: "invalid auth token",
    Code.UNAVAILABLE: """
        no leader | leader changed | server stopped | request timed out
        | request timed out, possibly due to previous leader failure
        | request timed out, possibly due to connection lost
        | request timed out, waiting for the applied index took too long | unhealthy cluster""",
    Code.DATA_LOSS: "corrupt cluster",
    Code.DEADLINE_EXCEEDED: "context deadline exceeded",
}
MAY_HAVE_WRITTEN: Final = {
    "server stopped",
    "request timed out",
    "request timed out, possibly due to previous leader failure",
    "request timed out, possibly due to connection lost",
    "request canceled",
    "context deadline exceeded",
}


def _etcd_messages() -> list[tuple[int, str]]:
    return [
        (code, " ".join(text.split())) for code, texts in ETCD.items() for text in texts.split("|")
    ]


def _raftkv_messages() -> list[ApiError]:
    found = vars(server_errors).values()
    return [value for value in found if isinstance(value, ApiError)]


@pytest.mark.parametrize(("code", "text"), _etcd_messages())
def test_every_message_of_etcd_has_a_class_of_its_own_meaning(code: int, text: str) -> None:
    error = mapped(code, "etcdserver: " + text, write=False, endpoint="a:1")
    assert "etcdserver: " + text in BY_TEXT
    assert type(error) not in (ClientError, errors.ServerError)
    assert (error.code, error.endpoint, error.outcome) == (code, "a:1", Outcome.DEFINITE)
    assert text in str(error)
    assert "a:1" in str(error)


@pytest.mark.parametrize(("code", "text"), _etcd_messages())
def test_a_write_is_unknown_exactly_after_the_messages_that_leave_it_open(
    code: int, text: str
) -> None:
    error = mapped(code, "etcdserver: " + text, write=True)
    unknown = text in MAY_HAVE_WRITTEN
    assert isinstance(error, OutcomeUnknown) == unknown
    assert error.outcome is (Outcome.UNKNOWN if unknown else Outcome.DEFINITE)


@pytest.mark.parametrize("told", _raftkv_messages(), ids=lambda told: told.text[:40])
def test_every_message_of_raftkv_has_a_class_and_keeps_its_outcome(told: ApiError) -> None:
    read = mapped(told.code, told.text, write=False)
    assert told.text in BY_TEXT
    assert type(read) is BY_TEXT[told.text]
    assert mapped(told.code, told.text, write=True).outcome is told.outcome


def test_no_class_stands_for_the_root_of_another_meaning() -> None:
    """The table leads to leaves or to general classes of the drawn tree, never beside it."""
    drawn = set(re.findall(r"\+-- (\w+)", errors.__doc__ or ""))
    defined = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, ClientError)
    }
    assert defined == drawn


@pytest.mark.parametrize("write", [False, True])
def test_what_never_left_is_definite_for_reads_and_writes(write: bool) -> None:
    text = "failed to connect to all addresses; last error: UNKNOWN: ipv4: Connection refused"
    no_host = ("DNS resolution failed for nowhere:1: not found", "errors resolving nowhere:1: [x]")
    for said in (text, *no_host):
        error = mapped(Code.UNAVAILABLE, said, write=write)
        assert isinstance(error, errors.NotConnected)
        assert error.outcome is Outcome.DEFINITE


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (Code.UNAVAILABLE, "Socket closed"),
        (Code.UNAVAILABLE, "recvmsg:Connection reset by peer"),
        (Code.UNAVAILABLE, "Stream refused"),
        (Code.UNAVAILABLE, "ping timeout"),
        (Code.DEADLINE_EXCEEDED, "Deadline Exceeded"),
        (Code.CANCELLED, "CANCELLED"),
        (Code.INTERNAL, "Received RST_STREAM with error code 2"),
        (Code.UNKNOWN, "raft: stopped"),
        (Code.ABORTED, ""),
        (Code.RESOURCE_EXHAUSTED, "anything"),
        (99, "a code of the future"),
    ],
)
def test_what_broke_on_its_way_is_unknown_for_writes_only(code: int, text: str) -> None:
    write = mapped(code, text, write=True)
    assert isinstance(write, OutcomeUnknown)
    assert "check before you repeat it" in str(write)
    assert not isinstance(write.reason, OutcomeUnknown)
    read = mapped(code, text, write=False)
    assert read.outcome is Outcome.DEFINITE
    assert type(read) is type(write.reason)


def test_a_write_that_was_carried_out_before_says_at_which_revision() -> None:
    text = "raftkv: already applied at revision 77; its answer was too large to keep"
    error = mapped(Code.ALREADY_EXISTS, text, write=True)
    assert isinstance(error, errors.AlreadyApplied)
    assert (error.revision, error.outcome) == (77, Outcome.UNKNOWN)


@pytest.mark.parametrize(
    "text", ["Received RST_STREAM with error code 2", "Internal error from Core"]
)
def test_a_stream_that_broke_is_no_fault_of_the_server(text: str) -> None:
    """Reads go on elsewhere."""
    assert type(mapped(Code.INTERNAL, text, write=False)) is errors.Unavailable
    assert isinstance(mapped(Code.INTERNAL, text, write=True), OutcomeUnknown)


def test_a_refusal_with_an_unknown_text_is_definite() -> None:
    error = mapped(Code.INVALID_ARGUMENT, "etcdserver: a text of the future", write=True)
    assert type(error) is errors.BadRequest
    assert error.outcome is Outcome.DEFINITE


# --- servers say so ---------------------------------------------------------------------
def test_servers_say_what_the_table_expects(server: Served, face: Face, prefix: str) -> None:
    async def scenario(client: Any) -> None:
        a = prefix + "a"
        first = (await client.put(a, "1")).revision

        async def expect(kind: type[ClientError], call: Any, at_most_code: int) -> None:
            with pytest.raises(kind) as caught:
                await call
            assert caught.value.code == at_most_code
            assert caught.value.text.startswith("etcdserver: ")
            assert caught.value.text in BY_TEXT
            assert caught.value.outcome is Outcome.DEFINITE

        bad = Code.INVALID_ARGUMENT
        await expect(errors.EmptyKey, client.put("", "x"), bad)
        missing = prefix + "none"
        await expect(errors.KeyNotFound, client.put(missing, "", ignore_value=True), bad)
        await expect(errors.BadRequest, client.put(a, "x", ignore_value=True), bad)
        await expect(errors.LeaseNotFound, client.put(a, "x", lease=12345), Code.NOT_FOUND)
        await expect(errors.LeaseNotFound, client.revoke(12345), Code.NOT_FOUND)
        await expect(errors.LeaseTtlTooLarge, client.grant(10**10), Code.OUT_OF_RANGE)
        await expect(errors.FutureRevision, client.get(a, revision=10**9), Code.OUT_OF_RANGE)
        await expect(errors.RequestTooLarge, client.put(a, b"x" * 2_000_000), bad)
        twice = Txn().then(Put(a, "1"), Put(a, "2"))
        await expect(errors.DuplicateKey, client.txn(twice), bad)
        many = Txn().then(*(Get(f"{prefix}{number}") for number in range(129)))
        await expect(errors.RequestTooLarge, client.txn(many), bad)
        await expect(errors.MemberNotFound, client.member_remove(1), Code.NOT_FOUND)
        lease = (await client.grant(60)).id
        exists = client.grant(60, id=lease)
        await expect(errors.LeaseExists, exists, Code.FAILED_PRECONDITION)
        await client.revoke(lease)
        last = (await client.put(a, "2")).revision
        await client.compact(last)
        await expect(errors.Compacted, client.get(a, revision=first), Code.OUT_OF_RANGE)
        await expect(errors.Compacted, client.compact(first), Code.OUT_OF_RANGE)
        await client.txn(Txn().when(k(a).exists()).then(Delete(a)))

    face.run(scenario, server.endpoints)


def test_an_unknown_call_is_unsupported(server: Served, face: Face) -> None:
    async def scenario(client: Any) -> None:
        with pytest.raises(errors.Unsupported) as caught:
            await client.call(
                "/no.Service/Here", rpc_pb2.StatusRequest(), rpc_pb2.StatusResponse, write=True
            )
        assert caught.value.outcome is Outcome.DEFINITE

    face.run(scenario, server.endpoints)
