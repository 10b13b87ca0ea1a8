"""A leader whose own disk does not keep up hands its leadership over.

A leader counts its own log only when it is durable, so the others can commit without it;
but it answers its clients when it has applied, and it applies only what is durable here.
With a disk that is slow or hangs it would lead on, heartbeat in time, for ever, and its
clients would wait for that disk. What tells is always the commit index: where it is ahead of
what is durable here, a majority of the others has a better disk. When all disks are slow it
waits as well, and leadership stays. Two rules:

Standstill  For half an election timeout nothing became durable here while the commit index
            was ahead.
Slowness    The excess is the time from the commit of an entry to its being durable here: what
            clients wait for this disk alone. One is measured at a time. If each was above a
            bound for some seconds, it is time; a single better one, or a pause without
            writes, begins the count anew. So a hiccup costs no leadership, and neither does
            a network or an event loop that is slow for everybody.

Leadership goes only to a voter that answers and lacks nothing that is committed. After a try
the watchdog rests, so that it moves leadership at most once in that time however disks behave;
the members that were not slow do not count as slow, so it comes back only by an election.
"""

from contextlib import suppress
from typing import Final

from raftkv.raft import describe
from raftkv.raft.core import Core
from raftkv.raft.roles import Refusal
from raftkv.raft.types import NOBODY

SLOW_SECONDS: Final = 0.05  # an excess below never counts ...
SLOW_SHARE: Final = 0.05  # ... nor one below this share of the election timeout
STREAK_SECONDS: Final = 3.0  # for so long every excess must have been above that bound
STREAK_COUNT: Final = 5  # and so many must have been measured
PAUSE_SECONDS: Final = 2.0  # without a measurement: whatever was, it is over
REST_SECONDS: Final = 15.0  # between two tries


class DiskWatchdog:
    """Watches one member's disk through its core.

    handovers: how often it asked another member to lead.
    """

    __slots__ = (
        "_bound_seconds",
        "_core",
        "_count",
        "_durable_index",
        "_marked_at",
        "_marked_index",
        "_measured_at",
        "_rests_until",
        "_since",
        "_ticks",
        "handovers",
    )

    def __init__(self, core: Core, election_timeout_seconds: float) -> None:
        self.handovers = 0
        self._core = core
        self._bound_seconds = max(SLOW_SECONDS, SLOW_SHARE * election_timeout_seconds)
        self._durable_index = 0
        self._ticks = 0  # since it stood still while the commit index was ahead
        self._marked_index = 0  # committed and not durable when it was marked; 0: none
        self._marked_at = 0.0
        self._measured_at = 0.0
        self._since = 0.0  # when the first of the present streak was marked
        self._count = 0  # measurements in the present streak
        self._rests_until = 0.0

    def observe(self, now: float) -> None:
        """Called in every turn. now: seconds of the driver's clock."""
        core = self._core
        durable = core.log.stable_index
        if self._marked_index:
            if durable < self._marked_index:
                return
            self._measured(now)
        if durable < core.commit and core.is_leader:
            self._marked_index, self._marked_at = core.commit, now

    def _measured(self, now: float) -> None:
        self._marked_index = 0
        if now - self._marked_at < self._bound_seconds:
            self._count = 0
            return
        if not self._count or self._marked_at - self._measured_at > PAUSE_SECONDS:
            self._since, self._count = self._marked_at, 0
        self._measured_at = now
        self._count += 1

    def behind(self, now: float) -> bool:
        """Called once per tick on a leader: True if it is time to hand over."""
        if self._stands_still():
            return True
        slow = self._count >= STREAK_COUNT and self._measured_at - self._since >= STREAK_SECONDS
        fresh = now - self._measured_at <= PAUSE_SECONDS
        return slow and fresh and now >= self._rests_until

    def _stands_still(self) -> bool:
        core = self._core
        durable = core.log.stable_index
        if core.commit <= durable or durable != self._durable_index:
            self._durable_index = durable
            self._ticks = 0
            return False
        self._ticks += 1
        return self._ticks >= core.settings.election_timeout_ticks // 2

    def hand_over(self, now: float) -> int:
        """Hands leadership to the fittest other voter; returns it, NOBODY if none is fit now."""
        core = self._core
        self._ticks = 0
        if core.transferee != NOBODY:
            return NOBODY  # it is under way, or was asked for by somebody else
        answering = describe.answering(core)
        fit = {
            member: view.match
            for member, view in core.progress().items()
            if view.voter
            and not view.regressed
            and member in answering
            and view.match >= core.commit
        }
        target = max(fit, key=lambda member: fit[member], default=NOBODY)
        if target != NOBODY:
            with suppress(Refusal):
                core.transfer(target)
                self.handovers += 1
                self._count = 0
                self._rests_until = now + REST_SECONDS
        return target

    def forget(self) -> None:
        """Leadership has begun or ended: earlier measurements say nothing about the next."""
        self._marked_index = self._count = 0
