"""A member inside the tests' process: the real server on an event loop and thread of its own.

Being alone on its loop makes its faults true ones:

    pause    its loop stands still in one callback: nothing is read, written or ticked, and its
             clock has leapt when it goes on. The kernel still accepts connections for it. A sync
             that its disk thread had begun ends, as it may for a stopped process.
    kill     in one callback, with no other between, all sockets are closed and the replica
             never takes a turn again. What waits for the disk is dropped, no checkpoint is taken,
             the state's rows that were not in a table are gone. Only what is under way in another
             thread, one sync or one piece of housekeeping, is waited for.

What would end a server's process (a failed write, an error that should not exist) is a kill here,
and `failure` says why. What belongs to the process and not to the member is left alone: the
handlers of the log, the garbage collector's settings, signals.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import uvloop

from raftkv.config import ServerConfig
from raftkv.errors import StorageError
from raftkv.server.logformats import ConsoleFormatter
from raftkv.server.node import Node
from raftkv.testing.member import Member, Plan

_KEPT_LINES: Final = 500
_LOGGER: Final = logging.getLogger("raftkv")


class ThreadMember(Member):
    """Runs a server's Node. config: what `plan.flags` mean."""

    def __init__(self, plan: Plan, config: ServerConfig) -> None:
        super().__init__(plan)
        self._config = config
        self._log = _ThreadLog()
        self._run: _Run | None = None

    @property
    def running(self) -> bool:
        """Its thread lives."""
        return self._run is not None and self._run.thread.is_alive() and not self._run.killed

    def _start(self) -> None:
        if self._run is not None:
            self._run.thread.join()  # one that died by itself may still let go of its directory
        self._run = _Run(self._config, self._log)
        self._run.thread.start()
        self._run.looping.wait()

    def _kill(self) -> None:
        if self._run is not None:
            self._run.kill()
            self._run.thread.join()

    def _stop(self) -> None:
        if self._run is not None:
            self._run.stop()
            self._run.thread.join()

    def _pause(self) -> None:
        assert self._run is not None
        self._run.pause()

    def _resume(self) -> None:
        assert self._run is not None
        self._run.gate.set()

    def _log_lines(self) -> list[str]:
        return list(self._log.lines)


class _ThreadLog(logging.Handler):
    """Keeps the last lines that one thread has logged, from INFO on unless others decided it."""

    _lock: Final = threading.Lock()
    _attached = 0
    _lowered = False  # the logger had no level of its own and has ours now

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(ConsoleFormatter())
        self.lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self.thread_id = 0

    def attach(self) -> None:
        """Begins with the lines of the calling thread."""
        self.thread_id = threading.get_ident()
        kind = _ThreadLog
        with self._lock:
            kind._attached += 1
            if _LOGGER.level == logging.NOTSET:
                _LOGGER.setLevel(logging.INFO)
                kind._lowered = True
            _LOGGER.addHandler(self)

    def detach(self) -> None:
        """Ends; the last one leaves the logger as the first one found it."""
        kind = _ThreadLog
        with self._lock:
            _LOGGER.removeHandler(self)
            kind._attached -= 1
            if not kind._attached and kind._lowered:
                _LOGGER.setLevel(logging.NOTSET)
                kind._lowered = False

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps the line if it is this thread's."""
        if record.thread == self.thread_id:
            self.lines.append(self.format(record))


class _Run:
    """One life of a member: its thread, from the start to the end."""

    def __init__(self, config: ServerConfig, log: _ThreadLog) -> None:
        self.thread = threading.Thread(target=self._main, name=f"raftkv-{config.name}", daemon=True)
        self.looping = threading.Event()
        self.gate = threading.Event()
        self.killed = False
        self._config = config
        self._log = log
        self._loop: asyncio.AbstractEventLoop | None = None
        self._node: _Node | None = None
        self._kill_wanted = False

    # --- from the tests' threads ------------------------------------------------

    def kill(self) -> None:
        """Ends it; a paused one too."""
        self._kill_wanted = True
        self.gate.set()
        self._soon(self.vanish)

    def stop(self) -> None:
        """Asks it to end in order."""
        self._soon(self._end)

    def pause(self) -> None:
        """Returns when the loop stands still."""
        standing = threading.Event()
        self.gate.clear()
        self._soon(self._stand_still, standing)
        while self.thread.is_alive() and not standing.wait(0.1):
            pass

    def _soon(self, work: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(work, *arguments)
        except RuntimeError:  # the loop is closed: the member has ended
            return

    # --- on its own thread --------------------------------------------------------

    def _main(self) -> None:
        self._log.attach()
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                self._loop = runner.get_loop()
                self._loop.set_exception_handler(self._complain)
                self._loop.call_soon(self.looping.set)
                runner.run(self._serve())
        except Exception as error:
            # Nobody can catch it on this thread; whoever waits for the member reads its log.
            _LOGGER.critical("%s", error, exc_info=not isinstance(error, StorageError))
        finally:
            self.looping.set()
            self._log.detach()

    def _complain(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Errors in callbacks: those of a member that was killed mean nothing."""
        if not self.killed:
            loop.default_exception_handler(context)

    async def _serve(self) -> None:
        node = self._node = _Node(self._config, self)
        start = asyncio.create_task(node.start())
        stopped = asyncio.create_task(node.stopped.wait())
        try:
            await asyncio.wait((start, stopped), return_when=asyncio.FIRST_COMPLETED)
            while not start.done():  # a cancellation may get lost in it
                start.cancel()
                await asyncio.wait((start,), timeout=0.1)
            if not start.cancelled():
                start.result()
                await stopped
        finally:
            stopped.cancel()
            if self.killed:
                await node.release()
            else:
                await node.stop()

    def _end(self) -> None:
        if self._node is not None:
            self._node.stopped.set()

    def _stand_still(self, standing: threading.Event) -> None:
        standing.set()
        self.gate.wait()
        if self._kill_wanted:
            self.vanish()

    def vanish(self) -> None:
        """The kill itself."""
        if not self.killed and self._node is not None:
            self.killed = True
            self._node.vanish()
            self._node.stopped.set()


class _Node(Node):
    """A server that shares its process with others, and can vanish."""

    def __init__(self, config: ServerConfig, run: _Run) -> None:
        super().__init__(config)
        self._run = run

    def _freeze(self) -> None:
        """The garbage collector is the process's."""

    def _failed(self, error: Exception) -> None:
        if self._run.killed:
            return
        logging.getLogger("raftkv.server").critical(
            "stopping: %s", error, exc_info=not isinstance(error, StorageError)
        )
        self._run.vanish()

    def vanish(self) -> None:
        """Closes every socket and takes no turn any more. Nothing else may run in between."""
        self._closed = True
        if self._compaction is not None:
            self._compaction.stop()
        if self._timer is not None:
            self._timer.cancel()
        for server in (*self._servers["client"], *self._servers["peer"]):
            server.close()
        for entrances in self._entrances:
            entrances.close()
        if self.driver is not None:
            self.driver.halt()
        if self.clients is not None:
            for client in list(self.clients.connections):
                client.abort()
            self.clients.stop()
        if self._peers is not None:
            for link in self._peers.links.values():
                link.close()
            for accepted in list(self._peers.accepted):
                accepted.abort()
            self._peers.stop()

    async def release(self) -> None:
        """Ends the threads and closes the directory as it is on disk, for the next start."""
        self.vanish()  # again: a start that was not to be stopped at once may have gone on
        if self.driver is not None:
            self.driver.abandon()
        if self._peers is not None:
            await self._peers.intakes.settled()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)
        if self._directory is not None:
            self._directory.close(checkpoint=False)
