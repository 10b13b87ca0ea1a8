"""Write-ahead logs of LevelDB whose blocks are allocated before they are written.

A sync of a file that has grown must also write its inode and the file system's maps, each with a
wait of its own. So the file of a new segment is given its full size at once; LevelDB writes at its
own place from the beginning on and knows nothing of it. Behind what it wrote the file reads as
zeros.

LevelDB takes zeros for the end of a block, but zeros in the middle of a write that was cut short
for damage, where it takes the end of the file for what it is. So `trim` gives a file its true end
back before it is opened, and whoever reads it raw finds it as it would be without all this:

 * no byte but zeros is ever cut off, whatever lies in front of it;
 * the last fragment's own zeros stay, if its checksum says that it is whole.

The format is in `waltail`.
"""

import os
from contextlib import suppress
from struct import Struct
from typing import Final

from raftkv.storage.waltail import BLOCK_BYTES, HEAD_BYTES, LAST, WHOLE

_MASK_DELTA: Final = 0xA282EAD8
POLYNOMIAL: Final = 0x82F63B78  # crc32c, reflected
_FRAGMENT: Final = Struct("<IHB")


def allocate(path: str, size: int) -> None:
    """Gives the file its size ahead, durably. OSError.

    A file system that cannot, or has no room, leaves it as it is: writes decide about that.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            os.posix_fallocate(descriptor, 0, size)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def trim(path: str) -> None:
    """Cuts off the zeros that nobody wrote. OSError."""
    with open(path, "rb") as file:
        raw = file.read()
    end = true_end(raw)
    if end < len(raw):
        os.truncate(path, end)


def true_end(raw: bytes) -> int:
    """Where the written part of a preallocated log ends."""
    end = len(raw.rstrip(b"\0"))
    start, stop = _last_fragment(raw)
    if stop > end and stop <= len(raw) and is_whole(raw[start:stop]):
        return stop
    return end


def _last_fragment(raw: bytes) -> tuple[int, int]:
    """(start, end) of the last fragment before the first that makes no sense; (0, 0): none."""
    found = (0, 0)
    at = 0
    while at + HEAD_BYTES <= len(raw):
        left = BLOCK_BYTES - at % BLOCK_BYTES
        if left < HEAD_BYTES:
            at += left
            continue
        _, length, kind = _FRAGMENT.unpack_from(raw, at)
        if not WHOLE <= kind <= LAST or length > left - HEAD_BYTES:
            break
        found = (at, at + HEAD_BYTES + length)
        at = found[1]
    return found


def is_whole(fragment: bytes) -> bool:
    """Whether a fragment's checksum verifies; it covers the type and the bytes, not the length."""
    return crc32c(fragment[6:]) == stored_crc(fragment)


def stored_crc(fragment: bytes) -> int:
    """The checksum in a fragment's head."""
    masked: int = _FRAGMENT.unpack_from(fragment)[0]
    rotated = (masked - _MASK_DELTA) & 0xFFFFFFFF
    return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


_TABLE: Final = _table()


def crc32c(data: bytes) -> int:
    """The Castagnoli checksum that LevelDB uses; slow, for a fragment at a time."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
