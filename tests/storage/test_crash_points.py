"""D01, D16, D17, D18: a member's life cut, or its disk failing, at every single boundary.

The boundaries are enumerated by the file layer and the row stores: every create, write, sync,
rename, removal, directory sync and commit. The memory disk takes what was not durable; on the
real disk the process "dies" and keeps what the page cache had, as with kill -9.
"""

import errno
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from raftkv.errors import CorruptionError, StorageError
from raftkv.storage.files import Lock, RealFileSystem, WritableFile
from raftkv.storage.memory import MemoryDisk
from raftkv.storage.recovery import DataDirectory
from tests.storage.rig import CLUSTER, MEMBER, Place, memory_place
from tests.storage.workload import Life, Promises, check, live


class PowerCut(BaseException):
    """Not an Exception: nothing may handle it."""


def boundaries(make: Callable[[], MemoryDisk] = MemoryDisk) -> list[str]:
    """Every operation of the whole life, in order."""
    disk, calls = make(), list[str]()
    disk.before = calls.append
    live(Life(memory_place(disk), Promises()))
    return calls


BOUNDARIES = boundaries()


def stop_at(disk: MemoryDisk, count: int, error: BaseException, *, once: bool = True) -> None:
    """Raises `error` at the given operation (from 0)."""
    seen = 0

    def before(what: str) -> None:
        nonlocal seen
        seen += 1
        if seen == count + 1:
            if once:
                disk.before = None
            raise error

    disk.before = before


def cut_life(disk: MemoryDisk, at: int) -> Promises:
    promises = Promises()
    stop_at(disk, at, PowerCut())
    with pytest.raises(PowerCut):
        live(Life(memory_place(disk), promises))
    return promises


def test_the_life_crosses_boundaries_of_every_kind() -> None:
    kinds = {call.split()[0] for call in BOUNDARIES}
    assert kinds >= {"create", "write", "sync", "rename", "remove", "mkdir", "syncdir", "commit"}
    assert len(BOUNDARIES) > 100


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_a_power_cut_at_any_boundary_loses_nothing_promised(torn: bool, seed: int | None) -> None:
    """D01, D16, D17."""
    for at in range(len(BOUNDARIES)):
        disk = MemoryDisk()
        promises = cut_life(disk, at)
        disk.crash(None if seed is None else Random(seed * 1000 + at), torn=torn)
        try:
            check(memory_place(disk), promises)
        except (StorageError, AssertionError) as error:
            raise AssertionError(f"cut before {BOUNDARIES[at]} ({at}): {error}") from error


def test_a_power_cut_during_the_recovery_from_a_power_cut_loses_nothing() -> None:
    """D17: the rewrite of a torn log is itself cut at every boundary."""
    for at in range(0, len(BOUNDARIES), 9):
        again = 0
        while True:
            disk = MemoryDisk()
            promises = cut_life(disk, at)
            disk.crash(torn=True)
            stop_at(disk, again, PowerCut())
            try:
                memory_place(disk).open()
            except PowerCut:
                disk.crash()
                check(memory_place(disk), promises)
                again += 1
                continue
            break
        assert again > 0


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EROFS])
def test_one_failing_operation_anywhere_stops_the_member_and_loses_nothing(code: int) -> None:
    """D10, D12, D13: nothing is acknowledged after it; after a restart all is there."""
    for at in range(len(BOUNDARIES)):
        disk, promises = MemoryDisk(), Promises()
        stop_at(disk, at, OSError(code, "injected"))
        life = Life(memory_place(disk), promises)
        with pytest.raises(StorageError):
            live(life)
        disk.crash()
        check(memory_place(disk), promises)


def test_a_disk_that_fails_for_good_lets_no_promise_be_made() -> None:
    """D12: no space at all from some moment on, until somebody frees some."""
    for at in range(0, len(BOUNDARIES), 3):
        disk, promises = MemoryDisk(), Promises()
        stop_at(disk, at, OSError(errno.ENOSPC, "injected"))
        with pytest.raises(StorageError):
            live(Life(memory_place(disk), promises))
        disk.fail_writes = True
        disk.crash()
        with pytest.raises(StorageError):
            memory_place(disk).open()
        disk.fail_writes = False
        disk.crash()
        check(memory_place(disk), promises)


def test_a_process_that_dies_before_its_directory_has_a_durable_name_loses_nothing_later() -> None:
    """D18: killed between making the directory and syncing its name; the next process finds it
    there, and much later the power goes."""
    disk = MemoryDisk()
    stop_at(disk, BOUNDARIES.index("syncdir ."), PowerCut())
    with pytest.raises(PowerCut):
        memory_place(disk).open()
    disk.kill()
    promises = Promises()
    live(Life(memory_place(disk), promises))
    disk.crash()
    check(memory_place(disk), promises)


# --- known-wrong variants must be caught -----------------------------------------------------


class ForgetfulDirectories(MemoryDisk):
    """D18: directory syncs are skipped, except of the root that stands for the mount point."""

    def sync_directory(self, path: str) -> None:
        if path == ".":
            super().sync_directory(path)


class ForgetfulFiles(MemoryDisk):
    """File syncs are skipped."""

    def overwrite(self, path: str) -> WritableFile:
        return _Unsynced(super().overwrite(path))

    def create(self, path: str) -> WritableFile:
        return _Unsynced(super().create(path))


class _Unsynced:
    def __init__(self, file: WritableFile) -> None:
        self.write = file.write
        self.close = file.close

    def sync(self) -> None:
        return


@pytest.mark.parametrize("mutant", [ForgetfulDirectories, ForgetfulFiles])
def test_a_missing_sync_is_caught(mutant: Callable[[], MemoryDisk]) -> None:
    """D18: the enumeration above fails if a sync is left out."""
    caught = 0
    for at in range(len(boundaries(mutant))):
        disk = mutant()
        try:
            promises = cut_life(disk, at)
            disk.crash()
            check(memory_place(disk), promises)
        except (StorageError, AssertionError, OSError):
            caught += 1
    assert caught > 10


# --- the real disk ---------------------------------------------------------------------------


class CutFileSystem(RealFileSystem):
    """The real file system, which stops at one operation."""

    def __init__(self) -> None:
        self.left = -1
        self.error: BaseException = PowerCut()
        self.calls = 0

    def step(self) -> None:
        self.calls += 1
        self.left -= 1
        if self.left == -1:
            raise self.error

    def create(self, path: str) -> WritableFile:
        self.step()
        return _CutFile(self, super().create(path))

    def overwrite(self, path: str) -> WritableFile:
        return _CutFile(self, super().overwrite(path))

    def rename(self, old: str, new: str) -> None:
        self.step()
        super().rename(old, new)

    def remove(self, path: str) -> None:
        self.step()
        super().remove(path)

    def remove_tree(self, path: str) -> None:
        self.step()
        super().remove_tree(path)

    def make_directory(self, path: str) -> None:
        self.step()
        super().make_directory(path)

    def sync_directory(self, path: str) -> None:
        self.step()
        super().sync_directory(path)

    def lock(self, path: str) -> Lock:
        return super().lock(path)


class _CutFile:
    def __init__(self, fs: CutFileSystem, file: WritableFile) -> None:
        self._fs, self._file = fs, file
        self.close = file.close

    def write(self, content: bytes) -> None:
        self._fs.step()
        self._file.write(content)

    def sync(self) -> None:
        self._fs.step()
        self._file.sync()


def real_life(path: str, fs: CutFileSystem) -> tuple[Life, list[DataDirectory]]:
    opened: list[DataDirectory] = []

    def open_real() -> DataDirectory:
        directory = DataDirectory.open(path, CLUSTER, MEMBER, fs=fs, state_buffer_bytes=1 << 20)
        opened.append(directory)
        return directory

    return Life(Place(open_real, None, path), Promises()), opened


@pytest.mark.parametrize(
    ("first", "step"), [(3, 11), pytest.param(0, 1, marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_a_process_that_dies_at_a_boundary_of_the_real_disk_loses_nothing(
    scratch: Path, first: int, step: int
) -> None:
    """D01 on LevelDB."""
    fs = CutFileSystem()
    place = scratch / f"from-{first}"
    place.mkdir()
    life, _ = real_life(str(place / "whole"), fs)
    live(life)
    total = fs.calls
    assert total > 60
    for at in range(first, total, step):
        fs = CutFileSystem()
        fs.left = at
        life, opened = real_life(str(place / f"cut{at}"), fs)
        with pytest.raises(PowerCut):
            live(life)
        for directory in opened:
            directory._abandon()  # what the kernel does for a dead process
        fs.left = -1
        check(life.place, life.promises)


def test_a_damaged_or_missing_identity_is_refused_not_remade() -> None:
    disk = MemoryDisk()
    live(Life(memory_place(disk), Promises()))
    disk.remove("member/identity")
    with pytest.raises(CorruptionError, match="identity file is missing"):
        memory_place(disk).open()
