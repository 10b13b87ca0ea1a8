"""LevelDB row stores with faults in front of them (`storage.backend.Engine`).

LevelDB writes and syncs in one C call, so a fault stands before or behind that call. A sync that
fails may have written its rows or not: a coin decides. A torn write is made by the real one, of
which a part is taken back before the process ends: LevelDB's file is preallocated with zeros, so
what was not written reads as zeros.
"""

import os
from functools import partial
from random import Random

from jepsen_lite.member.faults import Faults, torn_range
from raftkv.histogram import Histogram
from raftkv.storage.backend import LogRows, RowBatch, StateBackend
from raftkv.storage.files import final_errors
from raftkv.storage.leveldb import LEVELDB, LevelEngine, LevelShelf
from raftkv.storage.preallocation import true_end
from raftkv.storage.segments import Segment, Segments


class FaultySegment:
    """A segment of the Raft log. path: of its directory."""

    def __init__(self, segment: Segment, path: str, faults: Faults) -> None:
        self._segment = segment
        self._path = path
        self._faults = faults
        self.get = segment.get
        self.scan = segment.scan
        self.batch = segment.batch
        self.size = segment.size
        self.close = segment.close

    def commit(self, batch: RowBatch) -> None:
        """As Segment.commit. DiskFailure: by a fault or in truth."""
        faults = self._faults
        with final_errors(f"writing {self._path}"):
            faults.need_room(self._path)
            if faults.tears():
                self._tear(batch)
            try:
                faults.before_sync(self._path)
            except OSError:
                if faults.coin():
                    self._segment.commit(batch)  # the page cache has it, whatever the disk has
                raise
        self._segment.commit(batch)

    def settle(self) -> None:
        """As Segment.settle."""
        self._segment.settle()

    def _tear(self, batch: RowBatch) -> None:
        path = self._newest_log()
        before = _written(path)
        self._segment.commit(batch)
        self._faults.tear(partial(_take_back, path, before, _written(path)))

    def _newest_log(self) -> str:
        names = sorted(name for name in os.listdir(self._path) if name.endswith(".log"))
        return f"{self._path}/{names[-1]}"


def _written(path: str) -> int:
    with open(path, "rb") as file:
        return true_end(file.read())


def _take_back(path: str, start: int, end: int, random: Random) -> None:
    """Unwrites a part of the bytes [start, end)."""
    first, last = torn_range(start, end, random)
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.pwrite(descriptor, bytes(last - first), first)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class FaultyShelf:
    """The segments of one log (`storage.segments.Shelf`)."""

    def __init__(self, shelf: LevelShelf, path: str, faults: Faults) -> None:
        self._shelf = shelf
        self._path = path
        self._faults = faults
        self.full_bytes = shelf.full_bytes
        self.buffered = shelf.buffered
        self.numbers = shelf.numbers
        self.written = shelf.written
        self.remove = shelf.remove

    def _faulty(self, number: int, segment: Segment) -> Segment:
        return FaultySegment(segment, f"{self._path}/{number:08d}", self._faults)

    def create(self, number: int) -> Segment:
        """As Shelf.create."""
        with final_errors(f"creating {self._path}/{number:08d}"):
            self._faults.need_room(self._path)
            self._faults.before_sync(self._path)
        return self._faulty(number, self._shelf.create(number))

    def open(self, number: int) -> Segment:
        """As Shelf.open."""
        return self._faulty(number, self._shelf.open(number))


class FaultyState:
    """A state machine's rows. Its writes stay in memory; what is asked is `sync`, and merging."""

    def __init__(self, state: StateBackend, faults: Faults) -> None:
        self._state = state
        self._faults = faults
        self.directory = state.directory
        self.get = state.get
        self.seek = state.seek
        self.scan = state.scan
        self.view = state.view
        self.write = state.write
        self.size = state.size
        self.stalling = state.stalling
        self.closed = False

    @property
    def write_seconds(self) -> Histogram:
        """As of the state in truth, which notes its calls there."""
        return self._state.write_seconds

    @write_seconds.setter
    def write_seconds(self, histogram: Histogram) -> None:
        self._state.write_seconds = histogram

    def compact(self, start: bytes, stop: bytes) -> None:
        """As Backend.compact."""
        self._before(f"merging in {self.directory}")
        self._state.compact(start, stop)

    def sync(self) -> None:
        """As Backend.sync."""
        self._before(f"writing {self.directory}")
        self._state.sync()

    def _before(self, doing: str) -> None:
        with final_errors(doing):
            self._faults.need_room(self.directory)
            self._faults.before_sync(self.directory)

    def close(self) -> None:
        """As StateBackend.close."""
        self.closed = True
        self._state.close()


class FaultyEngine:
    """Opens LevelDBs that fail when they are told to."""

    def __init__(self, faults: Faults, engine: LevelEngine = LEVELDB) -> None:
        self._faults = faults
        self._engine = engine

    def open_log(self, path: str, *, paranoid: bool = True) -> LogRows:
        """As Engine.open_log."""
        return Segments(FaultyShelf(LevelShelf(path, paranoid), path, self._faults))

    def log_tail(self, path: str, kept: str) -> list[bytes]:
        """As Engine.log_tail."""
        return self._engine.log_tail(path, kept)

    def open_state(self, path: str, *, buffer_bytes: int, create: bool = False) -> StateBackend:
        """As Engine.open_state."""
        state = self._engine.open_state(path, buffer_bytes=buffer_bytes, create=create)
        return FaultyState(state, self._faults)
