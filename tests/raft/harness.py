"""One member in memory: a core, a disk that writes later, and the duties of a driver.

`Node` executes `Ready` exactly as `raft/ready.py` says, against a `Disk` whose batches
become durable one by one, later. A crash keeps any prefix of the batches on their way and
loses everything else.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from raftkv.raft.core import Core, CoreSettings
from raftkv.raft.membership import decode_change
from raftkv.raft.messages import Message
from raftkv.raft.ready import Ready
from raftkv.raft.types import (
    CONFIG,
    Configuration,
    Entry,
    HardState,
    LogBatch,
    RecoveredLog,
    SnapshotMeta,
)


class Violation(AssertionError):
    """A promise of Raft was broken."""


def require(condition: bool, text: str) -> None:
    """Raise Violation unless `condition`."""
    if not condition:
        raise Violation(text)


@dataclass
class State:
    """A state machine: what it applied, as a digest."""

    meta: SnapshotMeta
    digest: int = 0

    def apply(self, entry: Entry) -> "State":
        """The state after `entry`."""
        require(entry.index == self.meta.index + 1, f"applied {entry} after {self.meta.index}")
        configuration = self.meta.configuration
        if entry.kind == CONFIG:
            configuration = decode_change(entry.payload)[0]
        digest = hash((self.digest, entry.index, entry.term, entry.payload))
        return State(SnapshotMeta(entry.index, entry.term, configuration), digest)


class Disk:
    """What survives a crash."""

    def __init__(self, configuration: Configuration) -> None:
        self.hard_state = HardState()
        self.anchor = (0, 0)
        self.log: list[Entry] = []
        self.state = State(SnapshotMeta(0, 0, configuration))

    @property
    def last_index(self) -> int:
        return self.anchor[0] + len(self.log)

    def write(self, batch: LogBatch, installed: State | None) -> None:
        """One batch becomes durable."""
        if batch.hard_state is not None:
            require(batch.hard_state.term >= self.hard_state.term, "the durable term went back")
            self.hard_state = batch.hard_state
        if batch.reset is not None:
            self.anchor = (batch.reset.index, batch.reset.term)
            self.log = []
            assert installed is not None
            self.state = installed
        if batch.truncate_from:
            del self.log[batch.truncate_from - self.anchor[0] - 1 :]
        if batch.entries:
            require(batch.entries[0].index == self.last_index + 1, "a hole in the durable log")
            self.log.extend(batch.entries)

    def compact(self, index: int) -> int:
        """Drop entries up to `index`. Returns its term."""
        term = self.log[index - self.anchor[0] - 1].term
        del self.log[: index - self.anchor[0]]
        self.anchor = (index, term)
        return term

    def entries(self, first: int, last: int, max_bytes: int) -> list[Entry]:
        """The LogReader seam."""
        found = self.log[first - self.anchor[0] - 1 : last - self.anchor[0]]
        size, count = 0, 0
        for entry in found:
            size += len(entry.payload)
            if count and size > max_bytes:
                break
            count += 1
        return found[:count]

    def holds(self, index: int, term: int) -> bool:
        """True if the entry (index, term), or state that covers it, is durable."""
        if index <= self.anchor[0]:
            return True
        at = index - self.anchor[0] - 1
        return at < len(self.log) and self.log[at].term == term

    def recover(self) -> RecoveredLog:
        """What storage finds at open."""
        runs: list[tuple[int, int]] = []
        for entry in self.log:
            if not runs or runs[-1][1] != entry.term:
                runs.append((entry.index, entry.term))
        last = self.log[-1].term if self.log else self.anchor[1]
        changes = [(e.index, e.payload) for e in self.log if e.kind == CONFIG]
        return RecoveredLog(self.hard_state, *self.anchor, self.last_index, last, runs, changes)


class Node:
    """One member: a core, its disk, and the duties of a driver."""

    def __init__(
        self,
        settings: CoreSettings,
        configuration: Configuration,
        source: Random,
        make: Callable[..., Core] = Core,
    ) -> None:
        self.member = settings.member
        self.settings = settings
        self.disk = Disk(configuration)
        self.source = source
        self.make = make
        self.up = False
        self.received: dict[int, State] = {}  # states of snapshots, by index
        self.start()

    def start(self) -> None:
        """Open the disk and begin as a follower."""
        self.state = self.disk.state
        self.writing: deque[tuple[LogBatch, State | None]] = deque()
        self.waiting: deque[tuple[int, list[Message]]] = deque()
        self.done = 0
        self.core = self.make(
            self.settings,
            self.disk.recover(),
            self.disk,
            self.state.meta,
            Random(self.source.getrandbits(64)),
        )
        self.up = True

    def crash(self, survive: int) -> None:
        """Lose everything but the disk and the first `survive` batches on their way."""
        for batch, installed in list(self.writing)[:survive]:
            self.disk.write(batch, installed)
        self.up = False

    def turn(self, send: Callable[[Message], None]) -> Ready:
        """Execute one Ready; messages that may go are given to `send`."""
        ready = self.core.ready()
        if ready.installed is not None:
            self.state = self.received[ready.installed.index]
        if ready.batch is not None:
            self.writing.append((ready.batch, self.state if ready.batch.reset else None))
        for message in ready.messages:
            send(message)
        if ready.after:
            self.waiting.append((ready.after_number, ready.after))
            self._release(send)
        for entry in ready.committed:
            self.state = self.state.apply(entry)
        self.core.applied_to(self.state.meta.index)
        return ready

    def sync(self, send: Callable[[Message], None]) -> None:
        """The oldest batch on its way becomes durable."""
        if self.writing:
            batch, installed = self.writing.popleft()
            self.disk.write(batch, installed)
            self.done = batch.number
            self.core.persisted(batch.number)
            self._release(send)

    def _release(self, send: Callable[[Message], None]) -> None:
        while self.waiting and self.waiting[0][0] <= self.done:
            for message in self.waiting.popleft()[1]:
                send(message)

    def checkpoint(self) -> None:
        """The state becomes durable, and can be sent, as it is now (the log covers it)."""
        if not any(batch.reset for batch, _ in self.writing):
            applied = self.state.meta.index
            require(applied <= self.disk.last_index, f"applied {applied} before it was durable")
            self.disk.state = self.state
            self.core.snapshot_point(self.state.meta)

    def compact(self, keep: int) -> None:
        """Drop the log behind the checkpoint, but for `keep` entries."""
        index = self.disk.state.meta.index - keep
        busy = any(batch.reset for batch, _ in self.writing)
        if index > self.disk.anchor[0] and not busy:
            self.core.compacted(index, self.disk.compact(index))
