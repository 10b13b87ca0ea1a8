"""Automatic compaction, decided by the leader and carried out through the log.

    periodic   remembers the store's revision ten times per retention (at least ten times an hour
               for long ones, as etcd), and compacts to the one that is a retention old
    revision   every five minutes compacts to the newest revision minus the retention

Every member remembers revisions, so a new leader goes on where the old one ended. A refused or lost
compaction is simply tried again next time: compacting twice is harmless.

If a mode is on and the store comes near its quota, history is worth less than the next write: while
more than nine tenths are used, the leader gives up a tenth of the history that there is, whatever
the retention, waits until that is removed everywhere and looks again. What frees next to nothing is
not repeated for a while: then the keys that exist now are what fills the store.
"""

import asyncio
import logging
from collections import deque
from typing import Any, Final

from raftkv.errors import ApiError
from raftkv.kv import commands
from raftkv.kv.machine import StateMachine
from raftkv.pb import rpc_pb2
from raftkv.server.driver import Driver

log = logging.getLogger("raftkv.compaction")

HOUR_SECONDS: Final = 3600.0
REVISION_INTERVAL_SECONDS: Final = 300.0
SAMPLES_PER_RETENTION: Final = 10
PRESS_SECONDS: Final = 1.0  # between two looks at the quota
PRESSED_SHARE: Final = 10  # of the history goes a tenth at a time
IN_VAIN_SECONDS: Final = 60.0  # without another try
WORTHWHILE_SHARE: Final = 1000  # of the quota: less is next to nothing


class AutoCompaction:
    """retention_seconds: periodic mode; retention_revisions: revision mode; 0: not that mode."""

    def __init__(self, driver: Driver, retention_seconds: float, retention_revisions: int) -> None:
        self._driver = driver
        self._retention_seconds = retention_seconds
        self._retention_revisions = retention_revisions
        self._samples: deque[tuple[float, int]] = deque()  # (time, revision), oldest first
        self._look_timer: asyncio.TimerHandle | None = None
        self._press_timer: asyncio.TimerHandle | None = None
        self._reclaimed_bytes = 0  # when history was given up the last time
        self._rests_until = 0.0

    @property
    def interval_seconds(self) -> float:
        """Time between two looks."""
        if self._retention_seconds:
            return min(self._retention_seconds, HOUR_SECONDS) / SAMPLES_PER_RETENTION
        return REVISION_INTERVAL_SECONDS

    def start(self) -> None:
        """Starts looking, if a mode is on."""
        if self._retention_seconds or self._retention_revisions:
            loop = self._driver.loop
            self._look_timer = loop.call_later(self.interval_seconds, self._look)
            self._press_timer = loop.call_later(PRESS_SECONDS, self._press)

    def stop(self) -> None:
        """Stops looking."""
        for timer in (self._look_timer, self._press_timer):
            if timer is not None:
                timer.cancel()

    def _look(self) -> None:
        loop, machine = self._driver.loop, self._driver.replica.machine
        self._look_timer = loop.call_later(self.interval_seconds, self._look)
        self._compact(self.target(loop.time(), machine.revision))

    def _press(self) -> None:
        loop, replica = self._driver.loop, self._driver.replica
        self._press_timer = loop.call_later(PRESS_SECONDS, self._press)
        if replica.is_leader:
            self._compact(self.pressed_target(loop.time(), replica.machine))

    def _compact(self, target: int) -> None:
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

    def pressed_target(self, now: float, machine: StateMachine) -> int:
        """The revision to compact to for the quota; 0: there is room, or one is under way."""
        told, compacted = machine.space.told, machine.compacted_revision
        quota = told.quota_bytes
        if not quota or machine.space.used_bytes * 10 <= quota * 9:
            return 0
        kept = machine.revision - compacted
        if told.reclaimed_revision < compacted or kept <= 0 or now < self._rests_until:
            return 0
        freed = told.reclaimed_bytes - self._reclaimed_bytes
        if self._reclaimed_bytes and freed < quota // WORTHWHILE_SHARE:
            self._reclaimed_bytes = 0
            self._rests_until = now + IN_VAIN_SECONDS
            return 0
        self._reclaimed_bytes = max(told.reclaimed_bytes, 1)
        return compacted + max(kept // PRESSED_SHARE, 1)

    def _done(self, ticket: Any, result: Any) -> None:
        if isinstance(result, ApiError):
            log.info("automatic compaction was not carried out: %s", result.text)
        else:
            log.info("compacted automatically", extra={"compact-revision": ticket[1]})
