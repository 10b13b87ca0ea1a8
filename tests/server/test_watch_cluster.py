"""Watches and what happens to a cluster: lost leaders, installed states, clients that move."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raftkv.config import parse_url
from raftkv.raft.types import NOBODY
from raftkv.server.node import Node
from raftkv.server.services.longstreams import LongStreams
from tests.processes import free_ports
from tests.server.harness import Client, configs, published, replica_of, running, until
from tests.server.proxies import Proxy
from tests.server.watching import WatchClient, create, hub, progress

END = b"l"


async def put_some(client: Client, count: int) -> None:
    """So many puts of some keys."""
    for one in range(count):
        await client.put(b"k%d" % (one % 3), b"%d" % one)


def leader_of(nodes: list[Node]) -> Node:
    """Who leads."""
    return next(node for node in nodes if replica_of(node).is_leader)


def test_a_client_that_moves_on_from_its_last_revision_misses_and_repeats_nothing(
    tmp_path: Path,
) -> None:
    """W01, W02: 60 moves at random between members, some of which are behind."""

    async def scenario() -> None:
        source = random.Random(7)
        async with running(configs(3, tmp_path)) as nodes:
            writer = await Client.connect(leader_of(nodes))
            total = 600
            task = asyncio.create_task(put_some(writer, total))
            seen: list[int] = []
            while len(seen) < total:
                client = await WatchClient.to(source.choice(nodes))
                watch = client.watch()
                await watch.create(b"k", END, start_revision=seen[-1] + 1 if seen else 2)
                wanted = source.randrange(1, 20)
                while wanted > 0 and len(seen) < total:
                    found = await watch.events(1)
                    seen += [event.kv.mod_revision for event in found]
                    wanted -= len(found)
                client.close()
            assert seen == list(range(2, total + 2))
            await task
            writer.close()

    asyncio.run(scenario())


def test_a_stream_that_wants_a_leader_ends_without_one_and_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W15: after three looks, an election timeout apart, that found none."""
    looks: list[bool] = []
    look = LongStreams._look

    def noting(self: LongStreams) -> None:
        looks.append(self._driver.replica.leader == NOBODY)
        look(self)

    monkeypatch.setattr(LongStreams, "_look", noting)

    async def scenario() -> None:
        config = configs(3, tmp_path)
        nodes = [Node(one) for one in config]
        await asyncio.gather(*(node.start() for node in nodes))
        await until(lambda: all(published(node) for node in nodes))
        kept = nodes[0]
        client = await WatchClient.to(kept)
        wanting, patient = client.watch((b"hasleader", b"true")), client.watch()
        await wanting.create(b"k")
        await patient.create(b"k")
        await asyncio.gather(*(node.stop() for node in nodes[1:]))
        assert await wanting.end() == (14, "etcdserver: no leader")
        assert looks[-3:] == [True] * 3
        assert looks[-4:-3] != [True], "no later than that"
        late = client.watch((b"hasleader", b"true"))
        assert await late.end() == (14, "etcdserver: no leader")
        assert await client.watch().create(b"k") == 0  # the applied state can be watched
        assert patient.ended is None
        nodes[1] = Node(config[1])
        await nodes[1].start()
        await until(lambda: replica_of(kept).leader != 0)
        writer = await Client.connect(leader_of([kept, nodes[1]]))
        await writer.put(b"k", b"v")
        assert len(await patient.events(1)) == 1
        assert await client.watch((b"hasleader", b"true")).create(b"k") == 0
        for one in (client, writer):
            one.close()
        await asyncio.gather(kept.stop(), nodes[1].stop())

    asyncio.run(scenario())


def test_one_election_ends_no_stream(tmp_path: Path) -> None:
    """W15."""

    async def scenario() -> None:
        async with running(configs(3, tmp_path)) as nodes:
            old = leader_of(nodes)
            kept = next(node for node in nodes if node is not old)
            client = await WatchClient.to(kept)
            watch = client.watch((b"hasleader", b"true"))
            await watch.create(b"k")
            await old.stop()
            rest = [node for node in nodes if node is not old]
            await until(lambda: any(replica_of(node).is_leader for node in rest))
            writer = await Client.connect(leader_of(rest))
            await writer.put(b"k", b"v")
            assert len(await watch.events(1)) == 1
            assert watch.ended is None
            for one in (client, writer):
                one.close()

    asyncio.run(scenario())


@asynccontextmanager
async def cut_off(path: Path) -> AsyncIterator[tuple[list[Node], Proxy]]:
    """Three members that keep little of their log; what comes in to the third passes a proxy."""
    plain = configs(
        3,
        path,
        snapshot_count=20,
        heartbeat_interval_ms=50,
        election_timeout_ms=1000,
        watch_progress_notify_interval_seconds=0.1,
    )
    public = plain[2].listen_peer_urls[0].port
    (private,) = free_ports(1)
    plain[2] = replace(plain[2], listen_peer_urls=(parse_url(f"http://127.0.0.1:{private}"),))
    proxy = Proxy(private)
    await proxy.start(public)
    nodes = [Node(one) for one in plain]
    try:
        await asyncio.gather(*(node.start() for node in nodes))
        await until(lambda: all(published(node) for node in nodes))
        if replica_of(nodes[2]).is_leader:
            replica: Any = replica_of(nodes[2])
            replica.core.transfer(replica.transfer_target())
            await until(lambda: any(replica_of(node).is_leader for node in nodes[:2]))
        yield nodes, proxy
    finally:
        await asyncio.gather(*(node.stop() for node in nodes))
        await proxy.stop()


def test_watches_live_through_a_state_that_is_installed_under_them(tmp_path: Path) -> None:
    """W18, W07: every event once and in order; one of the future still waits for its start."""

    async def scenario() -> None:
        async with cut_off(tmp_path) as (nodes, proxy):
            third = nodes[2]
            writer = await Client.connect(leader_of(nodes[:2]))
            await put_some(writer, 10)
            client = await WatchClient.to(third)
            watch, late = client.watch(), client.watch()
            await watch.create(b"k", END, start_revision=2)
            await late.create(b"k", END, start_revision=180, progress_notify=True)
            await watch.events(10)
            before = replica_of(third).machine
            proxy.refusing = True
            proxy.cut()
            await put_some(writer, 150)
            watch.send(progress())
            await until(lambda: watch.responses[-1].watch_id == -1)
            leader = replica_of(leader_of(nodes[:2]))
            await until(lambda: leader.core.log.anchor_index > before.applied_index + 1)
            proxy.refusing = False
            await until(lambda: replica_of(third).machine is not before)
            await until(lambda: hub(third).behind == 0)
            await put_some(writer, 50)
            await until(lambda: watch.responses[-1].header.revision >= 211)
            await until(lambda: late.responses[-1].header.revision >= 211)
            found = [
                (event.kv.mod_revision, event.kv.value)
                for answer in watch.responses
                for event in answer.events
            ]
            values = [*range(10), *range(150), *range(50)]
            assert found == [(2 + at, b"%d" % value) for at, value in enumerate(values)]
            bookmark = next(one for one in watch.responses if one.watch_id == -1)
            assert bookmark.header.revision == 11
            first = late.responses[1]
            assert first.events[0].kv.mod_revision == 180
            assert first.header.revision >= 180
            for one in (client, writer):
                one.close()

    asyncio.run(scenario())


def test_a_member_that_is_behind_never_takes_a_watch_back_in_time(tmp_path: Path) -> None:
    """W02: a client that comes with a revision this member has not reached waits for it."""

    async def scenario() -> None:
        async with cut_off(tmp_path) as (nodes, proxy):
            third = nodes[2]
            writer = await Client.connect(leader_of(nodes[:2]))
            await put_some(writer, 10)
            await until(lambda: replica_of(third).machine.revision == 11)
            proxy.refusing = True
            proxy.cut()
            await put_some(writer, 150)
            client = await WatchClient.to(third)
            watch = client.watch()
            watch.send(create(b"k", END, start_revision=161, progress_notify=True))
            created = await watch.next()
            assert created.header.revision == 11
            await asyncio.sleep(0.3)  # some intervals of bookmarks
            assert len(watch.responses) == 1
            proxy.refusing = False
            (event,) = await watch.events(1)
            assert event.kv.mod_revision == 161
            for one in (client, writer):
                one.close()

    asyncio.run(scenario())
