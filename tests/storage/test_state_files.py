"""The files of a state's LevelDB: its write-ahead log is never read, so none is written."""

import os
from pathlib import Path

import pytest

from raftkv.storage import leveldb
from raftkv.storage.leveldb import LEVELDB
from raftkv.storage.tables import link_tables


def logs(path: Path) -> list[tuple[str, bool]]:
    """(name, whether it is a link) of every write-ahead log that LevelDB has begun or will.

    Read at once: LevelDB's own thread removes old ones at any moment.
    """
    with os.scandir(path) as found:
        return sorted((one.name, one.is_symlink()) for one in found if one.name.endswith(".log"))


def written_logs(path: Path) -> list[str]:
    return [name for name, link in logs(path) if not link]


def rows(first: int, last: int, size: int = 1000) -> list[tuple[bytes, bytes | None]]:
    return [(b"k%06d" % number, b"v" * size) for number in range(first, last + 1)]


def test_rows_are_written_to_no_log_however_often_the_memory_becomes_tables(
    tmp_path: Path,
) -> None:
    state = LEVELDB.open_state(str(tmp_path), buffer_bytes=1 << 16, create=True)
    assert written_logs(tmp_path) == []
    for first in range(0, 4000, 100):
        state.write(rows(first, first + 99))
        if first % 1000 == 0:
            state.sync()
        assert written_logs(tmp_path) == []
    assert any(file.suffix == ".ldb" for file in tmp_path.iterdir())
    assert len(list(state.scan(b"k", b"l"))) == 4000
    state.close()


def test_a_log_that_misses_the_links_is_an_ordinary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leveldb, "DIVERTED_LOGS", 0)
    state = LEVELDB.open_state(str(tmp_path), buffer_bytes=1 << 16, create=True)
    for first in range(0, 1000, 100):
        state.write(rows(first, first + 99))
    assert written_logs(tmp_path) != []
    monkeypatch.undo()
    state.sync()
    assert written_logs(tmp_path) == []
    state.write(rows(1000, 1099))
    state.close()
    again = LEVELDB.open_state(str(tmp_path), buffer_bytes=1 << 16)
    assert len(list(again.scan(b"k", b"l"))) == 1000, "as of the last sync"
    again.close()


def test_links_of_the_last_run_do_not_pile_up(tmp_path: Path) -> None:
    for run in range(4):
        state = LEVELDB.open_state(str(tmp_path), buffer_bytes=1 << 16, create=run == 0)
        for first in range(0, 500, 100):
            state.write(rows(first, first + 99))
            state.sync()
        state.close()
        assert len(logs(tmp_path)) <= 2 * leveldb.DIVERTED_LOGS
        assert {os.readlink(tmp_path / name) for name, _ in logs(tmp_path)} == {os.devnull}
    again = LEVELDB.open_state(str(tmp_path), buffer_bytes=1 << 16)
    assert len(list(again.scan(b"k", b"l"))) == 500
    again.close()


def test_a_copy_that_is_only_looked_into_gets_no_links(tmp_path: Path) -> None:
    """A hundred of them cost more than linking and opening the tables: see `open_copy`."""
    (tmp_path / "state").mkdir()
    state = LEVELDB.open_state(str(tmp_path / "state"), buffer_bytes=1 << 16, create=True)
    state.write(rows(0, 199))
    state.sync()
    link_tables(state.directory, str(tmp_path / "copy"))
    copy = LEVELDB.open_copy(str(tmp_path / "copy"))
    assert len(list(copy.scan(b"k", b"l"))) == 200
    assert not [name for name, link in logs(tmp_path / "copy") if link]
    copy.close()
    state.close()
