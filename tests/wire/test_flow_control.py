"""Windows in both directions, queues, back-pressure and draining (RFC 9113 5.2, 6.9)."""

import hpack
import pytest

from raftkv.wire import frames
from raftkv.wire.frames import frame, settings, window_update
from raftkv.wire.h2 import ConnectionLimits
from raftkv.wire.h2_client import ClientConnection
from tests.wire.frame_tools import (
    Frame,
    alive,
    block,
    call,
    frames_in,
    goaway_code,
    headers,
    message,
    resets,
    started,
)

BIDI = headers(1, block(path=b"/t.T/Bidi"))


def data_bytes(output: bytes, stream: int | None = None) -> int:
    return sum(
        len(f.payload)
        for f in frames_in(output)
        if f.kind == frames.DATA and stream in (None, f.stream)
    )


def updates(output: bytes) -> dict[int, int]:
    return {
        f.stream: int.from_bytes(f.payload, "big")
        for f in frames_in(output)
        if f.kind == frames.WINDOW_UPDATE
    }


def test_no_byte_goes_out_beyond_the_windows() -> None:
    server, _ = started(settings=[(4, 1000)])
    server.receive(BIDI, 0.0)
    server.send(1, bytes(5000))
    assert data_bytes(server.take_output()) == 1000
    assert server.queued(1) == 4005
    server.receive(window_update(1, 10), 0.0)
    assert data_bytes(server.take_output()) == 10
    server.receive(window_update(1, 100_000), 0.0)
    assert data_bytes(server.take_output()) == 3995
    assert server.queued(1) == server.queued_total() == 0


def test_frames_respect_the_other_ends_frame_size() -> None:
    server, _ = started(settings=[(4, 2**20), (5, 20000)])
    server.receive(BIDI, 0.0)
    server.send(1, bytes(60000))
    sizes = [len(f.payload) for f in frames_in(server.take_output()) if f.kind == frames.DATA]
    assert sizes == [20000, 20000, 20000, 5]


def test_the_connections_window_holds_for_all_streams_together() -> None:
    server, _ = started(settings=[(4, 2**20)])
    server.receive(BIDI + headers(3, block(path=b"/t.T/Bidi")), 0.0)
    server.send(1, bytes(60000))
    server.send(3, bytes(60000))
    assert data_bytes(server.take_output()) == 65535
    server.receive(window_update(0, 2**20), 0.0)
    assert data_bytes(server.take_output()) == 120010 - 65535


def test_waiting_streams_take_turns() -> None:
    server, _ = started(settings=[(4, 2**30)])
    server.receive(BIDI + headers(3, block(path=b"/t.T/Bidi")), 0.0)
    server.send(1, bytes(2_000_000))
    server.send(3, bytes(2_000_000))
    server.take_output()
    server.receive(window_update(0, 1_000_000), 0.0)
    output = server.take_output()
    assert abs(data_bytes(output, 1) - data_bytes(output, 3)) <= 2 * 65536


def test_a_smaller_initial_window_can_make_a_window_negative() -> None:
    server, _ = started(settings=[(4, 1000)])
    server.receive(BIDI, 0.0)
    server.send(1, bytes(5000))
    server.take_output()
    server.receive(settings([(4, 200)]), 0.0)  # the window is -800 now
    server.receive(window_update(1, 800), 0.0)
    assert data_bytes(server.take_output()) == 0
    server.receive(window_update(1, 1), 0.0)
    assert data_bytes(server.take_output()) == 1
    server.receive(settings([(4, 10000)]), 0.0)
    assert data_bytes(server.take_output()) == 4004


def test_a_reply_that_does_not_fit_waits_with_its_trailers() -> None:
    server, _ = started(settings=[(4, 3)])
    server.receive(call(1, b"hello"), 0.0)
    first = frames_in(server.take_output())
    assert [(f.kind, len(f.payload)) for f in first if f.kind != frames.SETTINGS][1:] == [(0, 3)]
    assert server.open_streams == 1
    server.receive(window_update(1, 100), 0.0)
    last = frames_in(server.take_output())
    assert [f.kind for f in last] == [0, 0, 1] or [f.kind for f in last] == [0, 1]
    assert last[-1].flags & frames.END_STREAM
    assert server.open_streams == 0


def test_a_window_update_before_the_reply_counts_for_it() -> None:
    server, _ = started(settings=[(4, 0)])
    server.receive(headers(1, block(path=b"/t.T/Never")) + message(1), 0.0)
    server.receive(window_update(1, 8), 0.0)
    server.reply(1, b"abc")
    assert data_bytes(server.take_output()) == 8
    assert server.open_streams == 0


def test_the_fast_reply_counts_against_the_connections_window() -> None:
    server, _ = started()
    for number in range(700):
        server.receive(call(2 * number + 1, bytes(95)), 0.0)
    sent = data_bytes(server.take_output())
    assert sent == 65535
    server.receive(window_update(0, 10_000_000), 0.0)
    assert data_bytes(server.take_output()) == 70000 - 65535
    assert server.open_streams == 0


def test_writable_is_called_once_when_a_long_queue_got_short() -> None:
    server, service = started(ConnectionLimits(low_water_bytes=1000), settings=[(4, 0)])
    calls: list[int] = []
    service.writable = calls.append  # type: ignore[method-assign,assignment]
    server.receive(BIDI, 0.0)
    server.send(1, bytes(995))
    server.send(1, bytes(995))
    server.receive(window_update(1, 900), 0.0)
    assert calls == []
    server.receive(window_update(1, 200), 0.0)
    assert calls == [1]
    server.receive(window_update(1, 900), 0.0)
    assert calls == [1]
    assert server.queued(1) == 0


def test_a_paused_connection_queues_and_a_resumed_one_sends() -> None:
    server, _ = started()
    server.receive(call(1), 0.0)
    server.take_output()
    server.pause_output()
    server.receive(call(3) + headers(5, block(path=b"/t.T/Bidi")) + message(5, end=False), 0.0)
    assert data_bytes(server.take_output()) == 0
    assert server.queued(3) == server.queued(5) == 7
    server.resume_output()
    assert data_bytes(server.take_output()) == 14
    assert not server.is_open(3)
    server.receive(call(7), 0.0)
    assert len(frames_in(server.take_output())) == 3


def test_received_bytes_are_credited_in_batches() -> None:
    server, _ = started(ConnectionLimits(stream_window_bytes=1000, connection_window_bytes=70000))
    server.receive(headers(1, block(path=b"/t.T/Sum")), 0.0)
    server.receive(message(1, bytes(395), end=False), 0.0)
    assert updates(server.take_output()) == {}
    server.receive(message(1, bytes(395), end=False), 0.0)
    assert updates(server.take_output()) == {1: 800}
    for number in range(48):
        server.receive(call(2 * number + 3, bytes(995)), 0.0)
    assert updates(server.take_output())[0] > 35000


def test_a_sender_beyond_the_streams_window_is_stopped() -> None:
    server, service = started(ConnectionLimits(stream_window_bytes=1000))
    server.receive(headers(1, block(path=b"/t.T/Sum")) + message(1, bytes(2000), end=False), 0.0)
    assert resets(server.take_output()) == {1: frames.FLOW_CONTROL_ERROR}
    assert service.events[-1] == ("cancelled", 1)


def test_a_sender_beyond_the_connections_window_is_cut() -> None:
    limits = ConnectionLimits(connection_window_bytes=65535)
    server, _ = started(limits)
    flood = b"".join(call(2 * number + 1, bytes(16000)) for number in range(10))
    server.receive(flood, 0.0)
    assert goaway_code(server.take_output()) == frames.FLOW_CONTROL_ERROR


def test_padding_counts_against_the_window() -> None:
    server, _ = started(ConnectionLimits(stream_window_bytes=1000))
    server.receive(headers(1, block(path=b"/t.T/Sum")), 0.0)
    padded = frame(0, 8, 1, b"\xff" + frames.PREFIX.pack(0, 0) + bytes(255))
    server.receive(padded * 2, 0.0)
    assert updates(server.take_output()) == {1: 522}


# --- draining ----------------------------------------------------------------------------


def test_go_away_finishes_open_calls_and_takes_no_new_ones() -> None:
    server, service = started()
    server.receive(BIDI, 0.0)
    server.go_away()
    first = [f for f in frames_in(server.take_output()) if f.kind == frames.GOAWAY]
    assert first[0].payload[:8] == bytes([0, 0, 0, 1, 0, 0, 0, 0])
    server.receive(call(3) + message(1), 0.0)
    assert ("unary", 3, b"/t.T/Echo", b"hi") not in service.events
    output = frames_in(server.take_output())
    assert [f.stream for f in output] == [1, 1]
    assert server.closing
    assert server.close_reason


def test_go_away_without_calls_closes_at_once() -> None:
    server, _ = started()
    server.receive(call(1), 0.0)
    server.go_away()
    assert server.closing


def test_a_reply_during_a_drain_closes_after_the_last_call() -> None:
    server, _ = started()
    server.receive(call(1), 0.0)
    server.receive(headers(3, block(path=b"/t.T/Never")) + message(3), 0.0)
    server.go_away()
    assert alive(server)
    server.reply(3, b"done")
    assert server.closing
    assert frames_in(server.take_output())[-1] == Frame(1, 5, 3, b"\xbe")


def test_connection_lost_cancels_every_open_call() -> None:
    server, service = started()
    server.receive(BIDI + headers(3, block(path=b"/t.T/Never")) + message(3), 0.0)
    server.connection_lost("gone")
    assert [e for e in service.events if e[0] == "cancelled"] == [
        ("cancelled", 1),
        ("cancelled", 3),
    ]
    server.reply(3, b"late")
    assert not server.is_open(1)


# --- the encoder's table -------------------------------------------------------------------


@pytest.mark.parametrize("table", [0, 60, 300, 65536])
def test_replies_follow_a_table_size_that_changes_on_the_way(table: int) -> None:
    server, _ = started()
    decoder = hpack.Decoder()
    for stream in range(1, 20, 2):
        if stream == 9:
            server.receive(settings([(1, table)]), 0.0)
            decoder.max_allowed_table_size = table
        server.receive(call(stream), 0.0)
        blocks = [f.payload for f in frames_in(server.take_output()) if f.kind == frames.HEADERS]
        fields = [dict(decoder.decode(payload, raw=True)) for payload in blocks]
        assert fields == [
            {b":status": b"200", b"content-type": b"application/grpc"},
            {b"grpc-status": b"0"},
        ]
    assert server._fast_bytes > 0


# --- the client's side ------------------------------------------------------------------------


class Ends:
    def __init__(self) -> None:
        self.ends: dict[int, tuple[int, str]] = {}

    def headers(self, stream: int) -> None: ...
    def message(self, stream: int, message: bytes) -> None: ...

    def finished(self, stream: int, code: int, text: str) -> None:
        self.ends[stream] = (code, text)


def client_past_settings(pairs: list[tuple[int, int]]) -> tuple[ClientConnection, Ends]:
    ends = Ends()
    client = ClientConnection(ends, b"test")
    client.receive(settings(pairs), 0.0)
    client.take_output()
    return client, ends


def test_client_respects_the_limit_of_concurrent_streams() -> None:
    client, _ = client_past_settings([(3, 2)])
    client.request(b"/e", b"", end=True)
    assert client.can_request
    client.request(b"/e", b"", end=True)
    assert not client.can_request


def test_client_learns_which_calls_a_goaway_refused() -> None:
    client, ends = client_past_settings([])
    first, second = (client.request(b"/e", b"", end=True) for _ in range(2))
    client.receive(frames.goaway(first, 0, b"bye"), 0.0)
    assert client.going_away
    assert not client.can_request
    assert ends.ends[second][0] == 14
    assert "bye" in ends.ends[second][1]
    assert first not in ends.ends
    client.receive(frame(1, 5, first, block([(b":status", b"200"), (b"grpc-status", b"0")])), 0.0)
    assert ends.ends[first] == (0, "")
    assert client.closing


@pytest.mark.parametrize(("error_code", "status"), [(0, 13), (7, 14), (8, 1), (11, 8), (12, 7)])
def test_client_maps_a_reset_to_a_status(error_code: int, status: int) -> None:
    client, ends = client_past_settings([])
    stream = client.request(b"/e", b"", end=True)
    client.receive(frames.rst_stream(stream, error_code), 0.0)
    assert ends.ends[stream][0] == status


def test_client_ends_every_call_with_unavailable_when_the_connection_is_lost() -> None:
    client, ends = client_past_settings([])
    stream = client.request(b"/e", b"", end=True)
    client.connection_lost("the cable")
    assert ends.ends == {stream: (14, "the cable")}


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([(b":status", b"503")], 14),
        ([(b":status", b"404"), (b"content-type", b"text/html")], 12),
        ([(b":status", b"200"), (b"content-type", b"text/html")], 2),
        ([(b"x", b"y")], 13),
        ([(b":status", b"200"), (b"grpc-status", b"banana")], 2),
    ],
)
def test_client_maps_answers_that_are_not_grpc(
    fields: list[tuple[bytes, bytes]], status: int
) -> None:
    client, ends = client_past_settings([])
    for end in (4, 5):
        stream = client.request(b"/e")
        client.receive(frame(1, end, stream, block(fields)), 0.0)
        if fields[-1][0] != b"grpc-status" or end == 5:
            assert ends.ends[stream][0] == status
    assert not client.closing


def test_client_refuses_a_stream_without_trailers() -> None:
    client, ends = client_past_settings([])
    stream = client.request(b"/e", b"", end=True)
    ok = block([(b":status", b"200"), (b"content-type", b"application/grpc")])
    client.receive(frame(1, 4, stream, ok) + message(stream), 0.0)
    assert ends.ends[stream][0] == 13


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP/1.1 400"),
        (b"\x15\x03\x01\x00\x02\x02\x16", "TLS"),
        (b"SSH-2.0-OpenSSH", "does not speak HTTP/2"),
        (frame(5, 4, 1, bytes(4)), "does not speak HTTP/2"),
    ],
)
def test_client_says_what_the_other_end_speaks_instead(data: bytes, words: str) -> None:
    ends = Ends()
    client = ClientConnection(ends, b"test")
    stream = client.request(b"/e", b"", end=True)
    client.receive(data, 0.0)
    assert client.closing
    assert words in client.close_reason
    assert ends.ends[stream][0] == 14
