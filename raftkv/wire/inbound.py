"""The receiving half of a connection: chunks to frames, frames to header blocks and messages.

`receive` joins a chunk to what was left of the last one and hands it to `_frames`, the loop
of the server or of the client, which treats the frames of ordinary unary calls in place and
gives every other frame to `_dispatch`.

The DATA of a stream is cut into gRPC messages wherever its frames end. What is received is
credited to the windows at once, in batches; bytes of incomplete requests are bounded by
`max_buffered_bytes` instead, because a window that waits for whole messages would let many
large requests on one connection block each other for ever.
"""

from collections.abc import Callable

from raftkv.errors import Code, ProtocolError
from raftkv.wire import frames
from raftkv.wire.frames import PREFIX, PREFIX_BYTES, U32
from raftkv.wire.grpc import gunzip
from raftkv.wire.hpack import Decoder, Field, HpackError
from raftkv.wire.outbound import Outbound
from raftkv.wire.policy import ConnectionLimits
from raftkv.wire.streams import Awaiting, Stream


class Inbound(Outbound):
    """Input of one end of a connection; not used by itself."""

    def __init__(self, limits: ConnectionLimits, now: float) -> None:
        super().__init__(limits, now)
        self._rest = b""
        self._decoder = Decoder(limits.max_header_list_bytes)
        self._block: bytearray | None = None  # a header block without END_HEADERS yet
        self._block_stream = 0
        self._block_flags = 0
        self._headers_since: float | None = None  # start of an incomplete header block
        self._received_bytes = 0  # DATA since the connection's last WINDOW_UPDATE
        self._settings_seen = False
        self._last_received = now
        self._handlers: tuple[Callable[[int, int, bytes, int, int], None], ...] = ()

    # --- what the server and the client add ---------------------------------------
    def _frames(self, data: bytes) -> int:
        """Treats the whole frames of `data`.

        Returns where the first incomplete one starts, or -1 if the connection ended.
        """
        raise NotImplementedError

    def _preface(self, data: bytes) -> bytes | None:
        """What follows the other end's preface; None: incomplete (kept) or refused."""
        raise NotImplementedError

    def _on_block(self, stream: int, end_stream: bool, block: bytes) -> None:
        """A whole header block."""
        raise NotImplementedError

    def _on_message(self, state: Stream, message: bytes) -> None:
        """A whole message, decompressed."""
        raise NotImplementedError

    def _on_end(self, state: Stream) -> None:
        """The other end sent END_STREAM at a message border."""
        raise NotImplementedError

    def _refuse_message(self, state: Stream, code: int, text: str) -> None:
        """A message that cannot be taken: end the call with a status."""
        raise NotImplementedError

    def _on_table_changed(self) -> None:
        """The decoder's table changed: blocks remembered by their bytes mean nothing now."""
        raise NotImplementedError

    # --- chunks ---------------------------------------------------------------------
    def receive(self, data: bytes, now: float) -> None:
        """Takes a chunk from the socket at time `now` (seconds). Never raises for bad input."""
        if self.closing:
            return
        self._now = self._last_received = now
        if self._rest:
            data = self._rest + data
            self._rest = b""
        if not self.started:
            behind = self._preface(data)
            if behind is None:
                return
            data = behind
        pos = self._frames(data)
        if pos < 0:
            return
        if pos < len(data):
            self._rest = data[pos:]
        if self._block is None:
            if not self._rest or not self._holds_headers():
                self._headers_since = None
            elif pos or self._headers_since is None:
                self._headers_since = now
        if self.draining:
            self._check_drained()
        if self._received_bytes > self.limits.connection_window_bytes >> 1:
            self._credit_connection()
        if len(self._out) > 1024 and self.queued_total() > self.limits.max_output_bytes:
            self.fail(frames.ENHANCE_YOUR_CALM, "the other end does not read its answers")

    def _holds_headers(self) -> bool:
        rest = self._rest
        return len(rest) < 4 or rest[3] in (frames.HEADERS, frames.CONTINUATION)

    def _credit_connection(self) -> None:
        if self._received_bytes > self.limits.connection_window_bytes:
            self.fail(frames.FLOW_CONTROL_ERROR, "more DATA than the connection's window allows")
            return
        self._out.append(frames.window_update(0, self._received_bytes))
        self._received_bytes = 0

    def _oversized(self, kind: int) -> bool:
        """True (and the end) if an incomplete frame's header announces too much."""
        if kind >> 8 <= frames.MAX_FRAME_BYTES:
            return False
        self.fail(frames.FRAME_SIZE_ERROR, f"a frame of {kind >> 8} bytes")
        return True

    def _dispatch(self, kind: int, flags: int, stream: int, data: bytes, pos: int) -> None:
        """Treats one whole frame. kind: length << 8 | type. pos: of the payload in `data`."""
        if self._oversized(kind):
            return
        end = pos + (kind >> 8)
        kind &= 0xFF
        stream &= 0x7FFFFFFF
        if self._block is not None and kind != frames.CONTINUATION:
            self.fail(frames.PROTOCOL_ERROR, "a header block is interrupted by another frame")
        elif not self._settings_seen and kind != frames.SETTINGS:
            self.fail(frames.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        elif kind < len(self._handlers):
            self._handlers[kind](flags, stream, data, pos, end)
        else:
            self._useless("unknown frames")

    def _useless(self, what: str) -> None:
        if not self._idle.take(self._now):
            self.fail(frames.ENHANCE_YOUR_CALM, f"a flood of {what}")

    def _is_idle(self, stream: int) -> bool:
        """True if nobody opened this stream yet."""
        return stream > self._last_stream or not stream & 1

    # --- HEADERS ----------------------------------------------------------------------
    def _on_headers(self, flags: int, stream: int, data: bytes, pos: int, end: int) -> None:
        if not stream:
            self.fail(frames.PROTOCOL_ERROR, "HEADERS on stream 0")
            return
        padding = 0
        if flags & frames.PADDED:
            padding = data[pos] if pos < end else 0
            pos += 1
        if flags & frames.WITH_PRIORITY:
            pos += 5
        if pos + padding > end:
            self.fail(frames.PROTOCOL_ERROR, "HEADERS has more padding than bytes")
            return
        block = data[pos : end - padding]
        if flags & frames.END_HEADERS:
            self._on_block(stream, bool(flags & frames.END_STREAM), block)
            return
        self._block = bytearray(block)
        self._block_stream = stream
        self._block_flags = flags
        if self._headers_since is None:
            self._headers_since = self._now

    def _on_continuation(self, flags: int, stream: int, data: bytes, pos: int, end: int) -> None:
        block = self._block
        if block is None or stream != self._block_stream:
            self.fail(frames.PROTOCOL_ERROR, "CONTINUATION without its HEADERS")
            return
        if pos == end and not flags & frames.END_HEADERS:
            self._useless("empty CONTINUATION frames")
        block += data[pos:end]
        # A list within the limit makes a block within the limit; one frame on top lets a
        # list that is just too long be answered with a status instead of the end (O07).
        if len(block) > self.limits.max_header_list_bytes + frames.MAX_FRAME_BYTES:
            self.fail(frames.ENHANCE_YOUR_CALM, "a header block is far longer than allowed")
        elif flags & frames.END_HEADERS:
            self._block = None
            self._headers_since = None
            self._on_block(stream, bool(self._block_flags & frames.END_STREAM), bytes(block))

    def _decode(self, block: bytes) -> list[Field] | None:
        """The fields of a block; None (and the end of the connection) if it is broken."""
        generation = self._decoder.generation
        try:
            return self._decoder.decode(block)
        except HpackError as error:
            self.fail(frames.COMPRESSION_ERROR, str(error))
            return None
        finally:
            if self._decoder.generation != generation:
                self._on_table_changed()

    # --- DATA -------------------------------------------------------------------------
    def _on_data(self, flags: int, stream: int, data: bytes, pos: int, end: int) -> None:
        length = end - pos
        self._received_bytes += length
        if self._received_bytes > self.limits.connection_window_bytes:
            self._credit_connection()
            return
        if flags & frames.PADDED:
            if not length or data[pos] >= length:
                self.fail(frames.PROTOCOL_ERROR, "DATA has more padding than bytes")
                return
            end -= data[pos]
            pos += 1
        state = self._streams.get(stream)
        if type(state) is Awaiting:
            state = self._materialize(stream)
        if state is None or state.remote_closed:
            self._data_on_closed(stream)
            return
        if pos == end and not flags & frames.END_STREAM:
            self._useless("empty DATA frames")
        state.received_bytes += length
        window = self.limits.stream_window_bytes
        if state.received_bytes > window:
            self._stream_error(stream, frames.FLOW_CONTROL_ERROR, "more DATA than its window")
            return
        if pos < end and not state.deaf and not self._take_messages(state, data, pos, end):
            return
        if flags & frames.END_STREAM:
            self._end_remote(state)
        elif state.received_bytes > window >> 1:
            self._out.append(frames.window_update(stream, state.received_bytes))
            state.received_bytes = 0

    def _data_on_closed(self, stream: int) -> None:
        if stream in self._streams:
            self._stream_error(stream, frames.STREAM_CLOSED, "DATA behind END_STREAM")
        elif stream in self._forgotten:
            self._useless("DATA on finished streams")
        elif self._is_idle(stream):
            self.fail(frames.PROTOCOL_ERROR, f"DATA on the idle stream {stream}")
        else:
            self._stream_error(stream, frames.STREAM_CLOSED, "DATA on a closed stream")

    def _end_remote(self, state: Stream) -> None:
        if state.partial is not None and not state.deaf:
            self._stream_error(state.id, frames.PROTOCOL_ERROR, "the last message is cut off")
            return
        state.remote_closed = True
        self._on_end(state)

    def _take_messages(self, state: Stream, data: bytes, pos: int, end: int) -> bool:
        """Cuts DATA into gRPC messages. False if the stream is gone afterwards."""
        limit = self.limits.max_message_bytes
        partial = state.partial
        if partial is not None:
            partial += data[pos:end]
            if not self._hold(state, end - pos):
                return False
            if len(partial) < PREFIX_BYTES:
                return True
            length = U32.unpack_from(partial, 1)[0]
            if length <= limit and len(partial) < PREFIX_BYTES + length:
                return True
            self._hold(state, -len(partial))
            state.partial = None
            data, pos, end = bytes(partial), 0, len(partial)
        stream = state.id
        while end - pos >= PREFIX_BYTES:
            flag, length = PREFIX.unpack_from(data, pos)
            if length > limit:
                self._refuse_large(state, length)
                return False
            stop = pos + PREFIX_BYTES + length
            if stop > end:
                break
            message = data[pos + PREFIX_BYTES : stop]
            if flag:
                self._on_flagged(state, flag, message)
            else:
                self._on_message(state, message)
            if self._streams.get(stream) is not state:
                return False
            pos = stop
        if pos < end:
            state.partial = bytearray(data[pos:end])
            return self._hold(state, end - pos)
        return True

    def _on_flagged(self, state: Stream, flag: int, message: bytes) -> None:
        """A message whose first byte is not 0: gzip, if the headers said so."""
        limit = self.limits.max_message_bytes
        if flag != 1:
            self._refuse_message(state, Code.INTERNAL, f"grpc: invalid compression flag {flag}")
        elif not state.gzip:
            text = "grpc: compressed flag set with identity or empty encoding"
            self._refuse_message(state, Code.INTERNAL, text)
        else:
            try:
                plain = gunzip(message, limit)
            except ProtocolError as error:
                self._refuse_message(state, Code.INTERNAL, str(error))
                return
            if plain is None:
                text = f"grpc: received message after decompression larger than max ({limit})"
                self._refuse_message(state, Code.RESOURCE_EXHAUSTED, text)
            else:
                self._on_message(state, plain)

    def _refuse_large(self, state: Stream, length: int) -> None:
        limit = self.limits.max_message_bytes
        text = f"grpc: received message larger than max ({length} vs. {limit})"
        self._refuse_message(state, Code.RESOURCE_EXHAUSTED, text)

    def _hold(self, state: Stream, size: int) -> bool:
        """Counts received bytes that wait; False (the call fails) if they are too many."""
        state.held_bytes += size
        self._held_bytes += size
        if size <= 0 or self._held_bytes <= self.limits.max_buffered_bytes:
            return True
        text = "too many bytes of unfinished requests on one connection"
        self._refuse_message(state, Code.RESOURCE_EXHAUSTED, text)
        return False
