"""The client library in virtual time: its clocks and its dice are the world's for a while.

The library asks the operating system what time it is and draws ids and pauses from its random
numbers. In a simulated run both must come from the world, or equal seeds would not give equal runs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, Final

from jepsen_lite.target.simchannel import LoopLine
from raftkv.client import keeper, lifetime
from raftkv.client.aio import connection, lease, watch
from raftkv.sim.world import SECOND, World


class _Clock:
    """Of the module `time` what the library asks it. world: whose time it tells."""

    CLOCK_BOOTTIME: Final = 7

    def __init__(self, world: World) -> None:
        self._world = world

    def monotonic(self) -> float:
        """Virtual seconds."""
        return self._world.now_us / SECOND

    def clock_gettime(self, _: int) -> float:
        """The same."""
        return self.monotonic()


class _Dice:
    """Of the module `random` what the library asks it."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.uniform = random.uniform

    def SystemRandom(self) -> Random:  # noqa: N802 - the module's own name
        """The world's."""
        return self._random


@contextmanager
def virtual_client(world: World) -> Iterator[None]:
    """Inside the block clients live in this world, and in no other."""
    clock, dice = _Clock(world), _Dice(world.stream("clients' library"))
    patches: list[tuple[Any, str, Any]] = [
        (lifetime, "time", clock),
        (connection, "time", clock),
        (lease, "random", dice),
        (watch, "random", dice),
        (keeper, "_Line", LoopLine),
    ]
    originals = [(owner, name, vars(owner)[name]) for owner, name, _ in patches]
    for owner, name, replacement in patches:
        setattr(owner, name, replacement)
    try:
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)
