"""What a put costs in things that can be counted: tasks, futures, syncs, writes."""

import asyncio
from pathlib import Path
from typing import Any

from raftkv.pb import rpc_pb2
from tests.server.harness import Client, configs, running

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
