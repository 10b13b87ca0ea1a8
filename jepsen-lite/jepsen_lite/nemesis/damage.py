"""Damage to the files of a member that does not run.

The data directory of raftkv (raftkv/README.md, "On disk"): `log/NNNNNNNN/` holds the segments of
the Raft log, `state-N/` the tables of the state, which are also what a snapshot is at rest,
`mark.a` and `mark.b` term and vote, twice. Everything here is blocking work on a closed directory.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

LOG, STATE, MARK = "log", "state", "mark"
MOST_FLIPS: Final = 3
MOST_CUT_BYTES: Final = 4096


class Damage(NamedTuple):
    """What was done to a file. path: within the data directory. at: offsets, in bytes."""

    path: str
    at: tuple[int, ...]
    size: int


def log_files(directory: Path) -> list[Path]:
    """The files of the log's segments that hold rows, oldest first.

    A segment's rows stand in its write-ahead log, and after a restart in a table.
    """
    return [
        path
        for path in sorted(directory.glob("log/*/*"))
        if path.suffix in (".log", ".ldb") and written(path)
    ]


def state_files(directory: Path) -> list[Path]:
    """Tables, manifest and pointer of the state; its logs lead nowhere."""
    found = [
        path
        for pattern in ("state-*/*.ldb", "state-*/*.sst", "state-*/MANIFEST-*", "state-*/CURRENT")
        for path in directory.glob(pattern)
    ]
    return sorted(path for path in found if not path.is_symlink() and path.stat().st_size)


def mark_files(directory: Path) -> list[Path]:
    """Both copies of the mark."""
    return sorted(directory.glob("mark.?"))


def written(path: Path) -> int:
    """Bytes of a file before its last zeros: a log's file is allocated ahead."""
    return len(path.read_bytes().rstrip(b"\0"))


def flip_bits(directory: Path, where: str, random: Random) -> list[Damage]:
    """Turns one to three bits around in one file of the log, the state or the mark.

    Of the mark, one copy or both. Returns what was done; [] if there is no such file, as in the
    directory of a member that is just being replaced.
    """
    if where == MARK:
        marks = mark_files(directory)
        files: Iterable[Path] = random.sample(marks, min(random.choice((1, 2)), len(marks)))
    else:
        found = log_files(directory) if where == LOG else state_files(directory)
        files = [random.choice(found)] if found else []
    return [_flip(path, directory, random) for path in files]


def _flip(path: Path, directory: Path, random: Random) -> Damage:
    content = bytearray(path.read_bytes())
    size = written(path)
    places = sorted(random.sample(range(size), min(random.randint(1, MOST_FLIPS), size)))
    for place in places:
        content[place] ^= 1 << random.randrange(8)
    path.write_bytes(content)
    return Damage(str(path.relative_to(directory)), tuple(places), size)


def cut_tail(directory: Path, random: Random) -> list[Damage]:
    """Takes away up to 4,096 bytes of the end of the log (D04); [] if it is empty."""
    files = log_files(directory)
    if not files:
        return []
    path = files[-1]
    size = written(path)
    end = size - random.randint(1, min(MOST_CUT_BYTES, size))
    with path.open("r+b") as file:
        file.truncate(end)
    return [Damage(str(path.relative_to(directory)), (end,), size)]


def wipe(directory: Path) -> None:
    """Takes everything away, the directory too."""
    shutil.rmtree(directory, ignore_errors=True)


def keep_copy(directory: Path) -> Path:
    """Copies the whole directory beside it; returns where the copy is."""
    copy = directory.with_name(directory.name + ".stale")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(directory, copy, symlinks=True)
    return copy


def put_back(copy: Path, directory: Path) -> None:
    """Puts a copy in the directory's place."""
    shutil.rmtree(directory, ignore_errors=True)
    copy.rename(directory)
