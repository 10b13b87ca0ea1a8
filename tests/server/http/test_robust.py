"""HTTP under bad conditions: bytes at random, and members without the others."""

import asyncio
import json
import random
from pathlib import Path

import pytest

from tests.server.harness import Client, configs, replica_of, running, until
from tests.server.http.asking import request
from tests.server.logged import Lines

WHOLE = (
    request("/v3/kv/put", '{"key":"YQ==","value":"Yg=="}'),
    request("/v3/kv/range", '{"key":"YQ==","limit":"1"}', headers="Expect: 100-continue\r\n"),
    request("/v3/watch", '{"create_request":{"key":"YQ=="}}{"progress_request":{}}'),
    request("/v3/lease/keepalive", '{"ID":"1"}{"ID":2}', headers="Grpc-Timeout: 1S\r\n"),
    request("/health?serializable=true", method="GET"),
    b"POST /v3/watch HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'21\r\n{"create_request":{"key":"YQ=="}}\r\n0\r\n\r\n',
    request(
        "/v3/watch",
        method="GET",
        headers="Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    )
    + b"\x81\x84\x00\x00\x00\x00{}{}\x88\x80\x00\x00\x00\x00",
)
CONNECTIONS = 400


def damaged(random_: random.Random) -> bytes:
    """Some requests one behind the other, with bytes changed, taken out, doubled or cut off."""
    data = bytearray(b"".join(random_.choices(WHOLE, k=random_.randrange(1, 4))))
    for _ in range(random_.randrange(4)):
        at = random_.randrange(4, len(data))
        kind = random_.randrange(4)
        if kind == 0:
            data[at] = random_.randrange(256)
        elif kind == 1:
            del data[at : at + random_.randrange(1, 20)]
        elif kind == 2:
            data[at:at] = data[at : at + random_.randrange(1, 20)]
        else:
            del data[at:]
        if len(data) < 8:
            break
    return bytes(data)


@pytest.mark.parametrize("seed", [7, 9])
def test_damaged_requests_never_trouble_the_member(tmp_path: Path, lines: Lines, seed: int) -> None:
    """O12: whatever comes in, other clients are served and nothing is left behind."""
    random_ = random.Random(seed)

    async def throw(port: int, data: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for at in range(0, len(data), size := random_.choice((1_000, 30))):
            writer.write(data[at : at + size])
            await asyncio.sleep(0)
        try:
            if random_.random() < 0.5:
                writer.write_eof()
            async with asyncio.timeout(0.05):
                await reader.read()
        except (TimeoutError, OSError):
            pass
        writer.transport.abort()

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as nodes:
            port = nodes[0].config.listen_client_urls[0].port
            clients, driver = nodes[0].clients, nodes[0].driver
            assert clients is not None
            assert driver is not None
            for _ in range(CONNECTIONS // 20):
                await asyncio.gather(*(throw(port, damaged(random_)) for _ in range(20)))
            client = await Client.connect(nodes[0])
            await client.put(b"alive", b"yes")
            client.close()
            await until(lambda: len(clients) == 0, 30)
            assert clients.open_calls == 0
            assert driver.watches.watches.count == 0
            assert not clients.routes._calls

    asyncio.run(scenario())
    assert not lines.broken()


async def page(port: int, path: str) -> tuple[int, bytes]:
    """Status and body of a page."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request(path, method="GET", headers="Connection: close\r\n"))
    async with asyncio.timeout(60):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split()[1]), body


def test_a_member_without_the_others_is_alive_but_neither_healthy_nor_ready(
    tmp_path: Path,
) -> None:
    """O15."""

    async def scenario() -> None:
        async with running(configs(3, tmp_path)) as nodes:
            ports = [node.config.listen_client_urls[0].port for node in nodes]
            answers = await asyncio.gather(*(page(port, "/health") for port in ports))
            assert answers == [(200, b'{"health":"true","reason":""}')] * 3
            await nodes[1].stop()
            assert (await page(ports[0], "/readyz"))[0] == 200
            await nodes[2].stop()
            await until(lambda: not replica_of(nodes[0]).leader)
            status, body = await page(ports[0], "/health")
            assert (status, json.loads(body)["reason"]) == (503, "RAFT NO LEADER")
            assert (await page(ports[0], "/health?serializable=true"))[0] == 200
            assert await page(ports[0], "/livez") == (200, b"ok\n")
            excluded = "/readyz?exclude=linearizable_read"
            assert await page(ports[0], excluded) == (200, b"ok\n")
            status, body = await page(ports[0], "/readyz")
            assert status == 503
            assert b"[-]linearizable_read failed: etcdserver: " in body
            status, body = await page(ports[0], "/metrics")
            assert (status, b"\netcd_server_has_leader 0\n" in body) == (200, True)

    asyncio.run(scenario())


@pytest.mark.parametrize("enabled", [True, False])
def test_the_gateway_can_be_turned_off(tmp_path: Path, enabled: bool) -> None:
    """--enable-grpc-gateway=false: the other pages stay."""

    async def scenario() -> None:
        async with running(configs(1, tmp_path, enable_grpc_gateway=enabled)) as nodes:
            port = nodes[0].config.listen_client_urls[0].port
            assert (await page(port, "/v3/kv/range"))[0] == (405 if enabled else 404)
            assert (await page(port, "/v3"))[0] == (301 if enabled else 404)
            assert (await page(port, "/health"))[0] == 200

    asyncio.run(scenario())
