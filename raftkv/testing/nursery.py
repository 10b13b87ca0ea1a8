"""Starts members as processes, by way of a template process that has imported the server once.

`raftkv.testing.template` is the other end and has the protocol.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import raftkv
from raftkv.testing.errors import StartFailed

END_SECONDS: Final = 10.0
READY_SECONDS: Final = 60.0
LOG: Final = "template.log"
_PACKAGES: Final = str(Path(raftkv.__file__).resolve().parent.parent)
_READ_BYTES: Final = 64 * 1024


class Nursery:
    """The tests' end of a template. directory: gets the template's own log. Any thread may call."""

    def __init__(self, directory: Path) -> None:
        self._log = directory / LOG
        self._lock = threading.Lock()
        self._started: deque[int] = deque()
        self._codes: dict[int, int] = {}
        self._unread = b""
        self._ready = self._over = False
        self._control, far = socket.socketpair()
        self._poll = select.poll()  # not `select`: a test may have more than 1024 files open
        self._poll.register(self._control, select.POLLIN)
        with far, self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "raftkv.testing.template", str(far.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
                pass_fds=(far.fileno(),),
                start_new_session=True,
            )

    def start(self, arguments: list[str], log: Path) -> int:
        """Runs `raftkv` with these arguments, output to `log`. Returns its pid. StartFailed."""
        with self._lock:
            deadline = time.monotonic() + READY_SECONDS
            self._say({"start": arguments, "log": str(log)})
            while not self._started:
                self._hear(0.1)
                if self._over or time.monotonic() > deadline:
                    text = self._log.read_text(errors="replace")
                    raise StartFailed(f"no member could be started:\n{text}")
            return self._started.popleft()

    def signal(self, pid: int, number: signal.Signals) -> None:
        """Signals a member; does nothing if it has ended."""
        with self._lock:
            self._say({"signal": number, "pid": pid})

    def has_ended(self, pid: int) -> bool:
        """Whether a member has ended."""
        with self._lock:
            self._hear(0.0)
            return self._over or pid in self._codes

    def wait(self, pid: int, seconds: float) -> bool:
        """Waits for a member's end; False if it did not come in time."""
        deadline = time.monotonic() + seconds
        while not self.has_ended(pid):
            if time.monotonic() > deadline:
                return False
            with self._lock:
                self._hear(0.01)
        return True

    def close(self) -> None:
        """Kills all members and ends the template."""
        with suppress(OSError):  # it has ended already
            self._control.shutdown(socket.SHUT_RDWR)  # a fork of this process may hold it too
        self._control.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        self._process.kill()  # its children go with it
        self._process.wait()

    def _say(self, message: dict[str, Any]) -> None:
        try:
            self._control.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            self._over = True

    def _hear(self, seconds: float) -> None:
        """Takes what the template has said, after waiting so long for it at most."""
        while not self._over and self._poll.poll(seconds * 1000):
            seconds = 0.0
            try:
                chunk = self._control.recv(_READ_BYTES)
            except ConnectionResetError:
                chunk = b""
            self._over = not chunk
            *lines, self._unread = (self._unread + chunk).split(b"\n")
            for line in lines:
                message = json.loads(line)
                if "started" in message:
                    self._started.append(message["started"])
                elif "ended" in message:
                    self._codes[message["ended"]] = message["code"]


def _environment() -> dict[str, str]:
    """This process's, without raftkv's own variables, and so that the same raftkv is found."""
    found = {name: text for name, text in os.environ.items() if not name.startswith("RAFTKV_")}
    path = found.get("PYTHONPATH")
    found["PYTHONPATH"] = _PACKAGES + (os.pathsep + path if path else "")
    return found
