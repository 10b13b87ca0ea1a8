"""What the leader compacts by itself, and when."""

from typing import Any

import pytest

from raftkv.kv import commands
from raftkv.pb import rpc_pb2
from raftkv.server.autocompaction import IN_VAIN_SECONDS, AutoCompaction
from tests.kv.upkeep import Log

QUOTA = 100_000


class Leader:
    """As much of a driver and its replica as automatic compaction sees."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.loop: Any = self
        self.replica: Any = self
        self.machine = log.machine
        self.is_leader = True
        self.now = 0.0
        self.timers: list[tuple[float, Any]] = []
        self.compacted: list[int] = []

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, callback: Any) -> "Leader":
        self.timers.append((self.now + seconds, callback))
        return self

    def cancel(self) -> None:
        self.timers.clear()

    def propose(self, command: int, request: bytes, ticket: Any) -> None:
        assert command == commands.COMPACT
        self.compacted.append(rpc_pb2.CompactionRequest.FromString(request).revision)
        ticket[0](ticket, self.log.do(command, request))

    def wake(self) -> None:
        pass

    def pass_time(self, seconds: float) -> None:
        """Runs the timers that are due until then, in order."""
        until = self.now + seconds
        while self.timers and min(at for at, _ in self.timers) <= until:
            first = min(self.timers, key=lambda timer: timer[0])
            self.timers.remove(first)
            self.now = first[0]
            first[1]()
        self.now = until


def test_periodic_mode_keeps_the_history_of_a_retention() -> None:
    leader = Leader(Log())
    compaction = AutoCompaction(leader, 100.0, 0)  # type: ignore[arg-type]
    compaction.start()
    for _ in range(30):
        leader.log.put(b"k", 1)
        leader.pass_time(10.0)
    # The first sample was taken at 10 s, when the revision was 2.
    assert leader.compacted[:3] == [2, 3, 4]
    assert leader.machine.compacted_revision == leader.machine.revision - 10


def test_a_follower_remembers_revisions_so_that_it_can_go_on_as_leader() -> None:
    leader = Leader(Log())
    leader.is_leader = False
    AutoCompaction(leader, 100.0, 0).start()  # type: ignore[arg-type]
    for _ in range(15):
        leader.log.put(b"k", 1)
        leader.pass_time(10.0)
    assert not leader.compacted
    leader.is_leader = True
    leader.pass_time(10.0)
    assert leader.compacted == [7], "what was there 100 s ago, not a retention later"


def test_revision_mode_keeps_the_newest_revisions() -> None:
    leader = Leader(Log())
    AutoCompaction(leader, 0.0, 10).start()  # type: ignore[arg-type]
    for _ in range(30):
        leader.log.put(b"k", 1)
    leader.pass_time(299.0)
    assert not leader.compacted
    leader.pass_time(2.0)
    assert leader.compacted == [21]


@pytest.mark.parametrize(("seconds", "interval"), [(60.0, 6.0), (3600.0, 360.0), (1e6, 360.0)])
def test_long_retentions_are_looked_at_ten_times_an_hour(seconds: float, interval: float) -> None:
    assert AutoCompaction(Leader(Log()), seconds, 0).interval_seconds == interval  # type: ignore[arg-type]


def test_without_a_mode_nothing_is_ever_compacted() -> None:
    leader = Leader(Log())
    AutoCompaction(leader, 0.0, 0).start()  # type: ignore[arg-type]
    assert not leader.timers


def test_near_the_quota_history_goes_before_its_time_and_the_store_never_fills() -> None:
    """The trap of a full store: one key overwritten for ever, within a long retention."""
    leader = Leader(Log())
    AutoCompaction(leader, 1e6, 0).start()  # type: ignore[arg-type]
    log = leader.log
    log.tell(QUOTA)
    for _ in range(300):
        assert log.put(b"k", 1_000) == b""
        leader.pass_time(1.0)
        while log.machine.compact_slice(10):
            pass
        log.tell(QUOTA)
    assert log.machine.space.used_bytes < QUOTA
    kept = log.machine.revision - log.machine.compacted_revision
    assert kept > 50, "as much history as there is room for"


def test_the_next_piece_of_history_waits_for_the_removal_of_the_last() -> None:
    leader = Leader(Log())
    AutoCompaction(leader, 1e6, 0).start()  # type: ignore[arg-type]
    leader.log.tell(QUOTA)
    for _ in range(90):
        leader.log.put(b"k", 1_000)
    leader.pass_time(5.0)
    assert len(leader.compacted) == 1, "nobody has told that it is removed"


def test_history_is_not_given_up_for_nothing() -> None:
    """Live keys fill the store: their history, next to nothing, is left to who reads it."""
    leader = Leader(Log())
    AutoCompaction(leader, 1e6, 0).start()  # type: ignore[arg-type]
    log = leader.log
    log.tell(QUOTA)
    for number in range(92):
        log.put(b"key-%d" % number, 920)
    assert log.machine.space.used_bytes * 10 > QUOTA * 9
    for _ in range(int(IN_VAIN_SECONDS)):
        leader.pass_time(1.0)
        while log.machine.compact_slice(10):
            pass
        log.tell(QUOTA)
    assert len(leader.compacted) <= 2
