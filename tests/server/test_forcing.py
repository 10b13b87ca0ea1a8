"""--force-new-cluster: the way back from a lost quorum."""

import asyncio
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raftkv.config import ServerConfig
from raftkv.errors import ConfigError, DirectoryLocked
from raftkv.kv.restoring import REVISION_BUMP
from raftkv.pb import rpc_pb2
from raftkv.server.node import Node
from raftkv.storage.recovery import DataDirectory
from tests.server.harness import Client, RpcError, configs, published, replica_of, running, until
from tests.server.logged import Lines


async def started(config: ServerConfig) -> Node:
    """One member, serving."""
    node = Node(config)
    await node.start()
    await until(lambda: replica_of(node).is_leader and published(node))
    return node


def forced(config: ServerConfig, **options: Any) -> ServerConfig:
    return replace(config, force_new_cluster=True, **options)


def said(lines: Lines, text: str) -> bool:
    """Whether a line with this text was logged."""
    return any(text in str((one.getMessage(), vars(one))) for one in lines.records)


async def written(config: Sequence[ServerConfig], keys: int) -> int:
    """Runs the cluster and writes; its cluster id."""
    async with running(config) as nodes:
        client = await Client.connect(nodes[0])
        for one in range(keys):
            await client.put(b"k%d" % one, b"v%d" % one)
        applied = replica_of(nodes[0]).machine.applied_index
        await until(lambda: all(replica_of(n).machine.applied_index >= applied for n in nodes))
        client.close()
        cluster: int = replica_of(nodes[0]).machine.cluster
        return cluster


def test_a_survivor_goes_on_alone_with_its_data_in_a_cluster_of_another_id(
    tmp_path: Path, lines: Lines
) -> None:
    """M17, M18: the revision has jumped, old members are strangers, and once is enough."""

    async def scenario() -> None:
        config = configs(3, tmp_path)
        old_cluster = await written(config, 20)
        node = await started(forced(config[0]))
        machine = replica_of(node).machine
        assert machine.cluster != old_cluster
        assert list(machine.members) == [replica_of(node).member]
        assert machine.members[replica_of(node).member].name == "m0"
        assert REVISION_BUMP < machine.compacted_revision == machine.revision
        client = await Client.connect(node)
        for one in range(20):
            assert (await client.get(b"k%d" % one)).kvs[0].value == b"v%d" % one
        with pytest.raises(RpcError, match="compacted"):
            await client.get(b"k0", revision=5)
        await client.put(b"new", b"v")
        # A member of the old cluster comes back: nobody hears of anybody.
        zombie = Node(config[1])
        await zombie.start()
        await until(lambda: said(lines, "cluster ID mismatch"))
        assert replica_of(node).is_leader
        assert not replica_of(zombie).leader
        assert not zombie.stopped.is_set()
        await zombie.stop()
        client.close()
        await node.stop()
        # The flag was left in the start script: nothing happens a second time.
        revision, cluster = machine.revision, machine.cluster
        node = await started(forced(config[0]))
        assert replica_of(node).machine.revision == revision
        assert replica_of(node).machine.cluster == cluster
        assert said(lines, "take the flag away")
        assert not said(lines, "are for a first start only")
        await node.stop()

    asyncio.run(scenario())


@pytest.mark.slow
def test_others_join_the_forced_cluster_as_they_join_any(tmp_path: Path) -> None:
    async def scenario() -> None:
        config = configs(2, tmp_path)
        await written(config, 3)
        node = await started(forced(config[0]))
        client = await Client.connect(node)
        urls = [str(url) for url in config[1].initial_advertise_peer_urls]
        request = rpc_pb2.MemberAddRequest(peerURLs=urls, isLearner=True)
        await client.call("/etcdserverpb.Cluster/MemberAdd", request)
        shutil.rmtree(config[1].data_dir)
        joined = Node(replace(config[1], initial_cluster_state="existing", auto_promote=True))
        await joined.start()
        await until(lambda: len(replica_of(node).core.configuration.voters) == 2)
        await client.put(b"both", b"v")
        await until(lambda: b"both" in replica_of(joined).machine.store.live)
        assert b"k0" in replica_of(joined).machine.store.live
        client.close()
        await asyncio.gather(node.stop(), joined.stop())

    asyncio.run(scenario())


@pytest.mark.slow
def test_it_is_refused_while_the_others_are_a_quorum_and_changes_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        config = configs(3, tmp_path)
        async with running(config) as nodes:
            client = await Client.connect(nodes[1])
            await client.put(b"k", b"v")
            cluster = replica_of(nodes[1]).machine.cluster
            with pytest.raises(DirectoryLocked):  # it runs
                await Node(forced(config[0])).start()
            await nodes[0].stop()
            with pytest.raises(ConfigError, match="the cluster has a quorum"):
                await Node(forced(config[0])).start()
            back = Node(config[0])
            await back.start()
            await until(lambda: b"k" in replica_of(back).machine.store.live)
            assert replica_of(back).machine.cluster == cluster
            client.close()
            await back.stop()

    asyncio.run(scenario())


def test_what_is_no_members_directory_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        (config,) = configs(1, tmp_path)
        with pytest.raises(ConfigError, match="is not the data directory of a member"):
            await Node(forced(config)).start()
        directory = DataDirectory.open(str(config.data_dir), config.cluster_id, config.member_id)
        directory.close()
        with pytest.raises(ConfigError, match="has never been part of a cluster"):
            await Node(forced(config)).start()

    asyncio.run(scenario())


@pytest.mark.slow
def test_without_a_bump_the_history_goes_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        config = configs(1, tmp_path)
        await written(config, 5)
        node = await started(forced(config[0], force_new_cluster_bump=0))
        client = await Client.connect(node)
        assert (await client.get(b"k0", revision=2)).kvs[0].value == b"v0"
        assert (await client.put(b"k", b"v")).header.revision == 7
        client.close()
        await node.stop()

    asyncio.run(scenario())
