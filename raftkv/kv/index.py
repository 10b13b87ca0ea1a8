"""The live keys in order: rank, count and slices of a range.

A sorted list holds every key that exists now. New keys wait in a plain list until an order is
asked for (or the turn ends), because a burst of puts is merged cheaper than one by one.

A range is etcd's pair (key, range_end): an empty end means the key alone, the end `00` means every
key >= key, and an end <= key means nothing (etcd API, RangeRequest).
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from sortedcontainers import SortedList

FROM_KEY = b"\0"  # as a range_end: no upper bound
MANY: Final = 16  # to remove one key takes as long as to look at so many


class KeyIndex:
    """Sorted live keys."""

    __slots__ = ("_fresh", "_keys")

    def __init__(self, keys: Iterable[bytes] = ()) -> None:
        self._keys: SortedList[bytes] = SortedList(keys)
        self._fresh: list[bytes] = []

    def __len__(self) -> int:
        return len(self._keys) + len(self._fresh)

    def add(self, key: bytes) -> None:
        """A key that did not exist begins to."""
        self._fresh.append(key)

    def remove_all(self, gone: list[bytes]) -> None:
        """Keys that existed are gone; `gone` is in order and has none twice."""
        self.settle()
        keys = self._keys
        if len(gone) == 1:
            keys.remove(gone[0])
            return
        first = keys.bisect_left(gone[0])
        last = first + len(gone)
        if last <= len(keys) and keys[last - 1] == gone[-1]:
            del keys[first:last]  # they lie side by side
        elif len(gone) > len(keys) // MANY:
            without = set(gone)
            self._keys = SortedList([key for key in keys if key not in without])
        else:
            for key in gone:
                keys.remove(key)

    def settle(self) -> None:
        """Put new keys in their places."""
        fresh = self._fresh
        if fresh:
            self._keys.update(fresh)
            self._fresh = []

    def bounds(self, key: bytes, range_end: bytes) -> tuple[int, int]:
        """Ranks (first, behind the last) of the live keys in the range; range_end is not empty."""
        self.settle()
        keys = self._keys
        first = keys.bisect_left(key)
        last = len(keys) if range_end == FROM_KEY else keys.bisect_left(range_end)
        return first, max(first, last)

    def slice(self, first: int, last: int, *, reverse: bool = False) -> Iterator[bytes]:
        """Keys by rank. Valid until the next change of the index."""
        found: Iterator[bytes] = self._keys.islice(first, last, reverse)
        return found

    def keys(self, key: bytes, range_end: bytes) -> list[bytes]:
        """The live keys of a range in order; range_end is not empty."""
        first, last = self.bounds(key, range_end)
        if first == last:
            return []
        return list(self.slice(first, last))

    def after(self, key: bytes, count: int) -> list[bytes]:
        """Up to `count` live keys >= `key`."""
        self.settle()
        return list(islice(self._keys.irange(key), count))
