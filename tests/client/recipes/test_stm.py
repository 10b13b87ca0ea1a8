"""Software transactions on both servers, in both faces: conflicts, isolation, lost answers."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest

from raftkv.client import Client, OutcomeUnknown, Txn, aio
from raftkv.client.aio.recipes.stm import Transaction as AioTransaction
from raftkv.client.isolation import Isolation, TooManyConflicts
from raftkv.client.sync.recipes.stm import Transaction
from tests.client.conftest import Served
from tests.client.faces import Faces
from tests.client.recipes.contention import Beside, lose_answers

SNAPSHOT = Isolation.SERIALIZABLE_SNAPSHOT


@pytest.fixture
def other_client() -> Iterator[Callable[[Served], Client]]:
    """Makes clients for others, who go on while the loop of the asynchronous face is blocked."""
    with ExitStack() as stack:
        yield lambda server: stack.enter_context(Client(server.endpoints))


class Either:
    """A transaction of either face for functions that know neither: they are plain, and steps of
    the asynchronous one run in its loop.
    """

    def __init__(self, connect: Faces) -> None:
        self.is_aio = connect.name == "aio"

    def __call__(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """The function as the face wants it; in it, `yield` what is to be read."""
        if self.is_aio:

            async def run(tx: AioTransaction) -> Any:
                steps = function(tx)
                try:
                    wanted = next(steps)
                    while True:
                        wanted = steps.send(await tx.get(wanted))
                except StopIteration as end:
                    return end.value

            return run

        def run_here(tx: Transaction) -> Any:
            steps = function(tx)
            try:
                wanted = next(steps)
                while True:
                    wanted = steps.send(tx.get(wanted))
            except StopIteration as end:
                return end.value

        return run_here


def test_a_transaction_takes_effect_as_a_whole_and_returns_what_the_function_does(
    server: Served, connect: Faces, prefix: str
) -> None:
    client = connect(server.endpoints)
    client.put(prefix + "alice", "10")
    client.put(prefix + "old", "x")

    def move(tx: Any) -> Any:
        balance = int((yield prefix + "alice"))
        assert (yield prefix + "bob") is None
        tx.put(prefix + "alice", str(balance - 3))
        tx.put(prefix + "bob", "3")
        tx.delete(prefix + "old")
        assert (yield prefix + "alice") == b"7"
        assert (yield prefix + "old") is None
        return balance

    assert client.stm(Either(connect)(move)) == 10
    after = client.get_prefix(prefix)
    assert {kv.key_text.removeprefix(prefix): kv.text for kv in after} == {"alice": "7", "bob": "3"}
    assert len({kv.mod_revision for kv in after}) == 1


def test_an_error_of_the_function_goes_through_and_nothing_is_written(
    server: Served, connect: Faces, prefix: str
) -> None:
    client = connect(server.endpoints)

    def fail(tx: Any) -> Any:
        yield prefix + "a"
        tx.put(prefix + "a", "1")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        client.stm(Either(connect)(fail))
    assert client.count(prefix) == 0


def test_no_increment_is_lost_or_made_twice(server: Served, connect: Faces, prefix: str) -> None:
    client = connect(server.endpoints)

    def increment(tx: Any) -> Any:
        value = int((yield prefix + "n") or b"0")
        tx.put(prefix + "n", str(value + 1))
        return value + 1

    def work() -> list[Any]:
        return [client.stm(Either(connect)(increment), attempts=1000) for _ in range(8)]

    results = [value for worker in [Beside(work) for _ in range(4)] for value in worker.result()]
    assert sorted(results) == list(range(1, 33))
    assert client.get(prefix + "n").text == "32"


def test_a_conflict_runs_the_function_again_and_only_so_often(
    server: Served, connect: Faces, prefix: str, other_client: Callable[[Served], Client]
) -> None:
    client = connect(server.endpoints)
    other = other_client(server)
    runs = 0

    def meddled(tx: Any, times: int) -> Any:
        nonlocal runs
        runs += 1
        value = yield prefix + "a"
        if runs <= times:
            other.put(prefix + "a", f"theirs {runs}")
        tx.put(prefix + "b", (value or b"") + b" seen")

    client.stm(Either(connect)(partial(meddled, times=2)))
    assert runs == 3
    assert client.get(prefix + "b").text == "theirs 2 seen"
    runs = 0
    with pytest.raises(TooManyConflicts):
        client.stm(Either(connect)(partial(meddled, times=100)), attempts=4)
    assert runs == 4
    assert client.get(prefix + "b").version == 1


@pytest.mark.parametrize("isolation", Isolation)
def test_the_levels_differ_in_what_they_let_pass(
    server: Served,
    connect: Faces,
    prefix: str,
    isolation: Isolation,
    other_client: Callable[[Served], Client],
) -> None:
    """Others write: what was read, what is put blindly, and what is read later."""
    client = connect(server.endpoints)
    other = other_client(server)
    for name in ("read", "later", "blind"):
        client.put(prefix + name, "0")
    runs: list[bytes] = []

    def watched(meddle: str) -> Callable[[Any], Any]:
        runs.clear()

        def function(tx: Any) -> Any:
            yield prefix + "read"
            if not runs:
                other.put(prefix + meddle, "theirs")
            runs.append((yield prefix + "later"))
            tx.put(prefix + "blind", "mine")

        return Either(connect)(function)

    client.stm(watched("blind"), isolation=isolation)
    assert len(runs) == (2 if isolation is SNAPSHOT else 1)
    client.stm(watched("read"), isolation=isolation)
    assert len(runs) == (1 if isolation is Isolation.READ_COMMITTED else 2)
    client.stm(watched("later"), isolation=isolation)
    assert runs[0] == (b"0" if isolation.is_pinned else b"theirs")
    assert runs[-1] == b"theirs"
    assert client.get(prefix + "blind").text == "mine"


@pytest.mark.parametrize("carry_out", [True, False])
@pytest.mark.parametrize("marked", [True, False])
def test_a_lost_answer_is_found_out_and_nothing_is_done_twice(
    server: Served, connect: Faces, prefix: str, carry_out: bool, marked: bool
) -> None:
    """C01, C02. Without a marker what was carried out cannot be told from another's write."""
    client = connect(server.endpoints)
    client.put(prefix + "n", "1")
    runs = 0

    def increment(tx: Any) -> Any:
        nonlocal runs
        runs += 1
        value = int((yield prefix + "n"))
        tx.put(prefix + "n", str(value + 1))
        return value + 1

    losing = lose_answers(client, carry_out=carry_out)
    function = Either(connect)(increment)
    if carry_out and not marked:
        with pytest.raises(OutcomeUnknown):
            client.stm(function)
    else:
        marker = prefix + "marker" if marked else None
        assert client.stm(function, marker=marker) == 2
    assert losing.lost == 1
    assert runs == 1
    assert client.get(prefix + "n").text == "2"


def test_a_lost_commit_that_somebody_overtook_is_no_success(
    server: Served, connect: Faces, prefix: str, other_client: Callable[[Served], Client]
) -> None:
    """C02: it never came to the servers; another write did, and then the function runs again."""
    client = connect(server.endpoints)
    other = other_client(server)
    client.put(prefix + "read", "1")
    client.put(prefix + "n", "1")
    runs = 0

    def function(tx: Any) -> Any:
        nonlocal runs
        runs += 1
        value = yield prefix + "read"
        yield prefix + "n"
        tx.put(prefix + "n", value)
        if runs == 1:
            other.put(prefix + "read", "2")

    lose_answers(client, carry_out=False)
    client.stm(Either(connect)(function))
    assert runs == 2
    assert client.get(prefix + "n").text == "2"


def test_a_reader_sees_one_revision_even_if_it_is_compacted(
    server: Served, connect: Faces, prefix: str, other_client: Callable[[Served], Client]
) -> None:
    client = connect(server.endpoints)
    other = other_client(server)
    client.put(prefix + "a", "1")
    client.put(prefix + "b", "1")
    runs = 0

    def function(tx: Any) -> Any:
        nonlocal runs
        runs += 1
        one = yield prefix + "a"
        if runs == 1:
            overtake()
        return one, (yield prefix + "b")

    def overtake() -> None:
        both = Txn()
        for name in ("a", "b"):
            both = both.then(put(prefix + name))
        other.compact(other.txn(both).revision)

    def put(name: str) -> Any:
        from raftkv.client import Put

        return Put(name, "2")

    assert client.stm(Either(connect)(function)) == (b"2", b"2")
    assert runs == 2


def test_the_faces_offer_the_same(server: Served, prefix: str) -> None:
    """As users write it, without the helper of the other tests."""

    def increment(tx: Transaction) -> int:
        value = int(tx.get(prefix + "n") or b"0") + 1
        tx.put(prefix + "n", str(value))
        assert tx.mod_revision(prefix + "n") == (0 if value == 1 else revision)
        return value

    async def increment_too(tx: AioTransaction) -> int:
        value = int(await tx.get(prefix + "n") or b"0") + 1
        tx.put(prefix + "n", str(value))
        return value

    async def scenario() -> int:
        async with aio.Client(server.endpoints) as client:
            return await client.stm(increment_too)

    revision = 0
    with Client(server.endpoints) as client:
        assert client.stm(increment) == 1
        assert asyncio.run(scenario()) == 2
        revision = client.get(prefix + "n").mod_revision
        assert client.stm(increment) == 3
