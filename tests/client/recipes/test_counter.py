"""Counter: additions of many, each counted once."""

import threading
from typing import Any

import pytest

from raftkv.client import OutcomeUnknown, Unavailable
from raftkv.client.counting import NotANumber
from raftkv.client.sync import Client
from tests.client.conftest import Served
from tests.client.faces import Faces


def test_a_counter_begins_at_zero_and_adds(server: Served, connect: Faces, prefix: str) -> None:
    client = connect(server.endpoints)
    counter = client.counter(prefix + "n")
    assert counter.get() == 0
    assert counter.add() == 1
    assert counter.add(41) == 42
    assert counter.add(-2) == 40
    counter.set(7)
    assert counter.get() == 7
    assert client.get(prefix + "n").value == b"7"


def test_what_is_no_number_is_left_alone(server: Served, connect: Faces, prefix: str) -> None:
    client = connect(server.endpoints)
    client.put(prefix + "n", "seven")
    with pytest.raises(NotANumber):
        client.counter(prefix + "n").add()
    assert client.get(prefix + "n").value == b"seven"


def test_additions_at_the_same_time_are_all_counted(server: Served, prefix: str) -> None:
    with Client(server.endpoints) as client:

        def add() -> None:
            for _ in range(15):
                client.counter(prefix + "n").add(2)

        threads = [threading.Thread(target=add) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert client.counter(prefix + "n").get() == 4 * 15 * 2


class Forgetful:
    """Loses the answers of a client's transactions: of those whose number is in `lost`.

    carried_out: whether they reach the server all the same.
    """

    def __init__(self, client: Client, lost: set[int], *, carried_out: bool) -> None:
        self.calls = 0
        self._txn = client.txn
        self._lost = lost
        self._carried_out = carried_out
        client.txn = self  # type: ignore[method-assign, assignment]

    def __call__(self, txn: Any, **options: Any) -> Any:
        self.calls += 1
        if self.calls not in self._lost:
            return self._txn(txn, **options)
        if self._carried_out:
            self._txn(txn, **options)
        raise OutcomeUnknown(Unavailable("the answer was lost"))


@pytest.mark.parametrize("carried_out", [True, False])
@pytest.mark.parametrize("lost", [{1}, {1, 2}, {2}, {1, 3}])
def test_a_lost_answer_neither_loses_nor_repeats_an_addition(
    server: Served, prefix: str, lost: set[int], carried_out: bool
) -> None:
    """C01, C02"""
    with Client(server.endpoints) as client:
        Forgetful(client, lost, carried_out=carried_out)
        counter = client.counter(prefix + "n")
        assert [counter.add(10), counter.add(10), counter.add(10)] == [10, 20, 30]
        assert counter.get() == 30


def test_a_lost_addition_is_found_behind_those_of_others(server: Served, prefix: str) -> None:
    """C02"""
    with Client(server.endpoints) as other, Client(server.endpoints) as client:
        counter = client.counter(prefix + "n")
        counter.add(1)
        forgetful = Forgetful(client, {1}, carried_out=True)
        lose = forgetful.__call__

        def between(txn: Any, **options: Any) -> Any:
            try:
                return lose(txn, **options)
            finally:
                for _ in range(5):
                    other.counter(prefix + "n").add(100)

        client.txn = between  # type: ignore[method-assign, assignment]
        assert counter.add(1) == 2
        client.txn = forgetful  # type: ignore[method-assign, assignment]
        assert counter.get() % 100 == 2


def test_an_addition_that_history_cannot_tell_of_any_more_stays_unknown(
    server: Served, prefix: str
) -> None:
    """C01"""
    with Client(server.endpoints) as client:
        counter = client.counter(prefix + "n")
        forgetful = Forgetful(client, {1}, carried_out=True)
        lose = forgetful.__call__

        def compacted(txn: Any, **options: Any) -> Any:
            try:
                return lose(txn, **options)
            except OutcomeUnknown:
                other = Client(server.endpoints)
                with other:
                    other.counter(prefix + "n").add(100)
                    other.compact(other.put(prefix + "x", "").revision)
                raise

        client.txn = compacted  # type: ignore[method-assign, assignment]
        with pytest.raises(OutcomeUnknown):
            counter.add(1, timeout=3)
        assert client.counter(prefix + "n").get() == 101
