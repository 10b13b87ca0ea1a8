"""Runs a workload's generators with the interpreter, against whatever sessions there are."""

import time
from collections.abc import Awaitable, Callable, Collection
from random import Random
from typing import Any, Final, cast

from jepsen_lite.checker.base import Evidence, StoreLog, Verdict
from jepsen_lite.generator import Answer, Context, Generator, clients, limit, time_limit
from jepsen_lite.generator.base import NOTHING, SECOND_NS
from jepsen_lite.history import History, Op
from jepsen_lite.interpreter import Interpreter
from jepsen_lite.session import Session
from jepsen_lite.workload import workload_class
from jepsen_lite.workload.base import Workload
from jepsen_lite.workload.options import Options

PATIENCE_SECONDS: Final = 60.0


class Sessions:
    """What the interpreter needs: sessions of a workload. make: a new one."""

    def __init__(self, workload: Workload, make: Callable[[], Awaitable[Any]]) -> None:
        self.reads = workload.reads
        self._workload = workload
        self._make = make

    async def open(self, process: int) -> Session:
        session = cast("Session", await self._make())
        await self._workload.open(session, process)
        return session

    async def invoke(self, session: Session, op: Op) -> Op:
        return await self._workload.invoke(session, op)

    async def close(self, session: Session, process: int) -> None:
        await self._workload.close(session, process)
        closing = getattr(session, "close", None)
        if closing is not None:
            await closing()


class _Until(Generator):
    """Ends so many seconds after it was first asked, but not before `enough` says so."""

    def __init__(
        self, seconds: float, enough: Callable[[], bool], inner: Generator, end_ns: int = 0
    ) -> None:
        self._seconds = seconds
        self._enough = enough
        self._inner = inner
        self._end_ns = end_ns
        self.listens = inner.listens

    def op(self, context: Context) -> Answer:
        end_ns = self._end_ns or context.time_ns + int(self._seconds * SECOND_NS)
        if context.time_ns >= end_ns and self._enough():
            return None, NOTHING
        found, after = self._inner.op(context)
        return found, _Until(self._seconds, self._enough, after, end_ns)

    def update(self, context: Context, event: Op) -> Generator:
        inner = self._inner.update(context, event)
        return _Until(self._seconds, self._enough, inner, self._end_ns)


def workload_of(name: str, **options: Any) -> Workload:
    """A workload with few processes."""
    settings: dict[str, Any] = {"workload": name, "seed": 7, "concurrency": 5, "keys": 3, **options}
    return workload_class(name)(Options(**settings))


async def run(
    workload: Workload,
    make: Callable[[], Awaitable[Any]],
    *,
    operations: int = 100_000,
    seconds: float = 30.0,
    seed: int = 3,
    kinds: Collection[str] = (),
) -> History:
    """Both phases: at most so many operations or seconds of the first, then the second.

    kinds: operations of which one at least must succeed; the first phase goes on until then.
    """
    ops: list[Op] = []
    begun = time.monotonic_ns()
    interpreter = Interpreter(
        Sessions(workload, make),
        concurrency=workload.options.concurrency,
        record=ops.append,
        clock=lambda: time.monotonic_ns() - begun,
        random=Random(seed),
        timeout_seconds=workload.options.timeout_seconds,
    )
    await interpreter.start()
    try:
        work = time_limit(max(seconds, PATIENCE_SECONDS), clients(workload.generator()))
        missing = set(kinds)

        def enough() -> bool:
            missing.difference_update(op.f for op in ops if op.type == "ok")
            return not missing

        await interpreter.run(limit(operations, _Until(seconds, enough, work)))
        final = workload.final_generator()
        if final is not None:
            await interpreter.run(clients(final))
    finally:
        await interpreter.close()
    history = History(ops)
    history.check_complete()
    return history


def judged(workload: Workload, history: History, log: StoreLog) -> dict[str, Verdict]:
    """What each of the workload's checkers says."""
    evidence = Evidence(history, log, workload.options)
    return {name: checker.check(evidence) for name, checker in workload.checkers().items()}
