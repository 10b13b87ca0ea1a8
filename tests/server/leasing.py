"""Leases for the tests of members in one process: a grpcio client, and who leads."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from raftkv.pb import rpc_pb2, rpc_pb2_grpc, v1_pb2
from tests.server.harness import replica_of


@asynccontextmanager
async def lease_client(node: Any) -> AsyncIterator["LeaseClient"]:
    """A client of one member."""
    url = node.config.listen_client_urls[0]
    async with grpc.aio.insecure_channel(f"{url.host}:{url.port}") as channel:
        yield LeaseClient(channel)


class LeaseClient:
    """The calls about leases, shortly."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.stub: Any = rpc_pb2_grpc.LeaseStub(channel)
        self.kv: Any = rpc_pb2_grpc.KVStub(channel)

    async def grant(self, ttl: int, lease: int = 0) -> int:
        """The new lease's id."""
        request = rpc_pb2.LeaseGrantRequest(TTL=ttl, ID=lease)
        return int((await self.stub.LeaseGrant(request, timeout=60)).ID)

    async def revoke(self, lease: int) -> None:
        """Ends a lease."""
        await self.stub.LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=lease), timeout=60)

    async def left(self, lease: int, *, keys: bool = False) -> Any:
        """LeaseTimeToLive."""
        request = rpc_pb2.LeaseTimeToLiveRequest(ID=lease, keys=keys)
        return await self.stub.LeaseTimeToLive(request, timeout=60)

    async def listed(self) -> list[int]:
        """LeaseLeases."""
        answer = await self.stub.LeaseLeases(rpc_pb2.LeaseLeasesRequest(), timeout=60)
        return [one.ID for one in answer.leases]

    async def put(self, key: bytes, lease: int) -> Any:
        """KV.Put of an attached key."""
        request = rpc_pb2.PutRequest(key=key, value=b"v", lease=lease)
        return await self.kv.Put(request, timeout=60)

    async def get(self, key: bytes) -> Any:
        """The pair of a key, None if there is none."""
        kvs = (await self.kv.Range(rpc_pb2.RangeRequest(key=key), timeout=60)).kvs
        return kvs[0] if kvs else None

    async def put_with_ttl(self, key: bytes, ttl_ms: int, **fields: Any) -> Any:
        """raftkv.v1.KV.PutWithTTL."""
        call = self.channel.unary_unary(
            "/raftkv.v1.KV/PutWithTTL",
            request_serializer=v1_pb2.PutWithTTLRequest.SerializeToString,
            response_deserializer=v1_pb2.PutWithTTLResponse.FromString,
        )
        request = v1_pb2.PutWithTTLRequest(key=key, ttl_ms=ttl_ms, **fields)
        return await call(request, timeout=60)

    def stream(self, **options: Any) -> "Renewals":
        """A LeaseKeepAlive stream."""
        return Renewals(self.stub.LeaseKeepAlive(timeout=60, **options))


class Renewals:
    """One LeaseKeepAlive stream."""

    def __init__(self, call: Any) -> None:
        self.call = call

    async def send(self, lease: int) -> None:
        """Asks."""
        await self.call.write(rpc_pb2.LeaseKeepAliveRequest(ID=lease))

    async def next(self) -> tuple[int, int]:
        """(ID, TTL) of the next answer."""
        answer = await self.call.read()
        if answer is grpc.aio.EOF:
            code = await self.call.code()
            raise AssertionError(f"the stream ended: {code} {await self.call.details()}")
        return answer.ID, answer.TTL

    async def renew(self, lease: int) -> tuple[int, int]:
        """(ID, TTL) of the answer to one renewal."""
        await self.send(lease)
        return await self.next()

    async def end(self) -> tuple[str, str]:
        """The status that the stream ends with; nothing may come before it."""
        try:
            assert await self.call.read() is grpc.aio.EOF
        except grpc.aio.AioRpcError as error:
            return error.code().name, error.details() or ""
        return (await self.call.code()).name, await self.call.details() or ""


def leader(nodes: list[Any]) -> Any:
    """The member that leads."""
    return next(node for node in nodes if replica_of(node).is_leader)


def followers(nodes: list[Any]) -> list[Any]:
    """The members that do not lead."""
    return [node for node in nodes if not replica_of(node).is_leader]


def lease_on(node: Any, lease: int) -> Any:
    """A lease as this member's state has it, None if it has not."""
    return replica_of(node).machine.leases.get(lease)
