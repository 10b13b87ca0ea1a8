"""One to three members in one process: serving, stopping, coming back, saying no."""

import asyncio
import shutil
from pathlib import Path

import pytest

from raftkv.errors import Code, ConfigError, CorruptionError
from raftkv.pb import rpc_pb2
from raftkv.server.node import Node
from tests.server.harness import Client, RpcError, configs, replica_of, running, until


def test_a_cluster_answers_reads_and_writes_at_every_member(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(configs(3, tmp_path)) as nodes:
            clients = [await Client.connect(node) for node in nodes]
            for one, client in enumerate(clients):
                await client.put(b"key", b"%d" % one)
                for reader in clients:
                    reply = await reader.get(b"key")
                    assert reply.kvs[0].value == b"%d" % one
            for client in clients:
                client.close()

    asyncio.run(scenario())


def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    config = configs(3, tmp_path)

    async def write() -> None:
        async with running(config) as nodes:
            client = await Client.connect(nodes[0])
            for one in range(50):
                await client.put(b"k%d" % one, b"v%d" % one)
            client.close()

    async def read() -> None:
        async with running(config) as nodes:
            client = await Client.connect(nodes[1])
            for one in range(50):
                assert (await client.get(b"k%d" % one)).kvs[0].value == b"v%d" % one
            client.close()

    asyncio.run(write())
    asyncio.run(read())


def test_a_leader_that_stops_hands_its_leadership_over(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(configs(3, tmp_path)) as nodes:
            leader = next(node for node in nodes if replica_of(node).is_leader)
            others = [node for node in nodes if node is not leader]
            term = replica_of(leader).core.term
            await leader.stop()
            await until(lambda: any(replica_of(node).is_leader for node in others))
            assert max(replica_of(node).core.term for node in others) == term + 1
            client = await Client.connect(others[0])
            await client.put(b"still", b"there")
            client.close()

    asyncio.run(scenario())


def test_a_request_that_requires_a_leader_fails_at_once_without_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(configs(3, tmp_path)) as nodes:
            await asyncio.gather(nodes[1].stop(), nodes[2].stop())
            await until(lambda: not replica_of(nodes[0]).leader)
            client = await Client.connect(nodes[0])
            request = rpc_pb2.RangeRequest(key=b"k")
            with pytest.raises(RpcError) as caught:
                await client.call(
                    "/etcdserverpb.KV/Range", request, metadata=[(b"hasleader", b"true")]
                )
            assert caught.value.code == Code.UNAVAILABLE
            assert caught.value.text == "etcdserver: no leader"
            # Serializable reads go on without a leader.
            assert not (await client.get(b"k", serializable=True)).kvs
            client.close()

    asyncio.run(scenario())


def test_a_call_past_its_deadline_ends_on_the_server_too(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(configs(3, tmp_path)) as nodes:
            await asyncio.gather(nodes[1].stop(), nodes[2].stop())
            await until(lambda: not replica_of(nodes[0]).leader)
            client = await Client.connect(nodes[0])
            request = rpc_pb2.PutRequest(key=b"k", value=b"v")
            with pytest.raises(RpcError) as caught:
                await client.call("/etcdserverpb.KV/Put", request, timeout=0.1)
            assert caught.value.code == Code.DEADLINE_EXCEEDED
            client.close()

    asyncio.run(scenario())


def test_a_member_whose_directory_was_wiped_refuses_and_says_how_to_rejoin(
    tmp_path: Path,
) -> None:
    """R33."""
    config = configs(3, tmp_path)

    async def scenario() -> None:
        async with running(config) as nodes:
            client = await Client.connect(nodes[1])
            await client.put(b"k", b"v")
            await nodes[0].stop()
            shutil.rmtree(config[0].data_dir)
            again = Node(config[0])
            with pytest.raises(CorruptionError, match="raftctl member remove"):
                await again.start()
            await again.stop()
            client.close()

    asyncio.run(scenario())


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    async def scenario() -> None:
        config = configs(1, tmp_path)
        async with running(config):
            other = configs(1, tmp_path / "other", listen_client_urls=config[0].listen_client_urls)
            node = Node(other[0])
            with pytest.raises(ConfigError, match="cannot listen on"):
                await node.start()
            await node.stop()

    asyncio.run(scenario())


def test_a_member_that_was_far_behind_gets_the_whole_state(tmp_path: Path) -> None:
    config = configs(3, tmp_path, snapshot_count=50)

    async def scenario() -> None:
        async with running(config) as nodes:
            await nodes[2].stop()
            survivors = nodes[:2]
            await until(lambda: any(replica_of(node).is_leader for node in survivors))
            client = await Client.connect(nodes[0])
            for one in range(400):
                await client.put(b"k%d" % (one % 40), b"v%d" % one)
            back = Node(config[2])
            await back.start()
            try:
                leader = next(node for node in survivors if replica_of(node).is_leader)
                await until(
                    lambda: (
                        replica_of(back).machine.applied_index
                        == replica_of(leader).machine.applied_index
                    )
                )
                assert replica_of(back).machine.state_hash == replica_of(leader).machine.state_hash
                assert replica_of(back).housekeeping.first_kept > 300
                reader = await Client.connect(back)
                assert (await reader.get(b"k39")).kvs[0].value == b"v399"
                reader.close()
            finally:
                await back.stop()
            client.close()

    asyncio.run(scenario())
