"""A member whose state is wrong goes out of service, and says so; the others serve on (M19)."""

import asyncio
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raftkv.errors import Code
from raftkv.kv.alarms import CORRUPT, NOSPACE
from raftkv.pb import health_pb2, rpc_pb2
from raftkv.server.node import Node
from tests.server.harness import Client, RpcError, configs, replica_of, running, until

CORRUPT_CLUSTER = "etcdserver: corrupt cluster"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def fails(call: Any) -> tuple[int, str]:
    """The status of a call that must fail."""
    with pytest.raises(RpcError) as caught:
        await call
    return caught.value.code, caught.value.text


async def health(client: Client) -> int:
    answer = await client.call("/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest())
    return int(health_pb2.HealthCheckResponse.FromString(answer).status)


async def alarms(client: Client, **options: Any) -> list[tuple[int, int]]:
    request = rpc_pb2.AlarmRequest(**options)
    answer = await client.call("/etcdserverpb.Maintenance/Alarm", request)
    return [(one.alarm, one.memberID) for one in rpc_pb2.AlarmResponse.FromString(answer).alarms]


def condemned(node: Node) -> bool:
    return bool(replica_of(node).caretaker.condemned)


def leader_of(nodes: list[Node]) -> Node | None:
    return next((node for node in nodes if replica_of(node).is_leader), None)


def test_a_wrong_follower_refuses_every_client_and_tells_how_to_rebuild_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with running(configs(3, tmp_path, state_check_seconds=0.2)) as nodes:
            leader = leader_of(nodes)
            assert leader is not None
            wrong, right = (node for node in nodes if node is not leader)
            number = replica_of(wrong).member
            client, other = await Client.connect(wrong), await Client.connect(right)
            await other.put(b"k", b"v")
            assert await health(client) == SERVING
            watching = client.start("/etcdserverpb.Watch/Watch", rpc_pb2.WatchRequest())
            client.flush()
            replica_of(wrong).machine.store.hash ^= 1
            await until(lambda: condemned(wrong))
            corrupt = (Code.DATA_LOSS, CORRUPT_CLUSTER)
            assert await fails(watching) == corrupt, "watchers go to another member"
            assert await fails(client.get(b"k")) == corrupt
            assert await fails(client.get(b"k", serializable=True)) == corrupt
            assert await fails(client.put(b"k", b"w")) == corrupt
            grant = rpc_pb2.LeaseGrantRequest(TTL=60)
            assert await fails(client.call("/etcdserverpb.Lease/LeaseGrant", grant)) == corrupt
            assert await health(client) == NOT_SERVING
            assert await alarms(client) == [(CORRUPT, number)], "operators are answered"
            status = rpc_pb2.StatusResponse.FromString(
                await client.call("/etcdserverpb.Maintenance/Status", rpc_pb2.StatusRequest())
            )
            assert list(status.errors) == [f"memberID:{number} alarm:CORRUPT "]
            await other.put(b"k", b"x")
            assert (await other.get(b"k")).kvs[0].value == b"x"
            assert await health(other) == SERVING
            disarm = {"action": rpc_pb2.AlarmRequest.DEACTIVATE, "memberID": number, "alarm": 2}
            assert await alarms(other, **disarm) == [(CORRUPT, number)]
            await until(lambda: not condemned(wrong))
            await other.put(b"k", b"y")  # there is something to compare again
            await until(lambda: condemned(wrong))
            client.close()
            other.close()

    with caplog.at_level(logging.INFO, "raftkv.server"):
        asyncio.run(scenario())
    told = [record.getMessage() for record in caplog.records if record.levelname == "CRITICAL"]
    assert any("--rejoin" in text and "is not what the other members have" in text for text in told)
    assert any(record.getMessage() == "alarm is over" for record in caplog.records)


@pytest.mark.slow
def test_a_wrong_leader_hands_over_and_an_alarm_outlives_a_restart(tmp_path: Path) -> None:
    async def scenario() -> None:
        options = configs(3, tmp_path, state_check_seconds=0.2)
        number = 0
        async with running(options) as nodes:
            wrong = leader_of(nodes)
            assert wrong is not None
            number = replica_of(wrong).member
            client = await Client.connect(wrong)
            await client.put(b"k", b"v")
            replica_of(wrong).machine.store.hash ^= 1
            await until(lambda: condemned(wrong))
            await until(lambda: leader_of(nodes) not in (None, wrong))
            client.close()
        async with running(options) as nodes:
            (wrong,) = (node for node in nodes if replica_of(node).member == number)
            await until(lambda: condemned(wrong))
            assert leader_of(nodes) is not wrong
            client = await Client.connect(wrong)
            assert await fails(client.get(b"k")) == (Code.DATA_LOSS, CORRUPT_CLUSTER)
            client.close()

    asyncio.run(scenario())


def test_a_row_that_rots_is_found_at_intervals(tmp_path: Path) -> None:
    """--experimental-corrupt-check-time."""

    async def scenario() -> None:
        settings = {"state_check_seconds": 0.2, "corrupt_check_seconds": 1.0}
        async with running(configs(3, tmp_path, **settings)) as nodes:
            await write_everywhere(nodes)
            rot(nodes[2])
            await until(lambda: condemned(nodes[2]))
            assert not condemned(nodes[0])

    asyncio.run(scenario())


@pytest.mark.slow
def test_a_row_that_rotted_is_found_by_the_check_at_the_start(tmp_path: Path) -> None:
    """--experimental-initial-corrupt-check, of a member that is right."""

    async def scenario() -> None:
        options = configs(3, tmp_path)
        number = 0
        async with running(options) as nodes:
            await write_everywhere(nodes)
            number = replica_of(nodes[2]).member
            rot(nodes[2])
        options[1] = replace(options[1], initial_corrupt_check=True)
        async with running(options) as nodes:
            (wrong,) = (node for node in nodes if replica_of(node).member == number)
            await until(lambda: condemned(wrong))

    asyncio.run(scenario())


async def write_everywhere(nodes: list[Node]) -> None:
    """A key that every member has."""
    client = await Client.connect(nodes[0])
    await client.put(b"k", b"value")
    await until(lambda: all(replica_of(node).machine.revision == 2 for node in nodes))
    client.close()


def rot(node: Node) -> None:
    """A bit flips in the newest version of a key, where it is stored."""
    machine = replica_of(node).machine
    machine.flush()
    name, row = list(machine.backend.scan(b"r", b"s"))[-1]
    machine.backend.write([(name, row[:-1] + bytes((row[-1] ^ 1,)))])


def test_a_full_store_is_said_once_and_its_end_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with running(configs(1, tmp_path, quota_backend_bytes=200_000)) as (node,):
            client = await Client.connect(node)
            await until(lambda: replica_of(node).machine.space.told.quota_bytes == 200_000)
            for _ in range(18):
                await client.put(b"k", b"v" * 10_000)
            refusal = Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded"
            assert await fails(client.put(b"k", b"v" * 30_000)) == refusal
            assert await fails(client.put(b"k", b"v" * 10)) == refusal
            assert await alarms(client) == [(NOSPACE, replica_of(node).member)]
            revision = replica_of(node).machine.revision
            request = rpc_pb2.CompactionRequest(revision=revision)
            await client.call("/etcdserverpb.KV/Compact", request)
            await until(lambda: not replica_of(node).machine.alarms.no_space)
            await client.put(b"k", b"v" * 10_000)
            client.close()

    with caplog.at_level(logging.INFO, "raftkv.server"):
        asyncio.run(scenario())
    texts = [record.getMessage() for record in caplog.records]
    assert texts.count("no space: writes that grow the store are refused") == 1
    assert texts.count("alarm is over") == 1


@pytest.mark.slow
def test_while_the_alarm_comes_and_goes_every_member_accepts_the_same_writes(
    tmp_path: Path,
) -> None:
    """M23: writes through all members, at a store that fills up and is compacted again."""

    async def scenario() -> None:
        settings = {"quota_backend_bytes": 400_000, "state_check_seconds": 0.2}
        async with running(configs(3, tmp_path, **settings)) as nodes:
            clients = [await Client.connect(node) for node in nodes]
            machines = [replica_of(node).machine for node in nodes]
            await until(lambda: all(one.space.told.quota_bytes == 400_000 for one in machines))
            accepted: dict[bytes, None] = {}
            refused = lifted = 0

            async def write(client: Client, number: int) -> None:
                nonlocal refused
                for one in range(150):
                    key = b"%d-%d" % (number, one)
                    try:
                        await client.put(key, b"v" * 4_000)
                        accepted[key] = None
                    except RpcError as error:
                        if error.code != Code.RESOURCE_EXHAUSTED:
                            raise
                        refused += 1

            writing = asyncio.gather(*(write(one, at) for at, one in enumerate(clients)))
            while not writing.done():
                if machines[0].alarms.no_space:
                    everything = rpc_pb2.DeleteRangeRequest(key=b"\0", range_end=b"\0")
                    await clients[0].call("/etcdserverpb.KV/DeleteRange", everything)
                    request = rpc_pb2.CompactionRequest(revision=machines[0].revision)
                    await clients[0].call("/etcdserverpb.KV/Compact", request)
                    await until(lambda: not machines[0].alarms.no_space)
                    lifted += 1
                await asyncio.sleep(0)
            await writing
            assert refused
            assert lifted
            await until(lambda: len({one.applied_index for one in machines}) == 1)
            await until(lambda: len({one.state_hash for one in machines}) == 1)
            # Every put that was accepted, and every delete that found something, is a revision.
            assert machines[0].revision >= 1 + len(accepted)
            assert not any(one.alarms.raised(CORRUPT) for one in machines)
            for client in clients:
                client.close()

    asyncio.run(scenario())
