"""Both row stores over LevelDB: the only module that imports plyvel.

LevelDB alone does not notice everything: without `paranoid_checks` it skips damaged blocks of
its write-ahead log, and even with it a zeroed page at a record's boundary or a damaged length
ends the replay silently. So the log is opened paranoid and checks its records itself
(`records`), and of a state only the tables are trusted, whose blocks carry checksums that every
read verifies.

plyvel releases the interpreter lock in every call and does not lock against `close`: whoever
closes has joined the other threads before. Iterators and snapshots go first, then the DB.
"""

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from errno import EMFILE, ENFILE, ENOSPC
from typing import Any, Final
from weakref import WeakSet

import plyvel

from raftkv.errors import CorruptionError, DirectoryLocked, DiskFailure, StorageError
from raftkv.histogram import Histogram
from raftkv.storage.backend import WRITE_SECONDS, LogRows, Row, RowBatch, StateBackend, View
from raftkv.storage.files import REAL, final_errors
from raftkv.storage.preallocation import allocate, trim
from raftkv.storage.segments import Segment, Segments

# A full buffer is written once more, as a table. A segment of the log should be removed before:
# its buffer is larger than what is written to it, unless one write alone is that large.
LOG_BUFFER_BYTES: Final = 64 * 1024 * 1024
SEGMENT_BYTES: Final = 16 * 1024 * 1024
SEGMENTS_BUFFERED: Final = 4
LOG_CACHE_BYTES: Final = 1024 * 1024
STATE_CACHE_BYTES: Final = 64 * 1024 * 1024
COPY_BUFFER_BYTES: Final = 1024 * 1024
OPEN_FILES: Final = 200  # per LevelDB
STALL_LEVEL0_FILES: Final = 6  # LevelDB itself slows writes down at 8 and stops them at 12
SYNC_ATTEMPTS: Final = 100
DIVERTED_LOGS: Final = 100  # numbers ahead; a large compaction uses dozens for its tables
_NUMBER: Final = re.compile(r"\d+")
TAIL_SEGMENTS: Final = 3  # the one that ends with the last write, one torn, one not begun
_TABLES: Final = (".ldb", ".sst")
_OUT_OF_RESOURCES: Final = tuple(os.strerror(code) for code in (EMFILE, ENFILE, ENOSPC))


def _read_error(path: str, error: plyvel.Error) -> StorageError:
    if isinstance(error, plyvel.CorruptionError):
        return CorruptionError(f"{path}: LevelDB reports: {_text(error)}")
    return DiskFailure(f"reading {path} failed: {_text(error)}")


def _write_error(path: str, error: plyvel.Error) -> DiskFailure:
    return DiskFailure(f"writing {path} failed: {_text(error)}")


def _text(error: BaseException) -> str:
    return ", ".join(
        part.decode("utf-8", "replace") if isinstance(part, bytes) else str(part)
        for part in error.args
    )


def _open(path: str, create: bool, **options: Any) -> Any:
    try:
        db = plyvel.DB(
            path,
            create_if_missing=create,
            error_if_exists=create,
            max_open_files=OPEN_FILES,
            **options,
        )
    except plyvel.Error as error:
        raise _opening_error(path, error) from error
    return db


def _opening_error(path: str, error: plyvel.Error) -> StorageError:
    text = _text(error)
    if "/LOCK" in text:
        return DirectoryLocked(f"{path} is in use: {text}")
    if isinstance(error, plyvel.IOError) and any(words in text for words in _OUT_OF_RESOURCES):
        return DiskFailure(f"opening {path} failed: {text}")
    return CorruptionError(f"{path} cannot be opened, LevelDB reports: {text}")


def _get(source: Any, key: bytes, path: str) -> bytes | None:
    try:
        value: bytes | None = source.get(key, verify_checksums=True)
    except plyvel.Error as error:
        raise _read_error(path, error) from error
    return value


def _scan(
    source: Any, start: bytes, stop: bytes, reverse: bool, path: str
) -> Iterator[tuple[bytes, bytes]]:
    """Rows of [start, stop) as they are now.

    Over a raw iterator, because plyvel's other one takes an error at the very end of its range
    (a damaged last block) for the end itself, and is no faster.
    """
    if start >= stop:
        return iter(())
    try:
        rows = source.raw_iterator(verify_checksums=True)
        rows.seek(stop if reverse else start)
        if reverse:
            if rows.valid():
                rows.prev()
            else:
                rows.seek_to_last()
    except plyvel.Error as error:
        raise _read_error(path, error) from error
    return _descend(rows, start, path) if reverse else _ascend(rows, stop, path)


def _ascend(rows: Any, stop: bytes, path: str) -> Iterator[tuple[bytes, bytes]]:
    valid, item, step = rows.valid, rows.item, rows.next
    try:
        while valid():
            row = item()
            if row[0] >= stop:
                return
            yield row
            step()
    except plyvel.Error as error:
        raise _read_error(path, error) from error
    finally:
        rows.close()


def _descend(rows: Any, start: bytes, path: str) -> Iterator[tuple[bytes, bytes]]:
    valid, item, step = rows.valid, rows.item, rows.prev
    try:
        while valid():
            row = item()
            if row[0] < start:
                return
            yield row
            step()
    except plyvel.Error as error:
        raise _read_error(path, error) from error
    finally:
        rows.close()


def _sought(iterator: Any, key: bytes, path: str) -> tuple[bytes, bytes] | None:
    try:
        iterator.seek(key)
        row: tuple[bytes, bytes] | None = iterator.item() if iterator.valid() else None
    except plyvel.Error as error:
        raise _read_error(path, error) from error
    return row


def _size(path: str) -> int:
    total = 0
    with os.scandir(path) as found:
        for file in found:
            try:
                total += file.stat().st_size
            except FileNotFoundError:
                continue  # a compaction finished in between
    return total


class LevelSegment:
    """A segment of a Raft log, every commit synced."""

    def __init__(self, path: str, create: bool, paranoid: bool) -> None:
        self._path = path
        self._db = _open(
            path,
            create,
            paranoid_checks=paranoid,
            write_buffer_size=LOG_BUFFER_BYTES,
            lru_cache_size=LOG_CACHE_BYTES,
            compression=None,
        )

    def get(self, key: bytes) -> bytes | None:
        return _get(self._db, key, self._path)

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        return _scan(self._db, start, stop, False, self._path)

    def batch(self) -> RowBatch:
        batch: RowBatch = self._db.write_batch(sync=True)
        return batch

    def commit(self, batch: RowBatch) -> None:
        try:
            batch.write()  # type: ignore[attr-defined]
        except plyvel.Error as error:
            raise _write_error(self._path, error) from error

    def settle(self) -> None:
        self._db.compact_range(start=b"\xff\xff", stop=b"\xff\xff")

    def size(self) -> int:
        return _size(self._path)

    def close(self) -> None:
        self._db.close()


class LevelShelf:
    """The segments of one log, a LevelDB each, in directories named by their numbers."""

    full_bytes = SEGMENT_BYTES
    buffered = SEGMENTS_BUFFERED

    def __init__(self, path: str, paranoid: bool) -> None:
        self._path = path
        self._paranoid = paranoid

    def _of(self, number: int) -> str:
        return f"{self._path}/{number:08d}"

    def numbers(self) -> list[int]:
        return segment_numbers(self._path)

    def written(self, number: int) -> bool:
        with os.scandir(self._of(number)) as found:
            return any(
                file.name.endswith(_TABLES)
                or (file.name.endswith(".log") and file.stat().st_size > 0)
                for file in found
            )

    def create(self, number: int) -> Segment:
        path = self._of(number)
        with final_errors(f"creating {path}"):
            REAL.make_directory(path)
        segment = LevelSegment(path, True, self._paranoid)
        try:
            with final_errors(f"creating {path}"):
                for log in _logs(path):
                    allocate(log, self.full_bytes + self.full_bytes // 8)
                REAL.sync_directory(path)
                REAL.sync_directory(self._path)
        except BaseException:
            segment.close()
            raise
        return segment

    def open(self, number: int) -> Segment:
        path = self._of(number)
        segment = LevelSegment(path, False, self._paranoid)
        try:
            with final_errors(f"syncing {path}"):
                REAL.sync_directory(path)  # LevelDB renamed CURRENT and does not sync that
        except BaseException:
            segment.close()
            raise
        return segment

    def remove(self, number: int) -> None:
        with final_errors(f"removing {self._of(number)}"):
            REAL.remove_tree(self._of(number))


def _logs(directory: str) -> list[str]:
    """The write-ahead logs of a LevelDB, oldest first."""
    names = sorted(name for name in os.listdir(directory) if name.endswith(".log"))
    return [f"{directory}/{name}" for name in names]


def _keep(path: str, name: str) -> None:
    """Makes the content of a file outlive its removal: under a second name, or copied."""
    with suppress(FileExistsError):
        try:
            os.link(path, name)
        except PermissionError:  # a file system without links
            shutil.copyfile(path, name)


def segment_numbers(path: str) -> list[int]:
    """The segments below `path`, ascending. CorruptionError if they cannot be told."""
    try:
        names = os.listdir(path)
    except OSError as error:
        raise CorruptionError(f"{path} cannot be read: {error}") from error
    strange = [name for name in names if not name.isdigit()]
    if strange:
        raise CorruptionError(f"{path} holds {min(strange)}, which is no segment of a log")
    return sorted(map(int, names))


class LevelView:
    """A LevelDB snapshot. One raw iterator serves all its seeks."""

    def __init__(self, db: Any, path: str) -> None:
        self._path = path
        self._snapshot = db.snapshot()
        self._seeker: Any = None

    def get(self, key: bytes) -> bytes | None:
        return _get(self._snapshot, key, self._path)

    def seek(self, key: bytes) -> tuple[bytes, bytes] | None:
        if self._seeker is None:
            self._seeker = self._snapshot.raw_iterator(verify_checksums=True)
        return _sought(self._seeker, key, self._path)

    def scan(
        self, start: bytes, stop: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        return _scan(self._snapshot, start, stop, reverse, self._path)

    def close(self) -> None:
        if self._seeker is not None:
            self._seeker.close()
            self._seeker = None
        self._snapshot.close()


class LevelBackend:
    """The state machine's rows. Writes are not synced; `sync` makes them tables."""

    def __init__(self, path: str, create: bool, buffer_bytes: int, *, written: bool = True) -> None:
        self.directory = path
        self.closed = False
        self.write_seconds = Histogram(WRITE_SECONDS)
        self._db = _open(
            path,
            create,
            paranoid_checks=True,
            write_buffer_size=buffer_bytes,
            lru_cache_size=STATE_CACHE_BYTES,
            bloom_filter_bits=10,
            # Compressing takes more than half of the time of writing a table, on the cores that
            # also serve clients; like etcd, disk space is spent instead.
            compression=None,
        )
        self._views: WeakSet[LevelView] = WeakSet()
        try:
            if written:
                self.sync()  # begins a write-ahead log that leads nowhere
        except BaseException:
            self._db.close()
            raise

    def get(self, key: bytes) -> bytes | None:
        return _get(self._db, key, self.directory)

    def seek(self, key: bytes) -> tuple[bytes, bytes] | None:
        iterator = self._db.raw_iterator(verify_checksums=True)
        try:
            return _sought(iterator, key, self.directory)
        finally:
            iterator.close()

    def scan(
        self, start: bytes, stop: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        return _scan(self._db, start, stop, reverse, self.directory)

    def write(self, rows: list[Row]) -> None:
        began = time.perf_counter()
        batch = self._db.write_batch()
        put, delete = batch.put, batch.delete
        for key, value in rows:
            if value is None:
                delete(key)
            else:
                put(key, value)
        self._commit(batch)
        self.write_seconds.note(time.perf_counter() - began)

    def view(self) -> View:
        view = LevelView(self._db, self.directory)
        self._views.add(view)
        return view

    def compact(self, start: bytes, stop: bytes) -> None:
        self._db.compact_range(start=start, stop=stop)
        self._check_background()

    def sync(self) -> None:
        # LevelDB drops the order to write its memory out, without a word, if it meets a write that
        # is being slowed down for too many tables. But after every table that it makes of its
        # memory it removes that memory's write-ahead log. Where it may be slow, the first such
        # table can be one that was on its way before.
        wanted = 2 if self.stalling() else 1
        for _ in range(SYNC_ATTEMPTS):
            oldest = self._oldest_log()
            self._divert()
            # A range behind every row: nothing to merge, but the memtable becomes a synced table.
            self._db.compact_range(start=b"\xff\xff", stop=b"\xff\xff")
            self._check_background()
            if self._oldest_log() != oldest:
                wanted -= 1
                if wanted == 0:
                    return
        raise DiskFailure(f"{self.directory}: LevelDB does not write its memory out")

    def _oldest_log(self) -> int:
        """The number of the first write-ahead log that LevelDB has not done with."""
        with final_errors(f"reading {self.directory}"):
            names = [name for name in os.listdir(self.directory) if name.endswith(".log")]
        return min((int(name[:-4]) for name in names), default=0)

    def _divert(self) -> None:
        """Leads the next write-ahead logs to nowhere: nobody ever reads one (`open_state`).

        LevelDB cannot be told to do without. Whenever it makes a table of its memory it begins
        a log under the next free number, and it follows a link that is already there. So the
        event loop never writes to a file, which can take long while others sync. If the number
        is missed, that log is a real file: slower, nothing else.
        """
        with final_errors(f"linking in {self.directory}"):
            with os.scandir(self.directory) as found:
                files = [(file.name, file.is_symlink()) for file in found]
            links = {name for name, link in files if link}
            matches = [_NUMBER.search(name) for name, link in files if not link]
            newest = max(int(match[0]) for match in matches if match)
            for number in range(newest + 1, newest + 1 + DIVERTED_LOGS):
                name = f"{number:06d}.log"
                if name not in links:
                    with suppress(FileExistsError):  # LevelDB was faster
                        os.symlink(os.devnull, f"{self.directory}/{name}")

    def _check_background(self) -> None:
        """compact_range returns nothing: an error of the background work shows at a write."""
        self._commit(self._db.write_batch())

    def _commit(self, batch: Any) -> None:
        try:
            batch.write()
        except plyvel.Error as error:
            raise _write_error(self.directory, error) from error

    def size(self) -> int:
        return _size(self.directory)

    def stalling(self) -> bool:
        files = self._db.get_property(b"leveldb.num-files-at-level0")
        return files is not None and int(files) >= STALL_LEVEL0_FILES

    def close(self) -> None:
        self.closed = True
        for view in list(self._views):
            view.close()
        self._db.close()


class LevelEngine:
    """Opens LevelDBs on the real file system."""

    def open_log(self, path: str, *, paranoid: bool = True) -> LogRows:
        return Segments(LevelShelf(path, paranoid))

    def log_tail(self, path: str, kept: str) -> list[bytes]:
        with final_errors(f"keeping the end of {path}"):
            os.makedirs(kept, mode=0o700, exist_ok=True)
            for number in segment_numbers(path)[-TAIL_SEGMENTS:]:
                for log in _logs(f"{path}/{number:08d}"):
                    trim(log)
                    _keep(log, f"{kept}/{number:08d}-{os.path.basename(log)}")
            REAL.sync_directory(kept)
            REAL.sync_directory(os.path.dirname(kept))
        contents = [REAL.read(f"{kept}/{name}") for name in REAL.names(kept)]
        return [raw for raw in contents if raw]

    def open_state(self, path: str, *, buffer_bytes: int, create: bool = False) -> StateBackend:
        # After a power cut this unsynced write-ahead log can have holes below its end, and rows
        # behind a hole; without it LevelDB opens exactly at its last flush.
        for name in os.listdir(path):
            if name.endswith(".log"):
                os.unlink(f"{path}/{name}")
        return LevelBackend(path, create, buffer_bytes)

    def open_copy(self, path: str) -> StateBackend:
        """A copy of a state's tables (`tables.link_tables`), to be read and closed again.

        path: its directory. Without the links of a state that is written to (`_divert`): making
        them would cost several times as much as all the rest of a copy. Raises like `open_state`.
        """
        return LevelBackend(path, False, COPY_BUFFER_BYTES, written=False)


LEVELDB: Final = LevelEngine()
