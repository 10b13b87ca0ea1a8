"""DoubleBarrier: nobody is inside before all are there, nobody goes on before all have left."""

import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.client import LeaseLost, NotAcquired, NotHeld
from raftkv.client.rendezvous import Rendezvous, Step, TooMany
from raftkv.client.results import KeyValue
from raftkv.client.sync import Client
from tests.client.conftest import Served

PLACE = Rendezvous(b"s", 3)


def kv(key: bytes, revision: int) -> KeyValue:
    return KeyValue(key, b"", revision, revision, 1, 0)


def standing(*revisions: int, ready: int = 0) -> tuple[KeyValue, ...]:
    """Waiters named by the revision at which they came."""
    keys = [kv(PLACE.waiter(revision), revision) for revision in revisions]
    return (*keys, kv(PLACE.ready, ready)) if ready else tuple(keys)


def test_enough_waiters_complete_a_round() -> None:
    assert PLACE.entering(standing(5, 6), PLACE.waiter(5)) is None
    assert PLACE.entering(standing(5, 6, 9), PLACE.waiter(5)) is Step.COMPLETE
    assert PLACE.entering(standing(5, 6, 9, ready=10), PLACE.waiter(9)) is Step.ENTERED


def test_who_is_too_many_is_refused_and_the_others_are_not() -> None:
    with pytest.raises(TooMany):
        PLACE.entering(standing(5, 6, 9, 11), PLACE.waiter(11))
    assert PLACE.entering(standing(5, 6, 9, 11), PLACE.waiter(9)) is Step.COMPLETE


def test_the_next_round_counts_its_own_waiters_only() -> None:
    found = standing(5, 6, 20, 21, ready=10)
    assert PLACE.entering(found, PLACE.waiter(20)) is None
    assert PLACE.entering((*found, kv(PLACE.waiter(22), 22)), PLACE.waiter(20)) is Step.COMPLETE


def test_a_lost_place_is_told() -> None:
    with pytest.raises(LeaseLost):
        PLACE.entering(standing(5), PLACE.waiter(6))


@given(st.permutations([5, 6, 7]), st.lists(st.integers(20, 30), unique=True, max_size=3))
def test_a_round_ends_in_any_order_and_beside_the_next_one(
    order: list[int], others: list[int]
) -> None:
    """Everybody leaves, whoever moves first, and nobody is told so before all have."""
    keys = {item.key: item for item in standing(5, 6, 7, *others, ready=10)}
    asked: dict[int, Step | None] = {}
    for _ in range(10):
        for mine in order:
            if asked.get(mine) is Step.LEFT:
                continue
            step = PLACE.leaving(tuple(keys.values()), PLACE.waiter(mine), 10)
            asked[mine] = step
            if step is Step.GO:
                del keys[PLACE.waiter(mine)]
            elif step is Step.LEFT:
                assert not any(PLACE.waiter(one) in keys for one in (5, 6, 7))
    assert set(asked.values()) == {Step.LEFT}
    assert len(keys) == len(others) + 1, "of the next round, and `ready`"


def together(count: int, work: Callable[[int], None]) -> None:
    """Runs `work` in threads; their errors are the test's."""
    errors: list[Exception] = []

    def run(number: int) -> None:
        try:
            work(number)
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_rounds_of_several_processes_do_not_mix(server: Served, prefix: str) -> None:
    inside: list[int] = []
    with Client(server.endpoints) as client:

        def work(number: int) -> None:
            barrier = client.double_barrier(prefix + "s", 3)
            for round_ in range(3):
                barrier.enter(timeout=30)
                assert barrier.is_inside
                assert inside.count(round_ - 1) in ((0,) if round_ == 0 else (3,))
                inside.append(round_)
                barrier.leave(timeout=30)
                assert inside.count(round_) == 3

        together(3, work)
        assert client.count(prefix + "s") == 0


def test_who_gives_up_leaves_no_trace(server: Served, prefix: str) -> None:
    """C09"""
    with Client(server.endpoints) as client:
        barrier = client.double_barrier(prefix + "s", 2)
        with pytest.raises(NotAcquired):
            barrier.enter(timeout=0.5)
        assert client.count(prefix + "s") == 0
        with pytest.raises(NotHeld):
            barrier.leave()


def test_one_that_died_inside_is_waited_for_no_longer_than_its_lease(
    server: Served, prefix: str
) -> None:
    with Client(server.endpoints) as client, Client(server.endpoints) as dying:
        left: list[float] = []

        def work(number: int) -> None:
            barrier = (client, dying)[number].double_barrier(prefix + "s", 2, ttl=5)
            barrier.enter(timeout=30)
            if number:
                assert barrier._lease is not None
                barrier._lease.detach()  # as if the process had ended
                return
            started = time.monotonic()
            barrier.leave(timeout=30)
            left.append(time.monotonic() - started)

        together(2, work)
        assert left[0] > 0.5
        assert client.count(prefix + "s") == 0
