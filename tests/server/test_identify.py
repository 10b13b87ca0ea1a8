"""May a directory that was just made take part? What members answer, and what is made of it.

A later directory under the same id must be found out (R33), whichever members it asks.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from raftkv.config import ServerConfig, member_id
from raftkv.errors import ConfigError, CorruptionError
from raftkv.pb import peer_pb2, rpc_pb2
from raftkv.server import identify
from raftkv.server.node import Node
from tests.processes import raftkv
from tests.server.harness import Client, configs, published, replica_of, running, until

CLUSTER, SELF, MINE, ANOTHER = 0x51, 9, 77, 78
OTHERS = {number: [f"http://m{number}:1"] for number in (1, 2, 3, 4)}

Answer = peer_pb2.IdentifyReply | str


@asynccontextmanager
async def starting(config: ServerConfig) -> AsyncIterator[None]:
    """A member that waits for the others of its new cluster."""
    node = Node(config)
    start = asyncio.create_task(node.start())
    try:
        await until(lambda: node._servers["peer"])
        yield
    finally:
        while not start.done():
            start.cancel()
            await asyncio.wait((start,), timeout=0.1)
        await node.stop()


def number_of(config: ServerConfig) -> int:
    return member_id([url_of(config)], config.initial_cluster_token)


def url_of(config: ServerConfig) -> str:
    return str(config.initial_advertise_peer_urls[0])


async def told(
    to: ServerConfig, about: ServerConfig, incarnation: int, cluster: int | None = None
) -> peer_pb2.IdentifyReply:
    """The answer to `about`'s question."""
    request = peer_pb2.IdentifyRequest(
        cluster_id=to.cluster_id if cluster is None else cluster,
        member_id=number_of(about),
        incarnation=incarnation,
        peer_urls=[url_of(about)],
    )
    answer = await identify.ask(url_of(to), request, None)
    assert not isinstance(answer, str), answer
    return answer


def test_the_first_directory_that_asks_is_noted_for_good(tmp_path: Path) -> None:
    """R33: also if it never speaks to this member again, and over a restart of this member."""
    one, two, _ = configs(3, tmp_path)

    async def scenario() -> None:
        async with starting(one):
            assert (await told(one, two, MINE)).your_incarnation == MINE
            assert (await told(one, two, ANOTHER)).your_incarnation == MINE
        async with starting(one):
            assert (await told(one, two, ANOTHER)).your_incarnation == MINE
            assert (await told(one, two, MINE)).your_incarnation == MINE

    asyncio.run(scenario())


def test_whoever_asks_about_something_else_is_not_noted(tmp_path: Path) -> None:
    one, two, three = configs(3, tmp_path)

    async def scenario() -> None:
        async with starting(one):
            assert (await told(one, two, MINE, cluster=1)).your_incarnation == 0
            assert (await told(one, two, 0)).your_incarnation == 0
            stranger = configs(1, tmp_path / "elsewhere")[0]
            assert (await told(one, stranger, MINE)).your_id == 0
            request = peer_pb2.IdentifyRequest(
                cluster_id=one.cluster_id,
                member_id=number_of(three),
                incarnation=MINE,
                peer_urls=[url_of(two)],
            )
            await identify.ask(url_of(one), request, None)
            for member in (two, three):
                assert (await told(one, member, ANOTHER)).your_incarnation == ANOTHER

    asyncio.run(scenario())


def test_a_member_that_only_the_member_table_knows_is_known(tmp_path: Path) -> None:
    """R33: this one never met it, the log did."""

    async def scenario() -> None:
        config = configs(3, tmp_path)
        async with running(config) as nodes:
            peers = nodes[0]._peers
            assert peers is not None
            peers._known._met.clear()
            answer = await told(config[0], config[1], ANOTHER)
            assert answer.your_incarnation not in (0, ANOTHER)

    asyncio.run(scenario())


def test_new_members_that_start_one_by_one_or_again_come_up_together(tmp_path: Path) -> None:
    """R33: a directory that was noted before its process ended is still the one that was noted."""
    config = configs(3, tmp_path)

    async def scenario() -> None:
        async with starting(config[0]), starting(config[1]):
            await asyncio.sleep(3 * identify.RETRY_SECONDS)  # both have noted each other
        nodes = [Node(one) for one in config]
        starts = []
        try:
            for node in nodes:
                starts.append(asyncio.create_task(node.start()))
                await until(lambda node=node: node._servers["peer"])
            await asyncio.gather(*starts)
            await until(lambda: all(published(node) for node in nodes))
        finally:
            for start in starts:
                start.cancel()
            await asyncio.gather(*(node.stop() for node in nodes))

    asyncio.run(scenario())


def test_a_member_that_waits_for_the_others_stops_when_it_is_told_to(tmp_path: Path) -> None:
    alone = raftkv(tmp_path, 3).servers[0]
    alone.start()
    try:
        while "waiting for other members" not in alone.log_end():
            assert alone.running(), alone.log_end()
        assert alone.stop() == 0, alone.log_end()
    finally:
        alone.kill()


async def added(node: Node, config: ServerConfig) -> None:
    """The member of `config` is added by the cluster of `node`."""
    client = await Client.connect(node)
    request = rpc_pb2.MemberAddRequest(peerURLs=[url_of(config)], isLearner=True)
    await client.call("/etcdserverpb.Cluster/MemberAdd", request)
    client.close()


@pytest.mark.parametrize("wiped", [False, True], ids=["same directory", "another directory"])
def test_a_joiner_that_ended_before_it_was_confirmed_comes_back_with_its_directory_only(
    tmp_path: Path, wiped: bool
) -> None:
    """R33: one member has noted it. The others are down, so that it waits for a second one."""
    config = configs(3, tmp_path)
    joining = configs(1, tmp_path / "joiner")[0]
    cluster = {**config[0].initial_cluster, "j": (url_of(joining),)}
    joining = replace(joining, name="j", initial_cluster=cluster, initial_cluster_state="existing")

    async def scenario() -> None:
        nodes: list[Node] = []
        async with running(config) as first:
            await added(first[0], joining)
            members = [replica_of(node).machine.members for node in first]
            await until(lambda: all(len(one) == 4 for one in members))
            for node in first[1:]:
                await node.stop()
            async with starting(joining):
                await until(lambda: len(noted(first[0])) == 4)
            if wiped:
                shutil.rmtree(joining.data_dir)
            nodes = [*map(Node, config[1:]), Node(joining)]
            try:
                await asyncio.gather(*(node.start() for node in nodes[:2]))
                if wiped:
                    with pytest.raises(CorruptionError, match="raftctl member remove"):
                        await nodes[2].start()
                else:
                    await nodes[2].start()
                    await until(lambda: published(nodes[2]))
            finally:
                await asyncio.gather(*(node.stop() for node in nodes))

    asyncio.run(scenario())


def noted(node: Node) -> dict[int, tuple[int, int]]:
    """The directories that a member has met or noted, its own among them."""
    assert node._peers is not None
    return node._peers._known._met


# --- what the asker makes of the answers ----------------------------------------


class Others:
    """Members that answer what they are told to; those not listed say nothing."""

    def __init__(self, answers: dict[int, Answer]) -> None:
        self.answers = answers
        self.rounds = 0
        self.each_round: Callable[[], None] = lambda: None

    async def ask(self, url: str, request: peer_pb2.IdentifyRequest, context: object) -> Answer:
        number = next(one for one, urls in OTHERS.items() if url in urls)
        return self.answers.get(number, "no answer")

    async def pause(self, seconds: float) -> None:
        self.rounds += 1
        if self.rounds > 2 * identify.STRANGER_ROUNDS:
            raise TimeoutError
        self.each_round()


def yes(number: int, incarnation: int = MINE, known: int = SELF, cluster: int = CLUSTER) -> Answer:
    return peer_pb2.IdentifyReply(
        cluster_id=cluster, member_id=number, your_id=known, your_incarnation=incarnation
    )


def confirm(others: Others, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identify, "ask", others.ask)
    request = peer_pb2.IdentifyRequest(cluster_id=CLUSTER, member_id=SELF, incarnation=MINE)
    asyncio.run(identify.confirm_fresh(request, OTHERS, None, others.pause))


def test_a_new_directory_waits_for_a_majority_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R33: two of four others are no majority, three are."""
    few = Others({1: yes(1), 2: yes(2)})
    with pytest.raises(TimeoutError):
        confirm(few, monkeypatch)
    few.rounds = 0
    few.each_round = lambda: few.answers.update({4: yes(4)})
    confirm(few, monkeypatch)
    assert few.rounds == 1


@pytest.mark.parametrize(
    "other",
    [
        yes(4, cluster=1),  # another cluster on this port
        yes(3),  # the member of another port
        yes(4, known=0, incarnation=0),  # it does not know of this member yet
        yes(4, incarnation=0),  # it has noted nothing
        yes(4, known=77, incarnation=99),  # it lags: these peer URLs were a removed member's
    ],
    ids=["cluster", "member", "unknown", "not noted", "former member of this address"],
)
def test_an_answer_that_promises_nothing_does_not_count(
    monkeypatch: pytest.MonkeyPatch, other: Answer
) -> None:
    with pytest.raises(TimeoutError):
        confirm(Others({1: yes(1), 2: yes(2), 4: other}), monkeypatch)


def test_one_member_that_knows_another_directory_is_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(CorruptionError, match="raftctl member remove 9"):
        confirm(Others({1: yes(1), 2: yes(2), 3: yes(3, incarnation=ANOTHER)}), monkeypatch)


def join(others: Others, monkeypatch: pytest.MonkeyPatch) -> peer_pb2.IdentifyReply:
    monkeypatch.setattr(identify, "ask", others.ask)
    request = peer_pb2.IdentifyRequest(peer_urls=["http://me:1"])
    urls = [url for urls in OTHERS.values() for url in urls]
    return asyncio.run(identify.join(urls, request, None, others.pause))


def test_a_joiner_is_not_turned_away_by_one_member_that_lags_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    behind = yes(1, known=0, incarnation=0)
    assert join(Others({1: behind, 2: yes(2, incarnation=0)}), monkeypatch).your_id == SELF
    with pytest.raises(ConfigError, match="add it first"):
        join(Others({1: behind}), monkeypatch)
    strangers = Others({number: yes(number, known=0, incarnation=0) for number in (1, 2, 3)})
    with pytest.raises(ConfigError, match="add it first"):
        join(strangers, monkeypatch)
    assert strangers.rounds == 0


def test_a_joiner_is_not_taken_for_the_former_member_of_its_address_by_one_that_lags(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    behind = yes(1, known=77, incarnation=ANOTHER)
    assert join(Others({1: behind, 2: yes(2, incarnation=0)}), monkeypatch).your_id == SELF
    with pytest.raises(CorruptionError, match="raftctl member remove 4d"):
        join(Others({1: behind}), monkeypatch)


def test_a_joiner_whose_directory_is_known_is_told_how_to_rejoin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(CorruptionError, match="raftctl member remove 9"):
        join(Others({1: yes(1, known=0, incarnation=0), 2: yes(2)}), monkeypatch)
