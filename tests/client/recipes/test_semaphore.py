"""Semaphores of both faces on both servers: never more than the limit, whoever means what."""

import threading
from functools import partial
from typing import Any

import pytest

from raftkv.client import BadRequest, LeaseLost, NotAcquired, Put, Txn
from raftkv.client.queueing import LimitDisagrees
from tests.client.conftest import Served
from tests.client.faces import Faces
from tests.client.recipes.contention import Beside, lose_answers, queue_length, wait_until


def test_as_many_hold_as_the_limit_says_and_the_next_waits(
    server: Served, connect: Faces, prefix: str
) -> None:
    client = connect(server.endpoints)
    semaphore = client.semaphore(prefix + "s", 2)
    one, two = semaphore.acquire(), semaphore.acquire()
    with pytest.raises(NotAcquired):
        semaphore.acquire(blocking=False)
    with pytest.raises(NotAcquired):
        semaphore.acquire(timeout=0.2)
    waiting = Beside(semaphore.acquire)
    wait_until(lambda: queue_length(client, prefix + "s/holders/") == 3)
    two.release()  # any of the holders, not only the first
    three = waiting.result()
    assert one.is_held
    assert one.fencing_token < two.fencing_token < three.fencing_token
    one.release()
    three.release()
    assert queue_length(client, prefix + "s/holders/") == 0


def test_waiters_go_on_in_their_order(server: Served, connect: Faces, prefix: str) -> None:
    client = connect(server.endpoints)
    semaphore = client.semaphore(prefix + "s", 2)
    holders = [semaphore.acquire(), semaphore.acquire()]
    waiting: list[Beside[Any]] = []
    for number in range(3):
        waiting.append(Beside(semaphore.acquire))
        wait_until(lambda: queue_length(client, prefix + "s/holders/") == 3 + number)  # noqa: B023
    holders.pop(0).release()
    holders.append(waiting[0].result())
    assert not waiting[1].is_done
    assert not waiting[2].is_done
    for holder in holders:
        holder.release()
    waiting[1].result().release()
    waiting[2].result().release()


def test_never_more_than_the_limit_are_inside(server: Served, connect: Faces, prefix: str) -> None:
    client = connect(server.endpoints)
    inside: list[int] = []
    most: list[int] = []
    count = threading.Lock()

    def work(number: int) -> None:
        for _ in range(3):
            with client.semaphore(prefix + "s", 3) as holding:
                with count:
                    inside.append(number)
                    most.append(len(inside))
                assert client.txn(holding.guard(Txn()).then(Put(prefix + "v", "x"))).succeeded
                with count:
                    inside.remove(number)

    workers = [Beside(partial(work, number)) for number in range(6)]
    for worker in workers:
        worker.result()
    assert 2 <= max(most) <= 3


def test_another_limit_is_refused_while_anybody_is_in_the_queue(
    server: Served, connect: Faces, prefix: str
) -> None:
    client = connect(server.endpoints)
    with client.semaphore(prefix + "s", 1):
        leases = client.leases()
        with pytest.raises(LimitDisagrees) as refusal:
            client.semaphore(prefix + "s", 5).acquire()
        assert refusal.value.limit == 1
        assert set(client.leases()) <= set(leases)
    with client.semaphore(prefix + "s", 5):
        assert client.get(prefix + "s/limit").text == "5"
    with pytest.raises(BadRequest):
        client.semaphore(prefix + "s", 0)


def test_a_holder_whose_lease_ended_makes_room_and_passes_its_guard_no_more(
    server: Served, connect: Faces, prefix: str
) -> None:
    """C03."""
    client = connect(server.endpoints)
    semaphore = client.semaphore(prefix + "s", 1)
    late = semaphore.acquire()
    waiting = Beside(semaphore.acquire)
    wait_until(lambda: queue_length(client, prefix + "s/holders/") == 2)
    client.revoke(late.lease.id)
    with waiting.result():
        assert not client.txn(late.guard(Txn()).then(Put(prefix + "v", "late"))).succeeded


def test_a_waiter_whose_lease_ends_gets_an_error(
    server: Served, connect: Faces, prefix: str
) -> None:
    """C04."""
    client = connect(server.endpoints)
    semaphore = client.semaphore(prefix + "s", 1, identity="me")
    holding = semaphore.acquire()
    waiting = Beside(lambda: semaphore.acquire(timeout=40))
    wait_until(lambda: queue_length(client, prefix + "s/holders/") == 2)
    client.revoke(semaphore.queue()[1].lease)
    holding.release()
    with pytest.raises(LeaseLost):
        waiting.result()


@pytest.mark.parametrize("carry_out", [True, False])
def test_a_lost_answer_takes_one_unit_only(
    server: Served, connect: Faces, prefix: str, carry_out: bool
) -> None:
    """C02: of the request that founds the queue, and of one that joins it."""
    client = connect(server.endpoints)
    lose_answers(client, count=2, carry_out=carry_out)
    with client.semaphore(prefix + "s", 2):
        assert queue_length(client, prefix + "s/holders/") == 1
        again = connect(server.endpoints)
        lose_answers(again, carry_out=carry_out)
        with again.semaphore(prefix + "s", 2):
            assert queue_length(client, prefix + "s/holders/") == 2
    assert queue_length(client, prefix + "s/holders/") == 0
