"""Runs etcdctl and raftctl as processes that run on, and compares what they say."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.cli.running import PATIENT
from tests.processes import ETCDCTL

PATIENCE_SECONDS = 90.0
TOOLS: Mapping[str, tuple[str, ...]] = {
    "etcdctl": (str(ETCDCTL),),
    "raftctl": (sys.executable, "-c", "from raftkv.cli.ctl import main; main()"),
}


@dataclass(frozen=True, slots=True)
class Said:
    """What a process left. code: negative: ended by this signal."""

    code: int
    out: bytes
    err: str

    def masked(self) -> "Said":
        """Without what differs from call to call: ids of leases and the name of the tool."""
        out = re.sub(rb"/[0-9a-f]{8,16}\b", b"/LEASE", self.out)
        return Said(self.code, out, self.err.replace("raftctl", "etcdctl"))


class Running:
    """A process whose output is read as it comes."""

    def __init__(
        self, tool: str, argv: Sequence[str], env: Mapping[str, str] | None = None
    ) -> None:
        self.tool = tool
        self.process = subprocess.Popen(
            [*TOOLS[tool], *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**PATIENT, **os.environ, **(env or {})},
            start_new_session=True,
        )
        self.out = b""
        self.err = b""
        self._changed = threading.Condition()
        self._readers = [
            threading.Thread(target=self._read, args=(name,), daemon=True)
            for name in ("out", "err")
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def _read(self, name: str) -> None:
        pipe = self.process.stdout if name == "out" else self.process.stderr
        assert pipe is not None
        while piece := os.read(pipe.fileno(), 65536):
            with self._changed:
                setattr(self, name, getattr(self, name) + piece)
                self._changed.notify_all()

    def wait_for(self, marker: bytes, *, times: int = 1, err: bool = False) -> None:
        """Returns when the output holds the marker so often."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        with self._changed:
            while (self.err if err else self.out).count(marker) < times:
                assert time.monotonic() < deadline, (marker, self.out, self.err)
                self._changed.wait(0.2)

    def say(self, line: str) -> None:
        """Writes a line to standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def close_input(self) -> None:
        """Ends standard input."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def end(self, number: signal.Signals | None = None) -> Said:
        """Sends a signal, if any, and waits for the end."""
        if number is not None:
            self.process.send_signal(number)
        code = self.process.wait(PATIENCE_SECONDS)
        for reader in self._readers:
            reader.join(PATIENCE_SECONDS)
        own = [line for line in self.err.decode().splitlines(True) if not line.startswith("{")]
        return Said(code, self.out, "".join(own))


def both(act: Callable[[str], Said]) -> Said:
    """What both tools say, if it is the same. act: runs the tool it is given."""
    theirs, ours = act("etcdctl").masked(), act("raftctl").masked()
    assert ours == theirs, (ours, theirs)
    return ours
