"""What calls cost in things that can be counted: tasks, futures, syncs, turns, writes."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from raftkv.pb import rpc_pb2
from raftkv.replica.effects import Effects
from raftkv.server.node import Node
from tests.server.harness import Client, configs, replica_of, running

PUTS = 200


class CountingLoop:
    """Counts the tasks and futures that a loop makes."""

    def __init__(self, loop: Any, monkeypatch: Any) -> None:
        self.tasks = 0
        self.futures = 0
        create_task, create_future = loop.create_task, loop.create_future

        def count_task(*args: Any, **options: Any) -> Any:
            self.tasks += 1
            return create_task(*args, **options)

        def count_future() -> Any:
            self.futures += 1
            return create_future()

        monkeypatch.setattr(loop, "create_task", count_task)
        monkeypatch.setattr(loop, "create_future", count_future)


def test_a_put_makes_no_task_and_no_future_on_the_server(tmp_path: Path, monkeypatch: Any) -> None:
    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,):
            client = await Client.connect(node)
            await client.put(b"warm", b"up")
            done = [0]
            client.finished = lambda *_: done.__setitem__(0, done[0] + 1)  # type: ignore[method-assign]
            counting = CountingLoop(asyncio.get_running_loop(), monkeypatch)
            for one in range(PUTS):
                request = rpc_pb2.PutRequest(key=b"k%d" % one, value=b"v")
                client.connection.request(
                    b"/etcdserverpb.KV/Put", request.SerializeToString(), end=True
                )
            client.flush()
            while done[0] < PUTS:
                await asyncio.sleep(0)
            assert counting.tasks == 0
            assert counting.futures == 0
            client.close()

    asyncio.run(scenario())


def test_puts_of_one_burst_share_one_sync_one_turn_and_one_write(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,):
            assert node.driver is not None
            client = await Client.connect(node)
            await client.put(b"warm", b"up")
            log = node.driver.directory.log
            syncs, turns = log.syncs, node.driver.turns
            writes = [0]
            for connection in node.clients.connections:  # type: ignore[union-attr]
                count_writes(connection, writes)
            answers = [
                client.start("/etcdserverpb.KV/Put", rpc_pb2.PutRequest(key=b"k%d" % one))
                for one in range(PUTS)
            ]
            client.flush()
            await asyncio.gather(*answers)
            # The burst may arrive in a few chunks; it must not cost a sync or a write per put.
            assert log.syncs - syncs <= PUTS // 20
            assert writes[0] <= node.driver.turns - turns
            client.close()

    asyncio.run(scenario())


def test_a_put_alone_takes_two_turns(tmp_path: Path) -> None:
    """One appends it, one applies and answers it; the answer needs no third to be written."""

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,):
            assert node.driver is not None
            client = await Client.connect(node)
            await client.put(b"warm", b"up")
            turns, ticks = node.driver.turns, [0]
            tick = node.driver.replica.tick

            def count_tick() -> None:
                ticks[0] += 1
                tick()

            node.driver.replica.tick = count_tick  # type: ignore[method-assign]
            for one in range(PUTS):
                await client.put(b"k", b"%d" % one)
            assert node.driver.turns - turns <= 2 * PUTS + ticks[0]
            client.close()

    asyncio.run(scenario())


def test_no_turn_on_the_leader_of_a_cluster_finds_nothing_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What appends a put and sends it leaves nothing for a turn before the answers."""

    async def scenario() -> None:
        slow = {"heartbeat_interval_ms": 100, "election_timeout_ms": 1000}
        async with running(configs(3, tmp_path, **slow)) as nodes:
            leader = next(node for node in nodes if replica_of(node).is_leader)
            client = await Client.connect(leader)
            await client.put(b"warm", b"up")
            counts = Counts(leader, monkeypatch)
            for one in range(PUTS):
                await client.put(b"k", b"%d" % one)
            assert counts.turns >= 2 * PUTS
            assert counts.empty_turns <= PUTS // 5 + counts.ticks
            client.close()

    asyncio.run(scenario())


def count_writes(connection: Any, writes: list[int]) -> None:
    """Counts the writes of a connection's transport."""
    transport = connection._transport

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(transport, name)

        def write(self, data: bytes) -> None:
            writes[0] += 1
            transport.write(data)

    connection._transport = Counting()


def test_every_sync_of_the_log_belongs_to_a_batch(tmp_path: Path) -> None:
    """One synced write per flush, and no flush without something to write."""

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,):
            assert node.driver is not None
            client = await Client.connect(node)
            log = node.driver.directory.log
            await client.put(b"warm", b"up")
            before = log.syncs
            for one in range(10):
                await client.put(b"k", b"%d" % one)
            assert log.syncs - before == 10
            client.close()

    asyncio.run(scenario())


KEEPALIVES = 200


class Counts:
    """What a member does from now on, beside its ticks."""

    def __init__(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        assert node.driver is not None
        self.turns = self.full_turns = self.empty_turns = self.ticks = 0
        self.client_writes, self.peer_writes = [0], [0]
        replica = replica_of(node)
        turn, tick = replica.turn, replica.tick

        def count_turn(now: float) -> Effects:
            effects: Effects = turn(now)
            self.turns += 1
            self.full_turns += not effects.brief
            told = effects.messages or effects.after or effects.replies
            self.empty_turns += not (told or effects.batch or effects.applied or effects.news)
            return effects

        def count_tick() -> None:
            self.ticks += 1
            tick()

        monkeypatch.setattr(replica, "turn", count_turn)
        monkeypatch.setattr(replica, "tick", count_tick)
        assert node.clients is not None
        for client in node.clients.connections:
            count_writes(client, self.client_writes)
        for link in node.driver.peers.links.values():  # type: ignore[union-attr]
            count_writes(link, self.peer_writes)


class Renewer:
    """A stream that renews one lease, one question at a time."""

    def __init__(self, client: Client, lease: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.client = client
        self.answers: list[bytes] = []
        monkeypatch.setattr(client, "message", lambda _, message: self.answers.append(message))
        self._request = rpc_pb2.LeaseKeepAliveRequest(ID=lease).SerializeToString()
        self._stream = client.connection.request(b"/etcdserverpb.Lease/LeaseKeepAlive")

    async def renew(self) -> None:
        """One renewal."""
        wanted = len(self.answers) + 1
        self.client.connection.send(self._stream, self._request)
        self.client.flush()
        while len(self.answers) < wanted:
            await asyncio.sleep(0)
        answer = rpc_pb2.LeaseKeepAliveResponse.FromString(self.answers[-1])
        assert answer.TTL == 60


def test_a_keepalive_takes_a_brief_turn_and_a_write_at_each_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the leader one turn answers it. At a follower one turn asks and another one answers, and
    the leader spends one turn and one write of a peer message. No tasks, futures or entries.
    """

    async def scenario() -> None:
        slow = {"heartbeat_interval_ms": 100, "election_timeout_ms": 1000}
        async with running(configs(3, tmp_path, **slow)) as nodes:
            leader = next(node for node in nodes if replica_of(node).is_leader)
            follower = next(node for node in nodes if not replica_of(node).is_leader)
            asker = await Client.connect(leader)
            grant = rpc_pb2.LeaseGrantRequest(ID=5, TTL=60)
            await asker.call("/etcdserverpb.Lease/LeaseGrant", grant)
            for entered in (leader, follower):
                client = await Client.connect(entered)
                renewer = Renewer(client, 5, monkeypatch)
                for _ in range(3):  # the first ones are an entry of the log, and header blocks
                    await renewer.renew()
                await asyncio.sleep(0.3)
                index = replica_of(leader).core.last_index
                with monkeypatch.context() as patch:
                    led, followed = Counts(leader, patch), Counts(follower, patch)
                    counting = CountingLoop(asyncio.get_running_loop(), patch)
                    for _ in range(KEEPALIVES):
                        await renewer.renew()
                assert (counting.tasks, counting.futures) == (0, 0)
                assert replica_of(leader).core.last_index == index
                at_leader = entered is leader
                _check(
                    led, KEEPALIVES, KEEPALIVES if at_leader else 0, 0 if at_leader else KEEPALIVES
                )
                asked = 0 if at_leader else KEEPALIVES
                _check(followed, 2 * asked, asked, asked)
                client.close()
            asker.close()

    asyncio.run(scenario())


def _check(counts: Counts, turns: int, client_writes: int, peer_writes: int) -> None:
    """Exactly this much, but for the beat of the ticks and the heartbeats."""
    beats = 4 * (counts.ticks + 1)
    assert turns <= counts.turns <= turns + beats
    assert counts.full_turns <= beats
    assert counts.client_writes[0] == client_writes
    assert peer_writes <= counts.peer_writes[0] <= peer_writes + beats


def test_a_reply_is_with_the_kernel_before_the_watchers_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their number does not delay who has written."""

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,):
            assert node.driver is not None
            writer, watcher = await Client.connect(node), await Client.connect(node)
            await writer.put(b"warm", b"up")
            events: list[bytes] = []
            monkeypatch.setattr(watcher, "message", lambda _, message: events.append(message))
            stream = watcher.connection.request(b"/etcdserverpb.Watch/Watch")
            create = rpc_pb2.WatchCreateRequest(key=b"k")
            request = rpc_pb2.WatchRequest(create_request=create)
            watcher.connection.send(stream, request.SerializeToString())
            watcher.flush()
            while not events:
                await asyncio.sleep(0)
            order: list[str] = []
            hub = node.driver.watches.watches
            publish = hub.publish

            def note_publish(changes: Any, revision: int) -> None:
                order.append("published")
                publish(changes, revision)

            monkeypatch.setattr(hub, "publish", note_publish)
            for connection in node.clients.connections:  # type: ignore[union-attr]
                note_writes(connection, order)
            for one in range(20):
                order.clear()
                seen = len(events)
                await writer.put(b"k", b"%d" % one)
                while len(events) == seen:
                    await asyncio.sleep(0)
                assert order == ["written", "published", "written"]
            writer.close()
            watcher.close()

    asyncio.run(scenario())


def note_writes(connection: Any, order: list[str]) -> None:
    """Notes the writes of a connection's transport."""
    transport = connection._transport

    class Noting:
        def __getattr__(self, name: str) -> Any:
            return getattr(transport, name)

        def write(self, data: bytes) -> None:
            order.append("written")
            transport.write(data)

    connection._transport = Noting()
