"""ALPN at a TLS port: h2, nothing, or an alert."""

import asyncio
import random
import shutil
import ssl
import subprocess
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from raftkv.server.hello import NO_APPLICATION_PROTOCOL, offered_protocols
from raftkv.server.node import Node
from tests.server.certificates import Authority
from tests.server.harness import Client, until
from tests.server.logged import Lines
from tests.server.test_tls import ports, put, secure_node, shake_hands

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates") / "ours")


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Both event loops: a server runs on uvloop."""
    return request.param  # type: ignore[no-any-return]


class Bytes:
    """The client's half of a handshake without a socket."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.channel = context.wrap_bio(self.incoming, self.outgoing, server_hostname="127.0.0.1")

    def step(self) -> bool:
        """Goes on with the handshake. Returns True when it is done."""
        try:
            self.channel.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True


def hello(context: ssl.SSLContext) -> bytes:
    """The first bytes of a client."""
    one = Bytes(context)
    one.step()
    return one.outgoing.read()


async def client_of(node: Node, context: ssl.SSLContext) -> Client:
    """A gRPC client over TLS."""
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(Client, "127.0.0.1", ports(node)[0], ssl=context)
    return client


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("port", [0, 1], ids=["client", "peer"])
def test_an_offer_of_nothing_that_is_served_fails_with_the_alert_that_says_so(
    tmp_path: Path,
    authority: Authority,
    lines: Lines,
    run: Run,
    port: int,
    version: ssl.TLSVersion,
) -> None:
    async def scenario() -> None:
        async with secure_node(tmp_path, authority) as node:
            context = authority.client(alpn=("http/1.0", "h3"))
            context.maximum_version = version
            for _ in range(3):
                with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
                    await asyncio.to_thread(shake_hands, ports(node)[port], context)
            await until(lines.rejected)
            await put(node, authority)

    run(scenario())
    served = "h2" if port else "h2 or http/1.1"
    assert lines.rejected() == [f"a client that offers http/1.0, h3 by ALPN, but not {served}"]
    assert not lines.broken()


@pytest.mark.parametrize("alpn", [(), ("h2",), ("http/1.1", "h2")], ids=["none", "h2", "both"])
def test_a_client_that_offers_h2_or_nothing_is_served(
    tmp_path: Path, authority: Authority, lines: Lines, run: Run, alpn: tuple[str, ...]
) -> None:
    async def scenario() -> None:
        async with secure_node(tmp_path, authority) as node:
            client = await client_of(node, authority.client(alpn=alpn))
            await client.put(b"k", b"v" * 100_000)
            assert (await client.get(b"k")).kvs[0].value == b"v" * 100_000
            client.close()

    run(scenario())
    assert not lines.rejected()
    assert not lines.broken()


def test_a_hello_in_small_pieces_is_put_together(
    tmp_path: Path, authority: Authority, lines: Lines, run: Run
) -> None:
    async def scenario() -> None:
        async with secure_node(tmp_path, authority) as node:
            reader, writer = await asyncio.open_connection("127.0.0.1", ports(node)[0])
            one = Bytes(authority.client())
            one.step()
            data = one.outgoing.read()
            for at in range(0, len(data), 50):
                writer.write(data[at : at + 50])
                await writer.drain()
                await asyncio.sleep(0.001)
            async with asyncio.timeout(60):
                while not one.step():
                    one.incoming.write(await reader.read(65536))
            writer.write(one.outgoing.read())
            assert one.channel.selected_alpn_protocol() == "h2"
            writer.transport.abort()
            await put(node, authority)

    run(scenario())
    assert not lines.broken()


def test_curl_sees_the_alert_where_there_is_no_http_and_is_served_where_there_is(
    tmp_path: Path, authority: Authority, lines: Lines, run: Run
) -> None:
    assert shutil.which("curl"), "the curl command is needed"

    async def scenario() -> None:
        async with secure_node(tmp_path, authority) as node:
            url = f"https://127.0.0.1:{ports(node)[0]}/etcdserverpb.Maintenance/Status"

            def curl(*words: str) -> subprocess.CompletedProcess[bytes]:
                told = ["-sS", "-m", "10", "--cacert", str(authority.ca), "-o", "/dev/null"]
                shown = ["-w", "%{http_version} %{http_code}"]
                return subprocess.run(
                    ["curl", *told, *shown, *words, url], capture_output=True, check=False
                )

            one = await asyncio.to_thread(curl, "--http1.1")
            assert one.stdout == b"1.1 404", one
            url = url.replace(f":{ports(node)[0]}/", f":{ports(node)[1]}/")
            one = await asyncio.to_thread(curl, "--http1.1")
            assert one.returncode == 35
            assert b"no application protocol" in one.stderr
            url = url.replace(f":{ports(node)[1]}/", f":{ports(node)[0]}/")
            grpc = ("-H", "content-type: application/grpc", "-H", "te: trailers")
            two = await asyncio.to_thread(curl, "-X", "POST", "--data-binary", "", *grpc)
            assert two.stdout == b"2 200", two

    run(scenario())
    assert len(lines.rejected()) == 1
    assert not lines.broken()


# --- the hello alone ------------------------------------------------------------


@pytest.mark.parametrize("alpn", [(), ("h2",), ("http/1.1",), ("a", "b" * 255, "h2")])
def test_the_offer_is_read_from_any_prefix_that_holds_the_first_record(
    alpn: tuple[str, ...],
) -> None:
    context = ssl.create_default_context()
    if alpn:
        context.set_alpn_protocols(list(alpn))
    data = hello(context)
    for length in range(len(data)):
        assert offered_protocols(data[:length]) is None
    expected = [name.encode() for name in alpn]
    assert offered_protocols(data) == expected
    assert offered_protocols(data + b"more") == expected


def test_what_is_no_hello_is_no_offer() -> None:
    for data in (b"GET / HTTP/1.1\r\n", b"\x00", b"\x16\x03\x01\xff\xff", b"\x15\x03\x03\x00\x02"):
        assert offered_protocols(data) == []
    assert offered_protocols(b"\x16\x03\x01\x00\x05hello") == []
    assert offered_protocols(b"") is None


def test_a_damaged_hello_is_read_without_an_error() -> None:
    """O12"""
    source = random.Random(5)
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    data = hello(context)
    for _ in range(5000):
        bad = bytearray(data)
        for _ in range(source.randint(1, 8)):
            bad[source.randrange(len(bad))] = source.randrange(256)
        found = offered_protocols(bytes(bad))
        assert found is None or all(type(name) is bytes for name in found)


def test_the_alert_is_what_its_bytes_say() -> None:
    one = Bytes(ssl.create_default_context())
    one.step()
    one.incoming.write(NO_APPLICATION_PROTOCOL)
    with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
        one.step()
