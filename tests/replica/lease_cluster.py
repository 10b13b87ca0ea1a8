"""Several replicas under one virtual clock that pass each other messages as bytes."""

import random
from collections.abc import Callable, Sequence
from typing import Any

from raftkv.kv import commands
from raftkv.kv.leases import grant_request, revoke_request
from raftkv.kv.machine import Bootstrap, StateMachine
from raftkv.kv.members import Member
from raftkv.raft.core import CoreSettings
from raftkv.raft.messages import Message
from raftkv.raft.types import Configuration, HardState, RecoveredLog
from raftkv.replica.caretaker import NO_UPKEEP, UpkeepSettings
from raftkv.replica.effects import Effects
from raftkv.replica.replica import Replica, ReplicaSettings
from raftkv.storage.memory import MemoryBackend
from raftkv.wire.peer import decode_messages, encode_messages
from tests.replica.members import NoDisk

TICK_SECONDS = 0.1
ELECTION_SECONDS = 1.0


class Watched(StateMachine):
    """Tells when a lease ends here."""

    ended: Callable[[int], None]

    def apply(self, entry: Any) -> Any:
        """See StateMachine.apply."""
        before = list(self.leases.by_id) if entry.payload[1:2] == b"\x13" else []
        result = super().apply(entry)
        for lease in before:
            if lease not in self.leases:
                self.ended(lease)
        return result


class Cluster:
    """answers: ticket -> answer. sent: every message that left a member, in order. ended: (time,
    lease) of every expiry applied anywhere.
    """

    def __init__(
        self,
        voters: int = 3,
        learners: Sequence[int] = (),
        seed: int = 1,
        upkeep: UpkeepSettings = NO_UPKEEP,
    ) -> None:
        self._upkeep = upkeep
        source = random.Random(seed)
        self.now = 1000.0
        self.answers: dict[Any, Any] = {}
        self.answered_at: dict[Any, float] = {}
        self.sent: list[Message] = []
        self.ended: list[tuple[float, int]] = []
        self.cut: set[tuple[int, int]] = set()
        self.held: set[tuple[int, int]] = set()
        self.late: list[Message] = []
        self.stopped: set[int] = set()
        self.slow: set[int] = set()  # their disks do not answer
        self._unwritten: list[tuple[Replica, Effects]] = []
        self._inbox: dict[int, list[Message]] = {}
        who = Configuration(tuple(range(1, voters + 1)), learners=tuple(learners))
        self.members = {number: self._member(number, who, source) for number in who.members()}

    def _member(self, number: int, who: Configuration, source: random.Random) -> Replica:
        bootstrap = Bootstrap(who, [Member(one) for one in who.members()], 1, 1)
        machine = Watched(MemoryBackend.alone(), 7, bootstrap=bootstrap)
        machine.ended = lambda lease: self.ended.append((self.now, lease))
        log = RecoveredLog(HardState(1), 1, 1, 1, 1, [], [])
        settings = ReplicaSettings(
            CoreSettings(number),
            election_timeout_seconds=ELECTION_SECONDS,
            upkeep=self._upkeep,
        )
        seed = random.Random(source.getrandbits(64))
        return Replica(settings, log, NoDisk(), machine, seed, source.getrandbits(32))

    # --- time and messages ------------------------------------------------------

    def run(self, seconds: float, *, until: Callable[[], bool] | None = None) -> None:
        """Ticks of everybody who is not stopped, for so long or until something holds."""
        for _ in range(round(seconds / TICK_SECONDS)):
            self.now += TICK_SECONDS
            for number, replica in self.members.items():
                if number not in self.stopped:
                    replica.tick()
            self.settle()
            if until is not None and until():
                return
        assert until is None, "it never came to hold"

    def settle(self) -> None:
        """Turns and messages until nothing is left to do at this moment."""
        everyone = True
        for _ in range(1000):
            busy = False
            for number, replica in self.members.items():
                if number in self.stopped:
                    continue
                for message in self._inbox.pop(number, []):
                    replica.on_message(message)
                    busy = True
                if everyone or replica.has_work():
                    busy |= self._turns(number, replica)
            everyone = False
            if not busy and not any(one not in self.stopped for one in self._inbox):
                return
        raise AssertionError("the members keep each other busy")

    def turn_first(self, number: int) -> None:
        """A tick and a turn of a member before it hears what was sent to it."""
        self.members[number].tick()
        self._turns(number, self.members[number])

    def _turns(self, number: int, replica: Replica) -> bool:
        worked = False
        while True:
            effects = replica.turn(self.now)
            self._execute(number, replica, effects)
            replica.tell_news()
            if not (effects.more or effects.batch is not None or replica.core.has_ready()):
                return worked
            worked = True

    def _execute(self, number: int, replica: Replica, effects: Effects) -> None:
        for ticket, answer in effects.replies:
            assert ticket not in self.answers, "answered twice"
            self.answers[ticket] = answer
            self.answered_at[ticket] = self.now
        leaving = [*effects.messages]
        if number in self.slow:
            self._unwritten.append((replica, effects))
        else:
            leaving += self._written(replica, effects)
        for message in leaving:
            self.sent.append(message)
            self._send(number, message)

    def _written(self, replica: Replica, effects: Effects) -> list[Message]:
        if effects.batch is not None:
            replica.on_persisted(effects.batch.number)
        return effects.after

    def write_all(self) -> None:
        """The slow disks have done their work."""
        self.slow.clear()
        unwritten, self._unwritten = self._unwritten, []
        for replica, effects in unwritten:
            for message in self._written(replica, effects):
                self._send(replica.member, message)
        self.settle()

    def _send(self, sender: int, message: Message) -> None:
        link = (sender, message.to)
        if link in self.held:
            self.late.append(message)
        elif link not in self.cut:
            (copy,) = decode_messages(encode_messages([message]))
            self._inbox.setdefault(message.to, []).append(copy)

    def release(self) -> None:
        """What was held arrives now."""
        self.held.clear()
        late, self.late = self.late, []
        for message in late:
            self._inbox.setdefault(message.to, []).append(message)
        self.settle()

    def isolate(self, number: int) -> None:
        """Nothing goes from or to this member."""
        for other in self.members:
            self.cut |= {(number, other), (other, number)}

    def heal(self) -> None:
        """All messages arrive again."""
        self.cut.clear()

    # --- what it does ---------------------------------------------------------------

    def elect(self, number: int = 1) -> Replica:
        """`number` leads."""
        replica = self.members[number]
        for _ in range(40):
            if replica.is_leader:
                return replica
            replica.core.campaign()
            self.run(TICK_SECONDS * 8)
        raise AssertionError("no election")

    def leader(self) -> Replica | None:
        """Who leads the newest term, if anybody does."""
        leaders = [one for one in self.members.values() if one.is_leader]
        return max(leaders, key=lambda one: one.core.term, default=None)

    def grant(self, lease: int, ttl_seconds: int, at: int = 1) -> None:
        """Grants a lease and waits for it."""
        ticket = ("grant", lease)
        request = grant_request(lease, ttl_seconds * 1000)
        assert self.members[at].propose(commands.LEASE_GRANT, request, ticket) is None
        self.settle()
        if ticket not in self.answers:
            self.run(1, until=lambda: ticket in self.answers)

    def revoke(self, lease: int, at: int = 1) -> None:
        """Revokes a lease and waits for it."""
        ticket = ("revoke", lease)
        self.members[at].propose(commands.LEASE_REVOKE, revoke_request(lease), ticket)
        self.settle()
        if ticket not in self.answers:
            self.run(1, until=lambda: ticket in self.answers)

    def renew(self, lease: int, at: int = 1, ticket: Any = "renew") -> Any:
        """Asks, and returns the answer if it has come at once."""
        assert self.members[at].renew(lease, ticket) is None
        self.settle()
        return self.answers.pop(ticket, None)

    def remaining(self, lease: int, at: int = 1, ticket: Any = "remaining") -> Any:
        """Asks what is left, and returns the answer if it has come at once."""
        assert self.members[at].time_to_live(lease, ticket) is None
        self.settle()
        return self.answers.pop(ticket, None)

    def entries(self, command: int, number: int = 1) -> int:
        """How many entries with this command are in a member's log."""
        log = self.members[number].core.log
        found, _ = log.slice(log.first_index, log.last_index, 1 << 40)
        return sum(entry.payload[1:2] == bytes((command,)) for entry in found)
