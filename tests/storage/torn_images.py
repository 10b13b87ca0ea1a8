"""Members' directories whose newest batch is to be damaged: images that the real LevelDB wrote."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random

from raftkv.raft.types import NORMAL, Entry
from raftkv.storage.leveldb import LEVELDB
from raftkv.storage.preallocation import true_end
from raftkv.storage.raftlog import RaftLog
from raftkv.storage.records import LogScan, identity_seed, scan_log
from raftkv.storage.recovery import DataDirectory
from raftkv.storage.torntail import SECTOR_BYTES, lost_batch
from tests.storage.rig import CLUSTER, MEMBER, batch, files_below


def new(log: RaftLog, payloads: list[bytes], term: int = 1) -> list[Entry]:
    """Entries behind the log's last."""
    first = log.last_index + 1
    return [Entry(first + at, term, NORMAL, one) for at, one in enumerate(payloads)]


def log_files(path: str) -> list[str]:
    """The write-ahead logs with something in them, oldest first."""
    names = [name for name in files_below(f"{path}/log") if name.endswith(".log")]
    return [name for name in names if true_end(Path(name).read_bytes())]


@dataclass
class Image:
    """A killed member's directory, whose newest batch begins and ends at offsets in `name`.

    raws: the raw log files in front of `name`, up to their true ends. raw: of `name`. last: index
    of the last entry without the newest batch. scan: what is recovered without it.
    """

    path: str
    name: str
    raws: list[bytes]
    raw: bytes
    begin: int
    end: int
    last: int
    seed: int
    scan: LogScan

    def verdict(self, raw: bytes | bytearray, failed_after: int | None = None) -> str | None:
        """What is found out about the file with this content."""
        trimmed = bytes(raw[: true_end(bytes(raw))])
        files = [*self.raws, trimmed] if trimmed else self.raws
        return lost_batch(files, self.seed, self.scan, failed_after)

    def opened(self, raw: bytes | bytearray, ahead: int, copy: Path) -> int:
        """The last index after opening a copy with this content; CorruptionError.

        ahead: zeros allocated behind it.
        """
        self.put(raw, ahead, copy)
        directory = DataDirectory.open(str(copy), CLUSTER, MEMBER)
        directory.close(checkpoint=False)
        return directory.recovered.last_index

    def put(self, raw: bytes | bytearray, ahead: int, copy: Path) -> None:
        """A copy of the directory with this content."""
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.path, copy)
        (copy / os.path.relpath(self.name, self.path)).write_bytes(bytes(raw) + bytes(ahead))

    @property
    def parts(self) -> list[tuple[int, int]]:
        """What of the newest batch lies in each sector."""
        first = self.begin - self.begin % SECTOR_BYTES + SECTOR_BYTES
        bounds = [self.begin, *range(first, self.end, SECTOR_BYTES), self.end]
        return list(pairwise(bounds))

    def looks_torn(self, damaged: bytearray) -> bool:
        """The stated limit: zeros where a torn write leaves them, that were not written."""
        lost = [
            (low, high)
            for low, high in self.parts
            if any(self.raw[low:high]) and not any(damaged[low:high])
        ]
        return bool(lost) or len(damaged.rstrip(b"\0")) < len(self.raw.rstrip(b"\0"))


Last = Callable[[RaftLog], None]


def make(
    path: Path, before: list[list[bytes]], last: Last, *, grown: bool = False, start: int = 0
) -> Image:
    """Writes batches with these payloads, then what `last` writes; the mark stays behind.

    grown: in a file that was not allocated ahead, because the directory was opened before.
    start: index of a state that is installed first; 0: none.
    """
    directory = DataDirectory.open(str(path), CLUSTER, MEMBER)
    directory.log.write([batch(1, new(directory.log, [b"first"]), hard=(1, 1))])
    if grown:
        directory.close(checkpoint=False)
        directory = DataDirectory.open(str(path), CLUSTER, MEMBER)
    log = directory.log
    if start:
        log.write([batch(2, reset=(1, start))])
    for number, payloads in enumerate(before, 3):
        log.write([batch(number, new(log, payloads))])
        if log.untended:
            log.tend()
    index = log.last_index
    seed = identity_seed(CLUSTER, MEMBER, directory.identity.incarnation)
    old = {name: true_end(Path(name).read_bytes()) for name in log_files(str(path))}
    shutil.copytree(path, path.parent / "before")
    last(log)
    names = log_files(str(path))
    image = path.parent / "image"
    shutil.copytree(path, image)
    directory.close(checkpoint=False)
    for name in names:  # without zeros, or copies would take long
        copied = image / os.path.relpath(name, path)
        os.truncate(copied, true_end(copied.read_bytes()))
    for name in files_below(str(image / "log")):
        if name.endswith(".log") and not true_end(Path(name).read_bytes()):
            os.truncate(name, 0)
    rows = LEVELDB.open_log(str(path.parent / "before" / "log"))
    scan = scan_log(rows, seed)
    rows.close()
    shutil.rmtree(path.parent / "before")
    files = [str(image / os.path.relpath(name, path)) for name in names]
    raws = [Path(name).read_bytes() for name in files]
    begin = old.get(names[-1], 0)
    return Image(
        str(image), files[-1], raws[:-1], raws[-1], begin, len(raws[-1]), index, seed, scan
    )


def appended(*payloads: bytes) -> Last:
    return lambda log: log.write([batch(90, new(log, list(payloads)))])


def joined(log: RaftLog) -> None:
    """Several batches in one write: end rows stand in its middle, some entries are taken back."""
    log.enqueue(batch(90, new(log, [b"a" * 90, b"b" * 300])))
    log.enqueue(batch(91, new(log, [b"c" * 200, b"d"])))
    again = Entry(log.last_index, 2, NORMAL, b"e" * 222)
    log.enqueue(batch(92, [again], truncate_from=again.index))
    log.flush()


def cut_back(log: RaftLog) -> None:
    log.write([batch(90, [], truncate_from=log.last_index - 1)])


def anchored(log: RaftLog) -> None:
    log.truncate_front(log.last_index - 1, 1)


def reset(log: RaftLog) -> None:
    log.write([batch(90, [Entry(501, 3, NORMAL, b"behind" * 20)], reset=(3, 500))])


def emptied(log: RaftLog) -> None:
    log.write([batch(90, reset=(3, 500))])


RANDOM = Random(17)
#: Batches before, the newest one, whether the file grew, index of a state installed first.
SHAPES: dict[str, tuple[list[list[bytes]], Last, bool, int]] = {
    "one sector": ([[b"x" * 100], [b"y" * 10]], appended(b"z" * 60), False, 0),
    "three sectors": ([[b"x" * 400], [b"y" * 333]], appended(b"z" * 700, b"", b"w" * 300), True, 0),
    "an end of zeros": ([[b"o" * 100]], appended(b"p" * 30, b"q" * 12), False, 253),
    "an end of two sectors": ([[b"x" * 322]], appended(b"z" * 33, b"w" * 341), True, 0),
    "over two blocks": ([[b"x" * 32_400]], appended(RANDOM.randbytes(200)), False, 0),
    "joined": ([[b"x" * 100], [b"y" * 10]], joined, True, 0),
    "nothing new": ([[b"x" * 100, b"y"], [b"z" * 350]], cut_back, False, 0),
    "an anchor": ([[b"x" * 100, b"y"], [b"z" * 350]], anchored, True, 0),
    "a reset": ([[b"x" * 100], [b"y" * 10]], reset, False, 0),
    "a reset alone": ([[b"x" * 100], [b"y" * 10]], emptied, True, 0),
    "the first of a segment": ([[b"x" * 9000]] * 3, appended(b"z" * 600), False, 0),
    "a segment and zeros": ([[b"x" * 9000]] * 3, appended(b"z" * 20), False, 3 * 65_536 - 4),
}
