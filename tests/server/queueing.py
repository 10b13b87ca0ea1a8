"""Locks and elections for the tests of members in one process: one client's calls."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from raftkv.pb import (
    election_pb2,
    election_pb2_grpc,
    lock_pb2,
    lock_pb2_grpc,
    rpc_pb2,
    rpc_pb2_grpc,
)

NAME = b"n"
PATIENCE_SECONDS = 100.0  # reached only when something is left that should not be
POLL_SECONDS = 0.002


@asynccontextmanager
async def party(node: Any, *options: tuple[str, int]) -> AsyncIterator["Party"]:
    """A client of one member, on a connection of its own."""
    url = node.config.listen_client_urls[0]
    own = [("grpc.use_local_subchannel_pool", 1), *options]
    async with grpc.aio.insecure_channel(f"{url.host}:{url.port}", own) as channel:
        yield Party(channel)


class Party:
    """Calls about the queue NAME, shortly."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.locks: Any = lock_pb2_grpc.LockStub(channel)
        self.elections: Any = election_pb2_grpc.ElectionStub(channel)
        self.leases: Any = rpc_pb2_grpc.LeaseStub(channel)
        self.kv: Any = rpc_pb2_grpc.KVStub(channel)

    async def lease(self, ttl: int = 600) -> int:
        """A new lease's id."""
        answer = await self.leases.LeaseGrant(rpc_pb2.LeaseGrantRequest(TTL=ttl), timeout=60)
        return int(answer.ID)

    async def revoke(self, lease: int) -> None:
        """Ends a lease."""
        await self.leases.LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=lease), timeout=60)

    def locking(self, lease: int, seconds: float = PATIENCE_SECONDS, **options: Any) -> Any:
        """A Lock call under way."""
        request = lock_pb2.LockRequest(name=NAME, lease=lease)
        return self.locks.Lock(request, timeout=seconds, **options)

    async def lock(self, lease: int) -> bytes:
        """Locks; the key."""
        return bytes((await self.locking(lease)).key)

    async def unlock(self, key: bytes) -> None:
        """Unlocks."""
        await self.locks.Unlock(lock_pb2.UnlockRequest(key=key), timeout=60)

    def campaigning(self, lease: int, value: bytes, seconds: float = PATIENCE_SECONDS) -> Any:
        """A Campaign call under way."""
        request = election_pb2.CampaignRequest(name=NAME, lease=lease, value=value)
        return self.elections.Campaign(request, timeout=seconds)

    async def campaign(self, lease: int, value: bytes) -> Any:
        """Campaigns; the leader key."""
        return (await self.campaigning(lease, value)).leader

    async def resign(self, leader: Any) -> None:
        """Resigns."""
        await self.elections.Resign(election_pb2.ResignRequest(leader=leader), timeout=60)

    async def proclaim(self, leader: Any, value: bytes) -> None:
        """Proclaims."""
        request = election_pb2.ProclaimRequest(leader=leader, value=value)
        await self.elections.Proclaim(request, timeout=60)

    def observe(self) -> Any:
        """An Observe stream."""
        return self.elections.Observe(election_pb2.LeaderRequest(name=NAME), timeout=60)

    async def pairs(self) -> list[Any]:
        """The queue in the order of its keys' creation."""
        request = rpc_pb2.RangeRequest(
            key=NAME + b"/", range_end=NAME + b"0", sort_target=rpc_pb2.RangeRequest.CREATE
        )
        request.sort_order = rpc_pb2.RangeRequest.ASCEND
        return list((await self.kv.Range(request, timeout=60)).kvs)

    async def keys(self) -> list[bytes]:
        """The keys in the order of their creation."""
        return [pair.key for pair in await self.pairs()]

    async def wait_for(self, keys: int) -> None:
        """Returns when so many keys are in the queue; fails after PATIENCE_SECONDS."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(await self.keys()) != keys:
                await asyncio.sleep(POLL_SECONDS)

    async def fenced_put(self, lock: Any, key: bytes, value: bytes) -> bool:
        """A put guarded by the token of a lock's pair; whether it was carried out."""
        compare = rpc_pb2.Compare(
            key=lock.key,
            target=rpc_pb2.Compare.CREATE,
            result=rpc_pb2.Compare.EQUAL,
            create_revision=lock.create_revision,
        )
        put = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=value))
        request = rpc_pb2.TxnRequest(compare=[compare], success=[put])
        return bool((await self.kv.Txn(request, timeout=60)).succeeded)


async def failure(call: Any) -> tuple[str, str]:
    """The status of a call that must fail."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code().name, error.details() or ""
    except asyncio.CancelledError:
        return "CANCELLED", ""  # by this client itself
    raise AssertionError("the call succeeded")
