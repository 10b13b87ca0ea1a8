"""When faults begin and end, and whom they hit: what all nemeses have in common.

An episode is a start, a while, a stop, a while. What is left to chance is drawn before the run
begins, from its seed: the order of variants, the lengths, and a number for each start, from which
`invoke` draws whatever depends on the moment (which member it is that leads).
"""

import asyncio
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Final, NamedTuple

from jepsen_lite.generator import Generator, cycle, once, sleep
from jepsen_lite.target.base import Target, TargetError

ROUNDS: Final = 4  # shuffles of the variants before the same order comes again
LEADER_SECONDS: Final = 3.0  # an election takes less, if one can be won at all
LEADER_POLL_SECONDS: Final = 0.2
ONE, LEADER, MINORITY, ALL = "one", "leader", "minority", "all"


class Lengths(NamedTuple):
    """Seconds: how long a fault lasts, and how long it is quiet behind it."""

    least_fault: float
    most_fault: float
    least_rest: float
    most_rest: float


USUAL: Final = Lengths(1.5, 6.0, 1.0, 5.0)
BRIEF: Final = Lengths(0.3, 3.0, 0.5, 4.0)


def episodes(
    kind: str, variants: Sequence[str], random: Random, lengths: Lengths = USUAL
) -> Generator:
    """Episodes without end; every variant has its turn before one comes again.

    kind: the f's are "start-<kind>" and "stop-<kind>".
    """
    steps: list[Any] = [sleep(random.uniform(0.2, lengths.most_rest))]
    for _ in range(ROUNDS):
        for variant in random.sample(variants, len(variants)):
            steps += [
                once(start(kind, variant, random)),
                sleep(random.uniform(lengths.least_fault, lengths.most_fault)),
                once({"f": f"stop-{kind}"}),
                sleep(random.uniform(lengths.least_rest, lengths.most_rest)),
            ]
    return cycle(steps)


def start(kind: str, variant: str, random: Random) -> Mapping[str, Any]:
    """The operation that begins a fault."""
    return {"f": f"start-{kind}", "value": {"what": variant, "seed": random.getrandbits(32)}}


def drawn(value: Any) -> tuple[str, Random]:
    """(variant, random numbers of this episode) of a start's value."""
    return value["what"], Random(value["seed"])


async def known_leader(target: Target) -> int | None:
    """The leader, where the target can tell it."""
    try:
        return await target.leader()
    except TargetError:
        return None


async def _next_leader(target: Target) -> int | None:
    """The leader; where there is none, for another fault took it, the next one."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + LEADER_SECONDS
    leader = await known_leader(target)
    while leader is None and clock() < deadline:
        await asyncio.sleep(LEADER_POLL_SECONDS)
        leader = await known_leader(target)
    return leader


async def victims(target: Target, whom: str, random: Random) -> list[int]:
    """The members that ONE, LEADER, MINORITY or ALL means now; [] if there is no leader."""
    members = target.present
    if whom == ALL:
        return members
    if whom == MINORITY:
        return sorted(random.sample(members, max((len(members) - 1) // 2, 1)))
    if whom == LEADER:
        leader = await _next_leader(target)
        return [] if leader is None else [leader]
    assert whom == ONE, whom
    return [random.choice(members)]


def nothing(why: str) -> dict[str, str]:
    """The value of a completion when nothing could be done."""
    return {"nothing": why}
