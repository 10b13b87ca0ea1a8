"""The process that members are forked from: the server is imported once, not once for each.

    python -m raftkv.testing.template DESCRIPTOR

DESCRIPTOR is a Unix stream socket; both ends send lines of JSON:

    in    {"start": ["serve", ...], "log": path}    fork a process that runs `raftkv` with these
          {"signal": number, "pid": pid}            arguments, or signal one
    out   {"ready": true}                           everything is imported
          {"started": pid}                          one for each start, in their order
          {"ended": pid, "code": code}              below 0: minus the signal that ended it

The socket's end is the end of the tests' process, however it came: all children are killed then,
paused ones too, and so are they if this process is. It runs in a session of its own, so that
Ctrl-C in a terminal is the tests' business alone. It has one thread, or forking would not be safe.
"""

import gc
import json
import os
import select
import signal
import socket
import sys
from typing import Any, Final

PR_SET_PDEATHSIG: Final = 1
_READ_BYTES: Final = 64 * 1024


class Template:
    """Serves one control socket until its end."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._children: dict[int, None] = {}
        self._unread = b""
        self._wake, self._waker = socket.socketpair()
        for end in (self._wake, self._waker):
            end.setblocking(False)

    def run(self) -> None:
        """Returns when the socket has ended and no child is left."""
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        self._say({"ready": True})
        while True:
            ready, _, _ = select.select([self._control, self._wake], [], [])
            if self._wake in ready:
                self._wake.recv(_READ_BYTES)
                self._reap()
            if self._control in ready and not self._hear():
                break
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
        for pid in list(self._children):
            os.waitpid(pid, 0)

    def _hear(self) -> bool:
        """Does what is asked for; False at the end of the socket."""
        try:
            chunk = self._control.recv(_READ_BYTES)
        except ConnectionResetError:
            return False
        *lines, self._unread = (self._unread + chunk).split(b"\n")
        for line in lines:
            wish = json.loads(line)
            if "start" in wish:
                self._start(wish["start"], wish["log"])
            elif wish["pid"] in self._children:  # it was not reaped, so the pid is still its own
                os.kill(wish["pid"], wish["signal"])
        return bool(chunk)

    def _start(self, arguments: list[str], log: str) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            self._children[pid] = None
            self._say({"started": pid})
            return
        status = 1
        try:
            self._become_member(parent, log)
            from raftkv.cli.server import run

            status = run(arguments)
        except BaseException:  # noqa: BLE001
            # Nothing may return into the template's loop. The traceback goes to the log.
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _become_member(self, parent: int, log: str) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for end in (self._control, self._wake, self._waker):
            end.close()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        if sys.platform.startswith("linux"):
            import ctypes

            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it ended before the request
                os._exit(1)

    def _reap(self) -> None:
        for pid in list(self._children):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                del self._children[pid]
                self._say({"ended": pid, "code": os.waitstatus_to_exitcode(status)})

    def _say(self, message: dict[str, Any]) -> None:
        try:
            self._control.sendall(json.dumps(message).encode() + b"\n")
        except OSError:  # its end is noticed where it is read
            return


def _import_server() -> None:
    """What every member needs; frozen, so that the collector leaves the shared pages alone."""
    import raftkv.cli.server
    import raftkv.cli.sources
    import raftkv.server.node  # noqa: F401

    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    _import_server()
    Template(socket.socket(fileno=int(sys.argv[1]))).run()
