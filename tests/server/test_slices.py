"""The queue of long work: fair, bounded, never more than about one slice between two turns."""

from collections.abc import Callable, Generator
from typing import Any, cast

import pytest

from raftkv import limits
from raftkv.errors import LEADER_CHANGED, STOPPED, TOO_MANY_REQUESTS, ApiError
from raftkv.server import slices
from raftkv.server.slices import LongRead, Progress, Slices


class Loop:
    """Remembers what is to be called, and after which rest; its clock stands unless told."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, Callable[[], None]]] = []
        self.now = 0.0

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.calls.append((0.0, callback))

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        self.calls.append((seconds, callback))

    def run(self) -> float:
        """Runs the next callback; returns the rest that came before it."""
        rest, callback = self.calls.pop(0)
        callback()
        return rest


class Work:
    """Takes `slices` slices of `seconds` each."""

    def __init__(self, bench: "Bench", name: str, slices: int, seconds: float = 0.004) -> None:
        self.bench = bench
        self.name = name
        self.left = slices
        self.seconds = seconds
        self.there = True
        self.stalls = False
        self.dropped: list[ApiError | None] = []

    def wanted(self) -> bool:
        return self.there

    def step(self) -> Progress:
        self.bench.steps.append(self.name)
        self.bench.loop.now += self.seconds
        self.left -= 1
        if self.stalls:
            return Progress.STALLED
        return Progress.MORE if self.left else Progress.DONE

    def drop(self, error: ApiError | None) -> None:
        self.dropped.append(error)


class Bench:
    """A queue over a false loop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop = Loop()
        self.turns = 0
        self.steps: list[str] = []
        self.errors: list[Exception] = []
        monkeypatch.setattr(slices, "perf_counter", lambda: self.loop.now)
        self.queue = Slices(cast(Any, self.loop), lambda: self.turns, self.errors.append)

    def work(self, name: str, count: int = 3, seconds: float = 0.004) -> Work:
        """New work in the queue."""
        work = Work(self, name, count, seconds)
        assert self.queue.add(work) is None
        return work


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_one_slice_comes_between_two_turns_however_many_wait(bench: Bench) -> None:
    """R44, O02."""
    for number in range(200):
        bench.work(f"{number}")
    for done in range(1, 50):
        bench.loop.run()
        assert len(bench.steps) == done
        assert len(bench.loop.calls) == 1


def test_a_few_take_turns_and_the_next_begins_when_one_has_ended(bench: Bench) -> None:
    """Each that has begun holds what it has found, so they are few."""
    many = limits.MAX_SLICED_AT_ONCE
    for number in range(many + 1):
        bench.work(f"{number}", 2)
    while bench.loop.calls:
        bench.loop.run()
    first = [f"{number}" for number in range(many)]
    assert bench.steps == [*first, *first, f"{many}", f"{many}"]
    assert len(bench.queue) == 0


def test_short_slices_share_a_turn(bench: Bench) -> None:
    bench.work("short", 100, seconds=0.0001)
    bench.loop.run()
    assert 0.8 * limits.SLICE_SECONDS / 2 < len(bench.steps) * 0.0001 <= limits.SLICE_SECONDS


def test_it_rests_half_as_long_as_it_worked_while_the_loop_has_other_work(bench: Bench) -> None:
    bench.work("a", 100)
    bench.loop.run()
    assert bench.loop.run() == 0.0, "nothing else happened"
    bench.turns += 1
    bench.loop.run()
    assert bench.loop.run() == pytest.approx(0.002)


def test_more_than_a_bound_is_refused(bench: Bench) -> None:
    """O15: as overload, and only if those that wait are still wanted."""
    works = [bench.work(f"{number}") for number in range(limits.MAX_LONG_READS)]
    assert bench.queue.add(Work(bench, "more", 1)) is TOO_MANY_REQUESTS
    works[7].there = False
    bench.work("more")
    assert works[7].dropped == [None]
    assert bench.queue.add(Work(bench, "still more", 1)) is TOO_MANY_REQUESTS


def test_what_nobody_waits_for_gets_no_slice(bench: Bench) -> None:
    gone, begun, there = bench.work("gone"), bench.work("begun"), bench.work("there", 2)
    gone.there = False
    bench.loop.run()
    assert bench.steps == ["begun"]
    begun.there = False
    while bench.loop.calls:
        bench.loop.run()
    assert bench.steps == ["begun", "there", "there"]
    assert gone.dropped == begun.dropped == [None]
    assert there.dropped == []


def test_stalled_work_gets_no_slice_until_it_is_resumed(bench: Bench) -> None:
    slow = bench.work("slow", 3)
    slow.stalls = True
    bench.loop.run()
    assert bench.loop.calls == []
    assert len(bench.queue) == 1, "it counts against the bound"
    bench.queue.resume(slow)
    bench.loop.run()
    assert bench.steps == ["slow", "slow"]
    bench.queue.cancel(slow)
    assert slow.dropped == [None]
    assert len(bench.queue) == 0


def test_only_work_that_has_begun_ends_with_a_replaced_state(bench: Bench) -> None:
    first, second = bench.work("first"), bench.work("second")
    first.stalls = True
    bench.loop.run()
    active = bench.work("active")
    bench.loop.run()
    bench.loop.run()
    waiting = [bench.work(f"{number}") for number in range(limits.MAX_SLICED_AT_ONCE)]
    bench.queue.state_replaced()
    for begun in (first, second, active):
        assert begun.dropped == [LEADER_CHANGED]
    assert not any(one.dropped for one in waiting)
    bench.loop.run()
    assert bench.steps[-1] == "0"


def test_all_work_ends_when_the_member_stops(bench: Bench) -> None:
    works = [bench.work(name) for name in "abc"]
    works[0].stalls = True
    bench.loop.run()
    bench.queue.stop(STOPPED)
    assert [work.dropped for work in works] == [[STOPPED]] * 3
    bench.loop.run()
    assert bench.steps == ["a"]
    assert bench.loop.calls == []


def test_an_error_that_should_not_exist_ends_the_process(bench: Bench) -> None:
    """A row that is missing is found in a long read as well as in a short one."""
    work = bench.work("broken")
    error = ValueError("broken")

    def fail() -> Progress:
        raise error

    work.step = fail  # type: ignore[method-assign]
    bench.loop.run()
    assert bench.errors == [error]


class Client:
    """A connection whose streams are open or not."""

    def __init__(self) -> None:
        self.connection = self
        self.streams = {1}

    def is_open(self, stream: int) -> bool:
        return stream in self.streams


def test_a_long_read_begins_with_its_first_slice_and_lets_go_when_it_is_dropped() -> None:
    client = Client()
    answers: list[Any] = []
    log: list[str] = []

    def steps() -> Generator[None, None, str]:
        log.append("begun")
        try:
            yield
            yield
        finally:
            log.append("closed")
        return "answer"

    def read() -> LongRead:
        return LongRead(cast(Any, client), 1, steps, answers.append)

    one = read()
    assert log == []
    assert [one.step(), one.step(), one.step()] == [Progress.MORE, Progress.MORE, Progress.DONE]
    assert answers == ["answer"]
    two = read()
    two.step()
    log.clear()
    client.streams.clear()
    assert not two.wanted()
    two.drop(LEADER_CHANGED)
    assert log == ["closed"]
    assert answers == ["answer"], "nobody is there to be told"
    client.streams.add(1)
    read().drop(LEADER_CHANGED)
    assert answers == ["answer", LEADER_CHANGED]
