"""Partitioner: one function per partition, moved when somebody comes, goes, dies or is cut off."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from raftkv.client import BadRequest, Misused, Put, Share, Txn, aio
from raftkv.client.sync import Client
from tests.client.conftest import Served
from tests.client.gate import Gate
from tests.client.recipes.contention import Beside, lose_answers, wait_until

NAMES = [f"{number:02}" for number in range(8)]


class Floor:
    """Who works on what at the moment, and every overlap there ever was."""

    def __init__(self) -> None:
        self.working: dict[str, list[str]] = {name: [] for name in NAMES}
        self.tokens: dict[str, list[int]] = {name: [] for name in NAMES}
        self.overlaps: list[tuple[str, list[str]]] = []
        self._guard = threading.Lock()

    def worker(self, who: str) -> Any:
        def work(share: Share) -> None:
            with self._guard:
                self.working[share.text].append(who)
                self.tokens[share.text].append(share.fencing_token)
                if len(self.working[share.text]) > 1:
                    self.overlaps.append((share.text, list(self.working[share.text])))
            share.stop.wait(60)
            with self._guard:
                self.working[share.text].remove(who)

        return work

    def sizes(self) -> dict[str, int]:
        with self._guard:
            workers = [who for each in self.working.values() for who in each]
        return {who: workers.count(who) for who in sorted(set(workers))}

    def owners(self) -> dict[str, list[str]]:
        with self._guard:
            return {name: list(each) for name, each in self.working.items()}

    def check(self) -> None:
        assert self.overlaps == []
        for tokens in self.tokens.values():
            assert tokens == sorted(set(tokens)), "tokens grow from owner to owner"


@contextmanager
def running(
    endpoints: str, prefix: str, floor: Floor, who: str, **options: Any
) -> Iterator[tuple[Any, Client]]:
    """A process that takes part, as a thread with a client of its own."""
    with Client(endpoints, keepalive_time=0.3, keepalive_timeout=0.3, timeout=1.0) as client:
        made = client.partitioner(prefix + "p", NAMES, floor.worker(who), identity=who, **options)
        beside = Beside(made.run)
        try:
            yield made, client
        finally:
            made.stop()
            beside.result()


def test_partitions_move_as_members_come_and_go_and_never_overlap(
    server: Served, prefix: str
) -> None:
    floor = Floor()
    with ExitStack() as all_of_them:
        stack = {who: all_of_them.enter_context(ExitStack()) for who in ("a", "b", "c")}
        first, client = stack["a"].enter_context(running(server.endpoints, prefix, floor, "a"))
        wait_until(lambda: floor.sizes() == {"a": 8})
        assert [share.text for share in first.shares] == NAMES
        assert all(share.is_held for share in first.shares)
        before = floor.owners()
        stack["b"].enter_context(running(server.endpoints, prefix, floor, "b"))
        wait_until(lambda: floor.sizes() == {"a": 4, "b": 4})
        assert len(client.party(prefix + "p/members").members()) == 2
        kept = [name for name in NAMES if floor.owners()[name] == before[name]]
        assert len(kept) == 4
        stack["c"].enter_context(running(server.endpoints, prefix, floor, "c"))
        wait_until(lambda: sorted(floor.sizes().values()) == [2, 3, 3])
        stack["b"].close()
        wait_until(lambda: floor.sizes() == {"a": 4, "c": 4})
        stack["a"].close()
        wait_until(lambda: floor.sizes() == {"c": 8})
    floor.check()
    with Client(server.endpoints) as client:
        assert client.count(prefix) == 0


@pytest.mark.slow
def test_the_partitions_of_a_dead_member_are_divided(server: Served, prefix: str) -> None:
    """A crash: the lease is not renewed any more, and nothing is said."""
    floor = Floor()
    with running(server.endpoints, prefix, floor, "b", ttl=2):
        wait_until(lambda: floor.sizes() == {"b": 8})
        with Client(server.endpoints) as client, client.lease(2) as lease:
            client.put(f"{prefix}p/members/dead/{lease.id:x}", "", lease=lease)
            wait_until(lambda: floor.sizes() == {"b": 4})
            lease.detach()
            wait_until(lambda: floor.sizes() == {"b": 8})
    floor.check()


@pytest.mark.slow
def test_one_who_is_cut_off_stops_before_another_can_have_its_partitions(
    server: Served, prefix: str
) -> None:
    """C05, C07: by its own clock, although the network is dead; and it comes back."""
    floor = Floor()
    with Gate(server.endpoints) as gate, running(gate.endpoint, prefix, floor, "cut", ttl=2) as cut:
        wait_until(lambda: floor.sizes() == {"cut": 8})
        with running(server.endpoints, prefix, floor, "b", ttl=2):
            wait_until(lambda: floor.sizes() == {"b": 4, "cut": 4})
            shares = cut[0].shares
            gate.silence()
            gate.cut()
            wait_until(lambda: floor.sizes() == {"b": 8})
            assert not any(share.is_held for share in shares)
            assert all(share.stop.is_set() for share in shares)
            gate.open()
            wait_until(lambda: floor.sizes() == {"b": 4, "cut": 4})
            with Client(server.endpoints) as client:
                late = shares[0].guard(Txn()).then(Put(prefix + "x", "late"))
                assert not client.txn(late).succeeded
    floor.check()


def test_a_partition_goes_on_only_when_its_function_has_ended(server: Served, prefix: str) -> None:
    floor = Floor()
    may_end = threading.Event()

    def slow(share: Share) -> None:
        inner = floor.worker("slow")
        inner(share)
        with floor._guard:
            floor.working[share.text].append("slow")
        may_end.wait(30)
        with floor._guard:
            floor.working[share.text].remove("slow")

    with Client(server.endpoints) as client:
        made = client.partitioner(prefix + "p", NAMES, slow)
        beside = Beside(made.run)
        wait_until(lambda: floor.sizes() == {"slow": 8})
        with running(server.endpoints, prefix, floor, "b"):
            wait_until(lambda: sum(share.stop.is_set() for share in made.shares) == 4)
            wait_until(lambda: len(client.party(prefix + "p/members").members()) == 2)
            owners = client.get_prefix(prefix + "p/owners/")
            assert {kv.lease for kv in owners} == {made.shares[0].lease.id}
            assert floor.sizes().get("b", 0) == 0
            may_end.set()
            wait_until(lambda: floor.sizes() == {"b": 4, "slow": 4})
        made.stop()
        beside.result()
    assert floor.overlaps == []


def test_an_error_of_a_function_ends_the_run_and_frees_everything(
    server: Served, prefix: str
) -> None:
    stopped: list[str] = []

    def work(share: Share) -> None:
        if share.text == "05":
            raise ZeroDivisionError
        share.stop.wait(30)
        stopped.append(share.text)

    with Client(server.endpoints) as client:
        with pytest.raises(ZeroDivisionError):
            client.partitioner(prefix + "p", NAMES, work).run()
        assert "05" not in stopped
        assert client.count(prefix) == 0


def test_a_function_that_returns_keeps_its_partition(server: Served, prefix: str) -> None:
    with Client(server.endpoints) as client:
        done: list[str] = []
        made = client.partitioner(prefix + "p", ["a"], lambda share: done.append(share.text))
        beside = Beside(made.run)
        wait_until(lambda: done == ["a"])
        assert [share.text for share in made.shares] == ["a"]
        with pytest.raises(Misused):
            made.run()
        made.stop()
        beside.result()
        assert done == ["a"]


def test_keys_that_are_deleted_by_hand_stop_the_work_and_are_taken_again(
    server: Served, prefix: str
) -> None:
    floor = Floor()
    with running(server.endpoints, prefix, floor, "a") as (made, client):
        wait_until(lambda: floor.sizes() == {"a": 8})
        client.delete(prefix + "p/owners/03")
        wait_until(lambda: len(floor.tokens["03"]) == 2)
        client.delete_prefix(prefix + "p/members/")
        wait_until(lambda: all(len(each) >= 2 for each in floor.tokens.values()))
        wait_until(lambda: len(made.shares) == 8)
        client.revoke(made.shares[0].lease.id)
        wait_until(lambda: all(len(each) >= 3 for each in floor.tokens.values()))
    floor.check()


@pytest.mark.parametrize("carry_out", [True, False])
def test_lost_answers_are_found_out_by_looking(
    server: Served, prefix: str, carry_out: bool
) -> None:
    """C02: of joining, of taking and of giving up."""
    floor = Floor()
    with Client(server.endpoints) as client:
        lose_answers(client, 5, carry_out=carry_out)
        made = client.partitioner(prefix + "p", NAMES, floor.worker("a"), identity="a")
        beside = Beside(made.run)
        wait_until(lambda: floor.sizes() == {"a": 8})
        losing = lose_answers(client, 3, carry_out=carry_out)
        with running(server.endpoints, prefix, floor, "b"):
            wait_until(lambda: floor.sizes() == {"a": 4, "b": 4})
        wait_until(lambda: floor.sizes() == {"a": 8})
        assert losing.lost == 3
        made.stop()
        beside.result()
    floor.check()


def test_a_grace_that_leaves_no_time_is_refused(server: Served, prefix: str) -> None:
    with Client(server.endpoints) as client, pytest.raises(BadRequest):
        client.partitioner(prefix + "p", ["a"], lambda share: None, ttl=1, grace=0.7)


def test_both_faces_divide_the_same_partitions(server: Served, prefix: str) -> None:
    """The asynchronous one's functions are cancelled when they are to stop."""
    floor = Floor()
    cancelled: list[str] = []

    async def scenario() -> None:
        async def work(share: Any) -> None:
            floor.working[share.text].append("aio")
            try:
                await asyncio.sleep(60)
            finally:
                floor.working[share.text].remove("aio")
                cancelled.append(share.text)

        async with aio.Client(server.endpoints) as client:
            made = client.partitioner(prefix + "p", NAMES, work, identity="aio")
            task = asyncio.create_task(made.run())
            while floor.sizes() != {"aio": 8}:
                await asyncio.sleep(0.01)
            with ExitStack() as stack:
                enter = running(server.endpoints, prefix, floor, "sync")
                await asyncio.to_thread(stack.enter_context, enter)
                while floor.sizes() != {"aio": 4, "sync": 4}:
                    await asyncio.sleep(0.01)
                assert len(cancelled) == 4
                await asyncio.to_thread(stack.close)
            while floor.sizes() != {"aio": 8}:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert floor.sizes() == {}
            assert await client.count(prefix) == 0

    asyncio.run(asyncio.wait_for(scenario(), 100))
    assert floor.overlaps == []
