"""The files of an archive: what a cut, a flipped bit or a moved file does to them."""

import os
import shutil
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from raftkv.errors import CorruptionError, DirectoryLocked, DiskFailure, StorageError
from raftkv.storage.archive import (
    CHECK,
    COUNT,
    HEAD,
    LEASE,
    REVISION,
    SECTOR_BYTES,
    Event,
    Record,
    SegmentReader,
    contents,
    decode_events,
    decode_number,
    encode_events,
    encode_number,
    segment_path,
)
from raftkv.storage.archive_writer import ArchiveWriter

CLUSTER = 0xC1
BASE = 41


def begun(path: Path, **options: int) -> ArchiveWriter:
    """An archive behind a base, which is none here."""
    writer = ArchiveWriter(str(path), **options)
    Path(writer.part()).write_bytes(b"a base")
    writer.begin(CLUSTER, BASE)
    return writer


def filled(path: Path, revisions: int = 12, **options: int) -> None:
    """An archive with records of every kind."""
    writer = begun(path, **options)
    random = Random(1)
    for revision in range(BASE + 1, BASE + 1 + revisions):
        writer.append(LEASE, revision, 7, encode_number(60_000))
        events = [Event(revision % 5 == 0, random.randbytes(random.randrange(1, 40)))] * 2
        writer.append(REVISION, revision, revision, encode_events(events))
        writer.append(CHECK, revision, revision, encode_number(revision))
    writer.append(COUNT, 1, writer.end, encode_number(3))
    writer.sync()
    writer.close()


def only_segment(path: Path) -> Path:
    (name,) = contents(str(path)).segments.values()
    return Path(name)


def records(path: Path) -> list[Record]:
    """All whole records of the newest segment. Raises CorruptionError."""
    return list(SegmentReader(str(path), newest=True))


# --- format -----------------------------------------------------------------------


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    writer = begun(tmp_path / "a")
    events = [Event(False, b"one"), Event(True, b""), Event(False, b"\0" * 70_000)]
    writer.append(LEASE, 5, (1 << 64) - 7, encode_number(90_000))
    writer.append(REVISION, 6, BASE + 1, encode_events(events))
    writer.append(CHECK, 4, BASE + 1, encode_number(3))  # the clock was set back
    writer.close()
    lease, revision, check = records(only_segment(tmp_path / "a"))
    assert (lease.kind, lease.time_ms, lease.number) == (LEASE, 5, (1 << 64) - 7)
    assert decode_number(lease.payload) == 90_000
    assert (revision.number, decode_events(revision.payload)) == (BASE + 1, events)
    assert (check.time_ms, decode_number(check.payload)) == (6, 3)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
    assert only_segment(tmp_path / "a").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("payload", [b"", b"\0", b"\0\0\0\0\5abcd", b"\0\xff\xff\xff\xff"])
def test_events_that_are_cut_short_are_none(payload: bytes) -> None:
    with pytest.raises(CorruptionError):
        decode_events(payload)


def test_a_writer_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    filled(tmp_path / "a", 3)
    writer = ArchiveWriter(str(tmp_path / "a"))
    assert (writer.cluster, writer.end, writer.synced_end) == (CLUSTER, BASE + 3, BASE + 3)
    writer.append(REVISION, 99, BASE + 4, encode_events([Event(False, b"x")]))
    assert (writer.end, writer.synced_end) == (BASE + 4, BASE + 3)
    writer.sync()
    assert writer.synced_end == BASE + 4
    writer.close()
    assert records(only_segment(tmp_path / "a"))[-1].number == BASE + 4


def test_two_writers_of_one_archive_are_refused(tmp_path: Path) -> None:
    first = begun(tmp_path / "a")
    with pytest.raises(DirectoryLocked):
        ArchiveWriter(str(tmp_path / "a"))
    first.close()
    ArchiveWriter(str(tmp_path / "a")).close()


def test_a_long_archive_becomes_several_segments_that_continue_each_other(tmp_path: Path) -> None:
    filled(tmp_path / "a", 40, segment_bytes=700)
    segments = contents(str(tmp_path / "a")).segments
    assert len(segments) > 4
    chain, last = 0, BASE
    for number, (first, path) in enumerate(segments.items()):
        reader = SegmentReader(path, newest=False)
        assert (reader.head.begins, reader.head.first) == (number == 0, first)
        assert (reader.head.chain, first) == (chain, last + 1)
        list(reader)
        chain, last = reader.chain, reader.last
    assert last == BASE + 40


@pytest.mark.parametrize("segment_bytes", range(100, 200, 7))
def test_a_revision_lies_in_the_segment_of_its_leases(tmp_path: Path, segment_bytes: int) -> None:
    """A restore may begin with that segment."""
    writer = begun(tmp_path / "a", segment_bytes=segment_bytes)
    for revision in range(BASE + 1, BASE + 9):
        for lease in range(revision % 3):
            writer.append(LEASE, 0, lease, encode_number(1))
        writer.append(REVISION, 0, revision, encode_events([Event(False, b"x")]))
        writer.append(CHECK, 0, revision, encode_number(1))
    writer.close()
    segments = contents(str(tmp_path / "a")).segments.values()
    assert len(segments) > 2
    for path in segments:
        kinds = [one.kind for one in SegmentReader(path, newest=False) if one.kind != CHECK]
        assert kinds[-1] == REVISION


# --- what went wrong ----------------------------------------------------------------


def test_a_torn_end_is_cut_at_whatever_byte_and_everything_before_stays(tmp_path: Path) -> None:
    """D01, D04."""
    filled(tmp_path / "a", 4)
    path = only_segment(tmp_path / "a")
    whole, content = records(path), path.read_bytes()
    for size in range(HEAD.size, len(content)):
        kept = [one for one in whole if one.end <= size]
        path.write_bytes(content[:size])
        assert records(path) == kept
        if size % 37:
            continue
        writer = ArchiveWriter(str(tmp_path / "a"))
        end = kept[-1].end if kept else HEAD.size
        assert writer.cut_bytes == size - end
        writer.close()
        assert path.read_bytes() == content[:end]
        if size > end:
            path.write_bytes(content[:size])
            with pytest.raises(CorruptionError):  # another segment has followed
                list(SegmentReader(str(path), newest=False))


def test_zeros_that_fill_the_file_from_a_sector_on_are_a_torn_end(tmp_path: Path) -> None:
    """D02: pages of a write that a power cut has taken."""
    filled(tmp_path / "a", 30)
    path = only_segment(tmp_path / "a")
    whole, content = records(path), path.read_bytes()
    begin = len(content) // SECTOR_BYTES * SECTOR_BYTES
    kept = [one for one in whole if one.end <= begin]
    assert kept[-1].end < begin < len(content), "a record lies across the sectors' border"
    for zeros in (len(content) - begin, 3 * SECTOR_BYTES):
        path.write_bytes(content[:begin] + bytes(zeros))
        assert records(path) == kept
    path.write_bytes(content + bytes(2 * SECTOR_BYTES))
    assert records(path) == whole


def test_a_flipped_bit_never_gives_another_record_and_is_never_cut_away(tmp_path: Path) -> None:
    """D05, D06: whatever comes before it is whole, and a writer refuses to go on behind it."""
    filled(tmp_path / "a", 4)
    path = only_segment(tmp_path / "a")
    whole, content = records(path), path.read_bytes()
    random = Random(2)
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << random.randrange(8)
        path.write_bytes(flipped)
        seen: list[Record] = []
        with pytest.raises(CorruptionError):
            seen.extend(SegmentReader(str(path), newest=True))
        if place % 29 == 0:
            with pytest.raises(StorageError):
                ArchiveWriter(str(tmp_path / "a"))
        assert path.read_bytes() == flipped
        assert seen == whole[: len(seen)]


def test_damage_is_told_with_what_is_whole_before_it(tmp_path: Path) -> None:
    filled(tmp_path / "a", 6)
    path = only_segment(tmp_path / "a")
    content = bytearray(path.read_bytes())
    content[[one.end for one in records(path) if one.number == BASE + 4][-1] + 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptionError, match=f"behind revision {BASE + 4}"):
        ArchiveWriter(str(tmp_path / "a"))


def test_a_record_cannot_be_taken_out_put_in_or_moved(tmp_path: Path) -> None:
    filled(tmp_path / "a", 5)
    path = only_segment(tmp_path / "a")
    content = path.read_bytes()
    ends = [HEAD.size, *(one.end for one in records(path))]
    pieces = [content[begin:end] for begin, end in pairwise(ends)]
    for changed in (
        [*pieces[:3], *pieces[4:]],
        [*pieces[:3], pieces[2], *pieces[3:]],
        [*pieces[:2], pieces[3], pieces[2], *pieces[4:]],
    ):
        path.write_bytes(content[: HEAD.size] + b"".join(changed))
        with pytest.raises(CorruptionError):
            records(path)


def test_a_segment_under_another_name_is_refused(tmp_path: Path) -> None:
    filled(tmp_path / "a", 2)
    path = only_segment(tmp_path / "a")
    other = segment_path(str(tmp_path / "a"), 77)
    shutil.copyfile(path, other)
    with pytest.raises(CorruptionError, match="not what its name says"):
        SegmentReader(other, newest=True)


def test_links_are_refused_and_strange_names_are_not_looked_at(tmp_path: Path) -> None:
    """X14: nothing outside of the directory is read or written."""
    filled(tmp_path / "a", 2)
    outside = tmp_path / "outside"
    outside.write_bytes(b"keep")
    for name in (
        "segment-1.log",
        "base-..db",
        f"segment-{'9' * 20}.log.bak",
        f"base-{'9' * 20}.log",
    ):
        os.symlink(outside, tmp_path / "a" / name)
    assert len(contents(str(tmp_path / "a")).segments) == 1
    os.symlink(outside, segment_path(str(tmp_path / "a"), 99))
    for attempt in (contents, ArchiveWriter):
        with pytest.raises(CorruptionError, match="no plain file"):
            attempt(str(tmp_path / "a"))
    assert outside.read_bytes() == b"keep"


def test_a_base_or_segment_that_was_being_made_goes(tmp_path: Path) -> None:
    filled(tmp_path / "a", 2)
    left = [tmp_path / "a" / name for name in ("base.part", f"segment-{'1' * 20}.log.part")]
    for path in left:
        path.write_bytes(b"half")
    (tmp_path / "a" / "mine.part").write_bytes(b"keep")
    listing = tmp_path / "a" / "base-listing.part"
    listing.mkdir()
    (listing / "CURRENT").write_bytes(b"")
    writer = ArchiveWriter(str(tmp_path / "a"))
    assert not any(path.exists() for path in (*left, listing))
    assert (tmp_path / "a" / "mine.part").read_bytes() == b"keep"
    assert writer.end == BASE + 2
    writer.close()


def test_a_directory_with_other_things_in_it_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_bytes(b"")
    tmp_path.chmod(0o755)
    with pytest.raises(StorageError, match=r"holds letter.txt and no archive"):
        ArchiveWriter(str(tmp_path))
    assert os.listdir(tmp_path) == ["letter.txt"]
    assert tmp_path.stat().st_mode & 0o777 == 0o755


def test_what_could_not_be_synced_is_never_called_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D10: and the next writer goes on with what there is."""
    writer = begun(tmp_path / "a")
    writer.append(REVISION, 1, BASE + 1, encode_events([Event(False, b"x")]))

    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(DiskFailure):
            writer.sync()
    assert (writer.end, writer.synced_end) == (BASE + 1, BASE)
    writer.close()
    again = ArchiveWriter(str(tmp_path / "a"))
    assert again.end == BASE + 1  # read from the file: it may as well have been lost
    again.close()
