"""A whole run: start, drive and break, heal, look, judge.

Phases: setup; main, for as long as the options say; heal, in which every nemesis ends its faults
and the target recovers; final reads; evidence (the store's log, what members say); verdicts.

Interrupted (`Run.interrupt`), the main phase ends at once and everything after it still happens,
so the cluster is healed, what was started is stopped, and the report is about what there is. A
second interruption leaves out final reads and evidence; faults are undone and what was started is
stopped whatever comes.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from random import Random
from typing import Any, Final

from jepsen_lite.generator import Generator, any_of, clients, nemesis, phases, stagger, time_limit
from jepsen_lite.history import History, Journal, Op
from jepsen_lite.interpreter import Interpreter
from jepsen_lite.nemesis.base import Nemesis
from jepsen_lite.session import Session
from jepsen_lite.store import Store, versions
from jepsen_lite.target.base import Follower, Target, TargetError
from jepsen_lite.windows import windows_of
from jepsen_lite.workload.base import Workload
from raftkv.client.errors import ClientError

FINAL_SECONDS: Final = 60.0  # for final reads
READ_SECONDS: Final = 10.0
GRACE_SECONDS: Final = 1.0  # on top of what a client's own timeouts allow
log = logging.getLogger("jepsen_lite")


class Sessions:
    """What the interpreter needs of a workload and a target."""

    def __init__(self, workload: Workload, target: Target, timeout_seconds: float) -> None:
        self.reads: frozenset[str] = workload.reads
        self._workload = workload
        self._target = target
        self._timeout_seconds = timeout_seconds

    async def open(self, process: int) -> Session:
        """A session, as the workload wants it."""
        session = await self._target.session(process, self._timeout_seconds)
        try:
            await self._workload.open(session, process)
        except BaseException:
            await session.close()
            raise
        return session

    async def invoke(self, session: Session, op: Op) -> Op:
        """One operation."""
        return await self._workload.invoke(session, op)

    async def close(self, session: Session, process: int) -> None:
        """The end of a session."""
        try:
            await self._workload.close(session, process)
        finally:
            await session.close()


class Run:
    """One run of a workload against a target, into a store.

    clock: nanoseconds, never falling; what it says at the beginning counts as 0. started: the
    cluster runs, so there may be something to check.
    """

    def __init__(
        self,
        workload: Workload,
        nemeses: Sequence[Nemesis],
        target: Target,
        store: Store,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        command: Sequence[str] = (),
    ) -> None:
        self.options = workload.options
        self._workload = workload
        self._nemeses = list(nemeses)
        self._by_f = {f: one for one in nemeses for f in one.fs}
        self._target = target
        self._store = store
        self._clock = clock
        self._command = list(command)
        self._began_ns = clock()
        self._started_at = time.strftime("%Y-%m-%d %H:%M:%S %z")
        self._journal: Journal | None = None
        self._follower: Follower | None = None
        self._interpreter: Interpreter[Session] | None = None
        self._task: asyncio.Task[Any] | None = None
        self._in_main = self.started = False
        self.interrupted = False
        self.final: dict[str, Any] = {}

    # --- interruption -------------------------------------------------------------

    def interrupt(self) -> None:
        """Ends the main phase, or the setup; again: all but healing and stopping."""
        again, self.interrupted = self.interrupted, True
        if self.started and not again:
            log.warning("interrupted: the cluster is healed, and the partial report is written")
            if self._in_main and self._interpreter is not None:
                self._interpreter.stop()
        elif self._task is not None:
            self._task.cancel()

    def abandon(self, why: str) -> None:
        """The cluster itself cannot go on: what there is by now is kept, with the reason."""
        self.final["unrecovered"] = why
        self._close_files()
        self._write()

    # --- the phases ---------------------------------------------------------------

    async def execute(self) -> None:
        """All of it but the verdicts; leaves history, log and run.json in the store.

        Errors: TargetError, if the cluster does not start or is not empty; CancelledError, if it
        was interrupted before it had begun, or twice; what is a bug.
        """
        self._task = asyncio.current_task()
        self._write()
        self._journal = Journal(self._store.history)
        try:
            await self._set_up()
            self.started = True
            try:
                await self._drive()
                await self._gather()
            finally:
                self._close_files()
                self._write()
        finally:
            self._close_files()
            await _to_its_end(self._target.stop())

    def _write(self) -> None:
        self.final["interrupted"] = self.interrupted
        kinds = {f: one.name for f, one in self._by_f.items()}
        self._store.write_run(
            {
                "options": self.options.to_json(),
                "versions": versions(self.options),
                "command": self._command,
                "started": self._started_at,
                "seconds": (self._clock() - self._began_ns) / 1e9,
                "kinds": kinds,
                "final": self.final,
                "member_logs": {
                    name: str(path) for name, path in self._target.member_logs().items()
                },
            }
        )

    async def _set_up(self) -> None:
        log.info("starting: %s", self._workload.name)
        await self._target.start()
        await self._target.unused(self.options.prefix)
        for one in self._nemeses:
            await one.setup(self._target)
        reader = await self._target.session(0, READ_SECONDS)
        try:
            first = (await reader.get(self._target.any_key)).revision
        except ClientError as error:
            await reader.close()
            raise TargetError(f"the cluster cannot be read: {error}") from None
        self._reader = reader
        self._follower = self._target.follower(reader, self._log_prefix(), first, self._store.log)
        self.final["first_revision"] = first
        if self._workload.compacts:
            self._follower.begin()

    def _log_prefix(self) -> str:
        """All of a cluster of one's own; only the run's keys of somebody else's."""
        return self.options.prefix if self._target.shared else ""

    async def _drive(self) -> None:
        assert self._journal is not None
        self._began_ns = self._clock()
        options = self.options
        sessions = Sessions(self._workload, self._target, options.timeout_seconds)
        interpreter = self._interpreter = Interpreter(
            sessions,
            concurrency=options.concurrency,
            record=self._journal.add,
            clock=lambda: self._clock() - self._began_ns,
            random=Random(f"{options.seed}/run"),
            timeout_seconds=2 * options.timeout_seconds + GRACE_SECONDS,
            nemesis=self._fault if self._nemeses else None,
        )
        await interpreter.start()
        try:
            log.info("running for %g s", options.seconds)
            self._in_main = True
            if not self.interrupted:
                await interpreter.run(time_limit(options.seconds, self._main()))
            self._in_main = False
            await self._heal(interpreter)
            final = self._workload.final_generator()
            if final is not None and not self.interrupted and "unrecovered" not in self.final:
                log.info("final reads")
                await interpreter.run(phases(clients(time_limit(FINAL_SECONDS, final))))
        finally:
            self._in_main = False
            await _to_its_end(self._undo(interpreter))

    async def _undo(self, interpreter: Interpreter[Session]) -> None:
        await interpreter.close()
        for one in self._nemeses:
            with suppress(TargetError):
                await one.heal()

    def _main(self) -> Generator:
        seeds = Random(f"{self.options.seed}/nemeses")
        faults = [one.generator(Random(seeds.getrandbits(64))) for one in self._nemeses]
        rate = self.options.rate
        work = clients(stagger(1 / rate if rate else 0.0, self._workload.generator()))
        return any_of(nemesis(any_of(*faults)), work) if faults else work

    async def _fault(self, op: Op) -> Op:
        return await self._by_f[op.f].invoke(op)

    async def _heal(self, interpreter: Interpreter[Session]) -> None:
        """Ends every fault. That members do not come back is a finding, not an error."""
        log.info("healing")
        wishes: list[Mapping[str, Any]] = [wish for one in self._nemeses for wish in one.final()]
        if wishes:
            await interpreter.run(nemesis(list(wishes)))
        try:
            for one in self._nemeses:
                await one.heal()
            await self._target.recover()
        except TargetError as error:
            log.error("the cluster did not recover: %s", error)
            self.final["unrecovered"] = str(error)

    async def _gather(self) -> None:
        """The store's log, and what members say."""
        if "unrecovered" in self.final or self._follower is None:
            return
        log.info("gathering what the store did")
        try:
            last = (await self._reader.get(self._target.any_key)).revision
            self.final["last_revision"] = last
            await self._follower.finish(last)
            self.final["members"] = await self._target.said(last)
            for one in self._nemeses:
                self.final.update(await one.evidence())
        except (ClientError, TargetError) as error:
            log.error("the store's log could not be read: %s", error)
            self.final["unread"] = str(error)
        finally:
            await self._reader.close()

    def _close_files(self) -> None:
        if self._journal is not None:
            self._journal.close()
        if self._follower is not None:
            self._follower.close()


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Does something that bounds its own time, however often the run is interrupted meanwhile."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None and not task.cancelled() and task.exception() is None:
        raise cancelled
    task.result()


def faults_of(run: Mapping[str, Any], history: History) -> list[Any]:
    """The windows of a stored run's faults."""
    return windows_of(history, run.get("kinds", {}))
