"""What is to go wrong with a member's disk, and what has.

Every write and every sync of the member asks here first (`files`, `rows`). Faults:

    fsync-delay    every sync takes so many seconds longer
    fsync-eio      a sync fails with EIO, once or until healed; what was written before it may be
                   read again or not, as after a real one
    enospc         whatever needs new room fails; what is overwritten in place does not
    fsync-hang     no sync returns until healed
    torn-write     the next durable write reaches the disk in parts only, and the process is gone
                   before it could tell anybody (SIGKILL): a power cut in the middle of a write

Any thread may ask, and any thread may change what is asked for.
"""

import errno
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Final

ALWAYS: Final = -1
PAGE_BYTES: Final = 4096

Tear = Callable[[Random], None]


class Faults:
    """The switches. struck: how often each fault has really happened since the start."""

    def __init__(self, seed: int = 0) -> None:
        self.struck: Counter[str] = Counter()
        self._random = Random(seed)
        self._changed = threading.Condition()
        self._delay_seconds = 0.0
        self._eio_times = 0  # ALWAYS, or how many syncs will fail
        self._full = False
        self._hanging = False
        self._torn = False

    # --- what is wanted ---------------------------------------------------------

    def set(self, fault: str, *, seconds: float = 0.0, times: int = ALWAYS) -> None:
        """Switches a fault on.

        seconds: of "fsync-delay". times: of "fsync-eio", how many syncs fail.
        Errors: ValueError for a fault that does not exist, or a number that makes no sense.
        """
        with self._changed:
            if fault == "fsync-delay":
                if not 0 < seconds <= 60:
                    raise ValueError("fsync-delay: `seconds` must be above 0 and at most 60")
                self._delay_seconds = seconds
            elif fault == "fsync-eio":
                if times != ALWAYS and times < 1:
                    raise ValueError("fsync-eio: `times` must be at least 1, or -1 for always")
                self._eio_times = times
            elif fault == "enospc":
                self._full = True
            elif fault == "fsync-hang":
                self._hanging = True
            elif fault == "torn-write":
                self._torn = True
            else:
                raise ValueError(f"there is no fault {fault!r}")

    def heal(self) -> None:
        """Switches everything off; who hangs or waits goes on at once. May be repeated."""
        with self._changed:
            self._delay_seconds = 0.0
            self._eio_times = 0
            self._full = self._hanging = self._torn = False
            self._changed.notify_all()

    @property
    def active(self) -> list[str]:
        """The faults that are switched on."""
        with self._changed:
            switches = {
                "fsync-delay": self._delay_seconds > 0,
                "fsync-eio": self._eio_times != 0,
                "enospc": self._full,
                "fsync-hang": self._hanging,
                "torn-write": self._torn,
            }
        return [name for name, on in switches.items() if on]

    # --- what the disk asks -----------------------------------------------------

    def need_room(self, path: str) -> None:
        """Something new is about to be written. Errors: OSError (ENOSPC)."""
        if self._full:
            self._strike("enospc")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    def before_sync(self, path: str) -> None:
        """A sync is about to be made; returns when its time has come. Errors: OSError (EIO)."""
        if self._delay_seconds or self._hanging:
            self._hold()
        if self._eio_times and self._takes_eio():
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    def coin(self) -> bool:
        """One of two legal outcomes."""
        with self._changed:
            return self._random.random() < 0.5

    def tears(self) -> bool:
        """Whether the write that comes now is the one to be torn."""
        if not self._torn:
            return False
        with self._changed:
            torn, self._torn = self._torn, False
        return torn

    def tear(self, how: Tear) -> None:
        """Leaves on disk what `how` leaves there, and ends the process without a last word."""
        how(self._random)
        self._strike("torn-write")
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)  # the signal is on its way; nothing may happen behind the torn write

    def _hold(self) -> None:
        with self._changed:
            if self._hanging:
                self.struck["fsync-hang"] += 1
                while self._hanging:
                    self._changed.wait()
            if self._delay_seconds:
                self.struck["fsync-delay"] += 1
                until = time.monotonic() + self._delay_seconds
                while self._delay_seconds and (left := until - time.monotonic()) > 0:
                    self._changed.wait(left)

    def _takes_eio(self) -> bool:
        with self._changed:
            if not self._eio_times:
                return False
            if self._eio_times != ALWAYS:
                self._eio_times -= 1
            self.struck["fsync-eio"] += 1
            return True

    def _strike(self, fault: str) -> None:
        with self._changed:
            self.struck[fault] += 1


def torn_range(start: int, end: int, random: Random) -> tuple[int, int]:
    """What of the bytes [start, end) of a file does not reach the disk: [first, last).

    Either everything from some byte on, or, if it is long enough, one page in its middle: a
    disk writes pages in any order.
    """
    assert start < end, "nothing was written"
    first_page = start // PAGE_BYTES + 1
    last_page = (end - 1) // PAGE_BYTES
    if first_page < last_page and random.random() < 0.5:
        page = random.randrange(first_page, last_page)
        return page * PAGE_BYTES, (page + 1) * PAGE_BYTES
    return random.randrange(start, end), end
