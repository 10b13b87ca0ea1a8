"""What both ends of a connection do besides calls: settings, pings, windows, the clock.

`Connection` = sending (`outbound`) + receiving (`inbound`) + the frames of this module.
`tick` is the only place where time passes without input.
"""

from typing import Final

from raftkv.wire import frames
from raftkv.wire.frames import MAX_WINDOW_BYTES, U32
from raftkv.wire.inbound import Inbound
from raftkv.wire.policy import Budget, ConnectionLimits
from raftkv.wire.streams import Awaiting

_PING_PAYLOAD: Final = b"raftkv\0\1"
_PROBE_PAYLOAD: Final = b"raftkv\0\2"
_STALL_BYTES: Final = 4096  # fewer queued bytes accepted in a whole period count as none


class Connection(Inbound):
    """Either end of an HTTP/2 connection; ServerConnection and ClientConnection add calls."""

    def __init__(self, limits: ConnectionLimits, now: float) -> None:
        super().__init__(limits, now)
        self._peer_max_streams = 2**32 - 1
        self._created = now
        self.probing = False  # a probe has no answer yet
        self._ping_sent: float | None = None
        self._settings = Budget(limits.settings, now)
        self._handlers = (
            self._on_data,
            self._on_headers,
            self._on_priority,
            self._on_rst_stream,
            self._on_settings,
            self._on_push_promise,
            self._on_ping,
            self._on_goaway,
            self._on_window_update,
            self._on_continuation,
        )

    # --- what the server and the client add ---------------------------------------
    def _on_ping_received(self) -> None:
        """A PING of the other end, already answered; count it."""
        raise NotImplementedError

    def _on_goaway_received(self, last_stream: int, error_code: int, debug: bytes) -> None:
        raise NotImplementedError

    def _first_settings(self) -> bytes:
        """Our SETTINGS, and the connection's window raised from the default."""
        limits = self.limits
        pairs = [
            (frames.INITIAL_WINDOW_SIZE, limits.stream_window_bytes),
            (frames.MAX_HEADER_LIST_SIZE, limits.max_header_list_bytes),
        ]
        if limits.max_concurrent_streams < 2**32 - 1:
            pairs.append((frames.MAX_CONCURRENT_STREAMS, limits.max_concurrent_streams))
        extra = limits.connection_window_bytes - frames.DEFAULT_WINDOW_BYTES
        return frames.settings(pairs) + (frames.window_update(0, extra) if extra > 0 else b"")

    # --- the clock --------------------------------------------------------------------
    def tick(self, now: float) -> None:
        """Checks every deadline at time `now` (seconds). Call it about once a second."""
        if self.closing:
            return
        self._now = now
        limits = self.limits
        if not self._settings_seen:
            if now - self._created > limits.handshake_seconds:
                self._close(f"no HTTP/2 handshake within {limits.handshake_seconds:g} s", 0)
            return
        since = self._headers_since
        if since is not None and now - since > limits.handshake_seconds:
            self.fail(
                frames.ENHANCE_YOUR_CALM,
                f"a header block is not complete after {limits.handshake_seconds:g} s",
            )
            return
        self._tick_keepalive(now)
        self._tick_stall(now)
        if self.queued_total() > limits.max_output_bytes:
            self.fail(frames.ENHANCE_YOUR_CALM, "the other end does not read its answers")

    def _tick_keepalive(self, now: float) -> None:
        limits = self.limits
        if self._ping_sent is not None:
            if self._last_received >= self._ping_sent:
                self._ping_sent = None
            elif now - self._ping_sent > limits.keepalive_timeout:
                text = f"no answer to a keepalive ping within {limits.keepalive_timeout:g} s"
                self.fail(frames.NO_ERROR, text)
        elif now - self._last_received >= limits.keepalive_interval:
            self._ping_sent = now
            self._out.append(frames.frame(frames.PING, 0, 0, _PING_PAYLOAD))

    def probe(self) -> bool:
        """Sends a PING whose answer ends `probing`; False: one is under way, or it is too early."""
        if self.probing or self.closing or not self._settings_seen:
            return False
        self.probing = True
        self._out.append(frames.frame(frames.PING, 0, 0, _PROBE_PAYLOAD))
        return True

    def _tick_stall(self, now: float) -> None:
        """O11: queued output must move, or what it holds is given back."""
        if not self._queued_bytes:
            self._stall_since = None
        elif self._stall_since is None:
            self._stall_since = now
            self._stall_bytes = 0
        elif now - self._stall_since > self.limits.stalled_seconds:
            if self._stall_bytes < _STALL_BYTES:
                text = f"queued output did not move for {self.limits.stalled_seconds:g} s"
                self.fail(frames.ENHANCE_YOUR_CALM, text)
            self._stall_since = now
            self._stall_bytes = 0

    # --- SETTINGS ---------------------------------------------------------------------
    def _on_settings(self, flags: int, stream: int, data: bytes, pos: int, end: int) -> None:
        if stream or (flags & frames.ACK and not self._settings_seen):
            self.fail(frames.PROTOCOL_ERROR, "SETTINGS on a stream, or its answer too early")
            return
        if (end - pos) % 6 or (flags & frames.ACK and pos != end):
            self.fail(frames.FRAME_SIZE_ERROR, f"SETTINGS of {end - pos} bytes")
            return
        if not self._settings.take(self._now):
            self.fail(frames.ENHANCE_YOUR_CALM, "a flood of SETTINGS")
            return
        if flags & frames.ACK:
            return
        self._settings_seen = True
        for at in range(pos, end, 6):
            key, value = frames.SETTING.unpack_from(data, at)
            self._apply_setting(key, value)
            if self.closing:
                return
        self._out.append(frames.frame(frames.SETTINGS, frames.ACK, 0))
        self._on_limits_changed()
        self._pump_all()

    def _apply_setting(self, key: int, value: int) -> None:
        if key == frames.HEADER_TABLE_SIZE:
            self._encoder.set_limit(value)
        elif key == frames.ENABLE_PUSH:
            if value > 1:
                self.fail(frames.PROTOCOL_ERROR, f"SETTINGS_ENABLE_PUSH is {value}")
        elif key == frames.MAX_CONCURRENT_STREAMS:
            self._peer_max_streams = value
        elif key == frames.INITIAL_WINDOW_SIZE:
            self._apply_initial_window(value)
        elif key == frames.MAX_FRAME_SIZE:
            if not frames.MAX_FRAME_BYTES <= value <= frames.MAX_FRAME_LIMIT:
                self.fail(frames.PROTOCOL_ERROR, f"SETTINGS_MAX_FRAME_SIZE is {value}")
            self._peer_frame_bytes = value

    def _apply_initial_window(self, value: int) -> None:
        """RFC 9113 6.9.2: the difference goes to every open stream, below zero if need be."""
        if value > MAX_WINDOW_BYTES:
            self.fail(frames.FLOW_CONTROL_ERROR, f"SETTINGS_INITIAL_WINDOW_SIZE is {value}")
            return
        change = value - self._peer_window_bytes
        self._peer_window_bytes = value
        for state in self._streams.values():
            if type(state) is Awaiting:
                continue
            state.window_bytes += change
            if state.window_bytes > MAX_WINDOW_BYTES:
                self.fail(frames.FLOW_CONTROL_ERROR, "a stream's window exceeds 2^31-1")
                return

    # --- the other frames ---------------------------------------------------------------
    def _on_window_update(self, flags: int, stream: int, data: bytes, pos: int, end: int) -> None:
        if end - pos != 4:
            self.fail(frames.FRAME_SIZE_ERROR, f"WINDOW_UPDATE of {end - pos} bytes")
            return
        increment = U32.unpack_from(data, pos)[0] & 0x7FFFFFFF
        if not stream:
            self._window_bytes += increment
            if not increment:
                self.fail(frames.PROTOCOL_ERROR, "WINDOW_UPDATE of 0 on the connection")
            elif self._window_bytes > MAX_WINDOW_BYTES:
                self.fail(frames.FLOW_CONTROL_ERROR, "the connection's window exceeds 2^31-1")
            elif self._waiting:
                self._pump_all()
            return
        state = self._streams.get(stream)
        if state is None:
            if self._is_idle(stream):
                self.fail(frames.PROTOCOL_ERROR, f"WINDOW_UPDATE on the idle stream {stream}")
            return
        if not increment:
            self._stream_error(stream, frames.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
            return
        if type(state) is Awaiting:
            state = self._materialize(stream)
        state.window_bytes += increment
        if state.window_bytes > MAX_WINDOW_BYTES:
            self._stream_error(stream, frames.FLOW_CONTROL_ERROR, "its window exceeds 2^31-1")
        elif state.queue:
            self._pump_stream(state)

    def _on_rst_stream(self, flags: int, stream: int, data: bytes, pos: int, end: int) -> None:
        if end - pos != 4:
            self.fail(frames.FRAME_SIZE_ERROR, f"RST_STREAM of {end - pos} bytes")
            return
        if self._is_idle(stream):
            self.fail(frames.PROTOCOL_ERROR, f"RST_STREAM on the idle stream {stream}")
            return
        code = U32.unpack_from(data, pos)[0]
        was_open = stream in self._streams
        self._drop(stream)
        if not was_open:
            self._useless("RST_STREAM on finished streams")
            return
        self._on_lost(stream, code, f"reset by the other end: {frames.error_name(code)}")
        if not self._resets.take(self._now):
            self.fail(frames.ENHANCE_YOUR_CALM, "calls are opened and reset too fast")
        self._check_drained()

    def _on_priority(self, flags: int, stream: int, data: bytes, pos: int, end: int) -> None:
        if not stream:
            self.fail(frames.PROTOCOL_ERROR, "PRIORITY on stream 0")
        elif end - pos != 5:
            self.fail(frames.FRAME_SIZE_ERROR, f"PRIORITY of {end - pos} bytes")
        else:
            self._useless("PRIORITY frames")

    def _on_push_promise(self, flags: int, stream: int, data: bytes, pos: int, end: int) -> None:
        self.fail(frames.PROTOCOL_ERROR, "PUSH_PROMISE, which nobody may send here")

    def _on_ping(self, flags: int, stream: int, data: bytes, pos: int, end: int) -> None:
        if stream:
            self.fail(frames.PROTOCOL_ERROR, "PING on a stream")
        elif end - pos != 8:
            self.fail(frames.FRAME_SIZE_ERROR, f"PING of {end - pos} bytes")
        elif not flags & frames.ACK:
            self._out.append(frames.frame(frames.PING, frames.ACK, 0, data[pos:end]))
            self._on_ping_received()
        elif self.probing and data[pos:end] == _PROBE_PAYLOAD:
            self.probing = False
        elif self._ping_sent is None:
            self._useless("answers to no ping")

    def _on_goaway(self, flags: int, stream: int, data: bytes, pos: int, end: int) -> None:
        if stream:
            self.fail(frames.PROTOCOL_ERROR, "GOAWAY on a stream")
        elif end - pos < 8:
            self.fail(frames.FRAME_SIZE_ERROR, f"GOAWAY of {end - pos} bytes")
        else:
            self._useless("GOAWAY frames")
            last = U32.unpack_from(data, pos)[0] & 0x7FFFFFFF
            code = U32.unpack_from(data, pos + 4)[0]
            self._on_goaway_received(last, code, data[pos + 8 : min(end, pos + 8 + 256)])
