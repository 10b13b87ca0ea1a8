"""A TCP gate in front of a server, in threads: open, silent (a black hole), or cut.

Silence is what a network that drops packets looks like to the program: connections stay, new
ones are accepted by the kernel, nothing comes back and nobody is told.
"""

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

CHUNK: Final = 65536


class Gate:
    """Listens on a port of 127.0.0.1 and passes bytes to and from `target` ("host:port").

    connections: how many were accepted so far.
    """

    def __init__(self, target: str, host: str = "127.0.0.1", port: int = 0) -> None:
        self.target = target
        self.connections = 0
        self._open = threading.Event()
        self._open.set()
        self._unmuted = threading.Event()
        self._unmuted.set()
        self._closed = False
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server((host, port))
        self.endpoint = f"{host}:{self._listener.getsockname()[1]}"
        self._begin(self._accept)

    def silence(self) -> None:
        """From now on nothing passes, either way."""
        self._open.clear()

    def mute(self) -> None:
        """From now on requests pass and answers do not."""
        self._unmuted.clear()

    def open(self) -> None:
        """What was held back passes, and all that follows."""
        self._unmuted.set()
        self._open.set()

    def cut(self) -> None:
        """Closes every connection; new ones are accepted as before."""
        sockets, self._sockets = self._sockets, []
        for each in sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def close(self) -> None:
        """Ends it; waits for its threads."""
        self._closed = True
        self.open()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(5.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _begin(self, function: object, *args: object) -> None:
        assert callable(function)
        thread = threading.Thread(target=function, args=args, name="gate", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._sockets.append(near)
            self._begin(self._connect, near)

    def _connect(self, near: socket.socket) -> None:
        self._open.wait()
        host, _, port = self.target.rpartition(":")
        try:
            far = socket.create_connection((host, int(port)), 5.0)
        except OSError:
            near.close()
            return
        far.settimeout(None)
        self._sockets.append(far)
        self._begin(self._pass, near, far, self._open)
        self._pass(far, near, self._unmuted)

    def _pass(self, source: socket.socket, sink: socket.socket, way: threading.Event) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK):
                self._open.wait()
                way.wait()
                sink.sendall(data)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
