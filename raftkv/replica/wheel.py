"""A timer wheel that is corrected late: what has moved is looked at when it comes up.

Items lie in slots of a tenth of a second. Whoever postpones an item leaves it where it is; when its
slot comes up the owner looks at it and puts it into a later one. So a lease that is renewed every
few seconds costs the wheel one visit per half a TTL, and a renewal costs it nothing.

An item that is due far ahead lies `FARTHEST_SECONDS` ahead and is put further then, so that what is
given up by its owner does not stay here for as long as its TTL.
"""

from typing import Final, Generic, TypeVar

SLOTS_PER_SECOND: Final = 10
FARTHEST_SECONDS: Final = 60.0

Item = TypeVar("Item")


class Wheel(Generic[Item]):
    """now: seconds of a clock that never goes back, the same for every call."""

    __slots__ = ("_passed", "_slots", "_up")

    def __init__(self, now: float) -> None:
        self._slots: dict[int, list[Item]] = {}
        self._passed = int(now * SLOTS_PER_SECOND)  # this slot and all before it have come up
        self._up: list[Item] = []  # came up and not taken yet

    def put(self, item: Item, due: float, now: float) -> None:
        """`item` comes up at `due` or up to a slot later; earlier only if that is far ahead."""
        at = int(min(due, now + FARTHEST_SECONDS) * SLOTS_PER_SECOND) + 1
        if at <= self._passed:
            at = self._passed + 1
        slot = self._slots.get(at)
        if slot is None:
            self._slots[at] = [item]
        else:
            slot.append(item)

    def take(self, now: float, most: int) -> list[Item]:
        """Removes up to `most` items that have come up by `now`."""
        reached = int(now * SLOTS_PER_SECOND)
        while self._passed < reached and len(self._up) < most:
            self._passed += 1
            slot = self._slots.pop(self._passed, None)
            if slot is not None:
                self._up = self._up + slot if self._up else slot
        if not self._up:
            return []
        taken, self._up = self._up[:most], self._up[most:]
        return taken

    @property
    def more(self) -> bool:
        """True if items that have come up were left by the last `take`."""
        return bool(self._up)

    def __len__(self) -> int:
        return len(self._up) + sum(map(len, self._slots.values()))
