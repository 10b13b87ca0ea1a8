"""Runs child processes in the foreground: labelled output, orderly end, nothing left behind.

One loop waits for the children's output, for signals and for the moment when
the cluster serves. A child that ends is reported and not started again: what
happened stays visible. SIGINT, SIGTERM or SIGHUP asks all children to stop
(SIGTERM), a second one kills them. Children are in process groups of their own,
so that a terminal's Ctrl-C reaches only this process, and the kernel stops them
should this process vanish (PR_SET_PDEATHSIG, Linux).
"""

import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TextIO

LABEL: Final = "raftkv"
COLOURS: Final = (36, 33, 35, 32, 34, 31)  # ANSI: cyan, yellow, magenta, green, blue, red
MAX_LINE_BYTES: Final = 64 * 1024
STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PR_SET_PDEATHSIG: Final = 1
MEANINGS: Final = {
    1: "an error",
    2: "wrong arguments",
    10: "its data directory cannot be used",
    11: "its data is damaged",
    12: "a disk write failed",
    13: "its data directory is in use by another process",
    14: "its data directory belongs to another cluster or member",
}


@dataclass(slots=True)
class Child:
    """One process: the label of its lines and what to run."""

    name: str
    argv: Sequence[str]
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)
    pending: bytes = b""  # output behind the last line end
    last_line: str = ""
    exit_code: int | None = None


def _meaning(code: int) -> str:
    if code < 0:
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"
    return MEANINGS.get(code, "")


def _die_with_parent(parent: int) -> Callable[[], None] | None:
    """What a child does between fork and exec to end when `parent` ends; None if not on Linux."""
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)

    def prepare() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before the request
            os._exit(1)

    return prepare


class Supervisor:
    """Runs `children` until all have ended.

    out: where labelled lines go. colours: colour the labels.
    """

    def __init__(self, children: Sequence[Child], out: TextIO, colours: bool = False) -> None:
        self.children = list(children)
        self._out = out
        self._colours = colours and not os.environ.get("NO_COLOR")
        self._width = max(len(LABEL), *(len(child.name) for child in children))
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = socket.socketpair()
        self._stop_requests = 0
        self._quit_waiting = threading.Event()
        self._serving: tuple[Callable[[threading.Event], bool], str] | None = None
        self._waiter: threading.Thread | None = None

    def when_serving(self, check: Callable[[threading.Event], bool], banner: str) -> None:
        """Print `banner` once `check` returns True.

        check: called in a thread after the children started; returns when they serve, or
            False soon after its event is set.
        """
        self._serving = (check, banner)

    def run(self) -> int:
        """Start and watch the children; 0 if stopped by a signal or if all ended with 0, else 1.

        Errors: OSError when a child cannot be started (those that were are stopped again).
        """
        before = {number: signal.getsignal(number) for number in (*STOP_SIGNALS, signal.SIGCHLD)}
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        wakeup_before = signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        for number in before:
            signal.signal(number, self._on_signal)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        try:
            self._start_all()
            while any(child.exit_code is None for child in self.children):
                self._turn()
        finally:
            self._quit_waiting.set()
            self._kill_all()
            if self._waiter is not None:
                self._waiter.join()
            signal.set_wakeup_fd(wakeup_before)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._selector.close()
            self._wake_read.close()
            self._wake_write.close()
        if self._stop_requests:
            return 0
        return 0 if all(child.exit_code == 0 for child in self.children) else 1

    # --- children ---------------------------------------------------------------

    def _start_all(self) -> None:
        prepare = _die_with_parent(os.getpid())
        environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
        for child in self.children:
            process = subprocess.Popen(
                list(child.argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environ,
                process_group=0,
                preexec_fn=prepare,  # noqa: PLW1509 - no thread runs yet
            )
            assert process.stdout is not None, "asked for a pipe"
            os.set_blocking(process.stdout.fileno(), False)
            child.process = process
            self._selector.register(process.stdout, selectors.EVENT_READ, child)
        if self._serving is not None:
            self._waiter = threading.Thread(target=self._wait_until_serving, daemon=True)
            self._waiter.start()

    def _wait_until_serving(self) -> None:
        assert self._serving is not None, "only started with a check"
        if self._serving[0](self._quit_waiting):
            self._wake_write.send(b"\0")  # no signal has number 0

    def _signal_all(self, number: signal.Signals) -> None:
        for child in self.children:
            if child.process is not None and child.exit_code is None:
                child.process.send_signal(number)

    def _kill_all(self) -> None:
        self._signal_all(signal.SIGKILL)
        for child in self.children:
            if child.process is not None:
                child.process.wait()
                assert child.process.stdout is not None, "asked for a pipe"
                child.process.stdout.close()

    # --- the loop ---------------------------------------------------------------

    def _turn(self) -> None:
        for key, _ in self._selector.select():
            if key.data is None:
                self._wake_up(self._wake_read.recv(4096))
            else:
                self._read(key.data)

    def _on_signal(self, number: int, frame: Any) -> None:
        """Nothing: the number arrives through the wake-up socket."""

    def _wake_up(self, numbers: bytes) -> None:
        for number in numbers:
            if number == 0:
                assert self._serving is not None, "only sent with a check"
                if not self._stop_requests:
                    self._say(self._serving[1])
            elif number in STOP_SIGNALS:
                self._stop()
        self._reap()

    def _stop(self) -> None:
        self._stop_requests += 1
        self._quit_waiting.set()
        if self._stop_requests == 1:
            self._say("stopping; Ctrl-C again kills")
            self._signal_all(signal.SIGTERM)
        else:
            self._say("killing")
            self._signal_all(signal.SIGKILL)

    def _reap(self) -> None:
        for child in self.children:
            if child.process is None or child.exit_code is not None:
                continue
            code = child.process.poll()
            if code is None:
                continue
            self._read(child)
            assert child.process.stdout is not None, "asked for a pipe"
            if child.process.stdout in self._selector.get_map():
                self._selector.unregister(child.process.stdout)
            if child.pending:
                self._line(child, child.pending)
            child.exit_code = code
            self._report(child, code)

    def _report(self, child: Child, code: int) -> None:
        if self._stop_requests:
            self._say(f"{child.name} stopped")
            return
        meaning = _meaning(code)
        text = f"{child.name} ended with exit code {code}" + (f": {meaning}" if meaning else "")
        if code and child.last_line:
            text += f" (its last line: {child.last_line})"
        left = sum(one.exit_code is None for one in self.children)
        rest = f"{left} of {len(self.children)} go on" if left else "all have ended"
        self._say(f"{text}; {rest}")

    # --- output -----------------------------------------------------------------

    def _read(self, child: Child) -> None:
        assert child.process is not None, "registered after its start"
        assert child.process.stdout is not None, "asked for a pipe"
        while True:
            try:
                chunk = os.read(child.process.stdout.fileno(), MAX_LINE_BYTES)
            except BlockingIOError:
                return
            if not chunk:
                if child.process.stdout in self._selector.get_map():
                    self._selector.unregister(child.process.stdout)
                return
            *lines, child.pending = (child.pending + chunk).split(b"\n")
            for line in lines:
                self._line(child, line)
            if len(child.pending) >= MAX_LINE_BYTES:
                self._line(child, child.pending)
                child.pending = b""

    def _line(self, child: Child, raw: bytes) -> None:
        text = raw.decode("utf-8", "replace").rstrip("\r")
        if text.strip():
            child.last_line = text.strip()
        colour = COLOURS[self.children.index(child) % len(COLOURS)]
        self._write(child.name, colour, text)

    def _say(self, text: str) -> None:
        for line in text.split("\n"):
            self._write(LABEL, 1, line)  # bold

    def _write(self, label: str, colour: int, text: str) -> None:
        head = f"{label:<{self._width}} |"
        if self._colours:
            head = f"\x1b[{colour}m{head}\x1b[0m"
        try:
            self._out.write(f"{head} {text}\n")
            self._out.flush()
        except BrokenPipeError:  # nobody reads any more: end as after Ctrl-C
            self._out = open(os.devnull, "w")  # noqa: SIM115
            if not self._stop_requests:
                self._stop()
