"""One call of the gateway: to the services a gRPC client with one call, to the site a receiver.

The services know a client by what they do with it: `reply` and `fail` for unary calls, the
methods of `wire.h2.ServerConnection` for streams. Both are here, for the one stream `STREAM`. So
a method has one implementation, and the gateway costs no connection and no second encoding.

An answer is noted when a service gives it and written when the turn is over (`flush`), as for
any other client.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Final

from raftkv import limits
from raftkv.errors import DEADLINE_EXCEEDED, ApiError, Code
from raftkv.server.http.fromjson import BadJson, first_value
from raftkv.server.http.messages import JSON, Exchange, Fields
from raftkv.server.http.objects import Objects
from raftkv.server.http.tojson import Printer, quote
from raftkv.server.slices import Progress
from raftkv.wire.frames import PREFIX, PREFIX_BYTES
from raftkv.wire.grpc import RequestHead

if TYPE_CHECKING:
    from raftkv.server.http.gateway import Gateway, Method

STREAM: Final = 1
_MUCH_BYTES: Final = 64 * limits.KIB
_LONG_BYTES: Final = 256 * limits.KIB  # of an answer that is printed in slices

# HTTP status of a gRPC status (grpc-gateway v1, HTTPStatusFromCode).
HTTP_STATUS: Final = {
    Code.OK: 200,
    Code.CANCELLED: 408,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}
_STATUS_TEXT: Final = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    408: "Request Timeout",
    409: "Conflict",
    429: "Too Many Requests",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}
_ANSWER: Final[Fields] = (JSON, (b"Grpc-Metadata-Content-Type", b"application/grpc"))
_FAILURE: Final[Fields] = (JSON,)


def error_body(code: int, text: str) -> bytes:
    """The body of a call that failed before it said anything."""
    words = quote(text)
    return f'{{"error":{words},"code":{code},"message":{words}}}'.encode()


def error_text(error: ApiError) -> bytes:
    """The same of an error of the API."""
    return error_body(error.code, error.text)


def _error_line(code: int, text: str) -> bytes:
    status = HTTP_STATUS.get(code, 500)
    return (
        f'{{"error":{{"grpc_code":{code},"http_code":{status},"message":{quote(text)},'
        f'"http_status":"{_STATUS_TEXT[status]}"}}}}'
    ).encode()


class GatewayCall(ABC):
    """What unary calls and streams have in common.

    driver, routes, dirty, connection, reply, fail, flush: what services use of a client.
    """

    streams = False

    def __init__(
        self, gateway: "Gateway", method: "Method", exchange: Exchange, head: RequestHead
    ) -> None:
        self.driver = gateway.driver
        self.routes = gateway.routes
        self.dirty = False
        self.connection: Final = self
        self._gateway = gateway
        self._method = method
        self._exchange = exchange
        self._head = head
        self._tally = head.tally
        self._since = -1.0  # when the method was called
        self._open = True  # for the services
        self._status: tuple[int, str] | None = None  # how it ended, until that is written
        self._timer: asyncio.TimerHandle | None = None
        if head.timeout is not None:
            self._timer = self.driver.loop.call_later(head.timeout, self._expired)

    # --- for the services: a connection ---------------------------------------

    def is_open(self, stream: int) -> bool:
        """Whether an answer can still reach the client."""
        return self._open

    def queued(self, stream: int) -> int:
        """Bytes that the client has not taken."""
        return self._exchange.queued_bytes()

    def queued_total(self) -> int:
        """Bytes that the client has not taken; there is one stream only."""
        return self._exchange.queued_bytes()

    def listen(self, stream: int, hear: Callable[[bytes], None]) -> None:  # noqa: B027  (nothing)
        """Messages go through the routes."""

    def send_headers(self, stream: int) -> None:  # noqa: B027  (nothing yet)
        """The head goes out with the first message, as from etcd's gateway."""

    def fail(self, stream: int, error: ApiError) -> None:
        """Ends the call with an error of the API."""
        self.finish(stream, error.code, error.text)

    def finish(
        self, stream: int, code: int = 0, text: str = "", metadata: Sequence[object] = ()
    ) -> None:
        """Ends the call with a status, behind its answers."""
        if self._open:
            self._status = (code, text)
            self._close(code)

    @abstractmethod
    def flush(self) -> None:
        """Writes what was noted."""

    # --- the rest ---------------------------------------------------------------

    def _expired(self) -> None:
        if self._open:
            self.fail(STREAM, DEADLINE_EXCEEDED)
            self.routes.cancelled(self, STREAM)
            self.flush()

    def _begin(self) -> None:
        """The method is called."""
        self._since = self.driver.loop.time()
        self._tally.started += 1

    def _close(self, code: int) -> None:
        """The call is over with this status, for the services and for who counts calls."""
        self._open = False
        if self._since >= 0:
            self._tally.end(code)
            if self._tally.seconds is not None:
                self._tally.seconds.note(self.driver.loop.time() - self._since)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def lost(self) -> None:
        """The client is gone."""
        if self._open:
            self._close(Code.CANCELLED)
            self.routes.lost(self)

    def _settle(self) -> None:
        """Behind a message: what was answered at once is written, the rest needs a turn."""
        self.flush()
        driver = self.driver
        if self._open and not driver.woken and driver.replica.has_work():
            driver.wake()

    def _refuse(self, code: int, text: str) -> None:
        """Answers a body that never becomes a call."""
        self._close(code)
        self._exchange.respond(HTTP_STATUS[code], _FAILURE, error_body(code, text))


class UnaryCall(GatewayCall):
    """One request, one answer."""

    def __init__(
        self, gateway: "Gateway", method: "Method", exchange: Exchange, head: RequestHead
    ) -> None:
        super().__init__(gateway, method, exchange, head)
        self._body: list[bytes] = []
        self._size = 0
        self._answer: bytes | None = None

    # --- the body -----------------------------------------------------------

    def piece(self, data: bytes) -> None:
        """The next bytes of the request."""
        self._size += len(data)
        if self._size <= self._gateway.max_body_bytes:
            self._body.append(data)
        elif self._open:
            self._body.clear()
            self._refuse(Code.RESOURCE_EXHAUSTED, self._gateway.too_large(self._size))

    def ended(self) -> None:
        """The request is here: the method is called."""
        if not self._open:
            return
        gateway, body = self._gateway, self._body
        try:
            value = first_value(body[0] if len(body) == 1 else b"".join(body))
            message = b"" if value is None else self._method.request.encode(value[0])
        except BadJson as error:
            self._refuse(Code.INVALID_ARGUMENT, str(error))
            return
        body.clear()
        if len(message) > gateway.max_message_bytes:
            self._refuse(Code.RESOURCE_EXHAUSTED, gateway.too_large(len(message)))
            return
        self._begin()
        self._tally.received += 1
        route = self.routes.unary.get(self._head.path)
        if route is None:
            self.routes.opened(self, STREAM, self._head)  # refuses it in its words
        else:
            route(self, STREAM, self._head, message)
        self._settle()

    @property
    def lasting(self) -> bool:
        """Whether the service waits for others' doings."""
        return self.routes.holds(self)

    def writable(self) -> None:
        """One answer is written in one go."""

    # --- the answer ---------------------------------------------------------

    def reply(self, stream: int, message: bytes) -> None:
        """The answer."""
        if self._open:
            self._answer = message
            self._tally.sent += 1
            self._close(Code.OK)

    def flush(self) -> None:
        """Writes the answer, if there is one."""
        self.dirty = False
        if self._answer is not None:
            answer, self._answer = self._answer, None
            if len(answer) > _LONG_BYTES:
                self._print_in_slices(answer)
            else:
                self._exchange.respond(200, _ANSWER, self._method.answer.text(answer).encode())
        elif self._status is not None:
            (code, text), self._status = self._status, None
            self._exchange.respond(HTTP_STATUS.get(code, 500), _FAILURE, error_body(code, text))

    def _print_in_slices(self, answer: bytes) -> None:
        error = self.driver.slices.add(Printing(self._exchange, self._method.answer, answer))
        if error is not None:
            self._exchange.respond(HTTP_STATUS[error.code], _FAILURE, error_text(error))


class Printing:
    """A long answer that becomes JSON between the turns of the loop (slices.Piece)."""

    def __init__(self, exchange: Exchange, printer: Printer, answer: bytes) -> None:
        self._exchange = exchange
        self._parts: list[str] = []
        self._steps = printer.text_steps(answer, self._parts)

    def wanted(self) -> bool:
        """Whether the client still waits."""
        return self._exchange.is_open

    def drop(self, error: ApiError | None) -> None:
        """The end before the end."""
        self._parts.clear()
        if error is not None:
            self._exchange.respond(HTTP_STATUS[error.code], _FAILURE, error_text(error))

    def step(self) -> Progress:
        """A slice; the last one answers."""
        started = perf_counter()
        while perf_counter() - started < limits.SLICE_SECONDS / 2:
            try:
                next(self._steps)
            except StopIteration:
                self._exchange.respond(200, _ANSWER, "".join(self._parts).encode())
                return Progress.DONE
        return Progress.MORE


class StreamCall(GatewayCall):
    """Answers as lines; requests too if the method takes a stream of them."""

    lasting = True

    def __init__(
        self, gateway: "Gateway", method: "Method", exchange: Exchange, head: RequestHead
    ) -> None:
        super().__init__(gateway, method, exchange, head)
        self.streams = method.client_streaming
        self._objects = Objects()
        self._heard = 0  # requests
        self._deaf = False  # the rest of the body is of no interest
        self._begun = False  # the answer
        self._lines: list[bytes] = []
        self._load = 0  # bytes of these

    # --- the body -----------------------------------------------------------

    def piece(self, data: bytes) -> None:
        """Some of the requests; a method that takes one only hears it at the end of the body."""
        if self._deaf or not self._open:
            return
        try:
            self._objects.add(data)
            if self._method.client_streaming:
                for value in self._objects.complete():
                    self._hear(self._method.request.encode(value))
        except BadJson as error:
            self._bad(error)
            return
        if self._objects.size > self._gateway.max_body_bytes:
            self._objects = Objects()
            self._too_large(self._gateway.max_body_bytes)

    def ended(self) -> None:
        """The client will say no more."""
        if self._deaf or not self._open:
            return
        try:
            value = self._objects.end()
            if value is not None:
                self._hear(self._method.request.encode(value[0]))
            elif not self._heard and not self._method.client_streaming:
                self._hear(b"")
        except BadJson as error:
            self._bad(error)
            return
        self._half_close()

    def _hear(self, message: bytes) -> None:
        if not self._open:
            return
        if len(message) > self._gateway.max_message_bytes:
            self._too_large(len(message))
            return
        if not self._heard:
            self._begin()
            self.routes.opened(self, STREAM, self._head)
        self._heard += 1
        self._tally.received += 1
        self.routes.message(self, STREAM, message)
        self._settle()

    def _too_large(self, size: int) -> None:
        if self._open:
            self._deaf = True
            self.finish(STREAM, Code.RESOURCE_EXHAUSTED, self._gateway.too_large(size))
            self.routes.cancelled(self, STREAM)
            self.flush()

    def _half_close(self) -> None:
        self._deaf = True
        if self._open and not self._heard:
            self._begin()
            self.routes.opened(self, STREAM, self._head)
        if self._open:
            self.routes.half_closed(self, STREAM)
        self._settle()

    def _bad(self, error: BadJson) -> None:
        """The first request must be well; behind that, a bad one ends the requests only."""
        self._deaf = True
        if self._heard:
            self._half_close()
        else:
            known = self._method.client_streaming
            self._refuse(Code.UNKNOWN if known else Code.INVALID_ARGUMENT, str(error))

    def writable(self) -> None:
        """The client has taken most of what was written."""
        if self._open:
            self.routes.writable(self, STREAM)

    # --- the answers ----------------------------------------------------------

    def queued(self, stream: int) -> int:
        """Bytes that the client has not taken, or that wait for the turn's end."""
        return self._exchange.queued_bytes() + self._load

    def queued_total(self) -> int:
        """See `queued`."""
        return self._exchange.queued_bytes() + self._load

    def reply(self, stream: int, message: bytes) -> None:
        """The only answer."""
        self.send(stream, message)
        self.finish(stream)

    def send(self, stream: int, message: bytes) -> None:
        """An answer."""
        if self._open:
            line = self._method.line(message)
            self._lines.append(line)
            self._tally.sent += 1
            self._load += len(line)

    def send_framed(self, stream: int, messages: bytes, count: int = 1) -> None:
        """`count` answers with the prefixes of gRPC."""
        at = 0
        while at < len(messages):
            _, size = PREFIX.unpack_from(messages, at)
            at += PREFIX_BYTES + size
            self.send(stream, messages[at - size : at])

    def flush(self) -> None:
        """Writes the answers that there are."""
        self.dirty = False
        exchange, lines = self._exchange, self._lines
        if lines:
            if not self._begun:
                self._begun = True
                exchange.begin(200, _ANSWER)
            exchange.write_all(lines)
            much = self._load > _MUCH_BYTES
            self._lines = []
            self._load = 0
            if much and self._open:  # somebody may have been told that there is too much of it
                self.routes.writable(self, STREAM)
        if self._status is not None:
            (code, text), self._status = self._status, None
            if not self._begun:
                exchange.begin(HTTP_STATUS.get(code, 500), _FAILURE)
            if code:
                exchange.write_all([_error_line(code, text)])
            exchange.end()
