"""Barrier: held by one, waited for by many."""

import threading
import time

import pytest

from raftkv.client import NotAcquired, NotHeld, OutcomeUnknown, Txn
from raftkv.client.sync import Client
from raftkv.client.txn import Put
from tests.client.conftest import Served
from tests.client.faces import Faces
from tests.client.recipes.test_counter import Forgetful


def test_a_barrier_holds_up_those_who_wait(server: Served, prefix: str) -> None:
    with Client(server.endpoints) as client:
        passed = threading.Event()

        def wait() -> None:
            client.barrier(prefix + "b").wait(timeout=20)
            passed.set()

        with client.barrier(prefix + "b").hold() as held:
            thread = threading.Thread(target=wait)
            thread.start()
            assert not passed.wait(0.3)
            assert held.is_held
            assert client.txn(held.guard(Txn()).then(Put(prefix + "x", "1"))).succeeded
        assert passed.wait(20)
        thread.join()
        late = held.guard(Txn()).then(Put(prefix + "x", "2"))
        assert not client.txn(late).succeeded


def test_a_barrier_can_be_held_once_at_a_time(server: Served, connect: Faces, prefix: str) -> None:
    client = connect(server.endpoints)
    barrier = client.barrier(prefix + "b")
    held = barrier.hold(ttl=None)
    with pytest.raises(NotAcquired):
        client.barrier(prefix + "b").hold()
    with pytest.raises(NotAcquired):
        barrier.wait(timeout=0.2)
    client.barrier(prefix + "b").release()
    barrier.wait(timeout=20)
    with pytest.raises(NotHeld):
        barrier.release()
    again = barrier.hold(ttl=None)
    held.release()  # of a barrier that is gone: takes nothing of the next one away
    with pytest.raises(NotAcquired):
        barrier.wait(timeout=0.2)
    again.release()
    assert barrier.wait(timeout=20) > 0


def test_the_barrier_of_a_dead_process_opens_with_its_lease(server: Served, prefix: str) -> None:
    with Client(server.endpoints) as client, Client(server.endpoints) as dying:
        held = dying.barrier(prefix + "b").hold(ttl=4)
        assert held.lease is not None
        held.lease.detach()  # nobody renews it any more
        started = time.monotonic()
        client.barrier(prefix + "b").wait(timeout=20)
        assert time.monotonic() - started > 0.5
        assert not held.is_held


@pytest.mark.parametrize("ttl", [None, 10.0])
@pytest.mark.parametrize("carried_out", [True, False])
def test_a_lost_answer_to_hold_is_found_out(
    server: Served, prefix: str, ttl: float | None, carried_out: bool
) -> None:
    """C02"""
    with Client(server.endpoints) as client:
        Forgetful(client, {1}, carried_out=carried_out)
        if not carried_out and ttl is None:
            with pytest.raises(OutcomeUnknown):  # it may still come, and would stay for ever
                client.barrier(prefix + "b").hold(ttl=ttl)
            client.barrier(prefix + "b").wait(timeout=20)
        else:
            with client.barrier(prefix + "b").hold(ttl=ttl) as held:
                kv = client.get(prefix + "b").kv
                assert kv is not None
                assert kv.create_revision == held.fencing_token
            client.barrier(prefix + "b").wait(timeout=20)
