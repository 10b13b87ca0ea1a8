"""What one end of a connection puts up with: sizes, deadlines and rates.

A `Budget` is a token bucket: it forgives bursts (a client that gives up thousands of
calls at once is no attacker) and catches floods, whatever they are made of.
"""

from dataclasses import dataclass, field

from raftkv.limits import (
    GRPC_OVERHEAD_BYTES,
    HANDSHAKE_SECONDS,
    KIB,
    MAX_CONCURRENT_STREAMS,
    MAX_CONNECTION_OUTPUT_BYTES,
    MAX_HEADER_LIST_BYTES,
    MAX_REQUEST_BYTES,
    MIB,
    STALLED_CONNECTION_SECONDS,
)


@dataclass(frozen=True, slots=True)
class Rate:
    """A flood limit: `per_second` for ever, `burst` at once."""

    per_second: float
    burst: int


class Budget:
    """The token bucket of one `Rate`."""

    __slots__ = ("_at", "_rate", "_tokens")

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._tokens = float(rate.burst)
        self._at = now

    def take(self, now: float) -> bool:
        """Uses one token; False if there was none. `now` in seconds."""
        rate = self._rate
        if now > self._at:
            self._tokens = min(rate.burst, self._tokens + (now - self._at) * rate.per_second)
            self._at = now
        self._tokens -= 1.0
        return self._tokens >= 0.0


@dataclass(slots=True)
class ConnectionLimits:
    """Limits of one connection. Sizes in bytes, times in seconds.

    max_concurrent_streams: calls the other end may have open; more are refused, to be retried.
    max_message_bytes: one received gRPC message, before and after gzip.
    max_buffered_bytes: received bytes of incomplete requests on this connection; the call
        that exceeds it fails, so that slow bodies on many streams cannot fill the memory.
    max_header_list_bytes: fields of one request, each with 32 bytes on top (RFC 9113 10.5.1).
    stream_window_bytes, connection_window_bytes: what the other end may send unasked.
    low_water_bytes: `writable` is called when a stream's queue drains below this.
    max_output_bytes: output not yet taken or held back by flow control before the cut.
    handshake_seconds: for the preface and first SETTINGS, and for each header block.
    stalled_seconds: queued output and (nearly) none of it accepted.
    keepalive_min_time: pings closer together than this are strikes unless a reply lies between;
        the third strike ends the connection, as in grpc-go.
    keepalive_interval, keepalive_timeout: own ping after this silence, end without an answer.
    resets: calls reset by the other end, or by us because of its errors (CVE-2023-44487,
        CVE-2025-8671). settings: SETTINGS frames (CVE-2019-9515). pings: pings a client
        answers. idle_frames: PRIORITY, unknown, empty DATA and such (CVE-2019-9518).
    """

    max_concurrent_streams: int = MAX_CONCURRENT_STREAMS
    max_message_bytes: int = MAX_REQUEST_BYTES + GRPC_OVERHEAD_BYTES
    max_buffered_bytes: int = 64 * MIB
    max_header_list_bytes: int = MAX_HEADER_LIST_BYTES
    stream_window_bytes: int = 1 * MIB
    connection_window_bytes: int = 16 * MIB
    low_water_bytes: int = 64 * KIB
    max_output_bytes: int = MAX_CONNECTION_OUTPUT_BYTES
    handshake_seconds: float = HANDSHAKE_SECONDS
    stalled_seconds: float = STALLED_CONNECTION_SECONDS
    keepalive_min_time: float = 5.0
    keepalive_interval: float = 7200.0
    keepalive_timeout: float = 20.0
    resets: Rate = field(default_factory=lambda: Rate(1000.0, 10_000))
    settings: Rate = field(default_factory=lambda: Rate(2.0, 100))
    pings: Rate = field(default_factory=lambda: Rate(100.0, 1000))
    idle_frames: Rate = field(default_factory=lambda: Rate(1000.0, 10_000))
