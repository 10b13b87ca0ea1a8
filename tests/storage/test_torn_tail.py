"""Whether the newest batch was cut short or rotted: every way in which it can, on real files.

The files are those that the real LevelDB wrote. Most images are only judged (`lost_batch`), some
are opened as a starting member does. The mark lags behind all of them, so it decides nothing.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from raftkv.errors import CorruptionError
from raftkv.storage.files import REAL, replace_file
from raftkv.storage.leveldb import LevelShelf
from raftkv.storage.preallocation import true_end
from raftkv.storage.recovery import _FAILED, _FAILED_MAGIC, FAILED, DataDirectory
from raftkv.storage.torntail import BURST_BITS, SECTOR_BYTES, bursts, lost_batch
from raftkv.storage.waltail import BLOCK_BYTES, HEAD_BYTES
from tests.storage.rig import CLUSTER, MEMBER, batch, overwrite
from tests.storage.torn_images import SHAPES, Image, appended, log_files, make, new

REFUSAL = r"is all there, but damaged.*raftctl member remove a1"


@pytest.fixture(scope="module", params=list(SHAPES))
def image(request: pytest.FixtureRequest, scratch: Path) -> Iterator[Image]:
    before, last, grown, start = SHAPES[request.param]
    place = scratch / f"torn-{list(SHAPES).index(request.param)}"
    place.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        if "segment" in request.param:
            patch.setattr(LevelShelf, "full_bytes", 20_000)
        yield make(place / "member", before, last, grown=grown, start=start)


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
    """D05, D06: every bit, or a sample of 600. The only exception is the stated limit."""
    bits = range(image.begin * 8, image.end * 8)
    accepted = 0
    for bit in bits if len(bits) < 2600 else Random(2).sample(bits, 600):
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
    for case in range(200):
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
    assert refused > 125


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
    for case in range(16):
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
    last = appended(random.randbytes(900), bytes(3000), random.randbytes(900), bytes(70_000))
    return make(place / "member", [[b"x" * 100]], last)


def test_zeros_of_a_user_are_not_taken_for_missing_sectors(zeros: Image) -> None:
    """D05: any change of another entry, and any of up to 16 adjacent bits of such an entry."""
    random = Random(7)
    natural = [part for part in zeros.parts if not any(zeros.raw[slice(*part)])]
    assert len(natural) > 60
    for case in range(24):
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
    """D02: also where a fragment's head is all that stood among them."""
    random = Random(9)
    written = [part for part in zeros.parts if any(zeros.raw[slice(*part)])]
    for case, part in enumerate(written):
        torn = bytearray(zeros.raw)
        for low, high in (part, *random.sample(zeros.parts, case % 3)):
            torn[low:high] = bytes(high - low)
        assert zeros.verdict(torn) is None, f"case {case}: {part}"
        cut = torn[: random.randrange(zeros.begin, zeros.end)]
        assert zeros.verdict(cut) is None, f"case {case}"


def test_a_sector_with_one_byte_that_is_not_zero_may_be_missing(scratch: Path) -> None:
    """D02: the same as a few bits turned over, so neither can be told from the other."""
    begin = 0
    for first in (300, 0):  # of the second, the place where the zeros begin is known
        place = scratch / f"lonely-{first}"
        place.mkdir()
        length = first or 300 + (1 - begin) % SECTOR_BYTES
        image = make(place / "member", [], appended(b"x" * length, bytes(1500)))
        begin = image.raw.index(bytes(1500))
    assert begin % SECTOR_BYTES == 1
    torn = bytearray(image.raw)
    torn[begin - 1] = 0
    assert not any(torn[begin - 1 : begin - 1 + SECTOR_BYTES])
    assert image.verdict(torn) is None


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
    before, last, grown, start = SHAPES["the " + shape if shape.startswith("first") else shape]
    image = make(place / "member", before, last, grown=grown, start=start)
    copy, random = place / "copy", Random(1)
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
