"""How long leases live on real members: healthy, through kills and pauses, and in crowds.

A lease never ends before its last answered renewal (or its grant) was sent, plus its TTL. How late
it may end depends on what happened meanwhile. Times are the test's own, monotonic.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from raftkv.pb import rpc_pb2, rpc_pb2_grpc
from tests.processes import ETCDCTL, Cluster, Server, raftkv

pytestmark = pytest.mark.slow

HEALTHY_SECONDS: Final = 1.0  # how late leases may end in healthy times
BUSY_SECONDS: Final = 30.0  # how late a single one may, where processes wait for processors
POLL_SECONDS: Final = 0.03
CROWD: Final = 10_000


class Member:
    """A client of one member."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.channel = grpc.insecure_channel(
            server.endpoint, [("grpc.max_reconnect_backoff_ms", 100)]
        )
        self.leases: Any = rpc_pb2_grpc.LeaseStub(self.channel)
        self.kv: Any = rpc_pb2_grpc.KVStub(self.channel)
        self.maintenance: Any = rpc_pb2_grpc.MaintenanceStub(self.channel)

    def grant(self, ttl: int, key: bytes) -> int:
        """A lease with one key."""
        lease = int(self.leases.LeaseGrant(rpc_pb2.LeaseGrantRequest(TTL=ttl), timeout=60).ID)
        self.kv.Put(rpc_pb2.PutRequest(key=key, lease=lease), timeout=60)
        return lease

    def renew(self, lease: int) -> int:
        """The TTL of one answer."""
        asks = iter([rpc_pb2.LeaseKeepAliveRequest(ID=lease)])
        answers = list(self.leases.LeaseKeepAlive(asks, timeout=60))
        assert len(answers) == 1
        return int(answers[0].TTL)

    def left(self, lease: int) -> int:
        """LeaseTimeToLive: -1 if there is none."""
        request = rpc_pb2.LeaseTimeToLiveRequest(ID=lease)
        return int(self.leases.LeaseTimeToLive(request, timeout=60).TTL)

    def names(self, prefix: bytes) -> set[bytes]:
        """The keys with a prefix."""
        request = rpc_pb2.RangeRequest(key=prefix, range_end=prefix + b"\xff", keys_only=True)
        return {pair.key for pair in self.kv.Range(request, timeout=60).kvs}

    def leads(self) -> bool:
        """Whether it says that it leads."""
        status = self.maintenance.Status(rpc_pb2.StatusRequest(), timeout=60)
        return bool(status.leader == status.header.member_id)


@pytest.fixture
def trio(tmp_path: Path) -> Iterator[list[Member]]:
    """Three members, the leader first."""
    with raftkv(tmp_path, 3) as cluster:
        yield from _members(cluster)


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[list[Member]]:
    """Like `trio`, with a leader that is not deposed because processors are busy for a second."""
    with raftkv(tmp_path, 3, "--election-timeout=3000") as cluster:
        yield from _members(cluster)


@pytest.fixture
def single(tmp_path: Path) -> Iterator[Member]:
    with raftkv(tmp_path) as cluster:
        for members in _members(cluster):
            yield members[0]


def _members(cluster: Cluster) -> Iterator[list[Member]]:
    members = [Member(server) for server in cluster.servers]
    members.sort(key=lambda one: not one.leads())
    yield members
    for member in members:
        member.channel.close()


def end_of(key: bytes, member: Member, patience_seconds: float) -> float:
    """When a key was seen to be gone."""
    deadline = time.monotonic() + patience_seconds
    while True:
        asked = time.monotonic()
        if key not in member.names(key):
            return asked
        assert asked < deadline, f"{key!r} is still there"
        time.sleep(POLL_SECONDS)


def test_leases_end_within_a_second_of_their_time(trio: list[Member]) -> None:
    """M06: none before it, and most of them not much later, whichever member granted them."""
    lives: dict[bytes, tuple[float, float, int]] = {}
    for number in range(30):
        key, ttl = b"k%02d" % number, 2 + number % 3
        sent = time.monotonic()
        trio[number % 3].grant(ttl, key)
        lives[key] = (sent, time.monotonic(), ttl)
    late: list[float] = []
    while lives:
        before = time.monotonic()
        there = trio[1].names(b"k")
        for key, (sent, answered, ttl) in list(lives.items()):
            if key in there:
                assert before < answered + ttl + BUSY_SECONDS, key
            else:
                assert time.monotonic() >= sent + ttl, key
                late.append(before - answered - ttl)
                del lives[key]
        time.sleep(POLL_SECONDS)
    assert sorted(late)[len(late) // 2] < HEALTHY_SECONDS, late


def test_what_is_left_of_a_lease_survives_the_leaders_death(trio: list[Member]) -> None:
    """M07: at most half a TTL is given back, and what an election costs on top."""
    leader, other, _ = trio
    ttl = 8
    sent = time.monotonic()
    lease = other.grant(ttl, b"silent")
    time.sleep(0.8 * ttl)
    leader.server.kill()
    assert 0 <= other.left(lease) <= ttl / 2
    gone = end_of(b"silent", other, 2 * ttl + BUSY_SECONDS)
    assert gone - sent >= ttl


def test_a_renewal_that_was_answered_outlives_the_leader(trio: list[Member]) -> None:
    """M07, C06: the last leader to answer one takes nothing of it along when it dies."""
    leader, other, _ = trio
    ttl = 3
    lease = other.grant(ttl, b"renewed")
    stop = time.monotonic() + 2.0
    while time.monotonic() < stop:
        sent = time.monotonic()
        assert other.renew(lease) == ttl
    leader.server.kill()
    gone = end_of(b"renewed", other, 4 * ttl + BUSY_SECONDS)
    assert gone - sent >= ttl


def test_etcds_own_client_keeps_a_lease_through_the_leaders_death(
    trio: list[Member], tmp_path: Path
) -> None:
    """C06: etcdctl hangs on the leader that dies, and goes on elsewhere."""
    leader, other, third = trio
    ttl = 6
    lease = leader.grant(ttl, b"held")
    endpoints = ",".join(member.server.endpoint for member in trio)
    argv = [str(ETCDCTL), "--endpoints", endpoints, "lease", "keep-alive", f"{lease:x}"]
    with (
        (tmp_path / "out").open("w+b") as out,
        subprocess.Popen(argv, stdout=out, stderr=out) as holder,
    ):
        try:
            wait_for((tmp_path / "out").read_bytes)
            leader.server.kill()
            before, stop = _renewals(tmp_path / "out"), time.monotonic() + 1.5 * ttl
            while time.monotonic() < stop or _renewals(tmp_path / "out") < before + 3:
                assert third.names(b"held")
                assert holder.poll() is None, (tmp_path / "out").read_text()
                assert time.monotonic() < stop + BUSY_SECONDS
                time.sleep(POLL_SECONDS)
        finally:
            holder.kill()
    assert end_of(b"held", other, 4 * ttl + BUSY_SECONDS)


def _renewals(out: Path) -> int:
    """How many etcdctl has told."""
    return out.read_bytes().count(b"keepalived with TTL(6)")


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + BUSY_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(POLL_SECONDS)


def test_a_leader_that_slept_through_its_succession_revokes_nothing(trio: list[Member]) -> None:
    """M09, M10: it wakes up with clocks that ran out long ago."""
    leader, other, third = trio
    ttl = 3
    lease = other.grant(ttl, b"kept")
    os.kill(leader.server.pid, signal.SIGSTOP)
    try:
        _renew_for(2 * ttl, lease, ttl, other, third)
    finally:
        os.kill(leader.server.pid, signal.SIGCONT)
    _renew_for(ttl + 1, lease, ttl, other, leader)
    assert all(member.names(b"kept") for member in trio)
    assert end_of(b"kept", leader, 3 * ttl + BUSY_SECONDS)


def _renew_for(seconds: float, lease: int, ttl: int, renewer: Member, reader: Member) -> None:
    stop = time.monotonic() + seconds
    while time.monotonic() < stop:
        assert renewer.renew(lease) == ttl
        assert reader.names(b"kept"), "a renewed lease has ended"
        time.sleep(0.1)


def test_a_paused_member_hears_the_renewals_that_waited_before_it_ends_a_lease(
    single: Member,
) -> None:
    """M10: its clients were not silent, it was deaf."""
    ttl = 2
    lease = single.grant(ttl, b"kept")
    os.kill(single.server.pid, signal.SIGSTOP)
    try:
        asks = iter([rpc_pb2.LeaseKeepAliveRequest(ID=lease)] * 3)
        answers = single.leases.LeaseKeepAlive(asks, timeout=60)
        time.sleep(2 * ttl)
    finally:
        os.kill(single.server.pid, signal.SIGCONT)
    resumed = time.monotonic()
    assert [answer.TTL for answer in answers] == [ttl] * 3
    gone = end_of(b"kept", single, 3 * ttl + BUSY_SECONDS)
    assert gone - resumed >= ttl


def test_a_crowd_of_leases_that_end_together_delays_no_renewal(
    patient: list[Member],
) -> None:
    """O03: nor does it make anybody lose the leader."""
    leader, other, _ = patient
    lease = other.grant(5, b"kept")
    term = leader.maintenance.Status(rpc_pb2.StatusRequest(), timeout=60).raftTerm
    target = time.monotonic() + _crowding_seconds(leader)
    pending: list[Any] = []
    for number in range(1, CROWD + 1):
        request = rpc_pb2.LeaseGrantRequest(ID=number, TTL=int(target - time.monotonic()) + 1)
        pending.append(leader.leases.LeaseGrant.future(request, timeout=60))
        if len(pending) == 200:
            _ = [call.result() for call in pending]
            pending = []
            assert other.renew(lease) == 5
    assert time.monotonic() < target - 2, "the crowd was not there in time"
    slowest = 0.0
    done = False
    while not done:
        assert time.monotonic() < target + 1 + CROWD / 1000 + BUSY_SECONDS
        for member in (leader, other):
            asked = time.monotonic()
            assert member.renew(lease) == 5
            slowest = max(slowest, time.monotonic() - asked)
        done = time.monotonic() > target and not _crowd(other)
        time.sleep(POLL_SECONDS)
    assert slowest < 5, "the lease would be over"
    assert time.monotonic() > target + CROWD / 1000 - 2, "far more than a thousand per second"
    status = leader.maintenance.Status(rpc_pb2.StatusRequest(), timeout=60)
    assert status.raftTerm == term
    with suppress(grpc.RpcError):
        leader.leases.LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=lease), timeout=60)


def _crowding_seconds(leader: Member) -> float:
    """What the crowd may take to come together: five times as long as a few others let expect."""
    began = time.monotonic()
    others = range(CROWD + 1, CROWD + 401)
    requests = (rpc_pb2.LeaseGrantRequest(ID=number, TTL=3600) for number in others)
    pending = [leader.leases.LeaseGrant.future(request, timeout=60) for request in requests]
    _ = [call.result() for call in pending]
    return max(16.0, 5 * (time.monotonic() - began) * CROWD / len(others))


def _crowd(member: Member) -> bool:
    """Whether any lease of the crowd is left."""
    answer = member.leases.LeaseLeases(rpc_pb2.LeaseLeasesRequest(), timeout=60)
    return any(one.ID <= CROWD for one in answer.leases)
