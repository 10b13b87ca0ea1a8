"""Alarms, the quota and downgrades, asked of etcd and of raftkv alike; and what the tools print.

The two measure differently (etcd the size of its file, raftkv the rows), so their quotas are small
and nothing is said about when one is full, only about what is answered then.
"""

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from urllib.request import urlopen

import grpc
import pytest

from raftkv.pb import rpc_pb2 as pb
from tests.cli.running import etcdctl, raftctl
from tests.conformance.target import Target
from tests.processes import Cluster, etcd, raftkv

QUOTA = 3_000_000
LIFT_SECONDS = 60.0
NO_SPACE = ("RESOURCE_EXHAUSTED", "etcdserver: mvcc: database space exceeded")
CORRUPT = ("DATA_LOSS", "etcdserver: corrupt cluster")
ACTIVATE, DEACTIVATE = pb.AlarmRequest.ACTIVATE, pb.AlarmRequest.DEACTIVATE
NOSPACE = pb.NOSPACE


class Subject:
    """One server."""

    def __init__(self, cluster: Cluster, target: Target) -> None:
        self.endpoint = cluster.servers[0].endpoint
        self.target = target
        self.is_etcd = "etcd" in cluster.servers[0].name

    def ask(self, request: Any) -> Any:
        """The answer, or (code, text)."""
        answer = self.target.call(request)
        return (answer.code, answer.text) if answer.message is None else answer.message

    def alarm(self, action: int = 0, kind: int = 0, member: int = 0) -> list[tuple[int, int]]:
        """The alarms in the answer: (member, type)."""
        request = pb.AlarmRequest(memberID=member)
        request.action = action  # type: ignore[assignment]
        request.alarm = kind  # type: ignore[assignment]
        return sorted((one.memberID, one.alarm) for one in self.ask(request).alarms)

    def put(self, key: bytes = b"k", value: bytes = b"v") -> Any:
        return self.ask(pb.PutRequest(key=key, value=value))


@pytest.fixture(scope="module", params=["etcd", "raftkv"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Subject]:
    """A server with a small quota, shared by this module."""
    flags = ["--quota-backend-bytes", str(QUOTA)]
    directory = tmp_path_factory.mktemp(request.param)
    with ExitStack() as stack:
        if request.param == "etcd":
            started = etcd(directory, "--unsafe-no-fsync", *flags)
        else:
            started = raftkv(directory, 1, *flags, "--auto-compaction-retention", "0")
        cluster = stack.enter_context(started)
        yield Subject(cluster, stack.enter_context(Target(cluster.servers[0].endpoint)))


@pytest.fixture(autouse=True)
def _disarmed(server: Subject) -> Iterator[None]:
    yield
    for member, kind in server.alarm():
        server.alarm(DEACTIVATE, kind, member)


def put(key: bytes) -> pb.RequestOp:
    return pb.RequestOp(request_put=pb.PutRequest(key=key))


def get(key: bytes) -> pb.RequestOp:
    return pb.RequestOp(request_range=pb.RangeRequest(key=key))


def delete(key: bytes) -> pb.RequestOp:
    return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key))


def test_alarms_are_raised_listed_and_disarmed(server: Subject) -> None:
    assert server.alarm() == []
    assert server.alarm(ACTIVATE, 0, 7) == []
    assert server.alarm(ACTIVATE, NOSPACE, 7) == [(7, NOSPACE)]
    assert server.alarm(ACTIVATE, NOSPACE, 7) == [(7, NOSPACE)]
    assert server.alarm(ACTIVATE, NOSPACE, 0) == [(0, NOSPACE)]
    assert server.alarm(ACTIVATE, pb.CORRUPT, 7) == [(7, pb.CORRUPT)]
    assert server.alarm(0, NOSPACE) == [(0, NOSPACE), (7, NOSPACE)]
    assert server.alarm(0, pb.CORRUPT, 9) == [(7, pb.CORRUPT)], "the member is not looked at"
    assert server.alarm(0, 5) == []
    assert server.alarm(DEACTIVATE, NOSPACE, 8) == []
    assert server.alarm(DEACTIVATE, 0, 7) == []
    assert server.alarm(DEACTIVATE, NOSPACE, 7) == [(7, NOSPACE)]
    assert server.alarm() == [(0, NOSPACE), (7, pb.CORRUPT)]


def test_without_space_only_what_grows_the_store_is_refused(server: Subject) -> None:
    server.put(b"there")
    server.alarm(ACTIVATE, NOSPACE, 7)
    assert server.put() == NO_SPACE
    assert server.ask(pb.PutRequest(key=b"k", lease=99)) == NO_SPACE
    assert server.ask(pb.TxnRequest(success=[put(b"k")])) == NO_SPACE
    assert server.ask(pb.TxnRequest(success=[get(b"k")], failure=[put(b"k")])) == NO_SPACE
    assert server.ask(pb.LeaseGrantRequest(TTL=60, ID=9)) == NO_SPACE
    assert server.ask(pb.TxnRequest(success=[get(b"k")])).succeeded
    assert server.ask(pb.TxnRequest(success=[delete(b"none")])).succeeded
    assert server.ask(pb.DeleteRangeRequest(key=b"there")).deleted == 1
    assert server.ask(pb.RangeRequest(key=b"there")).count == 0
    gone = server.ask(pb.LeaseRevokeRequest(ID=9))
    assert gone == ("NOT_FOUND", "etcdserver: requested lease not found")
    revision = server.ask(pb.RangeRequest(key=b"k")).header.revision
    assert server.ask(pb.CompactionRequest(revision=revision)).header.revision == revision
    assert list(server.ask(pb.StatusRequest()).errors) == ["memberID:7 alarm:NOSPACE "]


def test_a_corrupt_cluster_of_nobody_knows_whom_refuses_writes(server: Subject) -> None:
    server.alarm(ACTIVATE, pb.CORRUPT, 7)
    for request in (
        pb.PutRequest(key=b"k"),
        pb.DeleteRangeRequest(key=b"k"),
        pb.TxnRequest(success=[put(b"k")]),
        pb.CompactionRequest(revision=1),
        pb.LeaseGrantRequest(TTL=60, ID=10),
        pb.LeaseRevokeRequest(ID=10),
    ):
        assert server.ask(request) == CORRUPT
    assert server.ask(pb.RangeRequest(key=b"none")).count == 0
    assert server.ask(pb.TxnRequest(success=[get(b"k")])).succeeded
    assert list(server.ask(pb.StatusRequest()).errors) == ["memberID:7 alarm:CORRUPT "]


def test_health_over_http_names_the_alarm(server: Subject) -> None:
    server.alarm(ACTIVATE, NOSPACE, 7)
    with pytest.raises(OSError, match="503"):
        urlopen(f"http://{server.endpoint}/health", timeout=20)
    with urlopen(f"http://{server.endpoint}/health?exclude=NOSPACE", timeout=20) as answer:
        assert answer.read().strip() == b'{"health":"true","reason":""}'


def test_a_full_store_says_so_and_raises_the_alarm_of_the_member(server: Subject) -> None:
    """O-series: what a client and an operator see when the quota is reached."""
    own = server.ask(pb.StatusRequest()).header.member_id
    answer: Any = None
    for number in range(400):  # etcd looks at its file ten times a second
        answer = server.put(b"fill-%d" % number, b"x" * 200_000)
        if isinstance(answer, tuple):
            break
    assert answer == NO_SPACE
    assert server.alarm() == [(own, NOSPACE)]
    assert list(server.ask(pb.StatusRequest()).errors) == [f"memberID:{own} alarm:NOSPACE "]
    assert server.put() == NO_SPACE
    gone = server.ask(pb.DeleteRangeRequest(key=b"fill-", range_end=b"fill."))
    assert gone.deleted > 5
    revision = gone.header.revision
    server.ask(pb.CompactionRequest(revision=revision, physical=True))
    if server.is_etcd:
        assert server.put() == NO_SPACE, "etcd's trap: the file is as large as before"
        server.ask(pb.DefragmentRequest())
        assert server.put() == NO_SPACE
        assert server.alarm(DEACTIVATE, NOSPACE, own) == [(own, NOSPACE)]
        assert not isinstance(server.put(), tuple)
    else:
        # Nobody has to do anything: the leader tells what was removed within a moment.
        deadline = time.monotonic() + LIFT_SECONDS
        while isinstance(server.put(), tuple):
            assert time.monotonic() < deadline, "the alarm stays"
        assert server.alarm() == []


# --- downgrades -------------------------------------------------------------------------
def downgrade(server: Subject, action: int, version: str, *, is_answered: bool = True) -> Any:
    request = pb.DowngradeRequest(version=version)
    request.action = action  # type: ignore[assignment]
    call = server.target.channel.unary_unary(
        "/etcdserverpb.Maintenance/Downgrade",
        request_serializer=pb.DowngradeRequest.SerializeToString,
        response_deserializer=pb.DowngradeResponse.FromString,
    )
    # etcd 3.5.1 notes an enabled or cancelled downgrade and never answers.
    seconds = 60.0 if is_answered or not server.is_etcd else 3.0
    try:
        return call(request, timeout=seconds).version
    except grpc.RpcError as error:
        return error.code().name, error.details()


BAD_FORMAT = ("INVALID_ARGUMENT", "etcdserver: wrong downgrade target version format")
BAD_TARGET = ("INVALID_ARGUMENT", "etcdserver: invalid downgrade target version")
IN_PROGRESS = ("FAILED_PRECONDITION", "etcdserver: cluster has a downgrade job in progress")
# Whether the client's deadline or the server's own word for it comes first is chance.
TOO_LATE = (
    ("DEADLINE_EXCEEDED", "Deadline Exceeded"),
    ("UNAVAILABLE", "etcdserver: request timed out"),
)
NO_JOB = ("FAILED_PRECONDITION", "etcdserver: no inflight downgrade job")


def test_downgrades_are_judged_as_etcd_does(server: Subject) -> None:
    version = server.ask(pb.StatusRequest()).version
    major, minor = (int(part) for part in version.split(".")[:2])
    cluster = f"{major}.{minor}.0"
    below = f"{major}.{minor - 1}"
    for text in ("", "x", f"v{below}.0", f"{major}", f"{below}.x"):
        assert downgrade(server, 0, text) == BAD_FORMAT
        assert downgrade(server, 1, text) == BAD_FORMAT
    for target in (cluster, f"{major}.{minor - 2}.0", f"{major - 1}.{minor - 1}.0"):
        assert downgrade(server, 0, target) == BAD_TARGET
        assert downgrade(server, 1, target) == BAD_TARGET
    for target in (below, f"{below}.0", f"{below}.7", f"{below}.0-rc.1"):
        assert downgrade(server, 0, target) == cluster
    assert downgrade(server, 2, "") == NO_JOB
    assert downgrade(server, 5, below) == ("UNKNOWN", "etcdserver: unknown method")
    enabled = downgrade(server, 1, f"{below}.0", is_answered=False)
    assert enabled in TOO_LATE if server.is_etcd else enabled == cluster
    assert downgrade(server, 0, below) == IN_PROGRESS
    assert downgrade(server, 1, below) == IN_PROGRESS
    assert downgrade(server, 0, "x") == BAD_FORMAT
    assert downgrade(server, 0, cluster) == BAD_TARGET
    downgrade(server, 2, "", is_answered=False)
    assert downgrade(server, 2, "") == NO_JOB


# --- the tools ----------------------------------------------------------------------------
@pytest.mark.parametrize("form", ["simple", "json", "fields", "protobuf", "table"])
def test_raftctl_prints_alarms_as_etcdctl_does(server: Subject, form: str) -> None:
    server.alarm(ACTIVATE, NOSPACE, 7)
    for words in (["alarm", "list"], ["alarm", "list", "x"], ["alarm", "disarm", "x"]):
        argv = ["--endpoints", server.endpoint, "-w", form, *words]
        theirs, ours = etcdctl(argv), raftctl(argv)
        assert (ours.exit_code, ours.out) == (theirs.exit_code, theirs.out)
        assert ours.error_line == theirs.error_line


def test_raftctl_shows_alarms_with_health_and_status_as_etcdctl_does(server: Subject) -> None:
    for kind, name in ((NOSPACE, b"NOSPACE"), (pb.CORRUPT, b"CORRUPT")):
        server.alarm(ACTIVATE, kind, 7)  # one at a time: etcd's list has no order
        for words in (["endpoint", "health"], ["endpoint", "status"]):
            shown = []
            for run in (etcdctl, raftctl):
                outcome = run(["--endpoints", server.endpoint, *words])
                varying = re.compile(rb"took = [^ ,]+|\d+(\.\d)? [kM]?B|\d+, \d+, \d+,")
                text = varying.sub(b"*", outcome.out) + varying.sub(b"*", outcome.err.encode())
                shown.append((outcome.exit_code, text))
            assert shown[0] == shown[1]
            assert name in shown[1][1]
        server.alarm(DEACTIVATE, kind, 7)


@pytest.mark.parametrize("form", ["simple", "json", "protobuf", "table"])  # fields: a panic
def test_raftctl_disarms_as_etcdctl_does(server: Subject, form: str) -> None:
    outcomes = []
    for run in (etcdctl, raftctl):
        server.alarm(ACTIVATE, NOSPACE, 7)
        outcome = run(["--endpoints", server.endpoint, "-w", form, "alarm", "disarm"])
        assert server.alarm() == []
        again = run(["--endpoints", server.endpoint, "-w", form, "alarm", "disarm"])
        outcomes.append([(one.exit_code, one.out, one.error_line) for one in (outcome, again)])
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("server", ["raftkv"], indirect=True)  # etcd 3.5.1 does not answer
def test_raftctl_asks_for_downgrades(server: Subject) -> None:
    """etcdctl 3.5.1 does not know the command yet: these are the words of later ones."""
    ask = ["--endpoints", server.endpoint, "downgrade"]
    assert raftctl([*ask, "validate", "3.5.0"]).out == (
        b"Downgrade validate success, cluster version 3.6.0\n"
    )
    assert raftctl([*ask, "enable", "3.5"]).out == (
        b"Downgrade enable success, cluster version 3.6.0\n"
    )
    refused = raftctl([*ask, "validate", "3.5.0"])
    assert refused.exit_code == 1
    assert refused.error_line == "Error: etcdserver: cluster has a downgrade job in progress"
    assert raftctl(["-w", "table", *ask, "cancel"]).exit_code == 4
    assert raftctl([*ask, "enable", "3.5"]).exit_code == 0
    cancelled = raftctl(["-w", "json", *ask, "cancel"])
    assert b'"version":"3.6.0"' in cancelled.out
    for words in (["validate"], ["enable"], ["enable", ""], ["validate", "3.5.0", "3.4.0"]):
        assert raftctl([*ask, *words]).exit_code == 128
