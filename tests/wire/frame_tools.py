"""Frames by hand, for tests that say what other libraries refuse to say."""

from typing import NamedTuple

import hpack

from raftkv.wire import frames
from raftkv.wire.connection import Connection
from raftkv.wire.h2 import ConnectionLimits, ServerConnection
from tests.wire.serving import Service, serve_in_memory

BASE = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/t.T/Echo"),
    (b":authority", b"test"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
]


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


def frames_in(data: bytes) -> list[Frame]:
    """The frames of an output; the client's preface is skipped."""
    found = []
    data = data.removeprefix(frames.PREFACE)
    while data:
        kind, flags, stream = frames.HEADER.unpack_from(data)
        length = kind >> 8
        assert len(data) >= 9 + length
        found.append(Frame(kind & 0xFF, flags, stream, data[9 : 9 + length]))
        data = data[9 + length :]
    return found


def block(fields: list[tuple[bytes, bytes]] | None = None, **changed: bytes) -> bytes:
    """A header block that needs no table. `path=b"..."` changes the :path, and so on."""
    chosen = list(BASE if fields is None else fields)
    for name, value in changed.items():
        key = b":" + name.encode()
        chosen = [(key, value) if field[0] == key else field for field in chosen]
    encoder = hpack.Encoder()
    return b"".join(encoder.add(field, sensitive=True) for field in chosen)


def headers(stream: int, payload: bytes | None = None, flags: int = frames.END_HEADERS) -> bytes:
    return frames.frame(frames.HEADERS, flags, stream, block() if payload is None else payload)


def message(stream: int, body: bytes = b"hi", end: bool = True) -> bytes:
    payload = frames.PREFIX.pack(0, len(body)) + body
    return frames.frame(frames.DATA, 1 if end else 0, stream, payload)


def call(stream: int, body: bytes = b"hi") -> bytes:
    """A whole unary call."""
    return headers(stream) + message(stream, body)


def started(
    limits: ConnectionLimits | None = None, settings: list[tuple[int, int]] | None = None
) -> tuple[ServerConnection, Service]:
    """A server connection past its preface, its first output taken."""
    server, service = serve_in_memory(limits)
    server.receive(frames.PREFACE + frames.settings(settings or []), 0.0)
    assert frames_in(server.take_output())
    return server, service


def alive(connection: Connection) -> bool:
    """True while the connection does not want to be closed."""
    return not connection.closing


def goaway_code(output: bytes) -> int:
    """The error code of the GOAWAY at the end of an output."""
    last = frames_in(output)[-1]
    assert last.kind == frames.GOAWAY
    return int.from_bytes(last.payload[4:8], "big")


def resets(output: bytes) -> dict[int, int]:
    """stream -> error code of every RST_STREAM of an output."""
    return {
        frame.stream: int.from_bytes(frame.payload, "big")
        for frame in frames_in(output)
        if frame.kind == frames.RST_STREAM
    }
