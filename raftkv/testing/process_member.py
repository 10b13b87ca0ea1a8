"""A member that is a process of its own: `raftkv serve`, with signals for its faults."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import raftkv
from raftkv.testing.member import POLL_SECONDS, Member, Plan

STOP_SECONDS: Final = 15.0  # then a polite stop becomes a kill
_PACKAGES: Final = str(Path(raftkv.__file__).resolve().parent.parent)
_LOG_BYTES: Final = 64 * 1024


class ProcessMember(Member):
    """Runs `raftkv serve`. leash: reading end of a pipe that the tests' process holds."""

    def __init__(self, plan: Plan, leash: int) -> None:
        super().__init__(plan)
        self._leash = leash
        self._process: subprocess.Popen[bytes] | None = None
        self._log = plan.directory / f"{plan.name}.log"

    @property
    def pid(self) -> int:
        """Of its process; it must have been started."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Its process lives."""
        return self._process is not None and self._process.poll() is None

    def _start(self) -> None:
        flags = [f"--{flag}={text}" for flag, text in self.plan.flags.items()]
        command = [sys.executable, "-m", "raftkv.testing.child", str(self._leash), "serve", *flags]
        environment = {
            name: text for name, text in os.environ.items() if not name.startswith("RAFTKV_")
        }
        found = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = _PACKAGES + (os.pathsep + found if found else "")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                pass_fds=(self._leash,),
            )

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        # The signal is on its way when `kill` returns; a thread that runs stops at its next tick.
        while self.running and self._runs(self._process.pid):
            time.sleep(POLL_SECONDS)

    @staticmethod
    def _runs(pid: int) -> bool:
        """Whether the kernel still shows a thread that may run; False where it cannot tell."""
        try:
            stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
        except OSError:
            return False
        return any(stat.rpartition(")")[2].split()[0] not in "TtZX" for stat in stats)

    def _resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _log_lines(self) -> list[str]:
        try:
            with self._log.open("rb") as log:
                log.seek(max(log.seek(0, os.SEEK_END) - _LOG_BYTES, 0))
                return log.read().decode(errors="replace").splitlines()
        except FileNotFoundError:
            return []
