"""Real grpcio clients, sync and asyncio, against ServerConnection on a socket."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import grpc.aio
import pytest

from raftkv.wire.h2 import ConnectionLimits
from tests.wire.serving import FAIL_TEXT, Server, serve_in_thread

BIG = 2 * 1024 * 1024


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve_in_thread() as running:
        yield running


@pytest.fixture
def channel(server: Server) -> Iterator[grpc.Channel]:
    options = [("grpc.max_receive_message_length", 64 * 1024 * 1024)]
    with grpc.insecure_channel(server.address, options) as made:
        yield made


def test_unary_calls_give_back_what_was_sent(channel: grpc.Channel) -> None:
    echo = channel.unary_unary("/t.T/Echo")
    for size in (0, 1, 5, 1000, 16379, 16380, 65536, BIG):
        message = bytes(size)
        assert echo(message, timeout=20) == message


def test_many_concurrent_unary_calls_each_get_their_own_answer(channel: grpc.Channel) -> None:
    echo = channel.unary_unary("/t.T/Echo")
    futures = [echo.future(b"%d" % i * (i % 97), timeout=20) for i in range(2000)]
    assert [future.result() for future in futures] == [b"%d" % i * (i % 97) for i in range(2000)]


def test_large_unary_calls_interleaved_on_one_connection_all_finish(channel: grpc.Channel) -> None:
    echo = channel.unary_unary("/t.T/Echo")
    messages = [bytes([i]) * 1_500_000 for i in range(12)]
    futures = [echo.future(message, timeout=30) for message in messages]
    assert [future.result() for future in futures] == messages


def test_a_server_stream_larger_than_every_window_arrives_whole(channel: grpc.Channel) -> None:
    count = channel.unary_stream("/t.T/Count")
    sizes = [len(message) for message in count(b"300 100000", timeout=30)]
    assert sizes == [100000] * 300


def test_a_client_stream_is_summed(channel: grpc.Channel) -> None:
    total = channel.stream_unary("/t.T/Sum")
    assert total((bytes(i * 1000) for i in range(100)), timeout=20) == b"4950000"


def test_a_bidi_stream_answers_message_by_message(channel: grpc.Channel) -> None:
    bidi = channel.stream_stream("/t.T/Bidi")
    messages = [bytes([i % 256]) * (i * 37 % 5000) for i in range(300)]
    assert list(bidi(iter(messages), timeout=20)) == messages


def test_response_headers_of_a_silent_stream_arrive_at_once(channel: grpc.Channel) -> None:
    call = channel.stream_stream("/t.T/Bidi")(iter(lambda: None, 1), timeout=20)
    assert call.initial_metadata() is not None
    call.cancel()


def test_an_error_keeps_its_code_its_text_and_its_trailing_metadata(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/t.T/Fail")(b"", timeout=20)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details() == FAIL_TEXT
    trailing = {item.key: item.value for item in caught.value.trailing_metadata()}
    assert trailing == {"reason": "because", "detail-bin": b"\x00\x01\xff"}


def test_metadata_and_the_deadline_arrive(channel: grpc.Channel) -> None:
    metadata = [("token", "abc.def"), ("raw-bin", bytes(range(256))), ("many", "a"), ("many", "b")]
    answer = channel.unary_unary("/t.T/Head")(b"", timeout=30, metadata=metadata)
    lines = answer.split(b"\n")
    assert b"token=abc.def" in lines
    assert b"raw-bin=" + bytes(range(256)) in answer
    assert b"many=a,b" in lines
    assert 25 <= int(answer.rsplit(b"timeout=", 1)[1]) <= 30


def test_a_deadline_ends_the_call_on_both_sides(server: Server, channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/t.T/Never")(b"", timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert channel.unary_unary("/t.T/Echo")(b"after", timeout=20) == b"after"
    assert any(event[0] == "cancelled" for event in server.events())


def test_an_unknown_method_is_unimplemented(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/t.T/Missing")(b"x", timeout=20)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_gzip_requests_are_understood(channel: grpc.Channel) -> None:
    echo = channel.unary_unary("/t.T/Echo")
    message = b"again and again " * 10000
    assert echo(message, timeout=20, compression=grpc.Compression.Gzip) == message


def test_an_unknown_compression_is_unimplemented(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/t.T/Echo")(
            b"x" * 999, timeout=20, compression=grpc.Compression.Deflate
        )
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_message_above_the_limit_is_refused_with_grpc_go_s_words(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/t.T/Echo")(bytes(BIG + 8), timeout=20)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.details() == (
        "grpc: received message larger than max (2097160 vs. 2097152)"
    )
    assert channel.unary_unary("/t.T/Echo")(b"after", timeout=20) == b"after"


def test_calls_above_the_stream_limit_wait_and_then_succeed() -> None:
    with (
        serve_in_thread(ConnectionLimits(max_concurrent_streams=3)) as few,
        grpc.insecure_channel(few.address) as channel,
        ThreadPoolExecutor(1),
    ):
        echo = channel.unary_unary("/t.T/Echo")
        futures = [echo.future(b"%d" % i, timeout=20) for i in range(200)]
        assert [future.result() for future in futures] == [b"%d" % i for i in range(200)]


def test_aio_client_uses_every_kind_of_call(server: Server) -> None:
    async def run() -> None:
        async with grpc.aio.insecure_channel(server.address) as channel:
            echo = channel.unary_unary("/t.T/Echo")
            answers = await asyncio.gather(*(echo(b"%d" % i, timeout=20) for i in range(500)))
            assert answers == [b"%d" % i for i in range(500)]
            sizes = [len(m) async for m in channel.unary_stream("/t.T/Count")(b"50 50000")]
            assert sizes == [50000] * 50
            bidi = channel.stream_stream("/t.T/Bidi")(timeout=20)
            for i in range(100):
                await bidi.write(b"%d" % i)
                assert await bidi.read() == b"%d" % i
            await bidi.done_writing()
            assert await bidi.read() is grpc.aio.EOF
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/t.T/Fail")(b"")
            assert caught.value.details() == FAIL_TEXT

    asyncio.run(run())
