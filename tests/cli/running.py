"""Runs etcdctl as a process and raftctl in this one, for comparison."""

import io
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final
from unittest import mock

from raftkv.cli import ctl
from tests.processes import ETCDCTL

COMMAND_SECONDS: Final = 120.0
# If a command line says nothing else: other work may slow this machine down. etcdctl gets flags,
# for it refuses to run with a flag that is in its environment too.
ETCDCTL_FLAGS: Final = ("--command-timeout=40s",)
PATIENT: Final[Mapping[str, str]] = MappingProxyType(
    {"RAFTCTL_COMMAND_TIMEOUT": "40s", "RAFTCTL_DIAL_TIMEOUT": "10s"}
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command left: exit code and both outputs."""

    exit_code: int
    out: bytes
    err: str

    @property
    def error_line(self) -> str:
        """The first line on standard error that is the command's own, not a client's log."""
        own = [line for line in self.err.splitlines() if not line.startswith("{")]
        return own[0] if own else ""


def etcdctl(argv: Sequence[str | bytes], stdin: bytes = b"") -> Outcome:
    """Run etcdctl."""
    done = subprocess.run(
        [str(ETCDCTL), *ETCDCTL_FLAGS, *argv],
        input=stdin,
        capture_output=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr.decode("utf-8", "replace"))


def raftctl(argv: Sequence[str], stdin: bytes = b"") -> Outcome:
    """Run raftctl in this process."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    err = io.StringIO()
    source = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
    with (
        mock.patch.object(sys, "stdin", source),
        mock.patch.dict(os.environ, {**PATIENT, **os.environ}),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        code = ctl.run(list(argv))
    out.flush()
    buffer = out.buffer
    assert isinstance(buffer, io.BytesIO)
    return Outcome(code, buffer.getvalue(), err.getvalue())


def wait_for_addresses(endpoints: str) -> None:
    """Until every member's name and client URLs are known: it tells them once it serves."""
    flags = ["endpoint", "health", "--cluster", "--wait=90s"]
    known = raftctl(["--endpoints", endpoints, *flags])
    assert known.exit_code == 0, known.err
