"""Whether the beginning of a write is one that was only cut short.

Everything in front of a cut is as it was written. So the rows there are whole, carry their
checksums and the number of their disk batch, and stop in the middle of one, or fewer are there
than the write's head counts. What ends a write can be told beforehand: its end row says where
the log ends behind the rows in front of it, and the row that begins a segment names the first
record. A cut inside such a row leaves exactly the beginning of what is told; a row that rotted
does not, although its last bytes may be zeros by themselves, which nobody can see missing.

The rows of a write (`records`, `segments`), in LevelDB's format (`waltail`):

    (a | r | delete of r)*  e   any number of times; the last of a segment's first write is s
"""

from typing import Final, NamedTuple
from zlib import crc32

from raftkv.storage.records import (
    CRC,
    END_KEY,
    END_VALUE_BYTES,
    HEAD,
    KEY,
    PAYLOAD_AT,
    RECORD,
    Anchor,
    End,
    LogScan,
    decode_anchor,
    decode_end,
    encode_end,
    generation_seed,
    term_at,
)
from raftkv.storage.segments import START_KEY
from raftkv.storage.waltail import varint

_COUNT_AT: Final = 8  # behind the sequence number
_ROWS_AT: Final = 12
_DELETE: Final = 0
_PUT: Final = 1
_END_ROW: Final = bytes((_PUT, 1)) + END_KEY + bytes((END_VALUE_BYTES,))
_START_ROW: Final = bytes((_PUT, 1)) + START_KEY + bytes((KEY.size,))
_END_ROW_BYTES: Final = len(_END_ROW) + END_VALUE_BYTES


class _Row(NamedTuple):
    """A row. value: offset of its value. end: behind the row, or 0 if that is behind the cut."""

    tag: int
    key: bytes
    value: int
    end: int


class _Malformed(Exception):
    """Bytes that no write of this log has there."""


class CutWrite:
    """The rows of the write behind a log, up to where it is cut, if it is.

    scan: of the log, whose newest disk batch is the one before this write.
    """

    def __init__(self, payload: bytes, seed: int, scan: LogScan) -> None:
        """payload: the bytes in front of the cut, without fragment heads."""
        self._payload = payload
        self._seed = seed
        self._scan = scan
        self._number = scan.end.number + 1
        self._count = self._rows = 0
        self._ended = False
        # What the last rows say, were they to come next.
        self._generation = scan.anchor.generation
        self._term, self._index = scan.last_term, scan.last_index
        self._start = scan.last_index + 1
        self._terms: dict[int, int] = {}  # of the entries in this write

    def whole(self) -> bool:
        """Whether all rows are there, and right, and an end row is among them."""
        try:
            there = self._walk(None) == len(self._payload) and self._rows == self._count
            return there and self._ended
        except _Malformed:
            return False

    def may_be_cut(self, size: int | None) -> bool:
        """Whether the bytes are as they were written, and more of them were to come.

        size: of the whole payload as its last fragment's head says; None: that is not there.
        """
        if len(self._payload) < _ROWS_AT:
            return True
        try:
            at = self._walk(size)
        except _Malformed:
            return False
        return at < len(self._payload) or self._rows < self._count

    def _walk(self, size: int | None) -> int:
        """Reads whole rows; returns the offset of the first that is not there, or not whole."""
        payload = self._payload
        self._count = int.from_bytes(payload[_COUNT_AT:_ROWS_AT], "little")
        self._rows, at = 0, _ROWS_AT
        while at < len(payload):
            if self._rows == self._count:
                raise _Malformed
            row = self._row(at)
            if not row.end or row.end > len(payload):
                self._check_cut(at, row, size)
                return at
            self._check_whole(row)
            self._rows += 1
            at = row.end
        return at

    def _row(self, at: int) -> _Row:
        payload = self._payload
        tag, key_at = payload[at], at + 2
        if tag > _PUT:
            raise _Malformed
        if key_at > len(payload):
            return _Row(tag, b"", 0, 0)
        size = payload[at + 1]
        key = payload[key_at : key_at + size]
        kinds = {1: b"aes" if tag == _PUT else b"", KEY.size: b"r"}
        if size not in kinds or (key and key[0] not in kinds[size]):
            raise _Malformed
        if len(key) < size:
            return _Row(tag, key, 0, 0)
        value = key_at + size
        if tag == _DELETE:
            return _Row(tag, key, value, value)
        value, length = varint(payload, value)
        if value >= len(payload):
            return _Row(tag, key, 0, 0)
        return _Row(tag, key, value, value + length)

    def _check_whole(self, row: _Row) -> None:
        value = self._payload[row.value : row.end]
        kind = row.key[:1]
        if kind == b"r":
            self._check_record(row, value)
        elif kind == END_KEY:
            end = decode_end(value, self._seed)
            if end is None or end.number != self._number:
                raise _Malformed
            self._ended = True
        elif kind == START_KEY:
            if len(value) != KEY.size or self._rows + 1 != self._count:
                raise _Malformed
        else:
            anchor = decode_anchor(value, self._seed)
            if anchor is None:
                raise _Malformed
            self._follow(anchor)

    def _follow(self, anchor: Anchor) -> None:
        if anchor.generation != self._generation:  # the log is another one from here on
            self._generation = anchor.generation
            self._term, self._index = anchor.term, anchor.index
            self._start = anchor.index + 1

    def _check_record(self, row: _Row, value: bytes) -> None:
        _, generation, index = KEY.unpack(row.key)
        if row.tag == _DELETE:
            if index <= self._index:
                self._term, self._index = self._term_of(index - 1), index - 1
                self._start = min(self._start, index)
            return
        seed = generation_seed(self._seed, generation)
        if len(value) < PAYLOAD_AT or CRC.pack(crc32(value[CRC.size :], seed)) != value[: CRC.size]:
            raise _Malformed
        _, number, at, term, _ = HEAD.unpack_from(value, CRC.size)
        if (generation, number, at) != (self._generation, self._number, index):
            raise _Malformed
        self._terms[index] = self._term = term
        self._index = index

    def _term_of(self, index: int) -> int:
        """The term of an entry of this write or of the log before it."""
        term = self._terms.get(index)
        return term_at(self._scan.anchor, self._scan.term_runs, index) if term is None else term

    def _check_cut(self, at: int, row: _Row, size: int | None) -> None:
        """The row at `at` is cut, and can be: it is not one that only ends with zeros."""
        there = self._payload[at:]
        if row.key == END_KEY:
            end = End(self._generation, self._number, self._term, self._index)
            told = _END_ROW + encode_end(end, self._seed)
            last = self._rows + 1 == self._count
            if size is not None and last != (at + _END_ROW_BYTES == size):
                raise _Malformed
        elif row.key == START_KEY:
            told = _START_ROW + KEY.pack(RECORD, self._generation, self._start)
            last = True
        else:
            # An end row is to come behind every other one; which one this is may be unknown.
            known = len(row.key) in (1, KEY.size)
            least = max(row.end, len(self._payload) + 1) + _END_ROW_BYTES
            if not known:
                least = at + len(_START_ROW) + KEY.size
            if size is not None and least > size:
                raise _Malformed
            return
        if not told.startswith(there) or (last and not any(told[len(there) :])):
            raise _Malformed
