"""Locks beyond what one client can compare with etcd: pauses, lost clients, members that stop."""

import asyncio
import random
from pathlib import Path
from typing import Any

import grpc
import pytest

from raftkv.kv import commands
from raftkv.kv.leases import revoke_request
from raftkv.kv.machine import Result
from raftkv.pb import rpc_pb2
from raftkv.server.services.queueing import First, Queues
from tests.server.harness import configs, replica_of, running, until
from tests.server.leasing import followers, leader
from tests.server.queueing import NAME, Party, failure, party

SESSION_EXPIRED = ("UNKNOWN", "mutex: session is expired")


def key_of(lease: int) -> bytes:
    return NAME + b"/%x" % lease


def busy() -> bool:
    """Whether a member of this process still works for a call, also for one that is gone."""
    names = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()]
    return any(name.startswith(("LongCall.", "Queues.")) for name in names)


def note_answers(monkeypatch: pytest.MonkeyPatch) -> set[bytes]:
    """The keys whose callers a member of this process tells, from now on, that they are first."""
    answered: set[bytes] = set()
    become_first = Queues.become_first

    async def noting(queues: Queues, *arguments: Any) -> First:
        first = await become_first(queues, *arguments)
        answered.add(first.place.key)
        return first

    monkeypatch.setattr(Queues, "become_first", noting)
    return answered


def open_calls(node: Any) -> int:
    """Calls that this member knows to be under way."""
    return sum(connection.connection.open_streams for connection in node.clients.connections)


@pytest.mark.parametrize("members", [1, 3])
def test_a_fenced_write_of_a_paused_holder_fails(tmp_path: Path, members: int) -> None:
    """C03: the holder sleeps through its TTL, another takes the lock, the first one wakes up."""

    async def scenario() -> None:
        async with (
            running(configs(members, tmp_path)) as nodes,
            party(nodes[0]) as paused,
            party(nodes[-1]) as other,
        ):
            await paused.lock(await paused.lease(ttl=1))
            (old,) = await paused.pairs()
            assert await paused.fenced_put(old, b"k", b"in time")
            new_lease = await other.lease()
            await other.lock(new_lease)  # when the first lease has ended by itself
            (new,) = await other.pairs()
            assert new.create_revision > old.create_revision, "tokens grow"
            outcomes = [await paused.fenced_put(old, b"k", b"too late") for _ in range(20)]
            assert not any(outcomes)
            assert await other.fenced_put(new, b"k", b"of the holder")
            answer = await other.kv.Range(rpc_pb2.RangeRequest(key=b"k"))
            assert answer.kvs[0].value == b"of the holder"

    asyncio.run(scenario())


def test_the_token_of_a_lock_taken_again_with_the_same_lease_is_another(tmp_path: Path) -> None:
    """C03: the same key name is no proof."""

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,), party(node) as client:
            lease = await client.lease()
            key = await client.lock(lease)
            (first,) = await client.pairs()
            await client.unlock(key)
            assert await client.lock(lease) == key
            assert not await client.fenced_put(first, b"k", b"v")

    asyncio.run(scenario())


@pytest.mark.parametrize("members", [1, 3])
def test_a_waiter_whose_lease_died_in_the_queue_gets_an_error(tmp_path: Path, members: int) -> None:
    """C04."""

    async def scenario() -> None:
        async with (
            running(configs(members, tmp_path)) as nodes,
            party(nodes[0]) as first,
            party(nodes[-1]) as second,
        ):
            held = await first.lock(await first.lease())
            dying, patient = await second.lease(), await first.lease()
            waiting = second.locking(dying)
            task = asyncio.ensure_future(failure(waiting))
            await first.wait_for(2)
            behind = asyncio.ensure_future(first.lock(patient))
            await first.wait_for(3)
            await first.revoke(dying)
            await first.unlock(held)
            assert await task == SESSION_EXPIRED
            assert await behind == key_of(patient)
            assert await first.keys() == [key_of(patient)]

    asyncio.run(scenario())


def test_a_lease_that_ends_before_the_first_look_at_the_queue_gives_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C04: the key is put, its elder is deleted and its lease ends, all in one batch of the log."""
    propose, behind = Queues.propose, list[tuple[int, bytes]]()

    def crowd(queues: Queues, command: int, request: bytes) -> "asyncio.Future[Result]":
        future = propose(queues, command, request)
        while behind:
            propose(queues, *behind.pop(0))
        return future

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,), party(node) as client:
            held, dying = await client.lock(await client.lease()), await client.lease()
            delete = rpc_pb2.DeleteRangeRequest(key=held)
            behind.append((commands.DELETE_RANGE, delete.SerializeToString()))
            behind.append((commands.LEASE_REVOKE, revoke_request(dying)))
            monkeypatch.setattr(Queues, "propose", crowd)
            assert await failure(client.locking(dying)) == SESSION_EXPIRED
            assert await client.keys() == []

    asyncio.run(scenario())


def test_a_waiter_whose_lease_dies_hears_of_it_at_once(tmp_path: Path) -> None:
    """C04: not only when its turn would have come."""

    async def scenario() -> None:
        async with running(configs(3, tmp_path)) as nodes, party(nodes[0]) as client:
            held = await client.lock(await client.lease())
            dying = await client.lease(ttl=1)
            assert await failure(client.locking(dying)) == SESSION_EXPIRED
            assert await client.keys() == [held]

    asyncio.run(scenario())


def test_a_waiter_whose_connection_breaks_leaves_no_key(tmp_path: Path) -> None:
    """C09."""

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,), party(node) as client:
            held = await client.lock(await client.lease())
            async with party(node) as lost:
                call = lost.locking(await client.lease())
                await client.wait_for(2)
                given_up = asyncio.ensure_future(failure(call))
            await given_up
            await client.wait_for(1)
            assert await client.keys() == [held]

    asyncio.run(scenario())


@pytest.mark.parametrize("delay", range(8))
def test_a_call_given_up_at_any_moment_leaves_no_key(tmp_path: Path, delay: int) -> None:
    """C09: also while the key's put, or the grant of the server's own lease, is under way."""

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,), party(node) as client:
            held = await client.lock(await client.lease())
            lease = await client.lease()
            before = len(replica_of(node).machine.leases)
            for own in (lease, 0):
                call = client.locking(own)
                task = asyncio.ensure_future(failure(call))
                for _ in range(delay):
                    await asyncio.sleep(0)
                call.cancel()
                assert (await task)[0] == "CANCELLED"
            await client.keys()  # behind the calls on one connection: they are not to come yet
            await until(lambda: not open_calls(node) and not busy())
            assert len(replica_of(node).machine.leases) == before
            assert await client.keys() == [held]

    asyncio.run(scenario())


def test_a_lease_of_the_servers_own_goes_with_a_deadline(tmp_path: Path) -> None:
    """C09."""

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,), party(node) as client:
            lease = await client.lease()
            held = await client.lock(lease)
            assert (await failure(client.locking(0, seconds=0.3)))[0] == "DEADLINE_EXCEEDED"
            await client.keys()  # behind the call on one connection: it is not to come yet
            await until(lambda: not open_calls(node) and not busy())
            await client.wait_for(1)
            await until(lambda: [one.id for one in replica_of(node).machine.leases] == [lease])
            assert await client.keys() == [held]

    asyncio.run(scenario())


def test_two_calls_that_wait_at_one_place_do_not_take_it_from_each_other(tmp_path: Path) -> None:
    """A client that repeats its call before the first one is known to be lost keeps its place."""

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,), party(node) as client:
            held = await client.lock(await client.lease())
            lease = await client.lease()
            first, second = client.locking(lease), client.locking(lease)
            task = asyncio.ensure_future(failure(first))
            await client.wait_for(2)
            await until(lambda: open_calls(node) == 2)
            # Both are in when a third, later one is.
            third = client.locking(await client.lease(), seconds=60)
            await client.wait_for(3)
            first.cancel()
            await task
            await client.unlock(held)
            assert (await second).key == key_of(lease)
            third.cancel()
            await client.wait_for(1)

    asyncio.run(scenario())


def test_a_wait_goes_on_through_a_change_of_the_leader(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(configs(3, tmp_path)) as nodes:
            old = leader(nodes)
            waiting_at = followers(nodes)[0]
            async with party(waiting_at) as client:
                held = await client.lock(await client.lease())
                lease = await client.lease()
                waiting = asyncio.ensure_future(client.lock(lease))
                await client.wait_for(2)
                await old.stop()
                rest = [node for node in nodes if node is not old]
                await until(lambda: any(replica_of(node).is_leader for node in rest))
                await client.unlock(held)
                assert await waiting == key_of(lease)

    asyncio.run(scenario())


def test_a_member_that_stops_ends_its_waits_at_once_and_leaves_no_key(tmp_path: Path) -> None:
    """C09: the client goes elsewhere, and finds no ghost of its own there."""

    async def scenario() -> None:
        async with running(configs(3, tmp_path)) as nodes:
            stopping = followers(nodes)[0]
            async with party(leader(nodes)) as client, party(stopping) as waiter:
                held = await client.lock(await client.lease())
                task = asyncio.ensure_future(failure(waiter.locking(await client.lease())))
                await client.wait_for(2)
                await stopping.stop()
                assert await task == ("UNAVAILABLE", "etcdserver: server stopped")
                await client.wait_for(1)
                assert await client.keys() == [held]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ([("hasleader", "true")], "etcdserver: no leader"),
        ([], "etcdserver: request timed out, possibly due to previous leader failure"),
    ],
)
def test_a_wait_without_a_leader_for_long_ends(
    tmp_path: Path, metadata: list[tuple[str, str]], expected: str
) -> None:
    async def scenario() -> None:
        async with running(configs(3, tmp_path)) as nodes:
            alone = leader(nodes)
            async with party(alone) as client:
                await client.lock(await client.lease())
                call = client.locking(await client.lease(), metadata=metadata)
                task = asyncio.ensure_future(failure(call))
                await client.wait_for(2)
                await asyncio.gather(*(node.stop() for node in nodes if node is not alone))
                assert await task == ("UNAVAILABLE", expected)

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(3))
def test_a_storm_of_callers_that_give_up_leaves_nothing_and_lets_nobody_write_twice(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C03, C04, C09: at random moments calls are cancelled, leases revoked, locks kept too long."""
    source = random.Random(seed)
    answered = note_answers(monkeypatch)

    async def give_up(client: Party, key: bytes) -> None:
        """Takes the key away if its answer crossed the cancellation: then it is the caller's."""
        await client.keys()  # behind the cancellation on one connection: the member knows of it now
        if key in answered:
            await client.unlock(key)

    async def increment(client: Party, lock: Any) -> bool:
        """Reads, dawdles and writes a counter under the fencing token."""
        found = (await client.kv.Range(rpc_pb2.RangeRequest(key=b"counter"), timeout=60)).kvs
        value = int(found[0].value) if found else 0
        for _ in range(source.randrange(4)):
            await asyncio.sleep(0)
        return await client.fenced_put(lock, b"counter", b"%d" % (value + 1))

    async def call(client: Party, written: list[int]) -> None:
        lease = await client.lease()
        task = asyncio.ensure_future(client.lock(lease))
        fate = source.random()
        if fate < 0.3:
            await asyncio.sleep(source.random() * 0.05)
            task.cancel()
        elif fate < 0.5:
            await asyncio.sleep(source.random() * 0.05)
            await client.revoke(lease)
        try:
            key = await task
        except asyncio.CancelledError:
            await give_up(client, key_of(lease))
            return
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:  # whether the key was put is unknown
                await client.revoke(lease)
            return
        mine = [pair for pair in await client.pairs() if pair.key == key]
        if mine:
            written.append(await increment(client, mine[0]))
        await client.unlock(key)

    async def scenario() -> None:
        # Nobody but the callers is to disturb: a busy machine shall not depose the leader.
        async with (
            running(configs(3, tmp_path, election_timeout_ms=1500)) as nodes,
            party(nodes[0]) as first,
            party(nodes[1]) as second,
            party(nodes[2]) as third,
        ):
            written: list[int] = []
            clients = [source.choice((first, second, third)) for _ in range(60)]
            await asyncio.gather(*(call(client, written) for client in clients))
            await until(lambda: not busy())
            await first.wait_for(0)
            answer = await first.kv.Range(rpc_pb2.RangeRequest(key=b"counter"))
            assert sum(written) > 10
            assert int(answer.kvs[0].value) == sum(written), "each write saw the one before it"
            assert [node.driver.watches.watches.count for node in nodes] == [0, 0, 0]  # type: ignore[union-attr]

    asyncio.run(scenario())


async def enter_by_hand(client: Party, lease: int) -> int:
    """What Go's client does to enter a queue; the create revision of its key."""
    key = key_of(lease)
    absent = rpc_pb2.Compare(
        key=key, target=rpc_pb2.Compare.CREATE, result=rpc_pb2.Compare.EQUAL, create_revision=0
    )
    put = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, lease=lease))
    request = rpc_pb2.TxnRequest(compare=[absent], success=[put])
    return int((await client.kv.Txn(request, timeout=60)).header.revision)


def test_clients_that_keep_the_queue_themselves_stand_in_the_same_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            running(configs(3, tmp_path)) as nodes,
            party(nodes[0]) as service,
            party(nodes[1]) as other_service,
            party(nodes[2]) as by_hand,
        ):
            leases = [await by_hand.lease() for _ in range(4)]
            await enter_by_hand(by_hand, leases[0])
            second = asyncio.ensure_future(service.lock(leases[1]))
            await by_hand.wait_for(2)
            created = await enter_by_hand(by_hand, leases[2])
            fourth = asyncio.ensure_future(other_service.lock(leases[3]))
            await by_hand.wait_for(4)
            assert await by_hand.keys() == [key_of(lease) for lease in leases]
            assert not second.done()
            await by_hand.revoke(leases[0])
            assert await second == key_of(leases[1])
            pairs = await by_hand.pairs()
            assert pairs[0].create_revision < created, "the one by hand has to wait"
            await service.unlock(key_of(leases[1]))
            assert (await by_hand.pairs())[0].create_revision == created
            assert not fourth.done()
            await by_hand.unlock(key_of(leases[2]))
            assert await fourth == key_of(leases[3])

    asyncio.run(scenario())


def test_many_waiters_at_many_members_hold_the_lock_one_at_a_time_in_order(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with running(configs(3, tmp_path)) as nodes, party(nodes[0]) as client:
            order: list[int] = []
            holders = 0

            async def work(waiter: Party, lease: int) -> None:
                nonlocal holders
                key = await waiter.lock(lease)
                holders += 1
                assert holders == 1
                order.append(lease)
                await asyncio.sleep(0)
                holders -= 1
                await waiter.unlock(key)

            async with party(nodes[1]) as second, party(nodes[2]) as third:
                leases = [await client.lease() for _ in range(30)]
                first = await client.lock(await client.lease())
                tasks = []
                for number, lease in enumerate(leases):
                    waiter = (client, second, third)[number % 3]
                    tasks.append(asyncio.ensure_future(work(waiter, lease)))
                    await client.wait_for(number + 2)
                await client.unlock(first)
                await asyncio.gather(*tasks)
            assert order == leases
            assert await client.keys() == []

    asyncio.run(scenario())
