"""The accepting end of peer connections.

A stream begins with metadata: cluster, sender, receiver, incarnation, peer URLs. Each is
checked before anything of the sender is heard; a refusal is a gRPC status whose text says
what is wrong, and one line in the log on both sides.
"""

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Final, cast

from google.protobuf.message import DecodeError

from raftkv.errors import ApiError, Code, ProtocolError, StorageError
from raftkv.pb import peer_pb2
from raftkv.server.clients import LINGER_SECONDS
from raftkv.server.intake import StateCall
from raftkv.server.links import (
    IDENTIFY_PATH,
    REJOIN_PATH,
    STATE_PATH,
    STREAM_PATH,
    link_limits,
)
from raftkv.wire import peer
from raftkv.wire.grpc import RequestHead
from raftkv.wire.h2 import ServerConnection

if TYPE_CHECKING:
    from raftkv.server.peers import Peers

log = logging.getLogger("raftkv.peers")

_UNARY: Final = frozenset({IDENTIFY_PATH, REJOIN_PATH})


class PeerProtocol(asyncio.Protocol):
    """One connection that another member opened; also the handler of its frames."""

    def __init__(self, peers: "Peers") -> None:
        self.peers = peers
        self.loop = peers.driver.loop
        self.dirty = False
        self.traffic = peers.traffic_with(0)  # with whoever this is
        self.sender = 0  # the member at the other end, once greeted
        self.connection = ServerConnection(self, _UNARY, link_limits(), self.loop.time())
        self._transport: asyncio.Transport | None = None
        self._stream = 0
        self._states: dict[int, StateCall] = {}  # by stream
        self._close_by = 0.0  # when a connection that was told to close is cut

    # --- asyncio ------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Someone connected to the peer port."""
        self._transport = cast(asyncio.Transport, transport)
        self.peers.accepted[self] = None
        if self.peers.stopped:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Frames of the other member; their messages are queued for the next turn."""
        self.traffic.received_bytes += len(data)
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
        self._transport = None
        states, self._states = self._states, {}
        for call in states.values():
            call.lost()

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
        """Identify and Rejoin."""
        try:
            request = peer_pb2.IdentifyRequest.FromString(message)
        except DecodeError as error:
            self.connection.finish(stream, Code.INVALID_ARGUMENT, f"bad request: {error}")
            return
        if head.path == REJOIN_PATH:
            self.peers.rejoin(request, partial(self._answer_rejoin, stream))
            return
        try:
            reply = self.peers.identify(request)
        except StorageError as error:  # it could not be noted who asked
            self.peers.driver.fail(error)
            return
        self.connection.reply(stream, reply.SerializeToString())

    def _answer_rejoin(self, stream: int, reply: peer_pb2.IdentifyReply | ApiError) -> None:
        """The leader has carried the change out, or refused it."""
        if isinstance(reply, ApiError):
            self.connection.finish(stream, reply.code, reply.text)
        else:
            self.connection.reply(stream, reply.SerializeToString())
        self.flush()

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
            self.traffic.refused_streams += 1
            self.peers.log_refusal(head.metadata, text)
            return
        if head.path == STREAM_PATH:
            self._stream = stream
            self.sender = int(head.metadata[b"raftkv-member"], 16)
            self.traffic = self.peers.traffic_with(self.sender)
            greeting = self.peers.greeting(self.sender)
            self.connection.send(stream, peer_pb2.Packet(greeting=greeting).SerializeToString())
            self.connection.listen(stream, self._packet)
        elif head.path == STATE_PATH:
            sender = int(head.metadata[b"raftkv-member"], 16)
            answer = partial(self._answer_state, stream)
            self._states[stream] = self.peers.intakes.open(sender, answer)
        else:
            text = f"unknown method {head.path.decode('utf-8', 'replace')}"
            self.connection.finish(stream, Code.UNIMPLEMENTED, text)

    def message(self, stream: int, message: bytes) -> None:
        """A piece of a state."""
        call = self._states.get(stream)
        if call is not None:
            call.piece(message)

    def _packet(self, message: bytes) -> None:
        """Raft messages."""
        try:
            self.peers.received(self.sender, peer.decode_messages(peer.unpack(message)))
        except ProtocolError as error:
            self.connection.finish(self._stream, Code.INVALID_ARGUMENT, str(error))
            log.warning("refused a message of member %016x: %s", self.sender, error)

    def half_closed(self, stream: int) -> None:
        """The whole state has been sent."""
        call = self._states.get(stream)
        if call is None:
            self.connection.finish(stream)
        else:
            call.half_closed()

    def _answer_state(self, stream: int, reply: peer_pb2.StateReply, last: bool) -> None:
        """An answer on a state transfer's call, often between two receptions."""
        if stream not in self._states:
            return
        self.connection.send(stream, reply.SerializeToString())
        if last:
            del self._states[stream]
            self.connection.finish(stream)
        self.flush()

    def cancelled(self, stream: int) -> None:
        """The sender gave up."""
        call = self._states.pop(stream, None)
        if call is not None:
            call.lost()

    def writable(self, stream: int) -> None:
        """Output has drained: nobody waits for it."""
