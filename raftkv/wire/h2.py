"""The server's end of a connection: HTTP/2 bytes in, calls of a ServerHandler out.

An ordinary unary call is one HEADERS frame whose block was seen before and one DATA frame
with the whole message. `_frames` recognises exactly that, calls the handler and leaves
an `Awaiting` in the table of streams; `reply` finds it there and writes HEADERS, DATA and
trailers at once. So such a call costs no stream object, no queue and no header decoding.
A DATA frame that is one whole message of a streaming call goes straight to whoever `listen`s.
Everything else takes the general way of the base classes, with the same result.

Response header blocks: the encoder's table holds content-type and grpc-status: 0 after the
first reply, so the blocks are constants of one or two bytes from the second one on.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from struct import Struct
from typing import Final

from raftkv.errors import Code
from raftkv.wire import frames
from raftkv.wire.connection import Connection
from raftkv.wire.foreign import describe_foreign, is_http1
from raftkv.wire.frames import HEADER, MESSAGE, PREFACE
from raftkv.wire.grpc import RequestHead, ServerHandler, encode_status
from raftkv.wire.hpack import Field
from raftkv.wire.policy import ConnectionLimits
from raftkv.wire.requests import Refusal, RequestParser, check_fields
from raftkv.wire.streams import Awaiting, Stream
from raftkv.wire.tally import Tally

__all__ = ["ConnectionLimits", "RequestHead", "ServerConnection", "ServerHandler"]

_CONTENT_TYPE: Final = (b"content-type", b"application/grpc")
_RESPONSE: Final = ((b":status", b"200"), _CONTENT_TYPE)
_OK_TRAILERS: Final = ((b"grpc-status", b"0"),)
_MAX_DATA_KIND: Final = frames.MAX_FRAME_BYTES << 8  # kind of the longest DATA frame
_MIN_DATA_KIND: Final = frames.PREFIX_BYTES << 8  # and of the shortest one with a message
_CACHED_BLOCKS: Final = 64
_CACHED_BLOCK_BYTES: Final = 1024
_MAX_STRIKES: Final = 2
_ONE_MESSAGE: Final = "a unary call needs exactly one request message"


class ServerConnection(Connection):
    """One client's connection. `receive` chunks, act on the handler's calls, `take_output`.

    handler: gets the calls. unary_paths: paths whose calls are handed over whole.
    limits: see ConnectionLimits. now: seconds on any clock that never goes back.
    session_paths: paths whose calls may have SESSION_METADATA.
    take_over: gets the first bytes of a connection that speaks HTTP/1; None: it is refused.
    """

    def __init__(
        self,
        handler: ServerHandler,
        unary_paths: Container[bytes],
        limits: ConnectionLimits | None = None,
        now: float = 0.0,
        session_paths: Container[bytes] = (),
        take_over: Callable[[bytes], None] | None = None,
    ) -> None:
        super().__init__(limits or ConnectionLimits(), now)
        self._handler = handler
        self._parser = RequestParser(unary_paths, session_paths)
        self._take_over = take_over
        self._measures = False
        self._maxima = (  # open calls; bytes of a message; of a stream before they are credited
            self.limits.max_concurrent_streams,
            self.limits.max_message_bytes,
            self.limits.stream_window_bytes >> 1,
        )
        self._heads: dict[bytes, tuple[RequestHead, Awaiting]] = {}  # by block, see hpack
        self._drained_at = 0  # newest stream we promised to serve in GOAWAY
        self._last_ping: float | None = None
        self._fast_bytes = -1  # longest framed message of the fast path of `reply`
        self._reply_blocks: tuple[bytes, bytes] | None = None
        self._pack_head: Callable[..., bytes] = MESSAGE.pack
        self._pack_tail: Callable[..., bytes] = HEADER.pack
        self._head5 = self._tail5 = self._head_block = self._tail_block = b""

    def count(self, tallies: Mapping[bytes, Tally], clock: Callable[[], float] | None) -> None:
        """Counts calls by their paths. clock: in seconds, measures them too (`Tally.seconds`)."""
        self._parser.tallies = tallies
        if clock is not None:
            self._measures = True
            self._clock = clock
            self.reply = self._measured_reply  # type: ignore[method-assign]

    # --- the hot path --------------------------------------------------------------
    def _frames(self, data: bytes) -> int:
        header = HEADER.unpack_from
        message = MESSAGE.unpack_from
        streams = self._streams
        heads = self._heads
        unary, measures = self._handler.unary, self._measures
        max_streams, max_message, max_received = self._maxima
        size = len(data)
        pos = 0
        while size - pos >= 9:
            kind, flags, stream = header(data, pos)
            body = pos + 9
            end = body + (kind >> 8)
            if end > size:
                return -1 if self._oversized(kind) else pos
            if flags == 4 and kind & 0xFF == 1 and end + 14 <= size and self._block is None:
                known = heads.get(data[body:end])
                if known is not None and known[0].unary:
                    kind2, flags2, stream2, flag, length = message(data, end)
                    stop = end + 14 + length
                    if (
                        kind2 == length + 5 << 8
                        and flags2 == 1
                        and not flag
                        and stream2 == stream
                        and stop <= size
                        and kind2 <= _MAX_DATA_KIND
                        and self._last_stream < stream <= 0x7FFFFFFF
                        and stream & 1
                        and len(streams) < max_streams
                    ):
                        self._last_stream = stream
                        self._received_bytes += length + 5
                        head, awaiting = known
                        awaiting.tally.quick += 1
                        if measures:
                            awaiting = Awaiting(awaiting.tally, self._clock())
                        streams[stream] = awaiting
                        unary(stream, head, data[end + 14 : stop])
                        pos = stop
                        continue
            elif not flags and not kind & 0xFF and _MIN_DATA_KIND <= kind <= _MAX_DATA_KIND:
                state = streams.get(stream)
                if state is not None and state.hear is not None:
                    _, _, _, flag, length = message(data, pos)
                    received = state.received_bytes + length + 5
                    if (
                        kind == length + 5 << 8
                        and not flag
                        and length <= max_message
                        and received <= max_received
                        and state.partial is None
                        and self._block is None
                        and not (state.deaf or state.remote_closed)
                    ):
                        state.received_bytes = received
                        state.tally.received += 1
                        self._received_bytes += length + 5
                        state.hear(data[body + 5 : end])
                        if self.closing:
                            return -1
                        pos = end
                        continue
            self._dispatch(kind, flags, stream, data, body)
            if self.closing:
                return -1
            pos = end
        return pos

    def reply(self, stream: int, message: bytes) -> None:
        """Answers a unary call: headers, the one message, status OK. Dropped if it is gone."""
        length = len(message)
        size = length + 5
        if (
            size <= self._fast_bytes
            and size <= self._window_bytes
            and type(state := self._streams.get(stream)) is Awaiting
        ):
            state.tally.answered += 1
            del self._streams[stream]
            self._window_bytes -= size
            self._strikes = -1
            self._out += (
                self._pack_head(
                    self._head5, stream, self._head_block, size << 8, 0, stream, 0, length
                ),
                message,
                self._pack_tail(self._tail5, stream, self._tail_block),
            )
            return
        self.send(stream, message)
        self.finish(stream)
        if self._reply_blocks is None:
            self._settle()

    def _measured_reply(self, stream: int, message: bytes) -> None:
        state = self._streams.get(stream)
        if state is not None and state.since:
            self._measure(state)
            state.since = 0.0
        ServerConnection.reply(self, stream, message)

    def _settle(self) -> None:
        """Takes the response blocks as constants once the encoder's table holds them."""
        if self.closing:
            return
        head = self._encoder.constant(_RESPONSE)
        tail = self._encoder.constant(_OK_TRAILERS)
        if head is None or tail is None:
            return
        self._reply_blocks = (head, tail)
        self._pack_head = Struct(f">5sI{len(head)}sIBIBI").pack
        self._pack_tail = Struct(f">5sI{len(tail)}s").pack
        self._head5 = frames.frame(frames.HEADERS, frames.END_HEADERS, 0, head)[:5]
        self._tail5 = frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 0, tail)[
            :5
        ]
        self._head_block, self._tail_block = head, tail
        self._on_limits_changed()

    def _on_limits_changed(self) -> None:
        if self._reply_blocks is not None and (
            self._encoder.constant(_RESPONSE) != self._reply_blocks[0]
            or self._encoder.constant(_OK_TRAILERS) != self._reply_blocks[1]
        ):
            self._reply_blocks = None  # the client took the table away; `reply` settles anew
        if self._reply_blocks is None or self._paused or self.draining or self.closing:
            self._fast_bytes = -1
        else:
            self._fast_bytes = min(self._peer_window_bytes, self._peer_frame_bytes)

    def listen(self, stream: int, hear: Callable[[bytes], None]) -> None:
        """The messages of a call that was `opened` go to `hear`, not to `handler.message`."""
        state = self._streams.get(stream)
        if state is not None:
            assert type(state) is not Awaiting, "a unary call"
            state.hear = hear

    # --- answers --------------------------------------------------------------------
    def send(self, stream: int, message: bytes) -> None:
        """Sends one message of a call, after the response headers; queued if need be."""
        self.send_headers(stream)
        super().send(stream, message)

    def send_framed(self, stream: int, messages: bytes, count: int = 1) -> None:
        """Like `send`, for `count` gRPC messages that have their prefixes already."""
        state = self._streams.get(stream)
        if state is None or not state.headers_sent:
            self.send_headers(stream)
            super().send_framed(stream, messages, count)
        else:
            self._send_framed(state, messages, count)

    def send_headers(self, stream: int) -> None:
        """Sends the response headers now, if they were not sent yet."""
        state = self._streams.get(stream)
        if state is None or state.headers_sent:
            return
        if type(state) is Awaiting:
            state = self._materialize(stream)
        if state.ending:
            return
        state.headers_sent = True
        self._strikes = -1
        self._headers_out(stream, _RESPONSE, False, True)

    def finish(
        self, stream: int, code: int = 0, text: str = "", metadata: Sequence[Field] = ()
    ) -> None:
        """Ends a call with a status, behind what is queued. Dropped if the call is gone.

        code: gRPC status. text: for people, any Unicode. metadata: trailing metadata with
        lower-case names; the values of -bin names are raw bytes.
        """
        state = self._streams.get(stream)
        if state is None or state.ending:
            return
        if type(state) is Awaiting:
            state = self._materialize(stream)
        self._count_end(state, code)
        if not code and not text and not metadata:
            self.send_headers(stream)
            state.trailers = _OK_TRAILERS
        else:
            fields = () if state.headers_sent else _RESPONSE
            state.trailers = (*fields, *encode_status(code, text, metadata))
        state.deaf = True
        self._end(state)

    def go_away(self) -> None:
        """Drains: no new calls, and `closing` when the open ones are finished."""
        if self.closing or self.draining:
            return
        self.draining = True
        self._drained_at = self._last_stream
        self._heads.clear()
        self._out.append(frames.goaway(self._last_stream, frames.NO_ERROR, b"going away"))
        self._on_limits_changed()
        self._check_drained()

    def _headers_out(
        self, stream: int, fields: Iterable[Field], end_stream: bool, insert: bool
    ) -> None:
        block = self._encoder.encode(fields, insert)
        self._out.append(frames.header_frames(stream, block, end_stream, self._peer_frame_bytes))

    def _emit_end(self, state: Stream) -> None:
        self._strikes = -1
        self._headers_out(state.id, state.trailers, True, state.trailers is _OK_TRAILERS)
        state.local_closed = True
        self._leave(state.id, state.remote_closed)

    def _leave(self, stream: int, remote_closed: bool) -> None:
        """The answer is complete; a client that still sends is told to stop (RFC 9113 8.1)."""
        self._drop(stream)
        if not remote_closed:
            self._forget(stream)
            self._out.append(frames.rst_stream(stream, frames.NO_ERROR))
        self._check_drained()

    def _materialize(self, stream: int) -> Stream:
        state = Stream(stream, self._peer_window_bytes)
        state.remote_closed = True
        state.tally, state.since = self._streams[stream].tally, self._streams[stream].since
        self._streams[stream] = state
        return state

    # --- requests -------------------------------------------------------------------
    def _preface(self, data: bytes) -> bytes | None:
        if data.startswith(PREFACE):
            self.started = True
            self._out.append(self._first_settings())
            return data[len(PREFACE) :]
        if PREFACE.startswith(data):
            self._rest = data
            return None
        if self._take_over is not None and is_http1(data):
            self._take_over(data)
            return None
        reason, answer = describe_foreign(data)
        self._out.append(answer)
        self._close(reason, frames.PROTOCOL_ERROR)
        return None

    def _on_table_changed(self) -> None:
        self._heads.clear()

    def _head(self, block: bytes) -> RequestHead | Refusal | None:
        """What a header block asks for; None if the connection broke over it."""
        known = self._heads.get(block)
        if known is not None:
            return known[0]
        generation = self._decoder.generation
        fields = self._decode(block)
        if fields is None:
            return None
        if self._decoder.truncated:
            text = f"the header list is larger than max ({self.limits.max_header_list_bytes})"
            return Refusal(431, Code.RESOURCE_EXHAUSTED, text)
        parsed = self._parser.parse(fields)
        if (
            isinstance(parsed, RequestHead)
            and self._decoder.generation == generation
            and len(block) <= _CACHED_BLOCK_BYTES
            and not self.draining
        ):
            if len(self._heads) >= _CACHED_BLOCKS:
                self._heads.clear()
            self._heads[block] = parsed, Awaiting(parsed.tally)
        return parsed

    def _on_block(self, stream: int, end_stream: bool, block: bytes) -> None:
        if stream <= self._last_stream or not stream & 1:
            self._on_late_block(stream, end_stream, block)
            return
        self._last_stream = stream
        head = self._head(block)
        if head is None:
            return
        if self.draining:
            self._forget(stream)  # above the stream named in GOAWAY: the client repeats it
        elif isinstance(head, Refusal):
            self._refuse(stream, end_stream, head)
        elif len(self._streams) >= self.limits.max_concurrent_streams:
            self._reset(stream, frames.REFUSED_STREAM)
            self._useless("calls above the limit of open calls")
        else:
            self._open(stream, end_stream, head)

    def _open(self, stream: int, end_stream: bool, head: RequestHead) -> None:
        state = Stream(stream, self._peer_window_bytes, head)
        state.remote_closed = end_stream
        state.tally.started += 1
        state.since = self._clock()
        self._streams[stream] = state
        if not head.unary:
            self._handler.opened(stream, head)
            if end_stream and self._streams.get(stream) is state:
                self._handler.half_closed(stream)
        elif end_stream:
            self.finish(stream, Code.UNIMPLEMENTED, _ONE_MESSAGE)

    def _on_late_block(self, stream: int, end_stream: bool, block: bytes) -> None:
        """HEADERS on a stream that was opened before: trailers, or a mistake."""
        fields = self._decode(block)
        if fields is None:
            return
        state = self._streams.get(stream)
        if not stream & 1:
            self.fail(frames.PROTOCOL_ERROR, f"a client opened the even stream {stream}")
        elif state is None:
            if stream in self._forgotten:
                self._useless("HEADERS on finished streams")
            else:
                self.fail(frames.STREAM_CLOSED, f"HEADERS on the closed stream {stream}")
        elif type(state) is Awaiting or state.remote_closed:
            self._stream_error(stream, frames.STREAM_CLOSED, "HEADERS behind END_STREAM")
        elif not end_stream:
            self._stream_error(stream, frames.PROTOCOL_ERROR, "trailers without END_STREAM")
        elif check_fields(fields) or any(name[:1] == b":" for name, _ in fields):
            self._stream_error(stream, frames.PROTOCOL_ERROR, "malformed trailers")
        else:
            self._end_remote(state)

    def _refuse(self, stream: int, end_stream: bool, refusal: Refusal) -> None:
        """Answers a request that never becomes a call."""
        if not refusal.status:
            self._stream_error(stream, frames.PROTOCOL_ERROR, refusal.text)
            return
        state = Stream(stream, self._peer_window_bytes)
        state.remote_closed = end_stream
        state.headers_sent = state.deaf = state.ending = True
        state.trailers = refusal.fields()
        self._streams[stream] = state
        # Who sends no gRPC may be surprised by an answer, and a RST_STREAM with it, before
        # the end of its request (curl 7.88 is); who sends gRPC is not.
        if end_stream or refusal.status not in (405, 415):
            self._emit_end(state)

    def _on_message(self, state: Stream, message: bytes) -> None:
        state.tally.received += 1
        if state.hear is not None:
            state.hear(message)
        elif not state.head.unary:
            self._handler.message(state.id, message)
        elif state.message is None:
            state.message = message
            self._hold(state, len(message))
        else:
            self._refuse_message(state, Code.UNIMPLEMENTED, _ONE_MESSAGE)

    def _on_end(self, state: Stream) -> None:
        if state.deaf:
            if not state.queue:  # a refusal that waited for the end of the request
                self._emit_end(state)
            return
        if not state.head.unary:
            self._handler.half_closed(state.id)
            return
        message = state.message
        if message is None:
            self.finish(state.id, Code.UNIMPLEMENTED, _ONE_MESSAGE)
            return
        state.message = None
        self._hold(state, -state.held_bytes)
        if state.window_bytes == self._peer_window_bytes and not state.headers_sent:
            self._streams[state.id] = Awaiting(state.tally, state.since)
        self._handler.unary(state.id, state.head, message)

    def _refuse_message(self, state: Stream, code: int, text: str) -> None:
        self._queued_bytes -= state.queued_bytes
        state.queued_bytes = 0
        state.queue.clear()
        self._waiting.pop(state.id, None)
        state.ending = False
        self.finish(state.id, code, text)
        if not state.head.unary:
            self._handler.cancelled(state.id)

    # --- what the base classes report --------------------------------------------------
    def _goaway_stream(self) -> int:
        return self._drained_at if self.draining else self._last_stream

    def _on_lost(self, stream: int, error_code: int, reason: str) -> None:
        self._handler.cancelled(stream)

    def _on_writable(self, stream: int) -> None:
        self._handler.writable(stream)

    def _on_ping_received(self) -> None:
        """grpc-go's rule: the third ping too soon, with no answer in between, ends it."""
        last = self._last_ping
        self._last_ping = self._now
        if last is not None and self._now - last < self.limits.keepalive_min_time:
            self._strikes += 1
            if self._strikes > _MAX_STRIKES:
                text = "too many pings"
                self.fail(frames.ENHANCE_YOUR_CALM, text, b"too_many_pings")

    def _on_goaway_received(self, last_stream: int, error_code: int, debug: bytes) -> None:
        self.draining = True
        self._drained_at = self._last_stream
        self._heads.clear()
        self._on_limits_changed()
