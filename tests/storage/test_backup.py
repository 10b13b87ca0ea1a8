"""Snapshot files, copies of a state in use, and directories that begin with a ready-made state."""

import os
import re
import shutil
import struct
import threading
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any
from zlib import crc32

import pytest

from raftkv.errors import CorruptionError, DiskFailure, StorageError
from raftkv.storage.backup import (
    BLOCK_BYTES,
    HASH_BYTES,
    MAGIC,
    SnapshotSource,
    check_snapshot,
    unpack,
)
from raftkv.storage.files import REAL, RealFileSystem
from raftkv.storage.founding import found, founding_of, replace
from raftkv.storage.leveldb import LEVELDB, LevelBackend
from raftkv.storage.recovery import (
    COPIES,
    RESTORING,
    WHOLE_REPLACEMENT,
    DataDirectory,
    Identity,
    finish_replacement,
)
from raftkv.storage.tables import link_tables, live_tables, prune

ABOUT = {"cluster": "1", "revision": 5}


def state(path: Path, rows: int = 2000, **options: Any) -> LevelBackend:
    """A state with some tables."""
    path.mkdir()
    made = LEVELDB.open_state(str(path), buffer_bytes=1 << 16, create=True, **options)
    assert isinstance(made, LevelBackend)
    for first in range(0, rows, 100):
        made.write([(b"k%06d" % one, b"v" * 50) for one in range(first, first + 100)])
    made.sync()
    return made


def copied(tmp_path: Path) -> Path:
    """A directory with the tables of a state."""
    made = state(tmp_path / "state")
    link_tables(made.directory, str(tmp_path / "copy"))
    made.close()
    return tmp_path / "copy"


def written(directory: Path, path: Path, about: Any = None) -> bytes:
    """Makes a snapshot file of a directory; its content."""
    source = SnapshotSource(str(directory), ABOUT if about is None else about)
    content = b"".join(iter(lambda: source.read(10_000), b""))
    assert len(content) == source.total_bytes
    path.write_bytes(content)
    return content


@pytest.fixture
def whole(tmp_path: Path) -> tuple[Path, bytes]:
    """A snapshot file and its content."""
    path = tmp_path / "whole.db"
    return path, written(copied(tmp_path), path)


# --- the file -------------------------------------------------------------------


def test_a_snapshot_brings_every_file_and_its_description_back(
    tmp_path: Path, whole: tuple[Path, bytes]
) -> None:
    path, content = whole
    found_there = check_snapshot(str(path))
    assert found_there.description == ABOUT
    assert found_there.digest == sha256(content[:-HASH_BYTES]).digest() == content[-HASH_BYTES:]
    assert found_there.hash == crc32(content[:-HASH_BYTES])
    (tmp_path / "out").mkdir()
    unpack(found_there, str(tmp_path / "out"))
    names = sorted(os.listdir(tmp_path / "copy"))
    assert sorted(os.listdir(tmp_path / "out")) == names
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "copy" / name).read_bytes()
    opened = LEVELDB.open_state(str(tmp_path / "out"), buffer_bytes=1 << 16)
    assert sum(1 for _ in opened.scan(b"", b"\xff")) == 2000
    opened.close()


def test_a_snapshot_has_the_size_that_etcdctl_asks_for(tmp_path: Path) -> None:
    directory = tmp_path / "parts"
    directory.mkdir()
    for size in (0, 1, 300, 511, 512, 513):
        (directory / "000005.ldb").write_bytes(bytes(size))
        content = written(directory, tmp_path / "file")
        assert len(content) % BLOCK_BYTES == HASH_BYTES
        check_snapshot(str(tmp_path / "file"))


def test_a_snapshot_that_is_cut_anywhere_is_refused(
    tmp_path: Path, whole: tuple[Path, bytes]
) -> None:
    """D09: at every block, where only the hash can tell, and at random places."""
    content = whole[1]
    random = Random(1)
    cuts = [HASH_BYTES + BLOCK_BYTES * n for n in range(len(content) // BLOCK_BYTES)]
    cuts = random.sample(cuts, min(len(cuts), 60)) + random.sample(range(len(content)), 60)
    path = tmp_path / "cut"
    for size in (*cuts, 0, 1, len(MAGIC), len(content) - 1, len(content) - BLOCK_BYTES):
        path.write_bytes(content[:size])
        with pytest.raises(CorruptionError):
            check_snapshot(str(path))


def test_a_snapshot_with_a_flipped_bit_anywhere_is_refused(
    tmp_path: Path, whole: tuple[Path, bytes]
) -> None:
    """D09."""
    content = whole[1]
    random = Random(2)
    path = tmp_path / "flipped"
    path.write_bytes(content)
    places = [*range(0, 80, 3), *random.sample(range(len(content)), 120), len(content) - 1]
    with path.open("r+b") as file:
        for place in places:
            file.seek(place)
            file.write(bytes((content[place] ^ 1 << random.randrange(8),)))
            file.flush()
            with pytest.raises(CorruptionError):
                check_snapshot(str(path))
            file.seek(place)
            file.write(content[place : place + 1])
    check_snapshot(str(path))


def test_bytes_behind_the_end_are_refused(tmp_path: Path, whole: tuple[Path, bytes]) -> None:
    body = whole[1][:-HASH_BYTES] + bytes(BLOCK_BYTES)
    path = tmp_path / "longer"
    path.write_bytes(body + sha256(body).digest())
    with pytest.raises(CorruptionError, match="goes on behind its end"):
        check_snapshot(str(path))


def crafted(parts: list[tuple[bytes, bytes]], told: int | None = None) -> bytes:
    """A file with a right hash and these parts."""
    text = b"{}"
    head = struct.pack(">16sHI", MAGIC, 1, len(text)) + text
    body = head + struct.pack(">I", crc32(head))
    for name, content in parts:
        body += struct.pack(">cHQ", b"F", len(name), len(content)) + name + content
    count = len(parts) if told is None else told
    body += struct.pack(">cIQ", b"E", count, sum(len(content) for _, content in parts))
    body += bytes(-len(body) % BLOCK_BYTES)
    return body + sha256(body).digest()


@pytest.mark.parametrize(
    "name",
    [b"../000005.ldb", b"/000005.ldb", b"a/000005.ldb", b"..", b"", b"identity", b"CURRENT\n",
     b"000005.log", b"MANIFEST-1", b"000005.ldb\0", b"\xff00005.ldb"],
)  # fmt: skip
def test_no_name_leads_out_of_the_directory(tmp_path: Path, name: bytes) -> None:
    """X14: also with a right hash."""
    path = tmp_path / "crafted"
    path.write_bytes(crafted([(name, b"x")]))
    with pytest.raises(CorruptionError, match="impossible part"):
        check_snapshot(str(path))


def test_impossible_parts_are_refused(tmp_path: Path) -> None:
    """X14: a name twice, a part that is missing, a length beyond the file, another version."""
    path = tmp_path / "crafted"
    good = crafted([(b"CURRENT", b"x")])
    path.write_bytes(good)
    check_snapshot(str(path))
    for bad, reason in (
        (crafted([(b"CURRENT", b"x"), (b"CURRENT", b"x")]), "impossible part"),
        (crafted([(b"CURRENT", b"x")], told=2), "lacks parts"),
    ):
        path.write_bytes(bad)
        with pytest.raises(CorruptionError, match=reason):
            check_snapshot(str(path))
    at = good.index(b"CURRENT") - 8
    for lie in (2**63, len(good), 2**32):
        body = good[:at] + struct.pack(">Q", lie) + good[at + 8 : -HASH_BYTES]
        path.write_bytes(body + sha256(body).digest())
        with pytest.raises(CorruptionError, match="impossible part"):
            check_snapshot(str(path))
    newer = bytearray(good[:-HASH_BYTES])
    newer[17] = 9
    path.write_bytes(newer + sha256(newer).digest())
    with pytest.raises(CorruptionError, match="unknown version 9"):
        check_snapshot(str(path))


def test_a_file_of_etcd_and_any_other_file_are_called_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(16) + b"\xed\xda\x0c\xed" + bytes(4096))
    with pytest.raises(CorruptionError, match=r"a snapshot of etcd .*etcdutl.*raftctl import"):
        check_snapshot(str(path))
    path.write_bytes(b"hello")
    with pytest.raises(CorruptionError, match="no snapshot of raftkv"):
        check_snapshot(str(path))
    with pytest.raises(DiskFailure, match="cannot be read"):
        check_snapshot(str(tmp_path / "none"))


def test_a_wrong_hash_can_be_skipped_and_a_change_after_the_check_is_noticed(
    tmp_path: Path, whole: tuple[Path, bytes]
) -> None:
    path, content = whole
    path.write_bytes(content[:-1] + bytes((content[-1] ^ 1,)))
    checked = check_snapshot(str(path), skip_hash=True)
    part = checked.parts[1]
    changed = bytearray(content)
    changed[part.at + 1] ^= 1
    path.write_bytes(changed)
    (tmp_path / "out").mkdir()
    with pytest.raises(CorruptionError, match="was changed"):
        unpack(checked, str(tmp_path / "out"))


# --- copies of a state in use ---------------------------------------------------------


def test_a_copy_is_the_state_as_of_one_write_while_others_go_on(tmp_path: Path) -> None:
    """Rows of one write are in it together, and everything written before it was asked for."""
    (tmp_path / "state").mkdir()
    backend = LEVELDB.open_state(str(tmp_path / "state"), buffer_bytes=1 << 18, create=True)
    stop = threading.Event()
    finished = [0]

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            value = b"%d" % number
            rows = [(b"k%02d%s" % (one, value[-2:]), value * 20) for one in range(50)]
            backend.write([(b"a", value), *rows, (b"z", value)])
            finished[0] = number

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for one in range(5):
            before = finished[0]
            backend.sync()
            link_tables(backend.directory, str(tmp_path / f"copy{one}"))
            copy = LEVELDB.open_state(str(tmp_path / f"copy{one}"), buffer_bytes=1 << 16)
            try:
                number = copy.get(b"a")
                assert number == copy.get(b"z")
                assert int(number or 0) >= before
                last = (number or b"")[-2:]
                rows = [copy.get(b"k%02d%s" % (row, last)) for row in range(50)]
                if number:
                    assert rows == [number * 20] * 50
            finally:
                copy.close()
    finally:
        stop.set()
        writer.join()
        backend.close()


def listed(directory: Path | str) -> dict[int, int]:
    """Sizes by number of the tables that a LevelDB's list names."""
    name = (Path(directory) / "CURRENT").read_text().strip()
    return live_tables((Path(directory) / name).read_bytes(), str(directory))


def settled(directory: Path) -> set[str]:
    """Opens a copy once and prunes it, as a snapshot does; the names in it."""
    LEVELDB.open_state(str(directory), buffer_bytes=1 << 16).close()
    prune(str(directory))
    return set(os.listdir(directory))


def names_of(directory: Path) -> set[str]:
    """What must be in a copy: the live tables, their list, and what says which list it is."""
    tables = {f"{number:06d}.ldb" for number in listed(directory)}
    return tables | {"CURRENT", (directory / "CURRENT").read_text().strip()}


def test_a_copy_has_the_live_tables_and_takes_no_space_of_its_own(tmp_path: Path) -> None:
    backend = state(tmp_path / "state", rows=20_000)
    backend.compact(b"", b"\xff")
    copy = tmp_path / "copy"
    link_tables(backend.directory, str(copy))
    assert listed(copy) == listed(backend.directory)
    assert settled(copy) == names_of(copy)
    for number, size in listed(copy).items():
        name = f"{number:06d}.ldb"
        assert (copy / name).stat().st_size == size
        assert (copy / name).samefile(tmp_path / "state" / name)
    backend.write([(b"k%06d" % one, None) for one in range(20_000)])
    backend.sync()
    backend.compact(b"", b"\xff")
    backend.close()
    opened_copy = LEVELDB.open_state(str(copy), buffer_bytes=1 << 16)
    assert sum(1 for _ in opened_copy.scan(b"", b"\xff")) == 20_000
    opened_copy.close()


def test_a_copy_begins_again_when_tables_go_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that LevelDB removes between the list and the link is no error, one that was linked
    without need is not kept.
    """
    backend = state(tmp_path / "state", rows=10_000)
    backend.write([(b"k%06d" % one, b"w" * 60) for one in range(10_000)])
    backend.sync()
    link = os.link
    linked: list[str] = []

    def merge_between(source: str, target: str) -> None:
        if len(linked) == 1:
            backend.compact(b"", b"\xff")
        linked.append(source)
        link(source, target)

    monkeypatch.setattr(os, "link", merge_between)
    copy = tmp_path / "copy"
    link_tables(backend.directory, str(copy))
    assert listed(copy) == listed(backend.directory)
    assert linked[0] not in {f"{backend.directory}/{n:06d}.ldb" for n in listed(copy)}
    assert settled(copy) == names_of(copy)
    opened_copy = LEVELDB.open_state(str(copy), buffer_bytes=1 << 16)
    assert opened_copy.get(b"k000001") == b"w" * 60
    opened_copy.close()
    backend.close()


def test_a_damaged_list_of_tables_is_refused(tmp_path: Path) -> None:
    directory = copied(tmp_path)
    manifest = next(directory.glob("MANIFEST-*"))
    content = manifest.read_bytes()
    manifest.write_bytes(content[:7] + b"\x3f" + content[8:])
    with pytest.raises(CorruptionError, match=r"list of tables .* is damaged"):
        prune(str(directory))
    (directory / "CURRENT").unlink()
    with pytest.raises(CorruptionError, match="cannot be read"):
        prune(str(directory))
    with pytest.raises(CorruptionError, match="cannot be read"):
        link_tables(str(directory), str(tmp_path / "other"))


class Deaf:
    """A LevelDB that drops the first orders to write its memory out."""

    def __init__(self, db: Any, drops: int) -> None:
        self._db = db
        self.drops = drops

    def compact_range(self, **area: bytes) -> None:
        if self.drops:
            self.drops -= 1
        else:
            self._db.compact_range(**area)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


def test_an_order_to_sync_that_leveldb_drops_is_given_again(tmp_path: Path) -> None:
    """D17: a checkpoint that was not made must not let the log be dropped. LevelDB drops the order
    if it waits behind a write that is being slowed down.
    """
    backend = state(tmp_path / "state", rows=100)
    backend.write([(b"new", b"row")])
    backend._db = Deaf(backend._db, 3)
    backend.sync()
    link_tables(backend.directory, str(tmp_path / "copy"))
    copy = LEVELDB.open_state(str(tmp_path / "copy"), buffer_bytes=1 << 16)
    assert copy.get(b"new") == b"row"
    copy.close()
    backend._db.drops = 10**9
    backend.write([(b"newer", b"row")])
    with pytest.raises(DiskFailure, match="does not write its memory out"):
        backend.sync()
    backend.close()


# --- directories with a ready-made state ------------------------------------------------


OLD = Identity(0xC1, 0xA1, 77)
NEW = Identity(0xC2, 0xA1, 78)


def fill(path: str) -> None:
    made = LEVELDB.open_state(path, buffer_bytes=1 << 16, create=True)
    made.write([(b"who", b"new")])
    made.sync()
    made.close()


def opened(path: str, identity: Identity) -> DataDirectory:
    return DataDirectory.open(path, identity.cluster, identity.member, state_buffer_bytes=1 << 16)


def test_a_founded_directory_opens_with_its_state_and_an_empty_log(tmp_path: Path) -> None:
    path = str(tmp_path)
    found(path, NEW, fill, {"by": "test"})
    assert DataDirectory.peek(path) == NEW
    assert founding_of(path) == {"by": "test"}
    directory = opened(path, NEW)
    assert directory.state.get(b"who") == b"new"
    assert directory.recovered.last_index == 0
    assert not directory.fresh
    directory.close()


def test_no_member_starts_where_a_restore_has_not_ended(tmp_path: Path) -> None:
    """D17, for restores: after a crash before any step the directory is refused, not taken for a
    new and empty one.
    """

    def broken(path: str) -> None:
        fill(path)
        raise DiskFailure("full")

    path = str(tmp_path)
    with pytest.raises(DiskFailure, match="full"):
        found(path, NEW, broken, {})
    with pytest.raises(StorageError, match=r"a restore into .* has not ended"):
        opened(path, NEW)
    (tmp_path / "creating").touch()
    with pytest.raises(StorageError, match="has not ended"):
        opened(path, NEW)
    assert (tmp_path / RESTORING).exists()


class Crash(Exception):
    """The process ends here."""


class CrashingFiles(RealFileSystem):
    """Ends at the given change of the disk."""

    def __init__(self, left: int) -> None:
        self.left = left

    def _step(self) -> None:
        if not self.left:
            raise Crash
        self.left -= 1

    def rename(self, old: str, new: str) -> None:
        self._step()
        super().rename(old, new)

    def remove_tree(self, path: str) -> None:
        self._step()
        super().remove_tree(path)


def test_a_replacement_takes_place_whatever_step_a_crash_interrupts(scratch: Path) -> None:
    """D17, for --force-new-cluster."""
    original = scratch / "original"
    first = DataDirectory.open(str(original), OLD.cluster, OLD.member, incarnation=77)
    first.state.write([(b"who", b"old")])
    number = first.next_state_number()
    for name in ("peers", "failed", "distrusted"):
        (original / name).touch()
    replace(str(original), NEW, fill, {"by": "force"}, state_number=number)
    first.close()
    assert (original / WHOLE_REPLACEMENT).exists()
    steps = 0
    for left in range(100):
        path = scratch / f"crash{left}"
        shutil.copytree(original, path)
        crashed = False
        with suppress(Crash):
            finish_replacement(CrashingFiles(left), str(path))
            crashed = True
        assert DataDirectory.peek(str(path)) == NEW
        directory = opened(str(path), NEW)
        assert directory.state.get(b"who") == b"new"
        assert directory.recovered.last_index == 0
        directory.close()
        names = {re.sub(r"\d+", "N", name) for name in os.listdir(path)}
        assert names == {"LOCK", "identity", "mark.a", "mark.b", "founded", "log", "state-N"}
        shutil.rmtree(path)
        if crashed:
            steps = left
            break
    assert steps > 8, "it has more steps than that"


def test_an_unfinished_replacement_changes_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "member")
    first = DataDirectory.open(path, OLD.cluster, OLD.member, incarnation=77)
    first.state.write([(b"who", b"old")])

    def broken(where: str) -> None:
        fill(where)
        raise DiskFailure("full")

    with pytest.raises(DiskFailure, match="full"):
        replace(path, NEW, broken, {}, state_number=first.next_state_number())
    first.close()
    again = opened(path, OLD)
    assert again.state.get(b"who") == b"old"
    again.close()
    assert not os.path.exists(f"{path}/replacement")


def test_copies_that_a_crash_has_left_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "member"
    opened(str(path), OLD).close()
    (path / COPIES / "1").mkdir(parents=True)
    (path / COPIES / "1" / "000005.ldb").touch()
    opened(str(path), OLD).close()
    assert not (path / COPIES).exists()
    assert REAL.names(str(path))
