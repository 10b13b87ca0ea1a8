"""Who watches a key: single keys, prefixes, open ends and any other ranges.

* single keys: a dict;
* prefixes (what most clients mean by a range): a dict per length of prefix, so a key costs one
  lookup per length in use; at most `PREFIX_LENGTHS` lengths, further ones count as other ranges;
* from-key ranges: sorted by their start, all up to the key match;
* other ranges: sorted by start, under a binary tree of greatest ends, in which a search leaves out
  every part whose ends are all at or below the key. It is rebuilt now and then; ranges added since
  are looked at one by one, removed ones leave a hole.

The index holds groups: the watchers that asked for exactly the same share one, because they get
exactly the same events.
"""

from bisect import bisect_left, bisect_right
from math import isqrt
from typing import Final, Generic, TypeVar

FROM_KEY: Final = b"\0"  # as a range's end: no upper bound
PREFIX_LENGTHS: Final = 16
_FRESH: Final = 32  # ranges that are looked at one by one, at least

T = TypeVar("T")


def normal_range(key: bytes, range_end: bytes) -> tuple[bytes, bytes] | None:
    """Key and end as etcd reads a WatchCreateRequest's; None if the range is empty.

    An empty key means the key 00. An empty end means the key alone, the end 00 every key from
    `key` on.
    """
    key = key or b"\0"
    if range_end and range_end != FROM_KEY and range_end <= key:
        return None
    return key, range_end


def in_range(wanted: bytes, key: bytes, end: bytes) -> bool:
    """Does the normal range (key, end) hold the key `wanted`?"""
    if not end:
        return wanted == key
    return wanted >= key and (end == FROM_KEY or wanted < end)


def prefix_end(prefix: bytes) -> bytes:
    """The end of the range of all keys that begin with `prefix`."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else FROM_KEY


class RangeIndex(Generic[T]):
    """Items by the range they want. Each item is in it at most once."""

    __slots__ = ("_intervals", "_keys", "_prefixes", "_tails", "ranged")

    def __init__(self) -> None:
        self._keys: dict[bytes, tuple[T, ...]] = {}
        self._prefixes: dict[int, dict[bytes, tuple[T, ...]]] = {}
        self._tails: tuple[list[bytes], list[T]] = ([], [])
        self._intervals: _Intervals[T] = _Intervals()
        self.ranged = 0  # items that want more than one key

    def add(self, key: bytes, end: bytes, item: T) -> None:
        """key, end: as `normal_range` gives them."""
        if not end:
            self._keys[key] = (*self._keys.get(key, ()), item)
            return
        self.ranged += 1
        prefix = _prefix_of(key, end)
        if prefix is not None:
            size = len(prefix)
            if size in self._prefixes or len(self._prefixes) < PREFIX_LENGTHS or not size:
                table = self._prefixes.setdefault(size, {})
                table[prefix] = (*table.get(prefix, ()), item)
                return
        if end == FROM_KEY:
            starts, items = self._tails
            at = bisect_right(starts, key)
            starts.insert(at, key)
            items.insert(at, item)
        else:
            self._intervals.add(key, end, item)

    def remove(self, key: bytes, end: bytes, item: T) -> None:
        """Take out an item that is there; arguments as in `add`."""
        if not end:
            _drop(self._keys, key, item)
            return
        self.ranged -= 1
        prefix = _prefix_of(key, end)
        table = None if prefix is None else self._prefixes.get(len(prefix))
        if prefix is not None and table is not None and item in table.get(prefix, ()):
            _drop(table, prefix, item)
            if not table:
                del self._prefixes[len(prefix)]
        elif end == FROM_KEY:
            starts, items = self._tails
            at = items.index(item, bisect_left(starts, key))
            del starts[at], items[at]
        else:
            self._intervals.remove(item)

    def find(self, key: bytes) -> tuple[T, ...] | list[T]:
        """The items that want `key`. Not to be changed by the caller."""
        found = self._keys.get(key, ())
        return [*found, *self.find_ranges(key)] if self.ranged else found

    def find_ranges(self, key: bytes) -> list[T]:
        """`find` without those that want only this key."""
        found: list[T] = []
        for size, table in self._prefixes.items():
            # A shorter key is cut to itself, which is no prefix of this length.
            items = table.get(key[:size])
            if items is not None:
                found += items
        starts, tails = self._tails
        if starts:
            found += tails[: bisect_right(starts, key)]
        if self._intervals.count:
            self._intervals.find(key, found)
        return found


def _prefix_of(key: bytes, end: bytes) -> bytes | None:
    """The prefix that a range is all keys of, if it is one. Keys are never empty, so the range
    from 00 on holds all of them.
    """
    if end == FROM_KEY and key == b"\0":
        return b""
    return key if end == prefix_end(key) else None


def _drop(table: dict[bytes, tuple[T, ...]], key: bytes, item: T) -> None:
    left = tuple([one for one in table[key] if one is not item])
    if left:
        table[key] = left
    else:
        del table[key]


class _Intervals(Generic[T]):
    """Bounded ranges [start, end). See the module's docstring."""

    __slots__ = ("_fresh", "_items", "_places", "_starts", "_tops", "_width", "count")

    def __init__(self) -> None:
        self._fresh: dict[T, tuple[bytes, bytes]] = {}
        self._starts: list[bytes] = []
        self._items: list[T | None] = []
        self._places: dict[T, int] = {}
        self._tops: list[bytes] = []  # of node n the children are 2n and 2n + 1; leaves last
        self._width = 1
        self.count = 0

    def add(self, start: bytes, end: bytes, item: T) -> None:
        self.count += 1
        self._fresh[item] = (start, end)
        if len(self._fresh) > _FRESH + isqrt(self.count):
            self._build()

    def remove(self, item: T) -> None:
        self.count -= 1
        if self._fresh.pop(item, None) is not None:
            return
        self._items[self._places.pop(item)] = None
        if 2 * len(self._places) < len(self._items):
            self._build()

    def _build(self) -> None:
        tops, width = self._tops, self._width
        all_of = [
            (self._starts[place], tops[width + place], item) for item, place in self._places.items()
        ]
        all_of += [(start, end, item) for item, (start, end) in self._fresh.items()]
        all_of.sort(key=lambda one: one[0])
        self._fresh = {}
        self._starts = [start for start, _, _ in all_of]
        self._items = [item for _, _, item in all_of]
        self._places = {item: place for place, (_, _, item) in enumerate(all_of)}
        self._width = width = 1 << max(len(all_of) - 1, 0).bit_length()
        self._tops = tops = [b""] * (2 * width)
        for place, (_, end, _) in enumerate(all_of):
            tops[width + place] = end
        for node in range(width - 1, 0, -1):
            tops[node] = max(tops[2 * node], tops[2 * node + 1])

    def find(self, key: bytes, found: list[T]) -> None:
        """Append the items whose range holds `key`."""
        for item, (start, end) in self._fresh.items():
            if start <= key < end:
                found.append(item)
        limit = bisect_right(self._starts, key)
        if not limit:
            return
        tops, items, width = self._tops, self._items, self._width
        stack = [(1, 0, width)]  # node, its first leaf, how many leaves
        while stack:
            node, first, size = stack.pop()
            if tops[node] <= key:
                continue
            if size == 1:
                item_or_hole = items[first]
                if item_or_hole is not None:
                    found.append(item_or_hole)
                continue
            half = size >> 1
            if first + half < limit:
                stack.append((2 * node + 1, first + half, half))
            stack.append((2 * node, first, half))
