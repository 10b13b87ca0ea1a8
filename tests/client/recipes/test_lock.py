"""Locks of both faces on both servers: order, loss, guards, giving up, one queue with others."""

import asyncio
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import pytest

from raftkv.client import (
    Client,
    LeaseLost,
    NotAcquired,
    NotConnected,
    NotHeld,
    Put,
    TimedOut,
    Txn,
    aio,
)
from raftkv.client.aio.recipes.lock import Lock
from raftkv.client.queueing import AlreadyQueued
from raftkv.pb import lock_pb2, lock_pb2_grpc, rpc_pb2, rpc_pb2_grpc
from tests.client.conftest import Served
from tests.client.faces import Faces
from tests.client.gate import Gate
from tests.client.recipes.contention import Beside, bare, lose_answers, queue_length, wait_until
from tests.processes import ETCDCTL, free_ports


def test_locks_are_held_one_after_the_other_in_the_order_of_asking(
    server: Served, connect: Faces, prefix: str
) -> None:
    client = connect(server.endpoints)
    first = client.lock(prefix + "l", identity="one").acquire()
    waiting = []
    for name in ("two", "three"):
        lock = client.lock(prefix + "l", identity=name)
        waiting.append(Beside(lock.acquire))
        wait_until(lambda: queue_length(client, prefix + "l/") == len(waiting) + 1)
    assert [kv.text for kv in lock.queue()] == ["one", "two", "three"]
    assert first.is_held
    assert not waiting[0].is_done
    first.release()
    second = waiting[0].result()
    assert not waiting[1].is_done
    second.release()
    third = waiting[1].result()
    assert first.fencing_token < second.fencing_token < third.fencing_token
    assert not first.is_held
    third.release()
    assert queue_length(client, prefix) == 0


def test_leaving_the_context_takes_key_and_lease_away_in_one_step(
    server: Served, connect: Faces, prefix: str
) -> None:
    client = connect(server.endpoints)
    with client.lock(prefix + "l") as holding:
        assert holding.is_held
        assert client.get(holding.key).create_revision == holding.fencing_token
        lease = holding.lease.id
    assert not holding.is_held
    assert queue_length(client, prefix) == 0
    assert not client.time_to_live(lease).exists
    holding.release()  # a second time is nothing


def test_a_guard_passes_while_the_lock_is_held_and_never_afterwards(
    server: Served, connect: Faces, prefix: str
) -> None:
    """C03: by the servers' own state, whatever the late holder believes."""
    client = connect(server.endpoints)
    first = client.lock(prefix + "l").acquire()
    assert client.txn(first.guard(Txn()).then(Put(prefix + "v", "1"))).succeeded
    client.revoke(first.lease.id)  # as if it had run out while the holder was paused
    second = client.lock(prefix + "l").acquire()
    assert not client.txn(first.guard(Txn()).then(Put(prefix + "v", "late"))).succeeded
    assert client.txn(second.guard(Txn()).then(Put(prefix + "v", "2"))).succeeded
    assert client.get(prefix + "v").text == "2"
    second.release()


def test_who_does_not_want_to_wait_is_told_at_once_and_leaves_no_trace(
    server: Served, connect: Faces, prefix: str
) -> None:
    client = connect(server.endpoints)
    with client.lock(prefix + "l"):
        before = client.get(prefix).revision
        with pytest.raises(NotAcquired):
            client.lock(prefix + "l").acquire(blocking=False)
        assert client.get(prefix).revision == before
    with client.lock(prefix + "l").acquire(blocking=False) as holding:
        assert holding.is_held


def test_who_runs_out_of_time_leaves_the_queue(server: Served, connect: Faces, prefix: str) -> None:
    """C09."""
    client = connect(server.endpoints)
    with client.lock(prefix + "l"):
        leases = client.leases()
        began = time.monotonic()
        with pytest.raises(NotAcquired):
            client.lock(prefix + "l").acquire(timeout=0.3)
        assert 0.3 <= time.monotonic() - began < 15
        assert queue_length(client, prefix) == 1
        assert set(client.leases()) <= set(leases)


def test_a_cancelled_waiter_leaves_the_queue(server: Served, prefix: str) -> None:
    """C09: asyncio's own way of giving up."""

    async def scenario() -> None:
        async with aio.Client(server.endpoints) as client:
            async with client.lock(prefix + "l"):
                leases = set(await client.leases())
                task = asyncio.create_task(_entered(client, prefix + "l"))
                while await client.count(prefix) < 2:
                    await asyncio.sleep(0.01)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert await client.count(prefix) == 1
                assert set(await client.leases()) <= leases
            assert await client.count(prefix) == 0

    asyncio.run(scenario())


_WAITER = """
import sys
from raftkv.client import Client
with Client(sys.argv[1]) as client:
    try:
        client.lock(sys.argv[2], ttl=60).acquire()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def test_an_interrupted_waiter_leaves_the_queue(server: Served, prefix: str) -> None:
    """C09: the synchronous face's way, Ctrl-C."""
    with Client(server.endpoints) as client, client.lock(prefix + "l"):
        waiter = subprocess.Popen(
            [sys.executable, "-c", _WAITER, server.endpoints, prefix + "l"],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            wait_until(lambda: queue_length(client, prefix) == 2)
            waiter.send_signal(signal.SIGINT)
            assert waiter.communicate(timeout=60)[0] == "interrupted\n"
            assert queue_length(client, prefix) == 1
        finally:
            waiter.kill()
            waiter.wait()


async def _entered(client: aio.Client, name: str) -> None:
    async with client.lock(name):
        pass


def test_a_waiter_whose_lease_ends_gets_an_error_and_not_the_lock(
    server: Served, connect: Faces, prefix: str
) -> None:
    """C04."""
    client = connect(server.endpoints)
    other = connect(server.endpoints)
    holding = client.lock(prefix + "l").acquire()
    waiting = Beside(other.lock(prefix + "l", ttl=60).acquire)
    wait_until(lambda: queue_length(client, prefix) == 2)
    (_, waiter) = client.get_prefix(prefix, keys_only=True).kvs
    if waiter.key == holding.key:
        (waiter, _) = client.get_prefix(prefix, keys_only=True).kvs
    client.revoke(waiter.lease)
    holding.release()
    with pytest.raises(LeaseLost):
        waiting.result()
    assert queue_length(client, prefix) == 0


def test_a_lost_lock_is_told_and_leaving_its_context_raises(
    server: Served, connect: Faces, prefix: str
) -> None:
    client = connect(server.endpoints)
    told = threading.Event()
    holding = client.lock(prefix + "l", ttl=2).acquire()
    holding.on_loss(told.set)
    client.revoke(holding.lease.id)
    assert told.wait(20)
    assert holding.lost.is_set()
    assert not holding.is_held
    with pytest.raises(LeaseLost):
        holding.check()
    with pytest.raises(LeaseLost), holding:
        pass


def test_an_error_inside_is_not_hidden_by_the_loss(
    server: Served, connect: Faces, prefix: str
) -> None:
    client = connect(server.endpoints)
    holding = client.lock(prefix + "l", ttl=2).acquire()
    client.revoke(holding.lease.id)
    assert holding.lost.wait(20)
    with pytest.raises(ZeroDivisionError), holding:
        raise ZeroDivisionError


def test_a_given_lease_outlives_the_lock(server: Served, connect: Faces, prefix: str) -> None:
    client = connect(server.endpoints)
    lease = client.lease(20)
    lock = client.lock(prefix + "l", lease=bare(lease))
    with lock as holding:
        assert client.get(holding.key).kv.lease == lease.id
        with pytest.raises(AlreadyQueued):
            lock.acquire()
        with pytest.raises(AlreadyQueued):
            client.lock(prefix + "l", lease=bare(lease)).acquire(timeout=1)
    assert queue_length(client, prefix) == 0
    assert client.time_to_live(lease.id).exists
    with lock as again:
        assert again.fencing_token > holding.fencing_token
        with pytest.raises(NotAcquired):
            client.lock(prefix + "l").acquire(timeout=0.2)
    lease.revoke()


def test_a_waiter_with_a_given_lease_takes_only_its_key_away(
    server: Served, connect: Faces, prefix: str
) -> None:
    """C09."""
    client = connect(server.endpoints)
    lease = client.lease(20)
    with client.lock(prefix + "l") as holding:
        with pytest.raises(NotAcquired):
            client.lock(prefix + "l", lease=bare(lease)).acquire(timeout=0.3)
        assert [kv.key for kv in client.get_prefix(prefix)] == [holding.key]
    assert lease.alive
    lease.revoke()


@pytest.mark.parametrize("carry_out", [True, False])
def test_a_lost_answer_ends_in_one_place_in_the_queue(
    server: Served, connect: Faces, prefix: str, carry_out: bool
) -> None:
    """C02: whether the write whose answer is lost was carried out or not."""
    client = connect(server.endpoints)
    losing = lose_answers(client, carry_out=carry_out)
    with client.lock(prefix + "l") as holding:
        assert losing.lost == 1
        assert queue_length(client, prefix) == 1
        assert client.get(holding.key).create_revision == holding.fencing_token
    assert queue_length(client, prefix) == 0


@pytest.mark.parametrize("carry_out", [True, False])
def test_a_lost_answer_to_giving_up_leaves_no_key_of_a_given_lease(
    server: Served, connect: Faces, prefix: str, carry_out: bool
) -> None:
    client = connect(server.endpoints)
    lease = client.lease(20)
    holding = client.lock(prefix + "l", lease=bare(lease)).acquire()
    losing = lose_answers(client, carry_out=carry_out)
    holding.release()
    assert losing.lost == 1
    assert queue_length(client, prefix) == 0
    assert lease.alive
    lease.revoke()


def test_no_server_ends_an_acquisition_in_time(connect: Faces) -> None:
    client = connect(f"127.0.0.1:{free_ports(1)[0]}", timeout=60.0)
    began = time.monotonic()
    with pytest.raises((NotConnected, TimedOut)):
        client.lock("l").acquire(timeout=1)
    assert time.monotonic() - began < 15


def test_another_user_of_the_lease_keeps_its_place(
    server: Served, connect: Faces, prefix: str
) -> None:
    client = connect(server.endpoints)
    lease = client.lease(20)
    theirs = f"{prefix}l/{lease.id:x}"
    client.put(theirs, "", lease=lease.id)
    with pytest.raises(AlreadyQueued):
        client.lock(prefix + "l", lease=bare(lease)).acquire()
    assert client.get(theirs).exists
    client.delete(theirs)
    with client.lock(prefix + "l", lease=bare(lease)):
        assert client.get(theirs).exists
    lease.revoke()


@pytest.mark.slow
@pytest.mark.parametrize("given", [False, True])
def test_who_gives_up_without_a_network_leaves_no_key_that_anybody_keeps(
    raftkv_served: Served, connect: Faces, prefix: str, given: bool
) -> None:
    """C09: in bounded time; the key goes with its lease although the network comes back."""
    gate = Gate(raftkv_served.endpoints)
    try:
        client = connect(gate.endpoint, timeout=1.0)
        with Client(raftkv_served.endpoints) as other, other.lock(prefix + "l"):
            lease = bare(client.lease(5)) if given else None
            lock = client.lock(prefix + "l", ttl=5, lease=lease)
            waiting = Beside(lambda: lock.acquire(timeout=1))
            wait_until(lambda: queue_length(other, prefix) == 2)
            gate.silence()
            began = time.monotonic()
            with pytest.raises(NotAcquired):
                waiting.result()
            assert time.monotonic() - began < 15
            gate.cut()  # what was on its way does not arrive
            gate.open()
            wait_until(lambda: queue_length(other, prefix) == 1, 10)
        connect.close_clients()
    finally:
        gate.close()


# --- reentrant ------------------------------------------------------------------------------
def test_a_reentrant_lock_is_free_when_it_was_released_as_often(
    server: Served, prefix: str
) -> None:
    with Client(server.endpoints) as client:
        lock = client.lock(prefix + "l", reentrant=True)
        with lock as outer:
            with lock as inner:
                assert inner.fencing_token == outer.fencing_token
                assert inner.is_held
            with pytest.raises(NotHeld):
                inner.check()
            outer.check()
            assert queue_length(client, prefix) == 1
            other = Beside(lambda: lock.acquire(timeout=0.3))
            with pytest.raises(NotAcquired):
                other.result()
        assert queue_length(client, prefix) == 0
        with lock as later:
            assert later.fencing_token > outer.fencing_token


def test_a_reentrant_lock_belongs_to_a_task(server: Served, prefix: str) -> None:
    async def scenario() -> None:
        async with aio.Client(server.endpoints) as client:
            lock = client.lock(prefix + "l", reentrant=True)
            async with lock as outer, lock as inner:
                assert inner.fencing_token == outer.fencing_token
                task = asyncio.create_task(_try(lock))
                with pytest.raises(NotAcquired):
                    await task
            assert await client.count(prefix) == 0

    async def _try(lock: Lock) -> None:
        await lock.acquire(timeout=0.3)

    asyncio.run(scenario())


def test_a_reentrant_lock_that_was_lost_is_not_acquired_again_behind_its_holder(
    server: Served, prefix: str
) -> None:
    with Client(server.endpoints) as client:
        lock = client.lock(prefix + "l", ttl=2, reentrant=True)
        holding = lock.acquire()
        client.revoke(holding.lease.id)
        assert holding.lost.wait(20)
        with pytest.raises(LeaseLost):
            lock.acquire()
        holding.release()
        with lock as again:
            assert again.fencing_token > holding.fencing_token


# --- one queue with others ------------------------------------------------------------------
def test_etcdctl_waits_for_us_and_we_for_etcdctl(
    server: Served, connect: Faces, prefix: str, tmp_path: Path
) -> None:
    client = connect(server.endpoints)
    name = prefix + "l"
    enough = tmp_path / "enough"  # etcdctl gives its command no standard input
    until_enough = ["sh", "-c", f"while [ ! -e {shlex.quote(str(enough))} ]; do sleep 0.05; done"]
    with client.lock(name) as holding:
        other = subprocess.Popen(
            [ETCDCTL, "--endpoints", server.endpoints, "lock", name, "--", *until_enough]
        )
        wait_until(lambda: queue_length(client, prefix) == 2)
        waiting = Beside(lambda: client.lock(name).acquire())
        wait_until(lambda: queue_length(client, prefix) == 3)
    wait_until(lambda: queue_length(client, prefix) == 2)
    assert not waiting.is_done
    assert other.poll() is None
    enough.touch()
    assert other.wait(60) == 0
    mine = waiting.result()
    assert mine.fencing_token > holding.fencing_token
    mine.release()


def test_the_lock_service_waits_for_us_and_we_for_it(
    server: Served, connect: Faces, prefix: str
) -> None:
    client = connect(server.endpoints)
    name = prefix + "l"
    with grpc.insecure_channel(server.endpoints.split(",")[0]) as channel:
        service = lock_pb2_grpc.LockStub(channel)
        leases = rpc_pb2_grpc.LeaseStub(channel)
        lease = leases.LeaseGrant(rpc_pb2.LeaseGrantRequest(TTL=60)).ID
        with client.lock(name):
            asked = service.Lock.future(lock_pb2.LockRequest(name=name.encode(), lease=bare(lease)))
            wait_until(lambda: queue_length(client, prefix) == 2)
            assert not asked.done()
        key = asked.result(timeout=20).key
        waiting = Beside(lambda: client.lock(name).acquire())
        wait_until(lambda: queue_length(client, prefix) == 2)
        assert not waiting.is_done
        service.Unlock(lock_pb2.UnlockRequest(key=key))
        waiting.result().release()
        leases.LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=lease))
