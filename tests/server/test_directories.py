"""Members and directories that do not belong together: refused, told, and left unharmed."""

import asyncio
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from raftkv.errors import DirectoryLocked, MemberRemoved, StorageError
from raftkv.pb import rpc_pb2
from raftkv.server.node import Node
from raftkv.storage.recovery import DataDirectory
from tests.server.harness import Client, configs, replica_of, running, until
from tests.server.logged import Lines


async def alive(node: Node) -> None:
    """A put succeeds."""
    client = await Client.connect(node)
    await client.put(b"alive", b"yes")
    client.close()


def leader_of(nodes: list[Node]) -> Node:
    """The member that leads."""
    return next(node for node in nodes if replica_of(node).is_leader)


def test_members_of_another_cluster_are_refused_on_both_sides_without_a_flood(
    tmp_path: Path, lines: Lines
) -> None:
    """D22: a new cluster was started at an address that a member of the old one had."""

    def told(words: str) -> int:
        texts = [one.getMessage() for one in lines.records]
        return sum(text.startswith(words) and "cluster ID mismatch" in text for text in texts)

    async def scenario() -> None:
        old = configs(3, tmp_path / "old")
        async with running(old) as nodes:
            gone = nodes[2]
            await gone.stop()
            await until(lambda: any(replica_of(node).is_leader for node in nodes[:2]))
            url = old[2].listen_peer_urls
            lone = replace(
                configs(1, tmp_path / "new")[0],
                listen_peer_urls=url,
                initial_advertise_peer_urls=url,
                initial_cluster={"m0": (str(url[0]),)},
                initial_cluster_token="another",
            )
            lines.records.clear()
            async with running([lone]) as strangers:
                await until(lambda: told("refused member") == told("no connection to member") == 2)
                await asyncio.sleep(1.0)  # some more attempts
                await alive(strangers[0])
                await alive(nodes[0])
                assert len(replica_of(strangers[0]).machine.members) == 1

    asyncio.run(scenario())
    assert told("refused member") == 2  # one per member that dials
    assert told("no connection to member") == 2
    assert not lines.broken()


def test_a_directory_of_another_cluster_never_joins(tmp_path: Path, lines: Lines) -> None:
    """D22: it goes on as what it is, is refused by everyone, and says so."""

    def told(words: str) -> bool:
        return any(words in one.getMessage() for one in lines.records)

    async def scenario() -> None:
        foreign = configs(3, tmp_path / "foreign", initial_cluster_token="foreign")
        async with running(foreign):
            pass
        ours = configs(3, tmp_path / "ours")
        async with running(ours) as nodes:
            await nodes[2].stop()
            lines.records.clear()
            wrong = Node(replace(ours[2], data_dir=foreign[2].data_dir))
            await wrong.start()
            await until(lambda: told("cluster ID mismatch"))
            await asyncio.sleep(0.5)  # some election timeouts
            assert not replica_of(wrong).leader
            assert replica_of(nodes[0]).machine.cluster != replica_of(wrong).machine.cluster
            await wrong.stop()

    asyncio.run(scenario())
    assert told("are for a first start only")
    assert not lines.broken()


@pytest.mark.parametrize("running_then", [True, False], ids=["running", "stopped"])
def test_a_removed_member_is_told_and_stops(
    tmp_path: Path, lines: Lines, running_then: bool
) -> None:
    """R31: whether it was there to hear it or comes back later."""

    async def scenario() -> None:
        config = configs(3, tmp_path)
        async with running(config) as nodes:
            leader = leader_of(nodes)
            victim = next(node for node in nodes if node is not leader)
            number = replica_of(victim).member
            if not running_then:
                await victim.stop()
            client = await Client.connect(leader)
            request = rpc_pb2.MemberRemoveRequest(ID=number)
            await client.call("/etcdserverpb.Cluster/MemberRemove", request)
            if not running_then:
                victim = Node(victim.config)
                await victim.start()
            async with asyncio.timeout(60):
                await victim.stopped.wait()
            assert victim.exit_code == MemberRemoved.exit_code == 16
            await victim.stop()
            await client.put(b"without", b"it")
            client.close()

    asyncio.run(scenario())
    assert [text for text in lines.broken() if "has been removed from the cluster" in text]


def test_a_directory_that_is_open_is_not_opened_again(tmp_path: Path) -> None:
    """D23."""

    async def scenario() -> None:
        config = configs(1, tmp_path)
        async with running(config):
            other = replace(configs(1, tmp_path / "x")[0], data_dir=config[0].data_dir)
            node = Node(other)
            with pytest.raises(DirectoryLocked, match="m0"):
                await node.start()
            await node.stop()

    asyncio.run(scenario())


def test_a_directory_open_to_everyone_is_closed_to_them(tmp_path: Path) -> None:
    """D24."""

    async def scenario() -> None:
        config = configs(1, tmp_path)[0]
        config.data_dir.mkdir()
        config.data_dir.chmod(0o777)
        async with running([config]) as nodes:
            await alive(nodes[0])
        assert stat.S_IMODE(config.data_dir.stat().st_mode) == 0o700

    asyncio.run(scenario())


def test_a_directory_behind_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    """D24."""

    async def scenario() -> None:
        config = configs(1, tmp_path)[0]
        (tmp_path / "real").mkdir()
        config.data_dir.symlink_to(tmp_path / "real")
        node = Node(config)
        with pytest.raises(StorageError, match="is a symbolic link"):
            await node.start()
        await node.stop()
        assert not list((tmp_path / "real").iterdir())

    asyncio.run(scenario())


def test_a_directory_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        config = configs(1, tmp_path)[0]
        config.data_dir.mkdir()
        (config.data_dir / "thesis.txt").write_text("precious")
        node = Node(config)
        with pytest.raises(StorageError, match=r"it holds thesis\.txt"):
            await node.start()
        await node.stop()
        assert (config.data_dir / "thesis.txt").read_text() == "precious"
        assert DataDirectory.peek(str(config.data_dir)) is None

    asyncio.run(scenario())
