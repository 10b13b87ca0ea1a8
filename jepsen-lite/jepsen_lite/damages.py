"""All ways to damage four entries on three members, and what must become of each.

A pattern is four bits: bit k set = entry k is damaged. A combination is one pattern for each
member, 16 ** 3 = 4,096 of them, as in the storage study "Protocol-Aware Recovery for
Consensus-Based Storage" (FAST 2018), whose protocol, CTRL, stays available whenever each entry has
one good copy. Here a member refuses a directory of which a durable part is damaged, and comes back
as a new one with the help of a majority of the others; so availability needs a majority of
members without damage. A member that opens without the last entry instead, as if nobody had been
told of it, is wrong, even where the others still have the entry: two of them may lose it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Final, TypeAlias

ENTRIES: Final = 4
PATTERNS: Final = 1 << ENTRIES
MEMBERS: Final = 3

WHOLE: Final = "whole"  # opens with all entries
SHORT: Final = "short"  # opens without the last entry, which it takes for a torn write: wrong
REFUSED: Final = "refused"

AVAILABLE: Final = "available"
REPAIRED: Final = "available; damaged members come back the documented way"
GAP: Final = "safely unavailable, although each entry has a good copy"
GONE: Final = "safely unavailable, and some entry has no good copy"
LOST: Final = "the last entry may be lost: two members took it for a torn write"
VERDICTS: Final = (AVAILABLE, REPAIRED, GAP, GONE, LOST)

Labels: TypeAlias = tuple[str, ...]  # of members 1, 2, 3
Combination: TypeAlias = tuple[int, ...]  # a pattern for each


def damaged(pattern: int) -> list[int]:
    """The entries that a pattern damages, from 0."""
    return [entry for entry in range(ENTRIES) if pattern >> entry & 1]


def label(refusal: str, kept: Sequence[bool]) -> str:
    """What an opening comes to. ValueError: it is none of what is allowed."""
    if refusal:
        if "raftctl member remove" not in refusal or "raftctl member add" not in refusal:
            raise ValueError(f"a refusal that does not say how to come back: {refusal}")
        return REFUSED
    if all(kept):
        return WHOLE
    if all(kept[:-1]):
        return SHORT
    raise ValueError(f"opened although entries are lost: {list(kept)}")


def combinations() -> list[Combination]:
    """All 4,096."""
    return list(product(range(PATTERNS), repeat=MEMBERS))


def labels_of(combination: Combination, opened: Sequence[Mapping[int, str]]) -> Labels:
    """opened: for each member, the label of each pattern."""
    return tuple(opened[member][pattern] for member, pattern in enumerate(combination))


def verdict_of(combination: Combination, labels: Labels) -> str:
    """What must become of a cluster with this damage: one of `VERDICTS`."""
    up = [one for one in labels if one != REFUSED]
    if 2 * len(up) > MEMBERS:
        if 2 * labels.count(SHORT) > MEMBERS:
            return LOST
        return REPAIRED if REFUSED in labels else AVAILABLE
    good = all(any(not pattern >> entry & 1 for pattern in combination) for entry in range(ENTRIES))
    return GAP if good else GONE


def classes(opened: Sequence[Mapping[int, str]]) -> dict[Labels, list[Combination]]:
    """The combinations of each class of what the members do."""
    found: dict[Labels, list[Combination]] = {}
    for combination in combinations():
        found.setdefault(labels_of(combination, opened), []).append(combination)
    return found


def count(opened: Sequence[Mapping[int, str]]) -> Counter[str]:
    """How many combinations have which verdict."""
    return Counter(verdict_of(one, labels_of(one, opened)) for one in combinations())


def with_good_copies() -> int:
    """Combinations in which each entry has a good copy somewhere: what CTRL can serve."""
    return sum(
        all(any(not pattern >> entry & 1 for pattern in one) for entry in range(ENTRIES))
        for one in combinations()
    )


def short(opened: Sequence[Mapping[int, str]]) -> int:
    """How many openings came up without the last entry; there must be none."""
    return sum(label == SHORT for one in opened for label in one.values())
