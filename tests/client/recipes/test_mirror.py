"""The copy behind a cache, without any server: whole revisions, differences, proofs."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.client.mirror import LONGEST_BACKLOG, Backlog, Changes, Mirror, Snapshot
from raftkv.client.results import Event, EventType, Header, KeyValue, RangeResult, WatchBatch
from raftkv.client.txn import Delete, Put, Txn
from tests.client.recipes.store import Store

# What writers do: each step is a transaction of puts and deletions of a few keys.
STEPS = st.lists(
    st.dictionaries(
        st.sampled_from([b"a", b"b", b"c"]), st.one_of(st.none(), st.binary(max_size=2))
    ),
    max_size=12,
)
Step = dict[bytes, bytes | None]


class Watched:
    """A store with its history as a watch tells it."""

    def __init__(self) -> None:
        self.store = Store()
        self.states: dict[int, dict[bytes, KeyValue]] = {1: {}}
        self.history: list[Event] = []

    def write(self, step: Step) -> None:
        before = dict(self.store.kvs)
        operations = [
            Delete(name) if value is None else Put(name, value) for name, value in step.items()
        ]
        self.store.apply(Txn().then(*operations))
        revision = self.store.revision
        for name, value in step.items():
            if value is not None:
                self.history.append(Event(EventType.PUT, self.store.kvs[name]))
            elif name in before:
                gone = KeyValue(name, b"", 0, revision, 0, 0)
                self.history.append(Event(EventType.DELETE, gone))
        self.states[revision] = dict(self.store.kvs)

    def batches(self, first: int, sizes: random.Random) -> list[WatchBatch]:
        """What a watch from a revision on brings: one or more whole revisions each."""
        found: list[WatchBatch] = []
        events: list[Event] = []
        header = Header(1, 1, self.store.revision, 1)
        wanted = [event for event in self.history if event.revision >= first]
        for place, event in enumerate(wanted):
            events.append(event)
            last = place + 1 == len(wanted)
            if last or (wanted[place + 1].revision > event.revision and sizes.random() < 0.5):
                found.append(WatchBatch(header, tuple(events)))
                events = []
        return found

    def kvs(self) -> tuple[KeyValue, ...]:
        return tuple(self.store.kvs.values())


@given(STEPS, STEPS, st.randoms(use_true_random=False))
def test_the_copy_is_the_store_at_its_revision_after_every_batch(
    before: list[Step], after: list[Step], sizes: random.Random
) -> None:
    watched, mirror = Watched(), Mirror()
    for step in before:
        watched.write(step)
    mirror.load(watched.kvs(), watched.store.revision, 0.0)
    first = watched.store.revision + 1
    for step in after:
        watched.write(step)
    for batch in watched.batches(first, sizes):
        changes = mirror.feed(batch)
        assert changes is not None
        assert changes.revision == mirror.revision == mirror.snapshot().revision
        assert dict(mirror.snapshot().kvs) == watched.states[mirror.revision]
    assert dict(mirror.snapshot().kvs) == watched.store.kvs


@given(STEPS, STEPS)
def test_a_load_tells_the_difference_and_nothing_else(
    before: list[Step], after: list[Step]
) -> None:
    """Whoever applies it to what there was has what there is."""
    watched, mirror = Watched(), Mirror()
    for step in before:
        watched.write(step)
    mirror.load(watched.kvs(), watched.store.revision, 0.0)
    copy = dict(mirror.snapshot().kvs)
    for step in after:
        watched.write(step)
    changes = mirror.load(watched.kvs(), watched.store.revision, 0.0)
    assert changes.is_merged
    for event in changes:
        assert event.previous == copy.get(event.key)
        if event.is_put:
            assert copy.get(event.key) != event.kv
            copy[event.key] = event.kv
        else:
            del copy[event.key]
    assert copy == watched.store.kvs


@given(STEPS, STEPS, st.randoms(use_true_random=False))
def test_merged_changes_make_the_same_difference(
    before: list[Step], after: list[Step], sizes: random.Random
) -> None:
    watched, mirror = Watched(), Mirror()
    for step in before:
        watched.write(step)
    mirror.load(watched.kvs(), watched.store.revision, 0.0)
    copy = dict(mirror.snapshot().kvs)
    first = watched.store.revision + 1
    for step in after:
        watched.write(step)
    backlog = Backlog()
    fed = [mirror.feed(batch) for batch in watched.batches(first, sizes)]
    for _ in range(LONGEST_BACKLOG):  # so that all of them are merged
        backlog.add(Changes(first - 1, ()))
    for changes in fed:
        assert changes is not None
        backlog.add(changes)
    assert len(backlog) <= LONGEST_BACKLOG
    while (taken := backlog.take()) is not None:
        for event in taken:
            assert event.previous == copy.get(event.key)
            if event.is_put:
                copy[event.key] = event.kv
            else:
                del copy[event.key]
    assert copy == watched.store.kvs


@given(STEPS, STEPS)
def test_the_question_is_answered_by_yes_only_if_the_store_has_what_the_copy_has(
    before: list[Step], after: list[Step]
) -> None:
    """Also where keys were put and deleted again, or deleted and put."""
    watched, mirror = Watched(), Mirror()
    for step in before:
        watched.write({b"p" + name: value for name, value in step.items()})
    watched.write({b"elsewhere": b""})
    mine = [kv for kv in watched.kvs() if kv.key.startswith(b"p")]
    mirror.load(mine, watched.store.revision, 0.0)
    for step in after:
        watched.write({b"p" + name: value for name, value in step.items()})
    watched.write({b"elsewhere": b""})
    store = watched.store
    (found,) = store.apply(Txn().then(mirror.question(b"p"))).results
    assert isinstance(found, RangeResult)
    has = {name: kv for name, kv in store.kvs.items() if name.startswith(b"p")}
    assert mirror.compare(found) == (has == dict(mirror.snapshot().kvs))


def put(name: bytes, revision: int) -> WatchBatch:
    event = Event(EventType.PUT, KeyValue(name, b"", revision, revision, 1, 0))
    return WatchBatch(Header(1, 1, revision, 1), (event,))


def test_a_snapshot_does_not_change_and_is_asked_by_text_or_bytes() -> None:
    mirror = Mirror()
    mirror.load((), 3, 0.0)
    first = mirror.snapshot()
    mirror.feed(put(b"a", 5))
    assert (first.revision, len(first)) == (3, 0)
    second = mirror.snapshot()
    assert second is mirror.snapshot()
    assert second["a"] == second[b"a"]
    assert list(second) == [b"a"]
    assert "b" not in second
    with pytest.raises(TypeError):
        second.kvs[b"b"] = second["a"]  # type: ignore[index]
    mirror.feed(WatchBatch(Header(1, 1, 9, 1)))  # only progress
    assert mirror.snapshot() == Snapshot(9, second.kvs)
    assert mirror.snapshot().revision == 9


def test_what_came_before_is_not_applied_again() -> None:
    mirror = Mirror()
    mirror.load((), 7, 0.0)
    assert mirror.feed(put(b"a", 7)) is None
    assert mirror.get(b"a") is None


def test_staleness_counts_from_the_sending_of_what_proves_the_copy() -> None:
    mirror = Mirror()
    assert mirror.stale_for(5.0) > 1e9
    mirror.load((), 10, asked=100.0)
    assert mirror.stale_for(101.0) == 1.0
    mirror.expect(12, asked=102.0)  # the store is further than the copy
    assert mirror.stale_for(103.0) == 3.0
    mirror.feed(put(b"a", 11))
    assert mirror.stale_for(103.0) == 3.0
    mirror.expect(14, asked=104.0)  # does not push the older proof away
    mirror.feed(put(b"a", 13))
    assert mirror.stale_for(105.0) == 3.0
    mirror.current(104.5)
    assert mirror.stale_for(105.0) == 0.5
    mirror.expect(13, asked=106.0)
    assert mirror.stale_for(106.0) == 0.0


def test_an_advance_keeps_the_pairs() -> None:
    mirror = Mirror()
    mirror.load((), 7, 0.0)
    mirror.feed(put(b"a", 8))
    kvs = mirror.snapshot().kvs
    mirror.expect(9, asked=4.0)
    mirror.advance(9)
    assert mirror.snapshot().kvs is kvs
    assert (mirror.revision, mirror.stale_for(5.0)) == (9, 1.0)
    mirror.advance(3)
    assert mirror.revision == 9
