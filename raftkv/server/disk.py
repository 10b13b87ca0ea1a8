"""The disk thread: makes the Raft log durable, one sync per wake-up.

The event loop encodes log batches into the write that is being collected and goes on. The
thread flushes whatever has collected meanwhile as one synced write and tells the loop the
newest durable number. So batch n+1 is never written before n is synced, and the number of
syncs falls as load grows. The thread makes only single long C calls, or it would fight for
the interpreter lock with the loop.

A failed write or sync is final: `failed` is called on the loop and nothing is written, and
nothing acknowledged, after it.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

from raftkv.errors import StorageError
from raftkv.histogram import Histogram, exponential
from raftkv.raft.types import LogBatch
from raftkv.server.latency import Latency
from raftkv.storage.raftlog import RaftLog

SLOW_SYNC_SECONDS: Final = 1.0  # etcd's bound
SYNC_SECONDS: Final = exponential(0.001, 2, 14)  # the buckets of etcd's histogram
IDLE_SECONDS: Final = 1.0  # after so long without work the mark is brought up to date


class Disk:
    """Runs the disk thread of one member.

    persisted: called on the loop with the newest durable batch number.
    failed: called on the loop with the error that ended all writing.
    slow: called on the loop with the seconds of a sync that took too long.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        log: RaftLog,
        persisted: Callable[[int], None],
        failed: Callable[[StorageError], None],
        slow: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._loop = loop
        self._log = log
        self._persisted = persisted
        self._failed = failed
        self._slow = slow
        self._wakes: SimpleQueue[bool] = SimpleQueue()  # False: stop
        self.durable_number = 0
        self._announced: Callable[[], None] | None = None
        self.syncs = Latency()  # of one write and its sync
        self.sync_seconds = Histogram(SYNC_SECONDS)
        self._thread = threading.Thread(target=self._run, name="disk", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def submit(self, batch: LogBatch) -> None:
        """Takes a batch; batches become durable in the order they come."""
        self._log.enqueue(batch)
        self._wakes.put(True)

    def announce(self, begins: Callable[[], None]) -> None:
        """Calls `begins` on the loop when the thread begins with what was submitted; perhaps not
        if it has begun. Until then the thread waits for the loop to let go of the interpreter.
        """
        self._announced = begins

    def stop(self) -> None:
        """Makes durable what was submitted, then ends the thread and joins it."""
        self._wakes.put(False)
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        wakes, log = self._wakes, self._log
        going = True
        while going:
            try:
                going = wakes.get(timeout=IDLE_SECONDS)
            except Empty:
                going = self._mark_behind(force=True)
                continue
            while not wakes.empty():
                going = wakes.get() and going
            begins, self._announced = self._announced, None
            if begins is not None:
                self._loop.call_soon_threadsafe(begins)
            started = time.perf_counter()
            try:
                number = log.flush()
            except StorageError as error:
                self._loop.call_soon_threadsafe(self._failed, error)
                return
            seconds = time.perf_counter() - started
            self.syncs.note(seconds)
            self.sync_seconds.note(seconds)
            if seconds > SLOW_SYNC_SECONDS:
                self._loop.call_soon_threadsafe(self._slow, seconds)
            self._loop.call_soon_threadsafe(self._done, number)
            going = self._mark_behind(force=False) and going

    def _mark_behind(self, *, force: bool) -> bool:
        """Notes how far the log is durable, behind the acknowledgement; False if that failed."""
        try:
            self._log.write_mark_behind(force=force)
        except StorageError as error:
            self._loop.call_soon_threadsafe(self._failed, error)
            return False
        return True

    def _done(self, number: int) -> None:
        if number > self.durable_number:
            self.durable_number = number
            self._persisted(number)
