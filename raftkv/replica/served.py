"""What every member remembers of leases for the day that it leads.

Served time is the time in which leases could be renewed as far as this member knows: its process
ran and it knew a leader. It goes on through all changes of the leader, and it never goes faster
than the driver's clock, so a deadline that is kept in it is never too early.

Two things are dated in it, both when they were applied here, which is later than when they happened
at the leader:

* a checkpoint, until it is cleared or its lease is over;
* the first entry of a term, which ends all leaderships before it. Kept as (an index applied before
  it, time): a lease whose newest grant or renewal in the log has that index or a lower one was
  renewed by nobody after that time, but for a leader that did not know yet (`replica.lessor`).

None of it is stored. A process that starts, or a state that another member sent, knows only that
everything in it happened before.
"""

from bisect import bisect_left
from typing import Final, Protocol

from raftkv.kv.leases import CHECKPOINTED, Leases

MAX_TERMS: Final = 1000  # whose beginnings are kept; what is older counts from a later one


class Leased(Protocol):
    """What is needed of the state machine."""

    leases: Leases
    lease_events: list[tuple[int, int]]
    applied_index: int
    applied_term: int

    def lease_keys(self, lease: int) -> list[bytes]:
        """The live keys attached to a lease."""


class Served:
    """See the module's docstring. Times in seconds of served time.

    pause_seconds: a longer time between two turns means that this process was stopped.
    time: now.
    """

    def __init__(self, pause_seconds: float) -> None:
        self.time = 0.0
        self._pause = pause_seconds
        self._last_turn = 0.0
        self._led = False
        self._machine: Leased | None = None
        self._opened = 0.0  # since when the state is this member's
        self._index = self._term = 0  # applied at the last turn
        self._checkpoints: dict[int, float] = {}  # lease -> when its newest one was applied
        self._ended_indices: list[int] = []  # of terms: applied before the next one began ...
        self._ended_at: list[float] = []  # ... at this time

    def advance(self, now: float, machine: Leased, *, led: bool) -> float:
        """Once per turn, when its entries were applied.

        now: seconds of the driver's clock. led: whether this member knows a leader. Returns the
        seconds since the last turn, -1 if this process was stopped meanwhile.
        """
        gap = now - self._last_turn
        self._last_turn = now
        if not 0 <= gap <= self._pause:
            gap = -1.0
        elif led and self._led:
            self.time += gap
        self._led = led
        if machine is not self._machine:
            self._machine = machine
            self._checkpoints = {}
            self._opened = self.time
        if machine.applied_term != self._term:
            self._begin_term(machine)
        self._index = machine.applied_index
        return gap

    def _begin_term(self, machine: Leased) -> None:
        if self._term:
            self._ended_indices.append(self._index)
            self._ended_at.append(self.time)
            if len(self._ended_at) > MAX_TERMS:
                del self._ended_indices[0], self._ended_at[0]
        self._term = machine.applied_term

    def note(self, kind: int, lease: int, remaining_ms: int) -> None:
        """One of the machine's lease events. remaining_ms: what a checkpoint has left, else 0."""
        if kind == CHECKPOINTED and remaining_ms:
            self._checkpoints[lease] = self.time
        elif self._checkpoints:
            self._checkpoints.pop(lease, None)

    def follow(self, machine: Leased) -> None:
        """Notes and drops the machine's events, where no clocks of leases run."""
        by_id = machine.leases.by_id
        for kind, lease in machine.lease_events:
            known = by_id.get(lease)
            self.note(kind, lease, 0 if known is None else known.remaining_ms)
        machine.lease_events.clear()

    def checkpointed_at(self, lease: int) -> float:
        """When the newest checkpoint of a lease that has one was applied, or later."""
        return self._checkpoints.get(lease, self._opened)

    def leadership_ended_at(self, index: int) -> float:
        """When the leadership was over whose entry `index` is, or later; now if it may go on."""
        at = bisect_left(self._ended_indices, index)
        return self._ended_at[at] if at < len(self._ended_at) else self.time
