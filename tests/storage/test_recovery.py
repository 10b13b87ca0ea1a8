"""The data directory: whose it is, who may use it, and when it is refused."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from raftkv.errors import CorruptionError, DirectoryLocked, StorageError, WrongDirectory
from raftkv.raft.types import HardState
from raftkv.storage.files import REAL, read_checked, write_checked
from raftkv.storage.mark import NAMES, Mark
from raftkv.storage.memory import MemoryDataDirectory, MemoryDisk
from raftkv.storage.recovery import DataDirectory
from tests.storage.rig import CLUSTER, MEMBER, Place, batch, entries, flip, meta
from tests.storage.workload import APPLIED, applied_of, rows_for


def written(place: Place) -> None:
    """A directory with ten entries, term 3 and a vote for 9, closed as by kill -9."""
    directory = place.open()
    directory.log.write([batch(1, entries(1, 10), hard=(3, 9))])
    directory.state.write(rows_for(1, 4))
    directory.state.sync()
    directory.state.write(rows_for(5, 8))
    directory.close(checkpoint=False)


def test_a_fresh_directory_says_so_once_and_keeps_its_incarnation(place: Place) -> None:
    directory = place.open()
    assert directory.fresh
    identity = directory.identity
    assert (identity.cluster, identity.member) == (CLUSTER, MEMBER)
    assert 0 < identity.incarnation < 2**64
    assert directory.recovered.hard_state == HardState(0, 0)
    assert directory.recovered.last_index == directory.recovered.anchor_index == 0
    directory.close()
    again = place.open()
    assert not again.fresh
    assert again.identity == identity
    again.close()


def test_two_directories_of_one_member_have_different_incarnations(tmp_path: Path) -> None:
    """R33: a wiped directory is told from the one that voted."""
    seen = set()
    for name in "ab":
        directory = DataDirectory.open(str(tmp_path / name), CLUSTER, MEMBER)
        seen.add(directory.identity.incarnation)
        directory.close()
    assert len(seen) == 2


def test_peek_reads_the_identity_without_the_lock(real: Place) -> None:
    assert DataDirectory.peek(real.path) is None
    directory = real.open()
    assert DataDirectory.peek(real.path) == directory.identity
    directory.close()


def test_a_directory_of_another_cluster_or_member_is_refused(real: Place) -> None:
    """D22."""
    real.open().close()
    for cluster, member in [(CLUSTER + 1, MEMBER), (CLUSTER, MEMBER + 1)]:
        with pytest.raises(WrongDirectory, match="belongs to member a1 of cluster c1"):
            DataDirectory.open(real.path, cluster, member)
    real.open().close()


def test_a_directory_in_use_is_refused(place: Place) -> None:
    """D23, within one process."""
    directory = place.open()
    with pytest.raises(DirectoryLocked):
        place.open()
    directory.close()
    place.open().close()


def test_a_second_process_is_refused_and_the_lock_dies_with_its_owner(real: Place) -> None:
    """D23: a child holds the directory until it is killed."""
    program = (
        "import sys; from raftkv.storage.recovery import DataDirectory as D\n"
        f"d = D.open({real.path!r}, {CLUSTER}, {MEMBER}); print('open', flush=True)\n"
        "sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"open\n"
        with pytest.raises(DirectoryLocked):
            real.open()
    finally:
        child.kill()
        child.communicate()
    real.open().close()


def test_a_directory_open_to_others_is_tightened(tmp_path: Path) -> None:
    """D24, X17."""
    path = tmp_path / "member"
    path.mkdir(mode=0o777)
    path.chmod(0o777)
    DataDirectory.open(str(path), CLUSTER, MEMBER).close()
    assert path.stat().st_mode & 0o777 == 0o700
    assert (path / "mark.a").stat().st_mode & 0o077 == 0
    made = tmp_path / "made"
    DataDirectory.open(str(made), CLUSTER, MEMBER).close()
    assert made.stat().st_mode & 0o777 == 0o700


def test_a_symlinked_directory_is_refused(tmp_path: Path) -> None:
    """D24."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(StorageError, match="symbolic link"):
        DataDirectory.open(str(tmp_path / "link"), CLUSTER, MEMBER)
    assert os.listdir(tmp_path / "real") == []


def test_a_directory_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D24. The process pretends to be another user: changing owners needs to be root."""
    path = tmp_path / "member"
    path.mkdir()
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    with pytest.raises(StorageError, match="belongs to user"):
        DataDirectory.open(str(path), CLUSTER, MEMBER)
    assert os.listdir(path) == []


def test_somebody_elses_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "member"
    path.mkdir()
    (path / "thesis.txt").write_text("years of work")
    with pytest.raises(StorageError, match=r"holds thesis\.txt"):
        DataDirectory.open(str(path), CLUSTER, MEMBER)
    assert (path / "thesis.txt").read_text() == "years of work"


def test_a_mount_point_with_lost_and_found_is_empty(tmp_path: Path) -> None:
    (tmp_path / "member" / "lost+found").mkdir(parents=True)
    directory = DataDirectory.open(str(tmp_path / "member"), CLUSTER, MEMBER)
    assert directory.fresh
    directory.close()


# --- the mark ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_one_damaged_or_missing_copy_of_the_mark_is_replaced_by_the_other(
    real: Place, name: str
) -> None:
    """D07."""
    written(real)
    random = Random(7)
    path = f"{real.path}/{name}"
    for damage in ("flip", "zero", "empty", "missing"):
        if damage == "flip":
            flip(path, random)
        elif damage == "zero":
            Path(path).write_bytes(bytes(os.path.getsize(path)))
        elif damage == "empty":
            Path(path).write_bytes(b"")
        else:
            os.unlink(path)
        directory = real.open()
        assert directory.recovered.hard_state == HardState(3, 9)
        directory.close()
        a, b = (Path(f"{real.path}/{one}").read_bytes() for one in NAMES)
        assert a == b, "both copies hold the same value again"


def test_any_flipped_bit_of_a_copy_is_noticed(real: Place) -> None:
    """D05, D07: every single bit."""
    written(real)
    path = Path(f"{real.path}/mark.a")
    good = path.read_bytes()
    other = Path(f"{real.path}/mark.b")
    value = Mark.load(REAL, real.path).value
    other.write_bytes(b"")
    for bit in range(len(good) * 8):
        path.write_bytes(
            good[: bit // 8] + bytes((good[bit // 8] ^ 1 << bit % 8,)) + good[bit // 8 + 1 :]
        )
        with pytest.raises(CorruptionError, match="both copies"):
            Mark.load(REAL, real.path)
    path.write_bytes(good)
    assert Mark.load(REAL, real.path).value[1:] == value[1:]


def test_with_both_copies_damaged_the_member_refuses_to_vote_and_says_how_to_rejoin(
    real: Place,
) -> None:
    """D07."""
    written(real)
    for name in NAMES:
        flip(f"{real.path}/{name}", Random(1))
    with pytest.raises(CorruptionError) as caught:
        real.open()
    text = str(caught.value)
    for words in ("both copies of the mark", "must not vote", "raftctl member remove a1"):
        assert words in text


def test_of_two_whole_copies_the_later_wins(real: Place) -> None:
    """A crash between the two writes: the reply was not sent, either value is right, but the
    newer one is taken and both are made equal."""
    written(real)
    old = Path(f"{real.path}/mark.b").read_bytes()
    directory = real.open()
    directory.log.write([batch(1, hard=(5, 2))])
    directory.close(checkpoint=False)
    for late, early in (("mark.a", "mark.b"), ("mark.b", "mark.a")):
        new = max(Path(f"{real.path}/{name}").read_bytes() for name in NAMES)
        Path(f"{real.path}/{late}").write_bytes(new)
        Path(f"{real.path}/{early}").write_bytes(old)
        directory = real.open()
        assert directory.recovered.hard_state == HardState(5, 2)
        directory.close(checkpoint=False)


def test_a_mark_of_another_directory_is_refused(tmp_path: Path) -> None:
    """D29: files of two directories of the same member, mixed."""
    for name in "ab":
        DataDirectory.open(str(tmp_path / name), CLUSTER, MEMBER).close()
    for name in NAMES:
        shutil.copy(tmp_path / "a" / name, tmp_path / "b" / name)
    with pytest.raises(CorruptionError, match="another directory"):
        DataDirectory.open(str(tmp_path / "b"), CLUSTER, MEMBER)


def test_a_log_of_another_directory_is_refused(tmp_path: Path) -> None:
    """D29: the identity in every checksum tells."""
    for name in "ab":
        place = str(tmp_path / name)
        directory = DataDirectory.open(place, CLUSTER, MEMBER)
        directory.log.write([batch(1, entries(1, 3))])
        directory.close()
    shutil.rmtree(tmp_path / "b" / "log")
    shutil.copytree(tmp_path / "a" / "log", tmp_path / "b" / "log")
    with pytest.raises(CorruptionError, match="anchor is damaged"):
        DataDirectory.open(str(tmp_path / "b"), CLUSTER, MEMBER)


def test_an_old_copy_of_the_log_is_refused(real: Place) -> None:
    """R34, D25: a copy made before the mark was last written, put back."""
    written(real)
    shutil.copytree(f"{real.path}/log", f"{real.path}.log")
    directory = real.open()
    directory.log.write([batch(1, entries(11, 12))])
    directory.close()
    shutil.rmtree(f"{real.path}/log")
    shutil.copytree(f"{real.path}.log", f"{real.path}/log")
    with pytest.raises(CorruptionError, match=r"index 10\), but it was durable up to .*index 12"):
        real.open()


def test_what_another_member_has_found_out_refuses_every_later_opening(real: Place) -> None:
    """R34: that member may be gone at the next start."""
    written(real)
    directory = real.open()
    assert "raftctl member remove" in str(directory.distrust("it is an old copy"))
    directory.close()
    for _ in range(2):
        with pytest.raises(CorruptionError, match="it is an old copy"):
            real.open()


def test_file_times_mean_nothing(real: Place) -> None:
    """D25."""
    written(real)
    for directory, _, names in os.walk(real.path):
        for name in names:
            os.utime(os.path.join(directory, name), (1, 1))
    opened = real.open()
    assert opened.recovered.last_index == 10
    opened.close()


# --- the state --------------------------------------------------------------------------------


def test_only_the_flushed_state_is_trusted_and_the_log_is_replayed(real: Place) -> None:
    """D16: rows written behind the last checkpoint are gone, as after any power cut, although
    LevelDB's write-ahead log had them; applying the log again gives them back exactly once."""
    written(real)
    directory = real.open()
    assert applied_of(directory.state) == 4
    directory.check_applied(4)
    assert directory.recovered.last_index == 10
    directory.close()


def test_a_clean_stop_takes_a_checkpoint(place: Place) -> None:
    directory = place.open()
    directory.log.write([batch(1, entries(1, 10))])
    directory.state.write(rows_for(1, 10))
    directory.close()
    again = place.open()
    assert applied_of(again.state) == 10
    assert again._mark.value[3:5] == (1, 10)
    again.close()


def test_a_state_that_does_not_fit_the_log_is_refused(place: Place) -> None:
    directory = place.open()
    directory.log.write([batch(1, entries(1, 20))])
    directory.log.truncate_front(10, 1)
    directory.close()
    again = place.open()
    for applied in (10, 15, 20):
        again.check_applied(applied)
    for applied in (0, 9, 21):
        with pytest.raises(CorruptionError, match=r"applied index .*log holds 11 to 20"):
            again.check_applied(applied)
    again.close()


def test_a_missing_state_or_log_is_refused(real: Place) -> None:
    for name in ("state-1", "log"):
        written(real)
        shutil.rmtree(f"{real.path}/{name}")
        with pytest.raises(CorruptionError, match="raftctl member remove"):
            real.open()
        shutil.rmtree(real.path)


def test_an_unfinished_snapshot_install_leaves_the_old_state(place: Place) -> None:
    """R38, D17: the new state is complete, but the log was not reset yet."""
    directory = place.open()
    directory.log.write([batch(1, entries(1, 5))])
    directory.state.write(rows_for(1, 5))
    directory.state.sync()
    coming = directory.new_state()
    coming.write([(APPLIED, b"50")])
    directory.switch_state(coming, meta(2, 50))
    assert directory.drop_old_states() == 0, "the old state is still the current one on disk"
    directory.close(checkpoint=False)
    again = place.open()
    assert applied_of(again.state) == 5
    assert again.recovered.last_index == 5
    again.close()


def test_a_finished_snapshot_install_removes_the_old_state(place: Place) -> None:
    directory = place.open()
    directory.log.write([batch(1, entries(1, 5))])
    coming = directory.new_state()
    coming.write([(APPLIED, b"50")])
    directory.switch_state(coming, meta(2, 50))
    directory.log.write([batch(2, reset=(2, 50))])
    assert directory.drop_old_states() == 1
    names = directory._fs.names(directory.path)
    assert "state-2" in names
    assert "state-1" not in names
    directory.close(checkpoint=False)
    again = place.open()
    assert applied_of(again.state) == 50
    again.check_applied(50)
    again.close()


def test_states_that_were_abandoned_are_removed(place: Place) -> None:
    """D17, D21: by the next install, or by the next opening."""
    directory = place.open()
    directory.new_state().close()
    second = directory.new_state()
    assert [n for n in directory._fs.names(directory.path) if n.startswith("state")] == [
        "state-1",
        second.directory.rpartition("/")[2],
    ]
    directory.close()
    again = place.open()
    assert [n for n in again._fs.names(again.path) if n.startswith("state")] == ["state-1"]
    again.close()


def test_an_unfinished_creation_is_begun_anew() -> None:
    """D01, R33: until the creation is complete no incarnation was told to anybody."""
    for torn in range(100):
        disk = MemoryDisk()
        left = torn

        def before(what: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(5, what)

        disk.before = before
        try:
            MemoryDataDirectory.open(disk, CLUSTER, MEMBER, incarnation=1)
        except StorageError:
            disk.before = None
            disk.crash()
            again = MemoryDataDirectory.open(disk, CLUSTER, MEMBER, incarnation=2)
            assert again.fresh == (again.identity.incarnation == 2)
            assert again.recovered.last_index == 0
            continue
        assert torn > 25
        return
    raise AssertionError("creation never ended")


def test_checked_files_notice_damage(tmp_path: Path) -> None:
    """D29 for small files: old or new content, whole, or a refusal."""
    path = str(tmp_path / "peers")
    assert read_checked(path) == b""
    write_checked(path, b"one")
    write_checked(path, b"two")
    assert read_checked(path) == b"two"
    assert os.listdir(tmp_path) == ["peers"]
    good = Path(path).read_bytes()
    for bit in range(len(good) * 8):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        Path(path).write_bytes(bad)
        with pytest.raises(CorruptionError):
            read_checked(path)
    for length in range(len(good)):
        Path(path).write_bytes(good[:length])
        with pytest.raises(CorruptionError):
            read_checked(path)


def test_a_damaged_identity_is_refused(real: Place) -> None:
    """D05."""
    written(real)
    flip(f"{real.path}/identity", Random(3))
    with pytest.raises(CorruptionError, match="identity"):
        real.open()
    with pytest.raises(CorruptionError):
        DataDirectory.peek(real.path)
