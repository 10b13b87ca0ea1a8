"""TLS at both ports: what is let in, what is not, and the one line that says why."""

import asyncio
import json
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from raftkv import limits
from raftkv.config import ServerConfig, TlsFiles, parse_url
from raftkv.pb import rpc_pb2
from raftkv.server.logformats import JsonFormatter
from raftkv.server.node import Node
from tests.server.certificates import Authority
from tests.server.harness import configs, replica_of, running, until
from tests.server.logged import Lines


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates") / "ours")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates") / "strangers")


def secured(config: ServerConfig, client: TlsFiles | None, peer: TlsFiles | None) -> ServerConfig:
    """The same member with https URLs wherever there are certificates."""

    def https(url: Any) -> Any:
        return parse_url(str(url).replace("http://", "https://"))

    if client is not None:
        urls = tuple(https(url) for url in config.listen_client_urls)
        config = replace(
            config, client_tls=client, listen_client_urls=urls, advertise_client_urls=urls
        )
    if peer is not None:
        urls = tuple(https(url) for url in config.listen_peer_urls)
        cluster = {
            name: tuple(str(https(url)) for url in some)
            for name, some in config.initial_cluster.items()
        }
        config = replace(
            config,
            peer_tls=peer,
            listen_peer_urls=urls,
            initial_advertise_peer_urls=urls,
            initial_cluster=cluster,
        )
    return config


@asynccontextmanager
async def secure_node(
    path: Path, authority: Authority, *, demand: bool = False
) -> AsyncIterator[Node]:
    """A single member with TLS at both ports."""
    files = authority.files("node", demand=demand)
    async with running([secured(configs(1, path)[0], files, files)]) as nodes:
        yield nodes[0]


def ports(node: Node) -> list[int]:
    """The client port and the peer port."""
    return [node.config.listen_client_urls[0].port, node.config.listen_peer_urls[0].port]


async def put(node: Node, authority: Authority, name: str | None = None) -> None:
    """A put with grpcio over TLS."""
    cert, key = authority.certificate(name) if name else (None, None)
    credentials = grpc.ssl_channel_credentials(
        authority.ca.read_bytes(),
        key.read_bytes() if key else None,
        cert.read_bytes() if cert else None,
    )
    async with grpc.aio.secure_channel(f"127.0.0.1:{ports(node)[0]}", credentials) as channel:
        call = channel.unary_unary(
            "/etcdserverpb.KV/Put",
            request_serializer=rpc_pb2.PutRequest.SerializeToString,
            response_deserializer=rpc_pb2.PutResponse.FromString,
        )
        # A handshake that a busy machine did not get done in time is tried again.
        await call(rpc_pb2.PutRequest(key=b"k", value=b"v"), timeout=60, wait_for_ready=True)


async def throw(port: int, data: bytes, context: ssl.SSLContext | None = None) -> bytes:
    """Sends bytes and returns what comes back until the server closes."""
    answer = b""
    async with asyncio.timeout(60):
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        except OSError:
            return answer
        try:
            writer.write(data)
            while piece := await reader.read(65536):
                answer += piece
        except OSError:
            pass
        finally:
            writer.transport.abort()
    return answer


def shake_hands(port: int, context: ssl.SSLContext) -> None:
    """A handshake with a blocking socket, which says goodbye with an alert as most clients do."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1"),
    ):
        pass


def test_three_members_talk_over_tls_with_certificates_demanded_on_both_ports(
    tmp_path: Path, authority: Authority, lines: Lines
) -> None:
    async def scenario() -> None:
        files = authority.files("node", demand=True)
        async with running([secured(one, files, files) for one in configs(3, tmp_path)]) as nodes:
            for node in nodes:
                await put(node, authority, "client")
            applied = max(replica_of(node).machine.applied_index for node in nodes)
            await until(
                lambda: all(replica_of(node).machine.applied_index >= applied for node in nodes)
            )

    asyncio.run(scenario())
    assert not lines.rejected()
    assert not lines.broken()


def test_the_server_offers_h2_by_alpn_and_shows_its_certificate(
    tmp_path: Path, authority: Authority
) -> None:
    async def scenario() -> None:
        async with secure_node(tmp_path, authority) as node:
            for port in ports(node):
                context = authority.client(alpn=("http/1.1", "h2"))
                _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
                channel = writer.get_extra_info("ssl_object")
                assert channel.selected_alpn_protocol() == "h2"
                assert channel.version() in ("TLSv1.2", "TLSv1.3")
                writer.transport.abort()

    asyncio.run(scenario())


@pytest.mark.parametrize("port", [0, 1], ids=["client", "peer"])
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "an HTTP request without TLS on a TLS port"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "bytes that are no TLS handshake on a TLS port"),
        (b"\x00" * 64, "bytes that are no TLS handshake on a TLS port"),
        (b"\x16\x03\x01\x00\x05hello" + b"x" * 100, "a TLS handshake that failed"),
    ],
    ids=["http1", "http2", "zeros", "broken-hello"],
)
def test_plain_text_to_a_tls_port_is_closed_with_one_line(
    tmp_path: Path, authority: Authority, lines: Lines, port: int, data: bytes, reason: str
) -> None:
    async def scenario() -> None:
        async with secure_node(tmp_path, authority) as node:
            await throw(ports(node)[port], data)
            await until(lines.rejected)
            await put(node, authority)

    asyncio.run(scenario())
    assert len(lines.rejected()) == 1
    assert reason in lines.rejected()[0]
    assert not lines.broken()


@pytest.mark.parametrize("port", [0, 1], ids=["client", "peer"])
def test_tls_to_a_plain_port_is_closed_with_one_line(
    tmp_path: Path, authority: Authority, lines: Lines, port: int
) -> None:
    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as nodes:
            await throw(ports(nodes[0])[port], b"", authority.client())
            await until(lines.rejected)

    asyncio.run(scenario())
    assert lines.rejected() == ["a TLS handshake on a port without TLS"]
    assert not lines.broken()


@pytest.mark.parametrize("port", [0, 1], ids=["client", "peer"])
def test_a_client_without_an_accepted_certificate_is_closed_with_one_line(
    tmp_path: Path, authority: Authority, stranger: Authority, lines: Lines, port: int
) -> None:
    async def scenario() -> None:
        async with secure_node(tmp_path, authority, demand=True) as node:
            assert await throw(ports(node)[port], b"hello", authority.client()) == b""
            await until(lambda: len(lines.rejected()) == 1)
            foreign = stranger.client("client", trust=authority.ca)
            assert await throw(ports(node)[port], b"hello", foreign) == b""
            await until(lambda: len(lines.rejected()) == 2)
            await put(node, authority, "client")

    asyncio.run(scenario())
    first, second = lines.rejected()
    assert first == "no client certificate, and this port demands one"
    assert second.startswith("a client certificate that is not accepted:")
    assert not lines.broken()


def test_a_client_that_trusts_another_ca_is_named_as_the_one_who_refused(
    tmp_path: Path, authority: Authority, stranger: Authority, lines: Lines
) -> None:
    async def scenario() -> None:
        async with secure_node(tmp_path, authority) as node:
            with pytest.raises(ssl.SSLCertVerificationError):
                await asyncio.to_thread(shake_hands, ports(node)[0], stranger.client())
            await until(lines.rejected)
            await put(node, authority)

    asyncio.run(scenario())
    assert len(lines.rejected()) == 1
    assert "the client refused this server's certificate" in lines.rejected()[0]
    assert not lines.broken()


def test_http1_over_tls_gets_an_answer_that_a_person_can_read(
    tmp_path: Path, authority: Authority, lines: Lines
) -> None:
    """From a peer that says nothing by ALPN: only its first words show what it speaks."""

    async def scenario() -> None:
        async with secure_node(tmp_path, authority) as node:
            context = authority.client(alpn=())
            request = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"
            answer = await throw(ports(node)[1], request, context)
            assert answer.startswith(b"HTTP/1.1 400 ")
            await put(node, authority)

    asyncio.run(scenario())
    assert lines.rejected() == ["an HTTP/1 request on a gRPC port: 'GET /version HTTP/1.1'"]
    assert not lines.broken()


@pytest.mark.parametrize("port", [0, 1], ids=["client", "peer"])
def test_half_done_handshakes_and_silence_end_at_the_deadline(
    tmp_path: Path,
    authority: Authority,
    lines: Lines,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """O04, O05: nothing sent, half a hello, or a hello byte by byte; all end together."""
    monkeypatch.setattr(limits, "HANDSHAKE_SECONDS", 1.0)

    async def trickle(number: int) -> None:
        hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
        reader, writer = await asyncio.open_connection("127.0.0.1", number)
        reading = asyncio.ensure_future(reader.read())
        for byte in hello:
            if not reading.done():
                writer.write(bytes([byte]))
                await asyncio.wait([reading], timeout=0.1)
        async with asyncio.timeout(60):
            await asyncio.gather(reading, return_exceptions=True)
        writer.transport.abort()

    async def scenario() -> None:
        async with secure_node(tmp_path, authority) as node:
            number = ports(node)[port]
            started = asyncio.get_running_loop().time()
            silent = [throw(number, b"") for _ in range(50)]
            half = throw(number, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
            await asyncio.gather(*silent, half, trickle(number), put(node, authority))
            assert asyncio.get_running_loop().time() - started > 0.95

    asyncio.run(scenario())
    assert set(lines.rejected()) == {"no TLS handshake within 1 s"}
    assert len(lines.rejected()) == 1  # the other fifty are not worth a line each
    assert not lines.broken()


def test_a_peer_with_a_certificate_of_another_ca_is_refused_on_both_sides_without_a_flood(
    tmp_path: Path, authority: Authority, stranger: Authority, lines: Lines
) -> None:
    def dialled() -> list[str]:
        return [one.getMessage() for one in lines.records if "no connection" in one.getMessage()]

    def untrusted(text: str) -> bool:
        return "CERTIFICATE_VERIFY_FAILED" in text

    async def scenario() -> None:
        plain = configs(3, tmp_path)
        ours = authority.files("node", demand=True)
        theirs = stranger.files("node", demand=True)
        async with running([secured(one, None, ours) for one in plain]) as nodes:
            await nodes[2].stop()
            survivors = nodes[:2]
            await until(lambda: any(replica_of(node).is_leader for node in survivors))
            lines.records.clear()
            changed = Node(secured(plain[2], None, theirs))
            await changed.start()
            await until(lambda: lines.rejected() and any(map(untrusted, dialled())))
            await asyncio.sleep(1.0)  # some more attempts
            assert not replica_of(changed).leader  # nobody talks to it
            assert any(replica_of(node).is_leader for node in survivors)
            await changed.stop()

    asyncio.run(scenario())
    assert set(lines.rejected()) == {
        "a connection that closed before its TLS handshake was complete"
    }
    # Three members log here: each says a reason once per member, not once per attempt.
    assert len(dialled()) + len(lines.rejected()) <= 14
    assert not lines.broken()


def test_fields_of_a_rejection_are_one_line_of_json() -> None:
    fields = {"name": "raftkv.tls", "module": "tls", "msg": "rejected", "error": "two\nlines"}
    record = logging.makeLogRecord(fields)
    text = JsonFormatter().format(record)
    assert "\n" not in text
    assert json.loads(text)["error"] == "two\nlines"
