"""When turns, timers, the disk, full sinks, new states and watchers come in any order: what each
watcher hears, and what a bookmark says.
"""

import random
from collections.abc import Callable
from itertools import count
from typing import Any, cast

import pytest

from raftkv.kv import commands
from raftkv.kv.audience import Batch
from raftkv.kv.encoding import SUB_BITS
from raftkv.kv.events import decode_event
from raftkv.kv.machine import Bootstrap, StateMachine
from raftkv.kv.members import Member
from raftkv.kv.store import Change
from raftkv.kv.watches import Watcher
from raftkv.pb import rpc_pb2
from raftkv.raft.membership import plain
from raftkv.raft.types import NORMAL, Entry
from raftkv.server import watching
from raftkv.server.watching import Watching
from raftkv.storage.memory import MemoryBackend

KEYS = (b"a", b"b", b"c", b"d")
RANGES = ((b"a", b""), (b"c", b""), (b"a", b"c"), (b"a", b"e"))

Told = tuple[int, bytes, bool]  # revision, key, deleted


class Handle:
    """What a loop has to call."""

    def __init__(self, call: Callable[[], None], at: float) -> None:
        self.call = call
        self.at = at
        self.cancelled = False

    def cancel(self) -> None:
        """See asyncio.Handle."""
        self.cancelled = True


class Loop:
    """Calls when it is told to, at a time that only `now` says."""

    def __init__(self) -> None:
        self.now = 100.0
        self._soon: list[Handle] = []
        self._later: list[Handle] = []

    def perf_counter(self) -> float:
        """The time."""
        return self.now

    def call_soon(self, call: Callable[[], None]) -> Handle:
        """See asyncio."""
        self._soon.append(Handle(call, self.now))
        return self._soon[-1]

    def call_later(self, seconds: float, call: Callable[[], None]) -> Handle:
        """See asyncio."""
        self._later.append(Handle(call, self.now + seconds))
        return self._later[-1]

    def run(self) -> bool:
        """What is due by now. False: nothing is left."""
        due = [*self._soon, *(one for one in self._later if one.at <= self.now)]
        self._soon = []
        self._later = [one for one in self._later if one.at > self.now]
        for handle in due:
            if not handle.cancelled:
                handle.call()
        return bool(self._soon or self._later)


class Sink:
    """Keeps what came. act: what it does besides, in the middle of a publication."""

    def __init__(self, hub: Watching, act: Callable[[], None]) -> None:
        self.is_full = False
        self.told: dict[Watcher, list[Told]] = {}
        self.cancels: dict[Watcher, int] = {}
        self._hub = hub
        self._act = act
        self._last: dict[Watcher, int] = {}

    def deliver(self, watcher: Watcher, first: int, last: int, events: Batch) -> None:
        """See kv.audience.Sink."""
        assert self._last.get(watcher, 0) < first <= last
        self._last[watcher] = last
        for framed in events:
            event = decode_event(framed)
            assert first <= event.kv.mod_revision <= last
            self.told[watcher].append((event.kv.mod_revision, event.kv.key, event.deleted))
        self._hub.touch(self)
        self._act()

    def full(self) -> bool:
        """See kv.audience.Sink."""
        return self.is_full

    def cancelled(self, watcher: Watcher, compact_revision: int) -> None:
        """See kv.audience.Sink."""
        self.cancels[watcher] = compact_revision

    def flush(self) -> None:
        """See Outlet."""


class Asker:
    """Asks for progress of all watchers that there are."""

    def __init__(self, bench: "Bench") -> None:
        self._bench = bench
        self._watchers = list(bench.watchers)
        self._asked = bench.machine.revision

    def settled(self) -> bool:
        """As `WatchStream.settled`."""
        watches = self._bench.hub.watches
        here = [one for one in self._watchers if self._bench.is_served(one)]
        revision = watches.revision if watches.count else watches.machine.revision
        if watches.amid_publication or revision < self._asked:
            return False
        if not all(map(watches.is_synced, here)):
            return False
        for watcher in here:
            self._bench.bookmark(watcher, revision)
        return True


class Bench:
    """A hub of watches whose driver does everything in an order that is drawn.

    true: every event there ever was. watchers: that were added and not removed.
    """

    def __init__(self, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.random = random.Random(seed)
        self.loop = Loop()
        monkeypatch.setattr(watching, "time", self.loop)
        for name, values in (
            ("BUSY_SECONDS", (0.0, 0.0007, 0.01, 1.0)),
            ("GATHER_SECONDS", (0.0005, 0.002, 0.02)),
        ):
            monkeypatch.setattr(watching, name, self.random.choice(values))
        bootstrap = Bootstrap(plain((1,)), [Member(1)], 1, 1)
        self.replica = self  # of the driver that this is as well
        self.machine = StateMachine(MemoryBackend.alone(), 7, bootstrap=bootstrap)
        self.turns = 0
        self.hub = Watching(cast(Any, self))
        self.hub.watches._published = self.random.choice((1, 2, 5, 1500))
        self.true: list[Told] = []
        self.watchers: dict[Watcher, int] = {}  # -> the first revision that it wants
        self.gone: list[tuple[Watcher, int]] = []
        self.sinks = [Sink(self.hub, self._act) for _ in range(3)]
        self._index = count(2)
        self._bookmarks: list[tuple[Watcher, int, int]] = []  # behind so many events, a revision

    # --- the driver's and the watchers' part ------------------------------------------------
    def between_turns(self, work: Callable[[], None]) -> None:
        """See Driver."""
        work()

    def turn(self) -> None:
        """What a driver does of a turn, as far as watches go."""
        self.turns += 1
        self.hub.before_turn()
        if self.random.random() < 0.03:
            self._receive()
            self.hub.replaced(self.machine)
        some = self.random.choice((0, 1, 1, 2, 5, 20))
        for _ in range(some):
            changes = self._apply(self.machine)
            if changes:  # the last of a turn, mostly
                self._some_come_and_go()
            self.hub.publish(changes, waiting=self.random.random() < 0.5)
            self.hub.before_turn()

    def _receive(self) -> None:
        """The state of another member, which is further on."""
        self.machine.flush()
        backend = MemoryBackend.alone()
        backend.write(list(self.machine.backend.scan(b"", b"\xff" * 9)))
        machine = StateMachine(backend, 7)
        for _ in range(self.random.randrange(6)):
            self._apply(machine)
        self.machine = machine

    def _apply(self, machine: StateMachine) -> list[Change]:
        """An entry; what the machine says that it has changed."""
        watched = machine.store.changes is not None
        if not watched:
            machine.collect_changes(True)
        command, request = self._draw(machine)
        index = next(self._index)
        machine.apply(Entry(index, 1, NORMAL, commands.encode(command, request)))
        changes = machine.take_changes()
        self.true += [(one.row_id >> SUB_BITS, one.key, one.deleted) for one in changes]
        if not watched:
            machine.collect_changes(False)
        return changes if watched else []

    def _draw(self, machine: StateMachine) -> tuple[int, bytes]:
        drawn = self.random.random()
        if drawn < 0.05:
            revision = max(machine.revision - self.random.randrange(20), 1)
            request = rpc_pb2.CompactionRequest(revision=revision)
            return commands.COMPACT, request.SerializeToString()
        if drawn < 0.2:
            delete = rpc_pb2.DeleteRangeRequest(key=b"a", range_end=b"d")
            return commands.DELETE_RANGE, delete.SerializeToString()
        if drawn < 0.4:
            txn = rpc_pb2.TxnRequest()
            for key in self.random.sample(KEYS, 3):
                txn.success.add().request_put.key = key
            return commands.TXN, txn.SerializeToString()
        put = rpc_pb2.PutRequest(key=self.random.choice(KEYS), value=b"v")
        return commands.PUT, put.SerializeToString()

    def add(self) -> None:
        """A watcher, of now, of before or of later."""
        start = 0
        if self.random.random() < 0.4:
            start = max(self.machine.revision + self.random.randrange(-15, 4), 1)
        sink = self.random.choice(self.sinks)
        watcher = Watcher(sink, len(self.watchers), *self.random.choice(RANGES), start)
        sink.told[watcher] = []
        self.watchers[watcher] = start or self.machine.revision + 1
        self.hub.add(watcher)

    def remove(self) -> None:
        """One less."""
        if self.watchers:
            watcher = self.random.choice(list(self.watchers))
            self.hub.remove(watcher)
            del self.watchers[watcher]
            self.gone.append((watcher, len(self._told(watcher))))

    def _some_come_and_go(self) -> None:
        if self.random.random() < 0.01:
            while self.watchers:
                self.remove()
        self._act()

    def _act(self) -> None:
        drawn = self.random.random()
        if drawn < 0.03:
            self.add()
        elif drawn < 0.06:
            self.remove()

    def fill(self) -> None:
        """A sink is full, or has room again and says so."""
        sink = self.random.choice(self.sinks)
        sink.is_full = not sink.is_full
        if not sink.is_full:
            self.hub.wake([one for one in self.watchers if one.sink is sink])

    def ask(self) -> None:
        """For progress, and what each watcher has seen."""
        asker = Asker(self)
        if not asker.settled():
            self.hub.await_settled(asker)
        for watcher in filter(self.is_served, self.watchers):
            seen = self.hub.watches.seen(watcher)
            if seen:
                self.bookmark(watcher, seen)

    # --- what must be true ------------------------------------------------------------------
    def is_served(self, watcher: Watcher) -> bool:
        """Was it neither removed nor cancelled?"""
        return watcher in self.watchers and watcher not in cast(Sink, watcher.sink).cancels

    def _told(self, watcher: Watcher) -> list[Told]:
        return cast(Sink, watcher.sink).told[watcher]

    def _wanted(self, watcher: Watcher, first: int, last: int) -> list[Told]:
        key, end = watcher.key, watcher.end
        return [
            one
            for one in self.true
            if first <= one[0] <= last and (key <= one[1] < end if end else one[1] == key)
        ]

    def bookmark(self, watcher: Watcher, revision: int) -> None:
        """Up to `revision` it has got everything, and nothing of that comes later."""
        told = self._told(watcher)
        first = self.watchers[watcher]
        assert [one for one in told if one[0] <= revision] == self._wanted(watcher, first, revision)
        self._bookmarks.append((watcher, len(told), revision))

    def finish(self) -> int:
        """Everybody gets the rest; how many events that were in all."""
        for sink in self.sinks:
            sink.is_full = False
        for _ in range(50_000):
            self.loop.now += 0.2
            if not self.loop.run() and not self.hub.watches.behind:
                break
        for watcher, first in self.watchers.items():
            told, wanted = self._told(watcher), self._wanted(watcher, first, 1 << 60)
            if self.is_served(watcher):
                assert told == wanted
            else:
                lost = cast(Sink, watcher.sink).cancels[watcher]
                assert told == wanted[: len(told)]
                assert first < lost
        for watcher, told_then in self.gone:
            assert len(self._told(watcher)) == told_then
        for watcher, told_then, revision in self._bookmarks:
            assert all(one[0] > revision for one in self._told(watcher)[told_then:])
        return sum(len(told) for sink in self.sinks for told in sink.told.values())


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_every_watcher_hears_of_every_event_once_and_bookmarks_are_exact(
    first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W01, W18: whatever comes between the change and its publication."""
    heard = bookmarks = 0
    for seed in range(first, first + 10):
        bench = Bench(seed, monkeypatch)
        steps = (bench.turn,) * 6 + (bench.loop.run,) * 8 + (bench.add,) * 3
        others = (bench.hub.disk_begins,) * 2 + (bench.remove, bench.fill, bench.ask)
        for _ in range(300):
            bench.loop.now += bench.random.choice((0, 0.0001, 0.0005, 0.002))
            cast(Any, bench.random.choice(steps + others))()
        heard += bench.finish()
        bookmarks += len(bench._bookmarks)
    assert heard > 2000
    assert bookmarks > 500
