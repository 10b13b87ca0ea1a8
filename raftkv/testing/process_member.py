"""A member that is a process of its own: `raftkv serve`, with signals for its faults."""

import os
import signal
import time
from pathlib import Path
from typing import Final

from raftkv.testing.member import POLL_SECONDS, Member, Plan
from raftkv.testing.nursery import Nursery

STOP_SECONDS: Final = 15.0  # then a polite stop becomes a kill
KILL_SECONDS: Final = 10.0
_LOG_BYTES: Final = 64 * 1024


class ProcessMember(Member):
    """Runs `raftkv serve`, started by a nursery. Its output goes to NAME.log."""

    def __init__(self, plan: Plan, nursery: Nursery) -> None:
        super().__init__(plan)
        self._nursery = nursery
        self._pid = 0
        self._log = plan.directory / f"{plan.name}.log"

    @property
    def pid(self) -> int:
        """Of its process; it must have been started."""
        assert self._pid, f"{self.name} was not started"
        return self._pid

    @property
    def running(self) -> bool:
        """Its process lives."""
        return bool(self._pid) and not self._nursery.has_ended(self._pid)

    def _start(self) -> None:
        flags = [f"--{flag}={text}" for flag, text in self.plan.flags.items()]
        self._pid = self._nursery.start(["serve", *flags], self._log)

    def _kill(self) -> None:
        if self._pid:
            self._nursery.signal(self._pid, signal.SIGKILL)
            self._nursery.wait(self._pid, KILL_SECONDS)

    def _stop(self) -> None:
        if self._pid:
            self._nursery.signal(self._pid, signal.SIGTERM)
            if not self._nursery.wait(self._pid, STOP_SECONDS):
                self._kill()

    def _pause(self) -> None:
        self._nursery.signal(self._pid, signal.SIGSTOP)
        # The signal is on its way only; a thread that runs stops at its next tick.
        while self.running and not self._stands_still():
            time.sleep(POLL_SECONDS)

    def _stands_still(self) -> bool:
        """Whether the kernel shows all its threads as stopped; True where it cannot be asked."""
        try:
            stats = [path.read_text() for path in Path(f"/proc/{self._pid}/task").glob("*/stat")]
        except OSError:  # a thread has ended meanwhile
            return False
        return all(stat.rpartition(")")[2].split()[0] in "TtZX" for stat in stats)

    def _resume(self) -> None:
        self._nursery.signal(self._pid, signal.SIGCONT)

    def _log_lines(self) -> list[str]:
        try:
            with self._log.open("rb") as log:
                log.seek(max(log.seek(0, os.SEEK_END) - _LOG_BYTES, 0))
                return log.read().decode(errors="replace").splitlines()
        except FileNotFoundError:
            return []
