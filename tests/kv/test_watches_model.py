"""The hub of watches against a model that knows every event: random towns, random moments.

Every watcher gets exactly its events, once, in order, with whole revisions, or is cancelled with
the compacted revision after a prefix of them.
"""

import os
from itertools import pairwise
from random import Random

import pytest

from raftkv.kv import catchup, commands, watches
from raftkv.kv.encoding import KeyValue, decode_kv
from raftkv.kv.events import Event
from raftkv.kv.machine import StateMachine
from raftkv.kv.store import Change
from raftkv.kv.watches import Watcher, normal_range
from raftkv.kv.watchindex import RangeIndex, in_range
from raftkv.pb import rpc_pb2 as pb
from raftkv.raft.types import NORMAL, Entry
from tests.kv.adapter import COMMANDS, TERM, machine
from tests.kv.memory import MemoryBackend
from tests.kv.watching import Delivery, Recorder, Town, compact, delete, put, txn

SEEDS = int(os.environ.get("RAFTKV_WATCH_SEEDS", "40"))
KEYS = [b"\0", b"a", b"a\0", b"aa", b"ab", b"b", b"b\xff", b"c", b"\xff", b"\xff\xff"]
ENDS = [b"", b"", b"", b"\0", b"a\0", b"ab", b"b", b"c", b"c\0", b"d", b"\xff\xff"]


class Past:
    """All events ever, by the plainest means: a dict of keys, replayed."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def note(self, changes: list[Change]) -> None:
        for change in changes:
            assert change.row_id >> 32 >= (self.events[-1].kv.mod_revision if self.events else 2)
            self.events.append(Event(change.deleted, decode_kv(change.framed), None))

    def wanted(self, watcher: Watcher, first: int) -> list[Event]:
        """What it must get from revision `first` on, with every prev_kv that ever was."""
        found = []
        state: dict[bytes, KeyValue] = {}
        before: dict[bytes, KeyValue | None] = {}  # of the keys that the revision touched
        revision = 0
        for event in self.events:
            kv = event.kv
            if kv.mod_revision != revision:
                revision, before = kv.mod_revision, {}
            previous = before.setdefault(kv.key, state.get(kv.key))
            if kv.create_revision == revision:
                previous = None
            filtered = watcher.no_delete if event.deleted else watcher.no_put
            matches = in_range(kv.key, watcher.key, watcher.end) and not filtered
            if matches and kv.mod_revision >= first:
                found.append(event._replace(previous=previous))
            if event.deleted:
                del state[kv.key]
            else:
                state[kv.key] = kv
        return found


class World:
    """A town in which anything may happen next."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        published = self.random.choice([1, 2, 5, 1500])  # in a slice
        self.town = Town(machine(cache_bytes=self.random.choice([400, 10**6])), published)
        self.past = Past()
        self.sinks = [Recorder() for _ in range(3)]
        self.firsts: dict[Watcher, int] = {}  # first revision that each must get
        self.removed: dict[Watcher, list[Delivery]] = {}
        self.twin = Town()  # watches everything from the beginning: the source of the past
        self.twin.watch(b"\0", b"\0")
        self.compactions: list[int] = []

    def request(self) -> pb.PutRequest | pb.DeleteRangeRequest:
        random = self.random
        key = random.choice(KEYS)
        if random.randrange(3):
            return put(key, b"%d" % random.randrange(1000) * random.choice([1, 30]))
        return delete(key, random.choice(ENDS))

    def writes(self) -> None:
        requests: list[object] = []
        for _ in range(self.random.randrange(1, 6)):
            draw = self.random.randrange(8)
            if draw == 0:
                requests.append(txn(*[self.request() for _ in range(self.random.randrange(4))]))
            elif draw == 1 and not self.random.randrange(8):
                requests.append(compact(self.town.revision - self.random.randrange(12)))
            else:
                requests.append(self.request())
        # Both ways of applying: entry by entry, and runs of puts in one go.
        for town in (self.town, self.twin):
            subject = town.driver.machine
            entries = [
                Entry(subject.applied_index + 1 + at, TERM, NORMAL, _payload(one))
                for at, one in enumerate(requests)
            ]
            done = 0
            while done < len(entries):
                done += len(subject.apply_some(entries, done))
        self.past.note(self.twin.driver.machine.take_changes())
        if self.random.randrange(5) == 0:
            self.add()  # between the turn and its publish
        if self.random.randrange(4):
            self.town.begin_to_publish()
        else:
            self.town.publish()

    def add(self) -> None:
        random, town = self.random, self.town
        chosen = normal_range(random.choice([b"", *KEYS]), random.choice(ENDS))
        if chosen is None:
            return
        now = town.revision
        start = random.choice([0, 0, 1, -1, now, now + 1, now + 3, now - 5, random.randrange(60)])
        if start < 0 and town.driver.machine.store.compacted < 0:
            start = -1
        watcher = Watcher(
            random.choice(self.sinks),
            0,
            *chosen,
            start,
            prev_kv=random.randrange(2) == 0,
            no_put=random.randrange(6) == 0,
            no_delete=random.randrange(6) == 0,
        )
        town.hub.add(watcher)
        self.firsts[watcher] = start or now + 1

    def remove(self) -> None:
        if self.firsts:
            watcher = self.random.choice(list(self.firsts))
            self.town.hub.remove(watcher)
            sink = watcher.sink
            assert isinstance(sink, Recorder)
            self.removed.setdefault(watcher, list(sink.deliveries.get(watcher, ())))

    def install(self) -> None:
        """The same state, and some entries more, on another machine."""
        subject = self.town.driver.machine
        view, _ = subject.snapshot_view()
        backend = MemoryBackend()
        backend.write(list(view.scan(b"", b"\xff")))
        view.close()
        other = StateMachine(backend, subject.cluster, subject.settings)
        self.town.driver.machine = other
        town, self.town.driver.machine = self.town, other
        if self.random.randrange(2):
            for request in [self.request() for _ in range(4)]:
                for one in (other, self.twin.driver.machine):
                    one.apply(Entry(one.applied_index + 1, TERM, NORMAL, _payload(request)))
            self.past.note(self.twin.driver.machine.take_changes())
        town.hub.replaced(other)

    def step(self) -> None:
        random, town = self.random, self.town
        draw = random.randrange(20)
        if draw < 8:
            self.writes()
        elif draw < 11:
            self.add()
        elif draw == 11:
            self.remove()
        elif draw < 14:
            sink = random.choice(self.sinks)
            sink.closed = random.randrange(3) == 0
            if not sink.closed and random.randrange(2):
                town.hub.wake([one for one in self.firsts if one.sink is sink])
        elif draw < 18:
            town.hub.catch_up(random.choice([35, 60, 1000]))
        elif draw == 18:
            town.driver.machine.compact_slice(rows=random.randrange(1, 20))
        elif not random.randrange(4):
            self.install()
        if town.hub.unfinished and random.randrange(2):
            town.hub.go_on()
        self.check_progress()

    def check_progress(self) -> None:
        """What is said to be seen was delivered, all of it."""
        hub = self.town.hub
        for watcher, first in self.firsts.items():
            sink = watcher.sink
            assert isinstance(sink, Recorder)
            if watcher in self.removed or watcher in sink.cancels:
                continue
            seen = hub.seen(watcher)
            assert seen <= max(hub.revision, self.town.revision)
            got = [(one.kv.key, one.kv.mod_revision) for one in sink.events(watcher)]
            wanted = self.past.wanted(watcher, first)
            told = [(one.kv.key, one.kv.mod_revision) for one in wanted]
            if seen:
                assert got == [one for one in told if one[1] <= seen]
            else:
                assert got == []

    def check_end(self) -> None:
        for sink in self.sinks:
            sink.closed = False
        while self.town.hub.unfinished:
            self.town.hub.go_on()
        self.town.settle()
        compacted = self.town.driver.machine.store.compacted
        for watcher, first in self.firsts.items():
            sink = watcher.sink  # type: ignore[assignment]
            deliveries = sink.deliveries.get(watcher, [])
            assert all(one.last < two.first for one, two in pairwise(deliveries))
            got = sink.events(watcher)
            wanted = self.past.wanted(watcher, first)
            if watcher in self.removed:
                assert deliveries == self.removed[watcher], "an event after the removal"
                wanted = wanted[: len(got)]
            elif watcher in sink.cancels:
                assert sink.cancels[watcher] <= compacted
                last = deliveries[-1].last if deliveries else first - 1
                assert last + 1 < sink.cancels[watcher]
                wanted = [one for one in wanted if one.kv.mod_revision <= last]
            else:
                seen = self.town.hub.seen(watcher)
                now = self.town.revision
                assert seen == (now if now >= watcher.start_revision else 0)
            _same(got, wanted, watcher.prev_kv, compacted)


def _payload(request: object) -> bytes:

    return commands.encode(COMMANDS[type(request)], request.SerializeToString())  # type: ignore


def _same(got: list[Event], wanted: list[Event], prev_kv: bool, compacted: int) -> None:
    assert [one._replace(previous=None) for one in got] == [
        one._replace(previous=None) for one in wanted
    ]
    for event, expected in zip(got, wanted, strict=True):
        if not prev_kv:
            assert event.previous is None
        elif event.previous is not None or event.kv.mod_revision > compacted:
            assert event.previous == expected.previous


@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_watcher_gets_exactly_its_events(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """W03, W05, W06, W07, W09, W16, W17, W18, M16"""
    if seed % 2:  # scans soon forget what they have met, wait in many queues, move a few at once
        monkeypatch.setattr(catchup, "RECENT_BYTES", 60)
        monkeypatch.setattr(watches, "NEAR_REVISIONS", 3)
        monkeypatch.setattr(watches, "LONG_SCANS", 1)
        monkeypatch.setattr(watches, "MOVED", 2)
        monkeypatch.setattr(watches, "POLLED", 1)
    world = World(seed)
    for _ in range(120):
        world.step()
    world.check_end()
    assert len(world.firsts) > 5
    assert sum(len(sink.batches) for sink in world.sinks) > 5


def test_the_worlds_meet_everything_that_they_are_made_for() -> None:
    stalls = cancels = events = 0
    for seed in range(12):
        world = World(seed)
        for _ in range(120):
            world.step()
        world.check_end()
        stalls += world.town.hub.stalls
        events += world.town.hub.delivered_events
        cancels += sum(len(sink.cancels) for sink in world.sinks)
    assert stalls > 50
    assert cancels > 5
    assert events > 2000


@pytest.mark.parametrize("seed", range(10))
def test_the_index_finds_whom_a_plain_search_finds(seed: int) -> None:
    random = Random(seed)
    index: RangeIndex[int] = RangeIndex()
    items: dict[int, tuple[bytes, bytes]] = {}

    def key() -> bytes:
        return bytes(random.choice(b"\x00\x01a\xfe\xff") for _ in range(random.randrange(1, 25)))

    for number in range(600):
        one = key()
        chosen = normal_range(
            one, random.choice([b"", b"\0", key(), key(), key(), one[:-1] + b"b"])
        )
        if chosen is not None:
            items[number] = chosen
            index.add(*chosen, number)
        if items and random.randrange(5) < (2 if number < 400 else 4):
            gone = random.choice(list(items))
            index.remove(*items.pop(gone), gone)
        wanted = random.choice([key(), *[start for start, _ in list(items.values())[:3]]])
        found = sorted(index.find(wanted))
        assert found == sorted(n for n, one in items.items() if in_range(wanted, *one))
