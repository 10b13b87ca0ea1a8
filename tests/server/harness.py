"""Members of a cluster inside the test's own event loop, and a small client for them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from raftkv.config import ServerConfig, parse_url
from raftkv.pb import rpc_pb2
from raftkv.server.node import Node
from raftkv.wire.h2_client import ClientConnection
from tests.processes import free_ports


def configs(count: int, directory: Path, **options: Any) -> list[ServerConfig]:
    """One configuration per member of a new cluster; fast timeouts. Leaders propose nothing about
    quotas and comparisons, unless `options` say so.
    """
    ports = free_ports(2 * count)
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    cluster = {f"m{one}": (urls[2 * one],) for one in range(count)}
    return [
        replace(
            ServerConfig(
                name=f"m{one}",
                data_dir=directory / f"m{one}",
                listen_peer_urls=(parse_url(urls[2 * one]),),
                initial_advertise_peer_urls=(parse_url(urls[2 * one]),),
                listen_client_urls=(parse_url(urls[2 * one + 1]),),
                advertise_client_urls=(parse_url(urls[2 * one + 1]),),
                initial_cluster=cluster,
                heartbeat_interval_ms=20,
                election_timeout_ms=200,
                quota_backend_bytes=0,
                state_check_seconds=0.0,
                log_level="error",
            ),
            **options,
        )
        for one in range(count)
    ]


@asynccontextmanager
async def running(config: Sequence[ServerConfig]) -> AsyncIterator[list[Node]]:
    """The members, started; stopped at the end."""
    nodes = [Node(one) for one in config]
    try:
        await asyncio.gather(*(node.start() for node in nodes))
        await until(lambda: any(replica_of(node).is_leader for node in nodes))
        await until(lambda: all(published(node) for node in nodes))
        yield nodes
    finally:
        await asyncio.gather(*(node.stop() for node in nodes))


async def until(condition: Any, seconds: float = 60.0) -> None:
    """Waits for a condition; fails after `seconds`."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def published(node: Node) -> bool:
    """Whether the cluster knows the member's client URLs: its start has ended."""
    member = replica_of(node).machine.members.get(replica_of(node).member)
    return member is not None and bool(member.client_urls)


def replica_of(node: Node) -> Any:
    """The replica of a running member."""
    assert node.driver is not None
    return node.driver.replica


class Client(asyncio.Protocol):
    """A gRPC client on the wire code's client half."""

    def __init__(self) -> None:
        self.connection = ClientConnection(self, b"test")
        self.answers: dict[int, asyncio.Future[bytes]] = {}
        self._messages: dict[int, bytes] = {}
        self._transport: asyncio.Transport | None = None

    @staticmethod
    async def connect(node: Node) -> "Client":
        """A client of one member."""
        url = node.config.listen_client_urls[0]
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(Client, url.host, url.port)
        return client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.flush()

    def data_received(self, data: bytes) -> None:
        self.connection.receive(data, 0.0)
        self.flush()

    def flush(self) -> None:
        """Writes what is queued."""
        assert self._transport is not None
        self._transport.write(self.connection.take_output())

    def headers(self, stream: int) -> None:
        pass

    def message(self, stream: int, message: bytes) -> None:
        self._messages[stream] = message

    def finished(self, stream: int, code: int, text: str) -> None:
        answer = self.answers.pop(stream)
        if answer.done():
            return
        if code:
            answer.set_exception(RpcError(code, text))
        else:
            answer.set_result(self._messages.pop(stream, b""))

    def start(self, path: str, request: Any, **options: Any) -> "asyncio.Future[bytes]":
        """Begins a unary call; `flush` sends it."""
        stream = self.connection.request(
            path.encode(), request.SerializeToString(), end=True, **options
        )
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.answers[stream] = answer
        return answer

    async def call(self, path: str, request: Any, **options: Any) -> bytes:
        """A whole unary call."""
        answer = self.start(path, request, **options)
        self.flush()
        return await answer

    async def put(self, key: bytes, value: bytes) -> rpc_pb2.PutResponse:
        """KV.Put."""
        request = rpc_pb2.PutRequest(key=key, value=value)
        return rpc_pb2.PutResponse.FromString(await self.call("/etcdserverpb.KV/Put", request))

    async def get(self, key: bytes, **options: Any) -> rpc_pb2.RangeResponse:
        """KV.Range of one key."""
        request = rpc_pb2.RangeRequest(key=key, **options)
        return rpc_pb2.RangeResponse.FromString(await self.call("/etcdserverpb.KV/Range", request))

    def close(self) -> None:
        """Closes the connection."""
        assert self._transport is not None
        self._transport.abort()


class RpcError(Exception):
    """A call ended with a status."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code
        self.text = text
