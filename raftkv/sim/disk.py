"""The virtual disk of one member: latency, slowness, stalls, failures, power cuts.

Log batches queue up; a write takes everything queued, as the server's disk thread
does, and ends after one virtual fsync. Only then is `persisted` called. The bytes go
into a memory twin of the Raft log (`raftkv.storage.memory`) at the END of the fsync;
a crash in between may leave any part of the write behind (`sim.process.Home.crash`).

A disk may be slow (every fsync takes longer), stalled (fsyncs do not end until it is
released) or broken (the next write fails: DiskFailure, final for the process).
"""

from collections.abc import Callable
from random import Random
from typing import Protocol

from raftkv.errors import DiskFailure
from raftkv.raft.types import LogBatch
from raftkv.sim.world import MILLISECOND, Timer, World

FSYNC_US = 400  # shortest fsync
FSYNC_JITTER_US = 300  # mean of the exponential extra


class WritableLog(Protocol):
    """What a disk needs of a Raft log."""

    def write(self, batches: list[LogBatch]) -> None:
        """Makes all batches durable, in order."""


class VirtualDisk:
    """Writes batches of one process after a virtual fsync.

    persisted(number): batch `number` and all before it are durable.
    failed(error): the disk failed; nothing is written after it.
    """

    def __init__(
        self,
        world: World,
        name: str,
        persisted: Callable[[int], None],
        failed: Callable[[DiskFailure], None],
    ) -> None:
        self.durable_number = 0
        self.writes = 0
        self.base_us = FSYNC_US
        self.slow_us = 0  # extra per fsync
        self.stalled = False
        self.broken = False
        self._world = world
        self._random: Random = world.stream(f"disk/{name}")
        self._persisted = persisted
        self._failed = failed
        self._log: WritableLog | None = None
        self._queue: list[LogBatch] = []
        self._writing: list[LogBatch] = []
        self._timer: Timer | None = None

    def start(self, log: WritableLog) -> None:
        """A new process begins: nothing queued, batches count from 1 again."""
        self._log = log
        self._queue = []
        self._writing = []
        self.durable_number = 0

    def submit(self, batch: LogBatch) -> None:
        """Queue a batch behind all others."""
        self._queue.append(batch)
        if not self._writing:
            self._begin()

    def fsync_us(self) -> int:
        """How long the next fsync takes."""
        jitter_us = int(self._random.expovariate(1.0) * FSYNC_JITTER_US)
        return self.base_us + jitter_us + self.slow_us

    def stall(self) -> None:
        """Writes do not end any more until `release`."""
        self.stalled = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def release(self) -> None:
        """Ends `stall`."""
        if self.stalled:
            self.stalled = False
            if self._writing:
                self._timer = self._world.after(MILLISECOND, self._end)

    def crash(self) -> list[LogBatch]:
        """The process dies. Returns what was being written: it may be there in part."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        writing, self._writing, self._queue = self._writing, [], []
        self._log = None
        return [] if self.broken else writing

    def _begin(self) -> None:
        self._writing, self._queue = self._queue, []
        if not self.stalled:
            self._timer = self._world.after(self.fsync_us(), self._end)

    def _end(self) -> None:
        self._timer = None
        log, writing = self._log, self._writing
        assert log is not None
        assert writing
        if self.broken:
            self._failed(DiskFailure("a virtual fsync failed"))
            return
        log.write(writing)
        self.writes += 1
        self._writing = []
        self.durable_number = writing[-1].number
        if self._queue:
            self._begin()
        self._persisted(self.durable_number)
