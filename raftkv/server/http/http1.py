"""HTTP/1.1 and 1.0 on the client port: one connection, its requests one after the other.

The bytes are parsed by httptools (llhttp), which calls the `on_` methods. The request whose turn
it is (`Http1Exchange`) hears its body while it arrives; requests that a client sends before it has
its answer (pipelining) wait with their bodies, and beyond a few of them nothing more is read.

Limits: bytes of a head, seconds for a head and for a body, seconds without a request, what is
queued for a client that does not read. A stream of the gateway has no end of its own, so only
the queue and the time it stalls bound it.
"""

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

import httptools

from raftkv import limits
from raftkv.server.http.http1_exchange import Http1Exchange
from raftkv.server.http.messages import ANSWERED, REASONS, TEXT, Request

if TYPE_CHECKING:
    from raftkv.server.clients import ClientListener
    from raftkv.server.http.site import Site

_MAX_WAITING: Final = 32  # pipelined requests before reading stops
_MAX_WAITING_BYTES: Final = limits.MIB  # of their bodies
_LINGER_SECONDS: Final = 2.0  # for the last words of a connection that is closed
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Http1Connection(asyncio.Protocol):
    """One connection; see the module's docstring.

    listener: counts it and gives it the time. site: answers its requests.
    """

    def __init__(
        self, listener: "ClientListener", site: "Site", transport: asyncio.Transport
    ) -> None:
        self.driver = listener.driver
        self._listener = listener
        self._site = site
        self._transport = transport
        self._secure = transport.get_extra_info("ssl_object") is not None
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._head_bytes = 0  # of the head that is being received, in whole chunks
        self._field_bytes = 0  # of its fields
        self._head_by = 0.0  # when it must be complete; 0: none has begun
        self._body_by = 0.0
        self._idle_by = self.driver.loop.time() + limits.HTTP_IDLE_SECONDS
        self._receiving: Http1Exchange | None = None  # whose body comes
        self._current: Http1Exchange | None = None  # whose turn it is
        self._waiting: deque[Http1Exchange] = deque()
        self._waiting_bytes = 0
        self._closing_by = 0.0
        self._closed = False
        self._half_closed = False
        self._draining = False
        self._stalled_by = 0.0
        self._stalled_at = 0  # bytes queued when it was last looked at
        self._reading = True

    @property
    def open_calls(self) -> int:
        """Requests without an answer."""
        return (self._current is not None) + len(self._waiting)

    # --- asyncio ------------------------------------------------------------

    def take_over(self, data: bytes) -> None:
        """Is the transport's protocol from here on; `data` came before."""
        self._transport.set_protocol(self)
        self._listener.webs[self] = None
        self.data_received(data)

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        if self._closing_by:
            return
        try:
            self._parser.feed_data(data)
            if self._head_by:  # the parser itself has no limit
                self._head_bytes += len(data)
                if self._head_bytes > limits.MAX_HTTP_HEADER_BYTES:
                    raise _Refused(431)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgraded(data[upgrade.args[0] :])
        except (httptools.HttpParserError, _Refused) as error:
            self._refuse(error if isinstance(error, _Refused) else _refused_by_parser(error))

    def eof_received(self) -> bool:
        """The client says no more; a request that is answered soon still gets its answer."""
        self._half_closed = True
        call = self._current
        lasting = call is not None and call.receiver is not None and call.receiver.lasting
        owed = self.open_calls > 0 and self._receiving is None
        return owed and not lasting and not self._secure

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._closed = True
        self._listener.webs.pop(self, None)
        calls = [*([self._current] if self._current else []), *self._waiting]
        self._current = None
        self._waiting.clear()
        for call in calls:
            call.is_open = False
            if call.receiver is not None and not call.done:
                call.receiver.lost()

    def pause_writing(self) -> None:
        """The kernel takes no more: who writes asks how much is queued."""
        self._stalled_at = self.queued_bytes()
        self._stalled_by = self.driver.loop.time() + limits.STALLED_CONNECTION_SECONDS

    def resume_writing(self) -> None:
        """There is room again."""
        self._stalled_by = 0.0
        call = self._current
        if call is not None and call.receiver is not None and call.is_open:
            call.receiver.writable()

    # --- httptools ----------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins."""
        self._head_by = self.driver.loop.time() + limits.HANDSHAKE_SECONDS
        self._head_bytes = self._field_bytes = 0
        self._url = b""
        self._headers = {}

    def on_url(self, url: bytes) -> None:
        """A piece of its target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of its head."""
        name = name.lower()
        headers = self._headers
        self._field_bytes += len(name) + len(value)
        if self._field_bytes > limits.MAX_HTTP_HEADER_BYTES:
            raise _Refused(431)
        if name in headers:
            if name == b"host":
                raise _Refused(400, b"400 Bad Request: too many Host headers")
            if name == b"content-length":
                raise _Refused(400)
            value = headers[name] + b", " + value
        headers[name] = value

    def on_headers_complete(self) -> None:
        """The head is complete: the request gets its turn, or waits for it."""
        self._head_by = 0.0
        parser, headers = self._parser, self._headers
        old = parser.get_http_version() == "1.0"
        if b"host" not in headers and not old:
            raise _Refused(400, b"400 Bad Request: missing required Host header")
        coding = headers.get(b"transfer-encoding")
        if coding is not None and coding.lower() != b"chunked":
            raise _Refused(501, b"Unsupported transfer encoding")
        expected = headers.get(b"expect")
        if expected is not None and expected.lower() != b"100-continue":
            raise _Refused(417, b"")
        request = self._request(parser.get_method())
        upgrade = parser.should_upgrade()
        keep = (upgrade or parser.should_keep_alive()) and not self._draining
        call = Http1Exchange(self, request, old, keep)
        call.upgrade = upgrade and self._site.upgrades(request)
        self._receiving = call
        now = self.driver.loop.time()
        self._body_by = now + limits.HTTP_BODY_SECONDS
        if self._current is None and not self._waiting:
            self._begin(call)
        else:
            self._waiting.append(call)
            if len(self._waiting) >= _MAX_WAITING:
                self._hold_back()
        if expected is not None and call.is_open and not call.started:
            self.write(_CONTINUE)

    def _request(self, method: bytes) -> Request:
        target = self._url
        if not target.startswith(b"/"):  # an absolute form (RFC 9112 3.2.2), or "*"
            _, separator, rest = target.partition(b"://")
            if separator:
                host, slash, path = rest.partition(b"/")
                self._headers[b"host"] = host
                target = slash + path
        resource, _, query = target.decode("latin-1").partition("?")
        if "%" in resource:
            resource = unquote(resource)
        return Request(method, resource, query, self._headers, self._secure)

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        call = self._receiving
        if call is None:
            return
        if call.receiver is None:
            self._waiting_bytes += len(data)
            if self._waiting_bytes > _MAX_WAITING_BYTES:
                self._hold_back()
        call.hear(data)

    def on_message_complete(self) -> None:
        """The whole request is here."""
        call, self._receiving = self._receiving, None
        self._body_by = 0.0
        if call is not None:
            call.ended()

    # --- turns --------------------------------------------------------------

    def _begin(self, call: Http1Exchange) -> None:
        self._current = call
        if call.upgrade:
            return  # what follows it is no HTTP: see `_upgraded`
        receiver = self._site.open(call, call.request)
        call.begin_receiving(receiver)
        if self._half_closed and call.is_open and receiver.lasting:
            receiver.lost()
            self.close()

    def answered(self, call: Http1Exchange) -> None:
        """An answer is complete: the next request has its turn."""
        if call is not self._current:
            return
        self._current = None
        if not call.complete:
            # Not to read the rest of a body that nobody wants, the connection ends, but a short
            # one may be on its way behind an `expect` that was not answered.
            call.receiver = ANSWERED
            if b"expect" in call.request.headers:
                call.keep = False
        self._idle_by = self.driver.loop.time() + limits.HTTP_IDLE_SECONDS
        if not call.keep or (self._half_closed and not self._waiting):
            self.close()
            return
        # Not from within the parser's callbacks or the driver's flush, which may be deep.
        if self._waiting:
            self.driver.loop.call_soon(self._next)

    def _next(self) -> None:
        if self._current is None and self._waiting and not self._closing_by:
            call = self._waiting.popleft()
            self._waiting_bytes -= sum(map(len, call.body))
            if not self._reading and len(self._waiting) < _MAX_WAITING // 2:
                self._reading = True
                self._transport.resume_reading()
            self._begin(call)

    def _hold_back(self) -> None:
        """Too much waits for its turn. Behind a stream, which has no end, that makes no sense."""
        call = self._current
        if call is not None and call.receiver is not None and call.receiver.lasting:
            self.abort()
        elif self._reading:
            self._reading = False
            self._transport.pause_reading()

    def _upgraded(self, rest: bytes) -> None:
        """Behind a request that asked for another protocol."""
        call = self._current
        if call is not None and call.upgrade:
            self._site.upgrade(self._listener, self._transport, call, call.request, rest)
            if call.done:  # refused with an ordinary answer
                self._parser = httptools.HttpRequestParser(self)
            else:
                self._current = None
                self._listener.webs.pop(self, None)
            return
        # Whatever else was offered is not taken up (h2c by upgrade is not in RFC 9113).
        self._parser = httptools.HttpRequestParser(self)
        if rest:
            self.data_received(rest)

    # --- output ---------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Writes to the client; one that does not read is cut."""
        if self._closed:
            return
        self._transport.write(data)
        if self.queued_bytes() > limits.MAX_CONNECTION_OUTPUT_BYTES * limits.HTTP_BODY_FACTOR:
            self.abort()

    def queued_bytes(self) -> int:
        """What the kernel has not taken."""
        return 0 if self._closed else self._transport.get_write_buffer_size()

    def _refuse(self, refusal: "_Refused") -> None:
        """Bytes that are no request: the answer says so, if none was owed, and it is over."""
        call = self._current
        if call is not None and call is self._receiving and not call.started:  # its body is bad
            self._current, call.is_open = None, False
            if call.receiver is not None:
                call.receiver.lost()
        if self._current is None and not self._closed:
            status = refusal.status
            reason = b"%d %s" % (status, REASONS[status])
            body = reason if refusal.text is None else refusal.text
            head = b"HTTP/1.1 %s\r\n" % (body if body.startswith(reason) else reason)
            if status == 417:
                rest = b"Connection: close\r\nContent-Length: 0\r\n\r\n"
            else:
                rest = b"%s: %s\r\nConnection: close\r\n\r\n" % TEXT
            self._transport.write(head + rest + body)
        self.close()

    def close(self) -> None:
        """Ends the connection behind what is queued."""
        if not self._closing_by:
            self._closing_by = self.driver.loop.time() + _LINGER_SECONDS
            self._transport.close()

    def abort(self) -> None:
        """Cuts the connection."""
        self._transport.abort()

    def go_away(self) -> None:
        """The member stops: no more requests behind those that are under way."""
        self._draining = True
        if self._current is None:
            self.close()
        else:
            for call in (self._current, *self._waiting):
                call.keep = False

    def tick(self, now: float) -> None:
        """Deadlines."""
        if self._closing_by:
            if now > self._closing_by:
                self.abort()
        elif self._head_by and now > self._head_by:
            self._refuse(_Refused(408))
        elif self._stalled_by and now > self._stalled_by:
            queued = self.queued_bytes()
            if queued >= self._stalled_at:
                self.abort()
            self._stalled_at = queued
            self._stalled_by = now + limits.STALLED_CONNECTION_SECONDS
        elif self._receiving is not None:
            self._tick_body(self._receiving, now)
        elif self._current is None and now > self._idle_by:
            self.close()

    def _tick_body(self, call: Http1Exchange, now: float) -> None:
        if now < self._body_by or (call.receiver is not None and call.receiver.streams):
            return
        if call.started:
            self.abort()  # it was answered long ago
        else:
            self._refuse(_Refused(408))


class _Refused(Exception):
    """Raised out of the parser's callbacks. text: of the answer, None: the status itself."""

    def __init__(self, status: int, text: bytes | None = None) -> None:
        super().__init__(status)
        self.status = status
        self.text = text


def _refused_by_parser(error: BaseException) -> _Refused:
    """The parser wraps what a callback raised."""
    cause = error.__context__ or error.__cause__
    return cause if isinstance(cause, _Refused) else _Refused(400)
