"""The client's end of a connection: calls in, HTTP/2 bytes out, answers to a ClientHandler.

The mirror of `h2`: a unary request goes out as two frames without a stream object, and a
whole unary answer in one chunk (HEADERS, DATA, trailers, both blocks seen before) is handed
over in one step by `_frames`. Everything else takes the general way.

Header blocks of requests are kept per (path, metadata); the encoder inserts their fields
into its table on first use and never evicts, so later requests are a few index bytes.
"""

from collections.abc import Sequence
from typing import Final, Protocol

from raftkv.errors import Code, ProtocolError
from raftkv.wire import frames
from raftkv.wire.connection import Connection
from raftkv.wire.frames import HEADER, MESSAGE, PREFACE
from raftkv.wire.grpc import RESET_CODES, encode_binary, encode_timeout
from raftkv.wire.hpack import Field
from raftkv.wire.policy import Budget, ConnectionLimits
from raftkv.wire.responses import NO_STATUS, Response, parse_response
from raftkv.wire.streams import AWAITING, Stream

_MAX_DATA_KIND: Final = frames.MAX_FRAME_BYTES << 8
_CACHED_BLOCKS: Final = 64
_CACHED_BLOCK_BYTES: Final = 1024
_USER_AGENT: Final = b"raftkv"


class ClientHandler(Protocol):
    """Who made the calls of a ClientConnection.

    A handler may also have `writable(stream)`, called when a queue drained (see ServerHandler).
    """

    def headers(self, stream: int) -> None:
        """The server accepted the call (response headers)."""

    def message(self, stream: int, message: bytes) -> None:
        """One message of the answer."""

    def finished(self, stream: int, code: int, text: str) -> None:
        """The call is over. code: gRPC status; UNAVAILABLE also for a lost connection."""


class ClientConnection(Connection):
    """One connection to a server. Make calls, `take_output`, `receive` chunks.

    handler: gets the answers. authority, scheme: of every request. now: seconds.
    going_away: the server takes no new calls; open ones may still finish.
    """

    def __init__(
        self,
        handler: ClientHandler,
        authority: bytes,
        scheme: bytes = b"http",
        limits: ConnectionLimits | None = None,
        now: float = 0.0,
    ) -> None:
        super().__init__(limits or ConnectionLimits(), now)
        self._handler = handler
        self._writable = getattr(handler, "writable", None)
        self._common: tuple[Field, ...] = (
            (b":method", b"POST"),
            (b":scheme", scheme),
            (b":authority", authority),
        )
        self.going_away = False
        self._next_stream = 1
        self._max_open = 0
        self._fast_bytes = 0
        self._pings = Budget(self.limits.pings, now)
        self._blocks: dict[tuple[bytes, tuple[Field, ...]], bytes] = {}
        self._blocks_generation = 0
        self._openings: dict[bytes, Response] = {}  # response header blocks, see hpack
        self._endings: dict[bytes, Response] = {}  # trailer blocks with a status
        self._out.append(PREFACE + self._first_settings())
        self._on_limits_changed()

    # --- calls ------------------------------------------------------------------------
    @property
    def can_request(self) -> bool:
        """True if the server lets us open one more call now."""
        return len(self._streams) < self._max_open

    def request(
        self,
        path: bytes,
        message: bytes | None = None,
        *,
        end: bool = False,
        metadata: Sequence[Field] = (),
        timeout: float | None = None,
    ) -> int:
        """Opens a call and returns its stream id.

        message: its first message, if any. end: no more messages follow (message + end =
        a unary call). metadata: lower-case names; -bin values raw. timeout: seconds, told to
        the server only. A request that overfills the connection ends it, and then `finished`
        is called before this returns. Raises ProtocolError while `can_request` is False.
        """
        streams = self._streams
        if len(streams) >= self._max_open:
            raise ProtocolError("the connection takes no more calls now")
        stream = self._next_stream
        self._next_stream = stream + 2
        self._last_stream = stream
        block = self._blocks.get((path, ()), b"") if not metadata else b""
        if not block or self._encoder.generation != self._blocks_generation:
            block = self._request_block(path, metadata)
        if timeout is not None:
            block += self._encoder.encode(((b"grpc-timeout", encode_timeout(timeout)),), False)
        if message is not None and end:
            length = len(message)
            size = length + 5
            if size <= self._window_bytes and size <= self._fast_bytes and len(block) <= 16384:
                self._window_bytes -= size
                streams[stream] = AWAITING
                self._out += (
                    HEADER.pack(len(block) << 8 | 1, 4, stream),
                    block,
                    MESSAGE.pack(size << 8, 1, stream, 0, length),
                    message,
                )
                return stream
        bare = message is None and end
        self._out.append(frames.header_frames(stream, block, bare, self._peer_frame_bytes))
        state = Stream(stream, self._peer_window_bytes)
        state.local_closed = bare
        streams[stream] = state
        if message is not None:
            self._send(state, message)
        if end and not bare and not self.closing:
            self._end(state)
        if self._next_stream > frames.MAX_STREAM:
            self._on_limits_changed()
        return stream

    def half_close(self, stream: int) -> None:
        """No more messages follow on this call."""
        state = self._streams.get(stream)
        if state is None or state is AWAITING or state.ending or state.local_closed:
            return
        self._end(state)

    def _request_block(self, path: bytes, metadata: Sequence[Field]) -> bytes:
        encoder = self._encoder
        key = (path, tuple(metadata))
        if encoder.generation != self._blocks_generation:
            self._blocks.clear()
            self._blocks_generation = encoder.generation
        block = self._blocks.get(key)
        if block is not None:
            return block
        block = encoder.encode(
            (
                *self._common,
                (b":path", path),
                (b"te", b"trailers"),
                (b"content-type", b"application/grpc"),
                (b"user-agent", _USER_AGENT),
                *(
                    (name, encode_binary(value) if name[-4:] == b"-bin" else value)
                    for name, value in metadata
                ),
            )
        )
        if encoder.generation == self._blocks_generation:
            if len(self._blocks) >= _CACHED_BLOCKS:
                self._blocks.clear()
            self._blocks[key] = block
        return block

    def close(self, reason: str = "closed by us") -> None:
        """Says goodbye (GOAWAY) and ends every open call with UNAVAILABLE."""
        self.fail(frames.NO_ERROR, reason)

    # --- the hot path -----------------------------------------------------------------
    def _frames(self, data: bytes) -> int:
        header = HEADER.unpack_from
        message = MESSAGE.unpack_from
        streams = self._streams
        openings = self._openings
        endings = self._endings
        handler = self._handler
        size = len(data)
        pos = 0
        while size - pos >= 9:
            kind, flags, stream = header(data, pos)
            body = pos + 9
            end = body + (kind >> 8)
            if end > size:
                return -1 if self._oversized(kind) else pos
            if (
                flags == 4
                and kind & 0xFF == 1
                and end + 23 <= size
                and streams.get(stream) is AWAITING
                and data[body:end] in openings
            ):
                kind2, flags2, stream2, flag, length = message(data, end)
                stop = end + 14 + length
                if (
                    kind2 == length + 5 << 8
                    and not flags2
                    and not flag
                    and stream2 == stream
                    and stop + 9 <= size
                    and kind2 <= _MAX_DATA_KIND
                ):
                    kind3, flags3, stream3 = header(data, stop)
                    final = stop + 9 + (kind3 >> 8)
                    if flags3 == 5 and kind3 & 0xFF == 1 and stream3 == stream and final <= size:
                        done = endings.get(data[stop + 9 : final])
                        if done is not None:
                            del streams[stream]
                            self._received_bytes += length + 5
                            handler.headers(stream)
                            handler.message(stream, data[end + 14 : stop])
                            handler.finished(stream, done[0], done[1])
                            pos = final
                            continue
            self._dispatch(kind, flags, stream, data, body)
            if self.closing:
                return -1
            pos = end
        return pos

    def _on_limits_changed(self) -> None:
        if self.closing or self.going_away or self._next_stream > frames.MAX_STREAM:
            self._max_open = 0
        else:
            self._max_open = min(self._peer_max_streams, self.limits.max_concurrent_streams)
        self._fast_bytes = (
            -1
            if self._paused or self.closing
            else min(self._peer_window_bytes, self._peer_frame_bytes)
        )

    # --- answers ----------------------------------------------------------------------
    def _preface(self, data: bytes) -> bytes | None:
        if data.startswith(b"HTTP/1"):
            line = data.split(b"\r\n", 1)[0][:80].decode("latin-1")
            self._close(f"the server answers in HTTP/1: {line!r}", frames.PROTOCOL_ERROR)
        elif data[:1] == b"\x15":
            self._close("the server expects TLS", frames.PROTOCOL_ERROR)
        elif len(data) < 9:
            self._rest = data
        elif data[3] == frames.SETTINGS and data[4] == 0:
            self.started = True
            return data
        else:
            text = f"the server does not speak HTTP/2; it starts with {data[:16]!r}"
            self.fail(frames.PROTOCOL_ERROR, text)
        return None

    def _on_table_changed(self) -> None:
        self._openings.clear()
        self._endings.clear()

    def _response(self, block: bytes, trailers: bool) -> Response | None:
        known = self._endings if trailers else self._openings
        response = known.get(block)
        if response is not None:
            return response
        generation = self._decoder.generation
        fields = self._decode(block)
        if fields is None:
            return None
        response = parse_response(fields, trailers)
        # `_frames` takes a remembered opening for plain response headers, so only those.
        plain = not (response.informational or response.gzip or response.wrong)
        if (
            plain
            and (response.code != NO_STATUS) == trailers
            and not self._decoder.truncated
            and self._decoder.generation == generation
            and len(block) <= _CACHED_BLOCK_BYTES
        ):
            if len(known) >= _CACHED_BLOCKS:
                known.clear()
            known[block] = response
        return response

    def _on_block(self, stream: int, end_stream: bool, block: bytes) -> None:
        state = self._streams.get(stream)
        if state is AWAITING:
            state = self._materialize(stream)
        trailers = state is not None and state.headers_received
        response = self._response(block, trailers)
        if response is None:
            return
        if state is None:
            if self._is_idle(stream):
                self.fail(frames.PROTOCOL_ERROR, f"HEADERS on the idle stream {stream}")
            else:
                self._useless("HEADERS on finished streams")
        elif end_stream:
            if state.partial is not None:
                self._stream_error(stream, frames.PROTOCOL_ERROR, "the last message is cut off")
            elif response.code == NO_STATUS:
                self._finish(state, Code.UNKNOWN, "the server ended the call without a status")
            else:
                self._finish(state, response.code, response.wrong or response.text)
        elif trailers:
            self._stream_error(stream, frames.PROTOCOL_ERROR, "trailers without END_STREAM")
        elif response.wrong:
            self._reset(stream, frames.CANCEL)
            self._handler.finished(stream, response.code, response.wrong)
        elif not response.informational:
            state.headers_received = True
            state.gzip = response.gzip
            self._handler.headers(stream)

    def _finish(self, state: Stream, code: int, text: str) -> None:
        """The answer is complete; what we still wanted to send is pointless."""
        self._drop(state.id)
        if not state.local_closed:
            self._forget(state.id)
            self._out.append(frames.rst_stream(state.id, frames.NO_ERROR))
        self._handler.finished(state.id, code, text)

    def _on_message(self, state: Stream, message: bytes) -> None:
        if state.headers_received:
            self._handler.message(state.id, message)
        else:
            self._stream_error(state.id, frames.PROTOCOL_ERROR, "DATA before response headers")

    def _on_end(self, state: Stream) -> None:
        self._finish(state, Code.INTERNAL, "the server ended the call without trailers")

    def _refuse_message(self, state: Stream, code: int, text: str) -> None:
        self._reset(state.id, frames.CANCEL)
        self._handler.finished(state.id, code, text)

    def _emit_end(self, state: Stream) -> None:
        self._out.append(frames.frame(frames.DATA, frames.END_STREAM, state.id))
        state.local_closed = True

    def _materialize(self, stream: int) -> Stream:
        state = Stream(stream, self._peer_window_bytes)
        state.local_closed = True
        self._streams[stream] = state
        return state

    # --- what the base classes report ---------------------------------------------------
    def _goaway_stream(self) -> int:
        return 0  # servers open no streams

    def _on_lost(self, stream: int, error_code: int, reason: str) -> None:
        code = Code.UNAVAILABLE if self.closing else RESET_CODES.get(error_code, Code.UNKNOWN)
        self._handler.finished(stream, code, reason)

    def _on_writable(self, stream: int) -> None:
        if self._writable is not None:
            self._writable(stream)

    def _on_ping_received(self) -> None:
        if not self._pings.take(self._now):
            self.fail(frames.ENHANCE_YOUR_CALM, "a flood of pings")

    def _on_goaway_received(self, last_stream: int, error_code: int, debug: bytes) -> None:
        """Calls above `last_stream` were never looked at; the others may finish."""
        self.going_away = self.draining = True
        reason = f"the server goes away: {frames.error_name(error_code)}"
        if debug:
            reason += f" ({debug.decode('utf-8', 'replace')})"
        self._drain_reason = reason
        self._on_limits_changed()
        for stream in [stream for stream in self._streams if stream > last_stream]:
            self._drop(stream)
            self._handler.finished(stream, Code.UNAVAILABLE, reason)
