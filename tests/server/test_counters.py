"""What a member counts of leases and watches, as the composition root gives it."""

import asyncio
from pathlib import Path

from raftkv.pb import rpc_pb2
from tests.server.harness import Client, configs, running, until
from tests.server.leasing import lease_client
from tests.server.watching import Reluctant, WatchClient, create


def test_a_member_counts_the_calls_of_its_clients(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,):
            client = await Client.connect(node)
            for _ in range(3):
                await client.put(b"k", b"v")
            await client.call("/etcdserverpb.KV/Range", rpc_pb2.RangeRequest(key=b"k"))
            gone = rpc_pb2.DeleteRangeRequest(key=b"k")
            await client.call("/etcdserverpb.KV/DeleteRange", gone)
            await client.call("/etcdserverpb.KV/Txn", rpc_pb2.TxnRequest())
            counted = node.counters()
            names = ("puts_total", "ranges_total", "deletes_total", "txns_total")
            assert [counted[name] for name in names] == [3, 1, 1, 1]
            client.close()

    asyncio.run(scenario())


def test_a_member_counts_its_leases_and_watches(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,), lease_client(node) as client:
            before = node.counters()
            for name in ("leases", "lease_streams", "watch_streams", "watchers"):
                assert before[name] == 0, name
            for lease in (7, 8, 9):
                await client.grant(60, lease)
            await client.put_with_ttl(b"short", 600)
            stream = client.stream()
            for lease in (7, 7, 8, 404):
                await stream.renew(lease)
            await client.revoke(9)
            counted = node.counters()
            assert counted["leases_granted_total"] == 4
            assert counted["leases_revoked_total"] == 1
            assert counted["lease_renewals_total"] == 3
            assert counted["lease_streams"] == 1
            await until(lambda: node.counters()["leases_expired_total"] == 1)
            assert node.counters()["leases"] == 2
            assert node.counters()["lease_questions"] == 0
            await stream.call.done_writing()
            assert await stream.end() == ("OK", "")
            await until(lambda: node.counters()["lease_streams"] == 0)

            watcher = await WatchClient.to(node)
            watch = watcher.watch()
            await watch.create(b"a")
            await watch.create(b"a", b"z")
            other = watcher.watch()
            await other.create(b"b")
            await watcher.put(b"a", b"1")
            await watch.events(2)
            counted = node.counters()
            assert counted["watch_streams"] == 2
            assert counted["watchers"] == 3
            assert counted["watch_events_total"] == 2
            assert counted["watchers_slow"] == counted["watch_backlog_revisions"] == 0
            watcher.close()
            await until(lambda: node.counters()["watchers"] == 0)
            assert node.counters()["watch_streams"] == 0
            assert node.counters()["watch_events_total"] == 2
            assert all(type(value) is int for value in node.counters().values())

    asyncio.run(scenario())


def test_a_watch_that_nobody_reads_shows_in_the_counters(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,):
            reader = await Reluctant.to(node)
            reader.open(create(b"k"))
            await until(lambda: node.counters()["watchers"] == 1)
            writer = await WatchClient.to(node)
            for number in range(12):
                await writer.put(b"k", bytes([number]) * 1_000_000)
            counted = node.counters()
            assert counted["watchers_slow"] == 1
            assert counted["watch_stalls_total"] >= 1
            assert 0 < counted["watch_backlog_revisions"] <= 12
            reader.close()
            writer.close()

    asyncio.run(scenario())
