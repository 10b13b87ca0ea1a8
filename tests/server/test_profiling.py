"""What threads and tasks are doing, and profiles: of a process that does what the test says."""

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from raftkv.server import profiling, stacks

SECRET = "a value of a client"


def _spins(ready: threading.Event, over: threading.Event) -> None:
    """Works until it is over."""
    value = SECRET
    ready.set()
    while not over.is_set() and value:
        pass


def _waits(ready: threading.Event, over: threading.Event) -> None:
    ready.set()
    over.wait()


@contextmanager
def thread(name: str, work: Callable[[threading.Event, threading.Event], None]) -> Iterator[None]:
    ready, over = threading.Event(), threading.Event()
    started = threading.Thread(target=work, args=(ready, over), name=name)
    started.start()
    try:
        assert ready.wait(60)
        yield
    finally:
        over.set()
        started.join()


async def _outer(gate: asyncio.Event) -> None:
    await _inner(gate)


async def _inner(gate: asyncio.Event) -> None:
    await gate.wait()


def functions(one: stacks.Activity) -> list[str]:
    return [place.function for place in one.stack]


# --- stacks -----------------------------------------------------------------------


def test_a_threads_stack_is_shown_with_its_name_and_without_its_values() -> None:
    with thread("my own", _waits):
        found = {one.name: one for one in stacks.threads()}
    mine = found["my own"]
    assert mine.kind == "thread"
    assert functions(mine)[:3] == [
        "threading.Condition.wait",
        "threading.Event.wait",
        f"{__name__}._waits",
    ]
    assert functions(mine)[-1] == "threading.Thread._bootstrap"
    with thread("secretive", _spins):
        text = stacks.each(stacks.threads()) + stacks.grouped(stacks.threads())
    assert f"{__name__}._spins\n\t{__file__}:" in text
    assert SECRET not in text


def test_a_waiting_tasks_stack_reaches_to_what_it_waits_for() -> None:
    async def scenario() -> list[stacks.Activity]:
        gate = asyncio.Event()
        waiting = [asyncio.create_task(_outer(gate), name=f"waiter {one}") for one in range(3)]
        await asyncio.sleep(0)
        found = stacks.tasks(asyncio.get_running_loop())
        gate.set()
        await asyncio.gather(*waiting)
        return found

    found = {one.name: one for one in asyncio.run(scenario())}
    assert len(found) == 4  # and the scenario
    for number in range(3):
        mine = found[f"waiter {number}"]
        assert mine.kind == "task"
        assert functions(mine) == [
            "asyncio.locks.Event.wait",
            f"{__name__}._inner",
            f"{__name__}._outer",
        ]


def test_equal_stacks_are_shown_once_with_their_number() -> None:
    place = stacks.Place("f", "file.py", 3)
    found = [stacks.Activity("task", str(one), (place,)) for one in range(3)]
    found.append(stacks.Activity("thread", "x", (place,)))
    assert stacks.grouped(found) == (
        "threads: total 1, tasks: total 3\n\n"
        "3 tasks\n#\tf\tfile.py:3\n\n"
        "1 thread\n#\tf\tfile.py:3\n"
    )
    assert stacks.each(found[2:]) == 'task "2":\nf\n\tfile.py:3\n\nthread "x":\nf\n\tfile.py:3\n'


def _deeper(left: int) -> list[stacks.Activity]:
    return _deeper(left - 1) if left else stacks.threads()


def test_a_very_deep_stack_is_cut() -> None:
    deepest = max(len(one.stack) for one in _deeper(400))
    assert deepest == 256


# --- profiles ---------------------------------------------------------------------


async def profiled(seconds: float) -> str:
    loop = asyncio.get_running_loop()
    text: asyncio.Future[str] = loop.create_future()
    profile = profiling.begin(loop, seconds, text.set_result)
    assert profile is not None
    async with asyncio.timeout(60):
        return await text


def test_a_profile_shows_where_each_thread_was_in_collapsed_stacks() -> None:
    with thread("busy one; or not", _spins):
        text = asyncio.run(profiled(0.3))
    lines = text.splitlines()
    assert lines
    own = f"{threading.current_thread().name};"
    counts: dict[str, int] = {}
    for line in lines:
        match = re.fullmatch(r"([^ ]+) ([1-9]\d*)", line)
        assert match is not None, line
        assert match[1] not in counts
        counts[match[1]] = int(match[2])
    assert list(counts.values()) == sorted(counts.values(), reverse=True)
    busy = {
        stack: count for stack, count in counts.items() if stack.startswith("busy_one__or_not;")
    }
    main = {stack: count for stack, count in counts.items() if stack.startswith(own)}
    assert sum(busy.values()) == sum(main.values()), "each look sees every thread"
    spinning = sum(count for stack, count in busy.items() if f"{__name__}._spins" in stack)
    assert spinning == sum(busy.values())
    [head] = {stack.split(f";{__name__}")[0] for stack in busy}
    assert head.split(";")[1:] == [
        "threading.Thread._bootstrap",
        "threading.Thread._bootstrap_inner",
        "threading.Thread.run",
    ], "outermost first"
    assert not any(stack.startswith("profiling;") for stack in counts), "it does not show itself"


def test_one_profile_at_a_time_and_one_that_is_given_up_is_told_to_nobody() -> None:
    async def scenario() -> None:
        loop, told = asyncio.get_running_loop(), list[str]()
        first = profiling.begin(loop, profiling.MAX_SECONDS, told.append)
        assert first is not None
        assert profiling.begin(loop, 1.0, told.append) is None
        first.give_up()
        await asyncio.to_thread(first.thread.join, 60)
        assert not first.thread.is_alive(), "long before its time"
        assert await profiled(0.02)
        assert told == []

    asyncio.run(scenario())


def test_a_profile_that_is_finished_early_tells_what_it_has_seen() -> None:
    async def scenario() -> str:
        loop = asyncio.get_running_loop()
        text: asyncio.Future[str] = loop.create_future()
        profile = profiling.begin(loop, profiling.MAX_SECONDS, text.set_result)
        assert profile is not None
        profile.finish()
        async with asyncio.timeout(30):
            return await text

    assert f"{threading.current_thread().name};" in asyncio.run(scenario())


def test_a_profile_whose_loop_has_ended_leaves_room_for_the_next_one() -> None:
    async def begun() -> profiling.Profile:
        profile = profiling.begin(asyncio.get_running_loop(), 0.05, lambda text: None)
        assert profile is not None
        return profile

    abandoned = asyncio.run(begun())
    abandoned.thread.join(60)
    assert not abandoned.thread.is_alive()
    assert asyncio.run(profiled(0.02))


def test_nothing_runs_between_profiles() -> None:
    assert asyncio.run(profiled(0.02))
    for one in threading.enumerate():
        if one.name == "profiling":  # it has told, and is about to end
            one.join(60)
    assert "profiling" not in {one.name for one in threading.enumerate()}


@pytest.mark.parametrize("seconds", [0.0, -1.0, profiling.MAX_SECONDS + 1, float("nan")])
def test_a_profile_without_an_end_is_a_mistake_of_ours(seconds: float) -> None:
    loop = asyncio.new_event_loop()
    try:
        with pytest.raises(AssertionError):
            profiling.begin(loop, seconds, lambda text: None)
    finally:
        loop.close()
