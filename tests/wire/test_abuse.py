"""Hostile and broken clients: floods, bombs, stalls. Each test names its catalogue ID."""

import gzip
import tracemalloc

import hpack
import pytest

from raftkv.wire import frames
from raftkv.wire.frames import frame, settings, window_update
from raftkv.wire.h2 import ConnectionLimits
from raftkv.wire.h2_client import ClientConnection
from raftkv.wire.policy import Budget, Rate
from tests.wire.frame_tools import (
    BASE,
    alive,
    block,
    call,
    frames_in,
    goaway_code,
    headers,
    message,
    started,
)
from tests.wire.serving import serve_in_memory

CALM = frames.ENHANCE_YOUR_CALM
PING = frame(frames.PING, 0, 0, bytes(8))
NEVER = block(path=b"/t.T/Never")


def status_of(output: bytes) -> tuple[bytes, bytes]:
    """(grpc-status, grpc-message) of the first trailers-only answer."""
    first = next(f for f in frames_in(output) if f.kind == frames.HEADERS)
    fields = dict(hpack.Decoder().decode(first.payload, raw=True))
    return fields[b"grpc-status"], fields[b"grpc-message"]


# --- O04, O05: half-open and slow connections ---------------------------------------------


@pytest.mark.parametrize("sent", [b"", frames.PREFACE[:10], frames.PREFACE])
def test_a_handshake_that_never_ends_is_cut(sent: bytes) -> None:
    """O04: an idle connection holds nothing longer than the handshake deadline."""
    server, _ = serve_in_memory(now=100.0)
    server.receive(sent, 100.0)
    server.tick(109.0)
    assert alive(server)
    server.tick(110.5)
    assert server.closing
    assert "handshake" in server.close_reason


@pytest.mark.parametrize("continued", [False, True])
def test_headers_that_come_byte_by_byte_meet_their_deadline(continued: bool) -> None:
    """O05: slowloris."""
    server, _ = started()
    slow = headers(1, NEVER)
    if continued:
        slow = headers(1, NEVER[:1], 0)
        slow += b"".join(frame(9, 0, 1, NEVER[i : i + 1]) for i in range(1, len(NEVER)))
    now = 1.0
    for byte in slow[:-1]:
        server.receive(bytes((byte,)), now)
        server.tick(now)
        now += 1.0
        if server.closing:
            break
    assert server.closing
    assert now < 20.0
    assert goaway_code(server.take_output()) == CALM


def test_chunks_that_often_end_inside_headers_are_no_slowloris() -> None:
    server, service = started()
    now = 0.0
    data = b""
    for stream in range(1, 101, 2):
        data += call(stream)
        server.receive(data[:-30], now)
        data = data[-30:]
        server.tick(now)
        now += 1.0
    assert not server.closing
    assert len(service.events) >= 48


def test_slow_bodies_on_many_streams_hold_a_bounded_amount() -> None:
    """O05: memory per connection."""
    limit = 1_000_000
    server, _ = started(ConnectionLimits(max_buffered_bytes=limit))
    piece = frame(0, 0, 1, frames.PREFIX.pack(0, 1_500_000) + bytes(16000))
    refused = 0
    for stream in range(1, 401, 2):
        server.receive(headers(stream) + piece[:5] + stream.to_bytes(4, "big") + piece[9:], 0.0)
        assert server._held_bytes <= limit
        output = server.take_output()
        if any(f.kind == frames.HEADERS for f in frames_in(output)):
            refused += 1
    assert refused > 100
    assert not server.closing
    for stream in range(1, 401, 2):
        if server.is_open(stream):
            server.receive(frames.rst_stream(stream, 8), 0.0)
    assert server._held_bytes == 0


def test_a_dead_client_is_found_by_a_ping() -> None:
    """O04: half-open TCP connections."""
    server, service = started(ConnectionLimits(keepalive_interval=30.0, keepalive_timeout=5.0))
    server.receive(headers(1, NEVER) + message(1), 1.0)
    server.tick(20.0)
    assert server.take_output() == b""
    server.tick(31.0)
    assert [f.kind for f in frames_in(server.take_output())] == [frames.PING]
    server.receive(frame(6, 1, 0, bytes(8)), 33.0)
    server.tick(40.0)
    server.tick(64.0)
    assert [f.kind for f in frames_in(server.take_output())] == [frames.PING]
    server.tick(70.0)
    assert server.closing
    assert "keepalive" in server.close_reason
    assert service.events[-1] == ("cancelled", 1)


# --- O06: rapid reset ---------------------------------------------------------------------


def test_calls_opened_and_reset_too_fast_end_the_connection() -> None:
    """O06, CVE-2023-44487."""
    server, _ = started()
    now = 0.0
    for stream in range(1, 400_001, 2):
        server.receive(headers(stream, NEVER) + frames.rst_stream(stream, 8), now)
        now += 1e-5  # 100,000 a second
        if server.closing:
            break
    assert server.closing
    assert now < 0.2
    assert goaway_code(server.take_output()) == CALM


def test_a_client_that_makes_us_reset_ends_the_connection_too() -> None:
    """O06, CVE-2025-8671: the same attack through errors instead of RST_STREAM."""
    server, _ = started()
    for stream in range(1, 100_001, 2):
        server.receive(headers(stream, NEVER) + message(stream) + window_update(stream, 0), 0.0)
        if server.closing:
            break
    assert goaway_code(server.take_output()) == CALM
    assert stream < 25_000


def test_a_client_that_gives_up_thousands_of_calls_at_once_is_no_attacker() -> None:
    server, _ = started()
    streams = range(1, 10_001, 2)
    server.receive(b"".join(headers(stream, NEVER) for stream in streams), 0.0)
    server.receive(b"".join(frames.rst_stream(stream, 8) for stream in streams), 5.0)
    assert not server.closing
    assert server.open_streams == 0


def test_calls_above_the_limit_are_refused_for_a_retry() -> None:
    server, service = started(ConnectionLimits(max_concurrent_streams=2))
    for stream in (1, 3, 5):
        server.receive(headers(stream, NEVER) + message(stream), 0.0)
    assert len(service.events) == 2
    assert frames_in(server.take_output())[0] == (
        (frames.RST_STREAM, 0, 5, frames.U32.pack(frames.REFUSED_STREAM))
    )


# --- O07: CONTINUATION --------------------------------------------------------------------


@pytest.mark.parametrize("piece", [b"", b"\x00\x01a\x01b", b"\x82" * 16000])
def test_a_header_block_without_end_is_cut(piece: bytes) -> None:
    """O07, CVE-2024-27316, CVE-2023-45288."""
    server, _ = started()
    server.receive(headers(1, b"\x82", 0), 0.0)
    for _ in range(20_000):
        server.receive(frame(frames.CONTINUATION, 0, 1, piece), 0.0)
        if server.closing:
            break
        assert server._block is not None
        assert len(server._block) < 50_000
    assert goaway_code(server.take_output()) == CALM


# --- O08, O09: header lists ---------------------------------------------------------------


def test_a_header_list_above_the_limit_is_answered_with_a_status() -> None:
    """O09: more than 8 KiB of headers are fine, more than the limit are refused."""
    server, service = started()
    never = [(b":path", b"/t.T/Never") if name == b":path" else (name, v) for name, v in BASE]
    fine = block([*never, (b"token", b"x" * 9000)])
    server.receive(headers(1, fine) + message(1), 0.0)
    assert [event[0] for event in service.events] == ["unary"]
    server.take_output()
    large = block([*BASE, *[(b"t%d" % i, b"x" * 1000) for i in range(20)]])
    server.receive(headers(3, large[:16000], 0) + frame(9, 4, 3, large[16000:]), 0.0)
    assert status_of(server.take_output())[0] == b"8"
    assert len(service.events) == 1
    server.receive(call(5), 0.0)
    assert len(service.events) == 2


def test_an_hpack_bomb_costs_little_memory() -> None:
    """O08: 16 KiB of index bytes that stand for 64 MB of fields, a hundred times."""
    server, service = started()
    first = hpack.Encoder().encode([*BASE, (b"bomb", b"x" * 3900)], huffman=False)
    server.receive(headers(1, first) + message(1), 0.0)
    tracemalloc.start()
    for stream in range(3, 203, 2):
        server.receive(headers(stream, block() + b"\xbe" * 18, 5), 0.0)
    assert not server.closing
    server.receive(headers(203, block() + b"\xbe" * 16000, 5), 0.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
    assert len(service.events) == 1
    assert server.closing


def test_table_churn_keeps_the_table_and_the_caches_small() -> None:
    """O08, CVE-2023-33953: every block inserts as much as it can and resizes the table."""
    server, _ = started()
    encoder = hpack.Encoder()
    for number in range(500):
        encoder.header_table_size = 4096 if number % 2 else 1000
        churn = [(b"n%d-%d" % (number, i), b"v" * 40) for i in range(60)]
        server.receive(headers(2 * number + 1, encoder.encode(BASE + churn)), 0.0)
        assert not server.closing
    assert server._decoder._used <= 4096
    assert len(server._decoder._memo) <= 128
    assert len(server._heads) <= 64


@pytest.mark.parametrize("padding", [4, 100, 10_000])
def test_padded_numbers_end_the_connection(padding: int) -> None:
    """O08, CVE-2024-7246: zeros behind a number."""
    server, _ = started()
    server.receive(headers(1, b"\xff" + b"\x80" * padding + b"\x00"), 0.0)
    assert goaway_code(server.take_output()) == frames.COMPRESSION_ERROR


# --- O10: floods --------------------------------------------------------------------------

FLOODS = {
    "SETTINGS, CVE-2019-9515": (settings([]), 1000),
    "SETTINGS ACK": (frame(4, 1, 0), 1000),
    "PING, CVE-2019-9512": (PING, 5),
    "PING ACK": (frame(6, 1, 0, bytes(8)), 20_000),
    "PRIORITY": (frame(2, 0, 1, bytes(5)), 20_000),
    "unknown frames": (frame(99, 0, 1, bytes(5)), 20_000),
    "empty DATA, CVE-2019-9518": (frame(0, 0, 1), 20_000),
    "empty padded DATA": (frame(0, 8, 1, b"\1\0"), 20_000),
    "RST_STREAM of a finished call": (frames.rst_stream(3, 8), 20_000),
    "trailers on a finished call": (headers(5, b"", 5), 20_000),
    "GOAWAY": (frames.goaway(0, 0), 20_000),
    "WINDOW_UPDATE of 0": (window_update(1, 0), 20_000),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_ends_the_connection(name: str) -> None:
    """O10."""
    data, at_most = FLOODS[name]
    server, _ = started()
    server.receive(headers(1, block(path=b"/t.T/Bidi")) + call(3), 0.0)
    server.receive(headers(5, block(path=b"/t.T/Bidi")), 0.0)
    server.finish(5)
    server.take_output()
    for _ in range(at_most):
        server.receive(data, 1.0)
        assert server.queued_total() < 1_000_000
        if server.closing or name == "WINDOW_UPDATE of 0":
            break
    if name == "WINDOW_UPDATE of 0":
        assert not server.is_open(1)  # once per stream; see the test of O06
    else:
        assert server.closing
        assert server.close_reason
        assert name == "GOAWAY" or goaway_code(server.take_output()) == CALM


def test_three_pings_too_soon_get_too_many_pings() -> None:
    """O10, as grpc-go enforces it."""
    server, _ = started()
    server.receive(PING, 0.0)
    now = 0.0
    for _ in range(3):
        assert not server.closing
        now += 1.0
        server.receive(PING, now)
    last = frames_in(server.take_output())[-1]
    assert last.payload[4:] == frames.U32.pack(CALM) + b"too_many_pings"


def test_pings_with_answers_between_them_are_fine() -> None:
    server, _ = started()
    for number in range(100):
        server.receive(PING + call(2 * number + 1) + PING, number * 0.01)
        server.take_output()
    assert not server.closing


def test_pings_between_the_parts_of_a_long_answer_are_fine() -> None:
    """O10: grpc-go measures the connection with a ping after data, also where one message of the
    server takes many windows.
    """
    server, _ = started(settings=[(4, 1000)])
    server.receive(headers(1, block(path=b"/t.T/Bidi")), 0.0)
    server.send(1, bytes(100_000))
    for number in range(50):
        server.receive(window_update(1, 1000) + PING, number * 0.01)
        server.take_output()
    assert not server.closing


def test_pings_at_the_allowed_pace_are_fine() -> None:
    server, _ = started()
    for number in range(100):
        server.receive(PING, number * 5.0)
    assert not server.closing


# --- O11: stalls --------------------------------------------------------------------------


def test_a_client_that_takes_nothing_is_cut() -> None:
    """O11, CVE-2019-9517: zero window and queued answers."""
    server, service = started(settings=[(4, 0)])
    for stream in range(1, 101, 2):
        server.receive(call(stream, bytes(1000)), 0.0)
    assert server.queued_total() > 50_000
    for now in range(1, 60):
        server.tick(float(now))
    assert alive(server)
    for now in range(60, 70):
        server.tick(float(now))
    assert server.closing
    assert server.queued_total() < 1000
    assert sum(event[0] == "cancelled" for event in service.events) == 50


def test_a_client_that_takes_a_byte_now_and_then_is_cut_too() -> None:
    """O11."""
    server, _ = started(settings=[(4, 0)])
    server.receive(call(1, bytes(10_000)), 0.0)
    for now in range(1, 140):
        server.receive(window_update(1, 1), float(now))
        server.tick(float(now))
    assert server.closing


def test_a_slow_client_that_keeps_reading_is_not_cut() -> None:
    server, _ = started(settings=[(4, 0)])
    server.receive(headers(1, block(path=b"/t.T/Bidi")), 0.0)
    server.send(1, bytes(1_000_000))
    for now in range(1, 200):
        server.receive(window_update(1, 1000) + window_update(0, 1000), float(now))
        server.tick(float(now))
    assert not server.closing


def test_queued_answers_are_bounded() -> None:
    """O11: per-connection byte cap."""
    server, _ = started(ConnectionLimits(max_output_bytes=100_000), settings=[(4, 0)])
    for stream in range(1, 1001, 2):
        server.receive(call(stream, bytes(1000)), 0.0)
        assert server.queued_total() < 110_000
    assert server.closing


def test_answers_that_the_socket_does_not_take_are_bounded_too() -> None:
    """O11: the driver stops taking output while the socket is full."""
    server, _ = started(ConnectionLimits(max_output_bytes=200_000))
    server.receive(window_update(0, 2**30), 0.0)
    for stream in range(1, 10_001, 2):
        server.receive(call(stream, bytes(1000)), 0.0)
    assert server.closing
    assert server.queued_total() < 1_000_000


# --- O14: gzip ----------------------------------------------------------------------------

GZIP = block([*BASE, (b"grpc-encoding", b"gzip")])


def gzip_call(stream: int, packed: bytes, flag: int = 1, payload: bytes = GZIP) -> bytes:
    body = frames.PREFIX.pack(flag, len(packed)) + packed
    pieces = [body[i : i + 16384] for i in range(0, len(body), 16384)]
    data = b"".join(frame(0, 0, stream, piece) for piece in pieces[:-1])
    return headers(stream, payload) + data + frame(0, 1, stream, pieces[-1])


def test_a_gzip_bomb_is_refused_without_being_inflated() -> None:
    """O14."""
    server, service = started()
    bomb = gzip.compress(bytes(200_000_000), 9)
    tracemalloc.start()
    server.receive(gzip_call(1, bomb), 0.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12_000_000
    assert service.events == []
    code, text = status_of(server.take_output())
    assert code == b"8"
    assert b"larger than max" in text


def test_gzip_messages_up_to_the_limit_are_taken() -> None:
    server, service = started()
    plain = bytes(2 * 1024 * 1024)
    server.receive(gzip_call(1, gzip.compress(plain)), 0.0)
    assert service.events == [("unary", 1, b"/t.T/Echo", plain)]
    server.receive(gzip_call(3, gzip.compress(b"a") + gzip.compress(b"b")), 0.0)
    server.receive(gzip_call(5, b"plain", flag=0), 0.0)
    assert [event[3] for event in service.events[1:]] == [b"ab", b"plain"]


@pytest.mark.parametrize(
    "data",
    [
        gzip_call(1, b"no gzip"),
        gzip_call(1, gzip.compress(b"cut off")[:-3]),
        gzip_call(1, gzip.compress(b"x") + b"tail"),
        gzip_call(1, gzip.compress(b"x"), flag=2),
        gzip_call(1, gzip.compress(b"x"), payload=block()),
    ],
    ids=["garbage", "cut off", "tail", "flag 2", "not announced"],
)
def test_broken_compression_is_an_internal_error(data: bytes) -> None:
    """O14."""
    server, service = started()
    server.receive(data, 0.0)
    assert status_of(server.take_output())[0] == b"13"
    assert service.events == []
    assert not server.closing


def test_an_announced_length_above_the_limit_is_refused_at_once() -> None:
    """O12: four bytes must not make anybody wait for 4 GiB."""
    server, service = started()
    server.receive(headers(1) + frame(0, 0, 1, b"\0\xff\xff\xff\xff"), 0.0)
    code, text = status_of(server.take_output())
    assert code == b"8"
    assert text == b"grpc: received message larger than max (4294967295 vs. 2097152)"
    assert service.events == []
    streaming = headers(3, block(path=b"/t.T/Bidi")) + frame(0, 0, 3, b"\0\xff\xff\xff\xff")
    server.receive(streaming, 0.0)
    assert [event[0] for event in service.events] == ["opened", "cancelled"]


# --- the client's side --------------------------------------------------------------------


class Silent:
    def headers(self, stream: int) -> None: ...
    def message(self, stream: int, message: bytes) -> None: ...
    def finished(self, stream: int, code: int, text: str) -> None: ...


@pytest.mark.parametrize("data", [PING, settings([]), frame(99, 0, 0), headers(1, b"\x88", 5)])
def test_a_server_that_floods_is_left(data: bytes) -> None:
    """O10 on the peer port: members hold each other to the same rules."""
    client = ClientConnection(Silent(), b"test")
    client.receive(settings([]), 0.0)
    client.request(b"/e", b"", end=True)
    for _ in range(20_000):
        client.receive(data, 0.0)
        client.take_output()
        if client.closing:
            break
    assert client.closing


def test_a_budget_forgives_a_burst_and_stops_a_flood() -> None:
    budget = Budget(Rate(10.0, 5), 0.0)
    assert all(budget.take(0.0) for _ in range(5))
    assert not budget.take(0.0)
    assert all(budget.take(now) for now in (1.0, 1.1, 1.2, 1.3))
    assert all(budget.take(100.0) for _ in range(5))
    assert not budget.take(100.0)


def test_only_the_answer_to_a_probe_ends_it() -> None:
    server, _ = started()
    server.take_output()
    assert server.probe()
    assert not server.probe(), "one at a time"
    (ping,) = frames_in(server.take_output())
    assert ping.kind == frames.PING
    server.receive(frame(frames.PING, frames.ACK, 0, bytes(8)), 1.0)
    assert not server.probe(), "that was another's answer"
    server.receive(frame(frames.PING, frames.ACK, 0, ping.payload), 1.0)
    assert not server.probing
    assert server.probe()
