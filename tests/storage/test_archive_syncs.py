"""What an archive's writer calls durable is there after a power cut, and nothing torn before it.

The disk is the real one, watched: `Platter` keeps what every fsync has made durable.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from raftkv.storage.archive import (
    REVISION,
    Event,
    SegmentReader,
    contents,
    decode_events,
    encode_events,
)
from raftkv.storage.archive_writer import ArchiveWriter

CLUSTER: Final = 0xC1
BASE: Final = 41


class Platter:
    """The files of one directory as a power cut at this moment would leave them.

    A file's content is durable as of its last fsync, the names as of the directory's last one.
    What was written later is lost. pictures: the same after each fsync, oldest first.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._synced: dict[int, bytes] = {}  # by inode
        self._names: dict[str, int] = {}
        self._held: list[int] = []
        self._fsync = os.fsync
        self.pictures: list[dict[str, bytes]] = []

    def fsync(self, descriptor: int) -> None:
        """Stands in for os.fsync."""
        self._fsync(descriptor)
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            if not os.path.samestat(status, self._directory.stat()):
                return
            self._names = {one.name: one.stat().st_ino for one in self._directory.iterdir()}
        else:
            self._held.append(os.dup(descriptor))  # so that no other file gets this inode
            self._synced[status.st_ino] = Path(f"/proc/self/fd/{descriptor}").read_bytes()
        self.pictures.append(
            {name: self._synced.get(inode, b"") for name, inode in self._names.items()}
        )

    def after_a_cut(self, target: Path) -> Path:
        """A directory with what is left."""
        target.mkdir()
        for name, content in self.pictures[-1].items():
            (target / name).write_bytes(content)
        return target

    def close(self) -> None:
        """Lets the files go."""
        for descriptor in self._held:
            os.close(descriptor)


@pytest.fixture
def platter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platter]:
    """That of the archive `a`."""
    platter = Platter(tmp_path / "a")
    monkeypatch.setattr(os, "fsync", platter.fsync)
    yield platter
    platter.close()


def begun(path: Path) -> ArchiveWriter:
    writer = ArchiveWriter(str(path))
    begin(writer, BASE)
    return writer


def begin(writer: ArchiveWriter, revision: int) -> None:
    """Goes on with a base of this revision, which is none here."""
    Path(writer.part()).write_bytes(b"a base of %d" % revision)
    writer.begin(CLUSTER, revision)


def add(writer: ArchiveWriter, value: bytes) -> None:
    writer.append(REVISION, 1, writer.end + 1, encode_events([Event(False, value)]))


def values(path: str, *, newest: bool) -> list[bytes]:
    """What the records of a segment hold. Raises CorruptionError."""
    return [
        event.framed
        for record in SegmentReader(path, newest=newest)
        for event in decode_events(record.payload)
    ]


def test_the_platter_loses_what_was_not_synced(tmp_path: Path, platter: Platter) -> None:
    """The judge of the other tests can tell."""
    writer = begun(tmp_path / "a")
    add(writer, b"synced")
    writer.sync()
    add(writer, b"lost")
    writer.close()
    (before,) = contents(str(tmp_path / "a")).segments.values()
    assert values(before, newest=True) == [b"synced", b"lost"]
    (after,) = contents(str(platter.after_a_cut(tmp_path / "b"))).segments.values()
    assert values(after, newest=True) == [b"synced"]


@pytest.mark.parametrize("torn", [b"", b"\1half a record"])
def test_a_writer_that_goes_on_makes_durable_what_a_killed_one_had_not_synced(
    tmp_path: Path, platter: Platter, torn: bytes
) -> None:
    """D01: the kernel has it and shows it; only a sync lets anybody be told of it."""
    killed = begun(tmp_path / "a")
    add(killed, b"one")
    add(killed, b"two")
    killed.close()
    (segment,) = contents(str(tmp_path / "a")).segments.values()
    with open(segment, "ab") as file:
        file.write(torn)
    writer = ArchiveWriter(str(tmp_path / "a"))
    promised = writer.synced_end
    assert (promised, writer.cut_bytes) == (BASE + 2, len(torn))
    left = platter.after_a_cut(tmp_path / "b")
    writer.close()
    again = ArchiveWriter(str(left))
    assert (again.end, again.cut_bytes) == (promised, 0)
    again.close()


def test_what_lies_before_a_gap_is_durable_before_the_new_base_is(
    tmp_path: Path, platter: Platter
) -> None:
    """D01: nobody writes or syncs the older segment any more, and a torn one before another is
    damage.
    """
    writer = begun(tmp_path / "a")
    add(writer, b"one")
    add(writer, b"two")
    (older,) = contents(str(tmp_path / "a")).segments.values()
    begin(writer, BASE + 10)
    assert writer.synced_end == BASE + 10
    older_name = Path(older).name
    base_name = Path(contents(str(tmp_path / "a")).bases[BASE + 10]).name
    whole = Path(older).read_bytes()
    met = [picture for picture in platter.pictures if base_name in picture]
    assert met
    assert [picture[older_name] == whole for picture in met] == [True] * len(met)
    left = contents(str(platter.after_a_cut(tmp_path / "b")))
    writer.close()
    assert values(left.segments[BASE + 1], newest=False) == [b"one", b"two"]


def test_a_full_segment_is_durable_before_the_next_one_has_its_name(
    tmp_path: Path, platter: Platter
) -> None:
    """D01: also a base and a head are, so that every file that is there is what its name says."""
    writer = ArchiveWriter(str(tmp_path / "a"), segment_bytes=300)
    begin(writer, BASE)
    for number in range(20):
        add(writer, b"%d" % number * 20)
    writer.sync()
    writer.close()
    files = contents(str(tmp_path / "a"))
    names = [Path(path).name for path in files.segments.values()]
    (base,) = files.bases.values()
    assert len(names) > 3
    whole = {one.name: one.read_bytes() for one in (tmp_path / "a").iterdir()}
    for picture in platter.pictures:
        there = [name for name in names if name in picture]
        assert [picture[name] == whole[name] for name in there[:-1]] == [True] * len(there[:-1])
        assert all(picture[name] for name in there), "without its head"
        assert picture.get(Path(base).name, whole[Path(base).name]) == whole[Path(base).name]
    assert platter.pictures[-1].keys() >= set(names)
