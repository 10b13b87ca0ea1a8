"""Sessions for the tests of members in one process: a grpcio client that repeats its writes."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc

from raftkv.errors import Code
from raftkv.pb import rpc_pb2, rpc_pb2_grpc, v1_pb2, v1_pb2_grpc
from tests.server.harness import Client, RpcError, replica_of

Metadata = Sequence[tuple[str, str]]


@asynccontextmanager
async def session_client(node: Any) -> AsyncIterator["SessionClient"]:
    """A client of one member."""
    url = node.config.listen_client_urls[0]
    async with grpc.aio.insecure_channel(f"{url.host}:{url.port}") as channel:
        yield SessionClient(channel)


def asked(session: int, sequence: int, lowest: int = 1) -> Metadata:
    """The metadata of a write in a session."""
    return (
        ("raftkv-session", str(session)),
        ("raftkv-sequence", str(sequence)),
        ("raftkv-unanswered", str(lowest)),
    )


class SessionClient:
    """Writes with metadata, shortly."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.kv: Any = rpc_pb2_grpc.KVStub(channel)
        self.lease: Any = rpc_pb2_grpc.LeaseStub(channel)
        self.extras: Any = v1_pb2_grpc.KVStub(channel)
        self.sessions: Any = v1_pb2_grpc.SessionsStub(channel)

    async def open(self, ttl: int = 60) -> int:
        """A new session's id."""
        answer = await self.sessions.OpenSession(v1_pb2.OpenSessionRequest(ttl=ttl), timeout=60)
        return int(answer.session)

    async def put(self, metadata: Metadata = (), key: bytes = b"k", **fields: Any) -> Any:
        """KV.Put; of a plain key and value if nothing is said."""
        request = rpc_pb2.PutRequest(**({"key": key, "value": b"v"} | fields))
        return await self.kv.Put(request, timeout=60, metadata=metadata)

    async def version(self, key: bytes = b"k") -> int:
        """How often a key was put; 0: it does not exist."""
        kvs = (await self.kv.Range(rpc_pb2.RangeRequest(key=key), timeout=60)).kvs
        return kvs[0].version if kvs else 0

    async def revoke(self, lease: int) -> None:
        """Lease.LeaseRevoke."""
        await self.lease.LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=lease), timeout=60)


def last_index(node: Any) -> int:
    """The last entry in a member's log."""
    return int(replica_of(node).core.last_index)


async def status(wire: Client, path: str, message: bytes, metadata: Metadata = ()) -> Any:
    """The status that a call with these bytes ends with, unary or not: (code, text)."""
    stream = wire.connection.request(
        path.encode(),
        message,
        end=True,
        metadata=[(name.encode(), value.encode()) for name, value in metadata],
    )
    answer = wire.answers[stream] = asyncio.get_running_loop().create_future()
    wire.flush()
    try:
        await asyncio.wait_for(answer, 60)
    except RpcError as error:
        return error.code, error.text
    return Code.OK, ""
