"""A server for the load generator: raftkv's HTTP/2 server half and a scripted answer."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

from bench import requests
from raftkv.wire.h2 import RequestHead, ServerConnection

# (number of the request, path, message) -> a reply, or a gRPC status and its text; None: never.
Script = Callable[[int, bytes, bytes], bytes | tuple[int, str] | None]


class FakeServer:
    """Answers by `script`. seen: (path, message) of every request, in order."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.seen: list[tuple[bytes, bytes]] = []
        self.connections: list[_Connection] = []
        self.endpoint = ""

    def drop_connections(self) -> None:
        """Cuts every connection."""
        for one in self.connections:
            one.transport.abort()
        self.connections.clear()


class _Connection(asyncio.Protocol):
    def __init__(self, server: FakeServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        paths = (requests.PUT, requests.RANGE, requests.TXN)
        self._h2 = ServerConnection(self, paths, now=time.perf_counter())
        self._server.connections.append(self)

    def data_received(self, data: bytes) -> None:
        self._h2.receive(data, time.perf_counter())
        self.transport.write(self._h2.take_output())

    def unary(self, stream: int, head: RequestHead, message: bytes) -> None:
        number = len(self._server.seen)
        self._server.seen.append((head.path, message))
        answer = self._server.script(number, head.path, message)
        if answer is None:
            return
        if isinstance(answer, bytes):
            self._h2.reply(stream, answer)
        else:
            self._h2.finish(stream, *answer)

    def opened(self, stream: int, head: RequestHead) -> None:
        raise AssertionError(f"the generator makes unary calls only, not {head}")

    def message(self, stream: int, message: bytes) -> None:
        raise AssertionError("see opened")

    def half_closed(self, stream: int) -> None:
        raise AssertionError("see opened")

    def cancelled(self, stream: int) -> None:
        """The generator hung up."""

    def writable(self, stream: int) -> None:
        """Answers are short."""


@asynccontextmanager
async def serving(script: Script) -> AsyncIterator[FakeServer]:
    """A fake server on a free port of the loopback."""
    fake = FakeServer(script)
    listener = await asyncio.get_running_loop().create_server(
        lambda: _Connection(fake), "127.0.0.1", 0
    )
    try:
        fake.endpoint = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        yield fake
    finally:
        listener.close()
        fake.drop_connections()
