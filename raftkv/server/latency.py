"""How long something took lately: the last durations, written by one thread and read by another.

No lock and no allocation where the durations are made: one slot of a fixed array is written per
duration. A reader copies the array in one step of the interpreter and sorts the copy, so a slot
that is written meanwhile is either the old duration or the new one.
"""

from array import array
from dataclasses import dataclass
from typing import Final

SLOTS: Final = 1024


@dataclass(frozen=True, slots=True)
class Summary:
    """count: since the start. The others are of the last durations (at most SLOTS), in seconds."""

    count: int = 0
    p50_seconds: float = 0.0
    p99_seconds: float = 0.0
    max_seconds: float = 0.0


class Latency:
    """The last durations of one kind. `note` is for one thread only."""

    def __init__(self) -> None:
        self.count = 0
        self._slots = array("d", bytes(8 * SLOTS))

    def note(self, seconds: float) -> None:
        """One more."""
        self._slots[self.count % SLOTS] = seconds
        self.count += 1

    def summary(self) -> Summary:
        """What the last ones were like."""
        count = self.count
        taken = sorted(self._slots[: min(count, SLOTS)])
        if not taken:
            return Summary()
        last = len(taken) - 1
        return Summary(count, taken[last // 2], taken[last * 99 // 100], taken[last])
