"""Small stages for directed tests: one core with scripted peers, or a few cores and a network."""

from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any, TypeVar

from raftkv.raft.core import Core, CoreSettings
from raftkv.raft.messages import InstallSnapshot, Message
from raftkv.raft.ready import Ready
from raftkv.raft.types import NORMAL, Configuration, Entry, HardState, SnapshotMeta
from tests.raft.harness import Node

M = TypeVar("M")

TIMEOUT = 10


class Stage(Node):
    """One core on a disk of its own; what it sends is collected, nobody answers by itself."""

    def __init__(
        self,
        member: int = 1,
        voters: Sequence[int] = (1, 2, 3),
        *,
        terms: Sequence[int] = (),
        term: int = 0,
        vote: int = 0,
        configuration: Configuration | None = None,
        seed: int = 7,
        **settings: Any,
    ) -> None:
        """terms: of the entries that the log holds already, from index 1 on."""
        self.out: list[Message] = []
        self.readies: list[Ready] = []
        super().__init__(
            CoreSettings(member, election_timeout_ticks=TIMEOUT, **settings),
            configuration or Configuration(tuple(voters)),
            Random(seed),
        )
        if terms or term:
            self.disk.log = entries(1, terms)
            self.disk.hard_state = HardState(max([term, *terms]), vote)
            self.start()

    def run(self, *, sync: bool = True) -> list[Message]:
        """Take all turns; with `sync` the disk answers. Returns what was sent since last time."""
        while self.core.has_ready() or (sync and self.writing):
            if self.core.has_ready():
                self.readies.append(self.turn(self.out.append))
            if sync and self.writing:
                self.sync(self.out.append)
        sent, self.out = self.out, []
        return sent

    def take(self, *messages: Message, sync: bool = True) -> list[Message]:
        """Step messages, then run."""
        for message in messages:
            self.core.step(message)
        return self.run(sync=sync)

    def tick(self, count: int = 1) -> list[Message]:
        """Ticks, each followed by a run. Returns everything sent."""
        sent: list[Message] = []
        for _ in range(count):
            self.core.tick()
            sent += self.run()
        return sent

    def reboot(self) -> None:
        """Crash with nothing on its way reaching the disk, and start again."""
        self.crash(0)
        self.out = []
        self.start()

    def log_terms(self) -> list[int]:
        """Terms of all entries behind the anchor."""
        log = self.core.log
        return [log.term_at(index) for index in range(log.first_index, log.last_index + 1)]


def entries(first: int, terms: Iterable[int], kind: int = NORMAL) -> list[Entry]:
    """Entries from `first` on with these terms; the payload names place and term."""
    return [
        Entry(index, term, kind, b"%d@%d" % (index, term))
        for index, term in enumerate(terms, first)
    ]


def only(messages: list[Message], kind: type[M]) -> M:
    """The one message of this kind among `messages`."""
    found = [message for message in messages if isinstance(message, kind)]
    assert len(found) == 1, messages
    return found[0]


def every(messages: list[Message], kind: type[M]) -> list[M]:
    """All messages of this kind."""
    return [message for message in messages if isinstance(message, kind)]


class Cluster:
    """A few cores, a lossless network in order, and disks that answer at once.

    `cut` pairs lose messages; `drop` decides about any message; `slow` disks do not answer.
    """

    def __init__(
        self, voters: int = 3, *, spare: int = 0, terms: dict[int, Sequence[int]] | None = None
    ) -> None:
        first = tuple(range(1, voters + 1))
        self.stages: dict[int, Stage] = {}
        for member in range(1, voters + spare + 1):
            self.stages[member] = Stage(
                member,
                configuration=Configuration(first) if member in first else Configuration(),
                terms=(terms or {}).get(member, ()),
                seed=member,
            )
        self.cut: set[tuple[int, int]] = set()
        self.drop: Callable[[Message], bool] = lambda _: False
        self.slow: set[int] = set()
        self.down: set[int] = set()
        self.held: list[Message] = []
        self.hold: Callable[[Message], bool] = lambda _: False
        self.applied: dict[int, list[Entry]] = {member: [] for member in self.stages}
        self.states: dict[int, Any] = {}

    def __getitem__(self, member: int) -> Core:
        return self.stages[member].core

    def isolate(self, *members: int) -> None:
        """Cut these members off from all others."""
        for member in members:
            for other in self.stages:
                if other not in members:
                    self.cut |= {(member, other), (other, member)}

    def flow(self) -> None:
        """Run and deliver until nothing moves."""
        for _ in range(10_000):
            moved = False
            for member, stage in self.stages.items():
                if member in self.down:
                    continue
                sent = stage.run(sync=member not in self.slow)
                moved = moved or bool(sent)
                for message in sent:
                    self._deliver(message)
                for ready in stage.readies:
                    self.applied[member] += ready.committed
                stage.readies = []
            if not moved:
                return
        raise AssertionError("the cluster never rests")

    def _deliver(self, message: Message) -> None:
        if self.hold(message):
            self.held.append(message)
            return
        gone = message.to in self.down or message.to not in self.stages
        if gone or (message.sender, message.to) in self.cut or self.drop(message):
            return
        if isinstance(message, InstallSnapshot):
            sender = self.stages[message.sender]
            self.stages[message.to].received[message.snapshot.index] = sender.disk.state
            sender.core.snapshot_sent(message.to, True, message.snapshot.index)
        self.stages[message.to].core.step(message)

    def release(self) -> None:
        """Deliver the held messages."""
        held, self.held, self.hold = self.held, [], lambda _: False
        for message in held:
            self._deliver(message)
        self.flow()

    def tick(self, count: int = 1, members: Iterable[int] | None = None) -> None:
        """Ticks for all (or some) members that are up."""
        for _ in range(count):
            for member in list(self.stages if members is None else members):
                if member not in self.down:
                    self[member].tick()
            self.flow()

    def elect(self, member: int) -> Core:
        """Make `member` the leader."""
        if self.leaders():
            self.tick(2 * TIMEOUT, [m for m in self.stages if not self[m].is_leader])
        self[member].campaign()
        self.flow()
        assert self[member].is_leader, [stage.core.role for stage in self.stages.values()]
        return self[member]

    def leaders(self) -> list[int]:
        """Members that believe to lead."""
        return [
            member
            for member, stage in self.stages.items()
            if member not in self.down and stage.core.is_leader
        ]

    def crash(self, member: int) -> None:
        """Stop a member; unsynced batches are lost."""
        self.stages[member].crash(0)
        self.down.add(member)

    def restart(self, member: int) -> None:
        """Start a crashed member from its disk."""
        self.down.discard(member)
        self.stages[member].out = []
        self.stages[member].start()

    def put(self, *payloads: bytes) -> int:
        """Propose on the leader and let everything settle."""
        (leader,) = self.leaders()
        index = self[leader].propose(list(payloads))
        self.flow()
        return index


def snapshot(index: int, term: int, voters: Sequence[int] = (1, 2, 3)) -> SnapshotMeta:
    """A snapshot's description."""
    return SnapshotMeta(index, term, Configuration(tuple(voters)))
