"""Documents' commands, executed as they are printed, with what they print compared.

A console block is a list of steps: a line that begins with `$ `, lines behind it that go on (behind
a backslash, or beginning with `> ` as a shell's second prompt), and the output. All steps of a
document are one shell script, so that variables, functions and jobs live on; a line behind each
step marks the end of its output. `...` in a printed output stands for anything.

Ports are not the document's own but free ones of this machine; outputs are translated back.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

from tests import processes
from tests.architecture import ROOT

MARK: Final = "end-of-step"
LOOK_SECONDS: Final = 1.0
COMMAND: Final = re.compile(r".*(?:(?<=\\)\n.*|\n> .*)*")

# The tools' default endpoint is 127.0.0.1:2379; here it is the first node of the test.
SHIM: Final = """#!/bin/sh
case "$*" in
  *--endpoints*) ;;
  *) export ETCDCTL_ENDPOINTS="${{ETCDCTL_ENDPOINTS:-$DEFAULT_ENDPOINT}}" ;;
esac
exec {program} "$@"
"""


class Step(NamedTuple):
    """One command and the output printed below it."""

    command: str
    output: str


def console_steps(block: str) -> list[Step]:
    """The steps of a console block, in order."""
    steps = []
    for piece in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command = COMMAND.match(piece)
        assert command is not None
        output = piece[command.end() :].strip("\n")
        steps.append(Step(command[0].replace("\n> ", "\n"), output))
    return steps


def matches(expected: str, actual: str) -> bool:
    """True when they are equal, `...` standing for any text; runs of blanks count as one."""
    pattern = ".*?".join(re.escape(" ".join(part.split())) for part in expected.split("..."))
    return re.fullmatch(pattern, " ".join(actual.split()), re.DOTALL) is not None


def make_commands(directory: Path) -> Path:
    """Fills a new directory with raftkv, raftctl, etcdctl and python, as .venv/bin would have them.

    They need DEFAULT_ENDPOINT in the environment.
    """
    directory.mkdir()
    programs = {
        "raftkv": f"{sys.executable} -m raftkv",
        "raftctl": f"{sys.executable} -c 'from raftkv.cli.ctl import main; main()'",
        "etcdctl": str(processes.ETCDCTL),
        "python": sys.executable,
    }
    for name, program in programs.items():
        (directory / name).write_text(SHIM.format(program=program))
        (directory / name).chmod(0o755)
    return directory


def with_ports(text: str, ports: Mapping[str, int]) -> str:
    """The text with the printed ports replaced by those of this test."""
    return _translated(text, {printed: str(port) for printed, port in ports.items()})


def _translated(text: str, words: Mapping[str, str]) -> str:
    """All words replaced in one go, so that none is replaced twice."""
    pattern = "|".join(sorted(map(re.escape, words), key=len, reverse=True))
    return re.sub(rf"\b(?:{pattern})\b", lambda found: words[found[0]], text)


def script(steps: Sequence[Step]) -> str:
    """One shell script of all steps, each followed by a line that ends its output."""
    return "exec 2>&1\n" + "".join(f"{step.command}\nprintf '\\n%s\\n' {MARK}\n" for step in steps)


def run(
    steps: Sequence[Step],
    text: str,
    directory: Path,
    ports: Mapping[str, int],
    timeout_seconds: float,
    settings: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Runs the script of some steps in a directory, until one prints what it should not.

    text: `script(steps)` with the ports of this test, given as printed -> own. settings: more of
    the environment.
    What it has started and left running is ended. Errors: AssertionError.
    """
    environment = {
        "PATH": f"{make_commands(directory / 'bin')}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "DEFAULT_ENDPOINT": f"127.0.0.1:{ports['2379']}",
        "HOME": str(directory),
        "RAFTCTL_COMMAND_TIMEOUT": "20s",  # other work may slow this machine down
        "RAFTCTL_DIAL_TIMEOUT": "10s",
        **settings,
    }
    file = directory / "steps.sh"  # a file, for `pgrep -f` would find it on a command line
    file.write_text(text)
    log = directory / "steps.out"  # a file, for what is left running would keep a pipe open
    back = {str(port): printed for printed, port in ports.items()}
    deadline = time.monotonic() + timeout_seconds
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["bash", file],
            env=environment,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            start_new_session=True,
        )
        try:
            done = False
            while not done:
                done = _ends(process, LOOK_SECONDS)
                outputs = _translated(log.read_text(errors="replace"), back).split(f"{MARK}\n")
                _compare(steps, outputs[:-1])
                assert done or time.monotonic() < deadline, f"not done in time: {outputs[-1]}"
            assert len(outputs) == len(steps) + 1, f"it ended early: {outputs[-1]}"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _ends(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Waits so long at most for the end of a process; True if it has ended."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.returncode is not None


def _compare(steps: Sequence[Step], outputs: Sequence[str]) -> None:
    for step, printed in zip(steps, outputs, strict=False):
        assert matches(step.output, printed), f"$ {step.command}\n{printed}"
