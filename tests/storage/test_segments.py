"""The segments of the Raft log, on LevelDB and on the disk in memory."""

import os

import pytest

from raftkv.raft.types import Entry
from raftkv.storage.leveldb import LEVELDB, LevelShelf
from raftkv.storage.memory import MemoryShelf
from raftkv.storage.raftlog import RaftLog
from raftkv.storage.records import KEY, RECORD
from raftkv.storage.recovery import DataDirectory
from raftkv.storage.segments import Segments
from tests.storage.rig import Place, batch, entries, files_below

EVERYTHING = 1 << 40


def everything(directory: DataDirectory) -> list[Entry]:
    log = directory.log
    return log.entries(log.first_index, log.last_index, EVERYTHING)


def rows_of(directory: DataDirectory) -> int:
    return len(list(directory.log._rows.scan(KEY.pack(RECORD, 0, 0), KEY.pack(RECORD, 99, 0))))


def fill(log: RaftLog, first: int, last: int, each: int = 20, size: int = 20) -> None:
    """Batches of `each` entries, the first of a member's numbers; segments are made in between."""
    for number, index in enumerate(range(first, last + 1, each), first):
        log.write([batch(number, entries(index, index + each - 1, size=size))])
        if log.untended:
            log.tend()


def small_segments(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    for shelf in (LevelShelf, MemoryShelf):
        monkeypatch.setattr(shelf, "full_bytes", size)


def segments_of(directory: DataDirectory) -> list[int]:
    rows = directory.log._rows
    assert isinstance(rows, Segments)
    return [part.number for part in rows._parts]


def test_a_full_segment_is_followed_by_another_and_reads_span_both(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_segments(monkeypatch, 4000)
    directory = place.open()
    fill(directory.log, 1, 400)
    assert len(segments_of(directory)) > 5
    assert everything(directory) == entries(1, 400)
    assert directory.log.entries(95, 105, EVERYTHING) == entries(95, 105)
    directory.close(checkpoint=False)
    again = place.open()
    assert everything(again) == entries(1, 400)
    again.close()


def test_front_truncation_removes_whole_segments_and_deletes_no_row(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_segments(monkeypatch, 4000)
    directory = place.open()
    log = directory.log
    fill(log, 1, 400)
    before = segments_of(directory)
    log.truncate_front(300, 1)
    left = segments_of(directory)
    assert left[0] > before[2]
    assert left == [*range(left[0], left[-1] + 1)]
    assert 100 <= rows_of(directory) <= 100 + 4000 // 60 + 20
    assert everything(directory) == entries(301, 400)
    directory.close(checkpoint=False)
    again = place.open()
    assert everything(again) == entries(301, 400)
    assert segments_of(again) == left
    again.close()


def test_truncated_entries_give_their_space_back(
    real: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_segments(monkeypatch, 1_000_000)
    directory = real.open()
    log = directory.log
    sizes: list[int] = []
    for first in range(1, 2401, 400):
        fill(log, first, first + 399, size=10_000)
        log.truncate_front(log.last_index - 100, 1)
        sizes.append(log.size())
    assert max(sizes) < 4_000_000, "what is kept and a segment or two, not everything"
    files = sum(os.path.getsize(name) for name in files_below(f"{real.path}/log"))
    assert files < 4_000_000
    assert everything(directory) == entries(2301, 2400, size=10_000)
    directory.close()


def test_a_suffix_that_spans_segments_is_replaced_by_one_write(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D09, Raft 5.3: whatever the next opening finds is the old log or the new one."""
    small_segments(monkeypatch, 4000)
    directory = place.open()
    log = directory.log
    fill(log, 1, 400)
    assert segments_of(directory)[-1] > 3
    log.write([batch(1001, entries(150, 151, term=2), truncate_from=150)])
    assert everything(directory) == entries(1, 149) + entries(150, 151, term=2)
    log.tend()
    log.write([batch(1002, entries(152, 160, term=2))])
    directory.close(checkpoint=False)
    again = place.open()
    expected = entries(1, 149) + entries(150, 160, term=2)
    assert everything(again) == expected
    assert again.recovered.term_runs == [(1, 1), (150, 2)]
    again.log.truncate_front(155, 2)
    assert everything(again) == entries(156, 160, term=2)
    again.close()


@pytest.mark.parametrize("replacements", [1, 2, 3])
def test_what_is_collected_for_a_segment_gives_way_to_a_truncation_below_it(
    place: Place, monkeypatch: pytest.MonkeyPatch, replacements: int
) -> None:
    """Several batches share one write: a later one may take back what an earlier one appended,
    and reach into segments before the one that the write was collected for."""
    small_segments(monkeypatch, 4000)
    directory = place.open()
    log = directory.log
    fill(log, 1, 400)
    log.enqueue(batch(1001, entries(401, 405)))
    for step in range(replacements):
        first, term = 200 - 50 * step, 2 + step
        log.enqueue(batch(1002 + step, entries(first, first + 1, term=term), truncate_from=first))
    log.flush()
    expected = entries(1, first - 1) + entries(first, first + 1, term=term)
    assert everything(directory) == expected
    directory.close(checkpoint=False)
    again = place.open()
    assert everything(again) == expected
    again.log.write([batch(1, truncate_from=first)])
    again.close(checkpoint=False)
    shorter = place.open()
    assert everything(shorter) == entries(1, first - 1)
    shorter.close()


def test_an_installed_state_leaves_one_segment(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_segments(monkeypatch, 4000)
    directory = place.open()
    log = directory.log
    fill(log, 1, 400)
    log.write([batch(1001, entries(1001, 1002, term=2), reset=(2, 1000))])
    assert len(segments_of(directory)) == 1
    assert log.untended
    log.tend()
    directory.close(checkpoint=False)
    again = place.open()
    assert everything(again) == entries(1001, 1002, term=2)
    again.close()


def test_segments_that_a_crash_brought_back_take_no_part(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removing a segment is not synced: old ones may be there again, with gaps in between."""
    small_segments(monkeypatch, 2000)
    directory = place.open()
    log = directory.log
    fill(log, 1, 200)
    removed: list[int] = []
    rows = log._rows
    assert isinstance(rows, Segments)
    monkeypatch.setattr(rows._shelf, "remove", removed.append)
    log.write([batch(1001, entries(120, 121, term=2), truncate_from=120)])
    log.truncate_front(100, 1)
    log.write([batch(1002, entries(122, 180, term=2))])
    log.truncate_front(150, 2)
    monkeypatch.undo()
    directory.close(checkpoint=False)
    assert len(removed) >= 4
    again = place.open()
    shelf = again.log._rows._shelf  # type: ignore[attr-defined]
    assert everything(again) == entries(151, 180, term=2)
    assert not {*removed} & {*shelf.numbers()}, "and they are removed again"
    again.close()


def test_without_a_segment_in_reserve_the_full_one_goes_on(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_segments(monkeypatch, 1000)
    directory = place.open()
    log = directory.log
    for number in range(1, 40):
        log.write([batch(number, entries(number * 10 - 9, number * 10))])
    assert len(segments_of(directory)) == 2, "the one made at opening was used, no other made"
    assert log.untended
    log.tend()
    log.write([batch(40, entries(391, 400))])
    assert len(segments_of(directory)) == 3
    directory.close()


def test_old_segments_do_not_keep_their_rows_in_memory(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_segments(monkeypatch, 2000)
    directory = place.open()
    rows = directory.log._rows
    assert isinstance(rows, Segments)
    fill(directory.log, 1, 400)
    parts = rows._parts
    buffered = rows._shelf.buffered
    assert len(parts) > buffered + 3
    assert [part.settled for part in parts[:-buffered]] == [True] * (len(parts) - buffered)
    assert not any(part.settled for part in parts[-buffered:])
    assert everything(directory) == entries(1, 400)
    directory.close()


def test_the_next_opening_drops_what_lies_before_the_anchor(place: Place) -> None:
    directory = place.open()
    directory.log.write([batch(1, entries(1, 300))])
    directory.log.truncate_front(290, 1)
    directory.log.write([batch(2, entries(401, 402, term=2), reset=(2, 400))])
    directory.close()
    again = place.open()
    assert rows_of(again) == 2
    assert len(segments_of(again)) == 1
    assert everything(again) == entries(401, 402, term=2)
    again.close()


def test_the_raw_files_kept_as_evidence_go_when_the_log_is_trusted(real: Place) -> None:
    """D30: a crash in the middle of an opening leaves them; the next opening judges them too."""
    directory = real.open()
    directory.log.write([batch(1, entries(1, 5))])
    directory.close(checkpoint=False)
    tail = f"{real.path}/log.tail"
    LEVELDB.log_tail(f"{real.path}/log", tail)
    LEVELDB.open_log(f"{real.path}/log").close()
    assert os.listdir(tail) != []
    for _ in range(2):
        again = real.open()
        assert everything(again) == entries(1, 5)
        assert not os.path.exists(tail)
        again.close()
