"""How often applied rows go to the backend."""

import random
from typing import Any

from raftkv.kv import commands
from raftkv.kv.backend import Row
from raftkv.kv.machine import Bootstrap, StateMachine
from raftkv.kv.members import Member
from raftkv.pb import rpc_pb2
from raftkv.raft.core import CoreSettings
from raftkv.raft.membership import plain
from raftkv.raft.types import HardState, RecoveredLog
from raftkv.replica import replica as replica_module
from raftkv.replica.replica import Replica, ReplicaSettings
from raftkv.storage.memory import MemoryBackend
from tests.replica.members import NoDisk


class CountingBackend:
    """Counts writes and rows."""

    def __init__(self) -> None:
        self.backend = MemoryBackend.alone()
        self.writes: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def write(self, rows: list[Row]) -> None:
        self.writes.append(len(rows))
        self.backend.write(rows)


def leading() -> tuple[Replica, CountingBackend]:
    """The only member of a cluster, elected at time 0."""
    backend = CountingBackend()
    bootstrap = Bootstrap(plain([1]), [Member(1)], 1, 1)
    machine = StateMachine(backend, 7, bootstrap=bootstrap)
    log = RecoveredLog(HardState(1), 1, 1, 1, 1, [], [])
    replica = Replica(ReplicaSettings(CoreSettings(1)), log, NoDisk(), machine, random.Random(1), 1)
    replica.core.campaign()
    settle(replica, 0.0)
    assert replica.is_leader
    backend.writes.clear()
    return replica, backend


def settle(replica: Replica, now: float) -> None:
    """Turns until nothing is left to do; the disk answers at once."""
    while True:
        effects = replica.turn(now)
        if effects.batch is not None:
            replica.on_persisted(effects.batch.number)
        elif not effects.more:
            return


def put(replica: Replica, key: bytes, now: float) -> None:
    request = rpc_pb2.PutRequest(key=key, value=b"v").SerializeToString()
    assert replica.propose(commands.PUT, request, ("ticket",)) is None
    settle(replica, now)


def test_many_turns_share_one_write_of_rows() -> None:
    replica, backend = leading()
    for one in range(50):
        put(replica, b"k%d" % one, 0.01)
    assert backend.writes == []
    settle(replica, 0.2)
    assert len(backend.writes) == 1


def test_rows_in_memory_are_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr(replica_module, "MAX_UNFLUSHED_ROWS", 20)
    replica, backend = leading()
    for one in range(50):
        put(replica, b"k%d" % one, 0.01)
    assert max(backend.writes) <= 25
    assert len(backend.writes) >= 4


def test_a_checkpoint_covers_every_applied_entry() -> None:
    replica, _ = leading()
    replica.housekeeping._due_index = replica.machine.applied_index + 10
    asked = 0
    for one in range(12):
        put(replica, b"k%d" % one, 0.01)
        effects = replica.turn(0.01)
        asked = max(asked, effects.checkpoint)
        if replica.housekeeping._checkpoint_running:
            break
    assert replica.housekeeping._checkpoint_running
    assert replica.machine.unflushed_rows == 0


def test_the_rows_of_a_deleted_range_are_written_in_the_turn_after(monkeypatch: Any) -> None:
    """Messages leave in between; and they are written at once then, whether anything comes."""
    monkeypatch.setattr(replica_module, "ROWS_OF_A_LONG_ENTRY", 300)
    monkeypatch.setattr(replica_module, "MAX_UNFLUSHED_ROWS", 50)
    for idle in (False, True):
        replica, backend = leading()
        for one in range(200):
            put(replica, b"k%d" % one, 0.01)
        settle(replica, 0.2)
        backend.writes.clear()
        request = rpc_pb2.DeleteRangeRequest(key=b"k", range_end=b"l").SerializeToString()
        replica.propose(commands.DELETE_RANGE, request, ("ticket",))
        effects = replica.turn(0.4)  # a sweep is due, too
        assert effects.batch is not None
        replica.on_persisted(effects.batch.number)
        effects = replica.turn(0.4)
        assert [ticket for ticket, _ in effects.replies] == [("ticket",)]
        assert backend.writes == []
        if idle:
            settle(replica, 0.6)
        else:
            put(replica, b"k", 0.41)
        assert backend.writes[0] >= 400
