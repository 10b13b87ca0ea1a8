"""Clients that watch: one that reads all that comes, and one that reads only when told to."""

import asyncio
from typing import Any, Self, cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    DataReceived,
    RemoteSettingsChanged,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)

from raftkv.kv.watches import Watches
from raftkv.limits import MIB
from raftkv.pb import kv_pb2, rpc_pb2
from raftkv.server.node import Node
from raftkv.server.services.watch import WatchService
from raftkv.wire.h2_client import ClientConnection
from raftkv.wire.policy import ConnectionLimits
from tests.server.harness import Client, until

PATH = b"/etcdserverpb.Watch/Watch"


def hub(node: Node) -> Watches:
    """The hub of a running member."""
    assert node.driver is not None
    return node.driver.watches.watches


def service(node: Node) -> WatchService:
    """The Watch service of a running member."""
    assert node.clients is not None
    found = cast(Any, node.clients.routes.streams[PATH]).__self__
    assert isinstance(found, WatchService)
    return found


def create(key: bytes, range_end: bytes = b"", **options: Any) -> bytes:
    """A create request, encoded."""
    asked = rpc_pb2.WatchCreateRequest(key=key, range_end=range_end, **options)
    return rpc_pb2.WatchRequest(create_request=asked).SerializeToString()


def cancel(watch_id: int) -> bytes:
    """A cancel request, encoded."""
    asked = rpc_pb2.WatchCancelRequest(watch_id=watch_id)
    return rpc_pb2.WatchRequest(cancel_request=asked).SerializeToString()


def progress() -> bytes:
    """A progress request, encoded."""
    asked = rpc_pb2.WatchProgressRequest()
    return rpc_pb2.WatchRequest(progress_request=asked).SerializeToString()


class Watch:
    """One stream: its responses in order, and its end."""

    def __init__(self, client: "WatchClient", stream: int) -> None:
        self.client = client
        self.stream = stream
        self.responses: list[rpc_pb2.WatchResponse] = []
        self.ended: tuple[int, str] | None = None
        self._taken = 0

    def send(self, *requests: bytes) -> None:
        """Requests, in one write."""
        for request in requests:
            self.client.connection.send(self.stream, request)
        self.client.flush()

    async def next(self) -> rpc_pb2.WatchResponse:
        """The next response."""
        await until(lambda: len(self.responses) > self._taken or self.ended is not None)
        assert len(self.responses) > self._taken, self.ended
        self._taken += 1
        return self.responses[self._taken - 1]

    async def create(self, key: bytes, range_end: bytes = b"", **options: Any) -> int:
        """A new watch; what comes next must say that it is there. Its id."""
        self.send(create(key, range_end, **options))
        answer = await self.next()
        assert (answer.created, answer.canceled) == (True, False), answer
        return answer.watch_id

    async def events(self, count: int) -> list[kv_pb2.Event]:
        """Events until there are `count`; nothing else may come."""
        found: list[kv_pb2.Event] = []
        while len(found) < count:
            answer = await self.next()
            assert answer.events, answer
            found += answer.events
        return found

    async def end(self) -> tuple[int, str]:
        """Code and text of the stream's end."""
        await until(lambda: self.ended is not None)
        assert self.ended is not None
        return self.ended


class WatchClient(Client):
    """A client with streams of watches."""

    def __init__(self) -> None:
        super().__init__()
        self.connection = ClientConnection(
            self, b"test", limits=ConnectionLimits(max_message_bytes=16 * MIB)
        )
        self.watches: dict[int, Watch] = {}

    @classmethod
    async def to(cls, node: Node) -> Self:
        """A client of one member."""
        url = node.config.listen_client_urls[0]
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(cls, url.host, url.port)
        return client

    def watch(self, *metadata: tuple[bytes, bytes]) -> Watch:
        """Opens a stream."""
        stream = self.connection.request(PATH, metadata=metadata)
        self.flush()
        self.watches[stream] = Watch(self, stream)
        return self.watches[stream]

    def message(self, stream: int, message: bytes) -> None:
        if stream in self.watches:
            self.watches[stream].responses.append(rpc_pb2.WatchResponse.FromString(message))
        else:
            super().message(stream, message)

    def finished(self, stream: int, code: int, text: str) -> None:
        if stream in self.watches:
            self.watches[stream].ended = code, text
        else:
            super().finished(stream, code, text)


class Reluctant(asyncio.Protocol):
    """A client that lets the server send on a stream only what `allow` has allowed.

    received: bytes per stream, so far. It takes everything from the connection as a whole.
    greeted: the server's settings of HTTP/2 have come.
    """

    def __init__(self) -> None:
        self.http = H2Connection(H2Configuration(client_side=True))
        self.received: dict[int, int] = {}
        self.closed = self.greeted = False
        self._buffers: dict[int, bytearray] = {}
        self._free: set[int] = set()
        self._responses: dict[int, list[rpc_pb2.WatchResponse]] = {}
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def to(cls, node: Node) -> Self:
        """A client of one member."""
        url = node.config.listen_client_urls[0]
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(cls, url.host, url.port)
        return client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.http.initiate_connection()
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True

    def _flush(self) -> None:
        assert self._transport is not None
        self._transport.write(self.http.data_to_send())

    def open(self, *requests: bytes) -> int:
        """Opens a stream of watches with its first requests."""
        stream = self.http.get_next_available_stream_id()
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "test"),
            (":path", PATH.decode()),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ]
        self.http.send_headers(stream, headers)
        self.received[stream] = 0
        self._buffers[stream] = bytearray()
        self._responses[stream] = []
        self.send(stream, *requests)
        return stream

    def send(self, stream: int, *requests: bytes) -> None:
        """Requests on a stream."""
        for request in requests:
            self.http.send_data(stream, b"\0" + len(request).to_bytes(4, "big") + request)
        self._flush()

    def drop(self, stream: int) -> None:
        """Gives a stream up."""
        self.http.reset_stream(stream)
        self._flush()

    def allow(self, stream: int, size: int) -> None:
        """Lets the server send so many more bytes on a stream."""
        self.http.increment_flow_control_window(size, stream)
        self._flush()

    def free(self, stream: int) -> None:
        """From now on takes everything on a stream."""
        self._free.add(stream)
        self.allow(stream, max(self.received[stream], 1))

    def data_received(self, data: bytes) -> None:
        for event in self.http.receive_data(data):
            if isinstance(event, DataReceived):
                self._take(event)
            elif isinstance(event, RemoteSettingsChanged):
                self.greeted = True
            else:
                assert not isinstance(event, (StreamReset, StreamEnded, TrailersReceived)), event
        self._flush()

    def _take(self, event: DataReceived) -> None:
        stream, size = event.stream_id, event.flow_controlled_length
        assert stream is not None
        assert size is not None
        assert event.data is not None
        self.received[stream] += size
        self.http.increment_flow_control_window(size)
        if stream in self._free:
            self.http.increment_flow_control_window(size, stream)
        buffer = self._buffers[stream]
        buffer += event.data
        while len(buffer) >= 5 and len(buffer) >= 5 + int.from_bytes(buffer[1:5], "big"):
            end = 5 + int.from_bytes(buffer[1:5], "big")
            self._responses[stream].append(rpc_pb2.WatchResponse.FromString(bytes(buffer[5:end])))
            del buffer[:end]

    def responses(self, stream: int) -> list[rpc_pb2.WatchResponse]:
        """All that came on a stream, whole responses only."""
        return self._responses[stream]

    def events(self, stream: int, watch_id: int = 0) -> list[kv_pb2.Event]:
        """All events of one watch so far."""
        return [
            event
            for response in self._responses[stream]
            if response.watch_id == watch_id
            for event in response.events
        ]

    def close(self) -> None:
        """Cuts the connection."""
        assert self._transport is not None
        self._transport.abort()
