"""What the storage tests share: places to open a directory in, and batches to write."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from raftkv.raft.types import NORMAL, Configuration, Entry, HardState, LogBatch, SnapshotMeta
from raftkv.storage.memory import MemoryDataDirectory, MemoryDisk
from raftkv.storage.preallocation import trim, true_end
from raftkv.storage.recovery import DataDirectory

CLUSTER = 0xC1
MEMBER = 0xA1


@dataclass
class Place:
    """Somewhere a member's directory can be opened again and again."""

    open: Callable[[], DataDirectory]
    disk: MemoryDisk | None  # None: the real disk
    path: str


def real_place(path: str) -> Place:
    """A directory on the real disk with a real LevelDB."""

    def open_real() -> DataDirectory:
        return DataDirectory.open(path, CLUSTER, MEMBER, state_buffer_bytes=1 << 20)

    return Place(open_real, None, path)


def memory_place(disk: MemoryDisk | None = None) -> Place:
    """A directory on a disk in memory."""
    platter = disk if disk is not None else MemoryDisk()

    def open_memory() -> DataDirectory:
        return MemoryDataDirectory.open(platter, CLUSTER, MEMBER, incarnation=77)

    return Place(open_memory, platter, "member")


def entries(first: int, last: int, term: int = 1, size: int = 20) -> list[Entry]:
    """Normal entries first..last with recognisable payloads."""
    return [
        Entry(index, term, NORMAL, b"%d/%d/" % (index, term) + b"x" * size)
        for index in range(first, last + 1)
    ]


def batch(
    number: int,
    appended: list[Entry] | None = None,
    *,
    hard: tuple[int, int] | None = None,
    reset: tuple[int, int] | None = None,
    truncate_from: int = 0,
) -> LogBatch:
    """A log batch. hard: (term, vote). reset: (term, index)."""
    return LogBatch(
        number,
        HardState(*hard) if hard else None,
        meta(*reset) if reset else None,
        truncate_from,
        appended or [],
    )


def meta(term: int, index: int) -> SnapshotMeta:
    """A snapshot at (term, index)."""
    return SnapshotMeta(index, term, Configuration((MEMBER,)))


def files_below(path: str) -> list[str]:
    """Every regular file below `path`, sorted."""
    return sorted(
        os.path.join(directory, name) for directory, _, names in os.walk(path) for name in names
    )


def last_wal(path: str) -> str:
    """The write-ahead log that holds the end of a directory's Raft log, without the zeros that
    are allocated behind it."""
    written = []
    for name in files_below(f"{path}/log"):
        if name.endswith(".log"):
            trim(name)
            if os.path.getsize(name):
                written.append(name)
    return written[-1]


def wal_size(path: str) -> int:
    """How far a directory's Raft log is written; may be asked while it is open."""
    sizes = []
    for name in files_below(f"{path}/log"):
        if name.endswith(".log"):
            with open(name, "rb") as file:
                sizes.append(true_end(file.read()))
    return [size for size in sizes if size][-1]


def overwrite(path: str, at: int, content: bytes) -> None:
    """Replaces bytes in the middle of a file."""
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(content)


def flip(path: str, random: Random) -> tuple[int, int]:
    """Flips one random bit; returns (offset, bit)."""
    at, bit = random.randrange(os.path.getsize(path)), random.randrange(8)
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes((byte ^ 1 << bit,)))
    return at, bit
