"""The Raft log, on LevelDB and on the disk in memory."""

import threading
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raftkv.errors import CorruptionError, DiskFailure
from raftkv.raft.types import CONFIG, NOOP, Entry, HardState, LogBatch
from raftkv.storage.memory import MemoryDisk
from raftkv.storage.records import KEY, RECORD
from raftkv.storage.recovery import DataDirectory
from tests.storage.rig import Place, batch, entries, memory_place, meta

EVERYTHING = 1 << 40


def everything(directory: DataDirectory) -> list[Entry]:
    log = directory.log
    return log.entries(log.first_index, log.last_index, EVERYTHING)


def test_entries_come_back_as_they_were_written(place: Place) -> None:
    directory = place.open()
    written = [*entries(1, 5), Entry(6, 2, NOOP, b""), Entry(7, 2, CONFIG, b"c"), *entries(8, 9, 2)]
    directory.log.write([batch(1, written)])
    assert everything(directory) == written
    assert directory.log.entries(3, 4, EVERYTHING) == written[2:4]
    directory.close()
    again = place.open()
    assert everything(again) == written
    found = again.recovered
    assert (found.last_term, found.last_index) == (2, 9)
    assert found.term_runs == [(1, 1), (6, 2)]
    assert found.configurations == [(7, b"c")]
    again.close()


def test_a_read_is_cut_at_its_byte_limit_but_holds_one_entry_at_least(place: Place) -> None:
    directory = place.open()
    directory.log.write([batch(1, entries(1, 10, size=100))])
    size = len(entries(1, 1, size=100)[0].payload)
    assert [e.index for e in directory.log.entries(1, 10, 3 * size)] == [1, 2, 3]
    assert [e.index for e in directory.log.entries(4, 10, 1)] == [4]
    directory.close()


def test_several_batches_become_one_synced_write(place: Place) -> None:
    """The counting test of the write path: syncs are writes, not batches, not entries."""
    directory = place.open()
    log = directory.log
    before = log.syncs
    for number in range(1, 6):
        log.enqueue(batch(number, entries(number * 2 - 1, number * 2)))
    assert log.syncs == before
    assert log.flush() == 5
    assert log.syncs == before + 1
    assert log.flush() == 5
    assert log.syncs == before + 1, "nothing new: nothing written"
    directory.close()


def test_nothing_is_durable_before_its_flush() -> None:
    place = memory_place()
    directory = place.open()
    directory.log.write([batch(1, entries(1, 3))])
    directory.log.enqueue(batch(2, entries(4, 6)))
    assert directory.log.durable == (1, 3)
    assert place.disk is not None
    place.disk.crash()
    again = place.open()
    assert again.recovered.last_index == 3


def test_hard_state_is_durable_in_both_copies_before_the_entries_are_written() -> None:
    """R03, R04: the order of system calls, as the disk saw them."""
    place = memory_place()
    directory = place.open()
    calls: list[str] = []
    assert place.disk is not None
    place.disk.before = calls.append
    directory.log.write([batch(1, entries(1, 2, term=4), hard=(4, MEMBER_VOTED))])
    assert calls == [
        "write member/mark.a",
        "sync member/mark.a",
        "write member/mark.b",
        "sync member/mark.b",
        "commit log",
    ]
    calls.clear()
    directory.log.write([batch(2, entries(3, 3, term=4), hard=(4, MEMBER_VOTED))])
    assert calls == ["commit log"], "an unchanged hard state costs nothing"


MEMBER_VOTED = 0xB2


def test_term_and_vote_survive_with_no_entry_written(place: Place) -> None:
    directory = place.open()
    directory.log.write([batch(1, hard=(7, MEMBER_VOTED))])
    assert directory.log.syncs == 0
    directory.close(checkpoint=False)
    again = place.open()
    assert again.recovered.hard_state == HardState(7, MEMBER_VOTED)
    again.close()


def test_a_conflicting_suffix_is_replaced(place: Place) -> None:
    directory = place.open()
    directory.log.write([batch(1, entries(1, 10))])
    directory.log.write([batch(2, entries(6, 7, term=3), truncate_from=6)])
    expected = entries(1, 5) + entries(6, 7, term=3)
    assert everything(directory) == expected
    directory.close()
    again = place.open()
    assert everything(again) == expected
    assert again.recovered.term_runs == [(1, 1), (6, 3)]
    again.close()


def test_entries_being_replaced_are_not_read_until_their_replacement_is_durable(
    place: Place,
) -> None:
    directory = place.open()
    log = directory.log
    log.write([batch(1, entries(1, 10))])
    log.enqueue(batch(2, entries(6, 12, term=2), truncate_from=6))
    assert [e.index for e in log.entries(1, 12, EVERYTHING)] == [1, 2, 3, 4, 5]
    assert log.entries(6, 12, EVERYTHING) == []
    log.flush()
    assert log.entries(1, 12, EVERYTHING) == entries(1, 5) + entries(6, 12, term=2)
    directory.close()


def test_the_mark_goes_down_before_a_suffix_is_replaced_by_an_older_term() -> None:
    """A new leader of term 5 may first send its entries of term 3 over uncommitted ones of
    term 4. A crash right then must not look like a loss of acknowledged entries."""
    for torn in (False, True):
        place = memory_place()
        directory = place.open()
        directory.log.write([batch(1, entries(1, 5, term=2) + entries(6, 9, term=4))])
        assert directory.log.write_mark_behind(force=True)
        directory.log.write([batch(2, entries(6, 6, term=3), truncate_from=6)])
        assert place.disk is not None
        place.disk.crash(torn=torn)
        again = place.open()
        assert (again.recovered.last_term, again.recovered.last_index) == (3, 6)


def test_a_reset_leaves_nothing_but_the_anchor(place: Place) -> None:
    directory = place.open()
    directory.log.write([batch(1, entries(1, 50))])
    directory.log.write([batch(2, entries(101, 103, term=3), reset=(3, 100))])
    assert everything(directory) == entries(101, 103, term=3)
    assert directory.log.entries(50, 60, EVERYTHING) == []
    directory.close()
    again = place.open()
    found = again.recovered
    assert (found.anchor_index, found.anchor_term) == (100, 3)
    assert (found.last_index, found.last_term) == (103, 3)
    assert everything(again) == entries(101, 103, term=3)
    again.close()


def test_a_reset_may_go_back_to_a_lower_index(place: Place) -> None:
    directory = place.open()
    directory.log.write([batch(1, entries(1, 50, term=4))])
    directory.log.write_mark_behind(force=True)
    directory.log.write([batch(2, reset=(3, 20))])
    directory.log.write([batch(3, entries(21, 22, term=5))])
    directory.close(checkpoint=False)
    again = place.open()
    assert everything(again) == entries(21, 22, term=5)
    again.close()


def test_front_truncation_keeps_the_chain_whole(place: Place) -> None:
    directory = place.open()
    log = directory.log
    log.write([batch(1, entries(1, 60) + entries(61, 100, term=2))])
    log.truncate_front(40, 1)
    assert (log.first_index, log.last_index) == (41, 100)
    assert log.entries(40, 41, EVERYTHING) == []
    log.truncate_front(80, 2)
    log.write([batch(2, entries(101, 110, term=2))])
    expected = entries(81, 110, term=2)
    assert everything(directory) == expected
    directory.close(checkpoint=False)
    again = place.open()
    assert everything(again) == expected
    assert (again.recovered.anchor_index, again.recovered.anchor_term) == (80, 2)
    assert again.recovered.term_runs == [(81, 2)]
    again.close()


def test_the_whole_log_may_be_truncated_in_front(place: Place) -> None:
    directory = place.open()
    directory.log.write([batch(1, entries(1, 10))])
    directory.log.truncate_front(10, 1)
    assert directory.log.first_index == 11
    directory.close()
    again = place.open()
    assert (again.recovered.last_index, again.recovered.last_term) == (10, 1)
    again.log.write([batch(1, entries(11, 12))])
    assert everything(again) == entries(11, 12)
    again.close()


def test_front_truncation_never_reaches_behind_what_is_durable(place: Place) -> None:
    directory = place.open()
    directory.log.write([batch(1, entries(1, 5))])
    directory.log.enqueue(batch(2, entries(6, 9)))
    directory.log.truncate_front(8, 1)
    assert directory.log.first_index == 1
    directory.log.flush()
    directory.log.truncate_front(8, 1)
    assert directory.log.first_index == 9
    directory.close()


def test_the_mark_is_written_behind_when_a_second_has_passed_or_much_was_written() -> None:
    place = memory_place()
    directory = place.open()
    log = directory.log
    now = 100.0

    def clock() -> float:
        return now

    log._clock = clock
    log._marked_at = now
    log.write([batch(1, entries(1, 2))])
    assert not log.write_mark_behind()
    now += 0.5
    assert not log.write_mark_behind()
    now += 0.6
    assert log.write_mark_behind()
    assert directory._mark.value[3:5] == (1, 2)
    assert not log.write_mark_behind(force=True), "it already says so"
    log.write([batch(2, entries(3, 3, size=2 << 20))])
    assert log.write_mark_behind(), "after a megabyte, sooner"
    log.write([batch(3, entries(4, 4))])
    assert log.write_mark_behind(force=True)


def test_a_member_that_has_less_than_it_acknowledged_is_refused(place: Place) -> None:
    """R33, R34: a leader of the current term tells what it has seen."""
    directory = place.open()
    directory.log.write([batch(1, entries(1, 5, term=2) + entries(6, 8, term=4))])
    directory.log.check_at_least(4, 8)
    directory.log.check_at_least(3, 100)
    for term, index in [(4, 9), (5, 1)]:
        with pytest.raises(CorruptionError, match="acknowledged"):
            directory.log.check_at_least(term, index)
    directory.close()


def test_bootstrap_starts_an_empty_log_behind_a_snapshot(place: Place) -> None:
    directory = place.open()
    directory.log.bootstrap(HardState(1, 0), meta(1, 1))
    directory.log.write([batch(1, entries(2, 3))])
    directory.close()
    again = place.open()
    assert again.recovered.hard_state == HardState(1, 0)
    assert (again.recovered.anchor_index, again.recovered.last_index) == (1, 3)
    again.close()


@pytest.mark.parametrize("operation", ["write member/mark.a", "sync member/mark.b", "commit log"])
def test_after_a_failed_write_nothing_is_ever_written_again(operation: str) -> None:
    """D10, D12, D13: an error once, then a healthy disk: the log stays closed."""
    place = memory_place()
    directory = place.open()
    disk = place.disk
    assert disk is not None
    directory.log.write([batch(1, entries(1, 3))])
    fail_once(disk, operation)
    with pytest.raises(DiskFailure):
        directory.log.write([batch(2, entries(4, 4), hard=(2, 0))])
    again: list[Callable[[], object]] = [
        directory.log.flush,
        lambda: directory.log.write([batch(3, entries(5, 5))]),
        lambda: directory.log.enqueue(batch(4, entries(5, 5))),
        lambda: directory.log.truncate_front(2, 1),
    ]
    for call in again:
        with pytest.raises(DiskFailure, match="for good"):
            call()
    assert not directory.log.write_mark_behind(force=True)
    assert disk.exists("member/failed")
    assert directory.log.durable == (1, 3)


def fail_once(disk: MemoryDisk, operation: str) -> None:
    def before(what: str) -> None:
        if what == operation:
            disk.before = None
            raise OSError(5, "injected")

    disk.before = before


def test_a_record_changed_behind_the_log_is_never_served(place: Place) -> None:
    """D05, D29: reads check each record against the chain kept in memory."""
    directory = place.open()
    log = directory.log
    log.write([batch(1, entries(1, 9))])
    rows = log._rows

    def put(index: int, value: bytes) -> None:
        change = rows.batch()
        change.put(KEY.pack(RECORD, 0, index), value)
        rows.commit(change, 0, None)

    def value_of(index: int) -> bytes:
        value = rows.get(KEY.pack(RECORD, 0, index))
        assert value is not None
        return value

    fourth, fifth = value_of(4), value_of(5)
    for bad in (fifth[:-1] + bytes((fifth[-1] ^ 1,)), fourth, fifth[:10], b""):
        put(5, bad)
        assert [e.index for e in log.entries(1, 4, EVERYTHING)] == [1, 2, 3, 4]
        with pytest.raises(CorruptionError, match="log record 5"):
            log.entries(1, 9, EVERYTHING)
    change = rows.batch()
    change.delete(KEY.pack(RECORD, 0, 5))
    rows.commit(change, 0, None)
    with pytest.raises(CorruptionError, match="log record 5 is missing"):
        log.entries(4, 9, EVERYTHING)
    directory.close()


def test_flush_and_front_truncation_may_run_beside_the_event_loop(real_place_: Place) -> None:
    """Three threads as in the server; afterwards everything that was flushed is there."""
    directory = real_place_.open()
    log = directory.log
    wake, flushed, truncate = (threading.Semaphore(0) for _ in range(3))
    errors: list[BaseException] = []

    def guarded(work: Callable[[], object], wait: threading.Semaphore) -> Callable[[], None]:
        def run() -> None:
            try:
                for _ in range(60):
                    wait.acquire()
                    work()
            except BaseException as error:  # noqa: BLE001 - shown by the assertion below
                errors.append(error)

        return run

    def disk() -> None:
        log.flush()
        log.write_mark_behind()
        flushed.release()

    def housekeeping() -> None:
        log.truncate_front(log.durable[1] - 10, 1)

    threads = [
        threading.Thread(target=guarded(disk, wake)),
        threading.Thread(target=guarded(housekeeping, truncate)),
    ]
    for thread in threads:
        thread.start()
    number = 0
    for _ in range(60):
        for _ in range(5):
            number += 1
            log.enqueue(batch(number, entries(number * 4 - 3, number * 4)))
        wake.release()
        last = log.durable[1]
        for entry in log.entries(max(last - 10, log.first_index), last, EVERYTHING):
            assert entry == entries(entry.index, entry.index)[0]
        flushed.acquire()
        truncate.release()
    for thread in threads:
        thread.join()
    log.flush()
    assert errors == []
    first = log.first_index
    assert first > 1000
    directory.close(checkpoint=False)
    again = real_place_.open()
    assert everything(again) == entries(first, 1200)
    again.close()


@pytest.fixture
def real_place_(real: Place) -> Place:
    return real


class Model:
    """A log as a list: what RaftLog must be equal to."""

    def __init__(self) -> None:
        self.anchor = (0, 0)
        self.kept: list[Entry] = []

    def last(self) -> tuple[int, int]:
        return (self.kept[-1].term, self.kept[-1].index) if self.kept else self.anchor


def random_batch(random: Random, number: int, term: int, model: Model) -> LogBatch:
    """A batch that Raft could write, and its effect on the model."""
    reset, truncate_from = None, 0
    last_term, last_index = model.last()
    choice = random.random()
    if choice < 0.1:
        reset = (term, last_index + random.randint(0, 9))
        model.anchor, model.kept = reset, []
    elif choice < 0.35 and model.kept:
        truncate_from = random.choice(model.kept).index
        model.kept = [e for e in model.kept if e.index < truncate_from]
    last_term, last_index = model.last()
    new = entries(
        last_index + 1,
        last_index + random.randint(0, 6),
        random.randint(last_term, term),
        random.choice([0, 1, 300]),
    )
    model.kept += new
    hard = (term, random.randint(0, 3)) if random.random() < 0.2 else None
    return batch(number, new, hard=hard, reset=reset, truncate_from=truncate_from)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_any_history_of_batches_is_recovered_exactly(
    seed: int, tmp_path_factory: pytest.TempPathFactory, kind: str
) -> None:
    from tests.storage.rig import real_place

    random, model = Random(seed), Model()
    place = (
        real_place(str(tmp_path_factory.mktemp("log") / "m"))
        if kind == "leveldb"
        else memory_place()
    )
    directory = place.open()
    number = 0
    for term in range(1, 12):
        for _ in range(random.randint(0, 3)):
            number += 1
            directory.log.enqueue(random_batch(random, number, term, model))
            if random.random() < 0.6:
                directory.log.flush()
        directory.log.flush()
        assert everything(directory) == model.kept
        if random.random() < 0.3 and model.kept:
            at = random.choice(model.kept)
            directory.log.truncate_front(at.index, at.term)
            model.anchor = (at.term, at.index)
            model.kept = [e for e in model.kept if e.index > at.index]
        if random.random() < 0.3:
            directory.log.write_mark_behind(force=True)
        if random.random() < 0.3:
            directory.close(checkpoint=random.random() < 0.5)
            directory = place.open()
            number = 0
        assert everything(directory) == model.kept
        assert (directory.log.last_term, directory.log.last_index) == model.last()
    directory.close()


@pytest.fixture(params=["leveldb", "memory"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)
