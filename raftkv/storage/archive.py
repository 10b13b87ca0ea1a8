"""The format of an archive: what was committed after a snapshot, in files that only grow.

A directory, in which names have revisions as 20 decimal digits and nothing else counts:

    base-<revision>.db       a snapshot (`backup`): where the archive begins, or began anew
    segment-<revision>.log   what was committed from this revision on
    lock                     held by whoever writes

    segment := head | record*
    head    := "raftkv archive\n\0" | version u16 | kind u8 | cluster u64 | first revision u64
               | chain u32 | crc32 u32
    record  := kind u8 | size u32 | time u64 | number u64 | crc32 u32 | payload | crc32 u32
                                                                        (big-endian)

A record's first crc32 covers its head and begins with the chain, the crc32 that the record before
it ends with; its last one begins with the first and covers the payload. So no record can be taken
out, put in or moved, and a wrong length is noticed before anything is read by it. A segment of the
kind "c" continues the one before and has the chain that this ended with; one of the kind "b" begins
behind a snapshot, with the chain 0, because the archive was new or because history was compacted
before it was archived.

    R  number: a revision, the one before plus 1. payload: event*
    L  number: a lease. payload u64: its time to live in milliseconds, 0: it had gone
    C  number: the newest archived revision. payload u64: a time; all of before is archived
    K  number: the newest archived revision. payload u64: how many keys there were then

    event := deleted u8 | size u32 | KeyValue as `kv.encoding` frames it

The time of R is when the archiver received it; times are milliseconds since 1970 and never fall.

Only the newest segment's end may be torn: what was being written when the archiver or its machine
went down. A torn record is one that the file ends in, or that zeros begin in which fill the file's
last sector to its end. Anything else that is wrong is damage, and never cut away.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import BinaryIO, Final, NamedTuple
from zlib import crc32

from raftkv.errors import CorruptionError, DiskFailure
from raftkv.storage.files import final_errors

MAGIC: Final = b"raftkv archive\n\0"
VERSION: Final = 1
BEGINS: Final = ord("b")
CONTINUES: Final = ord("c")
REVISION: Final = ord("R")
LEASE: Final = ord("L")
CHECK: Final = ord("C")
COUNT: Final = ord("K")
KINDS: Final = (REVISION, LEASE, CHECK, COUNT)
LOCK: Final = "lock"
SECTOR_BYTES: Final = 512
HEAD: Final = Struct(">16sHBQQII")
RECORD: Final = Struct(">BIQQI")
_CRC: Final = Struct(">I")
_EVENT: Final = Struct(">?I")
_NUMBER: Final = Struct(">Q")
_MAX_BYTES: Final = (1 << 32) - 1
_NAME: Final = re.compile(r"(base|segment)-(\d{20})\.(db|log)")
_BUFFER_BYTES: Final = 128 * 1024


class Event(NamedTuple):
    """One write of a revision. framed: the KeyValue; of a deletion only key and mod revision."""

    deleted: bool
    framed: bytes


class Record(NamedTuple):
    """See the module's docstring. chain: of the next record. end: its offset in the file."""

    kind: int
    time_ms: int
    number: int
    payload: bytes
    chain: int
    end: int


@dataclass(frozen=True, slots=True)
class Head:
    """What a segment says of itself. begins: behind a snapshot, not behind another segment."""

    path: str
    begins: bool
    cluster: int
    first: int
    chain: int


class Contents(NamedTuple):
    """An archive's files: paths by revision, in their order."""

    bases: dict[int, str]
    segments: dict[int, str]


def contents(directory: str) -> Contents:
    """What is in an archive. Raises DiskFailure; CorruptionError for a link or a directory."""
    found = Contents({}, {})
    with final_errors(f"reading {directory}"), os.scandir(directory) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            match = _NAME.fullmatch(entry.name)
            if match is None or (match[1] == "base") != (match[3] == "db"):
                continue
            if not entry.is_file(follow_symlinks=False):
                raise CorruptionError(f"{directory}/{entry.name} is no plain file")
            files = found.bases if match[1] == "base" else found.segments
            files[int(match[2])] = f"{directory}/{entry.name}"
    return found


def base_path(directory: str, revision: int) -> str:
    """Where the snapshot of a revision lies."""
    return f"{directory}/base-{revision:020d}.db"


def segment_path(directory: str, first: int) -> str:
    """Where the segment lies that begins with a revision."""
    return f"{directory}/segment-{first:020d}.log"


def encode_head(head: Head) -> bytes:
    """The bytes that a segment begins with."""
    kind = BEGINS if head.begins else CONTINUES
    packed = HEAD.pack(MAGIC, VERSION, kind, head.cluster, head.first, head.chain, 0)
    packed = packed[: -_CRC.size]
    return packed + _CRC.pack(crc32(packed))


def encode_record(kind: int, time_ms: int, number: int, payload: bytes, chain: int) -> bytes:
    """A record; its last four bytes are the next one's chain."""
    assert len(payload) <= _MAX_BYTES, "a revision of more than 4 GiB"
    head = RECORD.pack(kind, len(payload), time_ms, number, 0)[: -_CRC.size]
    first = crc32(head, chain)
    return b"%b%b%b%b" % (head, _CRC.pack(first), payload, _CRC.pack(crc32(payload, first)))


def chain_of(record: bytes) -> int:
    """The chain behind the bytes of a record."""
    chain: int = _CRC.unpack(record[-_CRC.size :])[0]
    return chain


def encode_events(events: list[Event]) -> bytes:
    """The payload of a revision."""
    return b"".join([_EVENT.pack(deleted, len(framed)) + framed for deleted, framed in events])


def decode_events(payload: bytes) -> list[Event]:
    """The events of a revision. Raises CorruptionError: there is at least one in each."""
    found, at = [], 0
    while at < len(payload):
        if at + _EVENT.size > len(payload):
            raise CorruptionError("an event is cut short")
        deleted, size = _EVENT.unpack_from(payload, at)
        at += _EVENT.size + size
        if at > len(payload):
            raise CorruptionError("an event is cut short")
        found.append(Event(deleted, payload[at - size : at]))
    if not found:
        raise CorruptionError("a revision has no event")
    return found


def encode_number(number: int) -> bytes:
    """The payload of L, C and K."""
    return _NUMBER.pack(number)


def decode_number(payload: bytes) -> int:
    """The number in it. Raises CorruptionError."""
    if len(payload) != _NUMBER.size:
        raise CorruptionError(f"a record of an archive holds {len(payload)} bytes")
    number: int = _NUMBER.unpack(payload)[0]
    return number


class SegmentReader:
    """The records of one segment, in order.

    newest: its end may be torn. After the iteration: end: offset behind the last whole record;
    chain: behind it; last: the number of the last revision, the first one's less 1 if there is
    none; torn: bytes that lie behind the end.
    """

    def __init__(self, path: str, *, newest: bool) -> None:
        """Raises CorruptionError, DiskFailure."""
        self.path = path
        self._newest = newest
        with final_errors(f"reading {path}"), open(path, "rb") as file:
            self.head = _read_head(path, file)
        self.end = HEAD.size
        self.chain = self.head.chain
        self.last = self.head.first - 1
        self.torn = 0

    def __iter__(self) -> Iterator[Record]:
        """Raises CorruptionError where the damage is, behind all whole records; DiskFailure."""
        try:
            with open(self.path, "rb", buffering=_BUFFER_BYTES) as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(HEAD.size)
                while self.end < size:
                    record = self._next(file, size)
                    if record is None:
                        self.torn = size - self.end
                        return
                    yield record
        except OSError as error:
            raise DiskFailure(f"{self.path} cannot be read: {error.strerror or error}") from error

    def _next(self, file: BinaryIO, size: int) -> Record | None:
        """The next record; None: it is torn."""
        at = self.end
        head = file.read(RECORD.size)
        if len(head) < RECORD.size:
            self._admit_cut(at)
            return None
        kind, length, time_ms, number, crc = RECORD.unpack(head)
        if crc != crc32(head[: -_CRC.size], self.chain) or kind not in KINDS:
            self._admit_zeros(file, at, at + RECORD.size, size)
            return None
        if at + RECORD.size + length + _CRC.size > size:
            self._admit_cut(at)
            return None
        payload, tail = file.read(length), file.read(_CRC.size)
        if tail != _CRC.pack(crc32(payload, crc)):
            self._admit_zeros(file, at, file.tell(), size)
            return None
        if kind == REVISION:
            if number != self.last + 1:
                raise CorruptionError(f"{self.path}: revision {number} follows {self.last}")
            self.last = number
        self.chain = chain_of(tail)
        self.end = file.tell()
        return Record(kind, time_ms, number, payload, self.chain, self.end)

    def _admit_cut(self, at: int) -> None:
        """The file ends within the record at `at`. CorruptionError if another segment follows."""
        if not self._newest:
            raise CorruptionError(f"{self.path} is cut short within a record at offset {at}")

    def _admit_zeros(self, file: BinaryIO, at: int, end: int, size: int) -> None:
        """Zeros fill the file from within the record at `at`, else CorruptionError.

        end: of the record, as far as that is known.
        """
        sector = (size - 1) // SECTOR_BYTES * SECTOR_BYTES
        begin = _zeros_from(file, at, size)
        if not self._newest or begin > max(at, sector) or begin >= end:
            raise CorruptionError(
                f"{self.path} is damaged at offset {at}, behind revision {self.last}"
            )


def _zeros_from(file: BinaryIO, at: int, size: int) -> int:
    """Where the zeros begin that fill the file to its end, not before `at`."""
    end = size
    while end > at:
        begin = max(at, end - _BUFFER_BYTES)
        file.seek(begin)
        chunk = file.read(end - begin).rstrip(b"\0")
        if chunk:
            return begin + len(chunk)
        end = begin
    return at


def _read_head(path: str, file: BinaryIO) -> Head:
    packed = file.read(HEAD.size)
    if packed[: len(MAGIC)] != MAGIC:
        raise CorruptionError(f"{path} is no segment of an archive")
    if len(packed) < HEAD.size:
        raise CorruptionError(f"{path} is cut short: it has {len(packed)} bytes")
    _, version, kind, cluster, first, chain, crc = HEAD.unpack(packed)
    if version != VERSION:
        raise CorruptionError(f"{path} has the unknown version {version}; a newer raftkv made it")
    if crc != crc32(packed[: -_CRC.size]) or kind not in (BEGINS, CONTINUES):
        raise CorruptionError(f"{path} is damaged: its head does not match its checksum")
    if path != segment_path(os.path.dirname(path), first):
        raise CorruptionError(f"{path} is not what its name says: it begins with revision {first}")
    return Head(path, kind == BEGINS, cluster, first, chain)
