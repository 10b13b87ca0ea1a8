"""The interpreter, with sessions that do what a test tells them."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random

import pytest

from jepsen_lite.generator import (
    PENDING,
    Answer,
    Context,
    Generator,
    any_of,
    clients,
    delay,
    limit,
    nemesis,
    phases,
    repeat,
    time_limit,
)
from jepsen_lite.history import NEMESIS, History, Op
from jepsen_lite.interpreter import Interpreter, InterpreterError
from jepsen_lite.target.base import TargetError
from raftkv.client.errors import ClientError, NotConnected, OutcomeUnknown, TimedOut

Behaviour = Callable[[Op], Awaitable[Op]]


async def fine(op: Op) -> Op:
    return op.done("ok", 1)


class Sessions:
    """Sessions are numbers. behaviour: of every operation."""

    reads = frozenset({"read"})

    def __init__(self, behaviour: Behaviour = fine) -> None:
        self.behaviour = behaviour
        self.opened: list[int] = []
        self.closed: list[int] = []
        self.refuse = 0

    async def open(self, process: int) -> int:
        if self.refuse:
            self.refuse -= 1
            raise NotConnected("nobody there")
        self.opened.append(process)
        return process

    async def invoke(self, session: int, op: Op) -> Op:
        assert session == op.process, "every process has a session of its own"
        return await self.behaviour(op)

    async def close(self, session: int, process: int) -> None:
        self.closed.append(session)


def run(
    generator: Generator | list[Generator],
    sessions: Sessions,
    *,
    concurrency: int = 3,
    timeout_seconds: float = 5.0,
    faults: Behaviour | None = None,
    during: Callable[[Interpreter[int]], None] | None = None,
) -> History:
    """Runs one generator after the other."""

    async def whole() -> None:
        interpreter = Interpreter(
            sessions,
            concurrency=concurrency,
            record=ops.append,
            clock=lambda: time.monotonic_ns() - begun,
            random=Random(1),
            timeout_seconds=timeout_seconds,
            nemesis=faults,
            nemesis_seconds=timeout_seconds,
        )
        await interpreter.start()
        try:
            if during is not None:
                asyncio.get_running_loop().call_later(0.05, during, interpreter)
            for one in generator if isinstance(generator, list) else [generator]:
                await interpreter.run(one)
        finally:
            await interpreter.close()

    ops: list[Op] = []
    begun = time.monotonic_ns()
    asyncio.run(whole())
    history = History(ops)
    history.check_complete()
    return history


def reads(count: int) -> Generator:
    return clients(limit(count, repeat({"f": "read"})))


def writes(count: int) -> Generator:
    return clients(limit(count, repeat({"f": "write", "value": 7})))


def test_every_operation_is_begun_and_ended_in_the_history() -> None:
    sessions = Sessions()
    history = run(reads(50), sessions)
    assert Counter(op.type for op in history) == {"invoke": 50, "ok": 50}
    assert sorted(sessions.opened) == sorted(sessions.closed) == [0, 1, 2]
    assert {call.end.value for call in history.calls() if call.end} == {1}


def test_threads_work_at_the_same_time() -> None:
    together: list[int] = []
    running = 0

    async def slowly(op: Op) -> Op:
        nonlocal running
        running += 1
        together.append(running)
        await asyncio.sleep(0.005)
        running -= 1
        return op.done("ok")

    run(reads(12), Sessions(slowly), concurrency=4)
    assert max(together) == 4


@pytest.mark.parametrize(
    ("f", "error", "ended"),
    [
        ("write", NotConnected("not sent"), "fail"),
        ("write", OutcomeUnknown(TimedOut("late")), "info"),
        ("read", OutcomeUnknown(TimedOut("late")), "fail"),
        ("read", TimedOut("late"), "fail"),
    ],
)
def test_errors_end_operations_by_what_they_leave_known(
    f: str, error: ClientError, ended: str
) -> None:
    async def refused(op: Op) -> Op:
        raise error

    history = run(clients(limit(1, repeat({"f": f}))), Sessions(refused))
    end = history.calls()[0].end
    assert end is not None
    assert end.type == ended
    assert end.error.endswith(("not sent", "late"))


def test_a_process_of_unknown_outcome_is_retired_with_its_session() -> None:
    async def unknown(op: Op) -> Op:
        raise OutcomeUnknown(TimedOut("late"))

    sessions = Sessions(unknown)
    history = run(writes(4), sessions, concurrency=1)
    assert [call.invoke.process for call in history.calls()] == [0, 1, 2, 3]
    assert sessions.opened == sessions.closed == [0, 1, 2, 3]


def test_a_thread_without_a_session_fails_its_operations_and_tries_again() -> None:
    sessions = Sessions()
    sessions.refuse = 2
    history = run(writes(3), sessions, concurrency=1)
    ends = [call.end for call in history.calls()]
    assert [end.type for end in ends if end] == ["fail", "fail", "ok"]
    assert ends[0] is not None
    assert "no session" in ends[0].error


@pytest.mark.parametrize(("f", "ended"), [("write", "info"), ("read", "fail")])
def test_an_operation_that_never_ends_is_cancelled(f: str, ended: str) -> None:
    async def stuck(op: Op) -> Op:
        await asyncio.Event().wait()
        return op

    history = run(
        clients(limit(2, repeat({"f": f}))), Sessions(stuck), concurrency=1, timeout_seconds=0.05
    )
    assert [call.end.type for call in history.calls() if call.end] == [ended, ended]


def test_another_exception_is_a_bug_and_stops_the_run() -> None:
    async def broken(op: Op) -> Op:
        raise KeyError("oh")

    with pytest.raises(KeyError, match="oh"):
        run(reads(5), Sessions(broken))


def test_an_exception_of_a_generator_stops_the_run_wherever_it_comes() -> None:
    def next_one(context: Context) -> dict[str, str] | None:
        if context.time_ns > 20_000_000:
            raise ZeroDivisionError
        return {"f": "read"}

    with pytest.raises(ZeroDivisionError):
        run(clients(delay(0.01, next_one)), Sessions())


def test_the_nemesis_works_beside_the_clients_and_never_retires() -> None:
    async def fault(op: Op) -> Op:
        if op.value == 1:
            raise TargetError("nobody to harm")
        return op.done("info", {"did": op.value})

    faults = nemesis([{"f": "start", "value": 0}, {"f": "stop", "value": 1}, {"f": "start"}])
    history = run(any_of(faults, reads(10)), Sessions(), faults=fault)
    ops = history.nemesis_ops()
    assert [op.process for op in ops] == [NEMESIS] * 6
    assert ops[1].value == {"did": 0}
    assert ops[3].value == {"nothing": "nobody to harm"}
    assert Counter(op.type for op in history.client_ops())["ok"] == 10


def test_generators_may_follow_each_other_and_indices_go_on() -> None:
    history = run([reads(3), writes(2)], Sessions())
    assert [call.invoke.f for call in history.calls()] == ["read"] * 3 + ["write"] * 2


def test_an_operation_waits_for_its_time() -> None:
    history = run(clients(limit(3, delay(0.03, repeat({"f": "read"})))), Sessions())
    times = [call.invoke.time_ns for call in history.calls()]
    assert times[1] - times[0] >= 30_000_000
    assert times[2] - times[1] >= 30_000_000


def test_phases_wait_for_what_is_under_way() -> None:
    async def slowly(op: Op) -> Op:
        await asyncio.sleep(0.01)
        return op.done("ok")

    history = run(
        clients(phases(limit(3, repeat({"f": "write"})), limit(1, repeat({"f": "read"})))),
        Sessions(slowly),
    )
    kinds = [(op.type, op.f) for op in history]
    assert kinds.index(("invoke", "read")) == 6


def test_stop_begins_nothing_more_and_waits_for_what_is_under_way() -> None:
    async def slowly(op: Op) -> Op:
        await asyncio.sleep(0.02)
        return op.done("ok")

    begun = time.monotonic()
    history = run(
        time_limit(60.0, clients(repeat({"f": "read"}))),
        Sessions(slowly),
        during=lambda interpreter: interpreter.stop(),
    )
    assert time.monotonic() - begun < 20
    assert history.calls()
    assert all(call.ok for call in history.calls())


class _Stuck(Generator):
    def op(self, context: Context) -> Answer:
        return PENDING, self


def test_a_generator_that_waits_for_nothing_is_found_out() -> None:
    with pytest.raises(InterpreterError, match="nothing is under way"):
        run(_Stuck(), Sessions())


def test_an_operation_costs_little() -> None:
    """Bounded by the least of several measurements: other work on the machine only adds."""
    from jepsen_lite.generator import mix, stagger

    def once() -> float:
        sessions, count = Sessions(), 3000
        begun = time.process_time()
        work = mix(repeat({"f": "read"}), repeat(lambda context: {"f": "write", "value": "v"}))
        run(clients(limit(count, stagger(1e-9, work))), sessions, concurrency=10)
        return (time.process_time() - begun) / count

    assert min(once() for _ in range(5)) < 150e-6
