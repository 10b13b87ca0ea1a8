"""Changes of members on running servers, as an operator meets them. R24, R26, R27, R30 to R33."""

import asyncio
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raftkv.config import ServerConfig, parse_url
from raftkv.errors import (
    LEARNER_NOT_READY,
    MEMBER_IS_RUNNING,
    PEER_URL_EXISTS,
    STOPPED,
    UNHEALTHY,
    ApiError,
    ConfigError,
    MemberRemoved,
)
from raftkv.pb import peer_pb2, rpc_pb2
from raftkv.raft import describe
from raftkv.server import identify, rejoining
from raftkv.server.node import Node
from tests.processes import free_ports
from tests.server.harness import Client, RpcError, configs, published, replica_of, running, until
from tests.server.logged import Lines

CLUSTER = "/etcdserverpb.Cluster/Member"


async def change(node: Node, name: str, **fields: Any) -> None:
    """One change of members, asked of `node`."""
    client = await Client.connect(node)
    try:
        request = getattr(rpc_pb2, f"Member{name}Request")(**fields)
        await client.call(f"{CLUSTER}{name}", request)
    finally:
        client.close()


async def refused(node: Node, error: ApiError, name: str, **fields: Any) -> None:
    """A change that must fail with this error."""
    with pytest.raises(RpcError) as caught:
        await change(node, name, **fields)
    assert (caught.value.code, caught.value.text) == (error.code, error.text)


async def put(node: Node, key: bytes) -> None:
    client = await Client.connect(node)
    await client.put(key, b"x")
    client.close()


async def holds(node: Node, key: bytes) -> bool:
    """Whether the member has a key in its own state."""
    client = await Client.connect(node)
    answer = await client.get(key, serializable=True)
    client.close()
    return bool(answer.kvs)


def leader_of(nodes: Sequence[Node]) -> Node:
    return next(node for node in nodes if replica_of(node).is_leader)


def voters(node: Node) -> tuple[int, ...]:
    found: tuple[int, ...] = replica_of(node).machine.configuration.voters
    return found


def learners(node: Node) -> tuple[int, ...]:
    found: tuple[int, ...] = replica_of(node).machine.configuration.learners
    return found


def newcomer(others: Sequence[ServerConfig], directory: Path, **options: Any) -> ServerConfig:
    """A member that joins the cluster of `others` as m9."""
    peer, client = (parse_url(f"http://127.0.0.1:{port}") for port in free_ports(2))
    cluster = {one.name: (str(one.listen_peer_urls[0]),) for one in others}
    return replace(
        others[0],
        name="m9",
        data_dir=directory / "m9",
        listen_peer_urls=(peer,),
        initial_advertise_peer_urls=(peer,),
        listen_client_urls=(client,),
        advertise_client_urls=(client,),
        initial_cluster={**cluster, "m9": (str(peer),)},
        initial_cluster_state="existing",
        **options,
    )


def test_a_member_that_moves_is_found_at_its_new_peer_url(tmp_path: Path) -> None:
    """The others dial it there at once, without a restart, though it still tells its old URL."""

    async def scenario() -> None:
        config = configs(3, tmp_path)
        async with running(config) as nodes:
            leader = leader_of(nodes)
            mover = next(node for node in nodes if node is not leader)
            number = replica_of(mover).member
            await mover.stop()
            (port,) = free_ports(1)
            url = f"http://127.0.0.1:{port}"
            await change(leader, "Update", ID=number, peerURLs=[url])
            await put(leader, b"while it moved")
            moved = Node(replace(mover.config, listen_peer_urls=(parse_url(url),)))
            try:
                await moved.start()
                await until(lambda: replica_of(moved).leader)
                await until(lambda: replica_of(moved).machine.revision > 1)
                assert await holds(moved, b"while it moved")
                for node in (*nodes, moved):
                    if node is not mover:
                        urls = replica_of(node).machine.members[number].peer_urls
                        assert urls == (url,)
                other = next(node for node in nodes if node not in (leader, mover))
                await until(lambda: _reaches(other, number))
                await until(lambda: _reaches(leader, number))
            finally:
                await moved.stop()

    asyncio.run(scenario())


def _reaches(node: Node, member: int) -> bool:
    assert node.driver is not None
    assert node.driver.peers is not None
    return node.driver.peers.reach(member)[0]


def test_changes_that_risk_the_quorum_are_refused_and_others_are_not(tmp_path: Path) -> None:
    """R26: one of three is down. A fourth voter would make the quorum three, of which two are
    there; a learner changes nothing; the dead one may go, a living one may not. R27 besides.
    """

    async def scenario() -> None:
        config = configs(3, tmp_path)
        async with running(config) as nodes:
            leader = leader_of(nodes)
            dead, alive = (node for node in nodes if node is not leader)
            gone, own = replica_of(dead).member, replica_of(leader).member
            for asked in (leader, alive):
                taken = [str(alive.config.listen_peer_urls[0])]
                await refused(asked, PEER_URL_EXISTS, "Add", peerURLs=taken)
                await refused(asked, PEER_URL_EXISTS, "Update", ID=gone, peerURLs=taken)
            await dead.stop()
            nowhere = ["http://127.0.0.1:1"]
            await until(lambda: gone not in _answering(leader))
            for asked in (leader, alive):
                await refused(asked, UNHEALTHY, "Add", peerURLs=nowhere)
                await refused(asked, UNHEALTHY, "Remove", ID=replica_of(alive).member)
            assert voters(leader) == tuple(sorted((own, gone, replica_of(alive).member)))
            await change(alive, "Add", peerURLs=nowhere, isLearner=True)
            (learner,) = learners(leader)
            await refused(alive, LEARNER_NOT_READY, "Promote", ID=learner)
            await asyncio.gather(  # R24: two at once are carried out one after the other
                change(leader, "Remove", ID=learner), change(alive, "Remove", ID=gone)
            )
            await until(lambda: len(voters(alive)) == 2)
            assert learners(leader) == ()
            await put(alive, b"still")

    asyncio.run(scenario())


def _answering(leader: Node) -> list[int]:
    return describe.answering(replica_of(leader).core)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_second_voter_joins_a_cluster_of_one_that_needs_its_vote(
    tmp_path: Path, restarted: bool
) -> None:
    """The entry that adds it cannot be committed without it, so it must be told who it is before
    that, also by a first member that was restarted meanwhile.
    """

    async def scenario() -> None:
        (config,) = configs(1, tmp_path)
        second = newcomer([config], tmp_path)
        first = Node(config)
        await first.start()
        await until(lambda: published(first))
        urls = [str(url) for url in second.initial_advertise_peer_urls]
        asked = asyncio.create_task(change(first, "Add", peerURLs=urls))
        await until(lambda: len(replica_of(first).core.configuration.voters) == 2)
        if restarted:
            asked.cancel()
            await first.stop()
            first = Node(config)
            await first.start()
            assert voters(first) != replica_of(first).core.configuration.voters
        joined = Node(second)
        try:
            await joined.start()
            await until(lambda: len(voters(first)) == 2 and published(joined))
            if not restarted:
                await asked
            leader = first if replica_of(first).is_leader else joined
            await until(lambda: replica_of(first).leader == replica_of(joined).leader)
            await put(leader, b"both")
            await until(lambda: b"both" in replica_of(joined).machine.store.live)
        finally:
            await asyncio.gather(first.stop(), joined.stop())

    asyncio.run(scenario())


def test_a_learner_that_asks_for_it_becomes_a_voter_when_it_has_caught_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--auto-promote; and the name of a member is its own, and nobody joins unasked."""
    monkeypatch.setattr(identify, "STRANGER_ROUNDS", 2)

    async def scenario() -> None:
        config = configs(1, tmp_path)
        async with running(config) as nodes:
            for number in range(50):
                await put(nodes[0], b"before/%d" % number)
            joining = newcomer(config, tmp_path, auto_promote=True)
            urls = [str(joining.listen_peer_urls[0])]
            await change(nodes[0], "Add", peerURLs=urls, isLearner=True)
            stranger = replace(newcomer(config, tmp_path), data_dir=tmp_path / "s", rejoin=True)
            with pytest.raises(ConfigError, match="has no member with the peer URLs"):
                await Node(stranger).start()
            twin = Node(replace(joining, name="m0"))
            with pytest.raises(ConfigError, match="'m0' is the name of member"):
                await twin.start()
            await twin.stop()
            (learner,) = learners(nodes[0])
            joined = Node(replace(joining, rejoin=True))  # nothing is to be replaced yet
            try:
                await joined.start()
                assert replica_of(joined).member == learner
                await until(lambda: learner in voters(nodes[0]))
                await until(lambda: published(joined))
                assert await holds(joined, b"before/49")
                await put(joined, b"together")
            finally:
                await joined.stop()

    asyncio.run(scenario())


@pytest.mark.slow
def test_a_wiped_member_comes_back_under_a_new_id_with_one_flag(
    tmp_path: Path, lines: Lines
) -> None:
    """R32 to R34: the same command line and --rejoin. Its old directory, put back, is refused."""

    async def scenario() -> None:
        config = configs(3, tmp_path)
        async with running(config) as nodes:
            wiped = next(node for node in nodes if node is not leader_of(nodes))
            rest = [node for node in nodes if node is not wiped]
            old = replica_of(wiped).member
            await put(wiped, b"before")
            await _cannot_be_replaced_while_it_runs(rest[0], wiped)
            await wiped.stop()
            directory = wiped.config.data_dir
            shutil.move(directory, tmp_path / "lost")
            again = replace(wiped.config, rejoin=True)
            back = Node(again)
            await back.start()
            new = replica_of(back).member
            assert new != old
            await until(lambda: new in voters(rest[0]))
            await until(lambda: new in voters(back))
            assert len(voters(rest[0])) == 3
            assert old in replica_of(rest[1]).machine.removed
            assert await holds(back, b"before")
            await put(back, b"after")
            await back.stop()
            back = Node(again)  # with a directory the flag means nothing
            await back.start()
            assert replica_of(back).member == new
            await until(lambda: replica_of(back).leader)
            assert await holds(back, b"after")
            await back.stop()
            zombie = Node(replace(wiped.config, data_dir=tmp_path / "lost"))
            await zombie.start()
            async with asyncio.timeout(60):
                await zombie.stopped.wait()
            assert zombie.exit_code == MemberRemoved.exit_code
            await zombie.stop()
            await put(rest[0], b"without the zombie")

    asyncio.run(scenario())
    told = [one.getMessage() for one in lines.records]
    assert any("has lost its data" in text for text in told)
    assert sum("this member has been removed from the cluster" in text for text in told) == 1


async def _cannot_be_replaced_while_it_runs(asked: Node, running_one: Node) -> None:
    answers: list[int | ApiError] = []
    urls = [str(url) for url in running_one.config.initial_advertise_peer_urls]
    request = peer_pb2.IdentifyRequest(peer_urls=urls)
    rejoining.rejoin(replica_of(asked), request, lambda member: 0, answers.append)
    assert asked.driver is not None
    asked.driver.wake()
    await until(lambda: answers)
    (answer,) = answers
    assert isinstance(answer, ApiError)
    assert answer.text == MEMBER_IS_RUNNING.text
    assert replica_of(running_one).member in voters(asked)


def test_a_leader_that_is_removed_answers_hands_over_and_ends(tmp_path: Path, lines: Lines) -> None:
    """R30, R31: whoever asked gets the answer, the others go on, and the exit code tells why."""

    async def scenario() -> None:
        async with running(configs(3, tmp_path)) as nodes:
            leader = leader_of(nodes)
            number = replica_of(leader).member
            await change(leader, "Remove", ID=number)
            rest = [node for node in nodes if node is not leader]
            await until(lambda: any(replica_of(node).is_leader for node in rest))
            async with asyncio.timeout(60):
                await leader.stopped.wait()
            assert leader.exit_code == MemberRemoved.exit_code == 16
            client = await Client.connect(leader)
            with pytest.raises(RpcError) as caught:
                await client.put(b"k", b"v")
            client.close()
            assert (caught.value.code, caught.value.text) == (STOPPED.code, STOPPED.text)
            await put(rest[0], b"without it")

    asyncio.run(scenario())
