"""Links that are cut: partitions of many shapes, and links that flap."""

import asyncio
from random import Random
from typing import Final

from jepsen_lite.generator import Generator
from jepsen_lite.history import Op
from jepsen_lite.nemesis.base import Nemesis
from jepsen_lite.nemesis.board import Links, board_of
from jepsen_lite.nemesis.episodes import drawn, episodes, known_leader, nothing
from jepsen_lite.nemesis.shapes import SHAPES, Pair

LEAST_FLAP_SECONDS: Final = 0.3
MOST_FLAP_SECONDS: Final = 2.0
WHOLE_MEMBERS: Final = ("leader", "one")  # shapes that leave a member no link at all


class Partition(Nemesis):
    """Silence on some links until the end of the episode (shapes: `nemesis.shapes`).

    Where links cannot be cut one by one, whole members are cut off, whatever shape was drawn.
    """

    name = "partition"
    summary = "partitions: halves, ring, one-way, leader isolated, partial meshes (R07 to R10)"
    fs = frozenset({"start-partition", "stop-partition"})
    needs = frozenset({"isolation"})

    def generator(self, random: Random) -> Generator:
        return episodes(self.name, tuple(SHAPES), random)

    async def invoke(self, op: Op) -> Op:
        board = board_of(self.target)
        if op.f == "stop-partition":
            await board.links(self.name, None)
            return op.done("info", {"healed": self.name})
        what, random = drawn(op.value)
        if "network" not in self.target.abilities:
            what = random.choice(WHOLE_MEMBERS)
        leader = await known_leader(self.target)
        cut = SHAPES[what](self.target.present, leader, random)
        if not cut:
            return op.done("info", nothing("there are too few members for this shape"))
        await board.links(self.name, Links(cut=cut))
        return op.done("info", {"what": what, "leader": leader, "cut": listed(cut)})

    async def heal(self) -> None:
        await board_of(self.target).links(self.name, None)


class Flap(Nemesis):
    """R11: links that come and go every half to two election timeouts, another shape each time."""

    name = "flap"
    summary = "links that flap every 0.3 to 2 seconds"
    fs = frozenset({"start-flap", "stop-flap"})
    needs = frozenset({"network"})

    def __init__(self) -> None:
        self._flapping: asyncio.Task[None] | None = None
        self._cuts = 0

    def generator(self, random: Random) -> Generator:
        return episodes(self.name, ("any", "leader", "one-way"), random)

    async def invoke(self, op: Op) -> Op:
        if op.f == "stop-flap":
            cuts = self._cuts
            await self.heal()
            return op.done("info", {"cuts": cuts})
        await self.heal()
        what, random = drawn(op.value)
        self._cuts = 0
        self._flapping = asyncio.create_task(self._flap(what, random))
        return op.done("info", {"what": what})

    async def _flap(self, what: str, random: Random) -> None:
        board = board_of(self.target)
        while True:
            shape = random.choice(list(SHAPES)) if what == "any" else what
            leader = await known_leader(self.target)
            cut = SHAPES[shape](self.target.present, leader, random)
            await board.links(self.name, Links(cut=cut))
            self._cuts += 1
            await asyncio.sleep(random.uniform(LEAST_FLAP_SECONDS, MOST_FLAP_SECONDS))
            await board.links(self.name, None)
            await asyncio.sleep(random.uniform(LEAST_FLAP_SECONDS, MOST_FLAP_SECONDS))

    async def heal(self) -> None:
        flapping, self._flapping = self._flapping, None
        if flapping is not None:
            flapping.cancel()
            await asyncio.gather(flapping, return_exceptions=True)
        await board_of(self.target).links(self.name, None)


def listed(cut: frozenset[Pair]) -> list[str]:
    """The links for people: "0>1"; both ways as "0-1"."""
    both = {(a, b) for a, b in cut if a < b and (b, a) in cut}
    single = {(a, b) for a, b in cut if (a, b) not in both and (b, a) not in both}
    return [f"{a}-{b}" for a, b in sorted(both)] + [f"{a}>{b}" for a, b in sorted(single)]
