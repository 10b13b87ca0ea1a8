"""Sessions as clients see them: writes that are repeated at any member and applied once (C01)."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from raftkv.errors import (
    ALREADY_APPLIED,
    SEQUENCE_TOO_HIGH,
    SESSION_MALFORMED,
    SESSION_MISPLACED,
    SESSION_NOT_FOUND,
    SESSION_PASSED,
    ApiError,
    Code,
)
from raftkv.kv.commands import session_bytes
from raftkv.limits import MAX_KEPT_ANSWERS
from raftkv.pb import rpc_pb2, v1_pb2
from raftkv.server.routes import Routes
from raftkv.server.services import extras, lease, once, sessions
from raftkv.server.services.catalogue import known_services
from tests.server.harness import Client, configs, replica_of, running, until
from tests.server.leasing import followers, leader, lease_client, lease_on
from tests.server.sessions import SessionClient, asked, last_index, session_client, status

Write = Callable[[SessionClient, Any], Awaitable[Any]]


async def fails(error: ApiError, call: Awaitable[Any], text: str = "") -> None:
    """The call must end with this error."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code().value[0] == error.code
    assert caught.value.details() == (text or error.text)


def _txn() -> rpc_pb2.TxnRequest:
    """Puts "k" if it does not exist; says what it found else."""
    compare = rpc_pb2.Compare(key=b"k", target=rpc_pb2.Compare.VERSION)
    compare.version = 0
    request = rpc_pb2.TxnRequest(compare=[compare])
    request.success.add().request_put.CopyFrom(rpc_pb2.PutRequest(key=b"k", value=b"v"))
    request.failure.add().request_range.CopyFrom(rpc_pb2.RangeRequest(key=b"k"))
    return request


WRITES: dict[str, Write] = {
    "put": lambda c, m: c.put(m),
    "put with the old value": lambda c, m: c.put(m, prev_kv=True),
    "delete": lambda c, m: c.kv.DeleteRange(
        rpc_pb2.DeleteRangeRequest(key=b"old", prev_kv=True), timeout=60, metadata=m
    ),
    "txn": lambda c, m: c.kv.Txn(_txn(), timeout=60, metadata=m),
    "grant": lambda c, m: c.lease.LeaseGrant(
        rpc_pb2.LeaseGrantRequest(TTL=60), timeout=60, metadata=m
    ),
    "revoke": lambda c, m: c.lease.LeaseRevoke(
        rpc_pb2.LeaseRevokeRequest(ID=4711), timeout=60, metadata=m
    ),
    "put with a TTL": lambda c, m: c.extras.PutWithTTL(
        v1_pb2.PutWithTTLRequest(key=b"k", value=b"v", ttl_ms=60_000), timeout=60, metadata=m
    ),
}


def test_a_write_is_applied_once_whichever_members_it_is_asked_of(tmp_path: Path) -> None:
    """C01: every kind of write, at the leader and at followers, gets one answer everywhere."""

    async def scenario() -> None:
        async with (
            running(configs(3, tmp_path)) as nodes,
            session_client(followers(nodes)[0]) as one,
            session_client(leader(nodes)) as two,
            session_client(followers(nodes)[1]) as three,
        ):
            for sequence, write in enumerate(WRITES.values(), 1):
                session = await one.open()
                await one.put(key=b"old")
                await one.lease.LeaseGrant(rpc_pb2.LeaseGrantRequest(ID=4711, TTL=60), timeout=60)
                metadata = asked(session, sequence, sequence)
                first = await write(one, metadata)
                await one.put(key=b"other")
                for client in (two, three, one):
                    again = await write(client, metadata)
                    again.header.member_id = first.header.member_id
                    again.header.raft_term = first.header.raft_term
                    assert again == first
                assert await one.version() <= 1
                await one.kv.DeleteRange(rpc_pb2.DeleteRangeRequest(key=b"k"), timeout=60)
                if lease_on(nodes[0], 4711) is not None:
                    await one.revoke(4711)

    asyncio.run(scenario())


def test_many_attempts_at_once_are_one_write(tmp_path: Path) -> None:
    """In one burst, in one turn, in one run of puts: entries side by side in the log."""

    async def scenario() -> None:
        async with (
            running(configs(3, tmp_path)) as nodes,
            session_client(leader(nodes)) as one,
            session_client(followers(nodes)[0]) as two,
        ):
            session = await one.open()
            for sequence in range(1, 6):
                attempts = [
                    client.put(asked(session, sequence, sequence))
                    for client in (one, two)
                    for _ in range(10)
                ]
                plain = [one.put(key=b"x%d" % number) for number in range(10)]
                answers = await asyncio.gather(*attempts, *plain)
                assert len({answer.header.revision for answer in answers[:20]}) == 1
                assert await two.version() == sequence

    asyncio.run(scenario())


def test_a_read_only_transaction_in_a_session_keeps_its_answer(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,), session_client(node) as client:
            session = await client.open()
            request = rpc_pb2.TxnRequest()
            request.success.add().request_range.CopyFrom(rpc_pb2.RangeRequest(key=b"k"))
            metadata = asked(session, 1)
            first = await client.kv.Txn(request, timeout=60, metadata=metadata)
            await client.put()
            assert await client.kv.Txn(request, timeout=60, metadata=metadata) == first
            assert await client.kv.Txn(request, timeout=60) != first

    asyncio.run(scenario())


# --- the session and its lease -----------------------------------------------------
def test_the_lease_service_keeps_lists_and_ends_a_session(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            running(configs(1, tmp_path)) as (node,),
            session_client(node) as client,
            lease_client(node) as etcd,
        ):
            session = await client.open(60)
            assert await etcd.listed() == [session]
            assert await etcd.stream().renew(session) == (session, 60)
            left = await etcd.left(session)
            assert (left.grantedTTL, left.TTL in (59, 60)) == (60, True)
            await client.put(asked(session, 1))
            await client.revoke(session)
            await fails(SESSION_NOT_FOUND, client.put(asked(session, 1)))
            await fails(SESSION_NOT_FOUND, client.put(asked(session, 2)))
            assert await client.version() == 1

    asyncio.run(scenario())


def test_a_session_that_nobody_renews_ends(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,), session_client(node) as client:
            session = await client.open(1)
            await client.put(asked(session, 1))
            await until(lambda: lease_on(node, session) is None)
            await fails(SESSION_NOT_FOUND, client.put(asked(session, 1)))
            assert await client.version() == 1
            assert not len(replica_of(node).machine.sessions)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("ttl", "code", "text"),
    [
        (0, Code.INVALID_ARGUMENT, "raftkv: ttl must be at least 1"),
        (-1, Code.INVALID_ARGUMENT, "raftkv: ttl must be at least 1"),
        (9_000_000_001, Code.OUT_OF_RANGE, "etcdserver: too large lease TTL"),
    ],
)
def test_a_ttl_that_makes_no_sense_is_refused(
    tmp_path: Path, ttl: int, code: int, text: str
) -> None:
    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,):
            client = await Client.connect(node)
            message = v1_pb2.OpenSessionRequest(ttl=ttl).SerializeToString()
            path = "/raftkv.v1.Sessions/OpenSession"
            assert await status(client, path, message) == (code, text)
            assert (await status(client, path, b"\xff"))[0] == Code.INTERNAL
            assert not len(replica_of(node).machine.leases)
            client.close()

    asyncio.run(scenario())


def test_a_ttl_below_the_minimum_of_leases_is_raised(tmp_path: Path) -> None:
    async def scenario() -> None:
        options = {"heartbeat_interval_ms": 200, "election_timeout_ms": 2000}
        async with running(configs(1, tmp_path, **options)) as (node,), session_client(node) as one:
            answer = await one.sessions.OpenSession(v1_pb2.OpenSessionRequest(ttl=1), timeout=60)
            assert answer.ttl == 3
            assert answer.header.revision == 1

    asyncio.run(scenario())


def test_a_clash_of_ids_is_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a session: the id that was taken is not the write's answer."""

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,), session_client(node) as client:
            await client.lease.LeaseGrant(rpc_pb2.LeaseGrantRequest(ID=7, TTL=60), timeout=60)
            ids = iter([7, 8, 7, 9, 7, 10, 11, 12])
            for module in (sessions, lease, extras):
                monkeypatch.setattr(module, "choose_id", lambda _: next(ids))
            assert await client.open() == 8
            grant, put = WRITES["grant"], WRITES["put with a TTL"]
            assert (await grant(client, asked(8, 1))).ID == 9
            assert (await put(client, asked(8, 2))).lease == 10
            assert (await grant(client, asked(8, 1))).ID == 9
            assert (await put(client, asked(8, 2))).lease == 10
            assert list(replica_of(node).machine.leases.by_id) == [7, 8, 9, 10]

    asyncio.run(scenario())


# --- what is refused ---------------------------------------------------------------
def test_what_is_over_or_too_early_or_too_large_says_so(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,), session_client(node) as client:
            session = await client.open()
            await client.put(asked(session, 5, 4))
            await fails(SESSION_PASSED, client.put(asked(session, 3)))
            before = last_index(node)
            too_high = asked(session, 4 + MAX_KEPT_ANSWERS, 4)
            await fails(SEQUENCE_TOO_HIGH, client.put(too_high))
            assert last_index(node) == before
            assert await client.version() == 1
            await client.put(value=bytes(70_000))
            metadata = asked(session, 6, 4)
            large = await client.put(metadata, prev_kv=True)
            text = (
                f"raftkv: already applied at revision {large.header.revision}; its answer was too "
                "large to keep"
            )
            await fails(ALREADY_APPLIED, client.put(metadata, prev_kv=True), text)
            assert await client.version() == 3

    asyncio.run(scenario())


MALFORMED = [
    {"raftkv-session": "7"},
    {"raftkv-sequence": "1", "raftkv-unanswered": "1"},
    {"raftkv-session": "7", "raftkv-sequence": "1"},
    {"raftkv-session": "7", "raftkv-sequence": "0", "raftkv-unanswered": "0"},
    {"raftkv-session": "7", "raftkv-sequence": "1", "raftkv-unanswered": "2"},
    {"raftkv-session": "7", "raftkv-sequence": "-1", "raftkv-unanswered": "-1"},
    {"raftkv-session": "0x7", "raftkv-sequence": "1", "raftkv-unanswered": "1"},
    {"raftkv-session": "9" * 19, "raftkv-sequence": "1", "raftkv-unanswered": "1"},
    {"raftkv-session": "7", "raftkv-sequence": "+1", "raftkv-unanswered": "1"},
    {"raftkv-session": "7", "raftkv-sequence": "1_0", "raftkv-unanswered": "1"},
    {"raftkv-session": "7", "raftkv-sequence": "9" * 20, "raftkv-unanswered": "1"},
    {"raftkv-session": "", "raftkv-sequence": "1", "raftkv-unanswered": "1"},
]


def test_metadata_that_is_not_well_formed_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,), session_client(node) as client:
            session = await client.open()
            before = last_index(node)
            for fields in MALFORMED:
                for write in WRITES.values():
                    await fails(SESSION_MALFORMED, write(client, tuple(fields.items())))
            twice = (*asked(session, 1), ("raftkv-sequence", "1"))
            await fails(SESSION_MALFORMED, client.put(twice))
            assert last_index(node) == before

    asyncio.run(scenario())


def test_no_other_call_can_be_in_a_session(tmp_path: Path) -> None:
    """Every method of every service: whoever believes that it is repeated safely must hear no."""
    misplaced = (SESSION_MISPLACED.code, SESSION_MISPLACED.text)

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,):
            client = await Client.connect(node)
            assert node.clients is not None
            routes: Routes = node.clients.routes
            assert len(routes.session_paths) == 6
            every = [
                f"/{service}/{method}".encode()
                for service, methods in known_services().items()
                for method in methods
            ]
            assert set(every) >= {*routes.unary, *routes.streams}
            for path in every:
                if path not in routes.session_paths:
                    ended = await status(client, path.decode(), b"", asked(7, 1))
                    assert ended == misplaced, path
            for fields in MALFORMED[:3]:  # also what is no session at all
                ended = await status(client, "/etcdserverpb.KV/Range", b"", tuple(fields.items()))
                assert ended == misplaced
            client.close()

    asyncio.run(scenario())


def test_a_write_without_a_session_is_not_looked_at_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,), session_client(node) as client:
            monkeypatch.setattr(once, "read_session", None)
            monkeypatch.setattr(replica_of(node).machine, "sessions", None)
            for write in WRITES.values():
                try:
                    await write(client, (("raftkv-other", "1"),))
                except grpc.aio.AioRpcError as error:
                    assert error.code() is grpc.StatusCode.NOT_FOUND  # noqa: PT017  the lease

    asyncio.run(scenario())


@pytest.mark.parametrize("session", [1, -1, (1 << 63) - 1, -(1 << 63)])
def test_the_metadata_is_packed_as_it_stands_in_the_log(session: int) -> None:
    largest = (1 << 63) - 1
    for sequence, lowest in ((1, 1), (64, 1), (largest, largest - 5)):
        metadata = {
            name.encode(): value.encode() for name, value in asked(session, sequence, lowest)
        }
        assert once.read_session(metadata) == session_bytes(session, sequence, lowest)
    too_large = {name.encode(): value.encode() for name, value in asked(session, largest + 1, 1)}
    assert once.read_session(too_large) is SESSION_MALFORMED
