"""What passes from one node to another through a proxy: flows, pipes and the ends of connections.

A `Flow` is all that one node says to another. Each connection between the two has a `Pipe` in it,
for the bytes in that direction, which holds them while the flow is blocked and until they are due.
A pipe leaves in the kernel what it has no room for, so memory stays bounded and senders wait.
"""

import asyncio
from collections import deque
from typing import Final, Protocol, cast

MAX_HELD_BYTES: Final = 1024 * 1024  # per pipe; then its sender is not read


class Flow:
    """All bytes from one node to another. blocked: they are held. latency_seconds: of each byte."""

    def __init__(self) -> None:
        self.blocked = False
        self.latency_seconds = 0.0
        self.pipes: dict[Pipe, None] = {}
        self.opened = asyncio.Event()
        self.opened.set()

    def change(self, blocked: bool, latency_seconds: float) -> None:
        """Sets both and lets go, or holds, what is under way."""
        self.blocked, self.latency_seconds = blocked, latency_seconds
        if blocked:
            self.opened.clear()
        else:
            self.opened.set()
        for pipe in list(self.pipes):
            pipe.run()


class Pipe:
    """One direction of one connection."""

    def __init__(self, flow: Flow, source: "End", sink: "End") -> None:
        self._loop = asyncio.get_running_loop()
        self._flow = flow
        self._source, self._sink = source, sink
        self._held: deque[tuple[float, bytes]] = deque()  # when it is due; b"": the end
        self._held_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        flow.pipes[self] = None

    def feed(self, data: bytes) -> None:
        """Takes bytes of the source; empty: its end."""
        flow = self._flow
        if data and not self._held and not flow.blocked and not flow.latency_seconds:
            self._sink.write(data)
            return
        self._held.append((self._loop.time() + flow.latency_seconds, data))
        self._held_bytes += len(data)
        self.run()

    def run(self) -> None:
        """Passes on what is due, and reads the source as far as there is room."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        held = self._held
        while held and not self._flow.blocked:
            due, data = held[0]
            if due > self._loop.time():
                self._timer = self._loop.call_at(due, self.run)
                break
            held.popleft()
            self._held_bytes -= len(data)
            if data:
                self._sink.write(data)
            else:
                self._sink.end()
        full = self._sink.full or self._held_bytes > MAX_HELD_BYTES
        self._source.read_on(not full and not self._flow.blocked)

    def close(self) -> None:
        """Both ends are gone, or the proxy is."""
        self._flow.pipes.pop(self, None)
        self._held.clear()
        if self._timer is not None:
            self._timer.cancel()


class Ends(Protocol):
    """What an end tells: the connection that it is an end of."""

    def received(self, end: "End", data: bytes) -> None:
        """Bytes of one side."""

    def lost(self, end: "End") -> None:
        """One side is gone."""

    def review(self) -> None:
        """A side takes bytes again, or takes none for now."""


class End(asyncio.Protocol):
    """One of the two sockets of a connection through a proxy."""

    def __init__(self, connection: Ends) -> None:
        self._connection = connection
        self._transport: asyncio.Transport | None = None
        self._reads = True
        self.full = False  # more is written than its receiver takes

    @property
    def connected(self) -> bool:
        """Whether this side is there."""
        return self._transport is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is connected."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Bytes of this side."""
        self._connection.received(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        """This side is gone."""
        self._transport = None
        self._connection.lost(self)

    def pause_writing(self) -> None:
        """The receiver does not keep up."""
        self.full = True
        self._connection.review()

    def resume_writing(self) -> None:
        """It does again."""
        self.full = False
        self._connection.review()

    def write(self, data: bytes) -> None:
        """Sends, unless this side is gone."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def end(self) -> None:
        """Sends what is left, then the end."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Cuts this side off."""
        if self._transport is not None:
            self._transport.abort()

    def read_on(self, wanted: bool) -> None:
        """Reads this side, or leaves what it sends in the kernel."""
        if wanted != self._reads and self._transport is not None:
            self._reads = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()
