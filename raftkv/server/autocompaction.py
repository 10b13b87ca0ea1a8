"""Automatic compaction, decided by the leader and carried out through the log.

    periodic   remembers the store's revision ten times per retention (at least once an hour
               for long ones, as etcd), and compacts to the one that is a retention old
    revision   every five minutes compacts to the newest revision minus the retention

A refused or lost compaction is simply tried again next time: compacting twice is harmless.
"""

import asyncio
import logging
from collections import deque
from typing import Any, Final

from raftkv.errors import ApiError
from raftkv.kv import commands
from raftkv.pb import rpc_pb2
from raftkv.server.driver import Driver

log = logging.getLogger("raftkv.compaction")

HOUR_SECONDS: Final = 3600.0
REVISION_INTERVAL_SECONDS: Final = 300.0
SAMPLES_PER_RETENTION: Final = 10


class AutoCompaction:
    """retention_seconds: periodic mode; retention_revisions: revision mode; 0: not that mode."""

    def __init__(self, driver: Driver, retention_seconds: float, retention_revisions: int) -> None:
        self._driver = driver
        self._retention_seconds = retention_seconds
        self._retention_revisions = retention_revisions
        self._samples: deque[tuple[float, int]] = deque()  # (time, revision), oldest first
        self._timer: asyncio.TimerHandle | None = None

    @property
    def interval_seconds(self) -> float:
        """Time between two looks."""
        if self._retention_seconds:
            return min(self._retention_seconds, HOUR_SECONDS) / SAMPLES_PER_RETENTION
        return REVISION_INTERVAL_SECONDS

    def start(self) -> None:
        """Starts looking, if a mode is on."""
        if self._retention_seconds or self._retention_revisions:
            self._timer = self._driver.loop.call_later(self.interval_seconds, self._look)

    def stop(self) -> None:
        """Stops looking."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = self._driver.loop.call_later(self.interval_seconds, self._look)
        target = self.target(self._driver.loop.time(), self._driver.replica.machine.revision)
        replica = self._driver.replica
        if replica.is_leader and target > replica.machine.compacted_revision:
            request = rpc_pb2.CompactionRequest(revision=target).SerializeToString()
            if replica.propose(commands.COMPACT, request, (self._done, target)) is None:
                self._driver.wake()

    def target(self, now: float, revision: int) -> int:
        """The revision to compact to; 0: none yet. Every member samples, only a leader acts."""
        if self._retention_revisions:
            return max(revision - self._retention_revisions, 0)
        self._samples.append((now, revision))
        found = 0
        while self._samples and self._samples[0][0] <= now - self._retention_seconds:
            found = self._samples.popleft()[1]
        return found

    def _done(self, ticket: Any, result: Any) -> None:
        if isinstance(result, ApiError):
            log.info("automatic compaction was not carried out: %s", result.text)
        else:
            log.info("compacted automatically", extra={"compact-revision": ticket[1]})
