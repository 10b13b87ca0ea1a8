"""raftctl lease says what etcdctl lease says, to etcd and to raftkv.

Both tools ask the same server about the same leases. Only what time decides is masked or tried
again: ids that a server chose, and seconds that were left when one of the two asked.
"""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from raftkv.pb import rpc_pb2, rpc_pb2_grpc
from tests.cli.running import Outcome, etcdctl, raftctl
from tests.cli.talking import TOOLS, Running
from tests.processes import etcd, raftkv

FORMATS = ("simple", "json", "fields", "table", "protobuf")
LEASE = 0x2040A206F1272005
NAMED = f"{LEASE:x}"
TTL = 5000

Tool = Callable[..., Outcome]


class Leases:
    """A server with one lease, two keys on it, and a way to make more."""

    def __init__(self, endpoint: str, channel: grpc.Channel) -> None:
        self.endpoint = endpoint
        self._stub = rpc_pb2_grpc.LeaseStub(channel)
        kv = rpc_pb2_grpc.KVStub(channel)
        self.grant(LEASE)
        for key in (b"a", b"\xff\n"):
            kv.Put(rpc_pb2.PutRequest(key=key, lease=LEASE))

    def grant(self, lease: int, ttl: int = TTL) -> None:
        self._stub.LeaseGrant(rpc_pb2.LeaseGrantRequest(ID=lease, TTL=ttl))

    def revoke(self, lease: int) -> None:
        self._stub.LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=lease))

    def run(self, tool: Tool, *argv: str) -> Outcome:
        return tool(["--endpoints", self.endpoint, *argv])

    def running(self, tool: str, *argv: str) -> Running:
        """A process that runs on."""
        return Running(tool, ["--endpoints", self.endpoint, *argv])

    def agree(self, *argv: str, mask: bytes = b"") -> Outcome:
        """etcdctl's outcome, with which raftctl's must agree."""
        for attempt in range(30):
            theirs, ours = self.run(etcdctl, *argv), self.run(raftctl, *argv)
            shown = [re.sub(mask, b"#", one.out) if mask else one.out for one in (theirs, ours)]
            if shown[0] == shown[1] or attempt == 29:  # a second may have passed between them
                break
        assert shown[1] == shown[0]
        assert ours.exit_code == theirs.exit_code
        assert ours.error_line == theirs.error_line
        return theirs


@pytest.fixture(scope="module", params=["etcd", "raftkv"])
def leases(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Leases]:
    start = etcd if request.param == "etcd" else raftkv
    directory: Path = tmp_path_factory.mktemp("leases")
    with (
        start(directory) as cluster,
        grpc.insecure_channel(cluster.endpoints) as channel,
    ):
        yield Leases(cluster.endpoints, channel)


@pytest.mark.parametrize("form", FORMATS)
def test_every_command_prints_and_exits_as_etcdctl(leases: Leases, form: str) -> None:
    """Keys that are no text stay the bytes that they are."""
    ids = rb'"ID" ?: ?[0-9]+|lease [0-9a-f]{16}'
    codes = [
        leases.agree("-w", form, "lease", *argv.split(), mask=ids if argv[0] == "g" else b"")
        for argv in (
            "grant 100",
            "grant -- -5",
            f"timetolive {NAMED}",
            "timetolive 123",
            "timetolive 123 --keys",
            f"keep-alive {NAMED} --once",
            "keep-alive 123 --once",
            "keep-alive 123",
            "revoke 123",
        )
    ]
    assert {one.exit_code for one in codes} >= {0, 1, 2} - ({0} if form == "table" else set())


@pytest.mark.parametrize("form", FORMATS)
def test_keys_are_printed_in_each_format(leases: Leases, form: str) -> None:
    """Their order is the server's."""
    shown = leases.agree("-w", form, "lease", "timetolive", NAMED, "--keys")
    if form == "simple":
        assert b"attached keys([" in shown.out
        assert b"\xff\n" in shown.out


@pytest.mark.parametrize("form", FORMATS)
def test_a_lease_is_revoked_alike(leases: Leases, form: str) -> None:
    shown = []
    for tool in (etcdctl, raftctl):
        leases.grant(77)
        shown.append(leases.run(tool, "-w", form, "lease", "revoke", "4d"))
        again = leases.run(tool, "lease", "timetolive", "4d")
        assert again.out == b"lease 000000000000004d already expired\n"
    theirs, ours = shown
    assert (ours.out, ours.exit_code) == (theirs.out, theirs.exit_code)
    assert ours.error_line == theirs.error_line


@pytest.mark.parametrize("form", FORMATS)
def test_leases_are_listed_alike(leases: Leases, form: str) -> None:
    for lease in (5, -6, 7):
        leases.grant(lease, TTL * (10 + lease))
    leases.agree("-w", form, "lease", "list")
    leases.agree("-w", form, "lease", "list", "ignored")
    for lease in (5, -6, 7):
        leases.revoke(lease)


@pytest.mark.parametrize(
    "argv",
    [
        "grant",
        "grant x",
        "grant 1 2",
        "grant 9000000001",
        "grant 99999999999999999999",
        "grant 0x10",
        "revoke",
        "revoke zz",
        "revoke 0",
        "revoke 1 2",
        "revoke 0x1",
        "revoke -- -1",
        "revoke ffffffffffffffff",
        "timetolive",
        "timetolive zz",
        "timetolive 0",
        "timetolive 1 2",
        "timetolive -- -1",
        "keep-alive",
        "keep-alive zz",
        "keep-alive 1 2",
        "keep-alive 0",
        "keep-alive 0 --once",
        "keep-alive --once",
        "keep-alive --once -- -1",
    ],
)
def test_what_is_wrong_is_said_as_etcdctl_says_it(leases: Leases, argv: str) -> None:
    leases.agree("lease", *argv.split())


def test_keep_alive_goes_on_until_the_lease_is_over(leases: Leases) -> None:
    """Three renewals in a TTL and not more, and one line for each."""
    for tool in TOOLS:
        leases.grant(0xABC, 6)
        started = time.monotonic()
        with leases.running(tool, "lease", "keep-alive", "abc") as running:
            running.wait_for(b"\n", times=2)
            assert time.monotonic() - started > 1.5
            leases.revoke(0xABC)
            said = running.end()
        *renewed, last = said.out.splitlines()
        assert set(renewed) == {b"lease 0000000000000abc keepalived with TTL(6)"}
        assert last == b"lease 0000000000000abc expired or revoked."
        assert said.code == 0


def test_keep_alive_gives_up_when_no_member_answers_for_a_ttl(tmp_path: Path) -> None:
    """What has not been renewed for so long is over."""
    with (
        raftkv(tmp_path) as cluster,
        grpc.insecure_channel(cluster.endpoints) as channel,
    ):
        leases = Leases(cluster.endpoints, channel)
        leases.grant(0xABC, 3)
        flags = ("--dial-timeout=1s", "lease", "keep-alive", "abc")
        with leases.running("raftctl", *flags) as running:
            running.wait_for(b"keepalived")
            cluster.close()
            said = running.end()
    assert said.code == 0
    assert said.out.endswith(b"lease 0000000000000abc expired or revoked.\n")


def test_keep_alive_of_a_server_that_is_not_there_is_a_bad_connection() -> None:
    done = raftctl(
        ["--endpoints", "127.0.0.1:1", "--dial-timeout=100ms", "lease", "keep-alive", "1"]
    )
    assert done.exit_code == 2
    assert done.out == b""


def test_the_group_alone_prints_its_commands() -> None:
    done = raftctl(["lease"])
    assert done.exit_code == 0
    for word in (b"grant", b"keep-alive", b"list", b"revoke", b"timetolive"):
        assert word in done.out
