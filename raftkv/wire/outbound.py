"""The sending half of a connection: streams, flow control, the queue of output.

Whatever fits the windows goes to `_out` directly. What does not fit is queued on its
stream and moved by `_pump` when WINDOW_UPDATE or SETTINGS make room, in turns of
`QUANTUM_BYTES`, so that one long answer does not hold up the others.

Errors: the other end's mistakes never raise. A stream's mistake resets the stream
(`_stream_error`), a connection's mistake queues GOAWAY and sets `closing` (`fail`).
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from raftkv.errors import Code
from raftkv.wire import frames
from raftkv.wire.frames import HEADER, MESSAGE, PREFIX
from raftkv.wire.hpack import Encoder
from raftkv.wire.policy import Budget, ConnectionLimits
from raftkv.wire.streams import Awaiting, Stream

QUANTUM_BYTES: Final = 64 * 1024
_REMEMBERED_STREAMS: Final = 2048


def _no_clock() -> float:
    return 0.0


class Outbound:
    """State and output of one end of a connection; not used by itself.

    closing: write what `take_output` still gives, then close the socket.
    close_reason: one line for the log, "" while not closing.
    started: the other end proved that it speaks HTTP/2.
    draining: no new calls; `closing` follows when none is left.
    """

    def __init__(self, limits: ConnectionLimits, now: float) -> None:
        self.limits = limits
        self.closing = False
        self.close_reason = ""
        self.started = False
        self.draining = False
        self._drain_reason = "drained: the last call is finished"
        self._now = now
        self._out: list[bytes | memoryview] = []
        self._counted_parts = 0  # how many parts of `_out` are in `_counted_bytes`
        self._counted_bytes = 0
        self._streams: dict[int, Stream] = {}
        self._forgotten: OrderedDict[int, None] = (
            OrderedDict()
        )  # ended by us; frames may be under way
        self._last_stream = 0  # newest stream anybody opened
        self._held_bytes = 0  # received, in incomplete requests
        self._encoder = Encoder()
        self._window_bytes = frames.DEFAULT_WINDOW_BYTES
        self._peer_window_bytes = frames.DEFAULT_WINDOW_BYTES  # of a new stream
        self._peer_frame_bytes = frames.MAX_FRAME_BYTES
        self._waiting: dict[int, Stream] = {}  # streams with a queue, next in turn first
        self._queued_bytes = 0
        self._paused = False
        self._strikes = 0  # pings too close together; -1 after an answer: the next one is free
        self._stall_since: float | None = None  # start of the period that tick judges
        self._stall_bytes = 0  # what went out of queues in that period
        self._resets = Budget(limits.resets, now)
        self._idle = Budget(limits.idle_frames, now)
        self._clock: Callable[[], float] = _no_clock

    # --- what the server and the client add ---------------------------------------
    def _on_lost(self, stream: int, error_code: int, reason: str) -> None:
        """The stream is off the tables already; tell the handler."""
        raise NotImplementedError

    def _on_writable(self, stream: int) -> None:
        """The stream's queue fell below the low-water mark; tell the handler."""
        raise NotImplementedError

    def _on_limits_changed(self) -> None:
        """Windows, frame size, table or pausing changed, or the end came."""
        raise NotImplementedError

    def _emit_end(self, state: Stream) -> None:
        """The queue is empty and `ending` is set: write END_STREAM."""
        raise NotImplementedError

    # --- the driver's side ----------------------------------------------------------
    @property
    def open_streams(self) -> int:
        """Calls that are not finished."""
        return len(self._streams)

    @property
    def has_output(self) -> bool:
        """True if `take_output` would give something."""
        return bool(self._out)

    def is_open(self, stream: int) -> bool:
        """True while something sent on `stream` could still reach the other end."""
        return stream in self._streams

    def queued(self, stream: int) -> int:
        """Bytes of this stream that flow control (or a pause) holds back."""
        state = self._streams.get(stream)
        return 0 if state is None else state.queued_bytes

    def queued_total(self) -> int:
        """Bytes of the connection not yet taken by `take_output` or held back."""
        out = self._out
        if self._counted_parts < len(out):
            # Counted piecemeal, and not by the senders, who have better things to do.
            self._counted_bytes += sum(map(len, out[self._counted_parts :]))
            self._counted_parts = len(out)
        return self._queued_bytes + self._counted_bytes

    def take_output(self) -> bytes:
        """Everything that may be written now; b"" if nothing."""
        out = self._out
        if not out:
            return b""
        joined = b"".join(out)
        out.clear()
        self._counted_parts = self._counted_bytes = 0
        return joined

    def pause_output(self) -> None:
        """The socket is full: messages go to the streams' queues until `resume_output`."""
        self._paused = True
        self._on_limits_changed()

    def resume_output(self) -> None:
        """The socket drained: queued messages may go again."""
        self._paused = False
        self._on_limits_changed()
        self._pump_all()

    def connection_lost(self, reason: str) -> None:
        """The socket is gone: every open call is told. reason: one line for the log."""
        self._close(reason, frames.CONNECT_ERROR)

    def fail(self, error_code: int, reason: str, debug: bytes = b"") -> None:
        """Ends the connection: GOAWAY, then `closing`. error_code: HTTP/2's."""
        if self.closing:
            return
        text = debug or reason.encode("utf-8", "replace")[:256]
        self._out.append(frames.goaway(self._goaway_stream(), error_code, text))
        self._close(reason, error_code)

    def reset(self, stream: int, error_code: int = frames.CANCEL) -> None:
        """Gives a call up with RST_STREAM. Nothing happens if it is gone."""
        if stream in self._streams:
            self._reset(stream, error_code)
            self._check_drained()

    def send(self, stream: int, message: bytes) -> None:
        """Sends one gRPC message on an open stream, or queues it. Dropped if the call is gone."""
        state = self._streams.get(stream)
        if state is None or state.ending or state.local_closed:
            return
        if type(state) is Awaiting:
            state = self._materialize(stream)
        self._send(state, message)

    def send_framed(self, stream: int, messages: bytes, count: int = 1) -> None:
        """Like `send`, for `count` gRPC messages that have their prefixes already."""
        state = self._streams.get(stream)
        if state is None or state.ending or state.local_closed:
            return
        if type(state) is Awaiting:
            state = self._materialize(stream)
        self._send_framed(state, messages, count)

    # --- sending ------------------------------------------------------------------------
    def _goaway_stream(self) -> int:
        return self._last_stream

    def _materialize(self, stream: int) -> Stream:
        """Gives a call in the table its own state."""
        raise NotImplementedError

    def _send_framed(self, state: Stream, messages: bytes, count: int) -> None:
        if state.ending or state.local_closed:
            return
        state.tally.sent += count
        self._strikes = -1
        size = len(messages)
        if self._fits(state, size):
            self._out += (HEADER.pack(size << 8, 0, state.id), messages)
        else:
            self._enqueue(state, messages, size)

    def _send(self, state: Stream, message: bytes) -> None:
        length = len(message)
        size = length + 5
        state.tally.sent += 1
        self._strikes = -1
        if self._fits(state, size):
            self._out += (MESSAGE.pack(size << 8, 0, state.id, 0, length), message)
        else:
            self._enqueue(state, PREFIX.pack(0, length) + message, size)

    def _fits(self, state: Stream, size: int) -> bool:
        """Whether one frame of `size` bytes may go at once; takes it off the windows if so."""
        if (
            size <= state.window_bytes
            and size <= self._window_bytes
            and size <= self._peer_frame_bytes
            and not state.queue
            and not self._paused
        ):
            state.window_bytes -= size
            self._window_bytes -= size
            return True
        return False

    def _enqueue(self, state: Stream, framed: bytes, size: int) -> None:
        state.queue.append(framed)
        state.queued_bytes += size
        self._queued_bytes += size
        self._waiting[state.id] = state
        self._pump(state, size)
        if state.queued_bytes >= self.limits.low_water_bytes:
            state.above = True
        if self._queued_bytes > self.limits.max_output_bytes:
            self.fail(frames.ENHANCE_YOUR_CALM, "the other end does not accept its answers")

    def _end(self, state: Stream) -> None:
        state.ending = True
        if not state.queue:
            self._emit_end(state)

    def _pump(self, state: Stream, quantum_bytes: int) -> int:
        """Moves what the windows allow from a stream's queue to the output; returns its size."""
        room = min(state.window_bytes, self._window_bytes, quantum_bytes)
        queue = state.queue
        # Of an empty queue the end is written already.
        if room <= 0 or self._paused or self.closing or not queue:
            return 0
        sent = 0
        while queue and sent < room:
            part = queue[0]
            size = min(len(part), room - sent, self._peer_frame_bytes)
            if size == len(part):
                queue.popleft()
            else:
                view = memoryview(part)
                part, queue[0] = view[:size], view[size:]
            self._out += (HEADER.pack(size << 8, 0, state.id), part)
            sent += size
        state.window_bytes -= sent
        self._window_bytes -= sent
        state.queued_bytes -= sent
        self._queued_bytes -= sent
        self._stall_bytes += sent
        self._strikes = -1  # who takes a long answer in may measure with a ping after each part
        if not queue:
            self._waiting.pop(state.id, None)
            if state.ending:
                self._emit_end(state)
        return sent

    def _pump_stream(self, state: Stream) -> None:
        """More room on one stream: send, and tell the handler if the queue got short."""
        self._pump(state, frames.MAX_WINDOW_BYTES)
        if state.above and state.queued_bytes < self.limits.low_water_bytes:
            state.above = False
            if state.id in self._streams:
                self._on_writable(state.id)

    def _pump_all(self) -> None:
        """More room on the connection: round robin over the waiting streams."""
        moved = True
        touched: dict[int, Stream] = {}
        while moved and self._waiting and self._window_bytes > 0:
            moved = False
            for stream, state in list(self._waiting.items()):
                if self._pump(state, QUANTUM_BYTES):
                    moved = True
                    touched[stream] = state
                    if stream in self._waiting:  # to the end of the line
                        self._waiting[stream] = self._waiting.pop(stream)
                if self._window_bytes <= 0:
                    break
        for state in touched.values():
            if self._streams.get(state.id) is state:
                self._pump_stream(state)

    # --- ends ---------------------------------------------------------------------------
    def _count_end(self, state: Stream, code: int) -> None:
        """The status of a call is decided."""
        state.tally.end(code)
        if state.since:
            self._measure(state)

    def _measure(self, state: Stream) -> None:
        if state.tally.seconds is not None:
            state.tally.seconds.note(self._clock() - state.since)

    def abandon(self) -> None:
        """The socket is gone: calls that have no status were cancelled. Nobody is told."""
        for state in self._streams.values():
            if type(state) is Awaiting or not state.ending:
                self._count_end(state, Code.CANCELLED)
        self._streams.clear()

    def _drop(self, stream: int) -> None:
        """Takes a stream off every table."""
        state = self._streams.pop(stream, None)
        if state is None:
            return
        if type(state) is Awaiting:
            self._count_end(state, Code.CANCELLED)
            return
        if not state.ending:
            self._count_end(state, Code.CANCELLED)
        self._held_bytes -= state.held_bytes
        self._queued_bytes -= state.queued_bytes
        state.queued_bytes = state.held_bytes = 0
        state.queue.clear()
        self._waiting.pop(stream, None)

    def _forget(self, stream: int) -> None:
        """Frames of this stream may still arrive and are no mistake."""
        forgotten = self._forgotten
        if len(forgotten) >= _REMEMBERED_STREAMS:
            forgotten.popitem(last=False)
        forgotten[stream] = None

    def _reset(self, stream: int, error_code: int) -> None:
        self._drop(stream)
        self._forget(stream)
        self._out.append(frames.rst_stream(stream, error_code))

    def _stream_error(self, stream: int, error_code: int, reason: str) -> None:
        """The other end broke a rule on one stream: reset it, count it."""
        was_open = stream in self._streams
        self._reset(stream, error_code)
        if was_open:
            self._on_lost(stream, error_code, reason)
        if not self._resets.take(self._now):
            self.fail(frames.ENHANCE_YOUR_CALM, "too many broken streams; the last: " + reason)
        self._check_drained()

    def _check_drained(self) -> None:
        if self.draining and not self._streams:
            self._close(self._drain_reason, 0)

    def _close(self, reason: str, error_code: int) -> None:
        if self.closing:
            return
        self.closing = True
        self.close_reason = reason
        lost = list(self._streams)
        for state in self._streams.values():
            if type(state) is Awaiting or not state.ending:
                self._count_end(state, Code.CANCELLED)
            if type(state) is not Awaiting:
                state.queue.clear()
                state.queued_bytes = 0
        self._streams.clear()
        self._waiting.clear()
        self._queued_bytes = self._held_bytes = 0
        self._on_limits_changed()
        for stream in lost:
            self._on_lost(stream, error_code, reason)
