"""HTTP requests on a connection of HTTP/2, beside the gRPC calls that it carries.

The connection tells both apart (`wire.web`). Its streams are independent of each other, so each
request is an exchange of its own from its head to its end.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from raftkv.server.http.messages import Fields, Receiver, Request
from raftkv.server.http.site import Site
from raftkv.wire.web import WebHead, WebServerConnection

if TYPE_CHECKING:
    from raftkv.server.clients import ClientProtocol


_SWEPT: Final = 16


class Http2Exchange:
    """One request and its answer (messages.Exchange)."""

    def __init__(
        self, client: "ClientProtocol", connection: WebServerConnection, stream: int, head: WebHead
    ) -> None:
        self.extra: Fields = ()
        self.receiver: Receiver | None = None
        self._client = client
        self._connection = connection
        self._stream = stream
        self._is_head = head.method == b"HEAD"
        self._done = False

    @property
    def is_open(self) -> bool:
        """Whether the client still waits for the answer."""
        return not self._done and self._connection.is_open(self._stream)

    def respond(self, status: int, fields: Fields, body: bytes) -> None:
        """The whole answer."""
        length = (b"Content-Length", b"%d" % len(body))
        self.begin(status, (*fields, length))
        if body and not self._is_head:
            self.write_all((body,))
        self.end()

    def begin(self, status: int, fields: Fields) -> None:
        """The head of the answer."""
        if self.is_open:
            named = [(name.lower(), value) for name, value in (*self.extra, *fields)]
            self._connection.web_head(self._stream, [(b":status", b"%d" % status), *named])
            self._touch()

    def write_all(self, pieces: Iterable[bytes]) -> None:
        """Pieces of the body."""
        if self.is_open:
            self._connection.web_data(self._stream, b"".join(pieces))
            self._touch()

    def end(self) -> None:
        """The answer is complete."""
        if self.is_open:
            self._done = True
            streams = self.receiver is not None and self.receiver.streams
            self._connection.web_end(self._stream, not streams)
            self._touch()

    def queued_bytes(self) -> int:
        """What the client's window, or the socket, has not taken."""
        return self._connection.queued_total()

    def hear(self, data: bytes) -> None:
        """A piece of the body."""
        receiver = self.receiver
        if receiver is None or self._done:
            return
        if receiver.streams or self._connection.web_hold(self._stream, len(data)):
            receiver.piece(data)
        else:
            receiver.lost()

    def _touch(self) -> None:
        client = self._client
        if not client.dirty:
            client.driver.mark_dirty(client)


class Http2Requests:
    """The requests of one connection that are no calls, by their streams."""

    def __init__(
        self, client: "ClientProtocol", connection: WebServerConnection, site: Site, secure: bool
    ) -> None:
        self._client = client
        self._connection = connection
        self._site = site
        self._secure = secure
        self._open: dict[int, Http2Exchange] = {}
        self._most = _SWEPT

    def __contains__(self, stream: int) -> bool:
        return stream in self._open

    def opened(self, stream: int, head: WebHead) -> None:
        """A request begins."""
        resource, _, query = head.target.decode("latin-1").partition("?")
        if "%" in resource:
            resource = unquote(resource)
        request = Request(head.method, resource, query, head.headers, self._secure)
        exchange = Http2Exchange(self._client, self._connection, stream, head)
        self._sweep()
        self._open[stream] = exchange
        exchange.receiver = self._site.open(exchange, request)

    def message(self, stream: int, data: bytes) -> None:
        """A piece of a body."""
        self._open[stream].hear(data)

    def half_closed(self, stream: int) -> None:
        """A body is complete."""
        receiver = self._open[stream].receiver
        if receiver is not None:
            receiver.ended()

    def cancelled(self, stream: int) -> None:
        """The client gave a request up."""
        exchange = self._open.pop(stream)
        if exchange.receiver is not None:
            exchange.receiver.lost()

    def writable(self, stream: int) -> None:
        """An answer has drained."""
        receiver = self._open[stream].receiver
        if receiver is not None:
            receiver.writable()

    def lost(self) -> None:
        """The connection is gone."""
        for stream in list(self._open):
            self.cancelled(stream)

    def _sweep(self) -> None:
        """Forgets answered requests, now and then: their ends are nobody's event."""
        if len(self._open) >= self._most:
            gone = [one for one in self._open if not self._connection.is_open(one)]
            for one in gone:
                del self._open[one]
            self._most = max(2 * len(self._open), _SWEPT)
