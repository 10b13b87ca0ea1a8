"""Carries out what a generator says: the only concurrent part.

A thread (0..concurrency-1, and NEMESIS) is a task with a session of its own, which does one
operation at a time. Nobody stands between the threads: who has ended an operation records it,
asks the generator and hands out what it says. A clock is set where the generator waits for a
time.

How an operation ends:

    what `invoke` returns         as it is
    ClientError, of a read        "fail": it changed nothing
    ClientError, DEFINITE         "fail"
    ClientError, UNKNOWN          "info": the process is retired, its session closed; the thread
                                  goes on as process + concurrency, with a new session
    no answer in time             the operation is cancelled: "info", or "fail" of a read
    anything else                 a bug, here or in the client: the run stops and raises it

A thread whose session could not be opened fails its operations: nothing of them was sent.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Final, Generic, Protocol, TypeVar

from jepsen_lite.generator import Context, Generator, Pending, lift
from jepsen_lite.history import NEMESIS, Op
from jepsen_lite.target.base import TargetError
from raftkv.client.errors import ClientError, OutcomeUnknown, Unavailable
from raftkv.errors import Outcome, RaftkvError

LOOK_SECONDS: Final = 0.25  # between two looks for operations that take too long
CLOSE_SECONDS: Final = 3.0
PAUSE_SECONDS: Final = 0.02  # of a thread whose operation met a cluster that cannot serve
NEMESIS_SECONDS: Final = 120.0
_NS: Final = 1_000_000_000

S = TypeVar("S")


class InterpreterError(RaftkvError):
    """The generator waits for something that cannot happen."""


class Client(Protocol[S]):
    """What threads need of a workload and its target. S: a session."""

    @property
    def reads(self) -> frozenset[str]:
        """The f's of operations that change nothing."""
        ...

    async def open(self, process: int) -> S:
        """A new session. Errors: ClientError."""
        ...

    async def invoke(self, session: S, op: Op) -> Op:
        """Carries out one operation; returns its completion. Errors: ClientError."""
        ...

    async def close(self, session: S, process: int) -> None:
        """Ends a session. What it raises is ignored."""
        ...


@dataclass(slots=True, eq=False)
class _Thread:
    """process: its present number. given: handed to it, not yet begun. due_ns: when the operation
    under way is cancelled; 0 = there is none."""

    process: int
    given: Op | None = None
    waiting: "asyncio.Future[None] | None" = None
    task: "asyncio.Task[None] | None" = None
    due_ns: int = 0
    expired: bool = field(default=False)


class Interpreter(Generic[S]):
    """Runs generators one after the other with the same threads.

    client: does the operations. nemesis: does those of NEMESIS; None = nobody. record: is given
    every operation of the history, in order. clock: nanoseconds since the run began, never
    falling. timeout_seconds: of one operation of a client.
    """

    def __init__(
        self,
        client: Client[S],
        *,
        concurrency: int,
        record: Callable[[Op], None],
        clock: Callable[[], int],
        random: Random,
        timeout_seconds: float,
        nemesis: Callable[[Op], Awaitable[Op]] | None = None,
        nemesis_seconds: float = NEMESIS_SECONDS,
    ) -> None:
        self._client = client
        self._concurrency = concurrency
        self._record = record
        self._clock = clock
        self._random = random
        self._timeout_ns = int(timeout_seconds * _NS)
        self._nemesis = nemesis
        self._nemesis_ns = int(nemesis_seconds * _NS)
        self._generator: Generator = lift(None)
        self._listens = False
        self._index = 0
        self._latest_ns = 0
        self._threads = {number: _Thread(number) for number in range(concurrency)}
        if nemesis is not None:
            self._threads[NEMESIS] = _Thread(NEMESIS)
        self._scope = tuple(sorted(self._threads))
        self._free = list(range(concurrency))
        self._nemesis_free = nemesis is not None
        self._timer: asyncio.TimerHandle | None = None
        self._finished: asyncio.Future[None] | None = None

    @property
    def count(self) -> int:
        """How many operations of the history there are by now."""
        return self._index

    # --- beginning and end --------------------------------------------------------

    async def start(self) -> None:
        """Starts the threads; they wait for `run`."""
        loop = asyncio.get_running_loop()
        for number, thread in self._threads.items():
            work = self._faults(thread) if number == NEMESIS else self._work(thread)
            thread.task = loop.create_task(work, name=f"thread {number}")

    async def run(self, generator: Generator) -> None:
        """Returns when the generator has ended and nothing is under way.

        Errors: InterpreterError; whatever a thread met that is a bug.
        """
        loop = asyncio.get_running_loop()
        finished = self._finished = loop.create_future()
        self._generator = generator
        self._listens = generator.listens
        watch = loop.create_task(self._look())
        try:
            self._advance()
            await finished
        finally:
            self._finished = None
            watch.cancel()
            self._forget_timer()

    def stop(self) -> None:
        """Begins nothing more; `run` returns when what is under way has ended."""
        self._generator = lift(None)
        self._listens = False
        if self._finished is not None:
            self._advance()

    async def close(self) -> None:
        """Ends the threads and their sessions; what is still under way stays without an end."""
        tasks = [thread.task for thread in self._threads.values() if thread.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- what comes next ----------------------------------------------------------

    def _now(self) -> int:
        self._latest_ns = max(self._latest_ns, self._clock())
        return self._latest_ns

    def _context(self, now_ns: int) -> Context:
        free = (NEMESIS, *self._free) if self._nemesis_free else tuple(self._free)
        return Context(now_ns, free, self._random, self._scope, self._concurrency)

    def _advance(self) -> None:
        """Hands out all that can begin now. Called whenever something has changed."""
        if self._finished is None or self._finished.done():
            return
        try:
            self._dispatch_all()
        except Exception as error:  # noqa: BLE001
            self._fail(error)  # of a generator: it must not end in a callback of the loop

    def _dispatch_all(self) -> None:
        while self._free or self._nemesis_free:
            now_ns = self._now()
            found, after = self._generator.op(self._context(now_ns))
            if found is None:
                self._generator = after
                self._finish_if_idle()
                return
            if isinstance(found, Pending):
                self._generator = after
                self._wait(found.until_ns, now_ns)
                return
            if found.time_ns > now_ns:
                self._wait(found.time_ns, now_ns)
                return
            self._generator = after
            self._dispatch(found, now_ns)

    def _dispatch(self, op: Op, now_ns: int) -> None:
        process = op.process
        if process == NEMESIS:
            thread = self._threads[NEMESIS]
            self._nemesis_free = False
            thread.due_ns = now_ns + self._nemesis_ns
        else:
            thread = self._threads[process % self._concurrency]
            self._free.remove(process)
            thread.due_ns = now_ns + self._timeout_ns
        begun = Op(process, "invoke", op.f, op.value, now_ns, self._index)
        self._note(begun)
        thread.given = begun
        waiting, thread.waiting = thread.waiting, None
        if waiting is not None:
            waiting.set_result(None)

    def _note(self, op: Op) -> None:
        self._index += 1
        self._record(op)
        if self._listens:
            self._generator = self._generator.update(self._context(op.time_ns), op)

    def _wait(self, until_ns: int | None, now_ns: int) -> None:
        self._forget_timer()
        if until_ns is None:
            if self._idle():
                raise InterpreterError("the generator waits, but nothing is under way")
            return
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later((until_ns - now_ns) / _NS, self._advance)

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _idle(self) -> bool:
        nobody_below = self._nemesis is None or self._nemesis_free
        return nobody_below and len(self._free) == self._concurrency

    def _finish_if_idle(self) -> None:
        if self._idle() and self._finished is not None and not self._finished.done():
            self._finished.set_result(None)

    def _fail(self, error: BaseException) -> None:
        if self._finished is not None and not self._finished.done():
            self._finished.set_exception(error)

    # --- threads ------------------------------------------------------------------

    async def _next(self, thread: _Thread) -> Op:
        while thread.given is None:
            thread.waiting = asyncio.get_running_loop().create_future()
            await thread.waiting
        op, thread.given = thread.given, None
        return op

    def _completed(self, thread: _Thread, op: Op, end: Op) -> None:
        """Records how it ended."""
        thread.due_ns = 0
        self._note(Op(op.process, end.type, op.f, end.value, self._now(), self._index, end.error))

    async def _work(self, thread: _Thread) -> None:
        """The life of one client thread."""
        session: S | None = None
        try:
            while True:
                op = await self._next(thread)
                try:
                    if session is None:
                        session = await self._opened(thread, op)
                    if session is None:
                        continue
                    end = await self._invoked(thread, session, op)
                except Exception as error:  # noqa: BLE001
                    self._fail(error)
                    return
                self._completed(thread, op, end)
                if end.type == "info":
                    await self._close(session, thread.process)
                    session = None
                    thread.process += self._concurrency
                self._free.append(thread.process)
                self._advance()
        finally:
            if session is not None:
                await self._close(session, thread.process)

    async def _opened(self, thread: _Thread, op: Op) -> S | None:
        """A new session; without one the operation has failed."""
        try:
            return await self._client.open(thread.process)
        except ClientError as error:
            end = op.done("fail", error=f"no session: {_said(error)}")
        except asyncio.CancelledError:
            if not self._expired(thread):
                raise
            end = op.done("fail", error="no session in time")
        self._completed(thread, op, end)
        await asyncio.sleep(PAUSE_SECONDS)
        self._free.append(thread.process)
        self._advance()
        return None

    async def _invoked(self, thread: _Thread, session: S, op: Op) -> Op:
        """How the operation ended."""
        try:
            return await self._client.invoke(session, op)
        except ClientError as error:
            definite = op.f in self._client.reads or error.outcome is not Outcome.UNKNOWN
            if definite and isinstance(error, Unavailable):
                await asyncio.sleep(PAUSE_SECONDS)
            return op.done("fail" if definite else "info", error=_said(error))
        except asyncio.CancelledError:
            if not self._expired(thread):
                raise
            return op.done("fail" if op.f in self._client.reads else "info", error="no answer")

    async def _close(self, session: S, process: int) -> None:
        with suppress(Exception):
            await asyncio.wait_for(self._client.close(session, process), CLOSE_SECONDS)

    async def _faults(self, thread: _Thread) -> None:
        """The life of the nemesis."""
        assert self._nemesis is not None
        while True:
            op = await self._next(thread)
            try:
                end = await self._nemesis(op)
            except TargetError as error:
                end = op.done("info", {"nothing": str(error)}, error=str(error))
            except asyncio.CancelledError:
                if not self._expired(thread):
                    raise
                end = op.done("info", {"nothing": "it took too long"}, error="it took too long")
            except Exception as error:  # noqa: BLE001
                self._fail(error)
                return
            self._completed(thread, op, end)
            self._nemesis_free = True
            self._advance()

    # --- operations that do not end -------------------------------------------------

    async def _look(self) -> None:
        """Cancels what is overdue."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now_ns = self._now()
            for thread in self._threads.values():
                if thread.due_ns and thread.due_ns < now_ns and thread.task is not None:
                    thread.due_ns = 0
                    thread.expired = True
                    thread.task.cancel()

    def _expired(self, thread: _Thread) -> bool:
        """Whether it was cancelled because it took too long; then the thread goes on."""
        if not thread.expired or thread.task is None:
            return False
        thread.expired = False
        thread.task.uncancel()
        return True


def _said(error: ClientError) -> str:
    """An error as the history keeps it."""
    inner = error.reason if isinstance(error, OutcomeUnknown) else error
    return f"{type(inner).__name__}: {inner.text}"[:200]
