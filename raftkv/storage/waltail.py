"""The raw bytes of LevelDB's write-ahead log: their format, and our own rows found in them.

    file     := blocks of 32 KiB                        (LevelDB's log_format.md)
    block    := fragment* | fewer than 7 zero bytes
    fragment := masked crc32c u32 | length u16 | type u8 | bytes            (little-endian)
    type     := 1 a whole write | 2 first | 3 middle | 4 last part of a write
    write    := sequence u64 | count u32 | row*                             (little-endian)
    row      := 1 | key length | key | value length | value    (put; lengths are varints)
              | 0 | key length | key                           (delete)

LevelDB takes a damaged length field for the end of the file and a zeroed fragment head for the
end of a block, and says nothing. So whoever must know what was there once looks for the rows
themselves: each carries a checksum of its own (`records`).
"""

import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import Final, TypeAlias
from zlib import crc32

from raftkv.storage.records import (
    CRC,
    END_VALUE_BYTES,
    HEAD,
    PAYLOAD_AT,
    Anchor,
    decode_end,
    generation_seed,
)

BLOCK_BYTES: Final = 32 * 1024
HEAD_BYTES: Final = 7
WHOLE: Final = 1
FIRST: Final = 2
MIDDLE: Final = 3
LAST: Final = 4
_RECORD_ROW: Final = re.compile(re.escape(b"\x01\x0dr") + b".{12}", re.DOTALL)
_END_ROW: Final = re.compile(re.escape(b"\x01\x01e" + bytes((END_VALUE_BYTES,))))


#: A whole record or end row: (offset, offset of its value, end, generation, disk batch).
Row: TypeAlias = tuple[int, int, int, int, int]


def find_rows(raw: bytes, seed: int) -> Iterator[Row]:
    """Every whole record and every whole end row within raw bytes, of any life of the log.

    seed: of the directory's identity. A row counts only if its crc verifies, which starts from
    this directory's incarnation: what a client wrote into a payload never does.
    """
    yield from _find_records(raw, seed)
    for match in _END_ROW.finditer(raw):
        at, stop = match.end(), match.end() + END_VALUE_BYTES
        end = decode_end(raw[at:stop], seed)
        if end is not None:
            yield match.start(), at, stop, end.generation, end.number


def find_records(raw: bytes, seed: int, anchor: Anchor) -> Iterator[tuple[int, int]]:
    """(offset, number) of every whole record of the anchor's generation within raw bytes."""
    for start, _, _, generation, number in _find_records(raw, seed):
        if generation == anchor.generation:
            yield start, number


def _find_records(raw: bytes, seed: int) -> Iterator[Row]:
    view, size = memoryview(raw), len(raw)
    generation, start = -1, 0
    for match in _RECORD_ROW.finditer(raw):
        at, length = varint(raw, match.end())
        if length < PAYLOAD_AT or at + length > size:
            continue
        where = match.start()
        (found,) = CRC.unpack_from(raw, where + 3)
        if found != generation:
            generation, start = found, generation_seed(seed, found)
        if crc32(view[at + CRC.size : at + length], start) == CRC.unpack_from(raw, at)[0]:
            number = HEAD.unpack_from(raw, at + CRC.size)[1]
            yield where, at, at + length, generation, number


def varint(raw: bytes, at: int) -> tuple[int, int]:
    """(offset behind it, value) of LevelDB's variable-length number; value 0 if cut short."""
    value = 0
    for shift in range(0, 35, 7):
        if at >= len(raw):
            return at, 0
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return at, value
    return at, 0


def _fragments(raw: bytes, block_at: int) -> Iterator[tuple[int, int, int]]:
    """(start of the head, end of the bytes, type) of a block's fragments, while they make sense.

    A fragment that does not make sense ends the walk with type 0 and the end of the block.
    """
    stop = min(block_at + BLOCK_BYTES, len(raw))
    at = block_at
    while at + HEAD_BYTES <= stop:
        length = int.from_bytes(raw[at + 4 : at + 6], "little")
        kind = raw[at + 6]
        end = at + HEAD_BYTES + length
        # The bytes of the very last fragment may be cut off with the file.
        if not WHOLE <= kind <= LAST or end > block_at + BLOCK_BYTES:
            yield at, stop, 0
            return
        yield at, end, kind
        at = end


class Joined:
    """The bytes of a write-ahead log without its fragment heads, as far as they make sense."""

    def __init__(self, raw: bytes) -> None:
        self._raw_starts: list[int] = []
        self._starts: list[int] = []
        pieces: list[bytes] = []
        size = 0
        for block_at in range(0, len(raw), BLOCK_BYTES):
            for start, end, kind in _fragments(raw, block_at):
                first = start + HEAD_BYTES if kind else start
                piece = raw[first:end]
                self._raw_starts.append(first)
                self._starts.append(size)
                pieces.append(piece)
                size += len(piece)
        self.content = b"".join(pieces)

    def raw_offset(self, at: int) -> int:
        """Where byte `at` of the content stands in the file."""
        piece = bisect_right(self._starts, at) - 1
        return self._raw_starts[piece] + at - self._starts[piece]


def end_of_write(raw: bytes, at: int) -> int | None:
    """Where the write ends that the byte at `at` belongs to, as its heads say.

    None if they make no sense, or the write is not all there.
    """
    for block_at in range(at // BLOCK_BYTES * BLOCK_BYTES, len(raw), BLOCK_BYTES):
        for _, end, kind in _fragments(raw, block_at):
            if end <= at:
                continue
            if kind == 0 or end > len(raw):
                return None
            if kind in (WHOLE, LAST):
                return end
    return None
