"""Counts per bucket, for durations that happen often: one bisection and two additions each.

`counts[i]` is how many values were at most `bounds[i]` and above the bound before it; the last one
counts what was above all bounds. Whoever exposes a histogram adds the counts up (Prometheus'
buckets are cumulative) and takes their sum for the number of values, so that one copy of `counts`
is always consistent in itself although another thread goes on counting.
"""

from bisect import bisect_left


def exponential(first: float, factor: float, count: int) -> tuple[float, ...]:
    """`count` bounds that grow by `factor`, rounded to 12 digits as their text would be."""
    return tuple(float(f"{first * factor**power:.12g}") for power in range(count))


class Histogram:
    """Values of one kind. `note` is for one thread only; reading is for any.

    bounds: upper ends of the buckets (inclusive), ascending, in the unit of the values.
    sum: of all values.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def note(self, value: float, times: int = 1) -> None:
        """`times` values that are equal."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times
