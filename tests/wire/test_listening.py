"""Who listens to a stream gets its messages, however they were framed, and nothing else changes."""

import pytest

from raftkv.wire import frames
from raftkv.wire.frames import PREFIX, frame
from raftkv.wire.h2 import ConnectionLimits, ServerConnection
from tests.wire.frame_tools import (
    alive,
    block,
    frames_in,
    goaway_code,
    headers,
    message,
    resets,
    started,
)

BIDI = headers(1, block(path=b"/t.T/Bidi"))


def listening(
    limits: ConnectionLimits | None = None,
) -> tuple[ServerConnection, list[bytes], list[bytes]]:
    """A server with an open call, what its listener hears, and what the handler still gets."""
    server, service = started(limits)
    unheard: list[bytes] = []
    service.message = lambda _, body: unheard.append(body)  # type: ignore[method-assign,assignment]
    server.receive(BIDI, 0.0)
    heard: list[bytes] = []
    server.listen(1, heard.append)
    return server, heard, unheard


def data(*bodies: bytes, flags: int = 0) -> bytes:
    """One DATA frame with some messages."""
    return frame(frames.DATA, flags, 1, b"".join(PREFIX.pack(0, len(b)) + b for b in bodies))


def test_a_listener_hears_every_message_in_order_however_frames_cut_them() -> None:
    """Whole, empty, two in a frame, padded, over two frames, over two chunks."""
    server, heard, unheard = listening()
    padded = frame(frames.DATA, frames.PADDED, 1, b"\x03" + PREFIX.pack(0, 1) + b"f" + bytes(3))
    long = PREFIX.pack(0, 4) + b"long"
    input_ = (
        data(b"a")
        + data(b"")
        + data(b"b", b"c")
        + data(b"d")
        + padded
        + frame(frames.DATA, 0, 1, long[:7])
        + frame(frames.DATA, 0, 1, long[7:])
        + data(b"z")
    )
    expected = [b"a", b"", b"b", b"c", b"d", b"f", b"long", b"z"]
    for size in (len(input_), 1, 2, 9, 14, 23):
        heard.clear()
        for at in range(0, len(input_), size):
            server.receive(input_[at : at + size], 0.0)
        assert heard == expected, size
    assert unheard == []
    assert alive(server)


def test_what_is_heard_is_credited_to_both_windows() -> None:
    limits = ConnectionLimits(stream_window_bytes=65_536, connection_window_bytes=131_072)
    server, heard, _ = listening(limits)
    server.take_output()
    credited = {0: 0, 1: 0}
    for _ in range(100):
        server.receive(data(bytes(5000)), 0.0)
        for one in frames_in(server.take_output()):
            if one.kind == frames.WINDOW_UPDATE:
                credited[one.stream] += int.from_bytes(one.payload, "big")
    assert len(heard) == 100
    assert alive(server)
    received = 100 * 5005
    assert received - 65_536 < credited[0] <= received
    assert received - 32_768 - 5005 <= credited[1] <= received


def test_more_than_the_streams_window_is_an_error_for_a_listener_too() -> None:
    server, heard, _ = listening(ConnectionLimits(stream_window_bytes=8192))
    server.receive(data(bytes(4000)), 0.0)
    assert len(heard) == 1
    server.receive(data(bytes(5000)) + data(bytes(4000)), 0.0)
    assert alive(server)
    server, heard, _ = listening(ConnectionLimits(stream_window_bytes=8192))
    server.receive(data(bytes(9000)), 0.0)
    assert heard == []
    assert resets(server.take_output()) == {1: frames.FLOW_CONTROL_ERROR}


@pytest.mark.parametrize("flag", [1, 2])
def test_a_flagged_message_is_judged_before_it_is_heard(flag: int) -> None:
    server, heard, _ = listening()
    server.receive(frame(frames.DATA, 0, 1, PREFIX.pack(flag, 2) + b"hi"), 0.0)
    assert heard == []
    assert not server.is_open(1)


def test_a_message_above_the_limit_is_not_heard() -> None:
    server, heard, _ = listening(ConnectionLimits(max_message_bytes=100))
    server.receive(data(bytes(100)), 0.0)
    assert len(heard) == 1
    server.receive(data(bytes(101)), 0.0)
    assert len(heard) == 1
    assert not server.is_open(1)


def test_nothing_is_heard_behind_the_end_of_either_side() -> None:
    server, heard, _ = listening()
    server.receive(data(b"last", flags=1) + data(b"late"), 0.0)
    assert heard == [b"last"]
    assert resets(server.take_output()) == {1: frames.STREAM_CLOSED}
    server, heard, _ = listening()
    server.finish(1, 5, "no more")
    server.receive(data(b"late"), 0.0)
    assert heard == []
    assert alive(server)


def test_a_message_within_a_header_block_ends_the_connection() -> None:
    server, heard, _ = listening()
    server.receive(headers(3, block()[:5], flags=0) + data(b"between"), 0.0)
    assert heard == []
    assert goaway_code(server.take_output()) == frames.PROTOCOL_ERROR


def test_a_listener_that_ends_the_connection_hears_nothing_more() -> None:
    server, heard, _ = listening()

    def end(body: bytes) -> None:
        heard.append(body)
        server.fail(frames.NO_ERROR, "enough")

    server.listen(1, end)
    server.receive(data(b"a") + data(b"b"), 0.0)
    assert heard == [b"a"]


def test_other_streams_still_go_to_the_handler() -> None:
    server, heard, unheard = listening()
    server.receive(headers(3, block(path=b"/t.T/Bidi")) + message(3, b"x", end=False), 0.0)
    server.receive(message(1, b"y", end=False), 0.0)
    assert (heard, unheard) == ([b"y"], [b"x"])
