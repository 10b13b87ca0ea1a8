"""How long client writes wait, and for what, by the clock of whoever drives the replica.

The writes that a turn appends are one run, and so are those that it forwards: they share their
times, so a turn pays for this, not a write. A run of the own log passes four points:

    since      a turn took the writes from their clients
    appended   they were put into the log: later, if there was no leader or no room
    durable    the disk has them
    applied    a quorum had them as well, and the state machine has carried them out

Pure: without a driver that sets `clock`, time stands still and nothing is ever slow.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from raftkv.raft.types import Entry

REMEMBERED_SYNCS: Final = 64  # as many may pass while a quorum is waited for
_NO_LAP: Final = (0.0, 0, 0)
_new = tuple.__new__


class Run(NamedTuple):
    """Writes that share their times, in seconds.

    last: index of the last one, appended in `term`; 0: they were forwarded.
    """

    last: int
    term: int
    writes: int
    since: float
    appended: float


class Applied:
    """What the state machine has carried out in one turn.

    entries: all of them. began, ended: seconds of the clock. runs: what they answered here.
    slowest: of neighbouring entries that were applied in one go: their seconds, and where in
        `entries` they begin and end.
    """

    __slots__ = ("began", "ended", "entries", "runs", "slowest")

    def __init__(self, entries: list[Entry], began: float) -> None:
        self.entries = entries
        self.began = self.ended = began
        self.runs: list[Run] = []
        self.slowest = _NO_LAP

    def lap(self, now: float, at: int, end: int) -> None:
        """The entries from position `at` up to `end` are applied."""
        seconds = now - self.ended
        if seconds > self.slowest[0]:
            self.slowest = (seconds, at, end)
        self.ended = now


def _stands_still() -> float:
    return 0.0


class Stopwatch:
    """The runs of one member that are not applied yet. clock: in seconds, set by the driver."""

    __slots__ = ("_answered", "_placed", "_synced", "clock")

    def __init__(self) -> None:
        self.clock: Callable[[], float] = _stands_still
        self._placed: deque[Run] = deque()  # in the own log, in its order
        self._synced: deque[tuple[int, float]] = deque(maxlen=REMEMBERED_SYNCS)
        self._answered: list[Run] = []  # forwarded ones whose entries are applied

    def appended(self, last: int, count: int, term: int, since: float = 0.0) -> None:
        """`count` writes up to index `last` are in the log. since: 0.0: they came just now."""
        now = self.clock()
        self._placed.append(_new(Run, (last, term, count, since or now, now)))

    def stable(self, index: int) -> None:
        """The disk has the log up to `index`."""
        self._synced.append((index, self.clock()))

    def durable_at(self, index: int) -> float:
        """When the disk had the log up to `index`; 0.0: not yet, or nobody remembers."""
        return next((when for last, when in self._synced if last >= index), 0.0)

    def answered(self, since: float, sent: float) -> None:
        """A write that was forwarded at `sent` is applied. since: 0.0: nobody knows any more."""
        since = since or sent
        answered = self._answered
        if answered and answered[-1].appended == sent:
            answered[-1] = answered[-1]._replace(writes=answered[-1].writes + 1)
        else:
            answered.append(Run(0, 0, 1, since, sent))

    def applied(self, index: int) -> list[Run]:
        """The runs that are carried out now that the log is, up to `index`."""
        runs, self._answered = self._answered, []
        placed = self._placed
        while placed and placed[0][0] <= index:
            runs.append(placed.popleft())
        return runs

    def lost(self, term: int) -> float:
        """What was appended before `term` and is not applied is in no log any more, or nobody knows
        what became of it. Returns since when the first of these writes has waited; 0.0: none.
        """
        since = 0.0
        placed = self._placed
        while placed and placed[0].term < term:
            run = placed.popleft()
            since = since or run.since
        return since
