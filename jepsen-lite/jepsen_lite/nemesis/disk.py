"""Disks that are slow, hang, fail and are full; writes that are torn.

Slow and hanging syncs hit anybody and cost nobody. A failed sync, a full disk and a torn write end
the member; it starts again when the disk is well, and such faults hit a minority at a time only.
"""

from random import Random
from typing import Any, Final

from jepsen_lite.generator import Generator
from jepsen_lite.history import Op
from jepsen_lite.nemesis.base import Nemesis
from jepsen_lite.nemesis.board import board_of
from jepsen_lite.nemesis.episodes import (
    ALL,
    LEADER,
    MINORITY,
    ONE,
    drawn,
    episodes,
    nothing,
    victims,
)
from jepsen_lite.nemesis.process import NO_LEADER
from jepsen_lite.nemesis.recovery import Recovery
from jepsen_lite.target.base import Target, TargetError

SLOW, HANG, EIO_ONCE, EIO, FULL, TORN = (
    "fsync-slow",
    "fsync-hang",
    "fsync-eio-once",
    "fsync-eio",
    "enospc",
    "torn-write",
)
DELAYS: Final = (0.005, 0.02, 0.1, 0.5, 2.0)
NOBODY: Final = "no chosen member could be told"
ENOUGH: Final = "another damaged member is not well yet"


class Disk(Nemesis):
    """Faults of the members' disks, made by fault points within their processes."""

    name = "disk"
    summary = "slow and hanging fsync, EIO, ENOSPC, torn writes (injected)"
    fs = frozenset({"start-disk", "stop-disk"})
    needs = frozenset({"disk", "kill"})
    variants = (SLOW, HANG, EIO_ONCE, FULL, TORN, SLOW, EIO)

    def __init__(self) -> None:
        self._told: set[int] = set()

    async def setup(self, target: Target) -> None:
        await super().setup(target)
        self._recovery = Recovery(target)

    def generator(self, random: Random) -> Generator:
        return episodes(self.name, self.variants, random)

    async def invoke(self, op: Op) -> Op:
        if op.f == "stop-disk":
            struck = await self._stop()
            came_back = self._recovery.take_outcomes()
            return op.done("info", {"struck": struck, "came back before": came_back})
        await self._stop()
        what, random = drawn(op.value)
        if what in (SLOW, HANG):
            whom = random.choice((ONE, LEADER, MINORITY, ALL) if what == SLOW else (ONE, LEADER))
            return await self._begin(op, what, await victims(self.target, whom, random), random)
        board = board_of(self.target)
        chosen = await victims(self.target, random.choice((ONE, LEADER)), random)
        chosen = [one for one in chosen if board.may_damage(one)]
        if not chosen:
            return op.done("info", nothing(ENOUGH))
        return await self._begin(op, what, chosen, random)

    async def _begin(self, op: Op, what: str, members: list[int], random: Random) -> Op:
        if not members:
            return op.done("info", nothing(NO_LEADER))
        command = _command(what, random)
        board = board_of(self.target)
        told = []
        for member in members:
            if not self.target.running(member) or board.is_paused(member):
                continue
            if what not in (SLOW, HANG):
                board.damage(self.name, member)
            self._told.add(member)  # it may have heard, also if the answer is lost
            try:
                await self.target.control(member).send(command)
            except TargetError:
                continue
            told.append(member)
        return op.done("info", {"members": told, **command} if told else nothing(NOBODY))

    async def _stop(self) -> dict[str, Any]:
        """Ends the faults; returns what has struck, by member, as far as members can be asked."""
        struck: dict[str, Any] = {}
        board = board_of(self.target)
        for member in sorted(self._told):
            if self.target.running(member):
                try:
                    answer = await self.target.control(member).send({"heal": "disk"})
                    struck[str(member)] = answer["struck"]
                except TargetError:
                    # It starts, stands still or ends. A new process has a disk that is well.
                    await self.target.kill(member)
                    board.kills[member] = board.kills.get(member, 0) + 1
            if not self.target.running(member):
                struck.setdefault(str(member), "it has ended")
            if member in board.damaged_by(self.name):
                self._recovery.begin(member)
            elif not self.target.running(member) and not board.is_down(member):
                await self.target.restart(member)
        self._told.clear()
        return struck

    async def heal(self) -> None:
        await board_of(self.target).clear()
        await self._stop()
        await self._recovery.finish()


def _command(what: str, random: Random) -> dict[str, Any]:
    if what == SLOW:
        return {"fault": "fsync-delay", "seconds": random.choice(DELAYS)}
    if what == EIO_ONCE:
        return {"fault": "fsync-eio", "times": 1}
    return {"fault": what}
