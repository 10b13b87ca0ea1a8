"""What is cancelled leaves nothing behind: at each single point at which it waits."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest

from raftkv.client import Txn, TxnResult, aio
from raftkv.client.aio.recipes import barrier, double_barrier, queue, queued, until
from tests.client.conftest import Served
from tests.client.recipes.cancelling import (
    Cut,
    Recipes,
    all_recipes,
    others_hold,
    used,
    waiting_recipes,
)

PATIENCE_SECONDS: Final = 60.0  # of requests, on a machine that is busy with other tests
MOST_WAITS: Final = 16  # points at which a waiting recipe is cut: more than a turn of its loop has
HARMLESS: Final = ("q/", "s/limit", "d/ready")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A revocation is given the time that it needs: then nothing at all may be left."""
    for module in (barrier, double_barrier, queue, queued):
        monkeypatch.setattr(module, "LEAVE_SECONDS", PATIENCE_SECONDS)


class Stage:
    """A client with a namespace, a lease of its own, and another client that looks at it."""

    def __init__(self, client: aio.Client, other: aio.Client, lease: aio.Lease) -> None:
        self.client = client
        self.other = other
        self.lease = lease
        self.before: set[bytes] = set()

    async def keys(self) -> set[bytes]:
        """All keys of the client's but those that are no place of anybody's."""
        found = await self.other.get_prefix(self.client.namespace, keys_only=True)
        whole = {kv.key.removeprefix(self.client.namespace) for kv in found}
        return {key for key in whole if not key.startswith(tuple(map(str.encode, HARMLESS)))}

    async def check(self, what: object) -> None:
        """Nothing is left: no key, and no lease that is kept."""
        kept = set(self.client._connection.keeper._leases)
        assert kept == {self.lease.id}, f"{what}: a lease is kept"
        assert await self.keys() == self.before, what


def on_stage(endpoints: str, prefix: str, play: Callable[[Stage], Awaitable[None]]) -> None:
    """Runs a scenario; no task may be left of it."""

    async def whole() -> None:
        async with (
            aio.Client(endpoints, namespace=prefix, timeout=PATIENCE_SECONDS) as client,
            aio.Client(endpoints, timeout=PATIENCE_SECONDS) as other,
        ):
            lease = await client.lease(60)
            await client.queue("q").put("an item")
            stage = Stage(client, other, lease)
            await play(stage)
            await lease.revoke()
            async with asyncio.timeout(PATIENCE_SECONDS):
                while asyncio.all_tasks() != {asyncio.current_task()}:
                    await asyncio.sleep(0.01)

    asyncio.run(whole())


async def cut_everywhere(stage: Stage, recipes: Recipes, most: int) -> dict[str, int]:
    """Cuts each recipe at each of its points, at most so many; returns how many there were."""
    points = dict.fromkeys(recipes, 0)
    for name, make in recipes.items():
        for late in (False, True):
            for number in range(1, most + 1):
                cut = Cut(used(make()), number, late=late)
                task = asyncio.ensure_future(cut)
                _, pending = await asyncio.wait([task], timeout=PATIENCE_SECONDS)
                what = f"{name}, {'after' if late else 'before'} what its wait {number} was for"
                assert not pending, what
                if not task.cancelled():
                    task.result()
                await stage.check(what)
                if not cut.was_reached:
                    break
                points[name] += 1
                if name == "claim" and not await stage.client.queue("q").size():
                    await stage.client.queue("q").put("another item")
    return points


@pytest.mark.timeout(240)
def test_a_recipe_may_be_cancelled_wherever_it_waits(raftkv_served: Served, prefix: str) -> None:
    """C09, C14: before and after its servers have done what it waits for."""

    async def play(stage: Stage) -> None:
        recipes = all_recipes(stage.client, "", stage.lease)
        points = await cut_everywhere(stage, recipes, 1000)
        assert all(points.values()), points

    on_stage(raftkv_served.endpoints, prefix, play)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_who_waits_behind_others_may_be_cancelled_wherever_it_waits(
    raftkv_served: Served, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C09: no ghost stays in any queue."""
    for module, name in (
        (queued, "SLICE_SECONDS"),
        (until, "SLICE_SECONDS"),
        (queue, "CLAIMED_SECONDS"),
    ):
        monkeypatch.setattr(module, name, 0.001)

    async def play(stage: Stage) -> None:
        namespace = stage.client.namespace
        async with aio.Client(raftkv_served.endpoints, namespace=namespace) as holder:
            await others_hold(holder, "")
            stage.before = await stage.keys()
            recipes = waiting_recipes(stage.client, "", stage.lease)
            points = await cut_everywhere(stage, recipes, MOST_WAITS)
            assert set(points.values()) == {2 * MOST_WAITS}, "none of them came in"

    on_stage(raftkv_served.endpoints, prefix, play)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_what_is_cancelled_at_any_moment_leaves_no_key_no_lease_and_no_task(
    raftkv_served: Served, prefix: str
) -> None:
    """C09, C14: in whatever state grpcio has its calls."""
    moments = random.Random(9)

    async def play(stage: Stage) -> None:
        for name, make in all_recipes(stage.client, "", stage.lease).items():
            for _ in range(15):
                task = asyncio.ensure_future(used(make()))
                await asyncio.sleep(moments.uniform(0, 0.012))
                task.cancel()
                _, pending = await asyncio.wait([task], timeout=PATIENCE_SECONDS)
                assert not pending, name
                if name == "claim" and not await stage.client.queue("q").size():
                    await stage.client.queue("q").put("another item")
            await stage.check(name)

    on_stage(raftkv_served.endpoints, prefix, play)


def test_what_the_servers_carry_out_behind_a_cancellation_is_taken_back(
    raftkv_served: Served, prefix: str
) -> None:
    """C09: where no lease is revoked with it that would refuse a put which comes late."""

    async def play(stage: Stage) -> None:
        client = stage.client
        real = client.txn
        sent = asyncio.Event()

        async def late(transaction: Txn) -> TxnResult:
            sent.set()
            await asyncio.sleep(0.2)
            return await real(transaction)

        async def txn(transaction: Txn, **options: Any) -> TxnResult:
            if transaction.writes and not sent.is_set():
                return await asyncio.shield(asyncio.ensure_future(late(transaction)))
            return await real(transaction, **options)

        client.txn = txn  # type: ignore[method-assign]
        for make in (
            lambda: client.lock("g", lease=stage.lease).acquire(),
            lambda: client.barrier("b0").hold(ttl=None),
        ):
            sent.clear()
            task = asyncio.ensure_future(used(make()))
            await sent.wait()
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            await asyncio.wait([one for one in others if "late" in repr(one.get_coro())] or [task])
            await stage.check("a late put")

    on_stage(raftkv_served.endpoints, prefix, play)


@pytest.mark.parametrize("late", [False, True])
def test_what_ends_itself_may_be_cancelled_wherever_it_waits(
    raftkv_served: Served, prefix: str, late: bool
) -> None:
    """C09: also without `async with`."""

    async def play(stage: Stage) -> None:
        client = stage.client
        ends: dict[str, Callable[[], Any]] = {
            "lock": lambda: client.lock("l").acquire(),
            "barrier": lambda: client.barrier("b").hold(),
            "party": lambda: client.party("p").join("me"),
            "registry": lambda: client.registry("r").register("web", "a", "1.2.3.4"),
        }
        for name, make in ends.items():
            number = 0
            was_reached = True
            while was_reached:
                number += 1
                held = await make()
                end = next(
                    getattr(held, n) for n in ("release", "leave", "close") if hasattr(held, n)
                )
                cut = Cut(end(), number, late=late)
                await asyncio.wait([asyncio.ensure_future(cut)])
                await stage.check(f"{name}, {number}")
                was_reached = cut.was_reached
            assert number > 1, f"{name} ends without waiting for anybody"

    on_stage(raftkv_served.endpoints, prefix, play)


@pytest.mark.parametrize("exactly_once", [False, True])
def test_a_client_whose_closing_is_cancelled_keeps_no_lease(
    raftkv_served: Served, exactly_once: bool
) -> None:
    """C09: nobody could end that any more."""

    async def whole() -> None:
        number = 0
        was_reached = True
        while was_reached:
            number += 1
            client = aio.Client(raftkv_served.endpoints, exactly_once=exactly_once)
            lease = await client.lease(60)
            cut = Cut(client.close(), number, late=False)
            await asyncio.wait([asyncio.ensure_future(cut)])
            was_reached = cut.was_reached
            assert client._connection.keeper.stopped
            assert not lease.alive
            async with aio.Client(raftkv_served.endpoints) as other:
                await other.revoke(lease.id)
        assert number > 1

    asyncio.run(whole())


def test_a_claim_whose_done_was_cancelled_can_still_be_done(
    raftkv_served: Served, prefix: str
) -> None:
    """C09, C01: its own traces are not taken for somebody else's."""

    async def play(stage: Stage) -> None:
        for late in (False, True):
            claim = await stage.client.queue("q").claim()
            task = asyncio.ensure_future(Cut(claim.done(), 1, late=late))
            await asyncio.wait([task])
            assert task.cancelled()
            assert claim.is_held
            await claim.done()
            assert await stage.client.queue("q").size() == 0
            await stage.check(late)
            await stage.client.queue("q").put("another item")

    on_stage(raftkv_served.endpoints, prefix, play)
