"""Clocks that jump, drift and strobe.

Each member has two clocks of its own (`member.clocks`). The wall clock may do anything (R20: it
decides nothing). The monotonic clock counts Raft's ticks and leases; it never goes back. Its rate
strays by a tenth at most, far more than a kernel allows; its jumps are what a resumed virtual
machine sees. What was done to which clock is in the completion: whoever judges times of leases
must know.
"""

import asyncio
from random import Random
from typing import Any, Final

from jepsen_lite.generator import Generator
from jepsen_lite.history import Op
from jepsen_lite.nemesis.base import Nemesis
from jepsen_lite.nemesis.episodes import ONE, drawn, episodes, nothing, victims
from jepsen_lite.target.base import TargetError

JUMP, DRIFT, STROBE, WALL = "jump", "drift", "strobe", "wall-jump"
DRIFTS: Final = (0.9, 0.95, 1.05, 1.1)
JUMPS: Final = (0.3, 1.0, 5.0)
WALL_JUMPS: Final = (-3600.0, -60.0, -1.0, 1.0, 60.0, 3600.0)
STROBE_SECONDS: Final = 0.05


class Clock(Nemesis):
    """Bends the clocks of some members."""

    name = "clock"
    summary = "clocks of members jump, drift by 10 % and strobe (injected, no libfaketime)"
    fs = frozenset({"start-clock", "stop-clock"})
    needs = frozenset({"clock"})

    def __init__(self) -> None:
        self._bent: set[int] = set()
        self._strobing: asyncio.Task[None] | None = None
        self._strobes = 0

    def generator(self, random: Random) -> Generator:
        return episodes(self.name, (JUMP, DRIFT, WALL, STROBE), random)

    async def invoke(self, op: Op) -> Op:
        if op.f == "stop-clock":
            bent, strobes = sorted(self._bent), self._strobes
            await self.heal()
            return op.done("info", {"healed": bent, "strobes": strobes})
        await self.heal()
        what, random = drawn(op.value)
        if what == STROBE:
            return await self._strobe(op, random)
        done = []
        for member in self._chosen(random):
            command = _command(what, random)
            if await self._tell(member, command):
                done.append({"member": member, **command})
        return op.done("info", {"what": what, "bent": done} if done else nothing(NOBODY))

    def _chosen(self, random: Random) -> list[int]:
        """One member or more: in a cluster all clocks may be wrong, each in its own way."""
        present = self.target.present
        return sorted(random.sample(present, random.randint(1, len(present))))

    async def _tell(self, member: int, command: dict[str, Any]) -> bool:
        if not self.target.running(member):
            return False
        try:
            await self.target.control(member).send(command)
        except TargetError:  # it starts or stands still
            return False
        self._bent.add(member)
        return True

    async def _strobe(self, op: Op, random: Random) -> Op:
        """The wall clock of one member goes back and forth, many times a second."""
        (member,) = await victims(self.target, ONE, random)
        seconds = random.choice((0.2, 60.0))
        self._strobes = 0
        if not await self._tell(member, _wall(seconds)):
            return op.done("info", nothing(NOBODY))
        self._strobing = asyncio.create_task(self._swing(member, seconds))
        return op.done("info", {"what": STROBE, "member": member, "seconds": seconds})

    async def _swing(self, member: int, seconds: float) -> None:
        while True:
            seconds = -seconds
            await asyncio.sleep(STROBE_SECONDS)
            if await self._tell(member, _wall(seconds)):
                self._strobes += 1

    async def heal(self) -> None:
        strobing, self._strobing = self._strobing, None
        if strobing is not None:
            strobing.cancel()
            await asyncio.gather(strobing, return_exceptions=True)
        for member in sorted(self._bent):
            # A member that has started anew has true clocks.
            await self._tell(member, {"heal": "clocks"})
        self._bent.clear()


NOBODY: Final = "no chosen member could be told"


def _wall(seconds: float) -> dict[str, Any]:
    return {"clock": "jump", "seconds": seconds, "which": "wall"}


def _command(what: str, random: Random) -> dict[str, Any]:
    if what == WALL:
        return _wall(random.choice(WALL_JUMPS))
    if what == JUMP:
        return {"clock": "jump", "seconds": random.choice(JUMPS), "which": "monotonic"}
    assert what == DRIFT, what
    return {"clock": "rate", "rate": random.choice(DRIFTS), "which": "monotonic"}
