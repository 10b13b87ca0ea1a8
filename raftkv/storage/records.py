"""The rows of the Raft log, and how an opening reads them.

    key r | generation u32 | index u64  ->  crc u32 | previous u32 | number u64 | entry
    key a                               ->  crc u32 | generation u32 | index u64 | term u64
                                            | previous u32
    key e                               ->  crc u32 | generation u32 | number u64 | term u64
                                            | index u64
                                                                       (all big-endian)

`entry` is `wire.record`'s encoding: index u64, term u64, kind u8, payload. `crc` covers the rest
of its value and starts from a seed made of cluster, member, incarnation and generation, so a
record of another member, another directory or another life of this log never verifies.
`previous` is the crc of the record before: removing, swapping or replacing any record breaks the
chain. `number` is the disk batch that wrote the record.

Row a, the anchor, stands for everything before the first record kept: its index and term and the
crc that the first record kept names as `previous`. A generation is one life of the log between
two snapshot installs: a reset is one put of the anchor with the next generation, which kills all
older records at once; their rows are deleted later, in bounded steps.

Row e, the end, is put by every write and says where the log ends after it. A write is atomic, so
an end row that survives vouches for exactly the records that must be there.
"""

import struct
from array import array
from bisect import bisect_right
from dataclasses import dataclass, field
from struct import Struct
from typing import Final
from zlib import crc32

from raftkv.errors import CorruptionError
from raftkv.raft.types import CONFIG, ENTRY_KINDS, Entry
from raftkv.storage.backend import LogRows

CRC: Final = Struct(">I")
KEY: Final = Struct(">BIQ")
HEAD: Final = Struct(">IQQQB")  # previous, number, then the head of an entry
ANCHOR_KEY: Final = b"a"
END_KEY: Final = b"e"
MAX_U64: Final = 2**64 - 1
RECORD: Final = ord("r")
PAYLOAD_AT: Final = CRC.size + HEAD.size
_ANCHOR: Final = Struct(">IQQI")
_END: Final = Struct(">IQQQ")
_IDENTITY: Final = Struct(">QQQ")
END_VALUE_BYTES: Final = CRC.size + 1 + _END.size


@dataclass(frozen=True, slots=True)
class Anchor:
    """The entry before the first one kept. previous: what the next record's chain starts from."""

    generation: int
    index: int
    term: int
    previous: int


@dataclass(frozen=True, slots=True)
class End:
    """Where the log ends after disk batch `number`."""

    generation: int
    number: int
    term: int
    index: int


def identity_seed(cluster: int, member: int, incarnation: int) -> int:
    """The start of every crc of one directory."""
    return crc32(_IDENTITY.pack(cluster, member, incarnation))


def generation_seed(seed: int, generation: int) -> int:
    """The start of every record's crc in one life of the log."""
    return crc32(CRC.pack(generation), seed)


def first_anchor(seed: int, generation: int, index: int, term: int) -> Anchor:
    """The anchor of an empty log behind (index, term)."""
    return Anchor(generation, index, term, crc32(_IDENTITY.pack(generation, index, term), seed))


def seal(body: bytes, seed: int) -> bytes:
    """`body` behind its crc."""
    return CRC.pack(crc32(body, seed)) + body


def encode_anchor(anchor: Anchor, seed: int) -> bytes:
    """The value of row a."""
    return seal(
        b"a" + _ANCHOR.pack(anchor.generation, anchor.index, anchor.term, anchor.previous), seed
    )


def encode_end(end: End, seed: int) -> bytes:
    """The value of row e."""
    return seal(b"e" + _END.pack(end.generation, end.number, end.term, end.index), seed)


def _unseal(rows: LogRows, key: bytes, layout: Struct, seed: int, what: str) -> tuple[int, ...]:
    value = rows.get(key)
    if value is None:
        raise CorruptionError(f"the log has lost its {what}")
    body = value[CRC.size :]
    if value != seal(body, seed) or body[:1] != key or len(body) != 1 + layout.size:
        raise CorruptionError(f"the log's {what} is damaged")
    return layout.unpack_from(body, 1)


def read_anchor(rows: LogRows, seed: int) -> Anchor:
    """Row a, or CorruptionError."""
    return Anchor(*_unseal(rows, ANCHOR_KEY, _ANCHOR, seed, "anchor"))


def read_end(rows: LogRows, seed: int) -> End:
    """Row e, or CorruptionError."""
    return End(*_unseal(rows, END_KEY, _END, seed, "end row"))


def decode_anchor(value: bytes, seed: int) -> Anchor | None:
    """The anchor in `value`, None if these bytes are none of this directory."""
    body = value[CRC.size :]
    if body[:1] != ANCHOR_KEY or len(body) != 1 + _ANCHOR.size or seal(body, seed) != value:
        return None
    return Anchor(*_ANCHOR.unpack_from(body, 1))


def decode_end(value: bytes, seed: int) -> End | None:
    """The end row in `value`, None if these bytes are none of this directory."""
    body = value[CRC.size :]
    if len(value) != END_VALUE_BYTES or body[:1] != END_KEY or seal(body, seed) != value:
        return None
    return End(*_END.unpack_from(body, 1))


def decode(key: bytes, value: bytes, index: int, previous: int, seed: int) -> tuple[Entry, int]:
    """The entry of a record and its crc, checked: whole, at its own place, next in the chain.

    Raises CorruptionError.
    """
    try:
        (crc,) = CRC.unpack_from(value)
        before, _, at, term, kind = HEAD.unpack_from(value, CRC.size)
        _, _, place = KEY.unpack(key)
    except struct.error as error:
        raise CorruptionError(f"log record {index} is cut short: {error}") from error
    if crc32(memoryview(value)[CRC.size :], seed) != crc:
        raise CorruptionError(f"log record {index} is damaged (checksum)")
    if place != index or at != index:
        raise CorruptionError(f"log record {index} is missing: record {at} stands in its place")
    if before != previous:
        raise CorruptionError(f"log record {index} does not follow record {index - 1} (chain)")
    if kind not in ENTRY_KINDS:
        raise CorruptionError(f"log record {index} has the unknown kind {kind}")
    return Entry(index, term, kind, value[PAYLOAD_AT:]), crc


@dataclass(slots=True)
class LogScan:
    """What an opening found: the records in an unbroken chain behind the anchor.

    crcs: crc of each record after the anchor. numbers: disk batch of the last record.
    problem: why the chain ends before the log does, None if it does not.
    """

    anchor: Anchor
    end: End
    last_index: int
    last_term: int
    last_number: int = 0
    crcs: "array[int]" = field(default_factory=lambda: array("I"))
    term_runs: list[tuple[int, int]] = field(default_factory=list)
    configurations: list[tuple[int, bytes]] = field(default_factory=list)
    payload_bytes: int = 0
    problem: str | None = None

    def last_crc(self) -> int:
        """What the next record must name as `previous`."""
        return self.crcs[-1] if self.crcs else self.anchor.previous


def scan_log(rows: LogRows, seed: int, *, limit_number: int | None = None) -> LogScan:
    """Reads the whole log. Never raises for a broken chain: `problem` tells.

    limit_number: stop before records of later disk batches than this one.
    Raises CorruptionError if anchor or end row are unusable, or a table of the engine is.
    """
    anchor = read_anchor(rows, seed)
    end = read_end(rows, seed)
    found = LogScan(anchor, end, anchor.index, anchor.term)
    if end.generation != anchor.generation:
        raise CorruptionError("the log's anchor and end row are of different lives of the log")
    record_seed = generation_seed(seed, anchor.generation)
    start = KEY.pack(RECORD, anchor.generation, anchor.index + 1)
    stop = KEY.pack(RECORD, anchor.generation + 1, 0)
    for key, value in rows.scan(start, stop):
        index = found.last_index + 1
        try:
            entry, crc = decode(key, value, index, found.last_crc(), record_seed)
        except CorruptionError as error:
            found.problem = str(error)
            return found
        number = HEAD.unpack_from(value, CRC.size)[1]
        if limit_number is not None and number > limit_number:
            return found
        if entry.term < found.last_term:
            found.problem = f"log record {index} has an older term than the one before"
            return found
        if entry.term != found.last_term or not found.term_runs:
            found.term_runs.append((index, entry.term))
        if entry.kind == CONFIG:
            found.configurations.append((index, entry.payload))
        found.crcs.append(crc)
        found.last_index, found.last_term, found.last_number = index, entry.term, number
        found.payload_bytes += len(entry.payload)
    if (found.last_term, found.last_index) != (end.term, end.index):
        found.problem = f"the log ends at index {found.last_index}, its end row says {end.index}"
    return found


def term_at(anchor: Anchor, runs: list[tuple[int, int]], index: int) -> int:
    """The term of `index`, which is the anchor's or behind it."""
    at = bisect_right(runs, (index, MAX_U64)) - 1
    return runs[at][1] if at >= 0 else anchor.term
