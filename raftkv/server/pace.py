"""How much of a processor long work may take from a member that serves clients at the same time.

Work in parts, such as the blobs of a snapshot or the chunks of a state transfer, asks a `Pace`
behind each part how long to rest:

    busy    rest = worked * (share - 1), so that one part in `share` of a processor goes to the work
    idle    no rest

`worked` is processor time, of all threads that made the part: what a part waited for a processor or
a disk is no reason to rest longer, so a crowded machine does not slow the work down twice.

A member is busy when turns with work in them and applied entries, together, have come at
`BUSY_PER_SECOND` or more for a window of `WINDOW_SECONDS` or somewhat longer, and stays so for
`BUSY_SECONDS`. A quiet member has some tens of turns a second, for its clock and for heartbeats; a
single client that writes makes hundreds. Entries count too, because the turns of a member that gets
little of its processors become few and long. Turns that do nothing but write output do not count:
the long work itself causes such.
"""

from collections.abc import Callable
from typing import Final

WINDOW_SECONDS: Final = 0.05
BUSY_SECONDS: Final = 0.25  # a process that gets no processor for a window is not idle
BUSY_PER_SECOND: Final = 100.0
MAX_REST_SECONDS: Final = 1.0  # whatever a part took, the next one begins after this


class Pace:
    """Says after each part of a long work how long to rest.

    The first window begins here: work that a pause comes before (the making of a copy) knows
    from its first part on whether the member is busy.
    """

    def __init__(self, work_done: Callable[[], int], now: Callable[[], float]) -> None:
        """work_done: a number that grows with it (`Driver.work_done`). now: a monotonic clock, in
        seconds."""
        self._work_done = work_done
        self._now = now
        self._since = now()
        self._done = work_done()
        self._busy_until = float("-inf")

    @property
    def busy(self) -> bool:
        """Whether clients come first just now. Looks at the clock."""
        now = self._now()
        seconds = now - self._since
        if seconds >= WINDOW_SECONDS:
            done = self._work_done()
            if done - self._done >= BUSY_PER_SECOND * seconds:
                self._busy_until = now + BUSY_SECONDS
            self._since = now
            self._done = done
        return now < self._busy_until

    def rest_seconds(self, worked_seconds: float, share: float) -> float:
        """How long to rest behind a part.

        worked_seconds: processor time that it took. share: while the member is busy, the work gets
        one part in `share` of a processor's time; 1 or less: all of it.
        """
        if not self.busy:
            return 0.0
        return min(max(worked_seconds * (share - 1.0), 0.0), MAX_REST_SECONDS)
