"""Queue and PriorityQueue: order, claims, crashes, lost answers; Go's layout."""

import threading
import time

import pytest

from raftkv.client import BadRequest, LeaseLost, NotAcquired, NotHeld, OutcomeUnknown, Txn
from raftkv.client.items import NotAnItem
from raftkv.client.sync import Client
from raftkv.client.txn import Put
from tests.client.conftest import Served
from tests.client.faces import Faces
from tests.client.recipes.contention import lose_answers
from tests.client.recipes.test_counter import Forgetful


def test_items_come_in_the_order_of_their_coming(
    server: Served, connect: Faces, prefix: str
) -> None:
    queue = connect(server.endpoints).queue(prefix + "q")
    for number in range(5):
        queue.put(f"item {number}")
    assert queue.size() == 5
    assert [queue.take(timeout=30) for _ in range(5)] == [b"item %d" % n for n in range(5)]
    with pytest.raises(NotAcquired):
        queue.take(timeout=0.2)


def test_urgent_items_go_first_and_the_older_of_two(
    server: Served, connect: Faces, prefix: str
) -> None:
    client = connect(server.endpoints)
    queue = client.priority_queue(prefix + "q")
    for value, priority in (("c", 7), ("a", 0), ("d", 7), ("b", 1), ("e", 99_999)):
        queue.put(value, priority=priority)
    assert [queue.take(timeout=30) for _ in range(5)] == [b"a", b"b", b"c", b"d", b"e"]
    with pytest.raises(BadRequest, match="priority"):
        queue.put("x", priority=-1)


def test_keys_are_those_of_the_go_recipes(server: Served, prefix: str) -> None:
    with Client(server.endpoints) as client:
        client.priority_queue(prefix + "p").put("v", priority=7)
        client.priority_queue(prefix + "p").put("w", priority=7)
        found = client.get_prefix(prefix + "p/")
        keys = [kv.key_text.removeprefix(prefix) for kv in found]
        assert keys == ["p/00007/0000000000000000", "p/00007/0000000000000001"]
        client.put(prefix + "q/1764000000000000000", "from Go")
        client.queue(prefix + "q").put("ours")
        assert client.queue(prefix + "q").take(timeout=30) == b"from Go"


def test_a_taker_waits_for_an_item(server: Served, connect: Faces, prefix: str) -> None:
    client = connect(server.endpoints)
    taken: list[bytes] = []
    waiting = threading.Thread(
        target=lambda: taken.append(client.queue(prefix + "q").take(timeout=20))
    )
    waiting.start()
    time.sleep(0.2)
    with Client(server.endpoints) as other:
        other.queue(prefix + "q").put("late")
    waiting.join()
    assert taken == [b"late"]


def test_each_item_is_taken_by_one(server: Served, prefix: str) -> None:
    with Client(server.endpoints) as client:
        queue = client.queue(prefix + "q")
        for number in range(30):
            queue.put(b"%d" % number)
        taken: list[bytes] = []
        turns = iter(range(30))

        def take() -> None:
            mine = [client.queue(prefix + "q").take(timeout=60) for _ in turns]
            taken.extend(mine)

        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(taken, key=int) == [b"%d" % number for number in range(30)]


def test_a_claimed_item_is_seen_by_nobody_else_until_it_is_given_back(
    server: Served, connect: Faces, prefix: str
) -> None:
    queue = connect(server.endpoints).queue(prefix + "q")
    queue.put("one")
    with Client(server.endpoints) as other:
        claim = other.queue(prefix + "q").claim(timeout=30)
        assert claim.text == "one"
        with pytest.raises(NotAcquired):
            queue.take(timeout=0.7)
        claim.release()
        claim.release()
        assert not claim.is_held
        with pytest.raises(NotHeld):
            claim.done()
        assert queue.take(timeout=30) == b"one"


def test_work_that_fails_puts_the_item_back_and_work_that_ends_takes_it_out(
    server: Served, prefix: str
) -> None:
    with Client(server.endpoints) as client:
        queue = client.queue(prefix + "q")
        queue.put("one")
        with pytest.raises(ZeroDivisionError), queue.claim(timeout=30):
            raise ZeroDivisionError
        with queue.claim(timeout=30) as claim:
            assert claim.value == b"one"
            assert client.txn(claim.guard(Txn()).then(Put(prefix + "x", "1"))).succeeded
        assert queue.size() == 0
        assert not client.txn(claim.guard(Txn()).then(Put(prefix + "x", "2"))).succeeded
        assert client.count("_claims/" + prefix) == 0


def test_a_claim_that_somebody_deletes_is_lost_and_its_lease_kept_no_more(
    server: Served, connect: Faces, prefix: str
) -> None:
    client = connect(server.endpoints)
    queue = client.queue(prefix + "q")
    queue.put("one")
    claim = queue.claim(timeout=20)
    client.delete_prefix("_claims/" + prefix)
    with pytest.raises(LeaseLost):
        claim.done()
    assert not claim.is_held
    assert not claim.lease.alive
    assert queue.take(timeout=20) == b"one"


def test_work_whose_end_cannot_be_told_gives_the_item_back(
    server: Served, connect: Faces, prefix: str
) -> None:
    """C01: nobody is left who could try again, so nobody may keep the claim."""
    client = connect(server.endpoints)
    queue = client.queue(prefix + "q")
    queue.put("one")
    losing = None
    with pytest.raises(OutcomeUnknown), queue.claim(timeout=20) as claim:
        losing = lose_answers(client, 2, carry_out=False)
    assert losing is not None
    assert losing.lost == 2
    assert not claim.lease.alive
    assert queue.take(timeout=20) == b"one"


def test_other_keys_among_the_urgent_ones_are_passed_over_or_named(
    server: Served, connect: Faces, prefix: str
) -> None:
    client = connect(server.endpoints)
    queue = client.priority_queue(prefix + "q")
    for other in ("", "notes", "~"):
        client.put(f"{prefix}q/00007/{other}", "no item")
    first = queue.put("one", priority=7)
    assert queue.put("two", priority=7) == first[:-1] + b"1"
    client.put(prefix + "q/00007/9-lives", "no item")
    with pytest.raises(NotAnItem, match="9-lives"):
        queue.put("three", priority=7)


def test_the_item_of_a_dead_claimant_comes_back(server: Served, prefix: str) -> None:
    with Client(server.endpoints) as client, Client(server.endpoints) as dying:
        client.queue(prefix + "q").put("one")
        claim = dying.queue(prefix + "q").claim(timeout=30, ttl=2)
        claim.lease.detach()  # as if the process had ended
        assert client.queue(prefix + "q").claim(timeout=20).value == b"one"
        with pytest.raises(LeaseLost):
            claim.done()
        assert client.queue(prefix + "q").size() == 1


def test_claims_of_all_first_items_do_not_hide_the_others(server: Served, prefix: str) -> None:
    with Client(server.endpoints) as client:
        queue = client.queue(prefix + "q")
        for number in range(70):
            queue.put(b"%d" % number)
        claims = [queue.claim(timeout=30) for _ in range(66)]
        assert queue.take(timeout=30) == b"66"
        for claim in claims:
            claim.release()
        assert queue.take(timeout=30) == b"0"


@pytest.mark.parametrize("carried_out", [True, False])
def test_a_lost_answer_to_claim_or_done_is_found_out(
    server: Served, prefix: str, carried_out: bool
) -> None:
    """C02"""
    with Client(server.endpoints) as client:
        queue = client.queue(prefix + "q")
        queue.put("one")
        queue.put("two")
        # Looks are transactions too: 1 and 2 look, 3 claims and 4 again, 5 is done and 6 again.
        Forgetful(client, {3, 5}, carried_out=carried_out)
        claim = queue.claim(timeout=30)
        assert claim.value == b"one"
        claim.done()
        assert queue.take(timeout=30) == b"two"


def test_a_lost_answer_to_take_is_told_when_nobody_can_know(server: Served, prefix: str) -> None:
    """C01"""
    with Client(server.endpoints) as client:
        queue = client.queue(prefix + "q")
        queue.put("one")
        Forgetful(client, {2}, carried_out=True)
        with pytest.raises(OutcomeUnknown):
            queue.take(timeout=30)
    with Client(server.endpoints) as client:
        queue = client.queue(prefix + "q")
        queue.put("two")
        Forgetful(client, {2}, carried_out=False)
        assert queue.take(timeout=30) == b"two"


@pytest.mark.parametrize("carried_out", [True, False])
def test_a_lost_answer_to_an_urgent_put_neither_loses_nor_doubles_it(
    server: Served, prefix: str, carried_out: bool
) -> None:
    """C01, C02"""
    with Client(server.endpoints) as client:
        queue = client.priority_queue(prefix + "q")
        Forgetful(client, {1, 3}, carried_out=carried_out)
        queue.put("one", priority=3)
        queue.put("two", priority=3)
        assert queue.size() == 2
        assert [queue.take(timeout=30), queue.take(timeout=30)] == [b"one", b"two"]
