"""A member that is a process of its own, with its output in a file and signals for its faults.

The kernel is told to end it when the process that started it dies, so that not even SIGKILL
leaves a member behind. That holds for the thread that starts it: it must be the main one.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import raftkv

STOP_SECONDS: Final = 10.0
POLL_SECONDS: Final = 0.005
PAUSE_SECONDS: Final = 5.0
_END_BYTES: Final = 8 * 1024
_PACKAGES: Final = (
    Path(raftkv.__file__).resolve().parent.parent,
    Path(__file__).resolve().parent.parent.parent,
)
# Between fork and the member: tells the kernel (PR_SET_PDEATHSIG) and becomes the member.
_LEASH: Final = (
    "import ctypes,os,sys\n"
    "parent=int(sys.argv[1])\n"
    "if sys.platform.startswith('linux'):\n"
    "    ctypes.CDLL(None).prctl(1,9)\n"
    "    if os.getppid()!=parent: sys.exit(1)\n"
    "os.execvp(sys.argv[2],sys.argv[2:])\n"
)


class MemberProcess:
    """One member. name: of it. argv: its command. log: its output is added to this file.

    ends: exit codes of ends that nobody asked for, in order; below 0: minus a signal.
    """

    def __init__(self, name: str, argv: Sequence[str], log: Path) -> None:
        self.name = name
        self.argv = list(argv)
        self.log = log
        self.paused = False
        self.ends: list[int] = []
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._ending = False

    @property
    def pid(self) -> int:
        """Of its process; 0 if there is none."""
        return self._process.pid if self._process is not None else 0

    @property
    def running(self) -> bool:
        """Its process lives; it may be paused."""
        process = self._process
        if process is None:
            return False
        code = process.poll()
        if code is None:
            return True
        self._process, self.paused = None, False
        if not self._ending:
            self.ends.append(code)
        return False

    def start(self) -> None:
        """Begins to run; returns before it serves. Nothing if it runs."""
        if self.running:
            return
        self._ending = False
        self.starts += 1
        leash = [sys.executable, "-S", "-E", "-c", _LEASH, str(os.getpid()), *self.argv]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                leash,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(),
                start_new_session=True,
            )

    async def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self._ending = True
        self._signal(signal.SIGKILL)
        await self._gone(STOP_SECONDS)

    async def end(self) -> None:
        """SIGTERM, and SIGKILL if that takes too long; returns when it is gone."""
        self._ending = True
        if self.paused:
            self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        if not await self._gone(STOP_SECONDS):
            await self.kill()

    async def pause(self) -> None:
        """SIGSTOP; returns when none of its threads runs."""
        if not self.running:
            return
        self._signal(signal.SIGSTOP)
        self.paused = True
        deadline = asyncio.get_running_loop().time() + PAUSE_SECONDS
        while self.running and not self._stands_still():
            if asyncio.get_running_loop().time() > deadline:
                return  # a thread within the kernel: it stops as soon as it comes back
            await asyncio.sleep(POLL_SECONDS)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)
        self.paused = False

    def _signal(self, number: signal.Signals) -> None:
        if self.running and self._process is not None:
            self._process.send_signal(number)

    async def _gone(self, seconds: float) -> bool:
        deadline = asyncio.get_running_loop().time() + seconds
        while self.running:
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(POLL_SECONDS)
        return True

    def _stands_still(self) -> bool:
        """Whether the kernel shows all its threads as stopped; True where it cannot be asked."""
        stats: list[str] = []
        with suppress(OSError):  # a thread has ended meanwhile
            stats = [path.read_text() for path in Path(f"/proc/{self.pid}/task").glob("*/stat")]
        return all(stat.rpartition(")")[2].split()[0] in "TtZX" for stat in stats)

    def last_words(self) -> str:
        """The end of its log, for messages."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(log.seek(0, os.SEEK_END) - _END_BYTES, 0))
                lines = log.read().decode(errors="replace").splitlines()
        except OSError:
            return "it wrote no log"
        return "the end of its log:\n" + "\n".join(lines[-20:])


def environment() -> Mapping[str, str]:
    """This process's, without the servers' own variables, so that the same packages are found."""
    ours = ("RAFTKV_", "ETCD_")
    found = {name: text for name, text in os.environ.items() if not name.startswith(ours)}
    packages = [str(path) for path in dict.fromkeys(_PACKAGES)]
    if earlier := found.get("PYTHONPATH"):
        packages.append(earlier)
    found["PYTHONPATH"] = os.pathsep.join(packages)
    return found
