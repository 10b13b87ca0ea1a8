"""A small service over ServerConnection: in memory for transcripts, on asyncio for real clients.

/t.T/Echo      unary: the request
/t.T/Head      unary: "name=value" of every metadata field of the request, and the timeout
/t.T/Fail      unary: ends with status 9, a text with non-ASCII, and trailing metadata
/t.T/Never     unary: is not answered
/t.T/Count     server stream: request "n size": n messages of that size
/t.T/Sum       client stream: one message with the sum of the lengths
/t.T/Bidi      both: every message back, at once
"""

import asyncio
import contextlib
import threading
from collections.abc import Iterator

from raftkv.wire.grpc import RequestHead
from raftkv.wire.h2 import ConnectionLimits, ServerConnection

UNARY = {b"/t.T/Echo", b"/t.T/Head", b"/t.T/Fail", b"/t.T/Never"}
TRAILING = [(b"reason", b"because"), (b"detail-bin", b"\x00\x01\xff")]
FAIL_TEXT = "schlüssel 100% weg\n\u2603"


class Service:
    """The handler. Keeps what happened in `events` for tests."""

    connection: ServerConnection

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []
        self.heads: dict[int, RequestHead] = {}
        self.sums: dict[int, int] = {}
        self.pending: dict[int, tuple[int, int]] = {}

    def unary(self, stream: int, head: RequestHead, message: bytes) -> None:
        self.events.append(("unary", stream, head.path, message))
        if head.path == b"/t.T/Echo":
            self.connection.reply(stream, message)
        elif head.path == b"/t.T/Head":
            lines = [name + b"=" + value for name, value in sorted(head.metadata.items())]
            lines.append(b"timeout=%d" % (head.timeout or 0))
            self.connection.reply(stream, b"\n".join(lines))
        elif head.path == b"/t.T/Fail":
            self.connection.finish(stream, 9, FAIL_TEXT, TRAILING)

    def opened(self, stream: int, head: RequestHead) -> None:
        self.events.append(("opened", stream, head.path))
        self.heads[stream] = head
        self.sums[stream] = 0
        if head.path not in (b"/t.T/Count", b"/t.T/Sum", b"/t.T/Bidi"):
            self.connection.finish(stream, 12, f"unknown method {head.path.decode()}")
        elif head.path == b"/t.T/Bidi":
            self.connection.send_headers(stream)

    def message(self, stream: int, message: bytes) -> None:
        self.events.append(("message", stream, message))
        path = self.heads[stream].path
        self.sums[stream] += len(message)
        if path == b"/t.T/Bidi":
            self.connection.send(stream, message)
        elif path == b"/t.T/Count":
            count, size = map(int, message.split())
            self.pending[stream] = (count, size)
            self.writable(stream)

    def half_closed(self, stream: int) -> None:
        self.events.append(("half_closed", stream))
        path = self.heads[stream].path
        if path == b"/t.T/Sum":
            self.connection.send(stream, b"%d" % self.sums[stream])
        if path != b"/t.T/Count":
            self.connection.finish(stream)

    def cancelled(self, stream: int) -> None:
        self.events.append(("cancelled", stream))
        self.pending.pop(stream, None)

    def writable(self, stream: int) -> None:
        """Fills the stream up to a mark, as a handler with back-pressure does."""
        if stream not in self.pending:
            return
        count, size = self.pending[stream]
        while count and self.connection.queued(stream) < 256 * 1024:
            self.connection.send(stream, b"x" * size)
            count -= 1
        self.pending[stream] = (count, size)
        if not count:
            del self.pending[stream]
            self.connection.finish(stream)


def serve_in_memory(
    limits: ConnectionLimits | None = None, now: float = 0.0
) -> tuple[ServerConnection, Service]:
    """A connection without a socket, and its handler."""
    service = Service()
    connection = ServerConnection(service, UNARY, limits, now)
    service.connection = connection
    return connection, service


class _Socket(asyncio.Protocol):
    def __init__(self, limits: ConnectionLimits | None) -> None:
        self.connection, self.service = serve_in_memory(limits, asyncio.get_running_loop().time())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.connection.receive(data, asyncio.get_running_loop().time())
        self.flush()

    def flush(self) -> None:
        output = self.connection.take_output()
        if output:
            self.transport.write(output)
        if self.connection.closing:
            self.transport.close()

    def pause_writing(self) -> None:
        self.connection.pause_output()

    def resume_writing(self) -> None:
        self.connection.resume_output()
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.connection.connection_lost("closed by the client")


class Server:
    """The service on a free port of the loopback interface."""

    port: int

    def __init__(self, limits: ConnectionLimits | None) -> None:
        self._limits = limits
        self.sockets: list[_Socket] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def events(self) -> list[tuple[object, ...]]:
        """Of every connection so far."""
        return [event for socket in self.sockets for event in socket.service.events]

    async def start(self) -> asyncio.Server:
        def accept() -> _Socket:
            socket = _Socket(self._limits)
            self.sockets.append(socket)
            return socket

        server = await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server


@contextlib.contextmanager
def serve_in_thread(limits: ConnectionLimits | None = None) -> Iterator[Server]:
    """The server on an event loop of its own thread, for blocking clients."""
    loop = asyncio.new_event_loop()
    server = Server(limits)
    listener = loop.run_until_complete(server.start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:

        def stop() -> None:
            listener.close()
            for socket in server.sockets:
                socket.transport.abort()
            loop.call_soon(loop.stop)

        loop.call_soon_threadsafe(stop)
        thread.join(10)
        assert not thread.is_alive()
        loop.close()
