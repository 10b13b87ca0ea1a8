"""A leader whose own disk does not keep up hands its leadership over.

A leader counts its own log only when it is durable, so the others can commit without it;
but it answers its clients when it has applied, and it applies only what is durable here.
With a disk that is slow or hangs it would lead on, heartbeat in time, for ever, and answer
nobody. So: the commit index is ahead of what is durable here, which proves that a majority
of the others has a better disk, and for half an election timeout nothing became durable
here. When all disks are slow the commit index waits as well, and leadership stays.
"""

from contextlib import suppress

from raftkv.raft.core import Core
from raftkv.raft.roles import Refusal
from raftkv.raft.types import NOBODY


class DiskWatchdog:
    """Watches one member's disk through its core."""

    __slots__ = ("_core", "_durable_index", "_ticks")

    def __init__(self, core: Core) -> None:
        self._core = core
        self._durable_index = 0
        self._ticks = 0  # since it stood still while the commit index was ahead

    def behind(self) -> bool:
        """Called once per tick on a leader: True if it is time to hand over."""
        core = self._core
        durable = core.log.stable_index
        if core.commit <= durable or durable != self._durable_index:
            self._durable_index = durable
            self._ticks = 0
            return False
        self._ticks += 1
        return self._ticks >= core.settings.election_timeout_ticks // 2

    def hand_over(self, target: int) -> None:
        """Hands leadership to `target` (NOBODY: nobody can take it); tried again later."""
        self._ticks = 0
        if target != NOBODY:
            with suppress(Refusal):
                self._core.transfer(target)
