"""Elections beyond what one client can compare with etcd: observers, ghosts, dead leases."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import grpc
import pytest

from raftkv.pb import election_pb2, rpc_pb2
from raftkv.server.services import election as service
from tests.server.harness import configs, replica_of, running, until
from tests.server.leasing import followers, leader
from tests.server.queueing import NAME, failure, party


async def told(stream: Any) -> tuple[bytes, bytes]:
    """(key, value) of what an observer is told next."""
    answer = await asyncio.wait_for(stream.read(), 60)
    return answer.kv.key, answer.kv.value


@pytest.mark.parametrize("members", [1, 3])
def test_a_candidate_whose_lease_died_in_the_queue_does_not_lead(
    tmp_path: Path, members: int
) -> None:
    """C04: where etcd 3.5 answers that it does."""

    async def scenario() -> None:
        async with (
            running(configs(members, tmp_path)) as nodes,
            party(nodes[0]) as first,
            party(nodes[-1]) as second,
        ):
            leading = await first.campaign(await first.lease(), b"1")
            dying = await second.lease()
            task = asyncio.ensure_future(failure(second.campaigning(dying, b"2")))
            await first.wait_for(2)
            await first.revoke(dying)
            await first.resign(leading)
            assert await task == ("UNKNOWN", "election: not leader")
            assert await first.keys() == []

    asyncio.run(scenario())


def test_a_leader_key_without_a_key_is_refused(tmp_path: Path) -> None:
    """What a client makes up is checked like any transaction, before it is in the log."""

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,), party(node) as client:
            before = replica_of(node).machine.applied_index
            empty = election_pb2.LeaderKey()
            expected = ("UNKNOWN", "etcdserver: key is not provided")
            assert await failure(client.resign(empty)) == expected
            empty.lease = 5
            assert await failure(client.proclaim(empty, b"v")) == expected
            assert replica_of(node).machine.applied_index == before

    asyncio.run(scenario())


def test_a_campaign_cancelled_in_the_queue_leaves_no_ghost(tmp_path: Path) -> None:
    """C09: nobody is elected who has given up, whichever member the call was at."""

    async def scenario() -> None:
        async with (
            running(configs(3, tmp_path)) as nodes,
            party(nodes[0]) as first,
            party(nodes[1]) as second,
            party(nodes[2]) as third,
        ):
            leading = await first.campaign(await first.lease(), b"1")
            ghost = second.campaigning(await second.lease(), b"ghost")
            task = asyncio.ensure_future(failure(ghost))
            await first.wait_for(2)
            lease = await third.lease()
            next_one = asyncio.ensure_future(third.campaign(lease, b"3"))
            await first.wait_for(3)
            ghost.cancel()
            assert (await task)[0] == "CANCELLED"
            await first.wait_for(2)
            await first.resign(leading)
            assert (await next_one).lease == lease
            assert [pair.value for pair in await first.pairs()] == [b"3"]

    asyncio.run(scenario())


def test_an_observer_is_told_every_value_in_order(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(configs(3, tmp_path)) as nodes, party(nodes[0]) as client:
            streams = [party(node) for node in nodes]
            observers = [(await one.__aenter__()).observe() for one in streams]
            for term in range(4):
                leading = await client.campaign(await client.lease(), b"%d" % term)
                for observer in observers:  # the first time it says that they have begun
                    assert (await told(observer))[1] == b"%d" % term
                values = [b"%d.%d" % (term, number) for number in range(3)]
                for value in values:
                    await client.proclaim(leading, value)
                for observer in observers:
                    assert [(await told(observer))[1] for _ in values] == values
                await client.resign(leading)
            for one in streams:
                await one.__aexit__(None, None, None)

    asyncio.run(scenario())


def test_an_observer_never_hears_of_an_older_leader_after_a_newer_one(tmp_path: Path) -> None:
    """C08: while leaders change fast, the history is compacted, and observers come and go at all
    members, behind or not.
    """

    async def scenario() -> None:
        async with running(configs(3, tmp_path)) as nodes, party(nodes[0]) as client:
            over = False
            heard: list[list[tuple[int, int]]] = []

            async def observe(node: Any) -> None:
                newest = (0, 0)
                async with party(node) as observer:
                    while not over:
                        stream = observer.observe()
                        for _ in range(3):
                            try:
                                answer = await asyncio.wait_for(stream.read(), 2)
                            except TimeoutError:
                                break
                            seen = (answer.kv.create_revision, answer.kv.mod_revision)
                            assert seen >= newest, "also over a disconnect"
                            newest = seen
                            heard[-1].append(seen)
                        stream.cancel()

            async def compact() -> None:
                while not over:
                    revision = replica_of(nodes[0]).machine.revision
                    request = rpc_pb2.CompactionRequest(revision=revision)
                    await done(client.kv.Compact(request, timeout=60))
                    await asyncio.sleep(0.005)

            heard.append([])
            tasks = [asyncio.ensure_future(observe(node)) for node in nodes]
            tasks.append(asyncio.ensure_future(compact()))
            last = None
            for number in range(40):
                last = await client.campaign(await client.lease(), b"%d" % number)
                await client.proclaim(last, b"%d'" % number)
                if number < 39:
                    await client.resign(last)
            assert last is not None
            newest = (await client.pairs())[0]
            wanted = (newest.create_revision, newest.mod_revision)
            await until(lambda: wanted in heard[-1])
            over = True
            await asyncio.gather(*tasks)
            assert len(set(heard[-1])) > 3

    asyncio.run(scenario())


async def done(call: Any) -> None:
    """Compactions race with each other's revisions: that is no failure here."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        await call


def test_an_observer_that_does_not_read_costs_little_and_is_told_who_leads_when_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C08: values may be left out, the last one may not."""
    monkeypatch.setattr(service, "QUEUED_BYTES", 100_000)

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,), party(node) as client:
            leading = await client.campaign(await client.lease(), b"first")
            async with party(node, ("grpc.http2.bdp_probe", 0)) as slow:
                stream = slow.observe()
                assert (await told(stream))[1] == b"first"
                for number in range(150):
                    await client.proclaim(leading, b"%04d" % number * 5000)
                assert node.clients is not None
                queued = [one.connection.queued_total() for one in node.clients.connections]
                assert max(queued) < 200_000, "of 3 MB"
                values: list[bytes] = []
                while not values or values[-1] < b"0149":
                    values.append((await told(stream))[1][:4])
                assert values == sorted(values)
                assert len(values) < 150
                await client.proclaim(leading, b"again")
                assert (await told(stream))[1] == b"again"

    asyncio.run(scenario())


def test_an_observer_goes_on_through_a_change_of_the_leader(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(configs(3, tmp_path)) as nodes:
            old = leader(nodes)
            async with party(followers(nodes)[0]) as client:
                stream = client.observe()
                leading = await client.campaign(await client.lease(), b"1")
                assert (await told(stream))[1] == b"1"
                await old.stop()
                rest = [node for node in nodes if node is not old]
                await until(lambda: any(replica_of(node).is_leader for node in rest))
                await client.proclaim(leading, b"2")
                assert (await told(stream))[1] == b"2"

    asyncio.run(scenario())


def test_a_member_that_stops_ends_its_observers(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,), party(node) as client:
            stream = client.observe()
            await client.campaign(await client.lease(), b"1")
            await told(stream)
            await node.stop()
            assert await failure(stream.read()) == (
                "UNAVAILABLE",
                "etcdserver: server stopped",
            )

    asyncio.run(scenario())


def test_observers_and_waiters_that_are_gone_leave_no_watch(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,), party(node) as client:
            await client.campaign(await client.lease(), b"1")
            assert node.driver is not None
            watches = node.driver.watches.watches
            async with party(node) as gone:
                stream = gone.observe()
                await told(stream)
                candidate = gone.campaigning(await client.lease(), b"2")
                task = asyncio.ensure_future(failure(candidate))
                await client.wait_for(2)
                await until(lambda: watches.count == 3)
            await task
            await until(lambda: watches.count == 0)
            await client.wait_for(1)
            assert (await client.pairs())[0].key.startswith(NAME)

    asyncio.run(scenario())
