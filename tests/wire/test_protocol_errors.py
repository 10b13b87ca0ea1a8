"""Who breaks RFC 9113 hears the right error: a stream's mistake costs the stream only."""

import hpack
import pytest

from raftkv.wire import frames
from raftkv.wire.frames import frame, settings, window_update
from tests.wire.frame_tools import (
    BASE,
    block,
    call,
    frames_in,
    goaway_code,
    headers,
    message,
    resets,
    started,
)
from tests.wire.serving import serve_in_memory

U32 = frames.U32.pack
SETUP = call(1)  # stream 1 was opened and answered
OPEN = headers(3, block(path=b"/t.T/Bidi"))  # stream 3 is open

CONNECTION_ERRORS = {
    "DATA on stream 0": (frame(0, 0, 0, b"x"), 1),
    "DATA on an idle stream": (message(5), 1),
    "DATA with too much padding": (OPEN + frame(0, 8, 3, b"\x05abc"), 1),
    "DATA with padding and no bytes": (OPEN + frame(0, 8, 3), 1),
    "a frame above the frame size": (frame(0, 0, 3, b"x" * 16385), 6),
    "HEADERS on stream 0": (headers(0), 1),
    "HEADERS on an even stream": (headers(4), 1),
    "HEADERS on a closed stream": (headers(1), 5),
    "HEADERS with too much padding": (headers(5, b"\xff", 4 | 8), 1),
    "HEADERS with half a priority": (headers(5, b"\0\0", 4 | 0x20), 1),
    "a broken header block": (headers(5, b"\xbe"), 9),
    "CONTINUATION without HEADERS": (frame(9, 4, 5, b""), 1),
    "CONTINUATION of another stream": (headers(5, b"\x82", 0) + frame(9, 4, 7, b""), 1),
    "a header block interrupted by PING": (headers(5, b"\x82", 0) + frame(6, 0, 0, bytes(8)), 1),
    "a header block interrupted by HEADERS": (headers(5, b"\x82", 0) + headers(7), 1),
    "a header block interrupted by the unknown": (headers(5, b"\x82", 0) + frame(77, 0, 0), 1),
    "PRIORITY on stream 0": (frame(2, 0, 0, bytes(5)), 1),
    "PRIORITY of 4 bytes": (frame(2, 0, 3, bytes(4)), 6),
    "RST_STREAM on stream 0": (frame(3, 0, 0, bytes(4)), 1),
    "RST_STREAM on an idle stream": (frame(3, 0, 5, bytes(4)), 1),
    "RST_STREAM of 3 bytes": (OPEN + frame(3, 0, 3, bytes(3)), 6),
    "SETTINGS on a stream": (frame(4, 0, 1, b""), 1),
    "SETTINGS of 5 bytes": (frame(4, 0, 0, bytes(5)), 6),
    "SETTINGS ACK with bytes": (frame(4, 1, 0, bytes(6)), 6),
    "ENABLE_PUSH of 2": (settings([(2, 2)]), 1),
    "INITIAL_WINDOW_SIZE of 2^31": (settings([(4, 2**31)]), 3),
    "MAX_FRAME_SIZE of 16383": (settings([(5, 16383)]), 1),
    "MAX_FRAME_SIZE of 2^24": (settings([(5, 2**24)]), 1),
    "PUSH_PROMISE": (frame(5, 4, 3, bytes(4)), 1),
    "PING on a stream": (frame(6, 0, 1, bytes(8)), 1),
    "PING of 7 bytes": (frame(6, 0, 0, bytes(7)), 6),
    "GOAWAY on a stream": (frame(7, 0, 1, bytes(8)), 1),
    "GOAWAY of 7 bytes": (frame(7, 0, 0, bytes(7)), 6),
    "WINDOW_UPDATE of 0 on the connection": (window_update(0, 0), 1),
    "WINDOW_UPDATE beyond 2^31-1": (window_update(0, 2**31 - 1), 3),
    "WINDOW_UPDATE on an idle stream": (window_update(5, 1), 1),
    "WINDOW_UPDATE of 3 bytes": (frame(8, 0, 0, bytes(3)), 6),
    "settings that lift an open window too far": (
        OPEN + window_update(3, 2**30) + settings([(4, 2**31 - 1)]),
        3,
    ),
}


@pytest.mark.parametrize("name", CONNECTION_ERRORS)
def test_a_mistake_of_the_connection_ends_it_with(name: str) -> None:
    data, code = CONNECTION_ERRORS[name]
    server, service = started()
    server.receive(SETUP, 0.0)
    server.receive(data, 0.0)
    assert server.closing
    assert server.close_reason
    assert goaway_code(server.take_output()) == code
    opened = {event[1] for event in service.events if event[0] == "opened"}
    assert {event[1] for event in service.events if event[0] == "cancelled"} == opened
    server.receive(call(99), 1.0)  # nothing more is heard, nothing more is said
    server.tick(2.0)
    assert server.take_output() == b""


STREAM_ERRORS = {
    "the method is missing": (headers(3, block([f for f in BASE if f[0] != b":method"])), 1),
    "the path is missing": (headers(3, block([f for f in BASE if f[0] != b":path"])), 1),
    "the path is empty": (headers(3, block(path=b"")), 1),
    "the scheme is missing": (headers(3, block([f for f in BASE if f[0] != b":scheme"])), 1),
    "a pseudo-header twice": (headers(3, block([BASE[0], *BASE])), 1),
    "an unknown pseudo-header": (headers(3, block([(b":what", b"x"), *BASE])), 1),
    "a response's pseudo-header": (headers(3, block([(b":status", b"200"), *BASE])), 1),
    "a pseudo-header behind a header": (headers(3, block([*BASE[1:], BASE[0]])), 1),
    "an upper-case name": (headers(3, block([*BASE, (b"Token", b"x")])), 1),
    "an empty name": (headers(3, block([*BASE, (b"", b"x")])), 1),
    "a line break in a value": (headers(3, block([*BASE, (b"token", b"x\r\ny")])), 1),
    "a zero in a value": (headers(3, block([*BASE, (b"token", b"x\0")])), 1),
    "a space around a value": (headers(3, block([*BASE, (b"token", b" x")])), 1),
    "a connection header": (headers(3, block([*BASE, (b"connection", b"close")])), 1),
    "a wrong te": (headers(3, block([*BASE, (b"te", b"gzip")])), 1),
    "WINDOW_UPDATE of 0": (OPEN + window_update(3, 0), 1),
    "WINDOW_UPDATE beyond 2^31-1": (OPEN + window_update(3, 2**31 - 1), 3),
    "a message cut off by END_STREAM": (OPEN + frame(0, 1, 3, b"\0\0\0\0\x05abc"), 1),
    "a prefix cut off by END_STREAM": (OPEN + frame(0, 1, 3, b"\0\0"), 1),
    "trailers without END_STREAM": (OPEN + headers(3, b""), 1),
    "trailers with a pseudo-header": (OPEN + headers(3, block(), 5), 1),
    "DATA on a closed stream": (message(1) + headers(3, block(path=b"")), 1),
    "DATA behind END_STREAM": (headers(3, block(path=b"/t.T/Never")) + message(3) * 2, 5),
    "HEADERS behind END_STREAM": (
        headers(3, block(path=b"/t.T/Never")) + message(3) + headers(3, b"", 5),
        5,
    ),
}


@pytest.mark.parametrize("name", STREAM_ERRORS)
def test_a_mistake_of_a_stream_resets_it_alone(name: str) -> None:
    """O09: odd te and pseudo-headers end a call, never the process or the connection."""
    data, code = STREAM_ERRORS[name]
    server, service = started()
    server.receive(SETUP, 0.0)
    server.take_output()
    server.receive(data, 0.0)
    assert resets(server.take_output())[3] == code
    assert not server.closing
    assert not server.is_open(3)
    seen = [event[0] for event in service.events if event[1] == 3]
    assert seen in ([], ["opened", "cancelled"], ["unary", "cancelled"])
    service.events.clear()
    server.send(3, b"late")
    server.finish(3)
    assert server.take_output() == b""
    server.receive(call(5), 0.0)
    assert [f.kind for f in frames_in(server.take_output())] == [1, 0, 1]


REFUSALS = {
    "GET": (block(method=b"GET"), b"405", b"13"),
    "no content-type": (block(BASE[:-1]), b"415", b"3"),
    "JSON": (block([*BASE[:-1], (b"content-type", b"application/json")]), b"415", b"3"),
    "grpc-web": (block([*BASE[:-1], (b"content-type", b"application/grpc-web")]), b"415", b"3"),
    "an unknown encoding": (block([*BASE, (b"grpc-encoding", b"br")]), b"200", b"12"),
    "a malformed timeout": (block([*BASE, (b"grpc-timeout", b"5x")]), b"200", b"13"),
    "malformed -bin metadata": (block([*BASE, (b"a-bin", b"!!!!!")]), b"200", b"13"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_request_that_is_no_call_is_answered_and_not_handed_over(name: str) -> None:
    payload, status, code = REFUSALS[name]
    server, service = started()
    server.receive(headers(1, payload) + message(1), 0.0)
    answer = frames_in(server.take_output())
    assert answer[0].kind == frames.HEADERS
    assert answer[0].flags & frames.END_STREAM
    assert dict(_decode(answer[0].payload))[b":status"] == status
    assert dict(_decode(answer[0].payload))[b"grpc-status"] == code
    assert service.events == []
    assert server.open_streams == 0
    server.receive(call(3), 0.0)
    assert not server.closing


@pytest.mark.parametrize("suffix", [b"", b"+proto", b";charset=utf-8", b"+json"])
def test_every_grpc_content_type_is_taken(suffix: bytes) -> None:
    server, service = started()
    payload = block([*BASE[:-1], (b"content-type", b"application/grpc" + suffix)])
    server.receive(headers(1, payload) + message(1), 0.0)
    assert service.events == [("unary", 1, b"/t.T/Echo", b"hi")]


@pytest.mark.parametrize(
    "body",
    [
        headers(1, None, 5),
        headers(1) + frame(0, 1, 1),
        headers(1) + message(1, end=False) + message(1),
    ],
    ids=["headers only", "no message", "two messages"],
)
def test_a_unary_call_without_exactly_one_message_is_unimplemented(body: bytes) -> None:
    server, service = started()
    server.receive(body, 0.0)
    fields = dict(_decode(frames_in(server.take_output())[0].payload))
    assert fields[b"grpc-status"] == b"12"
    assert service.events == []
    assert server.open_streams == 0
    assert server._held_bytes == 0


def test_what_may_be_ignored_is_ignored() -> None:
    server, service = started()
    ignored = (
        frame(2, 0, 7, bytes(5))
        + frame(77, 255, 0, b"whatever")
        + settings([(99, 1), (2, 0), (6, 1)])
        + frame(4, 1, 0)
        + window_update(0, 1)
    )
    server.receive(ignored + headers(1, b"\x05" + bytes(5) + block() + bytes(5), 4 | 8 | 0x20), 0.0)
    padded = b"\x03" + frames.PREFIX.pack(0, 2) + b"hi" + bytes(3)
    server.receive(frame(0, 1 | 8, 1, padded) + window_update(1, 5), 0.0)
    assert service.events == [("unary", 1, b"/t.T/Echo", b"hi")]
    assert not server.closing


def test_the_reserved_bit_of_a_stream_id_is_ignored() -> None:
    server, service = started()
    data = bytearray(call(1))
    data[5] |= 0x80
    server.receive(bytes(data), 0.0)
    assert service.events == [("unary", 1, b"/t.T/Echo", b"hi")]


def test_a_header_block_may_be_spread_over_continuations() -> None:
    server, service = started()
    payload = block()
    pieces = [frame(9, 0, 1, payload[i : i + 1]) for i in range(1, len(payload))]
    server.receive(headers(1, payload[:1], 0) + b"".join(pieces), 0.0)
    assert service.events == []
    server.receive(frame(9, 4, 1) + message(1), 0.0)
    assert service.events == [("unary", 1, b"/t.T/Echo", b"hi")]


def test_a_ping_is_answered_with_its_bytes() -> None:
    server, _ = started()
    server.receive(frame(6, 0, 0, b"12345678"), 0.0)
    assert frames_in(server.take_output()) == [(6, 1, 0, b"12345678")]


def test_trailers_of_a_client_end_its_stream() -> None:
    server, service = started()
    trailers = headers(3, block([(b"x", b"y")]), 5)
    server.receive(OPEN + message(3, end=False) + trailers, 0.0)
    assert [event[0] for event in service.events] == ["opened", "message", "half_closed"]


def test_frames_for_a_stream_we_finished_early_are_no_mistake() -> None:
    server, _ = started()
    server.receive(OPEN, 0.0)
    server.finish(3, 9, "enough")
    assert resets(server.take_output()) == {3: 0}
    server.receive(message(3, end=False) + window_update(3, 9) + headers(3, b"", 5), 0.0)
    server.receive(frame(3, 0, 3, U32(8)), 0.0)
    assert not server.closing
    assert server.take_output() == b""


def test_settings_must_come_first() -> None:
    server, _ = serve_in_memory()
    server.receive(frames.PREFACE + call(1), 0.0)
    assert server.closing
    assert "first frame" in server.close_reason


def test_the_preface_may_come_byte_by_byte() -> None:
    server, service = serve_in_memory()
    for byte in frames.PREFACE + settings([]) + call(1):
        server.receive(bytes((byte,)), 0.0)
    assert service.events == [("unary", 1, b"/t.T/Echo", b"hi")]


@pytest.mark.parametrize(
    ("data", "words", "answer"),
    [
        (b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1", b"HTTP/1.1 400 "),
        (b"POST / HTTP/1.1\r\n\r\n", "POST / HTTP/1.1", b"HTTP/1.1 400 "),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "TLS", b""),
        (b"\x00\x01\x02garbage", "not HTTP/2", b""),
        (b"PRI * HTTP/2.0\r\n\r\nXX", "not HTTP/2", b""),
    ],
)
def test_a_stranger_is_refused_in_one_readable_line(data: bytes, words: str, answer: bytes) -> None:
    server, _ = serve_in_memory()
    server.receive(data, 0.0)
    assert server.closing
    assert words in server.close_reason
    assert "\n" not in server.close_reason
    output = server.take_output()
    assert output.startswith(answer) if answer else output == b""


def _decode(payload: bytes) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in hpack.Decoder().decode(payload, raw=True)]


def test_calls_that_differ_in_their_timeout_only_keep_their_own_timeout() -> None:
    """Go's clients send a new timeout, and so a new block, with every call."""
    server, _ = started()
    encoder = hpack.Encoder()
    for number in range(200):
        stream = 2 * number + 1
        fields = [
            *(BASE if number % 2 else BASE[:3] + BASE[4:]),
            (b"grpc-timeout", b"%du" % (5_000_000 - number)),
            (b"token", b"%d" % (number % 3)),
        ]
        server.receive(headers(stream, encoder.encode(fields)), 0.0)
        head = server._streams[stream].head
        assert head.timeout == pytest.approx((5_000_000 - number) / 1e6)
        assert head.metadata == {b"token": b"%d" % (number % 3)}
        assert head.authority == (b"test" if number % 2 else b"")
        assert head.unary
    assert len(server._parser._untimed) == 6


@pytest.mark.parametrize("at", range(6))
def test_a_timeout_does_not_hide_a_misplaced_pseudo_header(at: int) -> None:
    server, service = started()
    timed = [*BASE[:at], (b"grpc-timeout", b"5S"), *BASE[at:]]
    for stream in (1, 3):
        server.receive(headers(stream, block(timed)) + message(stream), 0.0)
        assert bool(service.events) == (at >= 4)
