"""A bidirectional call on a connection of its own, whose answers are counted, not decoded.

A decoding client would be slower than the servers. What arrives here is walked frame by
frame for the payload of DATA, and a pattern is searched in the payloads of a whole chunk
at once; what may be the beginning of a match at the end of a chunk is kept for the next.
The windows are 2 GiB and opened again before they close, so that no server ever waits.
"""

import asyncio
import re
import time
from collections.abc import Callable
from typing import Final, cast

from hpack import Decoder

from raftkv.wire import frames

STREAM: Final = 1
REPLENISH_BYTES: Final = 1 << 30

# Takes the call, what arrived, and when (perf_counter's seconds).
OnPayload = Callable[["Call", bytes, float], None]


def message_frame(message: bytes) -> bytes:
    """A DATA frame with one gRPC message on the only stream."""
    length = len(message)
    return frames.MESSAGE.pack(length + 5 << 8, 0, STREAM, 0, length) + message


def _field(name: bytes, value: bytes) -> bytes:
    """A header field as a literal that is not indexed (RFC 7541, 6.2.2); both are short."""
    assert max(len(name), len(value)) < 127
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def _opening(endpoint: str, path: bytes) -> bytes:
    """Preface, settings, the connection's window and the head of the call."""
    window = frames.SETTING.pack(4, frames.MAX_WINDOW_BYTES)
    block = b"".join(
        _field(name, value)
        for name, value in (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path),
            (b":authority", endpoint.encode()),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
        )
    )
    return (
        frames.PREFACE
        + _frame(frames.SETTINGS, 0, 0, window)
        + _update(0, frames.MAX_WINDOW_BYTES - frames.DEFAULT_WINDOW_BYTES)
        + _frame(frames.HEADERS, 4, STREAM, block)
    )


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return frames.HEADER.pack(len(payload) << 8 | kind, flags, stream) + payload


def _update(stream: int, window_bytes: int) -> bytes:
    return _frame(frames.WINDOW_UPDATE, 0, stream, frames.U32.pack(window_bytes))


class Call(asyncio.Protocol):
    """One call. failure: why it ended, once it has."""

    def __init__(self, endpoint: str, path: bytes, on_payload: OnPayload) -> None:
        self.failure = ""
        self.on_payload = on_payload
        self._opening = _opening(endpoint, path)
        self._transport: asyncio.Transport | None = None
        self._decoder = Decoder()
        self._rest = b""
        self._received_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Opens the call."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._opening)

    def data_received(self, data: bytes) -> None:
        """Takes the payloads out of a chunk and hands them on as one."""
        now = time.perf_counter()
        if self._rest:
            data = self._rest + data
        header = frames.HEADER.unpack_from
        payloads: list[bytes] = []
        pos, size = 0, len(data)
        while size - pos >= 9:
            kind, flags, _ = header(data, pos)
            end = pos + 9 + (kind >> 8)
            if end > size:
                break
            if kind & 0xFF == frames.DATA:
                payloads.append(data[pos + 9 : end])
            else:
                self._other(kind & 0xFF, flags, data[pos + 9 : end])
            pos = end
        self._rest = data[pos:]
        if payloads:
            payload = payloads[0] if len(payloads) == 1 else b"".join(payloads)
            self._replenish(len(payload))
            self.on_payload(self, payload, now)

    def connection_lost(self, exc: Exception | None) -> None:
        """A call that still ran has failed."""
        self._transport = None
        self.failure = self.failure or f"connection lost: {exc or 'closed'}"

    def write(self, data: bytes) -> None:
        """Sends frames of `message_frame`."""
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        """Drops the connection."""
        if self._transport is not None:
            self.failure = "closed"
            self._transport.abort()

    def _replenish(self, payload_bytes: int) -> None:
        self._received_bytes += payload_bytes
        if self._received_bytes >= REPLENISH_BYTES:
            self.write(_update(0, self._received_bytes) + _update(STREAM, self._received_bytes))
            self._received_bytes = 0

    def _other(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == frames.SETTINGS and not flags & 1:
            self.write(_frame(frames.SETTINGS, 1, 0, b""))
        elif kind == frames.PING and not flags & 1:
            self.write(_frame(frames.PING, 1, 0, payload))
        elif kind == frames.HEADERS:
            found = {bytes(name): bytes(value) for name, value in self._fields(payload)}
            if flags & 1:
                code, text = found.get(b"grpc-status", b"?"), found.get(b"grpc-message", b"")
                self.failure = f"the call ended with status {code.decode()}: {text.decode()}"
        elif kind in (frames.RST_STREAM, frames.GOAWAY):
            self.failure = f"the server ended the call: {payload[-60:]!r}"

    def _fields(self, block: bytes) -> list[tuple[bytes, bytes]]:
        return [(name, value) for name, value, *_ in self._decoder.decode(block, raw=True)]


class Messages:
    """Counts gRPC messages in payloads that may be cut anywhere."""

    def __init__(self) -> None:
        self.count = 0
        self._rest = b""

    def feed(self, payload: bytes) -> int:
        """Takes a payload; returns how many messages are complete up to now."""
        data = self._rest + payload
        pos = 0
        while len(data) - pos >= 5:
            end = pos + 5 + int.from_bytes(data[pos + 1 : pos + 5], "big")
            if end > len(data):
                break
            self.count += 1
            pos = end
        self._rest = data[pos:]
        return self.count


class Matches:
    """Finds a pattern in payloads that may be cut anywhere.

    pattern: a regular expression with at most one group. longest_bytes: of a match.
    """

    def __init__(self, pattern: bytes, longest_bytes: int) -> None:
        self._pattern = re.compile(pattern, re.DOTALL)
        self._keep_bytes = longest_bytes - 1
        self._rest = b""

    def feed(self, payload: bytes) -> list[bytes]:
        """The matches (or their groups) that are complete with this payload, in order."""
        data = self._rest + payload
        found = self._pattern.findall(data)
        if found:
            # Only what follows the last match may still become one.
            last = found[-1]
            tail = data[data.rindex(last) + len(last) :]
        else:
            tail = data
        self._rest = tail[-self._keep_bytes :] if self._keep_bytes else b""
        return found


async def opened(endpoint: str, path: bytes, on_payload: OnPayload) -> Call:
    """A new call. Errors: OSError."""
    host, _, port = endpoint.rpartition(":")
    loop = asyncio.get_running_loop()
    _, call = await loop.create_connection(
        lambda: Call(endpoint, path, on_payload), host, int(port)
    )
    return call
