"""Evidence in LevelDB's raw write-ahead log of batches that LevelDB no longer shows.

LevelDB takes a damaged length field for the end of the file and a zeroed fragment head for the
end of a block, and says nothing. But disk batch n + 2 was written only after n + 1 was synced.
So if n is the newest batch that was recovered, each of these proves that a durable one is lost:

 * a whole record of batch n + 2 or later is somewhere in the raw bytes;
 * the file goes on behind the place where batch n + 1 ends, as its fragment heads say.

An ordinary power cut while n + 1 was being written leaves neither.

    file     := blocks of 32 KiB                        (LevelDB's log_format.md)
    block    := fragment* | fewer than 7 zero bytes
    fragment := masked crc32c u32 | length u16 | type u8 | bytes            (little-endian)
    type     := 1 a whole write | 2 first | 3 middle | 4 last part of a write
"""

import re
from collections.abc import Iterator
from typing import Final
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
_END_ROW: Final = re.compile(re.escape(b"\x01\x01e" + bytes((END_VALUE_BYTES,))))


def lost_batch(files: list[bytes], seed: int, anchor: Anchor, newest: int) -> str | None:
    """Why a durable batch behind `newest` must have been lost, None if nothing says so.

    files: the raw write-ahead logs, oldest first. seed: of the directory's identity. newest:
    number of the last disk batch that was recovered.
    """
    found: list[tuple[int, int, int]] = []  # (file, offset in it or -1, number)
    for place, raw in enumerate(files):
        # What lies within one fragment is found in the raw bytes even if heads around it are
        # damaged; what spans fragments is found only without the heads.
        inside = [*find_records(raw, seed, anchor), *find_ends(raw, seed, anchor)]
        joined = without_heads(raw)
        across = [*find_records(joined, seed, anchor), *find_ends(joined, seed, anchor)]
        found += [(place, offset, number) for offset, number in inside]
        found += [(place, -1, number) for _, number in across]
    later = max((number for _, _, number in found), default=0)
    if later >= newest + 2:
        return f"a record of disk batch {later}, which was written later, is still there"
    if not files:
        return None
    last = len(files) - 1
    places = [(place, offset) for place, offset, number in found if number == newest]
    at = max((offset for place, offset in places if place == last), default=-1)
    if at < 0 and found and not (places and max(places)[0] < last):
        return None  # the newest batch spans blocks: its end is not known
    end = end_of_write_behind(files[last], at)
    if end is not None and end < len(files[last]):
        return f"disk batch {newest + 1} was followed by a later write"
    return None


def find_records(raw: bytes, seed: int, anchor: Anchor) -> Iterator[tuple[int, int]]:
    """(offset, number) of every whole record of the anchor's generation within raw bytes.

    A record counts only if its crc verifies, which starts from this directory's incarnation:
    what a client wrote into a payload never does.
    """
    record_seed = generation_seed(seed, anchor.generation)
    # In LevelDB's batch format: value tag 1, key length 13, key, length of the value.
    pattern = re.compile(re.escape(b"\x01\x0dr" + CRC.pack(anchor.generation)), re.DOTALL)
    view = memoryview(raw)
    for match in pattern.finditer(raw):
        at, length = _varint(raw, match.end() + 8)
        if length < PAYLOAD_AT or at + length > len(raw):
            continue
        if crc32(view[at + CRC.size : at + length], record_seed) == CRC.unpack_from(raw, at)[0]:
            yield match.start(), HEAD.unpack_from(raw, at + CRC.size)[1]


def find_ends(raw: bytes, seed: int, anchor: Anchor) -> Iterator[tuple[int, int]]:
    """(offset, number) of every whole end row of the anchor's generation within raw bytes."""
    for match in _END_ROW.finditer(raw):
        end = decode_end(raw[match.end() : match.end() + END_VALUE_BYTES], seed)
        if end is not None and end.generation == anchor.generation:
            yield match.start(), end.number


def _varint(raw: bytes, at: int) -> tuple[int, int]:
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


def without_heads(raw: bytes) -> bytes:
    """The bytes of a write-ahead log without its fragment heads, as far as they make sense."""
    return b"".join(
        raw[start + HEAD_BYTES if kind else start : end]
        for block_at in range(0, len(raw), BLOCK_BYTES)
        for start, end, kind in _fragments(raw, block_at)
    )


def end_of_write_behind(raw: bytes, at: int) -> int | None:
    """Where the write ends that follows the one around offset `at` (-1: the first write).

    None if that write's heads are missing or make no sense.
    """
    following = at < 0
    begun = False
    first_block = max(at, 0) // BLOCK_BYTES * BLOCK_BYTES
    for block_at in range(first_block, len(raw), BLOCK_BYTES):
        for _, end, kind in _fragments(raw, block_at):
            if end <= at:
                continue
            if kind == 0:
                return None
            if not following:
                following = kind in (WHOLE, LAST)
            elif kind == WHOLE and not begun:
                return end
            elif kind == FIRST and not begun:
                begun = True
            elif kind == LAST and begun:
                return end
            elif kind != MIDDLE or not begun:
                return None
    return None
