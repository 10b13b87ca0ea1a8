"""Network namespaces of the kernel by `ip` and `tc`: made, found again when their maker is dead.

A namespace's name is "jepsen-<pid>-<start>-<part>": the process that made it, and the clock tick in
which that process began, for pids come again. So whoever comes next knows which of them nobody
wants any more. The one interface outside of them is named by the pid as well; it goes with its
other end.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from jepsen_lite.target.base import TargetError

COMMAND_SECONDS: Final = 60.0
_OURS: Final = re.compile(r"jepsen-(\d+)-(\d+)-\w+")
_START_FIELD: Final = 18  # of /proc/PID/stat, behind the name in parentheses and the state


class Kernel:
    """Runs commands."""

    def do(self, *words: str, lines: Sequence[str] = ()) -> str:
        """Runs one command and returns what it wrote. lines: for its standard input.

        Errors: TargetError, with the command and what it said.
        """
        try:
            done = subprocess.run(
                words,
                input="".join(f"{line}\n" for line in lines),
                capture_output=True,
                text=True,
                timeout=COMMAND_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise TargetError(f"{' '.join(words)}: {error}") from None
        if done.returncode:
            said = done.stderr.strip() or f"exit code {done.returncode}"
            raise TargetError(f"{' '.join(words)}: {said}")
        return done.stdout

    def batch(self, namespace: str, lines: Sequence[str], tool: str = "ip") -> None:
        """Runs many commands of `ip` or `tc` within a namespace; the first that fails ends it.

        Errors: TargetError.
        """
        if lines:
            self.do(tool, "-n", namespace, "-batch", "-", lines=lines)

    def attempt(self, *words: str) -> str:
        """Runs a command that may fail; what it said then, "" if it did not."""
        try:
            self.do(*words)
        except TargetError as error:
            return str(error)
        return ""


def born(pid: int) -> int | None:
    """The clock tick since the machine's start in which a process began; None if it is over."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = text.rpartition(")")[2].split()
    return None if state in "ZX" else int(fields[_START_FIELD])


def own_stem() -> str:
    """What the names of this process's namespaces begin with."""
    return f"jepsen-{os.getpid()}-{born(os.getpid())}-"


def host_device(pid: int) -> str:
    """The name of a run's interface outside its namespaces; at most 15 bytes."""
    return f"jepsen{pid}"


def namespaces(kernel: Kernel) -> list[str]:
    """The names of all namespaces that have one. Errors: TargetError."""
    return [line.split()[0] for line in kernel.do("ip", "netns", "list").splitlines() if line]


def remove(kernel: Kernel, names: Sequence[str], pid: int) -> None:
    """Removes what the process `pid` has made; what is not there is no error.

    The interface first: a namespace's own go some time after it.
    """
    kernel.attempt("ip", "link", "delete", host_device(pid))
    for name in names:
        kernel.attempt("ip", "netns", "delete", name)


def remove_leftovers(kernel: Kernel) -> list[str]:
    """Removes the namespaces of runners that are dead; returns their names. Errors: TargetError."""
    dead: dict[int, list[str]] = {}
    for name in namespaces(kernel):
        told = _OURS.fullmatch(name)
        if told is not None and born(int(told[1])) != int(told[2]):
            dead.setdefault(int(told[1]), []).append(name)
    for pid, names in dead.items():
        # A living process with this pid began later; its interface has this name as well.
        if any(name.startswith(f"jepsen-{pid}-{born(pid)}-") for name in namespaces(kernel)):
            for name in names:
                kernel.attempt("ip", "netns", "delete", name)
        else:
            remove(kernel, names, pid)
    return [name for names in dead.values() for name in names]


def refusal(kernel: Kernel) -> str:
    """Why this process may not make namespaces; "" if it may. Leaves nothing behind."""
    if os.geteuid() != 0:
        return "it needs root, which you are not"
    if shutil.which("ip") is None:
        return "there is no program ip (of iproute2)"
    name = own_stem() + "probe"
    said = kernel.attempt("ip", "netns", "add", name)
    kernel.attempt("ip", "netns", "delete", name)
    return said
