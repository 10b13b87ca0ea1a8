"""How much of a processor long work may take from a member that serves clients at the same time.

Work in parts, such as the blobs of a snapshot or the chunks of a state transfer, asks a `Pace`
behind each part how long to rest:

    busy    rest = worked * (share - 1), so that one part in `share` of a processor goes to the work
    idle    no rest

`worked` is processor time, of all threads that made the part: what a part waited for a processor or
a disk is no reason to rest longer, so a crowded machine does not slow the work down twice.

A member is busy when it has had turns with work in them, `BUSY_TURNS_PER_SECOND` or more, during
the last `WINDOW_SECONDS` or somewhat longer. A quiet member has some tens of turns a second, for
its clock and for heartbeats; a single client that writes makes hundreds. Turns that do nothing but
write output do not count, because the work itself causes such.
"""

from collections.abc import Callable
from typing import Final

WINDOW_SECONDS: Final = 0.05
BUSY_TURNS_PER_SECOND: Final = 100.0
MAX_REST_SECONDS: Final = 1.0  # whatever a part took, the next one begins after this


class Pace:
    """Says after each part of a long work how long to rest.

    The first window begins here: work that a pause comes before (the making of a copy) knows
    from its first part on whether the member is busy.
    """

    def __init__(self, working_turns: Callable[[], int], now: Callable[[], float]) -> None:
        """working_turns: how many turns with work there have been (`Driver.working_turns`).
        now: a monotonic clock, in seconds."""
        self._working_turns = working_turns
        self._now = now
        self._since = now()
        self._turns = working_turns()
        self._busy = False

    @property
    def busy(self) -> bool:
        """Whether clients come first just now. Looks at the clock."""
        seconds = self._now() - self._since
        if seconds >= WINDOW_SECONDS:
            turns = self._working_turns()
            self._busy = turns - self._turns >= BUSY_TURNS_PER_SECOND * seconds
            self._since += seconds
            self._turns = turns
        return self._busy

    def rest_seconds(self, worked_seconds: float, share: float) -> float:
        """How long to rest behind a part.

        worked_seconds: processor time that it took. share: while the member is busy, the work gets
        one part in `share` of a processor's time; 1 or less: all of it.
        """
        if not self.busy:
            return 0.0
        return min(max(worked_seconds * (share - 1.0), 0.0), MAX_REST_SECONDS)
