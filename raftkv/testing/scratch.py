"""Temporary directories for the members' data, which do not outlive their process for long.

They lie in memory where that is to be had (/dev/shm with room enough), because a start makes some
fifty syncs per member and a test's data has no need to survive the machine. `TMPDIR` decides
otherwise if it is set.

Each directory holds a file that its process keeps locked. Who makes the next one removes those
whose lock is free: a process that was killed could not.
"""

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

PREFIX: Final = "raftkv-test-"
MEMORY: Final = Path("/dev/shm")
ROOM_BYTES: Final = 2 * 1024**3  # what must be free there: others live there too
_OWNER: Final = "owner"


def root() -> Path:
    """Where the directories are made."""
    if "TMPDIR" not in os.environ and os.access(MEMORY, os.W_OK | os.X_OK):
        room = os.statvfs(MEMORY)
        if room.f_bavail * room.f_frsize >= ROOM_BYTES:
            return MEMORY
    return Path(tempfile.gettempdir())


class Scratch:
    """A temporary directory; `path` is there until `close`."""

    def __init__(self, where: Path | None = None) -> None:
        where = where or root()
        _sweep(where)
        while not self._make(where):
            continue

    def _make(self, where: Path) -> bool:
        """Makes it; False if somebody swept it away before it was locked."""
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=where))
        owner = self.path / _OWNER
        self._owner = os.open(owner, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._owner, fcntl.LOCK_EX)
        if owner.exists():
            return True
        os.close(self._owner)
        return False

    def close(self) -> None:
        """Removes it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._owner)


def _sweep(where: Path) -> None:
    """Removes what processes that are gone have left there."""
    for path in where.glob(PREFIX + "*"):
        with suppress(OSError):  # it is being made or removed just now, or is another user's
            owner = os.open(path / _OWNER, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(owner)
