"""The Lease service beyond what one client can compare with etcd: members, order, races."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

import raftkv.server.node
from raftkv import limits
from raftkv.pb import rpc_pb2
from raftkv.replica.replica import Replica
from raftkv.server.services import lease as service
from raftkv.server.services.lease import minimum_ttl_seconds
from tests.server.harness import Client, configs, replica_of, running, until
from tests.server.leasing import followers, leader, lease_client, lease_on
from tests.server.test_counting import CountingLoop, count_writes


@pytest.mark.parametrize(
    ("ticks", "tick_seconds", "expected"),
    [(10, 0.1, 2), (30, 0.1, 5), (10, 0.5, 8), (10, 0.02, 1), (13, 0.1, 2), (7, 1.0, 10)],
)
def test_the_minimum_ttl_is_one_and_a_half_election_timeouts(
    ticks: int, tick_seconds: float, expected: int
) -> None:
    assert minimum_ttl_seconds(ticks, tick_seconds) == expected


def test_a_clash_of_ids_that_the_server_chose_is_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another member may have granted the same id a moment ago."""

    async def scenario() -> None:
        async with (
            running(configs(1, tmp_path)) as (node,),
            lease_client(node) as client,
        ):
            taken = await client.grant(60, 4711)
            ids = iter([taken, taken, 815])
            monkeypatch.setattr(service, "choose_id", lambda _: next(ids))
            assert await client.grant(60) == 815
            assert sorted(await client.listed()) == [815, 4711]

    asyncio.run(scenario())


def test_a_chosen_id_is_positive_and_not_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Draws:
        def __init__(self) -> None:
            self.numbers = iter([0, 4711, 9])

        def getrandbits(self, bits: int) -> int:
            assert bits == 63
            return next(self.numbers)

    async def scenario() -> None:
        async with (
            running(configs(1, tmp_path)) as (node,),
            lease_client(node) as client,
        ):
            await client.grant(60, 4711)
            monkeypatch.setattr(service, "_choose", Draws())
            assert await client.grant(60) == 9

    asyncio.run(scenario())


def test_keys_and_list_are_as_new_as_what_any_member_has_acknowledged(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(configs(3, tmp_path)) as nodes:
            behind = followers(nodes)[0]
            async with lease_client(leader(nodes)) as writer, lease_client(behind) as reader:
                for number in range(1, 40):
                    lease = await writer.grant(60, number)
                    assert number in await reader.listed()
                    key = b"k%d" % number
                    await writer.put(key, lease)
                    answer = await reader.left(lease, keys=True)
                    assert (list(answer.keys), answer.grantedTTL) == ([key], 60)
                    assert 30 < answer.TTL <= 60

    asyncio.run(scenario())


def test_a_long_list_comes_whole_and_in_the_order_of_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "SLICE_LEASES", 7)

    async def scenario() -> None:
        async with (
            running(configs(1, tmp_path)) as (node,),
            lease_client(node) as client,
        ):
            ttls = {number: 100 + number * 37 % 101 for number in range(1, 101)}
            for number, ttl in ttls.items():
                await client.grant(ttl, number)
            assert await client.listed() == sorted(ttls, key=lambda one: ttls[one])

    asyncio.run(scenario())


def test_where_no_clock_runs_leases_are_listed_in_the_order_of_their_grants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same on every such member, however long the list is and whatever was renewed."""

    async def scenario() -> None:
        async with running(configs(3, tmp_path)) as nodes:
            ids = [number * 37 % 101 for number in range(1, 31)]
            async with lease_client(leader(nodes)) as client:
                for place, number in enumerate(ids):
                    await client.grant(100 + place * 7 % 11, number)
                await client.stream().renew(ids[3])
            for most in (1000, 30, 7):
                monkeypatch.setattr(service, "SLICE_LEASES", most)
                for node in followers(nodes):
                    async with lease_client(node) as reader:
                        assert await reader.listed() == ids
            async with lease_client(leader(nodes)) as client:
                assert sorted(await client.listed()) == sorted(ids)

    asyncio.run(scenario())


def test_more_long_lists_than_may_wait_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have the bounds of other long reads."""
    monkeypatch.setattr(service, "SLICE_LEASES", 3)

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,), lease_client(node) as client:
            for number in range(1, 6):
                await client.grant(60, number)
            monkeypatch.setattr(limits, "MAX_LONG_READS", 0)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await client.listed()
            assert refused.value.details() == "etcdserver: too many requests"
            await client.revoke(5)
            await client.revoke(4)
            await client.revoke(3)
            assert await client.listed() == [1, 2]  # short ones need no turns

    asyncio.run(scenario())


@pytest.mark.parametrize("member", [0, 1])
def test_answers_come_in_the_order_of_the_requests(tmp_path: Path, member: int) -> None:
    """The clock answers for the second lease at once, for the first one behind an entry (M07)."""

    async def scenario() -> None:
        async with running(configs(3, tmp_path)) as nodes:
            node = [leader(nodes), followers(nodes)[0]][member]
            async with lease_client(node) as client:
                silent = await client.grant(2)
                await until(lambda: lease_on(node, silent).remaining_ms > 0)
                lively = await client.grant(60)
                stream = client.stream()
                for _ in range(3):
                    for lease in (silent, lively, 99):
                        await stream.send(lease)
                expected = [(silent, 2), (lively, 60), (99, 0)] * 3
                assert [await stream.next() for _ in expected] == expected
                await stream.call.done_writing()
                assert await stream.end() == ("OK", "")

    asyncio.run(scenario())


def test_more_renewals_than_the_clock_is_asked_at_a_time_are_all_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raftkv.server.services.keepalive.ASKED", 10)

    async def scenario() -> None:
        async with (
            running(configs(1, tmp_path)) as (node,),
            lease_client(node) as client,
        ):
            one, other = await client.grant(60), await client.grant(70)
            requests = [one, other, 7] * 200

            async def feed() -> Any:
                for lease in requests:
                    yield rpc_pb2.LeaseKeepAliveRequest(ID=lease)

            ttls = {one: 60, other: 70, 7: 0}
            answers = [(a.ID, a.TTL) async for a in client.stub.LeaseKeepAlive(feed())]
            assert answers == [(lease, ttls[lease]) for lease in requests]

    asyncio.run(scenario())


def test_a_flood_that_cannot_be_answered_ends_its_stream_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raftkv.server.services.keepalive.ASKED", 5)
    monkeypatch.setattr("raftkv.server.services.keepalive.MAX_WAITING", 5)

    async def scenario() -> None:
        async with running(configs(3, tmp_path)) as nodes:
            await asyncio.gather(nodes[1].stop(), nodes[2].stop())
            await until(lambda: not replica_of(nodes[0]).leader)
            async with lease_client(nodes[0]) as client:
                quiet, flood = client.stream(), client.stream()
                await quiet.send(1)
                for _ in range(11):
                    await flood.send(1)
                assert await flood.end() == ("RESOURCE_EXHAUSTED", "etcdserver: too many requests")
                assert not quiet.call.done()
                quiet.call.cancel()

    asyncio.run(scenario())


def test_a_stream_goes_on_when_the_leader_changes(tmp_path: Path) -> None:
    """C06: at the member that it is open to, under a new leader."""

    async def scenario() -> None:
        async with running(configs(3, tmp_path)) as nodes:
            old, (node, _) = leader(nodes), followers(nodes)
            async with lease_client(node) as client:
                lease = await client.grant(30)
                stream = client.stream()
                assert await stream.renew(lease) == (lease, 30)
                stopping = asyncio.create_task(old.stop())
                for _ in range(50):
                    assert await stream.renew(lease) == (lease, 30)
                await stopping
                assert await stream.renew(lease) == (lease, 30)
                assert (await client.left(lease)).TTL >= 28

    asyncio.run(scenario())


def test_without_a_leader_only_streams_that_require_one_end(tmp_path: Path) -> None:
    """An idle stream that does not ask for a leader lives on, as in etcd."""

    async def scenario() -> None:
        async with running(configs(3, tmp_path)) as nodes, lease_client(nodes[0]) as client:
            lease = await client.grant(60)
            idle = client.stream()
            demanding = client.stream(metadata=(("hasleader", "true"),))
            for stream in (idle, demanding):
                assert await stream.renew(lease) == (lease, 60)
            await asyncio.gather(nodes[1].stop(), nodes[2].stop())
            no_leader = ("UNAVAILABLE", "etcdserver: no leader")
            assert await asyncio.wait_for(demanding.end(), 60) == no_leader
            late = client.stream(metadata=(("hasleader", "true"),))
            assert await late.end() == no_leader
            assert not idle.call.done()
            await idle.call.done_writing()
            assert await idle.end() == ("OK", "")

    asyncio.run(scenario())


@pytest.mark.slow
def test_a_renewal_without_a_leader_ends_its_stream_after_the_request_timeout(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with running(configs(3, tmp_path)) as nodes:
            await asyncio.gather(nodes[1].stop(), nodes[2].stop())
            await until(lambda: not replica_of(nodes[0]).leader)
            async with lease_client(nodes[0]) as client:
                stream = client.stream()
                await stream.send(7)
                asked = asyncio.create_task(client.left(7))
                assert await stream.end() == ("UNAVAILABLE", "etcdserver: no leader")
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await asked
                assert caught.value.details() == "etcdserver: no leader"

    asyncio.run(scenario())


def test_a_member_that_stops_says_so_on_idle_streams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would hold it up until they are cut."""
    monkeypatch.setattr(raftkv.server.node, "DRAIN_SECONDS", 3600.0)

    async def scenario() -> None:
        async with (
            running(configs(1, tmp_path)) as (node,),
            lease_client(node) as client,
        ):
            lease = await client.grant(60)
            stream = client.stream()
            assert await stream.renew(lease) == (lease, 60)
            stopping = asyncio.create_task(node.stop())
            assert await stream.end() == ("UNAVAILABLE", "etcdserver: server stopped")
            await asyncio.wait_for(stopping, 60)

    asyncio.run(scenario())


def test_bytes_that_are_no_request_end_the_stream_behind_the_answers(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            running(configs(1, tmp_path)) as (node,),
            lease_client(node) as client,
        ):
            lease = await client.grant(60)
            raw = client.channel.stream_stream(
                "/etcdserverpb.Lease/LeaseKeepAlive",
                response_deserializer=rpc_pb2.LeaseKeepAliveResponse.FromString,
            )
            call = raw(timeout=60)
            usual = rpc_pb2.LeaseKeepAliveRequest(ID=lease).SerializeToString()
            # A field that is not known, an id that is overwritten, an id of 0 that is written out.
            for message in (usual, b"\x12\x01x" + usual, b"\x08\x05" + usual):
                await call.write(message)
                answer = await call.read()
                assert (lease, 60) == (answer.ID, answer.TTL)
            await call.write(b"\x08\x00")
            assert (await call.read()).ID == 0
            await call.write(b"\x08")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() is grpc.StatusCode.INTERNAL

    asyncio.run(scenario())


def test_what_happened_to_leases_is_counted(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            running(configs(1, tmp_path)) as (node,),
            lease_client(node) as client,
        ):
            short, gone, stays = [await client.grant(ttl) for ttl in (1, 60, 60)]
            await client.revoke(gone)
            stream = client.stream()
            for lease in (stays, stays, gone):
                await stream.renew(lease)
            machine = replica_of(node).machine
            await until(lambda: lease_on(node, short) is None)
            counts = machine.lease_counts
            assert (counts.granted, counts.revoked, counts.expired) == (3, 1, 1)
            assert len(machine.leases) == 1
            assert replica_of(node).keepalives.renewed == 2

    asyncio.run(scenario())


def test_a_learner_takes_no_call_about_leases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Replica, "is_learner", property(lambda _: True))

    async def scenario() -> None:
        async with (
            running(configs(1, tmp_path)) as (node,),
            lease_client(node) as client,
        ):
            refused = ("FAILED_PRECONDITION", "etcdserver: rpc not supported for learner")
            assert await client.stream().end() == refused
            for call in (
                client.grant(60),
                client.revoke(1),
                client.left(1),
                client.listed(),
                client.put_with_ttl(b"k", 1000),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                assert (caught.value.code().name, caught.value.details()) == refused

    asyncio.run(scenario())


def test_a_burst_of_renewals_costs_one_turn_and_one_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are, and no task, no future and no entry of the log at all."""

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,):
            client = await Client.connect(node)
            grant = rpc_pb2.LeaseGrantRequest(ID=5, TTL=60)
            await client.call("/etcdserverpb.Lease/LeaseGrant", grant)
            stream = client.connection.request(b"/etcdserverpb.Lease/LeaseKeepAlive")
            answers: list[bytes] = []
            monkeypatch.setattr(client, "message", lambda _, message: answers.append(message))
            request = rpc_pb2.LeaseKeepAliveRequest(ID=5).SerializeToString()
            for _ in range(500):
                client.connection.send(stream, request)
            writes, driver = [0], node.driver
            assert driver is not None
            for connection in node.clients.connections:  # type: ignore[union-attr]
                count_writes(connection, writes)
            counting = CountingLoop(asyncio.get_running_loop(), monkeypatch)
            turns, index = driver.turns, replica_of(node).machine.applied_index
            client.flush()
            while len(answers) < 500:
                await asyncio.sleep(0)
            assert (counting.tasks, counting.futures) == (0, 0)
            assert replica_of(node).machine.applied_index == index
            assert driver.turns - turns <= 5
            assert writes[0] <= 5
            answer = rpc_pb2.LeaseKeepAliveResponse.FromString(answers[-1])
            assert (answer.ID, answer.TTL) == (5, 60)
            assert answer.header.revision == replica_of(node).machine.revision
            assert set(answers) == {answers[-1]}
            client.close()

    asyncio.run(scenario())
