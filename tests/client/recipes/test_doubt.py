"""What recipes say when the answer to a write is lost and no server can be asked about it.

A second attempt that surely was not carried out says nothing about the first (C01).
"""

from collections.abc import Callable
from typing import Any, Final

import pytest

from raftkv.client import NoSpace, NotConnected, OutcomeUnknown
from raftkv.client.patience import Patience
from raftkv.client.sync import Client
from tests.client.conftest import Served
from tests.client.recipes.contention import lost_answer

CARRIED_OUT: Final = "carried out, answer lost"
LOST: Final = "not carried out, answer lost"
REFUSED: Final = "no connection"
FULL: Final = "no space"


class Scripted:
    """Stands before a method of a client: what becomes of its next calls, one word each.

    between: called before the second of them.
    """

    def __init__(
        self, client: Client, name: str, *script: str, between: Callable[[], object] | None = None
    ) -> None:
        self._call = getattr(client, name)
        self._script = list(script)
        self._between = between
        self._length = len(script)
        setattr(client, name, self)

    def __call__(self, *args: Any, **options: Any) -> Any:
        if self._between is not None and len(self._script) == self._length - 1:
            self._between()
        word = self._script.pop(0) if self._script else ""
        if word == REFUSED:
            raise NotConnected("no endpoint can be reached")
        if word == FULL:
            raise NoSpace("etcdserver: mvcc: database space exceeded")
        answer = self._call(*args, **options) if word != LOST else None
        if word:
            raise lost_answer()
        return answer


@pytest.mark.parametrize("second", [REFUSED, FULL, LOST])
@pytest.mark.parametrize("first", [CARRIED_OUT, LOST])
def test_a_take_stays_unknown_when_the_second_attempt_fails(
    raftkv_served: Served, prefix: str, first: str, second: str
) -> None:
    """C01: to say that nothing was taken would lose the item."""
    with Client(raftkv_served.endpoints) as client:
        queue = client.queue(prefix + "q")
        queue.put("one")
        item = client.get_prefix(prefix + "q/")[0]
        Scripted(client, "txn", first, second)
        with pytest.raises(OutcomeUnknown):
            queue._taken(queue._shelf.taking(item), Patience(5.0))


def test_a_take_stays_unknown_when_the_item_was_claimed_before_the_second_attempt(
    raftkv_served: Served, prefix: str
) -> None:
    """C01: the first attempt may come when the claim is over, and the item is gone then."""
    with Client(raftkv_served.endpoints) as client, Client(raftkv_served.endpoints) as other:
        queue = client.queue(prefix + "q")
        queue.put("one")
        item = client.get_prefix(prefix + "q/")[0]
        claims: list[Any] = []
        Scripted(
            client,
            "txn",
            LOST,
            between=lambda: claims.append(other.queue(prefix + "q").claim(timeout=30)),
        )
        with pytest.raises(OutcomeUnknown):
            queue._taken(queue._shelf.taking(item), Patience(5.0))
        claims[0].release()


@pytest.mark.parametrize("first", [CARRIED_OUT, LOST])
def test_a_put_stays_unknown_when_nobody_can_be_asked_for_the_item(
    raftkv_served: Served, prefix: str, first: str
) -> None:
    with Client(raftkv_served.endpoints) as client:
        Scripted(client, "put", first)
        Scripted(client, "get", REFUSED)
        with pytest.raises(OutcomeUnknown):
            client.queue(prefix + "q").put("one")


@pytest.mark.parametrize("first", [CARRIED_OUT, LOST])
def test_done_may_be_called_again_after_any_doubt(
    raftkv_served: Served, prefix: str, first: str
) -> None:
    """It must not take its own traces for a lost claim."""
    with Client(raftkv_served.endpoints) as client:
        queue = client.queue(prefix + "q")
        queue.put("one")
        claim = queue.claim(timeout=30)
        Scripted(client, "txn", first, REFUSED)
        with pytest.raises(OutcomeUnknown):
            claim.done()
        claim.done()
        assert queue.size() == 0
        assert not claim.is_held


@pytest.mark.parametrize("first", [CARRIED_OUT, LOST])
def test_a_barrier_without_a_lease_can_be_opened_after_a_release_that_failed(
    raftkv_served: Served, prefix: str, first: str
) -> None:
    with Client(raftkv_served.endpoints) as client:
        held = client.barrier(prefix + "b").hold(ttl=None)
        Scripted(client, "txn", first, REFUSED)
        with pytest.raises(OutcomeUnknown):
            held.release()
        held.release()
        assert not held.is_held
        assert client.count(prefix) == 0


@pytest.mark.parametrize("first", [CARRIED_OUT, LOST])
def test_a_barrier_without_a_lease_may_be_held_when_nobody_can_be_asked(
    raftkv_served: Served, prefix: str, first: str
) -> None:
    with Client(raftkv_served.endpoints) as client:
        Scripted(client, "txn", first, REFUSED)
        with pytest.raises(OutcomeUnknown):
            client.barrier(prefix + "b").hold(ttl=None)
        assert client.count(prefix) == (first == CARRIED_OUT)


def test_a_membership_update_stays_unknown_when_the_second_attempt_finds_no_server(
    raftkv_served: Served, prefix: str
) -> None:
    with Client(raftkv_served.endpoints) as client:
        membership = client.party(prefix + "p").join("a", "1")
        Scripted(client, "txn", CARRIED_OUT, REFUSED)
        with pytest.raises(OutcomeUnknown):
            membership.update("2")
        assert client.party(prefix + "p").members()[0].text == "2"
        membership.update("3")
        assert client.party(prefix + "p").members()[0].text == "3"
        membership.leave()


def test_a_late_update_does_not_undo_a_later_one(raftkv_served: Served, prefix: str) -> None:
    """C02: an attempt that was given up arrives behind the next one."""
    with Client(raftkv_served.endpoints) as client:
        membership = client.party(prefix + "p").join("a", "1")
        sent: list[Any] = []
        txn = client.txn

        def keep(transaction: Any, **options: Any) -> Any:
            sent.append(transaction)
            raise lost_answer()

        client.txn = keep  # type: ignore[method-assign]
        with pytest.raises(OutcomeUnknown):
            membership.update("2")
        client.txn = txn  # type: ignore[method-assign]
        membership.update("3")
        for late in sent:
            assert not client.txn(late).succeeded
        assert client.party(prefix + "p").members()[0].text == "3"
        membership.leave()


@pytest.mark.parametrize("first", [CARRIED_OUT, LOST])
def test_an_addition_stays_unknown_when_the_second_attempt_is_refused_for_good(
    raftkv_served: Served, prefix: str, first: str
) -> None:
    with Client(raftkv_served.endpoints) as client:
        Scripted(client, "txn", first, FULL)
        with pytest.raises(OutcomeUnknown):
            client.counter(prefix + "n").add(1)
        assert client.counter(prefix + "n").get() == (first == CARRIED_OUT)
