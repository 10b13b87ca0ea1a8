"""From figures to places in a drawing, and the figures worth a mark. Pure."""

import math
from dataclasses import dataclass

_STEPS = (1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Linear:
    """low..high at the places start..end."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low or 1.0
        return self.start + (value - self.low) / span * (self.end - self.start)

    def marks(self, wanted: int) -> list[float]:
        """About so many round figures."""
        span = self.high - self.low
        if span <= 0:
            return [self.low]
        raw = span / max(wanted, 1)
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(factor * power for factor in _STEPS if factor * power >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [min(number * step, self.high) for number in range(first, last + 1)]


@dataclass(frozen=True, slots=True)
class Logarithmic:
    """low..high (both above 0) at the places start..end, by their logarithms."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        below = math.log10(self.low)
        span = math.log10(self.high) - below or 1.0
        share = (math.log10(max(value, self.low)) - below) / span
        return self.start + share * (self.end - self.start)

    def marks(self) -> list[float]:
        """The powers of ten."""
        first = math.ceil(math.log10(self.low) - 1e-9)
        last = math.floor(math.log10(self.high) + 1e-9)
        return [10.0**power for power in range(first, last + 1)]


def seconds(value: float) -> str:
    """A time in seconds as people write it: 250 us, 12 ms, 3.5 s, 4 min 10 s, 2 h 5 min."""
    if value == 0:
        return "0 s"
    if value < 0.0009995:
        return f"{value * 1e6:.3g} us"
    if value < 0.9995:
        return f"{value * 1e3:.3g} ms"
    if value < 120:
        return f"{value:.3g} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 120:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def amount(value: float) -> str:
    """A figure with its thousands apart."""
    if isinstance(value, int) or value == int(value):
        return f"{int(value):,}"
    return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
