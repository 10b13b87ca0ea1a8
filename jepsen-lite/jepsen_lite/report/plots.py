"""The drawings of a run over time: faults, latency, rate. All share one axis of time."""

from collections.abc import Sequence
from typing import Final

from jepsen_lite.checker.base import Window
from jepsen_lite.report.markup import drawing, element, label, plain, shown
from jepsen_lite.report.palette import BANDS, LINES
from jepsen_lite.report.scales import Linear, Logarithmic, amount, seconds
from jepsen_lite.report.series import (
    COLUMNS,
    OUTCOMES,
    Series,
    row_seconds,
)

WIDTH: Final = 900
LEFT: Final = 76
RIGHT: Final = 12
LANE: Final = 20  # of one kind of fault
SHOWN_WINDOWS: Final = 600  # bars that are drawn; more are joined
SHADES: Final = 5  # of a cell: 1 call to very many


def kinds_of(windows: Sequence[Window]) -> list[str]:
    """The kinds of faults, in the order in which they first struck."""
    return list(dict.fromkeys(window.kind for window in windows))


def joined(windows: Sequence[Window], kind: str, gap_ns: int) -> list[tuple[Window, int]]:
    """The windows of a kind; those that lie closer than `gap_ns` as one, with how many it is."""
    found: list[tuple[Window, int]] = []
    for window in sorted(
        (one for one in windows if one.kind == kind), key=lambda one: one.start_ns
    ):
        if found and window.start_ns - found[-1][0].end_ns < gap_ns:
            last, count = found[-1]
            end = max(last.end_ns, window.end_ns)
            found[-1] = (Window(kind, last.start_ns, end, last.detail), count + 1)
        else:
            found.append((window, 1))
    return found


class TimePlots:
    """Draws with one axis of time. series: of the calls. windows: of the faults."""

    def __init__(self, series: Series, windows: Sequence[Window]) -> None:
        self._series = series
        self._windows = windows
        self._kinds = kinds_of(windows)
        self._x = Linear(0.0, series.seconds, LEFT, WIDTH - RIGHT)
        gap = int(series.seconds / COLUMNS * 1e9) if len(windows) > SHOWN_WINDOWS else 0
        self._spans = {kind: joined(windows, kind, gap) for kind in self._kinds}

    # --- faults ---------------------------------------------------------------------------
    def faults(self) -> str:
        """One lane per kind of fault, a bar for each time it lasted. Empty without faults."""
        if not self._kinds:
            return ""
        height = LANE * len(self._kinds) + 30
        parts = [self._grid(4, height - 26)]
        for number, kind in enumerate(self._kinds):
            top = 4 + number * LANE
            parts.append(label(LEFT - 6, top + 14, kind, longest=11, class_="end key"))
            for window, count in self._spans[kind]:
                parts.append(self._bar(window, count, top + 3, LANE - 6, number))
        parts.append(self._time_axis(height - 26))
        return drawing(WIDTH, height, "Faults over time, by kind", *parts)

    def _bar(self, window: Window, count: int, top: float, height: float, number: int) -> str:
        start, end = window.start_ns / 1e9, window.end_ns / 1e9
        many = f" ({count} times)" if count > 1 else ""
        text = f"{window.kind}{many}, {start:.3f} s to {end:.3f} s: {window.detail}"
        return element(
            "rect",
            element("title", shown(text, 400)),
            x=round(self._x(start), 1),
            y=top,
            width=round(max(self._x(end) - self._x(start), 1.5), 1),
            height=height,
            rx=2,
            class_=f"k{number % BANDS} bar",
        )

    def _bands(self, top: float, bottom: float) -> str:
        """The faults behind a plot."""
        parts = []
        for number, kind in enumerate(self._kinds):
            path = []
            for window, _ in self._spans[kind]:
                left = self._x(window.start_ns / 1e9)
                width = max(self._x(window.end_ns / 1e9) - left, 0.8)
                path.append(f"M{left:.1f} {top:g}h{width:.1f}V{bottom:g}h-{width:.1f}z")
            parts.append(
                element(
                    "path",
                    element("title", shown(kind)),
                    d="".join(path),
                    class_=f"k{number % BANDS}",
                    fill_opacity=0.13,
                )
            )
        return "".join(parts)

    # --- latency --------------------------------------------------------------------------
    def latency(self) -> str:
        """Every call as a dot, or as cells that count them: when it began, how long it took."""
        series = self._series
        if not series.cells:
            return ""
        rows = [place for _, _, place in series.cells]
        low = row_seconds(min(rows))
        high = max(row_seconds(max(rows) + 1), low * 10)
        height, top, bottom = 320, 8, 290
        y = Logarithmic(low, high, bottom, top)
        parts = [self._bands(top, bottom), self._grid(top, bottom)]
        for mark in y.marks():
            parts.append(_across(y(mark)))
            parts.append(label(LEFT - 6, y(mark) + 4, seconds(mark), class_="end soft"))
        parts.append(self._dots(y) if series.dots else self._cells(y))
        parts.append(self._time_axis(bottom))
        return drawing(WIDTH, height, "Latency of each operation over time, by outcome", *parts)

    def _dots(self, y: Logarithmic) -> str:
        parts = []
        for dot in self._series.dots:
            text = f"{dot.text}: {dot.outcome} after {seconds(dot.latency)}, at {dot.start:.3f} s"
            parts.append(
                element(
                    "circle",
                    element("title", shown(text, 200)),
                    cx=round(self._x(dot.start), 1),
                    cy=round(y(dot.latency), 1),
                    r=2 if dot.outcome == "ok" else 3,
                    class_="open" if dot.outcome == "info" else dot.outcome,
                    fill_opacity=0.6 if dot.outcome != "info" else None,
                )
            )
        return "".join(parts)

    def _cells(self, y: Logarithmic) -> str:
        """One path for each outcome and shade."""
        paths: dict[tuple[str, int], list[str]] = {}
        most = max(self._series.cells.values())
        width = (WIDTH - LEFT - RIGHT) / COLUMNS
        for (outcome, column, place), count in sorted(self._series.cells.items()):
            shade = min(int(SHADES * (count.bit_length() / (most.bit_length() + 1))), SHADES - 1)
            top = y(row_seconds(place + 1))
            tall = y(row_seconds(place)) - top
            paths.setdefault((outcome, shade), []).append(
                f"M{LEFT + column * width:.1f} {top:.1f}h{width:.1f}v{tall:.1f}h-{width:.1f}z"
            )
        ordered = sorted(paths, key=lambda one: (OUTCOMES.index(one[0]), one[1]))
        return "".join(
            element(
                "path",
                d="".join(paths[outcome, shade]),
                class_=outcome,
                fill_opacity=_opacity(outcome, shade),
            )
            for outcome, shade in ordered
        )

    # --- rate -----------------------------------------------------------------------------
    def rate(self) -> tuple[str, list[tuple[str, str]]]:
        """Ended calls per second by kind, and the legend: (class of the line, name)."""
        series = self._series
        lines = self._lines()
        if not lines:
            return "", []
        most = max(max(line) for _, _, line in lines) or 1.0
        height, top, bottom = 240, 8, 210
        y = Linear(0.0, most * 1.05, bottom, top)
        parts = [self._bands(top, bottom), self._grid(top, bottom)]
        for mark in y.marks(5):
            parts.append(_across(y(mark)))
            parts.append(label(LEFT - 6, y(mark) + 4, f"{amount(mark)}/s", class_="end soft"))
        for class_, name, line in lines:
            points = " ".join(
                f"{self._x((place + 0.5) * series.seconds / len(line)):.1f},{y(value):.1f}"
                for place, value in enumerate(line)
            )
            title = element("title", shown(name))
            parts.append(element("polyline", title, points=points, class_=f"line {class_}"))
        parts.append(self._time_axis(bottom))
        text = drawing(WIDTH, height, "Operations per second over time, by kind", *parts)
        return text, [(class_, name) for class_, name, _ in lines]

    def _lines(self) -> list[tuple[str, str, list[float]]]:
        """(class, name, rate by time) of each kind that ended ok, and of all that did not."""
        series = self._series
        wide = max(1, round(COLUMNS / max(min(series.seconds * 2, COLUMNS), 20)))  # columns
        places = -(-COLUMNS // wide)
        rates: dict[str, list[float]] = {}
        lost: dict[str, list[float]] = {}
        for (f, outcome, column), count in series.rates.items():
            table, name = (rates, f) if outcome == "ok" else (lost, outcome)
            line = table.setdefault(name, [0.0] * places)
            line[column // wide] += count / (wide * series.column_seconds)
        most_used = sorted(rates, key=lambda name: (-sum(rates[name]), name))
        found = []
        for number, name in enumerate(most_used[:LINES]):
            found.append((f"s{number}", plain(name, 40), rates[name]))
        for name, line in sorted(lost.items()):
            found.append((f"of-{name} failing", f"all that ended {name}", line))
        return found

    # --- what all share -------------------------------------------------------------------
    def _grid(self, top: float, bottom: float) -> str:
        marks = Linear(0.0, self._series.seconds, 0, 1).marks(8)
        path = "".join(f"M{self._x(mark):.1f} {top:g}V{bottom:g}" for mark in marks)
        return element("path", d=path, class_="grid")

    def _time_axis(self, bottom: float) -> str:
        parts = [element("path", d=f"M{LEFT} {bottom:g}H{WIDTH - RIGHT}", class_="axis")]
        for mark in Linear(0.0, self._series.seconds, 0, 1).marks(8):
            place = min(self._x(mark), WIDTH - 24.0)
            parts.append(label(place, bottom + 17, seconds(mark), class_="middle soft"))
        return "".join(parts)


def _opacity(outcome: str, shade: int) -> float:
    """Of cells; those that did not end well must be seen, however few they are."""
    least = 0.25 if outcome == "ok" else 0.7
    return round(least + (1 - least) * (shade + 1) / SHADES, 2)


def _across(y: float) -> str:
    return element("path", d=f"M{LEFT} {y:.1f}H{WIDTH - RIGHT}", class_="grid")
