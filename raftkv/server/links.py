"""Links to the other members, and the end that accepts theirs.

Each member dials every other one: messages from A to B travel on the connection that A
opened, so a link has one direction and one owner. A link is one HTTP/2 connection with one
long `Stream` call; a greeting opens it, and it says which leader the other end follows.

A connection that closes is news: when the link to the leader breaks, it is dialled again at
once, and `raftkv.server.failover` decides whether the leader is gone.
"""

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import Sequence
from typing import Final, Protocol, cast
from urllib.parse import urlsplit

from google.protobuf.message import DecodeError

from raftkv import limits
from raftkv.pb import peer_pb2
from raftkv.raft.messages import Message
from raftkv.server.calls import Call
from raftkv.server.dialling import connect
from raftkv.server.traffic import PeerTraffic
from raftkv.wire import peer
from raftkv.wire.h2 import ConnectionLimits
from raftkv.wire.h2_client import ClientConnection

log = logging.getLogger("raftkv.peers")

STREAM_PATH: Final = b"/raftkv.peer.v1.Raft/Stream"
STATE_PATH: Final = b"/raftkv.peer.v1.Raft/InstallState"
IDENTIFY_PATH: Final = b"/raftkv.peer.v1.Raft/Identify"
REJOIN_PATH: Final = b"/raftkv.peer.v1.Raft/Rejoin"

FIRST_RETRY_SECONDS: Final = 0.05
LAST_RETRY_SECONDS: Final = 0.5
DIAL_SECONDS: Final = 2.0
PROBE_SECONDS: Final = 2.0  # between two measurements of the round trip


def link_limits() -> ConnectionLimits:
    """Limits of connections between members: bigger messages, pings that find dead hosts."""
    return ConnectionLimits(
        max_message_bytes=limits.MAX_PEER_MESSAGE_BYTES,
        max_buffered_bytes=4 * limits.MAX_PEER_MESSAGE_BYTES,
        max_output_bytes=4 * limits.MAX_PEER_MESSAGE_BYTES,
        keepalive_min_time=0.0,
        keepalive_interval=2.0,
        keepalive_timeout=4.0,
    )


class LinkOwner(Protocol):
    """What a link tells (implemented by `Peers`)."""

    def identity(self, to: int) -> list[tuple[bytes, bytes]]:
        """Metadata that names cluster, sender and receiver."""

    def up(self, link: "Link", greeting: peer_pb2.Greeting) -> None:
        """The other end has greeted: messages flow."""

    def down(self, link: "Link", *, refused: bool) -> None:
        """A connection ended or could not be made. refused: nobody listens there."""

    def rejected(self, link: "Link", code: int, text: str) -> None:
        """The other end refused this member by an answer."""


class Link(asyncio.Protocol):
    """The way from this member to one other; survives its connections.

    member: the other end's id. urls: where it listens, tried in turn.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        owner: LinkOwner,
        member: int,
        urls: Sequence[str],
        context: ssl.SSLContext | None,
    ) -> None:
        self.member = member
        self.urls = list(urls)
        self.ready = False  # greeted: messages flow
        self.connection: ClientConnection | None = None
        self.traffic = PeerTraffic()
        self.round_trip_seconds = 0.0  # the newest one; 0: none on this connection
        self._loop = loop
        self._owner = owner
        self._context = context
        self._transport: asyncio.Transport | None = None
        self._stream = 0
        self._calls: dict[int, Call] = {}
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._ended = asyncio.Event()
        self._worked = False  # the present connection was greeted
        self._closed = False
        self._attempt = 0
        self._last_reason = ""
        self._since = 0.0  # when the present connection was made
        self._probed = 0.0  # when the last probe was sent; perf_counter, the loop's clock is coarse

    # --- dialling -----------------------------------------------------------

    def move(self, urls: Sequence[str]) -> None:
        """The other end listens somewhere else from now on: it is dialled there at once. A
        connection that works stays, for whoever answers on it has been recognised by its id.
        """
        self.urls = list(urls)
        self._attempt = 0
        if not self.ready:
            self.redial()

    def start(self) -> None:
        """Starts dialling; goes on until `close`."""
        self._task = self._loop.create_task(self._dial())

    def redial(self) -> None:
        """Dials now instead of at the next retry."""
        self._wake.set()

    def close(self) -> None:
        """Ends the link."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
        if self._transport is not None:
            self._transport.abort()

    async def _dial(self) -> None:
        """Connects, waits for the end of the connection, connects again, and so on.

        A connection that worked is replaced at once; one that was refused, by the network or
        by the other end, after a delay that doubles.
        """
        delay = FIRST_RETRY_SECONDS
        while not self._closed:
            self._ended.clear()
            self._worked = False
            if await self._connect():
                await self._ended.wait()
            if self._worked:
                delay = FIRST_RETRY_SECONDS
                continue
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), delay)
            delay = min(delay * 2, LAST_RETRY_SECONDS)

    async def _connect(self) -> bool:
        text = self.urls[self._attempt % len(self.urls)]
        self._attempt += 1
        refused = False
        try:
            url = urlsplit(text)
            await asyncio.wait_for(
                connect(
                    lambda: self,
                    url.hostname or "",
                    url.port or 0,
                    self._context if url.scheme == "https" else None,
                ),
                DIAL_SECONDS,
            )
        except ConnectionRefusedError as error:
            refused = True
            self._explain(str(error))
        except (OSError, TimeoutError, ValueError) as error:  # ValueError: no URL at all
            self._explain(str(error) or type(error).__name__)
        else:
            return True
        self._owner.down(self, refused=refused)
        return False

    def _explain(self, reason: str) -> None:
        if reason != self._last_reason:
            self._last_reason = reason
            log.warning("no connection to member %016x: %s", self.member, reason)

    # --- asyncio ------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Opens the stream and waits for the greeting."""
        self._transport = cast(asyncio.Transport, transport)
        self._since = self._loop.time()
        self._transport.set_write_buffer_limits(high=limits.MAX_INFLIGHT_BYTES)
        authority = f"member-{self.member:016x}".encode()
        self.connection = ClientConnection(
            self, authority, limits=link_limits(), now=self._loop.time()
        )
        self._stream = self.connection.request(
            STREAM_PATH, metadata=self._owner.identity(self.member)
        )
        self.flush()

    def data_received(self, data: bytes) -> None:
        """Answers of the other end."""
        connection = self.connection
        if connection is None:
            return
        probing = connection.probing
        connection.receive(data, self._loop.time())
        if probing and not connection.probing:
            self.round_trip_seconds = time.perf_counter() - self._probed
            self.traffic.round_trips.note(self.round_trip_seconds)
        self.flush()
        if connection.closing and self._transport is not None:
            self._explain(connection.close_reason)
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone; what was on it may be lost."""
        self._transport = None
        self.connection = None
        self.ready = False
        self.round_trip_seconds = 0.0
        for call in self._calls.values():
            call.ended("the connection to the member was lost")
        self._calls.clear()
        if not self._closed:
            self._owner.down(self, refused=False)
        self._ended.set()

    # --- answers (wire.h2_client.ClientHandler) --------------------------------

    def headers(self, stream: int) -> None:
        """Response headers: nothing to do before the greeting."""

    def message(self, stream: int, message: bytes) -> None:
        """The greeting on the stream, or an answer of a call beside it."""
        if stream != self._stream:
            if stream in self._calls:
                self._calls[stream].answered(message)
            return
        try:
            packet = peer_pb2.Packet.FromString(message)
        except DecodeError as error:
            self._give_up(f"the member's greeting cannot be decoded: {error}")
            return
        if not self.ready and packet.HasField("greeting"):
            self.ready = self._worked = True
            self._last_reason = ""
            self._owner.up(self, packet.greeting)

    def finished(self, stream: int, code: int, text: str) -> None:
        """A call has ended; without the stream the connection is of no use."""
        if stream != self._stream:
            call = self._calls.pop(stream, None)
            if call is not None:
                call.ended(text or f"the member ended the call with status {code}")
            return
        self.ready = False
        self._explain(text or f"the member ended the stream with status {code}")
        self._owner.rejected(self, code, text)
        if self._transport is not None:
            self._transport.close()

    def writable(self, stream: int) -> None:
        """Queued output has drained: nobody waits for it."""

    def _give_up(self, reason: str) -> None:
        self._explain(reason)
        if self._transport is not None:
            self._transport.abort()

    # --- sending ------------------------------------------------------------

    def send(self, messages: list[Message]) -> None:
        """Sends now, or drops: Raft repeats what matters."""
        connection = self.connection
        if connection is None or not self.ready:
            self.traffic.dropped_messages += len(messages)
            return
        if connection.queued_total() > limits.MAX_INFLIGHT_BYTES:
            self.traffic.dropped_messages += len(messages)
            return
        connection.send(self._stream, peer.pack(peer.encode_messages(messages)))
        assert self._transport is not None
        output = connection.take_output()
        self.traffic.sent_bytes += len(output)
        self._transport.write(output)

    def flush(self) -> None:
        """Writes what is queued."""
        if self.connection is not None and self._transport is not None:
            output = self.connection.take_output()
            if output:
                self.traffic.sent_bytes += len(output)
                self._transport.write(output)

    def tick(self, now: float) -> None:
        """Keepalive pings; a host that vanished is noticed here."""
        if self.connection is not None and self._transport is not None:
            self.connection.tick(now)
            self._probe()
            self.flush()
            if self.connection.closing:
                self._give_up(self.connection.close_reason)
            elif not self.ready and now - self._since > limits.HANDSHAKE_SECONDS:
                self._give_up(f"no greeting within {limits.HANDSHAKE_SECONDS:g} s")

    def _probe(self) -> None:
        now = time.perf_counter()
        connection = self.connection
        due = self.ready and now - self._probed >= PROBE_SECONDS
        if due and connection is not None and connection.probe():
            self._probed = now

    def open_call(self, path: bytes) -> Call:
        """Begins a further call beside the stream (a state transfer). Raises ConnectionError."""
        connection = self.connection
        if connection is None or self._transport is None or not self.ready:
            raise ConnectionError("no connection to the member")
        call = Call(self._transport, connection, path, self._owner.identity(self.member))
        self._calls[call.stream] = call
        return call

    def forget_call(self, call: Call) -> None:
        """What still comes for `call` is of no interest."""
        if self._calls.get(call.stream) is call:
            del self._calls[call.stream]
