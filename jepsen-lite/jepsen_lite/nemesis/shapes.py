"""Which links a partition cuts, as pure functions of the members.

Every function takes the members, the leader (None if nobody knows one) and random numbers, and
returns the one-way links to cut, as (source, target). Members not named in a shape keep all links.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from random import Random
from typing import Final

Pair = tuple[int, int]
Shape = Callable[[Sequence[int], int | None, Random], frozenset[Pair]]


def between(left: Iterable[int], right: Iterable[int]) -> frozenset[Pair]:
    """Both ways between two sets."""
    others = list(right)
    return frozenset(pair for a in left for b in others if a != b for pair in ((a, b), (b, a)))


def _shuffled(members: Sequence[int], random: Random) -> list[int]:
    mixed = list(members)
    random.shuffle(mixed)
    return mixed


def _leader_or_any(members: Sequence[int], leader: int | None, random: Random) -> int:
    return leader if leader is not None else random.choice(list(members))


def halves(members: Sequence[int], leader: int | None, random: Random) -> frozenset[Pair]:
    """A minority, as large as it can be, and the rest."""
    mixed = _shuffled(members, random)
    small = (len(mixed) - 1) // 2
    return between(mixed[:small], mixed[small:])


def one(members: Sequence[int], leader: int | None, random: Random) -> frozenset[Pair]:
    """One member, any, and the rest (R05)."""
    return between([random.choice(list(members))], members)


def leader_alone(members: Sequence[int], leader: int | None, random: Random) -> frozenset[Pair]:
    """The leader and the rest."""
    return between([_leader_or_any(members, leader, random)], members)


def ring(members: Sequence[int], leader: int | None, random: Random) -> frozenset[Pair]:
    """Everybody hears a majority, no two the same one: the neighbours in a ring.

    With three members everybody has everybody for a neighbour; then one link is cut, so that one
    member hears both others and these hear only it (R08).
    """
    mixed = _shuffled(members, random)
    if len(mixed) <= 3:
        return bridge(members, leader, random)
    reach = (len(mixed) // 2 + 1) // 2  # neighbours on each side that are heard
    heard: set[Pair] = set()
    for place, member in enumerate(mixed):
        for step in range(1, reach + 1):
            heard |= between([member], [mixed[(place + step) % len(mixed)]])
    return between(mixed, mixed) - heard


def bridge(members: Sequence[int], leader: int | None, random: Random) -> frozenset[Pair]:
    """R08: two sides that do not hear each other; one member, the leader, hears everybody."""
    middle = _leader_or_any(members, leader, random)
    rest = _shuffled([member for member in members if member != middle], random)
    half = len(rest) // 2
    return between(rest[:half], rest[half:])


def deaf_leader(members: Sequence[int], leader: int | None, random: Random) -> frozenset[Pair]:
    """R07: the leader can send, and hears nobody."""
    chosen = _leader_or_any(members, leader, random)
    return frozenset((member, chosen) for member in members if member != chosen)


def mute_leader(members: Sequence[int], leader: int | None, random: Random) -> frozenset[Pair]:
    """The leader hears everybody, and nobody hears it."""
    chosen = _leader_or_any(members, leader, random)
    return frozenset((chosen, member) for member in members if member != chosen)


def one_way(members: Sequence[int], leader: int | None, random: Random) -> frozenset[Pair]:
    """A minority hears the rest, which does not hear it; or the other way round."""
    mixed = _shuffled(members, random)
    small = (len(mixed) - 1) // 2
    few, many = mixed[:small], mixed[small:]
    if random.random() < 0.5:
        few, many = many, few
    return frozenset((a, b) for a in few for b in many)


def tails(members: Sequence[int], leader: int | None, random: Random) -> frozenset[Pair]:
    """R09: a full mesh of a majority; each of the others hears only one member of it.

    With five: 1-2-3 hear each other, 4 only 2, 5 only 3. With three: two hear each other, the
    third only one of them.
    """
    mixed = _shuffled(members, random)
    core = len(mixed) // 2 + 1
    cut: frozenset[Pair] = frozenset()
    for place, outer in enumerate(mixed[core:]):
        friend = mixed[(place + 1) % core]
        cut |= between([outer], [other for other in mixed if other != friend])
    return cut


def quorum_loss(members: Sequence[int], leader: int | None, random: Random) -> frozenset[Pair]:
    """R10: one member, not the leader, hears everybody; everybody else hears only that one.

    The leader has no quorum and must step down, and only the member in the middle can win.
    """
    others = [member for member in members if member != leader]
    middle = random.choice(others or list(members))
    rest = [member for member in members if member != middle]
    return between(rest, rest)


def constrained(members: Sequence[int], leader: int | None, random: Random) -> frozenset[Pair]:
    """R10: the leader is cut off from all, the others hear only one member: who may be behind.

    A leader that nobody hears, and a star of the rest; the middle of the star must be elected.
    """
    gone = _leader_or_any(members, leader, random)
    rest = [member for member in members if member != gone]
    middle = random.choice(rest)
    outer = [member for member in rest if member != middle]
    return between([gone], members) | between(outer, outer)


def chain(members: Sequence[int], leader: int | None, random: Random) -> frozenset[Pair]:
    """R10: members in a row; each hears only its neighbours. The leader stands at an end."""
    first = _leader_or_any(members, leader, random)
    row = [first, *_shuffled([member for member in members if member != first], random)]
    heard: frozenset[Pair] = frozenset()
    for left, right in pairwise(row):
        heard |= between([left], [right])
    return between(row, row) - heard


SHAPES: Final[dict[str, Shape]] = {
    "halves": halves,
    "one": one,
    "leader": leader_alone,
    "ring": ring,
    "bridge": bridge,
    "deaf-leader": deaf_leader,
    "mute-leader": mute_leader,
    "one-way": one_way,
    "tails": tails,
    "quorum-loss": quorum_loss,
    "constrained": constrained,
    "chain": chain,
}
