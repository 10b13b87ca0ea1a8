"""What ends before its time, or twice, or beside another of its kind, leaves nothing behind."""

import asyncio
import math
import threading
import time
from typing import Any

import pytest

from raftkv.client import (
    BadRequest,
    Client,
    ClusterChanged,
    Header,
    KeyValue,
    Misused,
    NotAcquired,
    OutcomeUnknown,
    RangeResult,
    Unavailable,
    aio,
)
from raftkv.client.sync.recipes.election import Observation
from tests.client.conftest import Served
from tests.client.faces import Faces
from tests.client.gate import Gate
from tests.client.recipes.contention import Beside, queue_length, wait_until


@pytest.mark.parametrize("timeout", [math.inf, 1e10])
def test_a_timeout_may_be_longer_than_any_clock_counts(
    raftkv_served: Served, connect: Faces, prefix: str, timeout: float
) -> None:
    """Not an endless loop of calls whose time is over before they begin."""
    client = connect(raftkv_served.endpoints)
    assert client.put(prefix + "k", "1", timeout=timeout).revision
    assert client.get(prefix + "k", timeout=timeout).text == "1"
    with client.lock(prefix + "l").acquire(timeout=timeout) as holding:
        waiting = Beside(lambda: holding.lost.wait(timeout))
        assert holding.lease.refresh(timeout) > 0
    assert waiting.result()
    with pytest.raises(BadRequest):
        client.get(prefix + "k", timeout=math.nan)


def test_an_acquisition_may_be_made_a_task(raftkv_served: Served, prefix: str) -> None:
    """By all that asyncio has for it; and one that is not begun can be closed."""

    async def scenario() -> None:
        async with aio.Client(raftkv_served.endpoints) as client:
            holding = await asyncio.create_task(client.lock(prefix + "l").acquire())
            waiting = asyncio.create_task(client.lock(prefix + "l").acquire())
            while await client.count(prefix + "l/") < 2:
                await asyncio.sleep(0.01)
            waiting.cancel()  # C09
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert await client.count(prefix + "l/") == 1
            async with asyncio.TaskGroup() as group:
                lease = group.create_task(client.lease(5))
            assert lease.result().alive
            await lease.result().revoke()
            await holding.release()
            client.lock(prefix + "l").acquire().close()

    asyncio.run(scenario())


def test_no_time_at_all_is_one_try(raftkv_served: Served, connect: Faces, prefix: str) -> None:
    client = connect(raftkv_served.endpoints)
    with client.lock(prefix + "l").acquire(timeout=0) as holding:
        assert holding.is_held
        with pytest.raises(NotAcquired):
            client.lock(prefix + "l").acquire(timeout=0)
    with client.election(prefix + "e").campaign("a", timeout=0) as term:
        assert term.is_leader
        with pytest.raises(NotAcquired):
            client.election(prefix + "e").campaign("b", timeout=0)
    assert queue_length(client, prefix) == 0


def test_an_acquisition_whose_answers_are_late_is_one_that_was_not_made_in_time(
    raftkv_served: Served, connect: Faces, prefix: str
) -> None:
    """C09: not an unknown outcome, for what may have been put is taken back."""
    gate = Gate(raftkv_served.endpoints)
    try:
        client = connect(gate.endpoint, timeout=60.0)
        other = connect(raftkv_served.endpoints)
        lease = client.lease(60)
        gate.mute()
        began = time.monotonic()
        with pytest.raises(NotAcquired) as met:
            client.lock(prefix + "l", ttl=2).acquire(timeout=0.3)
        assert time.monotonic() - began < 20, "less than a request of its own may take"
        assert isinstance(met.value.__cause__, OutcomeUnknown)
        gate.open()
        assert queue_length(other, prefix) == 0
        lease.revoke()
        connect.close_clients()
    finally:
        gate.close()


def test_one_double_barrier_has_one_place(raftkv_served: Served, prefix: str) -> None:
    """C09: of two that enter at once by one object, neither becomes a ghost that is kept."""

    async def scenario() -> None:
        async with aio.Client(raftkv_served.endpoints) as client:
            barrier = client.double_barrier(prefix + "b", 3)
            met = await asyncio.gather(
                barrier.enter(timeout=0.3), barrier.enter(timeout=0.3), return_exceptions=True
            )
            assert sorted(type(error).__name__ for error in met) == ["Misused", "NotAcquired"]
            assert await client.count(prefix) == 0
            others = [client.double_barrier(prefix + "b", 3) for _ in range(2)]
            await asyncio.gather(*(one.enter() for one in (barrier, *others)))
            with pytest.raises(Misused):
                await barrier.enter()
            await asyncio.gather(*(one.leave() for one in (barrier, *others)))
            assert await client.count(prefix) == 0

    asyncio.run(scenario())


def test_an_endless_barrier_whose_holder_is_cancelled_does_not_stay_closed(
    raftkv_served: Served, prefix: str
) -> None:
    """C09: nobody would know that it is theirs to open."""

    async def scenario() -> None:
        gate = Gate(raftkv_served.endpoints)
        try:
            async with (
                aio.Client(gate.endpoint) as client,
                aio.Client(raftkv_served.endpoints) as other,
            ):
                await client.get(prefix)
                gate.mute()
                holding = asyncio.create_task(client.barrier(prefix + "b").hold(ttl=None))
                while not await other.count(prefix + "b"):
                    await asyncio.sleep(0.01)
                holding.cancel()
                gate.open()
                with pytest.raises(asyncio.CancelledError):
                    await holding
                assert not await other.count(prefix + "b")
        finally:
            gate.close()

    asyncio.run(scenario())


def test_a_leader_runner_runs_once_at_a_time(
    raftkv_served: Served, connect: Faces, prefix: str
) -> None:
    """Two of them would tell each other's functions to stop."""
    client = connect(raftkv_served.endpoints)
    other = connect(raftkv_served.endpoints)
    with other.lock(prefix + "r"):
        runner = client.leader_runner(prefix + "r", lambda shift: None)
        running = Beside(runner.run)
        wait_until(lambda: queue_length(other, prefix) == 2)
        with pytest.raises(Misused):
            runner.run()
        runner.stop()
        running.result()
    assert queue_length(other, prefix) == 0


def test_threads_that_share_a_semaphore_each_release_their_own(
    raftkv_served: Served, prefix: str
) -> None:
    with Client(raftkv_served.endpoints) as client:
        semaphore = client.semaphore(prefix + "s", 2)
        inside, go = threading.Event(), threading.Event()

        def hold() -> int:
            with semaphore as holding:
                inside.set()
                go.wait(30)
                return int(holding.fencing_token)

        with semaphore as mine:
            beside = Beside(hold)
            assert inside.wait(30)
            go.set()
            assert beside.result() > mine.fencing_token
            assert [kv.create_revision for kv in semaphore.queue()] == [mine.fencing_token]
        assert semaphore.queue() == ()


def test_an_observation_that_is_closed_beside_its_reader_ends_the_iteration(
    raftkv_served: Served, connect: Faces, prefix: str
) -> None:
    client = connect(raftkv_served.endpoints)
    observation = client.election(prefix + "e").observe()
    seen = Beside(lambda: [leader.text for leader in observation])
    with client.election(prefix + "e").campaign("a"):
        wait_until(lambda: observation._seen > (0, 0))
        observation.close()
        assert seen.result() == ["a"]


class _PutBack:
    """An election whose store was restored to an older state between two looks."""

    name = b"e"

    def __init__(self) -> None:
        self.answers: list[RangeResult | Exception] = [
            _led(50),
            ClusterChanged("restored"),
            _led(7),
        ]

    def _oldest(self, timeout: float | None) -> RangeResult:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def watch(self, *args: Any, **options: Any) -> Any:
        return self

    def close(self) -> None:
        """Of the watch."""


def _led(revision: int) -> RangeResult:
    kv = KeyValue(b"e/1", b"leader", revision, revision, 1, 1)
    return RangeResult(Header(1, 1, revision, 1), (kv,), 1, False)


def test_an_observer_of_a_store_that_was_put_back_begins_anew() -> None:
    """C15, C08: told once; who leads then is seen, although its revisions are smaller."""
    election: Any = _PutBack()
    observation = Observation(election, election)
    assert observation.next().create_revision == 50
    observation._hang_up()
    with pytest.raises(ClusterChanged):
        observation.next()
    assert observation.next().create_revision == 7


class _Silenced(_PutBack):
    """An election whose servers answer one look and go away."""

    def __init__(self) -> None:
        self.answers = [_led(50)]
        self.asked = 0

    def next(self, timeout: float | None = None) -> Any:
        """Of the watch."""
        self.asked += 1
        assert self.asked < 1000, "it asks for ever"
        raise Unavailable("connection refused")


def test_an_observer_without_servers_gives_up_in_its_time() -> None:
    election: Any = _Silenced()
    observation = Observation(election, election)
    assert observation.next().create_revision == 50
    with pytest.raises(TimeoutError):
        observation.next(timeout=0.01)
    with pytest.raises(TimeoutError):
        observation.next(timeout=0)
