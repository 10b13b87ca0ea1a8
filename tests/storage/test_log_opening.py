"""Opening a log whose rows LevelDB serves without complaint, but which are not what was written."""

import pytest

from raftkv.errors import CorruptionError
from raftkv.storage.backend import LogRows
from raftkv.storage.records import ANCHOR_KEY, END_KEY, KEY, RECORD
from raftkv.storage.recovery import DataDirectory
from tests.storage.rig import Place, batch, entries


def key(index: int, generation: int = 0) -> bytes:
    return KEY.pack(RECORD, generation, index)


def rows_of(directory: DataDirectory) -> LogRows:
    return directory.log._rows


def change(rows: LogRows, changes: dict[bytes, bytes | None]) -> None:
    made = rows.batch()
    for where, value in changes.items():
        if value is None:
            made.delete(where)
        else:
            made.put(where, value)
    rows.commit(made, 0, None)


def value(rows: LogRows, where: bytes) -> bytes:
    found = rows.get(where)
    assert found is not None
    return found


def refused(place: Place, directory: DataDirectory, reason: str) -> None:
    directory.close(checkpoint=False)
    with pytest.raises(CorruptionError, match=reason):
        place.open()


def written(place: Place) -> DataDirectory:
    directory = place.open()
    directory.log.write([batch(1, entries(1, 5))])
    directory.log.write([batch(2, entries(6, 9))])
    return directory


def test_a_lost_last_record_is_noticed_without_the_mark(place: Place) -> None:
    """D30: the end row was written with it and vouches for it."""
    directory = written(place)
    change(rows_of(directory), {key(9): None})
    refused(place, directory, "ends at index 8, its end row says 9")


def test_lost_last_records_of_several_batches_are_noticed(place: Place) -> None:
    directory = written(place)
    change(rows_of(directory), {key(index): None for index in range(3, 10)})
    refused(place, directory, "ends at index 2, its end row says 9")


def test_a_hole_is_noticed(place: Place) -> None:
    directory = written(place)
    change(rows_of(directory), {key(4): None})
    refused(place, directory, "log record 4 is missing: record 5 stands in its place")


def test_swapped_records_are_noticed(place: Place) -> None:
    """D29: entry i in the place of j."""
    directory = written(place)
    rows = rows_of(directory)
    third, seventh = value(rows, key(3)), value(rows, key(7))
    change(rows, {key(3): seventh, key(7): third})
    refused(place, directory, "log record 3 is missing")


@pytest.mark.parametrize("more", [0, 1, 5])
def test_an_older_write_that_comes_back_is_noticed(place: Place, more: int) -> None:
    """D29, D30: a whole record of the right index, from before it was replaced."""
    directory = written(place)
    rows = rows_of(directory)
    old = value(rows, key(9))
    directory.log.write([batch(3, entries(9, 9 + more, term=2), truncate_from=9)])
    change(rows, {key(9): old})
    refused(place, directory, r"\(chain\)" if more else "end row|ends at")


def test_an_end_row_that_comes_back_is_noticed(place: Place) -> None:
    directory = place.open()
    directory.log.write([batch(1, entries(1, 5))])
    old = value(rows_of(directory), END_KEY)
    directory.log.write([batch(2, entries(6, 9))])
    change(rows_of(directory), {END_KEY: old})
    refused(place, directory, "ends at index 9, its end row says 5")


def test_rows_of_an_older_life_of_the_log_do_not_mix_with_the_newer(place: Place) -> None:
    directory = written(place)
    rows = rows_of(directory)
    old_end, old_anchor = value(rows, END_KEY), value(rows, ANCHOR_KEY)
    directory.log.write([batch(3, entries(51, 52, term=3), reset=(3, 50))])
    new_end, new_anchor = value(rows, END_KEY), value(rows, ANCHOR_KEY)
    change(rows, {END_KEY: old_end})
    refused(place, directory, "different lives")
    again = open_rows(place)
    change(again, {END_KEY: new_end, ANCHOR_KEY: old_anchor})
    again.close()
    with pytest.raises(CorruptionError, match="different lives"):
        place.open()
    again = open_rows(place)
    change(again, {END_KEY: new_end, ANCHOR_KEY: new_anchor, key(51, 1): None})
    again.close()
    with pytest.raises(CorruptionError, match="log record 51 is missing"):
        place.open()


def open_rows(place: Place) -> LogRows:
    from raftkv.storage.leveldb import LEVELDB
    from raftkv.storage.memory import MemoryEngine

    engine = LEVELDB if place.disk is None else MemoryEngine(place.disk)
    return engine.open_log(f"{place.path}/log")


@pytest.mark.parametrize(("row", "name"), [(ANCHOR_KEY, "anchor"), (END_KEY, "end row")])
def test_a_lost_or_damaged_anchor_or_end_row_is_refused(
    place: Place, row: bytes, name: str
) -> None:
    directory = written(place)
    rows = rows_of(directory)
    good = value(rows, row)
    directory.close(checkpoint=False)
    for bad in (None, b"", good[:-1], good + b"x", good[:-1] + bytes((good[-1] ^ 1,))):
        again = open_rows(place)
        change(again, {row: bad})
        again.close()
        with pytest.raises(CorruptionError, match=f"{name}"):
            place.open()
    again = open_rows(place)
    change(again, {row: good})
    again.close()
    place.open().close()
