"""Whether the newest batch was cut short or rotted: every way in which it can, on real files.

The files are those that the real LevelDB wrote. Most images are only judged (`lost_batch`), some
are opened as a starting member does. The mark lags behind all of them, so it decides nothing.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from raftkv.errors import CorruptionError
from raftkv.raft.types import NORMAL, Entry
from raftkv.storage.files import REAL, replace_file
from raftkv.storage.leveldb import LEVELDB, LevelShelf
from raftkv.storage.preallocation import true_end
from raftkv.storage.raftlog import RaftLog
from raftkv.storage.records import LogScan, identity_seed, scan_log
from raftkv.storage.recovery import _FAILED, _FAILED_MAGIC, FAILED, DataDirectory
from raftkv.storage.torntail import BURST_BITS, SECTOR_BYTES, bursts, lost_batch
from raftkv.storage.waltail import BLOCK_BYTES, HEAD_BYTES
from tests.storage.rig import CLUSTER, MEMBER, batch, files_below, overwrite

REFUSAL = r"is all there, but damaged.*raftctl member remove a1"


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
        return bool(lost) or true_end(bytes(damaged)) < true_end(self.raw)


Last = Callable[[RaftLog], None]


def make(path: Path, before: list[list[bytes]], last: Last, *, grown: bool = False) -> Image:
    """Writes batches with these payloads, then what `last` writes; the mark stays behind.

    grown: in a file that was not allocated ahead, because the directory was opened before.
    """
    directory = DataDirectory.open(str(path), CLUSTER, MEMBER)
    directory.log.write([batch(1, new(directory.log, [b"first"]), hard=(1, 1))])
    if grown:
        directory.close(checkpoint=False)
        directory = DataDirectory.open(str(path), CLUSTER, MEMBER)
    log = directory.log
    for number, payloads in enumerate(before, 2):
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


def up_to(index: int, random: Random) -> list[list[bytes]]:
    """Payloads of batches behind entry 1, so that the last one is entry `index`."""
    return [[random.randbytes(20) for _ in range(index - 1)]]


RANDOM = Random(17)
SHAPES: dict[str, tuple[list[list[bytes]], Last, bool]] = {
    "one sector": ([[b"x" * 100], [b"y" * 10]], appended(b"z" * 60), False),
    "three sectors": ([[b"x" * 400], [b"y" * 333]], appended(b"z" * 700, b"", b"w" * 300), True),
    "an end of zeros": (up_to(254, RANDOM), appended(b"p" * 300, b"q" * 120), False),
    "an end of two sectors": ([[b"x" * 322]], appended(b"z" * 33, b"w" * 341), True),
    "over two blocks": ([[b"x" * 32_400]], appended(RANDOM.randbytes(200)), False),
    "joined": ([[b"x" * 100], [b"y" * 10]], joined, True),
    "nothing new": ([[b"x" * 100, b"y"], [b"z" * 350]], cut_back, False),
    "an anchor": ([[b"x" * 100, b"y"], [b"z" * 350]], anchored, True),
    "a reset": ([[b"x" * 100], [b"y" * 10]], reset, False),
    "the first of a segment": ([[b"x" * 9000]] * 3, appended(b"z" * 600), False),
}


@pytest.fixture(scope="module", params=list(SHAPES))
def image(request: pytest.FixtureRequest, scratch: Path) -> Iterator[Image]:
    before, last, grown = SHAPES[request.param]
    place = scratch / f"torn-{list(SHAPES).index(request.param)}"
    place.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "the first of a segment":
            patch.setattr(LevelShelf, "full_bytes", 20_000)
        yield make(place / "member", before, last, grown=grown)


def test_the_newest_batch_is_where_it_is_thought_to_be(image: Image) -> None:
    assert image.begin < image.end
    assert image.scan.problem is None
    assert image.scan.last_index == image.last
    assert image.verdict(image.raw[: image.begin]) is None


def test_a_newest_batch_cut_at_any_byte_was_torn(image: Image) -> None:
    """D04: with nothing behind it, or zeros that were allocated ahead."""
    for length in range(image.begin, image.end):
        found = image.verdict(image.raw[:length])
        assert found is None, f"{length} of {image.begin} to {image.end}: {found}"


def test_a_newest_batch_without_any_of_its_sectors_was_torn(image: Image) -> None:
    """D02: in any order, and with the end missing as well."""
    random = Random(8)
    for case in range(120):
        torn = bytearray(image.raw)
        for low, high in random.sample(image.parts, random.randint(1, len(image.parts))):
            torn[low:high] = bytes(high - low)
        if case % 3 == 0:
            torn = torn[: random.randrange(image.begin, image.end)]
        found = image.verdict(torn)
        assert found is None, f"case {case}: {found}"


def test_a_flipped_bit_of_the_newest_batch_is_rot(image: Image) -> None:
    """D05, D06: every bit, or a sample of 1,500. The only exception is the stated limit."""
    bits = range(image.begin * 8, image.end * 8)
    accepted = 0
    for bit in bits if len(bits) < 2000 else Random(2).sample(bits, 1500):
        damaged = bytearray(image.raw)
        damaged[bit // 8] ^= 1 << bit % 8
        if image.verdict(damaged) is None:
            assert image.looks_torn(damaged), f"bit {bit}"
            accepted += 1
    assert accepted <= 8, "only of a last byte with a single bit, or of a sector with one"


def test_changed_bytes_of_the_newest_batch_are_rot(image: Image) -> None:
    """D05: single ones, and short runs; zeros among them."""
    random = Random(3)
    refused = 0
    for case in range(400):
        damaged = bytearray(image.raw)
        at = random.randrange(image.begin, image.end)
        for place in range(at, min(at + (1, random.randint(2, 16))[case % 2], image.end)):
            damaged[place] = random.choice((0, 0xFF, random.randrange(256)))
        if damaged == image.raw:
            continue
        if image.verdict(damaged) is None:
            assert image.looks_torn(damaged), f"case {case}"
        else:
            refused += 1
    assert refused > 250


def test_a_whole_batch_that_was_not_recovered_was_lost(image: Image) -> None:
    assert image.verdict(image.raw) is not None
    twice = image.raw + image.raw[image.begin : image.end]
    assert image.verdict(twice) is not None, "two writes, but only one can be under way"


# --- large batches, of many blocks ------------------------------------------------------


@pytest.fixture(scope="module", params=[False, True], ids=["allocated ahead", "grown"])
def large(request: pytest.FixtureRequest, scratch: Path) -> Image:
    place = scratch / f"large-{request.param}"
    place.mkdir()
    random = Random(12)
    before = [[random.randbytes(random.randint(1, 5000))] for _ in range(12)]
    sizes = (1, 40_000, 700, 150_000, 5)
    last = appended(*(random.randbytes(size) for size in sizes))
    return make(place / "member", before, last, grown=request.param)


def test_large_batches_cut_short_without_sectors_or_rotten_are_told_apart(large: Image) -> None:
    """D02, D04, D05."""
    random = Random(5)
    for case in range(24):
        torn = bytearray(large.raw)
        if case % 3:
            for low, high in random.sample(large.parts, random.choice((1, 3, 200))):
                torn[low:high] = bytes(high - low)
        if case % 3 != 1:
            torn = torn[: random.randrange(large.begin, large.end)]
        assert large.verdict(torn) is None, f"case {case}"
        damaged = bytearray(large.raw)
        bit = random.randrange(large.begin * 8, large.end * 8)
        damaged[bit // 8] ^= 1 << bit % 8
        assert large.verdict(damaged) is not None, f"bit {bit}"


# --- zeros that users wrote -------------------------------------------------------------


@pytest.fixture(scope="module")
def zeros(scratch: Path) -> Image:
    place = scratch / "zeros"
    place.mkdir()
    random = Random(6)
    last = appended(random.randbytes(900), bytes(3000), random.randbytes(900), bytes(40_000))
    return make(place / "member", [[b"x" * 100]], last)


def test_zeros_of_a_user_are_not_taken_for_missing_sectors(zeros: Image) -> None:
    """D05: any change of another entry, and any of up to 16 adjacent bits of such an entry."""
    random = Random(7)
    natural = [part for part in zeros.parts if not any(zeros.raw[slice(*part)])]
    assert len(natural) > 60
    for case in range(40):
        damaged = bytearray(zeros.raw)
        at = random.randrange(zeros.begin, zeros.end - 1)
        width = random.randint(1, 9)
        pattern = random.getrandbits(width) << random.randrange(8) | 1
        damaged[at] ^= pattern & 0xFF
        damaged[at + 1] ^= pattern >> 8 & 0xFF
        assert zeros.verdict(damaged) is not None, f"case {case}: {at}"
    for word in (b"\xff" * 40, random.randbytes(40)):  # in the first entry
        damaged = bytearray(zeros.raw)
        damaged[zeros.begin + 300 : zeros.begin + 340] = word
        assert zeros.verdict(damaged) is not None


def test_the_stated_limit_is_larger_damage_of_an_entry_with_a_sector_of_zeros(
    zeros: Image,
) -> None:
    """A torn write leaves the same: bytes that do not fit their checksum, and a sector of zeros."""
    damaged = bytearray(zeros.raw)
    at = zeros.raw.index(bytes(2500)) + 1000
    damaged[at : at + 5] = b"wrong"
    assert zeros.verdict(damaged) is None


def test_sectors_missing_among_zeros_of_a_user_are_a_torn_write(zeros: Image) -> None:
    """D02: also where next to nothing but zeros was to be written."""
    random = Random(9)
    written = [part for part in zeros.parts if any(zeros.raw[slice(*part)])]
    for case in range(40):
        torn = bytearray(zeros.raw)
        chosen = written[case : case + 1] or random.sample(zeros.parts, 4)
        for low, high in chosen:
            torn[low:high] = bytes(high - low)
        if torn != zeros.raw:
            assert zeros.verdict(torn) is None, f"case {case}: {chosen}"
        cut = torn[: random.randrange(zeros.begin, zeros.end)]
        assert zeros.verdict(cut) is None, f"case {case}"


def test_every_pattern_of_adjacent_bits_is_found(zeros: Image) -> None:
    block = zeros.end - zeros.end % BLOCK_BYTES
    fragment = zeros.raw[block : zeros.end]  # the last one
    assert list(bursts(fragment)) == []
    bits = 8 * (len(fragment) - HEAD_BYTES)
    random = Random(10)
    for width in range(1, BURST_BITS + 1):
        pattern = random.getrandbits(width) | 1 | 1 << width - 1
        number = int.from_bytes(fragment[HEAD_BYTES:], "little")
        number ^= pattern << random.choice((0, bits - width, random.randrange(bits - width)))
        changed = fragment[:HEAD_BYTES] + number.to_bytes(bits // 8, "little")
        assert fragment in list(bursts(changed))


# --- as a starting member meets it ------------------------------------------------------


@pytest.mark.parametrize("shape", ["three sectors", "an end of two sectors", "first of a segment"])
def test_a_member_opens_behind_a_torn_write_and_refuses_rot(
    shape: str, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D02, D04, D05: with LevelDB's own opinion about each, its silence or a rewritten log."""
    place = scratch / f"opened-{shape}"
    place.mkdir()
    if shape == "first of a segment":
        monkeypatch.setattr(LevelShelf, "full_bytes", 20_000)
    before, last, grown = SHAPES["the " + shape if shape.startswith("first") else shape]
    image, copy, random = make(place / "member", before, last, grown=grown), place / "c", Random(1)
    for case in range(8):
        torn = bytearray(image.raw)
        if case % 2:
            low, high = image.parts[case // 2 % len(image.parts)]
            torn[low:high] = bytes(high - low)
        else:
            torn = torn[: random.randrange(image.begin, image.end)]
        assert image.opened(torn, (0, 70_000)[case // 2 % 2], copy) == image.last, f"case {case}"
    silent = 0
    for case in range(8):
        damaged = bytearray(image.raw)
        # Among them: lengths in the head, of which LevelDB says nothing.
        at = image.begin + 4 + case % 2 if case < 4 else random.randrange(image.begin, image.end)
        damaged[at] ^= 1 << random.randrange(4, 8)
        assert not image.looks_torn(damaged)
        image.put(damaged, (0, 70_000)[case % 2], copy)
        for _ in range(2):  # opening it must not destroy the evidence
            with pytest.raises(CorruptionError, match=r"durable part.*damaged") as refused:
                DataDirectory.open(str(copy), CLUSTER, MEMBER)
        silent += "LevelDB reports" not in str(refused.value)
    assert 0 < silent < 8


def test_a_marker_of_a_failed_write_says_what_was_durable(zeros: Image) -> None:
    """D10: what failed may look like anything, since nobody was told of it; what came before it
    may not be missing."""
    damaged = bytearray(zeros.raw)
    damaged[zeros.begin + 50] ^= 1
    newest = zeros.scan.end.number
    assert zeros.verdict(damaged) is not None
    assert zeros.verdict(damaged, newest) is None
    assert zeros.verdict(damaged[: zeros.begin + 50], newest) is None
    for raw in (damaged, damaged[: zeros.begin + 50]):
        lost = zeros.verdict(raw, newest + 1)
        assert lost == f"disk batch {newest + 1} was durable when a write failed"


def test_a_member_whose_write_failed_opens_although_that_write_looks_rotten(
    zeros: Image, scratch: Path
) -> None:
    """D10: EIO can leave anything behind what was durable."""
    copy = scratch / "failed"
    damaged = bytearray(zeros.raw)
    damaged[zeros.begin + 50] ^= 1
    with pytest.raises(CorruptionError, match=REFUSAL):
        zeros.opened(damaged, 0, copy)
    zeros.put(damaged, 0, copy)
    marker = _FAILED.pack(zeros.scan.end.number) + b"input/output error"
    replace_file(REAL, str(copy / FAILED), _FAILED_MAGIC, marker)
    directory = DataDirectory.open(str(copy), CLUSTER, MEMBER)
    directory.close(checkpoint=False)
    assert directory.recovered.last_index == zeros.last


# --- files that are left over -----------------------------------------------------------


@pytest.fixture(scope="module")
def small(scratch: Path) -> Image:
    place = scratch / "small"
    place.mkdir()
    return make(place / "member", [[b"x" * 100], [b"y" * 10]], appended(b"z" * 60))


def test_the_batch_behind_the_newest_is_found_in_whatever_file_it_begins(small: Image) -> None:
    """D30: the newest one may be in a file before, in a table, or in what an opening that a crash
    interrupted has kept, with a torn batch of the same number behind it."""
    before, batch_bytes = small.raw[: small.begin], small.raw[small.begin :]
    cut, rotten = batch_bytes[:-20], bytearray(batch_bytes)
    rotten[40] ^= 1
    older = before[: before.index(b"y" * 10) - 100]
    for kept in ([before], [before + cut], [], [older], [older, before + cut], [cut]):
        for last, lost in ((b"", False), (cut, False), (bytes(rotten), True)):
            files = [*kept, last] if last else kept
            found = lost_batch(files, small.seed, small.scan)
            assert (found is not None) == lost, f"{len(kept)} files and {last!r}: {found}"


def test_a_batch_behind_the_newest_in_a_file_before_the_last_is_judged_as_well(
    small: Image,
) -> None:
    """D30: stale files come back after a power cut, for their removal is not synced."""
    rotten = bytearray(small.raw)
    rotten[-30] ^= 4
    cut = small.raw[small.begin : -20]
    assert lost_batch([bytes(rotten), cut], small.seed, small.scan) is not None


def test_a_rotten_batch_is_found_when_the_newest_one_is_in_a_table(
    small: Image, scratch: Path
) -> None:
    """D05: the file begins with it."""
    copy = scratch / "table"
    small.put(small.raw, 0, copy)
    directory = DataDirectory.open(str(copy), CLUSTER, MEMBER)
    directory.log.write([batch(1, new(directory.log, [b"v" * 77]))])
    last = directory.log.last_index
    image = scratch / "table-image"
    shutil.copytree(copy, image)
    directory.close(checkpoint=False)
    (name,) = log_files(str(image))
    raw = Path(name).read_bytes()
    overwrite(name, 60, bytes((raw[60] ^ 1,)))
    for _ in range(2):
        with pytest.raises(CorruptionError, match=REFUSAL):
            DataDirectory.open(str(image), CLUSTER, MEMBER)
    shutil.rmtree(image / "log.tail")
    Path(name).write_bytes(raw[: true_end(raw) - 1])
    directory = DataDirectory.open(str(image), CLUSTER, MEMBER)
    directory.close(checkpoint=False)
    assert directory.recovered.last_index == last - 1
