"""The accepting end of peer connections.

A stream begins with metadata: cluster, sender, receiver, incarnation, peer URLs. Each is
checked before anything of the sender is heard; a refusal is a gRPC status whose text says
what is wrong, and one line in the log on both sides.
"""

import asyncio
import logging
from typing import TYPE_CHECKING, Final, cast

from google.protobuf.message import DecodeError

from raftkv.errors import Code, ProtocolError, StorageError
from raftkv.pb import peer_pb2
from raftkv.server.clients import LINGER_SECONDS
from raftkv.server.links import IDENTIFY_PATH, STATE_PATH, STREAM_PATH, link_limits
from raftkv.server.transfer import StateIntake
from raftkv.wire import peer
from raftkv.wire.grpc import RequestHead
from raftkv.wire.h2 import ServerConnection

if TYPE_CHECKING:
    from raftkv.server.peers import Peers

log = logging.getLogger("raftkv.peers")

_UNARY: Final = frozenset({IDENTIFY_PATH})


def _chunk(message: bytes) -> bytes:
    try:
        return peer_pb2.StateChunk.FromString(message).body
    except DecodeError as error:
        raise ProtocolError(f"a piece of a state cannot be decoded: {error}") from None


class PeerProtocol(asyncio.Protocol):
    """One connection that another member opened; also the handler of its frames."""

    def __init__(self, peers: "Peers") -> None:
        self.peers = peers
        self.loop = peers.driver.loop
        self.dirty = False
        self.sender = 0  # the member at the other end, once greeted
        self.connection = ServerConnection(self, _UNARY, link_limits(), self.loop.time())
        self._transport: asyncio.Transport | None = None
        self._stream = 0
        self._intakes: dict[int, StateIntake] = {}
        self._close_by = 0.0  # when a connection that was told to close is cut

    # --- asyncio ------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Someone connected to the peer port."""
        self._transport = cast(asyncio.Transport, transport)
        self.peers.accepted[self] = None

    def data_received(self, data: bytes) -> None:
        """Frames of the other member; their messages are queued for the next turn."""
        self.connection.receive(data, self.loop.time())
        output = self.connection.take_output()
        assert self._transport is not None
        if output:
            self._transport.write(output)
        if self.connection.closing:
            self._refuse(self.connection.close_reason)

    def connection_lost(self, exc: Exception | None) -> None:
        """The other end is gone."""
        self.peers.accepted.pop(self, None)
        for intake in self._intakes.values():
            intake.abandon()
        self._intakes.clear()

    def _refuse(self, reason: str) -> None:
        assert self._transport is not None
        if self._close_by:
            return
        self._close_by = self.loop.time() + LINGER_SECONDS
        if reason:
            address = self._transport.get_extra_info("peername")
            self.peers.log_rejected(address, reason)
        self._transport.close()

    def flush(self) -> None:
        """Writes what is queued."""
        if self._transport is not None:
            output = self.connection.take_output()
            if output:
                self._transport.write(output)

    def tick(self, now: float) -> None:
        """Handshake deadline and keepalive."""
        if self._close_by and now > self._close_by:
            self.abort()
            return
        self.connection.tick(now)
        self.flush()
        if self.connection.closing:
            self._refuse(self.connection.close_reason)

    def dismiss(self, code: int, text: str) -> None:
        """Ends the other member's stream with a reason."""
        self.connection.finish(self._stream, code, text)
        self._stream = 0
        self.flush()

    def abort(self) -> None:
        """Cuts the connection."""
        if self._transport is not None:
            self._transport.abort()

    # --- calls (wire.grpc.ServerHandler) --------------------------------------

    def unary(self, stream: int, head: RequestHead, message: bytes) -> None:
        """Identify."""
        try:
            request = peer_pb2.IdentifyRequest.FromString(message)
        except DecodeError as error:
            self.connection.finish(stream, Code.INVALID_ARGUMENT, f"bad request: {error}")
            return
        reply = self.peers.identify(request)
        self.connection.reply(stream, reply.SerializeToString())

    def opened(self, stream: int, head: RequestHead) -> None:
        """A stream of messages or a state transfer begins."""
        try:
            refusal = self.peers.check_sender(head.metadata)
        except StorageError as error:  # it could not be noted who was met
            self.peers.driver.fail(error)
            return
        if refusal is not None:
            code, text = refusal
            self.connection.finish(stream, code, text)
            self.peers.log_refusal(head.metadata, text)
            return
        if head.path == STREAM_PATH:
            self._stream = stream
            self.sender = int(head.metadata[b"raftkv-member"], 16)
            greeting = self.peers.greeting(self.sender)
            self.connection.send(stream, peer_pb2.Packet(greeting=greeting).SerializeToString())
        elif head.path == STATE_PATH:
            self._intakes[stream] = StateIntake(self.peers)
        else:
            text = f"unknown method {head.path.decode('utf-8', 'replace')}"
            self.connection.finish(stream, Code.UNIMPLEMENTED, text)

    def message(self, stream: int, message: bytes) -> None:
        """Raft messages, or a piece of a state."""
        intake = self._intakes.get(stream)
        try:
            if intake is not None:
                intake.add(_chunk(message))
            elif stream == self._stream:
                self.peers.received(self.sender, peer.decode_messages(peer.unpack(message)))
        except ProtocolError as error:
            self._intakes.pop(stream, None)
            self.connection.finish(stream, Code.INVALID_ARGUMENT, str(error))
            log.warning("refused a message of member %016x: %s", self.sender, error)
        except StorageError as error:
            self._end_intake(stream, str(error))

    def half_closed(self, stream: int) -> None:
        """The whole state has been sent."""
        intake = self._intakes.get(stream)
        if intake is None:
            self.connection.finish(stream)
            return
        self.peers.driver.start_task(self._finish_intake(stream, intake))

    async def _finish_intake(self, stream: int, intake: StateIntake) -> None:
        reason = ""
        try:
            await intake.finish()
        except (ProtocolError, StorageError) as error:
            reason = str(error)
        self._end_intake(stream, reason)
        self.flush()

    def _end_intake(self, stream: int, reason: str) -> None:
        intake = self._intakes.pop(stream, None)
        if intake is not None and reason:
            log.warning("refused a state of member %016x: %s", intake.sender, reason)
            intake.abandon()
        reply = peer_pb2.StateReply(accepted=not reason, reason=reason)
        self.connection.send(stream, reply.SerializeToString())
        self.connection.finish(stream)

    def cancelled(self, stream: int) -> None:
        """The sender gave up."""
        intake = self._intakes.pop(stream, None)
        if intake is not None:
            intake.abandon()

    def writable(self, stream: int) -> None:
        """Output has drained: nobody waits for it."""
