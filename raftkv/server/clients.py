"""Client connections: bytes in from asyncio, calls out to the routes, replies back.

One `ClientProtocol` per TCP connection. It holds no task and no future: a unary request is
handed to its route with the connection and the stream, and whoever has the answer calls
`reply` or `finish`. Output is written once at the end of a turn.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Protocol, cast

from raftkv import limits
from raftkv.errors import DEADLINE_EXCEEDED, ApiError
from raftkv.server.descriptors import admitted_clients
from raftkv.server.driver import Driver
from raftkv.server.entrance import Entrances
from raftkv.server.http.http1 import Http1Connection
from raftkv.server.http.http2 import Http2Requests
from raftkv.server.http.site import Site
from raftkv.server.logs import Repeats
from raftkv.server.routes import Routes
from raftkv.server.traffic import ClientTraffic
from raftkv.wire.grpc import RequestHead
from raftkv.wire.h2 import ConnectionLimits, ServerConnection
from raftkv.wire.tally import Tally
from raftkv.wire.web import WebHead, WebServerConnection

log = logging.getLogger("raftkv.clients")

LINGER_SECONDS: Final = 2.0  # for the last words of a connection that is closed


class ClientProtocol(asyncio.Protocol):
    """The server's end of one connection; also the handler of its `ServerConnection`."""

    def __init__(self, listener: "ClientListener", door: "Door | None" = None) -> None:
        door = door or listener.door
        self.listener = listener
        self.driver = listener.driver
        self.routes = door.routes
        self._site = door.site
        self.dirty = False
        self.connection = WebServerConnection(
            self,
            self.routes.unary_paths,
            listener.limits,
            listener.driver.loop.time(),
            self.routes.session_paths,
            self._take_over if door.site is not None else None,
        )
        if door.site is not None:
            self.connection.serve_web()
        self._web: Http2Requests | None = None  # from the first request that is no call on
        self.connection.count(listener.tallies, listener.clock)
        self.reply = self.connection.reply
        self._traffic = listener.traffic
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._deadlines: list[tuple[float, int]] = []
        self._closed = False
        self._close_by = 0.0  # when a connection that was told to close is cut

    # --- asyncio ------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self._transport = cast(asyncio.Transport, transport)
        if self.listener.admits(self._transport):
            self.listener.add(self)
        else:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Bytes of the client: all calls in them are started here."""
        connection, driver = self.connection, self.driver
        self._traffic.received_bytes += len(data)
        connection.receive(data, driver.loop.time())
        if connection.has_output or connection.closing:
            if not self.dirty:
                driver.mark_dirty(self)
        elif not driver.woken and driver.replica.has_work():
            driver.wake()

    def _take_over(self, data: bytes) -> None:
        """The first bytes are an HTTP/1 request: another protocol has the transport from now on."""
        assert self._transport is not None
        assert self._site is not None
        if self.listener.remove(self):
            Http1Connection(self.listener, self._site, self._transport).take_over(data)

    def _web_requests(self) -> Http2Requests:
        if self._web is None:
            assert self._transport is not None
            assert self._site is not None
            secure = self._transport.get_extra_info("ssl_object") is not None
            self._web = Http2Requests(self, self.connection, self._site, secure)
        return self._web

    def pause_writing(self) -> None:
        """The kernel's buffer is full: keep output in the connection, where it is bounded."""
        self._paused = True
        self.connection.pause_output()

    def resume_writing(self) -> None:
        """There is room again."""
        self._paused = False
        self.connection.resume_output()
        self.driver.mark_dirty(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone: streaming calls on it are over."""
        self._closed = True
        if self.listener.remove(self):
            self.routes.lost(self)
            if self._web is not None:
                self._web.lost()
            self.connection.abandon()

    def flush(self) -> None:
        """Writes what is queued; closes when the connection has decided to."""
        transport = self._transport
        if self._closed or transport is None:
            return
        if not self._paused:
            output = self.connection.take_output()
            if output:
                self._traffic.sent_bytes += len(output)
                transport.write(output)
        if self.connection.closing:
            if not self._close_by:
                self._close(transport)
        elif self.connection.queued_total() > limits.MAX_CONNECTION_OUTPUT_BYTES:
            log.warning("closing a client that does not read its answers")
            transport.abort()

    def _close(self, transport: asyncio.Transport) -> None:
        self._close_by = self.driver.loop.time() + LINGER_SECONDS
        if self.connection.close_reason:
            self.listener.log_end(transport, self.connection)
        transport.close()

    def abort(self) -> None:
        """Cuts the connection."""
        if self._transport is not None:
            self._transport.abort()

    def tick(self, now: float) -> None:
        """Deadlines of calls, keepalive pings, stalls. Called some times a second."""
        if self._close_by and now > self._close_by:
            self.abort()  # it does not even read why it is closed
            return
        if self._deadlines:
            self._expire(now)
        connection = self.connection
        connection.tick(now)
        if connection.closing or connection.queued_total():
            self.driver.mark_dirty(self)

    def _expire(self, now: float) -> None:
        is_open = self.connection.is_open
        kept = []
        for deadline, stream in self._deadlines:
            if not is_open(stream):
                continue
            if deadline <= now:
                self.fail(stream, DEADLINE_EXCEEDED)
                self.routes.cancelled(self, stream)
            else:
                kept.append((deadline, stream))
        self._deadlines = kept

    # --- calls (wire.grpc.ServerHandler) --------------------------------------

    def unary(self, stream: int, head: RequestHead, message: bytes) -> None:
        """A whole unary request."""
        if head.timeout is not None:
            self._deadlines.append((self.driver.loop.time() + head.timeout, stream))
        self.routes.unary[head.path](self, stream, head, message)

    def opened(self, stream: int, head: RequestHead) -> None:
        """A streaming call, or a call of something that does not exist, or no call at all."""
        if type(head) is WebHead:
            self._web_requests().opened(stream, head)
            return
        if head.timeout is not None:
            self._deadlines.append((self.driver.loop.time() + head.timeout, stream))
        self.routes.opened(self, stream, head)

    def message(self, stream: int, message: bytes) -> None:
        """One message of a streaming call."""
        if self._web is not None and stream in self._web:
            self._web.message(stream, message)
            return
        self.routes.message(self, stream, message)

    def half_closed(self, stream: int) -> None:
        """The client will send no more on this stream."""
        if self._web is not None and stream in self._web:
            self._web.half_closed(stream)
            return
        self.routes.half_closed(self, stream)

    def cancelled(self, stream: int) -> None:
        """The client gave the call up."""
        if self._web is not None and stream in self._web:
            self._web.cancelled(stream)
            return
        self.routes.cancelled(self, stream)

    def writable(self, stream: int) -> None:
        """A stream's queued output has drained."""
        if self._web is not None and stream in self._web:
            self._web.writable(stream)
            return
        self.routes.writable(self, stream)

    # --- answers ------------------------------------------------------------

    def fail(self, stream: int, error: ApiError) -> None:
        """Ends a call with an error of the API."""
        self.connection.finish(stream, error.code, error.text)


class Web(Protocol):
    """A connection of HTTP/1, or of what it was upgraded to."""

    @property
    def open_calls(self) -> int:
        """Requests without an answer."""

    def tick(self, now: float) -> None:
        """Deadlines. Called some times a second."""

    def go_away(self) -> None:
        """The member stops: nothing new behind what is under way."""

    def abort(self) -> None:
        """Cuts the connection."""


class Door(NamedTuple):
    """What is served on some URLs. site: to HTTP; None: gRPC only."""

    routes: Routes
    site: Site | None


class ClientListener:
    """All client connections of one member.

    connections: of HTTP/2. webs: of HTTP/1. door: for URLs that are given no other one.

    max_connections: more are closed at once (O04). entrances: TLS handshakes under way count.
    """

    def __init__(self, driver: Driver, routes: Routes, connection_limits: ConnectionLimits) -> None:
        self.driver = driver
        self.routes = routes
        self.door = Door(routes, None)
        self.limits = connection_limits
        self.connections: dict[ClientProtocol, None] = {}
        self.webs: dict[Web, None] = {}
        self.max_connections = admitted_clients()
        self.entrances: list[Entrances] = []
        self.traffic = ClientTraffic()
        self.tallies: Mapping[bytes, Tally] = {}
        self.clock: Callable[[], float] | None = None  # measures calls
        self._timer: asyncio.TimerHandle | None = None
        self._draining = False
        self._repeats = Repeats()

    def protocol(self, door: Door | None = None) -> ClientProtocol:
        """Factory for `loop.create_server`."""
        return ClientProtocol(self, door)

    def __len__(self) -> int:
        return len(self.connections) + len(self.webs)

    @property
    def open_calls(self) -> int:
        """Calls and requests without an end."""
        calls = sum(one.connection.open_streams for one in self.connections)
        return calls + sum(one.open_calls for one in self.webs)

    def start(self) -> None:
        """Starts the clock of the connections."""
        self._timer = self.driver.loop.call_later(0.2, self._tick)

    def admits(self, transport: asyncio.Transport) -> bool:
        """Whether one more client may come in; if not, the log says so now and then."""
        handshakes = sum(len(entrances.under_way) for entrances in self.entrances)
        if len(self) + handshakes < self.max_connections:
            return True
        times = self._repeats.times("full", self.driver.loop.time())
        if times:
            fields = {"remote-addr": str(transport.get_extra_info("peername"))}
            if times > 1:
                fields["times"] = str(times)
            log.warning(
                "turned a client away: %d are connected, more than the limit of open files "
                "admits; close some, or raise the limit (ulimit -n)",
                self.max_connections,
                extra=fields,
            )
        return False

    def add(self, connection: ClientProtocol) -> None:
        """A new connection. One that was accepted while this member stops is cut unheard: its
        client repeats, which it would not dare after a GOAWAY in place of SETTINGS.
        """
        self.connections[connection] = None
        if self._draining:
            connection.abort()

    def remove(self, connection: ClientProtocol) -> bool:
        """A connection is gone. False: it was turned away before."""
        if connection not in self.connections:
            return False
        del self.connections[connection]
        return True

    def log_end(self, transport: asyncio.Transport, connection: ServerConnection) -> None:
        """One line about a connection that this member ends."""
        address = transport.get_extra_info("peername")
        fields = {"remote-addr": str(address), "error": connection.close_reason}
        if connection.started:
            log.info("closed a client's connection", extra=fields)
            return
        host = address[0] if isinstance(address, tuple) else address
        times = self._repeats.times((host, connection.close_reason), self.driver.loop.time())
        if times > 1:
            fields["times"] = str(times)
        if times:
            log.warning("rejected connection on client endpoint", extra=fields)

    def _tick(self) -> None:
        now = self.driver.loop.time()
        self._timer = self.driver.loop.call_later(0.2, self._tick)
        for connection in list(self.connections):
            connection.tick(now)
        for web in list(self.webs):
            web.tick(now)

    def drain(self) -> None:
        """Tells every client to go elsewhere; running calls may end."""
        self._draining = True
        for connection in list(self.connections):
            connection.connection.go_away()
            self.driver.mark_dirty(connection)
        for web in list(self.webs):
            web.go_away()
        for end in self.routes.ends:
            end()

    def stop(self) -> None:
        """Cuts every connection."""
        if self._timer is not None:
            self._timer.cancel()
        for connection in list(self.connections):
            connection.flush()
            connection.abort()
        for web in list(self.webs):
            web.abort()
