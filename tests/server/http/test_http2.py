"""HTTP over HTTP/2 on the port of the calls: h2c with prior knowledge, and TLS with ALPN."""

import asyncio
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Event, TextMessage
from wsproto.events import Request as Handshake

from raftkv import limits
from raftkv.pb import rpc_pb2
from raftkv.wire.h2 import ConnectionLimits
from raftkv.wire.web import WebHead, WebServerConnection
from tests.server.certificates import Authority
from tests.server.harness import Client, configs, running
from tests.server.test_tls import ports, secure_node

curl = pytest.mark.skipif(shutil.which("curl") is None, reason="the curl command is needed")


def run_curl(*words: str, body: str = "") -> str:
    """What curl wrote: status and version of the answer, then its body."""
    done = subprocess.run(
        ["curl", "-sS", "-m", "30", "-w", "|%{http_code} %{http_version}", *words],
        capture_output=True,
        check=True,
        input=body,
        text=True,
        timeout=60,
    )
    return done.stdout


@curl
def test_pages_and_calls_of_the_gateway_over_http2(port: int) -> None:
    def ask(path: str, *words: str, body: str | None = None) -> str:
        url = f"http://127.0.0.1:{port}{path}"
        if body is not None:
            words = (*words, "--data-binary", "@-")
        return run_curl("--http2-prior-knowledge", *words, url, body=body or "")

    assert ask("/health") == '{"health":"true","reason":""}|200 2'
    assert ask("/nope", body="x" * 500_000) == "404 page not found\n|404 2"
    assert ask("/health", "-I").endswith("|405 2")
    value = "YWJj" * 100_000
    put = json.dumps({"key": "aDI=", "value": value})
    assert ask("/v3/kv/put", body=put).endswith('"}}|200 2')
    found = ask("/v3/kv/range", "-d", '{"key":"aDI="}')
    assert f'"value":"{value}"' in found
    assert ask("/v3/kv/range", "-d", "{").endswith("|400 2")
    assert ask("/v3/kv/range", "-d", "", "-H", "Host: evil.example").endswith("|421 2")
    assert ask("/v3/lease/keepalive", "-d", '{"ID":1}{"ID":2}').count('{"result":') == 2
    timeout = ("-H", "Grpc-Timeout: 1S")
    body = '{"create_request":{"key":"aDI=","start_revision":1}}'
    watched = ask("/v3/watch", "-d", body, *timeout)
    assert value in watched
    assert '"grpc_code":4' in watched
    assert ask("/v3/kv/put", body=json.dumps({"value": "YWJj" * 1_500_000})).endswith("|429 2")


@curl
@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_alpn_chooses_between_both_versions_and_sockets_work_over_tls(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    authority = Authority(tmp_path_factory.mktemp("certificates"))

    async def scenario() -> None:
        async with secure_node(tmp_path, authority) as node:
            port = ports(node)[0]
            url = f"https://127.0.0.1:{port}/health"
            for option, version in (("--http1.1", "1.1"), ("--http2", "2"), ("--no-alpn", "1.1")):
                words = ("--cacert", str(authority.ca), option, url)
                shown = await asyncio.to_thread(run_curl, *words)
                assert shown == f'{{"health":"true","reason":""}}|200 {version}'
            await watch_by_socket(port, authority)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(scenario())


async def watch_by_socket(port: int, authority: Authority) -> None:
    """A watch over a WebSocket over TLS: from the handshake to its closing."""
    context = authority.client(alpn=("http/1.1",))
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    protocol = WSConnection(ConnectionType.CLIENT)

    async def next_event(said: Event) -> Event:
        writer.write(protocol.send(said))
        async with asyncio.timeout(60):
            while True:
                protocol.receive_data(await reader.read(65536))
                for event in protocol.events():
                    return event

    assert isinstance(await next_event(Handshake("x", "/v3/watch")), AcceptConnection)
    created = await next_event(TextMessage('{"create_request":{"key":"YQ=="}}'))
    assert isinstance(created, TextMessage)
    assert '"created":true' in created.data
    assert isinstance(await next_event(CloseConnection(1000)), CloseConnection)
    writer.close()


def test_calls_and_requests_share_a_connection_and_ports_can_part_them(tmp_path: Path) -> None:
    """--listen-client-http-urls: gRPC on the client URLs, HTTP on the others, neither on both."""

    async def scenario() -> None:
        first = configs(1, tmp_path)[0]
        second = configs(1, tmp_path)[0]
        config = configs(1, tmp_path, listen_client_http_urls=second.listen_client_urls)[0]
        assert first.name == config.name
        async with running([config]) as nodes:
            client = await Client.connect(nodes[0])
            await client.put(b"k", b"v")
            client.close()
            grpc, web = (
                urls[0].port for urls in (config.listen_client_urls, config.listen_client_http_urls)
            )
            reader, writer = await asyncio.open_connection("127.0.0.1", grpc)
            writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", web)
            writer.write(b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert b'"etcdserver"' in await reader.read()
            writer.close()

    asyncio.run(scenario())


# --- the connection alone -----------------------------------------------------------


class Handler:
    """Notes what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[object, ...]] = []

    def unary(self, stream: int, head: object, message: bytes) -> None:
        self.heard.append(("unary", stream, message))

    def opened(self, stream: int, head: object) -> None:
        self.heard.append(("opened", stream, type(head) is WebHead))

    def message(self, stream: int, message: bytes) -> None:
        self.heard.append(("message", stream, message))

    def half_closed(self, stream: int) -> None:
        self.heard.append(("half_closed", stream))

    def cancelled(self, stream: int) -> None:
        self.heard.append(("cancelled", stream))

    def writable(self, stream: int) -> None:
        self.heard.append(("writable", stream))


def connect(max_bytes: int = limits.MIB) -> tuple[Handler, WebServerConnection, "H2"]:
    from h2.config import H2Configuration
    from h2.connection import H2Connection

    handler = Handler()
    server = WebServerConnection(
        handler, {b"/p.S/Unary"}, ConnectionLimits(max_buffered_bytes=max_bytes)
    )
    server.serve_web()
    client = H2Connection(H2Configuration(header_encoding=None))
    client.initiate_connection()
    return handler, server, H2(client, server)


class H2:
    """The h2 package as the client of a connection."""

    def __init__(self, client: object, server: WebServerConnection) -> None:
        from h2.connection import H2Connection

        assert isinstance(client, H2Connection)
        self.client = client
        self._server = server

    def exchange(self) -> list[object]:
        """Carries bytes both ways until both are silent; the client's events."""
        events: list[object] = []
        while True:
            out = self.client.data_to_send()
            if out:
                self._server.receive(out, 0.0)
            answer = self._server.take_output()
            if answer:
                events += self.client.receive_data(answer)
            elif not out:
                return events


def request_fields(
    method: bytes, path: bytes, *more: tuple[bytes, bytes]
) -> list[tuple[bytes, bytes]]:
    pseudo = [(b":method", method), (b":scheme", b"http"), (b":authority", b"a"), (b":path", path)]
    return [*pseudo, *more]


def test_requests_and_calls_are_told_apart_and_answered() -> None:
    from h2.events import DataReceived, ResponseReceived, StreamEnded

    handler, server, wire = connect()
    client = wire.client
    client.send_headers(1, request_fields(b"POST", b"/v3/x?y", (b"a", b"1"), (b"a", b"2")))
    client.send_data(1, b"some")
    client.send_data(1, b"", end_stream=True)
    grpc = (b"content-type", b"application/grpc"), (b"te", b"trailers")
    client.send_headers(3, request_fields(b"POST", b"/p.S/Unary", *grpc))
    client.send_data(3, b"\0\0\0\0\x01m", end_stream=True)
    wire.exchange()
    assert handler.heard == [
        ("opened", 1, True),
        ("message", 1, b"some"),
        ("half_closed", 1),
        ("unary", 3, b"m"),
    ]
    body = rpc_pb2.PutRequest(value=b"x" * 200_000).SerializeToString()
    server.web_head(1, [(b":status", b"200"), (b"x-y", b"z")])
    server.web_data(1, body)
    server.web_end(1, True)
    server.reply(3, b"m")
    events = wire.exchange()
    while not any(isinstance(event, StreamEnded) and event.stream_id == 1 for event in events):
        for event in [one for one in events if isinstance(one, DataReceived)]:
            client.acknowledge_received_data(
                event.flow_controlled_length or 0, event.stream_id or 1
            )
        more = wire.exchange()
        assert more
        events += more
    received = [event for event in events if isinstance(event, DataReceived)]
    assert b"".join(event.data or b"" for event in received if event.stream_id == 1) == body
    heads = [event for event in events if isinstance(event, ResponseReceived)]
    assert [(b"x-y", b"z") in (event.headers or []) for event in heads] == [True, False]
    assert server.open_streams == 0
    assert not server.closing


def test_an_early_answer_waits_with_its_end_for_the_end_of_the_request() -> None:
    from h2.events import StreamEnded, StreamReset

    _, server, wire = connect()
    wire.client.send_headers(1, request_fields(b"POST", b"/x"))
    wire.exchange()
    server.web_head(1, [(b":status", b"404")])
    server.web_end(1, True)
    assert not [one for one in wire.exchange() if isinstance(one, StreamEnded)]
    wire.client.send_data(1, b"late", end_stream=True)
    events = wire.exchange()
    assert [one for one in events if isinstance(one, StreamEnded)]
    assert not [one for one in events if isinstance(one, StreamReset)]


def test_bodies_that_are_kept_are_bounded_over_the_whole_connection() -> None:
    """O07-like: many requests, none of them complete."""
    from h2.events import StreamReset

    _, server, wire = connect(max_bytes=1000)
    for stream in (1, 3):
        wire.client.send_headers(stream, request_fields(b"POST", b"/x"))
    wire.exchange()
    assert server.web_hold(1, 600)
    assert not server.web_hold(3, 600)
    assert [one for one in wire.exchange() if isinstance(one, StreamReset)]
    assert server.web_hold(1, 400)
