"""HTTP/1 on the client port: how bytes become requests, and what bounds them.

What etcd does the same way is compared with it in tests/interop/test_gateway.py.
"""

import asyncio
import json
import socket
from pathlib import Path

import pytest

from raftkv import limits
from raftkv.pb import rpc_pb2
from tests.server.harness import Client, configs, replica_of, running, until
from tests.server.http.asking import Wire, ask, get, post, request

PUT = '{"key":"YQ==","value":"Yg=="}'


def test_pipelined_requests_are_answered_in_order(port: int) -> None:
    with Wire(port) as wire:
        bodies = [json.dumps({"key": "cGlwZQ==", "value": "eHh4" * n}) for n in range(1, 100)]
        wire.send(b"".join(request("/v3/kv/put", body) for body in bodies))
        wire.send(request("/health", method="GET"))
        revisions = [json.loads(wire.answer().body)["header"]["revision"] for _ in bodies]
        assert revisions == sorted(revisions, key=int)
        assert len(set(revisions)) == len(bodies)
        assert b'"health":"true"' in wire.answer().body


def test_a_request_may_come_byte_by_byte(port: int) -> None:
    with Wire(port) as wire:
        for byte in request("/v3/kv/put", PUT, headers="Expect: 100-continue\r\n"):
            wire.send(bytes((byte,)))
        assert wire.answer().code == 200


def test_a_client_that_says_no_more_still_gets_a_short_answer(port: int) -> None:
    with Wire(port) as wire:
        wire.send(request("/v3/kv/put", PUT))
        wire.half_close()
        assert wire.answer().code == 200
        assert wire.rest() == b""


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /health HTTP/3.1\r\nHost: x\r\n\r\n", 400),
        (b"FOO /health HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nBad header\r\n\r\n", 400),
        (
            b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            400,  # two lengths: requests would be smuggled past a proxy that believes the other
        ),
        (
            b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            400,
        ),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 70_000 + b"\r\n\r\n", 431),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 300_000, 431),
    ],
)
def test_what_is_no_request_is_refused_and_closed(port: int, data: bytes, status: int) -> None:
    """O12."""
    with Wire(port) as wire:
        wire.send(data)
        assert wire.answer().code == status
        assert wire.rest() == b""
    assert get(port, "/health").code == 200


def test_bodies_are_bounded(port: int) -> None:
    """A body that could be no message is refused before it is complete."""
    with Wire(port) as wire:
        size = 64 * limits.MIB
        wire.send(
            b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
            + b'{"key":"'
        )
        try:
            for _ in range(16):
                wire.send(b"YWJj" * 65_536)
        except OSError:
            pass
        answer = wire.answer()
    assert answer.code == 429
    assert b"received message larger than max" in answer.body


def test_what_is_pipelined_behind_a_stream_is_bounded(port: int) -> None:
    """A stream has no end, so whatever waits behind it would wait for ever."""
    with Wire(port) as wire:
        wire.send(request("/v3/watch", '{"create_request":{"key":"YQ=="}}'))
        assert wire.head()[0] == "HTTP/1.1 200 OK"
        wire.chunk()
        start = b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n"
        with pytest.raises(OSError):
            wire.send(start + b"x" * 64 * limits.MIB)


def test_large_pipelined_requests_wait_for_their_turn(port: int) -> None:
    value = "eHh4" * 80_000
    put = request("/v3/kv/put", json.dumps({"key": "cGlwZQ==", "value": value}))
    with Wire(port) as wire:
        for _ in range(3):
            wire.send(put * 3)
            assert [wire.answer().code for _ in range(3)] == [200] * 3


@pytest.mark.parametrize("path", ["/v3/watch", "/v3/lease/keepalive", "/v3/maintenance/snapshot"])
def test_the_messages_of_streams_are_bounded(port: int, path: str) -> None:
    with Wire(port) as wire:
        wire.send(
            b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n" % path.encode()
            + b'{"create_request":{"key":"'
        )
        try:
            for _ in range(24):
                wire.send(b"YWJj" * 65_536)
        except OSError:
            pass
        status, _ = wire.head()
        assert status.split()[1] == "429"


def test_two_hosts_and_scripts_of_other_origins_are_refused_as_told(port: int) -> None:
    """X15."""
    refused = ask(port, request("/health", method="GET", host="evil.example"))
    assert refused.code == 421
    assert b"--host-whitelist" in refused.body
    for host in ("x", "x:80", "localhost:1", "127.0.0.1"):
        assert ask(port, request("/health", method="GET", host=host)).code == 200
    one = get(port, "/health", "Origin: http://two.example\r\n")
    assert one.headers["access-control-allow-origin"] == "http://two.example"
    other = get(port, "/health", "Origin: http://evil.example\r\n")
    assert "access-control-allow-origin" not in other.headers
    assert other.code == 403
    assert b"--cors" in other.body


def test_a_method_without_a_path_of_etcds_has_that_of_grpc(port: int) -> None:
    answer = post(port, "/grpc.health.v1.Health/Check", "{}")
    assert (answer.code, answer.body) == (200, b'{"status":"SERVING"}')
    assert post(port, "/raftkv.v1.Inspect/Inspect", "").code == 200
    lines = post(port, "/etcdserverpb.KV/RangeStream", '{"key":"AA==","range_end":"AA=="}')
    assert b'{"result":{"range_response":{' in lines.body
    assert post(port, "/raftkv.v1.Nothing/Nothing", "{}").code == 404


def test_metadata_of_a_call_comes_in_headers(port: int) -> None:
    """A session's writes, by headers: the second one is the same write again."""
    opened = json.loads(post(port, "/raftkv.v1.Sessions/OpenSession", '{"ttl":60}').body)
    session = opened["session"]
    headers = "".join(
        f"Grpc-Metadata-Raftkv-{name}: {value}\r\n"
        for name, value in (("Session", session), ("Sequence", 1), ("Unanswered", 1))
    )
    first, second = (post(port, "/v3/kv/put", PUT, headers).body for _ in range(2))
    assert first == second
    assert post(port, "/v3/kv/range", '{"key":"YQ=="}', headers).code == 400


def test_the_metrics_port_serves_what_watches_a_member(port: int, metrics_port: int) -> None:
    for path in ("/health", "/livez", "/readyz", "/metrics"):
        assert get(metrics_port, path).code == 200
    for path in ("/version", "/v3/kv/range", "/"):
        assert get(metrics_port, path).code == 404
    metrics = get(metrics_port, "/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b"\netcd_server_has_leader 1" in metrics.body


def test_calls_of_the_gateway_count_as_calls(port: int) -> None:
    wanted = b'grpc_code="OK",grpc_method="LeaseGrant"'

    def counted() -> int:
        lines = get(port, "/metrics").body.splitlines()
        found = [one for one in lines if wanted in one and b"handled_total" in one]
        return sum(int(float(one.rpartition(b" ")[2])) for one in found)

    before = counted()
    assert post(port, "/v3/lease/grant", '{"TTL":60}').code == 200
    assert counted() == before + 1


# --- in this process --------------------------------------------------------------


async def until_closed(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(60):
        return await reader.read()


def test_slow_heads_bodies_and_idle_connections_end_at_their_deadlines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """O05: slow loris."""
    for name in ("HANDSHAKE_SECONDS", "HTTP_BODY_SECONDS", "HTTP_IDLE_SECONDS"):
        monkeypatch.setattr(limits, name, 0.3)

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as nodes:
            number = nodes[0].config.listen_client_urls[0].port

            async def answer_to(data: bytes) -> bytes:
                reader, writer = await asyncio.open_connection("127.0.0.1", number)
                writer.write(data)
                answer = await until_closed(reader)
                writer.close()
                return answer

            head, body, idle = await asyncio.gather(
                answer_to(b"GET /health HTTP/1.1\r\nHost: x\r\n"),
                answer_to(b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"),
                answer_to(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"),
            )
            assert head.startswith(b"HTTP/1.1 408 ")
            assert body.startswith(b"HTTP/1.1 408 ")
            assert idle.startswith(b"HTTP/1.1 200 ")

    asyncio.run(scenario())


def test_a_slow_watcher_costs_bounded_memory_and_misses_nothing(tmp_path: Path) -> None:
    """O11, W-series: what it has not read waits in the store, not in this member's memory."""

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as nodes:
            number = nodes[0].config.listen_client_urls[0].port
            slow = socket.create_connection(("127.0.0.1", number))
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            body = '{"create_request":{"key":"cw=="}}'
            slow.sendall(request("/v3/watch", body))
            watches = nodes[0].driver.watches.watches  # type: ignore[union-attr]
            await until(lambda: watches.count == 1, 20)
            reader, writer = await asyncio.open_connection("127.0.0.1", number)
            value = "eHh4" * 32_768
            put = request("/v3/kv/put", json.dumps({"key": "cw==", "value": value}))
            for _ in range(120):
                writer.write(put)
                await reader.readuntil(b"\r\n\r\n")
                await reader.readuntil(b"}}")
            assert nodes[0].clients is not None
            queued = [one.queued_bytes() for one in nodes[0].clients.webs]  # type: ignore[attr-defined]
            assert max(queued) <= 2 * (limits.WATCH_STREAM_BYTES + limits.MIB)
            slow.settimeout(60)
            seen = await asyncio.to_thread(count_events, slow, 120)
            assert seen == 120
            slow.close()
            await until(lambda: watches.count == 0)
            writer.close()

    asyncio.run(scenario())


def count_events(connection: socket.socket, wanted: int) -> int:
    seen, rest = 0, b""
    while seen < wanted:
        data = connection.recv(1 << 20)
        assert data, f"closed after {seen} events"
        rest += data
        seen += rest.count(b'"mod_revision"')
        rest = rest[-14:].rpartition(b'"mod_revision"')[2]
    return seen


def test_a_long_answer_becomes_json_between_turns(tmp_path: Path) -> None:
    """A range of 20,000 keys; and the same when its client leaves in between."""

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as nodes:
            number = nodes[0].config.listen_client_urls[0].port
            client = await Client.connect(nodes[0])
            puts = [
                client.start("/etcdserverpb.KV/Put", rpc_pb2.PutRequest(key=b"%05d" % one))
                for one in range(20_000)
            ]
            client.flush()
            await asyncio.gather(*puts)
            client.close()
            slices = nodes[0].driver.slices  # type: ignore[union-attr]
            everything = request("/v3/kv/range", '{"key":"AA==","range_end":"AA=="}')
            reader, writer = await asyncio.open_connection("127.0.0.1", number, limit=1 << 24)
            writer.write(everything)
            await reader.readuntil(b"\r\n\r\n")
            body = json.loads(await reader.readuntil(b'"count":"20000"}'))
            assert len(body["kvs"]) == 20_000
            writer.write(everything)
            await until(lambda: len(slices))
            writer.transport.abort()
            await until(lambda: not len(slices))
            assert not nodes[0].clients.routes._calls  # type: ignore[union-attr]

    asyncio.run(scenario())


def test_a_member_that_stops_ends_streams_and_tells_that_it_is_not_ready(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as nodes:
            number = nodes[0].config.listen_client_urls[0].port
            reader, writer = await asyncio.open_connection("127.0.0.1", number)
            writer.write(request("/v3/watch", '{"create_request":{"key":"YQ=="}}'))
            await reader.readuntil(b'"created":true}}')
            other, asker = await asyncio.open_connection("127.0.0.1", number)
            asker.write(request("/readyz?verbose", method="GET"))
            assert b"[+]linearizable_read ok" in await other.readuntil(b"ok\nok\n")
            nodes[0].health.drain()
            asker.write(request("/readyz", method="GET"))
            failed = await other.readuntil(b"stopping\n")
            assert b" 503 " in failed
            assert b"[-]shutdown failed: the member is stopping" in failed
            asker.write(request("/livez", method="GET"))
            assert b" 200 " in await other.readuntil(b"ok\n")
            await nodes[0].stop()
            rest = await until_closed(reader)
            assert b'"message":"etcdserver: server stopped"' in rest
            assert await until_closed(other) == b""
            writer.close()
            asker.close()

    asyncio.run(scenario())


def test_a_call_whose_client_leaves_is_given_up(tmp_path: Path) -> None:
    """A lock that is waited for: the waiter's key goes with its connection."""

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as nodes:
            number = nodes[0].config.listen_client_urls[0].port

            async def lock() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
                reader, writer = await asyncio.open_connection("127.0.0.1", number)
                writer.write(request("/v3/lock/lock", '{"name":"bA=="}'))
                return reader, writer

            keys = replica_of(nodes[0]).machine.store
            reader, holder = await lock()
            await reader.readuntil(b'"key"')
            _, waiter = await lock()
            await until(lambda: len(keys.live) == 2)
            waiter.transport.abort()
            await until(lambda: len(keys.live) == 1)
            holder.close()

    asyncio.run(scenario())
