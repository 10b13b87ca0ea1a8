"""How far an archive leads, and what stands in the way: revisions, times, gaps, damage."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raftkv.config import ServerConfig
from raftkv.errors import ConfigError, CorruptionError, StorageError
from raftkv.kv.machine import StateMachine
from raftkv.pb import kv_pb2
from raftkv.server.archive import LATE_MS, Plan, Target, make_plan, parse_time, text_of
from raftkv.server.archiving import Archive, archive_status
from raftkv.server.restoring import Archived, Restored, Rewriting, restore
from raftkv.storage.archive import contents
from raftkv.storage.leveldb import LEVELDB
from raftkv.storage.recovery import STATE, STATE_BUFFER_BYTES

CLUSTER = 0xC1
BASE = 5
BEGAN_S = 1_000_000  # the base's time
STEP_MS = 1_000  # between two revisions


def pair(key: bytes, revision: int, **more: Any) -> kv_pb2.KeyValue:
    return kv_pb2.KeyValue(
        key=key, value=b"v", create_revision=revision, mod_revision=revision, version=1, **more
    )


def put_event(revision: int, **more: Any) -> kv_pb2.Event:
    return kv_pb2.Event(kv=pair(b"k%d" % revision, revision, **more))


def time_of(revision: int) -> int:
    """When the archiver received it."""
    return BEGAN_S * 1000 + 2_000 + revision * STEP_MS


def begin(archive: Archive, revision: int, cluster: int = CLUSTER, seconds: int = BEGAN_S) -> None:
    """A base of one key per revision."""
    pairs = [pair(b"k%d" % one, one) for one in range(2, revision + 1)]
    pairs.sort(key=lambda one: one.key)
    archive.begin_with_listing(cluster, revision, pairs, lambda _: 0, seconds * 10**9)


def extend(archive: Archive, until: int) -> None:
    """Every revision is followed by a note that the archive is complete up to half a step later."""
    for revision in range(archive.end + 1, until + 1):
        archive.add([put_event(revision)], time_of(revision))
        archive.add_check(time_of(revision) + STEP_MS // 2, time_of(revision) + STEP_MS // 2 + 1)
    archive.add_count(until - 1, time_of(until) + STEP_MS // 2 + 2)


def made(path: Path, until: int = 20, base: int = BASE, **options: Any) -> Path:
    """An archive from a base up to a revision."""
    archive = Archive(str(path), **options)
    begin(archive, base)
    extend(archive, until)
    archive.sync()
    archive.close()
    return path


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of several segments; to be copied, not to be changed."""
    path = made(tmp_path_factory.mktemp("archive") / "a", segment_bytes=200)
    assert len(contents(str(path)).segments) > 3
    return path


@pytest.fixture
def archive(kept: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(kept, tmp_path / "a")
    return tmp_path / "a"


def plan(path: Path, revision: int | None = None, time_ms: int | None = None) -> Plan:
    return make_plan(str(path), Target(revision, time_ms))


def restored(path: Path, directory: Path, target: Target, base: str = "") -> Restored:
    config = ServerConfig(name="one", data_dir=directory)
    return restore(base, config, Rewriting(0, False), archived=Archived(str(path), target))


def keys_of(directory: Path) -> list[bytes]:
    """The keys in a restored data directory."""
    state = LEVELDB.open_state(f"{directory}/{STATE}1", buffer_bytes=STATE_BUFFER_BYTES)
    try:
        return list(StateMachine(state, 0).store.index.keys(b"\0", b"\0"))
    finally:
        state.close()


# --- revisions ----------------------------------------------------------------------


@pytest.mark.parametrize("revision", [BASE, BASE + 1, 13, 20, None])
def test_a_restore_has_the_revision_that_was_asked_for(
    kept: Path, tmp_path: Path, revision: int | None
) -> None:
    done = restored(kept, tmp_path / "d", Target(revision))
    until = 20 if revision is None else revision
    assert (done.before.revision, done.note) == (until, "")
    assert keys_of(tmp_path / "d") == sorted(b"k%d" % one for one in range(2, until + 1))


def test_members_restored_to_different_revisions_refuse_each_other(
    kept: Path, tmp_path: Path
) -> None:
    """M18: their cluster ids differ; that of the same revision is the same."""
    ids = [
        restored(kept, tmp_path / str(number), Target(revision)).identity.cluster
        for number, revision in enumerate((12, 13, 12))
    ]
    assert ids[0] == ids[2] != ids[1]


@pytest.mark.parametrize("revision", [0, BASE - 1, 21, 10**12])
def test_a_revision_that_is_not_covered_is_refused_and_nothing_is_made(
    kept: Path, tmp_path: Path, revision: int
) -> None:
    with pytest.raises(ConfigError):
        restored(kept, tmp_path / "d", Target(revision))
    assert os.listdir(tmp_path) == []


def test_a_snapshot_of_ones_own_can_be_the_base(kept: Path, tmp_path: Path) -> None:
    later = made(tmp_path / "later", until=15, base=11)
    base = contents(str(later)).bases[11]
    assert restored(kept, tmp_path / "d", Target(14), base).before.revision == 14
    assert restored(kept, tmp_path / "e", Target(11), base).before.revision == 11
    with pytest.raises(ConfigError, match="later than 10"):
        restored(kept, tmp_path / "f", Target(10), base)
    assert len(keys_of(tmp_path / "d")) == 13


def test_an_archive_of_another_cluster_is_refused(kept: Path, tmp_path: Path) -> None:
    other = Archive(str(tmp_path / "other"))
    begin(other, 11, cluster=0xC2)
    other.close()
    with pytest.raises(ConfigError, match="of the cluster"):
        restored(kept, tmp_path / "d", Target(14), contents(str(tmp_path / "other")).bases[11])
    assert not (tmp_path / "d").exists()


def test_a_restore_never_goes_into_a_directory_that_is_not_empty(
    kept: Path, tmp_path: Path
) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "mine").write_bytes(b"1")
    with pytest.raises(ConfigError, match="not empty"):
        restored(kept, tmp_path / "d", Target(14))
    assert os.listdir(tmp_path / "d") == ["mine"]


# --- damage -------------------------------------------------------------------------


def third(path: Path) -> Path:
    return Path(list(contents(str(path)).segments.values())[2])


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [remove, cut, flip])
def test_nothing_behind_damage_is_restored_and_all_before_is(
    archive: Path, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    """D05, D09: whatever was done to a segment, told before anything is made."""
    path = third(archive)
    first = int(path.stem.removeprefix("segment-"))
    harm(path)
    for revision in (20, first + 5, None):
        with pytest.raises((ConfigError, CorruptionError)):
            restored(archive, tmp_path / "d", Target(revision))
    assert not (tmp_path / "d").exists()
    done = restored(archive, tmp_path / "d", Target(first - 1))
    assert done.before.revision == first - 1
    assert archive_status(str(archive)).faults
    with pytest.raises((ConfigError, CorruptionError)):
        plan(archive, time_ms=time_of(19))
    assert plan(archive, time_ms=time_of(first - 2)).revision == first - 2


def test_a_segment_of_an_archive_that_went_another_way_is_refused(
    archive: Path, tmp_path: Path
) -> None:
    other = Archive(str(tmp_path / "other"), segment_bytes=200)
    begin(other, BASE)
    other.add([kv_pb2.Event(kv=pair(b"l6", 6))], time_of(6))
    other.add_check(time_of(6) + STEP_MS // 2, time_of(6) + STEP_MS // 2 + 1)
    extend(other, 20)
    other.close()
    path = third(archive)
    path.write_bytes((tmp_path / "other" / path.name).read_bytes())
    with pytest.raises(ConfigError, match="another file lies in its place"):
        plan(archive, 20)
    assert archive_status(str(archive)).faults


@pytest.mark.parametrize("harm", [cut, flip])
def test_a_damaged_base_is_refused(
    archive: Path, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    """D09"""
    harm(Path(contents(str(archive)).bases[BASE]))
    with pytest.raises(CorruptionError):
        restored(archive, tmp_path / "d", Target(7))
    assert not (tmp_path / "d").exists()
    assert archive_status(str(archive)).faults


def test_a_torn_end_is_told_and_what_is_whole_is_restored(archive: Path, tmp_path: Path) -> None:
    path = Path(list(contents(str(archive)).segments.values())[-1])
    path.write_bytes(path.read_bytes()[:-3])
    assert "ends within a record" in plan(archive).note
    assert any("ends within a record" in note for note in archive_status(str(archive)).notes)
    assert archive_status(str(archive)).faults == []


def test_an_archive_that_lacks_a_write_does_not_pass_its_count(tmp_path: Path) -> None:
    """What no checksum shows: a watch that left something out."""
    archive = Archive(str(tmp_path / "a"))
    begin(archive, BASE)
    archive.add([put_event(BASE + 1)], 0)
    archive.add_count(BASE + 1, 0)  # one more than there were
    archive.close()
    with pytest.raises(CorruptionError, match="lacks something"):
        restored(tmp_path / "a", tmp_path / "d", Target(BASE + 1))
    assert not (tmp_path / "d").exists()


# --- gaps -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gapped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5 to 10, and from 15 to 20; what lies between was compacted before it was archived."""
    path = made(tmp_path_factory.mktemp("gapped") / "a", until=10)
    archive = Archive(str(path))
    begin(archive, 15, seconds=time_of(15) // 1000)
    extend(archive, 20)
    archive.close()
    return path


def test_nothing_is_restored_into_a_gap_and_all_around_it_is(gapped: Path) -> None:
    assert [plan(gapped, one).revision for one in (5, 10, 15, 20)] == [5, 10, 15, 20]
    for revision in (11, 14):
        with pytest.raises(ConfigError, match="between revision 10 and 15 nothing was archived"):
            plan(gapped, revision)
    assert plan(gapped).revision == 20
    with pytest.raises(ConfigError, match="10 can be restored"):
        make_plan(str(gapped), Target(), contents(str(gapped)).bases[5])
    with pytest.raises(ConfigError, match="nothing was archived"):
        plan(gapped, time_ms=time_of(12))
    assert plan(gapped, time_ms=time_of(9)).revision == 9
    assert plan(gapped, time_ms=time_of(18)).revision == 18


def test_status_tells_what_is_covered_and_what_is_not(gapped: Path, archive: Path) -> None:
    found = archive_status(str(gapped))
    runs = [(run.bases, run.first, run.last) for run in found.runs]
    assert runs == [([5], 6, 10), ([15], 16, 20)]
    assert [run.since_ms for run in found.runs] == [time_of(6), time_of(16)]
    assert [run.until_ms for run in found.runs] == [time_of(one) + STEP_MS // 2 for one in (10, 20)]
    assert (found.cluster, found.faults, len(found.notes)) == (CLUSTER, [], 1)
    os.unlink(contents(str(archive)).bases[BASE])
    (run,) = archive_status(str(archive)).runs
    assert (run.bases, run.first, run.last) == ([], 6, 20)


# --- times ----------------------------------------------------------------------------


def test_a_time_leads_to_the_newest_revision_received_by_then(kept: Path) -> None:
    for revision in range(BASE + 1, 20):
        for later in (0, 1, STEP_MS - 1):
            assert plan(kept, time_ms=time_of(revision) + later).revision == revision
    assert plan(kept, time_ms=time_of(BASE + 1) - 1).revision == BASE
    assert plan(kept, time_ms=time_of(20) + STEP_MS // 2).revision == 20


@pytest.mark.parametrize("time_ms", [0, BEGAN_S * 1000 + 999, time_of(20) + STEP_MS, 10**14])
def test_a_time_that_is_not_covered_is_refused(kept: Path, time_ms: int) -> None:
    with pytest.raises(ConfigError, match=r"--to-time|no base that lies before"):
        plan(kept, time_ms=time_ms)


def test_a_time_while_nobody_archived_is_refused_with_the_revisions_to_choose_from(
    tmp_path: Path,
) -> None:
    path = made(tmp_path / "a", until=10)
    archive = Archive(str(path))
    late = time_of(10) + LATE_MS + STEP_MS
    archive.add([put_event(11)], late)
    archive.add_check(late, late)
    archive.close()
    with pytest.raises(ConfigError, match=r"choose a revision from 10 on"):
        plan(path, time_ms=late - 1)
    known = time_of(10) + STEP_MS // 2  # nothing was missing then
    assert plan(path, time_ms=known + LATE_MS).revision == 10
    with pytest.raises(ConfigError, match="may be from any time since"):
        plan(path, time_ms=known + LATE_MS + 1)
    assert plan(path, time_ms=late).revision == 11
    assert plan(path, time_ms=time_of(10)).revision == 10


@pytest.mark.parametrize(
    ("text", "time_ms"),
    [
        ("1970-01-01T00:00:01Z", 1_000),
        ("1970-01-01T01:00:00.25+01:00", 250),
        ("1970-01-01 00:00:00-00:30", 1_800_000),
    ],
)
def test_times_are_read_as_rfc_3339_writes_them(text: str, time_ms: int) -> None:
    assert parse_time(text) == time_ms
    assert parse_time(text_of(time_ms)) == time_ms


@pytest.mark.parametrize(
    "text", ["", "now", "2026-11-23T17:30:00", "2026-13-01T00:00:00Z", "17:30"]
)
def test_times_without_a_zone_or_a_day_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--to-time"):
        parse_time(text)


def test_leases_that_nobody_knew_are_told(tmp_path: Path) -> None:
    archive = Archive(str(tmp_path / "a"))
    begin(archive, BASE)
    events = [put_event(BASE + 1, lease=-3)]
    assert archive.unknown_leases(events) == [-3]
    archive.add_lease(-3, 0, 0)
    assert archive.unknown_leases(events) == []
    archive.add(events, 0)
    archive.close()
    assert restored(tmp_path / "a", tmp_path / "d", Target()).unknown_leases == 1


def test_a_directory_without_an_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no archive"):
        plan(tmp_path)
    with pytest.raises(StorageError):
        plan(tmp_path / "none")
