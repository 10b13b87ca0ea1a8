"""Someone at the peer port who says and sends whatever the test wants."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from raftkv.pb import peer_pb2
from raftkv.raft.messages import Message
from raftkv.server.links import STREAM_PATH
from raftkv.server.node import Node
from raftkv.wire import peer
from raftkv.wire.h2_client import ClientConnection
from tests.server.harness import replica_of, until


def metadata(node: Node, member: int, urls: bytes = b"http://127.0.0.1:1") -> dict[bytes, bytes]:
    """What `member` would say when it opens a stream to `node`."""
    replica = replica_of(node)
    return {
        b"raftkv-cluster": b"%016x" % replica.machine.cluster,
        b"raftkv-member": b"%016x" % member,
        b"raftkv-to": b"%016x" % replica.member,
        b"raftkv-incarnation": b"%016x" % 7,
        b"raftkv-urls": urls,
    }


class Impostor(asyncio.Protocol):
    """A connection to a member's peer port with one call on it."""

    def __init__(self) -> None:
        self.connection = ClientConnection(self, b"impostor")
        self.greeting: peer_pb2.Greeting | None = None
        self.status: tuple[int, str] | None = None
        self.lost = False
        self._transport: asyncio.Transport | None = None
        self._stream = 0
        self._path = STREAM_PATH

    @staticmethod
    async def connect(node: Node) -> "Impostor":
        """A connection without a call."""
        port = node.config.listen_peer_urls[0].port
        loop = asyncio.get_running_loop()
        _, one = await loop.create_connection(Impostor, "127.0.0.1", port)
        return one

    async def open(self, told: dict[bytes, bytes], path: bytes = STREAM_PATH) -> None:
        """Opens the call and waits for the greeting or the refusal."""
        self._path = path
        self._stream = self.connection.request(path, metadata=list(told.items()))
        self.flush()
        if path == STREAM_PATH:
            await until(lambda: self.greeting or self.status or self.lost)

    async def refusal(self) -> tuple[int, str]:
        """The status that ends the call."""
        await until(lambda: self.status)
        assert self.status is not None
        return self.status

    def send(self, messages: Sequence[Message]) -> None:
        """Raft messages."""
        self.send_raw(peer.pack(peer.encode_messages(list(messages))))

    def send_raw(self, packet: bytes) -> None:
        """Any bytes as one gRPC message."""
        self.connection.send(self._stream, packet)
        self.flush()

    def write(self, data: bytes) -> None:
        """Bytes on the socket, behind the connection's back."""
        assert self._transport is not None
        self._transport.write(data)

    @property
    def stream(self) -> int:
        """The call's stream."""
        return self._stream

    def close(self) -> None:
        """Hangs up."""
        assert self._transport is not None
        self._transport.abort()

    def flush(self) -> None:
        """Writes what is queued."""
        assert self._transport is not None
        self._transport.write(self.connection.take_output())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.connection.receive(data, 0.0)
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True

    def headers(self, stream: int) -> None:
        pass

    def message(self, stream: int, message: bytes) -> None:
        if self._path != STREAM_PATH:
            return
        packet: Any = peer_pb2.Packet.FromString(message)
        if packet.HasField("greeting"):
            self.greeting = packet.greeting

    def finished(self, stream: int, code: int, text: str) -> None:
        self.status = (code, text)
