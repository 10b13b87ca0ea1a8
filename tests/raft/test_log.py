"""The in-memory log against a simple model, and its edges."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from raftkv.errors import CorruptionError, ProtocolError
from raftkv.raft.log import Log
from raftkv.raft.membership import plain
from raftkv.raft.types import Entry, HardState, LogBatch, RecoveredLog, SnapshotMeta
from tests.raft.cluster import entries
from tests.raft.harness import Disk, State

EMPTY = RecoveredLog(HardState(), 0, 0, 0, 0, [], [])


def fresh(terms: list[int] | None = None, cache_bytes: int = 1 << 20) -> tuple[Log, Disk]:
    disk = Disk(plain((1,)))
    disk.log = entries(1, terms or [])
    disk.hard_state = HardState(99)
    return Log(disk.recover(), disk, cache_bytes), disk


class LogMachine(RuleBasedStateMachine):
    """The log does what a list of entries and a list of disk contents would do."""

    @initialize(
        terms=st.lists(st.integers(1, 3), max_size=6), cache=st.sampled_from([0, 700, 9999])
    )
    def start(self, terms: list[int], cache: int) -> None:
        self.log, self.disk = fresh(sorted(terms), cache + 1)
        self.model = list(self.disk.log)
        self.anchor = (0, 0)
        self.number = 0
        self.writing: list[tuple[LogBatch, list[Entry]]] = []
        self.applied = 0

    @rule(count=st.integers(1, 5), jump=st.integers(0, 2), size=st.sampled_from([0, 3, 400]))
    def append(self, count: int, jump: int, size: int) -> None:
        term = self.log.last_term + jump or 1
        first = self.log.last_index + 1
        new = [Entry(i, term, 0, b"x" * size) for i in range(first, first + count)]
        self.log.append(new)
        self.model += new

    @precondition(lambda self: self.log.last_index > max(self.applied, self.anchor[0]))
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        least = max(self.applied, self.anchor[0]) + 1
        first = data.draw(st.integers(least, self.log.last_index))
        self.log.truncate(first)
        del self.model[first - self.anchor[0] - 1 :]

    @rule()
    def take(self) -> None:
        if self.log.has_batch:
            self.number += 1
            batch = self.log.take_batch(self.number, None)
            self.writing.append((batch, list(self.model)))

    @precondition(lambda self: bool(self.writing))
    @rule()
    def persist(self) -> None:
        batch, _ = self.writing.pop(0)
        installed = State(batch.reset) if batch.reset else None
        self.disk.write(batch, installed)
        self.log.persisted(batch.number)

    @rule(data=st.data())
    def apply(self, data: st.DataObject) -> None:
        limit = min(self.log.stable_index, self.log.last_index)
        if limit > self.applied:
            self.applied = data.draw(st.integers(self.applied, limit))
        self.log.evict(self.applied)

    @precondition(lambda self: not self.writing and not self.log.has_batch)
    @rule(data=st.data())
    def compact(self, data: st.DataObject) -> None:
        if self.applied > self.anchor[0]:
            index = data.draw(st.integers(self.anchor[0] + 1, self.applied))
            term = self.disk.compact(index)
            self.log.compact(index, term)
            self.log.compact(index, term)  # said twice
            del self.model[: index - self.anchor[0]]
            self.anchor = (index, term)

    @rule(ahead=st.integers(1, 9))
    def reset(self, ahead: int) -> None:
        index, term = self.log.last_index + ahead, self.log.last_term + 1
        self.log.reset(SnapshotMeta(index, term, plain((1,))))
        self.model = []
        self.anchor = (index, term)
        self.applied = index

    @invariant()
    def same_as_model(self) -> None:
        if not hasattr(self, "log"):
            return
        log, model = self.log, self.model
        assert (log.anchor_index, log.anchor_term) == self.anchor
        assert log.last_index == self.anchor[0] + len(model)
        assert log.last_term == (model[-1].term if model else self.anchor[1])
        for entry in model:
            assert log.term_at(entry.index) == entry.term
            assert log.matches(entry.index, entry.term)
            assert not log.matches(entry.index, entry.term + 1)
        found: list[Entry] = []
        while len(found) < len(model):
            first = self.anchor[0] + len(found) + 1
            some, size = log.slice(first, log.last_index, 500)
            assert some
            assert size == sum(len(e.payload) for e in some)
            assert size <= 500 or len(some) == 1
            found += some
        assert found == model

    @invariant()
    def stable_means_durable(self) -> None:
        """R14: whatever is called stable is on the disk now and no write on its way removes it."""
        if not hasattr(self, "log"):
            return
        disk = Disk(plain((1,)))
        disk.anchor, disk.log = self.disk.anchor, list(self.disk.log)
        pictures = [disk]
        for batch, _ in self.writing:
            later = Disk(plain((1,)))
            later.anchor, later.log = pictures[-1].anchor, list(pictures[-1].log)
            later.write(batch, State(batch.reset) if batch.reset else None)
            pictures.append(later)
        for picture in pictures:
            for entry in self.model:
                if entry.index <= self.log.stable_index:
                    assert picture.holds(entry.index, entry.term)


TestLogMachine = LogMachine.TestCase
TestLogMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(
    st.lists(st.integers(1, 6), max_size=20).map(sorted),
    st.integers(0, 25),
    st.integers(0, 7),
)
def test_the_hint_is_the_newest_place_not_above_index_and_term(
    terms: list[int], index: int, term: int
) -> None:
    log, _ = fresh(terms)
    expected = (0, 0)
    for position, known in enumerate(terms, 1):
        if position <= index and known <= term:
            expected = (position, known)
    assert log.newest_not_above(index, term) == expected


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=30), st.integers(0, 200))
def test_bytes_after_counts_the_payloads_behind_an_index(payloads: list[bytes], at: int) -> None:
    log, _ = fresh()
    log.append([Entry(i, 1, 0, p) for i, p in enumerate(payloads, 1)])
    assert log.bytes_after(at) == sum(map(len, payloads[at:]))


def test_entries_leave_memory_only_when_durable_and_applied() -> None:
    log, disk = fresh(cache_bytes=2000)
    log.append([Entry(i, 1, 0, b"x" * 100) for i in range(1, 101)])
    log.evict(applied=100)
    assert log.cached == 100
    batch = log.take_batch(1, None)
    disk.write(batch, None)
    log.persisted(1)
    log.evict(applied=0)
    assert log.cached == 100
    log.evict(applied=100)
    assert log.cached < 10
    assert log.slice(1, 3, 10_000)[0] == batch.entries[:3]


@pytest.mark.parametrize(
    "bad",
    [
        RecoveredLog(HardState(), 0, 0, 3, 1, [], []),
        RecoveredLog(HardState(), 0, 0, 3, 1, [(2, 1)], []),
        RecoveredLog(HardState(), 0, 0, 3, 1, [(1, 2)], []),
        RecoveredLog(HardState(), 0, 0, 3, 2, [(1, 2), (2, 2)], []),
        RecoveredLog(HardState(), 5, 3, 6, 2, [(6, 2)], []),
        RecoveredLog(HardState(), 5, 3, 5, 2, [], []),
        RecoveredLog(HardState(), 0, 0, 3, 4, [(1, 1), (9, 4)], []),
    ],
)
def test_a_recovered_log_that_contradicts_itself_is_refused(bad: RecoveredLog) -> None:
    with pytest.raises(CorruptionError, match="contradicts itself"):
        Log(bad, Disk(plain((1,))), 100)


@pytest.mark.parametrize("damage", ["missing", "other term", "hole"])
def test_a_disk_that_does_not_hold_the_log_is_noticed(damage: str) -> None:
    """R15: holes are never filled."""
    log, disk = fresh([1, 1, 1, 1])
    if damage == "missing":
        disk.log = []
    elif damage == "other term":
        disk.log = entries(1, [9, 9, 9, 9])
    else:
        del disk.log[1]
    with pytest.raises(CorruptionError, match="should"):
        log.slice(1, 4, 1000)


def test_appends_must_continue_the_log() -> None:
    log, _ = fresh([1, 2])
    for wrong in (entries(4, [2]), entries(2, [2]), entries(3, [1]), entries(3, [3, 2])):
        with pytest.raises(ProtocolError):
            log.append(wrong)
    assert log.last_index == 2
    assert not log.has_batch
