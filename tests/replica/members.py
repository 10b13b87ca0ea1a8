"""One member's replica on a disk that answers at once."""

import random
from typing import Any

from raftkv.kv.machine import Bootstrap, StateMachine
from raftkv.kv.members import Member
from raftkv.raft.core import CoreSettings
from raftkv.raft.membership import plain
from raftkv.raft.messages import VoteReply
from raftkv.raft.types import HardState, RecoveredLog
from raftkv.replica.replica import Replica, ReplicaSettings
from raftkv.storage.memory import MemoryBackend

VOTERS = (1, 2, 3)


class NoDisk:
    """A log of which nothing is ever read back."""

    def entries(self, first: int, last: int, max_bytes: int) -> list[Any]:
        raise AssertionError("everything is in memory")


class OneMember:
    """A replica, what it answered and what it sent."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.replies: list[Any] = []
        self.sent: list[Any] = []

    def turn(self) -> None:
        """Turns until nothing is left to do."""
        while True:
            effects = self.replica.turn(1.0)
            self.replies += effects.replies
            self.sent += [*effects.messages, *effects.after]
            if effects.batch is not None:
                self.replica.on_persisted(effects.batch.number)
            elif not effects.more:
                return

    def lead(self, term: int) -> None:
        """Wins the elections up to `term` with the vote of member 2."""
        core = self.replica.core
        while core.term < term:
            core.campaign()
            self.turn()
            self.replica.on_message(VoteReply(1, 2, core.term + 1, True, True))
            self.turn()
            if core.term == term:
                self.replica.on_message(VoteReply(1, 2, core.term, True))
                self.turn()
        assert core.is_leader
        assert core.term == term


def member(number: int, source: random.Random) -> OneMember:
    """A member of a new three-member cluster."""
    bootstrap = Bootstrap(plain(VOTERS), [Member(one) for one in VOTERS], 1, 1)
    machine = StateMachine(MemoryBackend.alone(), 7, bootstrap=bootstrap)
    log = RecoveredLog(HardState(1), 1, 1, 1, 1, [], [])
    settings = ReplicaSettings(CoreSettings(number))
    return OneMember(Replica(settings, log, NoDisk(), machine, source, 1))
