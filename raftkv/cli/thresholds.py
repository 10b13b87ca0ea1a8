"""Ranges and performance data in the notation of Nagios' plugins.

A range tells when to raise an alert (Monitoring Plugins Development Guidelines, "Threshold and
Ranges"); `start` may be left out when it is 0, and both ends belong to the range:

    10        outside of 0 .. 10
    10:       below 10
    ~:10      above 10, however far below 0 it may be
    10:20     outside of 10 .. 20
    @10:20    inside of 10 .. 20

Performance data is a list of 'label'=value[unit];[warning];[critical];[min];[max] behind the first
line's bar. Units here: s, B (bytes), c (a counter that only grows), or none.
"""

import math
from dataclasses import dataclass
from typing import Final, Self

OK: Final = 0
WARNING: Final = 1
CRITICAL: Final = 2
UNKNOWN: Final = 3
STATUS_NAMES: Final = ("OK", "WARNING", "CRITICAL", "UNKNOWN")


@dataclass(frozen=True, slots=True)
class Range:
    """start, end: both inclusive. inside: alert within it instead of outside. text: as written."""

    start: float
    end: float
    inside: bool
    text: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """A range from its notation. Errors: ValueError with the reason."""
        inside = text.startswith("@")
        first, colon, last = text.removeprefix("@").partition(":")
        if not colon:
            first, last = "0", first
            if not last:
                raise ValueError("a range needs a number, as in 10, 10:, ~:10, 10:20 or @10:20")
        start = -math.inf if first == "~" else _number(first or "0")
        end = _number(last) if last else math.inf
        if start > end:
            raise ValueError(f"a range's start must not be above its end: {text}")
        return cls(start, end, inside, text)

    def alerts(self, value: float) -> bool:
        """True if this value is one to raise an alert for."""
        return (self.start <= value <= self.end) == self.inside


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None
    if not math.isfinite(number):
        raise ValueError(f"{text!r} is not a number")
    return number


@dataclass(frozen=True, slots=True)
class Levels:
    """When a value is worth a warning and when it is critical; None: never."""

    warning: Range | None = None
    critical: Range | None = None

    def __bool__(self) -> bool:
        return self.warning is not None or self.critical is not None

    def status(self, value: float) -> int:
        """OK, WARNING or CRITICAL."""
        if self.critical is not None and self.critical.alerts(value):
            return CRITICAL
        return WARNING if self.warning is not None and self.warning.alerts(value) else OK


NO_LEVELS: Final = Levels()


@dataclass(frozen=True, slots=True)
class Measure:
    """One value of the performance data. value None: it could not be measured."""

    label: str
    value: float | None
    unit: str = ""
    levels: Levels = NO_LEVELS
    least: float | None = 0
    most: float | None = None

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.label}=U"
        fields = [
            f"{self.label}={_plain(self.value)}{self.unit}",
            self.levels.warning.text if self.levels.warning else "",
            self.levels.critical.text if self.levels.critical else "",
            "" if self.least is None else _plain(self.least),
            "" if self.most is None else _plain(self.most),
        ]
        return ";".join(fields).rstrip(";")


def _plain(value: float) -> str:
    """Without an exponent, which the notation does not know."""
    return str(value) if isinstance(value, int) else f"{value:.6f}"
