"""Mutants, known-wrong variants of the code, and the hunt for them.

A mutant replaces a function or method of the real code while it is active. `hunt` runs
seeds with a profile that suits the mutant until one fails; a mutant that survives its
budget of seeds means that the simulator cannot see that class of bugs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from raftkv.sim.profiles import (
    LEASES,
    SESSIONS,
    WATCHES,
    Profile,
    draw_profile,
    watch_profile,
)
from raftkv.sim.run import Run, Summary
from raftkv.sim.world import MILLISECOND, SECOND

DEFAULT_SEEDS: Final = 60
VIEWED_SECONDS: Final = 3.0
VIEWERS: Final = 6


@dataclass(frozen=True, slots=True)
class Mutant:
    """name: what it does wrong. patches: (owner, attribute, replacement).

    kinds: the faults that bring it out. seeds: how many it may survive at most.
    """

    name: str
    patches: tuple[tuple[Any, str, Any], ...]
    kinds: tuple[str, ...]
    seeds: int = DEFAULT_SEEDS
    nodes: int = 3
    snapshot_count: int = 0  # 0: as drawn
    reads: bool = False  # mostly reads, asked often
    impatient: bool = False  # members give requests up early
    watched: bool = False  # clients watch and hold leases
    viewed: bool = False  # the load for watches, and more kinds of faults than these
    sessions: int = 0  # clients that repeat writes in sessions
    holders: int = 0  # clients that hold leases; 0: as drawn


@contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    """The real code is replaced inside the block, and only there."""
    originals = [(owner, name, vars(owner)[name]) for owner, name, _ in mutant.patches]
    for owner, name, replacement in mutant.patches:
        setattr(owner, name, replacement)
    try:
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


def profile_of(mutant: Mutant, seed: int) -> Profile:
    """A drawn profile with the faults that bring the mutant out."""
    if mutant.viewed:
        drawn = watch_profile(seed, mutant.nodes, VIEWED_SECONDS)
        return replace(drawn, kinds=mutant.kinds, viewers=VIEWERS)
    without = (SESSIONS,) if mutant.watched else (SESSIONS, WATCHES, LEASES)
    if mutant.sessions:
        without = (WATCHES,)
    drawn = draw_profile(seed, mutant.nodes, seconds=12.0, without=without)
    timing = replace(drawn.timing, tick_us=20 * MILLISECOND)
    if mutant.snapshot_count:
        timing = replace(timing, snapshot_count=mutant.snapshot_count, catch_up_entries=5)
    if mutant.impatient:
        timing = replace(timing, request_timeout_seconds=0.3)
    load = drawn.load
    if mutant.reads:
        load = replace(load, clients=12, think_us=20 * MILLISECOND, get=90, timeout_us=SECOND)
    return replace(
        drawn,
        kinds=mutant.kinds,
        timing=timing,
        load=load,
        sessions=mutant.sessions,
        holders=mutant.holders or drawn.holders,
    )


def hunt(mutant: Mutant) -> tuple[int, Summary]:
    """Runs seeds until one fails. Returns how many it took (0: all passed) and the last run."""
    summary = Summary(-1)
    with applied(mutant):
        for seed in range(mutant.seeds):
            summary = Run(seed, profile_of(mutant, seed)).execute()
            if summary.failure:
                return seed + 1, summary
    return 0, summary
