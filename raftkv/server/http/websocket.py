"""A method of the gateway over a WebSocket (RFC 6455), as etcd's gateway offers it to browsers.

Every message of the client is a piece of the request's body, a line of its own; every line of
the answer is a message. The method is taken as if it had been posted. When the answer ends, so
does the socket; when the client closes it, the call is given up. A body has no other end, so
only streams make sense.

A browser cannot set headers here: a token comes as the second of the offered subprotocols,
`Bearer, TOKEN`.
"""

import asyncio
import base64
import hashlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import (
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from raftkv import limits
from raftkv.server.http.messages import Fields, Receiver

if TYPE_CHECKING:
    from raftkv.server.clients import ClientListener

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_GOING_AWAY: Final = 1001
_LINGER_SECONDS: Final = 2.0


def accept_key(headers: dict[bytes, bytes]) -> bytes | None:
    """What a handshake is answered with; None if it is none of version 13."""
    key = headers.get(b"sec-websocket-key", b"").strip()
    try:
        well = len(base64.b64decode(key, validate=True)) == 16
    except ValueError:
        well = False
    if not well or headers.get(b"sec-websocket-version") != b"13":
        return None
    digest = hashlib.sha1(key + _GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest)


class WebSocketConnection(asyncio.Protocol):
    """One socket; to the gateway the exchange of its one request (messages.Exchange)."""

    def __init__(self, listener: "ClientListener", transport: asyncio.Transport) -> None:
        self.extra: Fields = ()
        self._listener = listener
        self._transport = transport
        self._frames = Connection(ConnectionType.SERVER)
        self._receiver: Receiver | None = None
        self._closing_by = 0.0
        self._closed = False
        self._stalled_by = 0.0
        self._stalled_at = 0

    def take_over(
        self, key: bytes, open_call: Callable[[], Receiver], data: bytes, bearer: bool = False
    ) -> None:
        """Accepts the handshake; the transport is this protocol's from here on.

        open_call: begins the request. data: frames that came behind the handshake.
        """
        head = (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n" % key
        )
        if bearer:
            head += b"Sec-WebSocket-Protocol: Bearer\r\n"
        self._transport.write(head + b"\r\n")
        self._transport.set_protocol(self)
        self._listener.webs[self] = None
        self._receiver = open_call()
        if data:
            self.data_received(data)

    # --- asyncio ------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Frames of the client."""
        if self._closing_by:
            return
        try:
            self._frames.receive_data(data)
            for event in self._frames.events():
                self._heard(event)
        except RemoteProtocolError as error:
            if error.event_hint is not None:
                self._send(error.event_hint)
            self._give_up()

    def _heard(self, event: Event) -> None:
        if isinstance(event, Ping):
            self._send(event.response())
        elif isinstance(event, CloseConnection):
            self._send(event.response())
            self._give_up()
        elif isinstance(event, TextMessage | BytesMessage) and self._receiver is not None:
            piece = event.data.encode() if isinstance(event.data, str) else bytes(event.data)
            self._receiver.piece(piece + b"\n" if event.message_finished else piece)

    def eof_received(self) -> bool:
        """A socket has no half-closed state."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._closed = True
        self._listener.webs.pop(self, None)
        self._lose()

    def pause_writing(self) -> None:
        """The kernel takes no more."""
        self._stalled_at = self.queued_bytes()
        self._stalled_by = self._listener.driver.loop.time() + limits.STALLED_CONNECTION_SECONDS

    def resume_writing(self) -> None:
        """There is room again."""
        self._stalled_by = 0.0
        if self._receiver is not None:
            self._receiver.writable()

    # --- the exchange ---------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether the client can still be told something."""
        return not (self._closed or self._closing_by)

    def respond(self, status: int, fields: Fields, body: bytes) -> None:
        """An answer that is no stream: its lines, and the end."""
        self.write_all(body.splitlines())
        self.end()

    def begin(self, status: int, fields: Fields) -> None:
        """There is no head in a socket."""

    def write_all(self, pieces: Iterable[bytes]) -> None:
        """A message for each line."""
        if not self.is_open or self._frames.state is not ConnectionState.OPEN:
            return
        frames = [self._frames.send(TextMessage(one.rstrip(b"\n").decode())) for one in pieces]
        self._transport.write(b"".join(frames))
        if self.queued_bytes() > limits.MAX_CONNECTION_OUTPUT_BYTES:
            self.abort()

    def end(self) -> None:
        """The answer is complete, and with it the socket."""
        if self.is_open:
            self._send(CloseConnection(code=1000))
            self._receiver = None
            self._close()

    def queued_bytes(self) -> int:
        """What the kernel has not taken."""
        return 0 if self._closed else self._transport.get_write_buffer_size()

    # --- ends ---------------------------------------------------------------

    def _send(self, event: CloseConnection | Pong | Event) -> None:
        try:
            self._transport.write(self._frames.send(event))
        except LocalProtocolError:
            return  # it is closed already

    def _lose(self) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.lost()

    def _give_up(self) -> None:
        self._lose()
        self._close()

    def _close(self) -> None:
        if not self._closing_by:
            self._closing_by = self._listener.driver.loop.time() + _LINGER_SECONDS
            self._transport.close()

    # --- the listener (clients.Web) ---------------------------------------------

    @property
    def open_calls(self) -> int:
        """Its one call."""
        return self._receiver is not None

    def abort(self) -> None:
        """Cuts the connection."""
        self._transport.abort()

    def go_away(self) -> None:
        """The member stops. The call, a stream, is told so by its service, or is cut here."""
        if self.is_open and self._receiver is None:
            self._send(CloseConnection(code=_GOING_AWAY))
            self._close()

    def tick(self, now: float) -> None:
        """Deadlines."""
        if self._closing_by:
            if now > self._closing_by:
                self.abort()
        elif self._stalled_by and now > self._stalled_by:
            queued = self.queued_bytes()
            if queued >= self._stalled_at:
                self.abort()
            self._stalled_at = queued
            self._stalled_by = now + limits.STALLED_CONNECTION_SECONDS
