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

from raftkv.raft.types import Entry


class Run:
    """Writes that share their times (seconds; durable: 0.0 until then, or if another member's disk
    was waited for). last: index of the last one, appended in `term`; 0: they were forwarded.
    """

    __slots__ = ("appended", "count", "durable", "last", "since", "term")

    def __init__(self, last: int, term: int, count: int, since: float, appended: float) -> None:
        self.last = last
        self.term = term
        self.count = count
        self.since = since
        self.appended = appended
        self.durable = 0.0


class Applied:
    """What the state machine has carried out in one turn.

    entries: all of them. began, ended: seconds of the clock. runs: what they answered here.
    slowest_seconds: of neighbouring entries that were applied in one go, from position
        `slowest_at` of `entries` on up to `slowest_end`.
    """

    __slots__ = (
        "began",
        "ended",
        "entries",
        "runs",
        "slowest_at",
        "slowest_end",
        "slowest_seconds",
    )

    def __init__(self, entries: list[Entry], began: float) -> None:
        self.entries = entries
        self.began = self.ended = began
        self.runs: list[Run] = []
        self.slowest_at = self.slowest_end = 0
        self.slowest_seconds = 0.0

    def lap(self, now: float, at: int, end: int) -> None:
        """The entries from position `at` up to `end` are applied."""
        seconds = now - self.ended
        if seconds > self.slowest_seconds:
            self.slowest_seconds, self.slowest_at, self.slowest_end = seconds, at, end
        self.ended = now


def _stands_still() -> float:
    return 0.0


class Stopwatch:
    """The runs of one member that are not applied yet. clock: in seconds, set by the driver."""

    __slots__ = ("_answered", "_durable", "_placed", "clock")

    def __init__(self) -> None:
        self.clock: Callable[[], float] = _stands_still
        self._placed: deque[Run] = deque()  # in the own log, in its order
        self._durable: deque[Run] = deque()  # those of them that wait for the disk
        self._answered: list[Run] = []  # forwarded ones whose entries are applied

    def appended(self, last: int, count: int, term: int, since: float = 0.0) -> None:
        """`count` writes up to index `last` are in the log. since: 0.0: they came just now."""
        now = self.clock()
        run = Run(last, term, count, since or now, now)
        self._placed.append(run)
        self._durable.append(run)

    def stable(self, index: int) -> None:
        """The disk has the log up to `index`."""
        waiting = self._durable
        if waiting and waiting[0].last <= index:
            now = self.clock()
            while waiting and waiting[0].last <= index:
                waiting.popleft().durable = now

    def answered(self, since: float, sent: float) -> None:
        """A write that was forwarded at `sent` is applied."""
        if self._answered and self._answered[-1].appended == sent:
            self._answered[-1].count += 1
        else:
            self._answered.append(Run(0, 0, 1, since, sent))

    def applied(self, index: int) -> list[Run]:
        """The runs that are carried out now that the log is, up to `index`."""
        runs, self._answered = self._answered, []
        placed = self._placed
        while placed and placed[0].last <= index:
            runs.append(placed.popleft())
        return runs

    def lost(self, term: int) -> float:
        """What was appended before `term` and is not applied is in no log any more, or nobody knows
        what became of it. Returns since when the first of these writes has waited; 0.0: none.
        """
        since = 0.0
        for waiting in (self._placed, self._durable):
            while waiting and waiting[0].term < term:
                run = waiting.popleft()
                since = since or run.since
        return since
