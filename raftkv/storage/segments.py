"""The rows of a Raft log in segments: what is old goes by removing files, not row by row.

A segment is a row store of its own, numbered in the order of their making. All writes go to the
newest; once that is full, the next write begins another, which was made in advance. So dropping
the log's front costs no deletion at all, and a segment goes before its store ever has to write
its buffer a second time, as a table.

    row s of a segment  ->  the first record key that this segment may hold

It is part of the write that begins the segment. A record belongs to the newest segment whose
first key is not behind it: beginning a segment at an older record hides everything from there
on, which is how ONE atomic write replaces a conflicting suffix that lies in several segments,
or a whole log. What is hidden, and what lies wholly before the log's anchor, is retired: nobody
reads it any more, and `tend` removes it.

At opening, a segment without a row was made but never written, or its first write was torn: it
takes no part. Whether anything that was durable is missing is judged from the chain of records
(`records`), the raw files (`torntail`) and the mark, never from the segments themselves.
"""

import threading
from collections import deque
from collections.abc import Iterator
from typing import Final, Protocol

from raftkv.errors import CorruptionError
from raftkv.storage.backend import RowBatch

START_KEY: Final = b"s"
_RECORDS: Final = b"r"  # the first byte of every record's key; other rows sort around it


class Segment(Protocol):
    """One row store. Raises CorruptionError on reads, DiskFailure on writes."""

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, None if absent."""

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Rows with start <= key < stop, ascending."""

    def batch(self) -> RowBatch:
        """An empty set of changes."""

    def commit(self, batch: RowBatch) -> None:
        """Makes all changes of `batch`, or none; durable when it returns. One long call."""

    def settle(self) -> None:
        """Moves what is held in memory into files. One long call."""

    def size(self) -> int:
        """Bytes on disk, approximately."""

    def close(self) -> None:
        """Ends all use. No other call may be under way."""


class Shelf(Protocol):
    """Where the segments of one log stand.

    full_bytes: written bytes after which a segment should not grow. buffered: how many of the
    newest segments may keep their rows in memory.
    """

    full_bytes: int
    buffered: int

    def numbers(self) -> list[int]:
        """Segments that are there, ascending. CorruptionError."""

    def written(self, number: int) -> bool:
        """False if nothing was ever written to this segment, or its making was cut short."""

    def create(self, number: int) -> Segment:
        """An empty segment, there to stay when it returns. DiskFailure."""

    def open(self, number: int) -> Segment:
        """A segment that was written to. CorruptionError, DiskFailure."""

    def remove(self, number: int) -> None:
        """Removes a closed segment. DiskFailure."""


class _Part:
    """A segment in its place. start: its first key. bytes: written to it, approximately."""

    __slots__ = ("bytes", "number", "rows", "settled", "start")

    def __init__(self, number: int, rows: Segment | None) -> None:
        self.number = number
        self.rows = rows
        self.start = b""
        self.bytes = 0
        self.settled = False


class Segments:
    """The rows of one log; see the module's docstring and `backend.LogRows`.

    One thread calls `batch`, `begin` and reads; one commits; one calls `drop` and `tend`.
    """

    def __init__(self, shelf: Shelf) -> None:
        """Opens every segment on the shelf. Raises CorruptionError, DiskFailure."""
        self.reading = threading.Lock()
        self._shelf = shelf
        self._guard = threading.Lock()  # the fields below; held for microseconds
        self._parts: tuple[_Part, ...] = ()  # by number, and so by start
        self._begun: deque[_Part] = deque()  # whose first write is not committed
        self._spare: _Part | None = None
        self._retired: list[_Part] = []
        self._next_number = 1
        try:
            for number in shelf.numbers():
                self._next_number = number + 1
                self._open(number)
        except BaseException:
            self.close()
            raise

    def _open(self, number: int) -> None:
        if not self._shelf.written(number):
            self._retired.append(_Part(number, None))
            return
        rows = self._shelf.open(number)
        part = _Part(number, rows)
        self._retired.append(part)  # until it has shown its first row
        start = rows.get(START_KEY)
        if start is None:
            if next(rows.scan(b"", b"\xff"), None) is not None:
                raise CorruptionError(f"segment {number} of the log has lost its first row")
            return
        self._retired.pop()
        part.start = start
        part.bytes = rows.size()
        self._show(part)

    def _show(self, part: _Part) -> None:
        """The newest segment, and what it hides."""
        kept = [one for one in self._parts if one.start < part.start]
        self._retired += [one for one in self._parts if one.start >= part.start]
        self._parts = (*kept, part)

    # --- writing --------------------------------------------------------------

    @property
    def full(self) -> bool:
        """True if the next write should begin a segment: the newest is full and one is ready."""
        newest = self._newest()
        return self._spare is not None and newest.bytes >= self._shelf.full_bytes

    @property
    def start(self) -> bytes:
        """The first record key that the newest segment may hold; empty before the first one."""
        return self._parts[-1].start if self._parts else b""

    def _newest(self) -> _Part:
        return self._begun[-1] if self._begun else self._parts[-1]

    def batch(self) -> RowBatch:
        """An empty set of changes of the newest segment."""
        rows = self._newest().rows
        assert rows is not None
        return rows.batch()

    def begin(self) -> RowBatch:
        """An empty set of changes that begin a segment; commit it with its first key.

        Takes the spare segment; makes one on the spot if there is none.
        """
        with self._guard:
            part, self._spare = self._spare, None
        if part is None:
            part = self._create()
        assert part.rows is not None
        self._begun.append(part)
        return part.rows.batch()

    def commit(self, batch: RowBatch, written_bytes: int, start: bytes | None) -> None:
        """Makes all changes of `batch`, or none; durable when it returns. One long call.

        written_bytes: about its size. start: of a batch of `begin`: the segment's first key; the
        row that says so is put here. Raises DiskFailure.
        """
        part = self._parts[-1] if start is None else self._begun[0]
        assert part.rows is not None
        if start is not None:
            batch.put(START_KEY, start)
            part.start = start
        part.rows.commit(batch)
        part.bytes += written_bytes
        if start is not None:
            with self._guard:
                self._show(part)
                self._begun.popleft()

    # --- reading --------------------------------------------------------------

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`: of a record from where it belongs, of another row the newest."""
        record = key[:1] == _RECORDS
        for part in reversed(self._parts):
            assert part.rows is not None
            if record and key < part.start:
                continue
            value = part.rows.get(key)
            if record or value is not None:
                return value
        return None

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Records with start <= key < stop, ascending. Hold `reading` until it is read."""
        parts = self._parts
        ends = [part.start for part in parts[1:]] + [stop]
        for part, end in zip(parts, ends, strict=False):
            assert part.rows is not None
            low, high = max(start, part.start), min(stop, end)
            if low < high:
                yield from part.rows.scan(low, high)

    def size(self) -> int:
        """Bytes on disk, approximately."""
        return sum(part.rows.size() for part in self._parts if part.rows is not None)

    # --- housekeeping -----------------------------------------------------------

    def drop(self, before: bytes) -> None:
        """Retires the segments that hold only records before this key."""
        with self._guard:
            parts = self._parts
            first = 0
            while first + 1 < len(parts) and parts[first + 1].start <= before:
                first += 1
            self._retired += parts[:first]
            self._parts = parts[first:]

    @property
    def untended(self) -> bool:
        """True if `tend` has something to do that should not wait."""
        return self._spare is None or bool(self._retired)

    def tend(self) -> None:
        """Removes what is retired, makes a spare segment, moves old buffers into files.

        May take long; call it beside reads and writes. Raises DiskFailure.
        """
        with self._guard:
            retired, self._retired = self._retired, []
        with self.reading:
            pass  # who was reading from them has finished
        for part in retired:
            if part.rows is not None:
                part.rows.close()
            self._shelf.remove(part.number)
        if self._spare is None:
            self._spare = self._create()
        for part in self._parts[: -self._shelf.buffered]:
            if not part.settled and part.rows is not None:
                part.rows.settle()
                part.settled = True

    def _create(self) -> _Part:
        with self._guard:
            number = self._next_number
            self._next_number = number + 1
        return _Part(number, self._shelf.create(number))

    def close(self) -> None:
        """Ends all use. No other call may be under way."""
        spare = () if self._spare is None else (self._spare,)
        for part in (*self._parts, *self._begun, *self._retired, *spare):
            if part.rows is not None:
                part.rows.close()
