"""Both row stores in memory, and a member's whole directory on a `MemoryDisk`.

The simulator gives one `MemoryDisk` to each member and opens its directory on it with the same
code that runs on the real disk (`recovery`, `raftlog`); only the system calls and LevelDB are
replaced, by `memory_disk` and by this module.
"""

from collections.abc import Iterator
from random import Random

from raftkv.errors import CorruptionError, DiskFailure
from raftkv.histogram import Histogram
from raftkv.storage.backend import WRITE_SECONDS, LogRows, Row, RowBatch, StateBackend, View
from raftkv.storage.files import final_errors
from raftkv.storage.memory_disk import MemoryDisk, SortedRows, StoreDirectory
from raftkv.storage.recovery import DataDirectory
from raftkv.storage.segments import Segment, Segments

__all__ = ["MemoryBackend", "MemoryDataDirectory", "MemoryDisk", "MemoryEngine"]


class MemoryDataDirectory:
    """Opens the data directory of a simulated member."""

    @staticmethod
    def open(disk: MemoryDisk, cluster: int, member: int, *, incarnation: int) -> DataDirectory:
        """As `DataDirectory.open`, on the member's own disk.

        incarnation: of a directory that is made now; never 0. Raises as `DataDirectory.open`.
        """
        return DataDirectory.open(
            "member",
            cluster,
            member,
            fs=disk,
            engine=MemoryEngine(disk),
            incarnation=incarnation,
        )


class MemoryEngine:
    """Opens row stores on a disk in memory."""

    def __init__(self, disk: MemoryDisk) -> None:
        self._disk = disk

    def open_log(self, path: str, *, paranoid: bool = True) -> LogRows:
        return Segments(MemoryShelf(self._disk, path, paranoid))

    def log_tail(self, path: str, kept: str) -> list[bytes]:
        return []

    def open_state(self, path: str, *, buffer_bytes: int, create: bool = False) -> StateBackend:
        return MemoryBackend(self._disk, path, self._disk.store(path, create))


class _MemoryBatch:
    """Collects rows in the form that `SortedRows.apply` takes."""

    __slots__ = ("rows",)

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def put(self, key: bytes, value: bytes) -> None:
        self.rows.append((key, value))

    def delete(self, key: bytes) -> None:
        self.rows.append((key, None))


class MemorySegment:
    """A segment of a log of which every commit is durable."""

    def __init__(self, disk: MemoryDisk, node: StoreDirectory) -> None:
        assert node.rows is not None
        self._disk, self._node, self._rows = disk, node, node.rows
        self._boot = disk.boot

    def get(self, key: bytes) -> bytes | None:
        return self._rows.rows.get(key)

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        return self._rows.scan(start, stop, False)

    def batch(self) -> RowBatch:
        return _MemoryBatch()

    def commit(self, batch: RowBatch) -> None:
        assert isinstance(batch, _MemoryBatch)
        _changing(self._disk, self._boot, "commit log")
        self._rows.apply(batch.rows)
        self._node.stored.rows, self._node.stored.keys = self._rows.rows, self._rows.keys
        self._node.damaged = False

    def settle(self) -> None:
        return

    def size(self) -> int:
        return sum(map(len, self._rows.rows.values()))

    def close(self) -> None:
        return


class MemoryShelf:
    """The segments of one log. Small ones, so that short runs meet many."""

    full_bytes = 4096
    buffered = 2

    def __init__(self, disk: MemoryDisk, path: str, paranoid: bool) -> None:
        self._disk, self._path, self._paranoid = disk, path, paranoid
        self._boot = disk.boot

    def _of(self, number: int) -> str:
        return f"{self._path}/{number:08d}"

    def numbers(self) -> list[int]:
        return sorted(map(int, self._disk.names(self._path)))

    def written(self, number: int) -> bool:
        rows = self._disk.directory(self._of(number)).rows
        return rows is not None and bool(rows.rows)

    def create(self, number: int) -> Segment:
        path = self._of(number)
        _changing(self._disk, self._boot, f"create {path}")
        with final_errors(f"creating {path}"):
            self._disk.make_directory(path)
            node = self._disk.store(path, True)
            self._disk.sync_directory(self._path)
        return MemorySegment(self._disk, node)

    def open(self, number: int) -> Segment:
        path = self._of(number)
        node = self._disk.store(path, False)
        if node.damaged and self._paranoid:
            raise CorruptionError(f"{path} cannot be opened: its last batch is torn")
        return MemorySegment(self._disk, node)

    def remove(self, number: int) -> None:
        path = self._of(number)
        _changing(self._disk, self._boot, f"remove {path}")
        with final_errors(f"removing {path}"):
            self._disk.remove_tree(path)


def _changing(disk: MemoryDisk, boot: int, what: str) -> None:
    """What a row store does before a change. Stores of before a crash change nothing."""
    if boot != disk.boot:
        raise DiskFailure(f"{what} failed: the disk lost power since it was opened")
    try:
        disk.changing(what)
    except OSError as error:
        raise DiskFailure(f"{what} failed: {error}") from error


class MemoryView:
    """A picture of the rows."""

    def __init__(self, rows: SortedRows) -> None:
        self._rows = rows

    def get(self, key: bytes) -> bytes | None:
        return self._rows.rows.get(key)

    def seek(self, key: bytes) -> tuple[bytes, bytes] | None:
        return self._rows.seek(key)

    def scan(
        self, start: bytes, stop: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        return self._rows.scan(start, stop, reverse)

    def close(self) -> None:
        self._rows = SortedRows({}, [])


class MemoryBackend:
    """State rows, durable as of the last `sync`."""

    def __init__(self, disk: MemoryDisk, path: str, node: StoreDirectory) -> None:
        assert node.rows is not None
        self.directory = path
        self.closed = False
        self.write_seconds = Histogram(WRITE_SECONDS)  # nobody waits for memory: stays empty
        self._disk, self._node, self._rows = disk, node, node.rows
        self._boot = disk.boot

    @staticmethod
    def alone() -> "MemoryBackend":
        """A backend on a disk of its own, for whoever needs rows and no directory."""
        disk = MemoryDisk()
        disk.make_directory("state")
        disk.sync_directory("")
        backend = MemoryEngine(disk).open_state("state", buffer_bytes=0, create=True)
        assert isinstance(backend, MemoryBackend)
        return backend

    def crash(self, random: Random | None = None) -> None:
        """A power cut: back to the last `sync`, or with `random` to some later write."""
        self._disk.crash(random)
        self._node = self._disk.directory(self.directory)
        assert self._node.rows is not None
        self._rows = self._node.rows
        self._boot = self._disk.boot

    def get(self, key: bytes) -> bytes | None:
        return self._rows.rows.get(key)

    def seek(self, key: bytes) -> tuple[bytes, bytes] | None:
        return self._rows.seek(key)

    def scan(
        self, start: bytes, stop: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        return self._rows.picture().scan(start, stop, reverse)

    def write(self, rows: list[Row]) -> None:
        _changing(self._disk, self._boot, "write state")
        self._rows.apply(rows)
        self._node.journal.append(list(rows))

    def view(self) -> View:
        return MemoryView(self._rows.picture())

    def compact(self, start: bytes, stop: bytes) -> None:
        _changing(self._disk, self._boot, "compact state")

    def sync(self) -> None:
        _changing(self._disk, self._boot, "sync state")
        for rows in self._node.journal:
            self._node.stored.apply(rows)
        self._node.journal.clear()

    def size(self) -> int:
        return sum(len(key) + len(value) for key, value in self._rows.rows.items())

    def stalling(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True
