"""The leader-only runner: one function at a time, told to stop in time, and again after a loss."""

import asyncio
import threading
import time
from typing import Any

import pytest

from raftkv.client import BadRequest, Client, Put, Txn, aio
from raftkv.client.aio.recipes.leader_runner import Shift as AioShift
from raftkv.client.sync.recipes.leader_runner import Shift
from tests.client.conftest import Served
from tests.client.gate import Gate
from tests.client.recipes.contention import Beside, wait_until


def test_the_runner_returns_when_the_function_does(server: Served, prefix: str) -> None:
    seen: list[Any] = []

    def work(shift: Shift) -> None:
        assert shift.is_leader
        seen.append(client.election(prefix + "r").leader())
        assert client.txn(shift.term.guard(Txn()).then(Put(prefix + "v", "x"))).succeeded

    with Client(server.endpoints) as client:
        runner = client.leader_runner(prefix + "r", work, value="host-a")
        runner.run()
        assert runner.shift is None
        assert seen[0].text == "host-a"
        assert client.count(prefix + "r") == 0


def test_an_error_of_the_function_ends_the_runner(server: Served, prefix: str) -> None:
    def work(shift: Shift) -> None:
        raise ZeroDivisionError

    with Client(server.endpoints) as client:
        with pytest.raises(ZeroDivisionError):
            client.leader_runner(prefix + "r", work).run()
        assert client.count(prefix + "r") == 0


def test_one_of_several_works_and_the_next_begins_when_it_has_ended(
    server: Served, prefix: str
) -> None:
    active: list[int] = []
    order: list[int] = []
    overlaps: list[list[int]] = []

    def work_of(number: int) -> Any:
        def work(shift: Shift) -> None:
            active.append(number)
            order.append(number)
            if len(active) > 1:
                overlaps.append(list(active))
            shift.stop.wait(30)
            active.remove(number)

        return work

    with Client(server.endpoints) as client:
        runners = [client.leader_runner(prefix + "r", work_of(n), ttl=20) for n in range(3)]
        running = [Beside(runner.run) for runner in runners]
        for number in range(3):
            wait_until(lambda: len(order) == number + 1)  # noqa: B023
            runners[order[-1]].stop()
            running[order[-1]].result()
        assert sorted(order) == [0, 1, 2]
        assert overlaps == []
        assert client.count(prefix + "r") == 0


def test_a_lost_leadership_stops_the_function_and_the_runner_campaigns_again(
    server: Served, prefix: str
) -> None:
    shifts: list[Shift] = []

    def work(shift: Shift) -> None:
        shifts.append(shift)
        if len(shifts) == 1:
            assert shift.stop.wait(30)
            assert not shift.is_leader
            raise ZeroDivisionError  # behind the loss: noted, and that is all

    with Client(server.endpoints) as client:
        running = Beside(client.leader_runner(prefix + "r", work, ttl=2).run)
        wait_until(lambda: len(shifts) == 1)
        client.revoke(shifts[0].term.lease.id)
        running.result()
        assert len(shifts) == 2
        assert shifts[0].term.fencing_token < shifts[1].term.fencing_token


def test_stopping_a_runner_that_waits_leaves_no_candidate(server: Served, prefix: str) -> None:
    with Client(server.endpoints) as client, client.election(prefix + "r").campaign("other"):
        runner = client.leader_runner(prefix + "r", lambda shift: None)
        running = Beside(runner.run)
        wait_until(lambda: client.count(prefix + "r") == 2)
        runner.stop()
        running.result()
        assert client.count(prefix + "r") == 1


def test_the_function_is_told_before_another_can_lead_although_the_network_is_dead(
    server: Served, prefix: str
) -> None:
    """C07: the shift ends `grace` seconds before the lease can have run out."""
    ended: list[float] = []
    remaining: list[float] = []

    def work(shift: Shift) -> None:
        begun.set()
        shift.stop.wait(40)
        remaining.append(shift.term.lease.remaining)
        ended.append(time.monotonic())
        runner.stop()

    begun = threading.Event()
    gate = Gate(server.endpoints)
    try:
        with Client(gate.endpoint) as client, Client(server.endpoints) as other:
            runner = client.leader_runner(prefix + "r", work, ttl=6, grace=3)
            running = Beside(runner.run)
            assert begun.wait(30)
            gate.silence()
            with other.election(prefix + "r").campaign("other", timeout=40):
                led = time.monotonic()
                assert ended
                assert ended[0] < led
            assert 0 < remaining[0] <= 3
            gate.open()
            running.result()
    finally:
        gate.close()


@pytest.mark.slow
def test_a_candidate_that_was_cut_off_beyond_its_lease_campaigns_again(
    raftkv_served: Served, prefix: str
) -> None:
    worked = threading.Event()
    gate = Gate(raftkv_served.endpoints)
    try:
        with Client(gate.endpoint, timeout=1) as client, Client(raftkv_served.endpoints) as other:
            with other.election(prefix + "r").campaign("other"):
                runner = client.leader_runner(prefix + "r", lambda shift: worked.set(), ttl=2)
                running = Beside(runner.run)
                wait_until(lambda: other.count(prefix + "r") == 2)
                gate.silence()
                wait_until(lambda: other.count(prefix + "r") == 1)
                gate.open()
                wait_until(lambda: other.count(prefix + "r") == 2)
                assert not worked.is_set()
            running.result()
            assert worked.is_set()
    finally:
        gate.close()


def test_an_asynchronous_function_is_cancelled(server: Served, prefix: str) -> None:
    """By the loss, and by cancelling the runner; each time it can clean up."""
    ends: list[str] = []
    shifts: list[AioShift] = []

    async def work(shift: AioShift) -> None:
        shifts.append(shift)
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            ends.append("cleaned up")

    async def scenario() -> None:
        async with aio.Client(server.endpoints) as client:
            runner = client.leader_runner(prefix + "r", work, ttl=2)
            task = asyncio.create_task(runner.run())
            while not shifts:
                await asyncio.sleep(0.01)
            await client.revoke(shifts[0].term.lease.id)
            while len(shifts) < 2:
                await asyncio.sleep(0.01)
            assert ends == ["cleaned up"]
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert len(ends) == 2
            assert await client.count(prefix + "r") == 0

    asyncio.run(scenario())


def test_a_grace_that_no_shift_could_keep_is_refused(server: Served, prefix: str) -> None:
    with Client(server.endpoints) as client:
        for grace in (-1.0, 6.0, 20.0):
            with pytest.raises(BadRequest):
                client.leader_runner(prefix + "r", lambda shift: None, ttl=10, grace=grace)
