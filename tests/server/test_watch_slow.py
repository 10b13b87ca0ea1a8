"""Clients that read slowly or not at all: what they cost, and what the others notice."""

import asyncio
from pathlib import Path
from typing import Any

from raftkv import limits
from raftkv.pb import rpc_pb2
from tests.server.harness import configs, running, until
from tests.server.watching import Reluctant, WatchClient, create, hub

VALUE_BYTES = 32 * 1024
BIG = b"x" * VALUE_BYTES


async def put_many(client: WatchClient, key: bytes, count: int) -> None:
    """So many versions of a key, with long values."""
    for first in range(0, count, 20):
        puts = [
            client.start("/etcdserverpb.KV/Put", rpc_pb2.PutRequest(key=key, value=BIG))
            for _ in range(min(20, count - first))
        ]
        client.flush()
        await asyncio.gather(*puts)


def queued(node: Any) -> int:
    """Bytes held for all clients."""
    return sum(one.connection.queued_total() for one in node.clients.connections)


def test_a_client_that_never_reads_costs_a_bounded_queue_and_gets_everything_later(
    tmp_path: Path,
) -> None:
    """W13, W05: 7 MiB of events; another watch, on the same connection too, notices nothing."""
    count = 240

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,):
            writer = await WatchClient.to(node)
            slow = await Reluctant.to(node)
            stuck = slow.open(create(b"big"))
            lively = slow.open(create(b"big"))
            slow.free(lively)
            other = writer.watch()
            await other.create(b"big")
            await until(lambda: slow.responses(stuck) and slow.responses(lively))
            assert node.clients is not None
            (server,) = (one for one in node.clients.connections if one.connection.open_streams > 1)
            most = 0
            for _ in range(count // 20):
                await put_many(writer, b"big", 20)
                most = max(most, server.connection.queued(stuck))
            assert len(await other.events(count)) == count
            await until(lambda: len(slow.events(lively)) == count)
            assert len(slow.events(stuck)) < 5
            batch = 20 * VALUE_BYTES  # what one turn may add to a queue that is not full
            assert most < limits.WATCH_STREAM_BYTES + 2 * batch
            assert hub(node).behind == 1
            assert hub(node).backlog > count // 2
            slow.free(stuck)
            await until(lambda: len(slow.events(stuck)) == count)
            revisions = [event.kv.mod_revision for event in slow.events(stuck)]
            assert revisions == list(range(2, count + 2))
            assert hub(node).behind == 0
            await put_many(writer, b"big", 1)
            await until(lambda: len(slow.events(stuck)) == count + 1)
            slow.close()
            writer.close()

    asyncio.run(scenario())


def test_a_slow_watch_that_compaction_overtakes_is_cancelled_with_the_revision(
    tmp_path: Path,
) -> None:
    """W06: it is told when it reads again, behind what was queued; no event is left out."""
    count = 200

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,):
            writer = await WatchClient.to(node)
            slow = await Reluctant.to(node)
            stuck = slow.open(create(b"big", progress_notify=True), create(b"small"))
            await until(lambda: len(slow.responses(stuck)) == 2)
            await put_many(writer, b"big", count)
            await until(lambda: hub(node).behind == 1)
            request = rpc_pb2.CompactionRequest(revision=count)
            await writer.call("/etcdserverpb.KV/Compact", request)
            await until(lambda: hub(node).count == 1)
            slow.free(stuck)
            await until(lambda: any(one.canceled for one in slow.responses(stuck)))
            revisions = [event.kv.mod_revision for event in slow.events(stuck)]
            assert revisions == list(range(2, 2 + len(revisions)))
            assert len(revisions) < count - 2
            last = slow.responses(stuck)[-1]
            assert (last.watch_id, last.compact_revision) == (0, count)
            assert last.header.revision == 0
            await writer.put(b"small", b"")
            await until(lambda: len(slow.events(stuck, 1)) == 1)
            slow.close()
            writer.close()

    asyncio.run(scenario())


def test_a_watch_that_catches_up_does_not_hold_up_the_others_of_its_stream(
    tmp_path: Path,
) -> None:
    """W05: an event of now comes before the rest of 20 MiB of history, on one stream."""
    count = 640

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,):
            writer = await WatchClient.to(node)
            await put_many(writer, b"big", count)
            slow = await Reluctant.to(node)
            stream = slow.open(create(b"small"), create(b"big", start_revision=2))
            await until(lambda: slow.received[stream] > 60_000)
            await writer.put(b"small", b"")
            before = slow.received[stream]
            while not slow.events(stream, 0):
                received = slow.received[stream]
                slow.allow(stream, 65_536)
                await until(lambda received=received: slow.received[stream] >= received + 60_000)
            assert slow.received[stream] - before < 2.5 * limits.WATCH_STREAM_BYTES
            assert len(slow.events(stream, 1)) < count // 4
            slow.free(stream)
            await until(lambda: len(slow.events(stream, 1)) == count)
            revisions = [event.kv.mod_revision for event in slow.events(stream, 1)]
            assert revisions == list(range(2, count + 2))
            slow.close()
            writer.close()

    asyncio.run(scenario())


def test_many_streams_that_are_not_read_are_bounded_together(tmp_path: Path) -> None:
    """W13: their queues stop far below what would cost the client its connection."""

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,):
            writer = await WatchClient.to(node)
            await put_many(writer, b"big", 64)
            slow = await Reluctant.to(node)
            streams = [slow.open(create(b"big", start_revision=2)) for _ in range(56)]
            await until(lambda: hub(node).behind == 56 and not hub(node)._waiting)
            await put_many(writer, b"big", 16)
            assert queued(node) < 1.25 * limits.WATCH_CONNECTION_BYTES
            assert not slow.closed
            for stream in streams[10:]:
                slow.drop(stream)
            for stream in streams[:10]:
                slow.free(stream)
            await until(lambda: all(len(slow.events(one)) == 80 for one in streams[:10]))
            slow.close()
            writer.close()

    asyncio.run(scenario())
