"""Scenarios with one real member, for variants of which the simulator has nothing.

Each starts a member that runs the variant, does what brings it out, and says what it noticed;
empty if all was well, as it must be without the variant.
"""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import grpc

from jepsen_lite.member.etcd_bugs import LOCK_WITHOUT_A_SECOND_LOOK
from jepsen_lite.target.processes import Processes
from jepsen_lite.target.systems import system_of
from raftkv.client.aio import Client
from raftkv.pb import lock_pb2, lock_pb2_grpc

Scenario = Callable[[str], Awaitable[str]]

TTL_SECONDS: Final = 2
ANSWER_SECONDS: Final = 30.0
NAME: Final = b"jepsen-lite/lock"


async def _waiter_whose_lease_ends(endpoint: str) -> str:
    """C04: A has the lock, B waits for it, B's lease ends, A lets go. B must not have the lock."""
    async with Client(endpoint, timeout=ANSWER_SECONDS) as client:
        holder = (await client.grant(60)).id
        waiter = (await client.grant(TTL_SECONDS)).id
        async with grpc.aio.insecure_channel(endpoint) as channel:
            stub = lock_pb2_grpc.LockStub(channel)
            held = await stub.Lock(
                lock_pb2.LockRequest(name=NAME, lease=holder), timeout=ANSWER_SECONDS
            )
            call = stub.Lock(lock_pb2.LockRequest(name=NAME, lease=waiter), timeout=ANSWER_SECONDS)
            waiting = asyncio.ensure_future(_answer(call))
            while (await client.time_to_live(waiter)).ttl >= 0:
                await asyncio.sleep(0.05)
            await stub.Unlock(lock_pb2.UnlockRequest(key=held.key), timeout=ANSWER_SECONDS)
            key = await waiting
        if key is not None and not (await client.get(key)).exists:
            return f"a lock was given to lease {waiter:x}, which was over while it waited"
    return ""


async def _answer(
    call: "grpc.aio.UnaryUnaryCall[lock_pb2.LockRequest, lock_pb2.LockResponse]",
) -> bytes | None:
    """The key of a lock that was given; None if it was refused."""
    try:
        answer: lock_pb2.LockResponse = await call
    except grpc.aio.AioRpcError:
        return None
    return answer.key


async def _with_one_member(mutants: tuple[str, ...], scenario: Scenario) -> str:
    with tempfile.TemporaryDirectory(prefix="jepsen-teeth-") as directory:
        target = Processes(system_of("raftkv", mutants), 1, Path(directory) / "member")
        try:
            await target.start()
            return await scenario(target.endpoints[0])
        finally:
            await target.stop()


def waiter_whose_lease_ends(*mutants: str) -> str:
    """See `_waiter_whose_lease_ends`. mutants: what the member runs. Errors: TargetError."""
    return asyncio.run(_with_one_member(mutants, _waiter_whose_lease_ends))


SCENARIOS: Final[Mapping[str, Callable[..., str]]] = {
    LOCK_WITHOUT_A_SECOND_LOOK.name: waiter_whose_lease_ends,
}
