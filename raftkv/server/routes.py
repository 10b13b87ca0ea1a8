"""Which code answers which path, and what a path that nothing answers gets.

A unary route is `handler(connection, stream, head, message)`. A streaming route makes one
object per call, which hears the messages of its stream.
"""

from collections.abc import Callable
from typing import Protocol, TypeAlias

from raftkv.errors import Code
from raftkv.wire.grpc import RequestHead


class Streams(Protocol):
    """The calls of one connection, as `wire.h2.ServerConnection` has them."""

    def is_open(self, stream: int) -> bool:
        """Whether an answer can still reach the client."""

    def listen(self, stream: int, hear: Callable[[bytes], None]) -> None:
        """The messages of a call go to `hear`."""

    def finish(self, stream: int, code: int = 0, text: str = "") -> None:
        """Ends a call with a status."""


class Connection(Protocol):
    """What routes need of who makes calls: `clients.ClientProtocol`, `http.calls.GatewayCall`.

    What services need besides is what both have in common.
    """

    @property
    def connection(self) -> Streams:
        """Where its calls are answered."""


class Call(Protocol):
    """One streaming call on the server."""

    def message(self, message: bytes) -> None:
        """A message of the client."""

    def half_closed(self) -> None:
        """The client will send no more."""

    def cancelled(self) -> None:
        """The call is gone: nothing can be sent on it."""

    def writable(self) -> None:
        """Queued output has drained."""


UnaryRoute: TypeAlias = Callable[..., None]
StreamRoute: TypeAlias = Callable[..., Call]


class Routes:
    """The table of paths.

    known: every service of the API with its methods, to tell an unknown service from an
    unknown method, as gRPC servers do.
    session_paths: the unary paths whose calls may be in a session (`services/once`).
    """

    def __init__(self, known: dict[str, list[str]]) -> None:
        self.unary: dict[bytes, UnaryRoute] = {}
        self.session_paths: set[bytes] = set()
        self.streams: dict[bytes, StreamRoute] = {}
        self.ends: list[Callable[[], None]] = []  # end streams that would not end by themselves
        self._known = known
        self._calls: dict[Connection, dict[int, Call]] = {}

    @property
    def unary_paths(self) -> dict[bytes, UnaryRoute]:
        """The paths whose requests are one message (a container, for `in`)."""
        return self.unary

    def opened(self, connection: Connection, stream: int, head: RequestHead) -> None:
        """A streaming or unknown call begins."""
        route = self.streams.get(head.path)
        if route is None:
            connection.connection.finish(stream, Code.UNIMPLEMENTED, self._unknown(head.path))
            return
        call = route(connection, stream, head)
        if connection.connection.is_open(stream):
            self.hold(connection, stream, call)
            connection.connection.listen(stream, call.message)

    def hold(self, connection: Connection, stream: int, call: Call) -> None:
        """`call` hears what happens to its stream. For unary calls: those that take long."""
        calls = self._calls.get(connection)
        if calls is None:
            calls = self._calls[connection] = {}
        calls[stream] = call

    def holds(self, connection: Connection) -> bool:
        """Whether a connection has calls that take long."""
        return connection in self._calls

    def _call(self, connection: Connection, stream: int) -> Call | None:
        calls = self._calls.get(connection)
        return None if calls is None else calls.get(stream)

    def _release(self, connection: Connection, stream: int) -> Call | None:
        calls = self._calls.get(connection)
        if calls is None:
            return None
        call = calls.pop(stream, None)
        if not calls:
            del self._calls[connection]
        return call

    def _unknown(self, path: bytes) -> str:
        service, _, method = path.decode("utf-8", "replace").lstrip("/").rpartition("/")
        if service in self._known:
            return f"unknown method {method} for service {service}"
        return f"unknown service {service}"

    def message(self, connection: Connection, stream: int, message: bytes) -> None:
        """A message of a streaming call."""
        call = self._call(connection, stream)
        if call is not None:
            call.message(message)

    def half_closed(self, connection: Connection, stream: int) -> None:
        """The client's half of a call is closed."""
        call = self._call(connection, stream)
        if call is not None:
            call.half_closed()

    def cancelled(self, connection: Connection, stream: int) -> None:
        """A call was given up by the client."""
        call = self._release(connection, stream)
        if call is not None:
            call.cancelled()

    def finished(self, connection: Connection, stream: int) -> None:
        """The server has ended a streaming call by itself."""
        self._release(connection, stream)

    def writable(self, connection: Connection, stream: int) -> None:
        """Output of a streaming call has drained."""
        call = self._call(connection, stream)
        if call is not None:
            call.writable()

    def lost(self, connection: Connection) -> None:
        """A connection is gone with all its calls."""
        for call in self._calls.pop(connection, {}).values():
            call.cancelled()
