"""Calls that their client gives up: what the server keeps of them, and for how long (C14)."""

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from raftkv.pb import health_pb2, rpc_pb2
from raftkv.server.node import Node
from raftkv.wire.grpc import RequestHead
from tests.server.harness import Client, configs, replica_of, running, until

CALLS = 1000  # of each kind
ROUNDS = 3


def open_streams(node: Node) -> int:
    """How many calls the server takes for running."""
    assert node.clients is not None
    return sum(len(one.connection._streams) for one in node.clients.connections)


def waiting(node: Node) -> int:
    """How many reads and writes wait for a leader or a quorum."""
    replica = replica_of(node)
    return len(replica.writes) + len(replica.reading)


def start_calls(channel: grpc.aio.Channel, seconds: float | None) -> Iterator[Any]:
    """CALLS puts and as many reads; nobody waits for their answers yet."""
    put = channel.unary_unary("/etcdserverpb.KV/Put")
    read = channel.unary_unary("/etcdserverpb.KV/Range")
    for number in range(CALLS):
        key = b"k%d" % (number % 10)
        yield put(rpc_pb2.PutRequest(key=key).SerializeToString(), timeout=seconds)
        yield read(rpc_pb2.RangeRequest(key=key).SerializeToString(), timeout=seconds)


def heads() -> int:
    """How many calls' heads are in this process's memory."""
    gc.collect()
    return sum(isinstance(one, RequestHead) for one in gc.get_objects())


async def alone(nodes: list[Node]) -> Node:
    """The leader, after all others have stopped: nothing can be committed or confirmed."""
    leader = next(node for node in nodes if replica_of(node).is_leader)
    await asyncio.gather(*(node.stop() for node in nodes if node is not leader))
    return leader


def channel_of(node: Node) -> grpc.aio.Channel:
    url = node.config.listen_client_urls[0]
    return grpc.aio.insecure_channel(f"{url.host}:{url.port}")


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [None, 4.0], ids=["cancelled", "deadline"])
def test_calls_that_are_given_up_while_they_wait_leave_nothing_behind(
    tmp_path: Path, seconds: float | None
) -> None:
    """C14: streams are free at once, what was queued when its time is over, and never answered."""

    async def scenario() -> None:
        before = heads()  # of other tests in this process
        async with running(configs(3, tmp_path)) as nodes:
            node = await alone(nodes)
            for _ in range(ROUNDS):
                async with channel_of(node) as channel:
                    calls = list(start_calls(channel, seconds))
                    await until(lambda: open_streams(node) > CALLS)
                    if seconds is None:
                        await until(lambda: open_streams(node) == 2 * CALLS)
                        for call in calls:
                            call.cancel()
                    await until(lambda: open_streams(node) == 0)
                    await asyncio.gather(*calls, return_exceptions=True)
            assert waiting(node) > CALLS, "the streams did not wait for what was queued"
            await until(lambda: waiting(node) == 0, 60.0)
            assert heads() - before < CALLS // 10, f"of {2 * ROUNDS * CALLS}"
            client = await Client.connect(node)  # it still serves
            path = "/grpc.health.v1.Health/Check"
            await client.call(path, health_pb2.HealthCheckRequest())
            client.close()

    asyncio.run(scenario())


def test_calls_that_are_given_up_at_once_are_forgotten(tmp_path: Path) -> None:
    """C14: with a quorum, amid others that want their answers."""

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,), channel_of(node) as channel:
            calls = list(start_calls(channel, None))
            for call in calls[::2]:
                call.cancel()
            answers = await asyncio.gather(*calls[1::2])
            assert len(answers) == CALLS
            await until(lambda: open_streams(node) == 0 and waiting(node) == 0)

    asyncio.run(scenario())
