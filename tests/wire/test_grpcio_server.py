"""ClientConnection against a real grpcio server, and against our own, over a socket."""

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from raftkv.wire.h2_client import ClientConnection
from tests.wire.serving import FAIL_TEXT, serve_in_thread

DEADLINE_SECONDS = 20.0


class Calls:
    """Collects what the connection reports."""

    def __init__(self) -> None:
        self.opened: set[int] = set()
        self.messages: dict[int, list[bytes]] = {}
        self.ends: dict[int, tuple[int, str]] = {}

    def headers(self, stream: int) -> None:
        self.opened.add(stream)

    def message(self, stream: int, message: bytes) -> None:
        self.messages.setdefault(stream, []).append(message)

    def finished(self, stream: int, code: int, text: str) -> None:
        assert stream not in self.ends
        self.ends[stream] = (code, text)


class Client:
    """Drives a ClientConnection over a blocking socket."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=DEADLINE_SECONDS)
        self.calls = Calls()
        authority = f"{address[0]}:{address[1]}".encode()
        self.connection = ClientConnection(self.calls, authority, now=time.monotonic())

    def run_until(self, done: Callable[[], bool]) -> None:
        end = time.monotonic() + DEADLINE_SECONDS
        while not done():
            assert time.monotonic() < end
            self.socket.sendall(self.connection.take_output())
            if done():
                break
            data = self.socket.recv(65536)
            assert data, "closed"
            self.connection.receive(data, time.monotonic())
            assert not self.connection.closing, self.connection.close_reason
        self.socket.sendall(self.connection.take_output())

    def finish(self, stream: int) -> tuple[tuple[int, str], list[bytes]]:
        self.run_until(lambda: stream in self.calls.ends)
        return self.calls.ends[stream], self.calls.messages.get(stream, [])

    def close(self) -> None:
        self.socket.close()


class Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The service of tests.wire.serving, on grpcio."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        def fail(request: bytes, context: grpc.ServicerContext) -> bytes:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, FAIL_TEXT)
            raise AssertionError

        def head(request: bytes, context: grpc.ServicerContext) -> bytes:
            fields = {item.key: item.value for item in context.invocation_metadata()}
            remaining = context.time_remaining()
            return b"%s|%s|%d" % (fields["token"].encode(), fields["raw-bin"], remaining)

        methods = {
            "/t.T/Echo": grpc.unary_unary_rpc_method_handler(lambda request, context: request),
            "/t.T/Fail": grpc.unary_unary_rpc_method_handler(fail),
            "/t.T/Head": grpc.unary_unary_rpc_method_handler(head),
            "/t.T/Count": grpc.unary_stream_rpc_method_handler(
                lambda request, context: iter(
                    [bytes(int(request.split()[1]))] * int(request.split()[0])
                )
            ),
            "/t.T/Bidi": grpc.stream_stream_rpc_method_handler(lambda requests, context: requests),
        }
        return methods.get(details.method)


@pytest.fixture(params=["grpcio", "gzip", "own"])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    if request.param == "own":
        with serve_in_thread() as own:
            made = Client(("127.0.0.1", own.port))
            yield made
            made.close()
        return
    compression = grpc.Compression.Gzip if request.param == "gzip" else None
    server = grpc.server(ThreadPoolExecutor(4), handlers=[Handlers()], compression=compression)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    made = Client(("127.0.0.1", port))
    yield made
    made.close()
    server.stop(None).wait(10)


def test_unary_calls_of_any_size_are_answered(client: Client) -> None:
    for size in (0, 1, 1000, 16379, 16380, 65536, 2_000_000):
        message = bytes(size)
        stream = client.connection.request(b"/t.T/Echo", message, end=True)
        assert client.finish(stream) == ((0, ""), [message])
        assert stream in client.calls.opened


def test_hundreds_of_calls_at_once_are_answered(client: Client) -> None:
    client.finish(client.connection.request(b"/t.T/Echo", b"", end=True))
    streams = {
        client.connection.request(b"/t.T/Echo", b"%d" % i, end=True): i
        for i in range(min(500, 90 if not client.connection.can_request else 500))
        if client.connection.can_request
    }
    assert len(streams) >= 90
    client.run_until(lambda: all(stream in client.calls.ends for stream in streams))
    assert {s: client.calls.messages[s] for s in streams} == {
        s: [b"%d" % i] for s, i in streams.items()
    }
    assert {client.calls.ends[s] for s in streams} == {(0, "")}


def test_a_server_stream_larger_than_the_windows_arrives_whole(client: Client) -> None:
    stream = client.connection.request(b"/t.T/Count", b"300 100000", end=True)
    end, messages = client.finish(stream)
    assert end == (0, "")
    assert [len(message) for message in messages] == [100000] * 300


def test_a_bidi_stream_goes_message_by_message(client: Client) -> None:
    stream = client.connection.request(b"/t.T/Bidi")
    for i in range(50):
        client.connection.send(stream, b"%d" % i * 1000)
        client.run_until(lambda i=i: len(client.calls.messages.get(stream, [])) > i)  # type: ignore[misc]
    client.connection.half_close(stream)
    end, messages = client.finish(stream)
    assert end == (0, "")
    assert messages == [b"%d" % i * 1000 for i in range(50)]


def test_an_error_keeps_its_code_and_its_text(client: Client) -> None:
    stream = client.connection.request(b"/t.T/Fail", b"", end=True)
    assert client.finish(stream)[0] == (9, FAIL_TEXT)


def test_an_unknown_method_is_unimplemented(client: Client) -> None:
    stream = client.connection.request(b"/t.T/Missing", b"", end=True)
    assert client.finish(stream)[0][0] == 12


def test_metadata_and_the_deadline_arrive(client: Client) -> None:
    raw = bytes(range(256))
    for _ in range(3):  # first literal, then from the table, then from the cache
        stream = client.connection.request(
            b"/t.T/Head",
            b"",
            end=True,
            metadata=[(b"token", b"secret"), (b"raw-bin", raw)],
            timeout=25.0,
        )
        end, messages = client.finish(stream)
        assert end == (0, "")
        assert b"secret" in messages[0]
        assert raw in messages[0]
        assert 20 <= int(messages[0].replace(b"=", b"|").rsplit(b"|", 1)[1]) <= 25


def test_a_call_given_up_does_not_disturb_the_next(client: Client) -> None:
    first = client.connection.request(b"/t.T/Bidi")
    client.connection.send(first, b"x")
    client.run_until(lambda: first in client.calls.messages)
    client.connection.reset(first)
    second = client.connection.request(b"/t.T/Echo", b"y", end=True)
    assert client.finish(second) == ((0, ""), [b"y"])
    assert first not in client.calls.ends
