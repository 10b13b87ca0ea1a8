"""HTTP requests that are no gRPC calls, on a connection that serves both.

What `ServerConnection` would refuse as no gRPC (another method, another content type) becomes a
stream whose DATA is handed over as it comes, with a `WebHead` that tells it from a call. Its
answer is HEADERS, DATA and an empty DATA frame that ends it.
"""

from collections.abc import Iterable
from typing import Final

from raftkv.wire import frames
from raftkv.wire.grpc import RequestHead
from raftkv.wire.h2 import ServerConnection
from raftkv.wire.hpack import Field
from raftkv.wire.requests import Refusal, RequestParser
from raftkv.wire.streams import Stream

_NO_CALL: Final = (405, 415)  # the statuses of `Refusal` that say so


class WebHead(RequestHead):
    """What a request says before its body.

    method, target: as they were sent. headers: lower-case names, without those that begin with a
    colon; `host` is the authority.
    """

    __slots__ = ("headers", "method", "target")

    def __init__(self, fields: Iterable[Field]) -> None:
        super().__init__(b"", {})
        headers: dict[bytes, bytes] = {}
        self.method = self.target = b""
        for name, value in fields:
            if name == b":method":
                self.method = value
            elif name == b":path":
                self.target = value
            elif name == b":authority":
                headers[b"host"] = value
            elif name[:1] != b":":
                headers[name] = headers[name] + b", " + value if name in headers else value
        self.headers = headers


class WebRequestParser(RequestParser):
    """Gives a `WebHead` for what is no call."""

    def parse(self, fields: list[Field]) -> RequestHead | Refusal:
        """The head of a call or of another request from its decoded header fields."""
        parsed = super().parse(fields)
        if isinstance(parsed, Refusal) and parsed.status in _NO_CALL:
            return WebHead(fields)
        return parsed


class WebServerConnection(ServerConnection):
    """A connection of calls and of other requests; see the module's docstring.

    The handler hears of the latter by `opened` with a `WebHead`, by `message` for each piece of
    the body, and by the rest as of any streaming call.
    """

    def serve_web(self) -> None:
        """Takes other requests than calls from here on. To be called before any was received."""
        parser = self._parser
        self._parser = WebRequestParser(*parser.paths)
        self._parser.tallies = parser.tallies

    def web_head(self, stream: int, fields: list[Field]) -> None:
        """The head of an answer. fields: `:status` first, lower-case names."""
        state = self._streams.get(stream)
        if state is not None and not state.headers_sent:
            state.headers_sent = True
            self._strikes = -1
            self._headers_out(stream, fields, False, False)

    def web_data(self, stream: int, data: bytes) -> None:
        """A piece of the answer's body; queued if need be."""
        self.send_framed(stream, data, 0)

    def web_end(self, stream: int, behind_request: bool) -> None:
        """The answer is complete.

        behind_request: the end waits for that of the request, for not every client expects an
        answer, and with it a reset, while it is still sending (curl 7.88 does not).
        """
        state = self._streams.get(stream)
        if state is None or state.ending:
            return
        state.deaf = True
        state.trailers = ()
        if behind_request and not state.remote_closed:
            state.ending = True
        else:
            self._end(state)

    def web_hold(self, stream: int, size: int) -> bool:
        """Counts bytes of a body that is kept until it is complete.

        False: there are too many of them on this connection, and the request is over.
        """
        state = self._streams.get(stream)
        if state is None:
            return False
        state.held_bytes += size
        self._held_bytes += size
        if self._held_bytes <= self.limits.max_buffered_bytes:
            return True
        self._reset(stream, frames.REFUSED_STREAM)
        return False

    # --- where it differs from a call -----------------------------------------------

    def _take_messages(self, state: Stream, data: bytes, pos: int, end: int) -> bool:
        if type(state.head) is not WebHead:
            return super()._take_messages(state, data, pos, end)
        self._handler.message(state.id, data[pos:end])
        return self._streams.get(state.id) is state

    def _emit_end(self, state: Stream) -> None:
        if type(state.head) is not WebHead:
            super()._emit_end(state)
            return
        self._strikes = -1
        self._out.append(frames.frame(frames.DATA, frames.END_STREAM, state.id, b""))
        state.local_closed = True
        self._leave(state.id, state.remote_closed)
