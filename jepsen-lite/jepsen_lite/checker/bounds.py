"""What a sum may be while additions to it overlap.

An addition counts for sure once it was answered, and perhaps from its call on; one that failed
never does. So a read may see anything between: what was surely there when it was called, and what
may have been there when it was answered.
"""

from bisect import bisect_left

from jepsen_lite.history import Call


class Bounds:
    """Of one sum. initial: what it was before the first addition."""

    def __init__(self, initial: int = 0) -> None:
        self._initial = initial
        self._sums: dict[int, tuple[list[int], list[int]]] = {}
        self._added: list[tuple[Call, int]] = []

    def add(self, call: Call, amount: int) -> None:
        """An addition, which may be negative. In any order, but before the first question."""
        if not call.failed and amount:
            self._added.append((call, amount))

    def at(self, read: Call) -> tuple[int, int]:
        """The least and the greatest that this read may see."""
        assert read.end is not None
        begun, over = read.invoke.index, read.end.index
        low = self._sum(True, begun, True) + self._sum(False, over, False)
        high = self._sum(True, over, False) + self._sum(False, begun, True)
        return self._initial + low, self._initial + high

    def _sum(self, positive: bool, moment: int, answered: bool) -> int:
        """Of the additions of one sign that were called or answered before a moment."""
        name = positive * 2 + answered
        if name not in self._sums:
            found = sorted(
                (call.end.index if answered and call.end else call.invoke.index, amount)
                for call, amount in self._added
                if (amount > 0) == positive and (call.ok or not answered)
            )
            sums = [0]
            for _, amount in found:
                sums.append(sums[-1] + amount)
            self._sums[name] = ([place for place, _ in found], sums)
        places, sums = self._sums[name]
        return sums[bisect_left(places, moment)]
