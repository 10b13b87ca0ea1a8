"""Watches in an event loop: what cancelling does to them."""

import asyncio

import pytest

from raftkv.client import ClientClosed, aio
from raftkv.client.aio.watch import Watch
from tests.client.conftest import Served
from tests.client.faces import Faces
from tests.processes import free_ports


def test_a_cancelled_next_loses_nothing(server: Served, prefix: str) -> None:
    """Given up again and again, also while the stream is being opened: all events come, once."""

    async def scenario() -> None:
        async with aio.Client(server.endpoints) as client:
            first = (await client.put(prefix + "k", "0")).revision
            watch = client.watch(prefix + "k", start_revision=first)

            async def write() -> None:
                for number in range(1, 101):
                    await client.put(prefix + "k", str(number))

            writing = asyncio.create_task(write())
            got: list[str] = []
            for attempt in range(10_000):
                try:
                    batch = await asyncio.wait_for(watch.next(), 0.0005 * (attempt % 4))
                except TimeoutError:
                    continue
                got += [event.text for event in batch]
                if len(got) > 100:
                    break
            await writing
            assert got == [str(number) for number in range(101)]
            await watch.close()

    asyncio.run(scenario())


def test_a_cancelled_iteration_can_be_taken_up_again(server: Served, prefix: str) -> None:
    async def scenario() -> None:
        async with aio.Client(server.endpoints) as client, client.watch(prefix + "k") as watch:
            got: list[str] = []

            async def read() -> None:
                async for batch in watch:
                    got.extend(event.text for event in batch)

            reading = asyncio.create_task(read())
            await client.put(prefix + "k", "1")
            while not got:
                await asyncio.sleep(0.005)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            await client.put(prefix + "k", "2")
            assert (await watch.next(60)).events[0].text == "2"

    asyncio.run(scenario())


def test_a_timeout_is_kept_although_no_connection_comes_about() -> None:
    """The endpoint accepts and says nothing; the user's time is shorter than any other."""

    async def scenario() -> None:
        port = free_ports(1)[0]

        async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.read(1000):
                pass
            writer.close()

        async with (
            await asyncio.start_server(swallow, "127.0.0.1", port),
            aio.Client(f"127.0.0.1:{port}", dial_timeout=40, timeout=40) as client,
        ):
            watch = client.watch("k")
            began = asyncio.get_running_loop().time()
            with pytest.raises(TimeoutError):
                await watch.next(0.3)
            assert asyncio.get_running_loop().time() - began < 20
            await watch.close()

    asyncio.run(scenario())


def test_a_cancelled_context_closes_its_watch(server: Served, prefix: str) -> None:
    async def scenario() -> None:
        async with aio.Client(server.endpoints) as client:
            watches: list[Watch] = []

            async def hold() -> None:
                async with client.watch(prefix + "k") as watch:
                    watches.append(watch)
                    await watch.next()

            holding = asyncio.create_task(hold())
            while not watches:
                await asyncio.sleep(0.005)
            holding.cancel()
            with pytest.raises(asyncio.CancelledError):
                await holding
            with pytest.raises(ClientClosed):
                await watches[0].next(60)
            for _ in range(2000):  # grpcio's own end soon after their call
                if len(asyncio.all_tasks()) == 1:
                    break
                await asyncio.sleep(0.01)
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(scenario())


def test_many_watches_of_one_loop_end_together(server: Served, prefix: str) -> None:
    faces = Faces("aio")
    client = faces(server.endpoints)
    watches = [client.watch(f"{prefix}{number}") for number in range(50)]
    for watch in watches:
        watch.open()
    client.put(prefix + "7", "x")
    assert watches[7].next(60).events[0].text == "x"
    faces.close()  # fails if a task is left
