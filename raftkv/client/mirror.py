"""A copy of some keys, always as of one revision, and what changes in it. Pure but for a lock.

The copy is loaded whole and then follows a watch. Each batch of a watch brings whole revisions and
is applied in one step, so nobody ever sees half of a transaction, and `revision` says exactly which
revision the copy is of. When the history between copy and store is gone (compaction), or the store
is another one or was put back (C15), the copy is loaded whole again and the difference is told as
events: a key that is missing now was deleted, one that differs was put.

How current the copy is cannot be told by what comes from a watch: a quiet watch and a late one look
alike. A proof is a linearizable read that says at which revision the store is; once the copy has
that revision too, it was current when the read was SENT.

One thread writes, any may read.
"""

import math
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from raftkv.client.keys import Key, encoded
from raftkv.client.results import Event, EventType, KeyValue, RangeResult, WatchBatch
from raftkv.client.txn import Get

LONGEST_BACKLOG: Final = 256  # changes that wait for a reader before they are merged


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot(Mapping[Key, KeyValue]):
    """Some keys as they stood at one revision. A mapping; keys may be asked for as str."""

    revision: int
    kvs: Mapping[bytes, KeyValue]

    def __getitem__(self, name: Key) -> KeyValue:
        return self.kvs[encoded(name)]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.kvs)

    def __len__(self) -> int:
        return len(self.kvs)


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened to the copy in one step.

    revision: that it is of now. events: in order, each with the pair before, if there was one.
    is_merged: steps between may be missing, only the difference is told: after a load of the
    whole, and where a reader was too slow. Of a deletion found so, mod_revision is `revision`.
    """

    revision: int
    events: tuple[Event, ...]
    is_merged: bool = False

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    def __len__(self) -> int:
        return len(self.events)


class Mirror:
    """See the module's docstring. revision: 0 before the first load. loads: how many there were."""

    def __init__(self) -> None:
        self.revision: int = 0
        self.loads: int = 0
        self._kvs: dict[bytes, KeyValue] = {}
        self._copy: Snapshot | None = None
        self._guard = threading.Lock()
        self._current_at = -math.inf  # the clock when it was surely current
        self._proof: tuple[int, float] | None = None  # reach this revision: current then

    # --- reading ------------------------------------------------------------------------------
    def get(self, name: bytes) -> KeyValue | None:
        """One pair of the copy."""
        with self._guard:
            return self._kvs.get(name)

    def snapshot(self) -> Snapshot:
        """The whole, as of one revision; it does not change any more."""
        with self._guard:
            if self._copy is None:
                self._copy = Snapshot(self.revision, MappingProxyType(dict(self._kvs)))
            return self._copy

    def __len__(self) -> int:
        return len(self._kvs)

    def stale_for(self, moment: float) -> float:
        """Seconds between the last moment when it was surely current and `moment`."""
        return max(moment - self._current_at, 0.0)

    # --- following ----------------------------------------------------------------------------
    def load(self, kvs: Iterable[KeyValue], revision: int, asked: float) -> Changes:
        """The whole was read at a revision, by a request sent at `asked`; what is different."""
        fresh = {kv.key: kv for kv in kvs}
        before = self._kvs
        events = [
            Event(EventType.DELETE, KeyValue(name, b"", 0, revision, 0, 0), kv)
            for name, kv in before.items()
            if name not in fresh
        ]
        events += [
            Event(EventType.PUT, kv, before.get(name))
            for name, kv in sorted(fresh.items(), key=lambda item: item[1].mod_revision)
            if before.get(name) != kv
        ]
        with self._guard:
            self._kvs, self.revision, self._copy = fresh, revision, None
        self.loads += 1
        self._current_at, self._proof = asked, None
        return Changes(revision, tuple(events), is_merged=True)

    def feed(self, batch: WatchBatch) -> Changes | None:
        """A batch of the watch that began right behind the copy's revision."""
        revision = batch.events[-1].revision if batch.events else batch.revision
        if revision <= self.revision:
            return None
        events = []
        with self._guard:
            for event in batch.events:
                before = self._kvs.get(event.key)
                if event.is_put:
                    self._kvs[event.key] = event.kv
                else:
                    self._kvs.pop(event.key, None)
                events.append(Event(event.type, event.kv, before))
            self.revision = revision
            if events:
                self._copy = None
            elif self._copy is not None:
                self._copy = Snapshot(revision, self._copy.kvs)
        self._prove()
        return Changes(revision, tuple(events)) if events else None

    # --- proofs -------------------------------------------------------------------------------
    def question(self, prefix: bytes) -> Get:
        """Reads whether the store's keys are those of the copy, and at which revision.

        One key that was written behind the copy's revision, and how many keys there are.
        """
        return Get(prefix, prefix=True, min_mod_revision=self.revision + 1, limit=1, keys_only=True)

    def compare(self, found: RangeResult) -> bool:
        """Whether the answer to `question` says that the store has what the copy has.

        If no key was written behind the copy's revision, the store's keys are some of the copy's,
        and all of them if there are as many.
        """
        return not found.kvs and found.count == len(self._kvs)

    def advance(self, revision: int) -> None:
        """The store has the copy's keys at a later revision, from which its watch goes on.

        Whatever was put and deleted again in between is not told.
        """
        with self._guard:
            self.revision = max(self.revision, revision)
            if self._copy is not None:
                self._copy = Snapshot(self.revision, self._copy.kvs)
        self._prove()

    def current(self, asked: float) -> None:
        """It was what the store had when a request was sent at `asked`."""
        self._current_at = max(self._current_at, asked)
        if self._proof is not None and self._proof[1] <= asked:
            self._proof = None

    def expect(self, revision: int, asked: float) -> None:
        """The store was at a revision when it handled a request sent at `asked`."""
        if self._proof is None:  # the older one is proved first, if both ever are
            self._proof = (revision, asked)
        self._prove()

    def _prove(self) -> None:
        if self._proof is not None and self._proof[0] <= self.revision:
            self._current_at = max(self._current_at, self._proof[1])
            self._proof = None


class Backlog:
    """Changes on their way to one reader, in bounded memory: too many are merged into one.

    At most one event per key is left of those that were merged.
    """

    def __init__(self) -> None:
        self._waiting: deque[Changes] = deque()
        self._guard = threading.Lock()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, changes: Changes) -> None:
        """Appends."""
        with self._guard:
            self._waiting.append(changes)
            if len(self._waiting) > LONGEST_BACKLOG:
                merged = merge(self._waiting)
                self._waiting.clear()
                self._waiting.append(merged)

    def take(self) -> Changes | None:
        """The oldest, or None."""
        with self._guard:
            return self._waiting.popleft() if self._waiting else None


def merge(several: Iterable[Changes]) -> Changes:
    """The difference that several changes in a row make, each key once."""
    last: dict[bytes, Event] = {}
    first: dict[bytes, KeyValue | None] = {}
    revision = 0
    for changes in several:
        revision = changes.revision
        for event in changes.events:
            first.setdefault(event.key, event.previous)
            last.pop(event.key, None)  # the order is that of the last change
            last[event.key] = event
    events = [
        Event(event.type, event.kv, first[name])
        for name, event in last.items()
        if event.is_put or first[name] is not None
    ]
    return Changes(revision, tuple(events), is_merged=True)
