"""What a history says in figures: latencies and rates by time, kind and outcome. One pass.

Nothing here grows with the history but the lists of latencies by kind, eight bytes each: the
plots get counts of cells, which are bounded by the size of the paper.
"""

import math
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from jepsen_lite.history import Call

OUTCOMES: Final = ("ok", "fail", "info")
COLUMNS: Final = 240  # cells of time
ROWS_PER_DECADE: Final = 12  # cells of latency
LOWEST_SECONDS: Final = 1e-5
DECADES: Final = 8  # up to 1,000 s
DOTS: Final = 4000  # so many calls are drawn one by one


@dataclass(frozen=True, slots=True)
class Dot:
    """One call: when it began, how long it took (seconds), how it ended, what it was."""

    start: float
    latency: float
    outcome: str
    text: str


@dataclass(slots=True)
class Kind:
    """All calls of one f. latencies: of those that ended ok, in seconds."""

    count: Counter[str] = field(default_factory=Counter)
    latencies: "array[float]" = field(default_factory=lambda: array("d"))

    def quantile(self, share: float) -> float | None:
        """A latency in seconds, of the calls that ended ok; after `sorted_up`."""
        if not self.latencies:
            return None
        return self.latencies[min(int(share * len(self.latencies)), len(self.latencies) - 1)]


@dataclass(slots=True)
class Series:
    """See the module's docstring.

    seconds: length of the run. cells: calls by (outcome, column, row). rates: ended calls by
    (f, outcome, column). dots: all calls, if they are few.
    """

    seconds: float
    kinds: dict[str, Kind] = field(default_factory=dict)
    cells: Counter[tuple[str, int, int]] = field(default_factory=Counter)
    rates: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    dots: list[Dot] = field(default_factory=list)
    calls: int = 0

    @property
    def column_seconds(self) -> float:
        """The time that one column stands for."""
        return self.seconds / COLUMNS

    def column(self, moment: float) -> int:
        """Of a moment in seconds."""
        return min(max(int(moment / self.column_seconds), 0), COLUMNS - 1)

    def total(self) -> Counter[str]:
        """Calls by outcome."""
        found: Counter[str] = Counter()
        for kind in self.kinds.values():
            found.update(kind.count)
        return found

    def add(self, call: Call) -> None:
        """Takes one call in."""
        begin = call.invoke.time_ns / 1e9
        end = call.end.time_ns / 1e9 if call.end is not None else self.seconds
        outcome = call.end.type if call.end is not None else "info"
        latency = max(end - begin, LOWEST_SECONDS)
        kind = self.kinds.get(call.invoke.f)
        if kind is None:
            kind = self.kinds[call.invoke.f] = Kind()
        kind.count[outcome] += 1
        if outcome == "ok":
            kind.latencies.append(latency)
        self.cells[outcome, self.column(begin), row(latency)] += 1
        self.rates[call.invoke.f, outcome, self.column(end)] += 1
        self.calls += 1
        if self.calls <= DOTS:
            text = f"{call.invoke.f} by process {call.invoke.process}"
            self.dots.append(Dot(begin, latency, outcome, text))
        elif self.dots:
            self.dots.clear()

    def sort_up(self) -> None:
        """After the last call: makes quantiles answerable."""
        for kind in self.kinds.values():
            kind.latencies = array("d", sorted(kind.latencies))


def row(latency: float) -> int:
    """The row of cells that a latency in seconds belongs to."""
    place = int((math.log10(latency) - math.log10(LOWEST_SECONDS)) * ROWS_PER_DECADE)
    return min(max(place, 0), DECADES * ROWS_PER_DECADE - 1)


def row_seconds(place: int) -> float:
    """The latency at the lower edge of a row."""
    return float(LOWEST_SECONDS * 10.0 ** (place / ROWS_PER_DECADE))


def gathered(calls: Iterable[Call], seconds: float) -> Series:
    """All calls of clients. seconds: length of the run."""
    series = Series(max(seconds, 1e-3))
    for call in calls:
        series.add(call)
    series.sort_up()
    return series
