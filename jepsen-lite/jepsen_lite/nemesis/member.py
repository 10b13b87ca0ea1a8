"""Members that come and go: the cluster grows, shrinks, and has members replaced.

A change is a task of its own beside all other faults, so it may meet a partition, a dead member or
no leader at all; whatever step is refused is tried again until it is done. One at a time: operators
of one cluster talk to each other. What becomes of those who were removed, and whether all members
name the same ones at the end, is `checker.members`'s to judge.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import Any, Final

from jepsen_lite.generator import Generator, cycle, once, sleep
from jepsen_lite.history import Op
from jepsen_lite.nemesis.base import Nemesis
from jepsen_lite.nemesis.board import board_of
from jepsen_lite.nemesis.episodes import drawn, known_leader, nothing, start
from jepsen_lite.target.base import Target, TargetError

log = logging.getLogger("jepsen_lite")

GROW, SHRINK, LEADER, REPLACE = "grow", "shrink", "remove-leader", "replace"
DEAD, REJOIN = "replace-dead", "rejoin"
# In this order at first: with it each is possible when its turn comes.
FIRST: Final = (GROW, LEADER, REPLACE, GROW, SHRINK, DEAD, REJOIN)
ROUNDS: Final = 4
RETRY_SECONDS: Final = 0.3
GIVE_UP_SECONDS: Final = 90.0  # for a change, once every fault is over


class Member(Nemesis):
    """R22 to R34 as far as whole processes can meet them."""

    name = "member"
    summary = "members that are added, promoted, removed, replaced, and rejoin"
    fs = frozenset({"start-member", "stop-member"})
    needs = frozenset({"membership", "churn", "kill"})

    def __init__(self) -> None:
        self._change: asyncio.Task[None] | None = None
        self._random = Random(0)
        self._least = 0
        self._stuck = ""
        self._begun: Counter[str] = Counter()
        self._done: Counter[str] = Counter()
        self._told: list[dict[str, Any]] = []  # changes since the newest "stop-member"

    async def setup(self, target: Target) -> None:
        await super().setup(target)
        self._least = len(target.present)

    def generator(self, random: Random) -> Generator:
        steps: list[Any] = []
        for number in range(ROUNDS):
            kinds = FIRST if number == 0 else random.sample(FIRST, len(FIRST))
            for kind in kinds:
                steps += [
                    sleep(random.uniform(0.2, 2.0)),
                    once(start(self.name, kind, random)),
                    sleep(random.uniform(1.5, 5.0)),
                    once({"f": f"stop-{self.name}"}),
                ]
        return cycle(steps)

    async def invoke(self, op: Op) -> Op:
        if op.f == "stop-member":
            told, self._told = self._told, []
            return op.done("info", {"done": told, "members": self.target.present})
        if self._change is not None and not self._change.done():
            return op.done("info", nothing("a change is still under way"))
        self._end_of(self._change)
        what, self._random = drawn(op.value)
        kind = self._possible(what)
        if kind is None:
            return op.done("info", nothing(f"{what}: not here"))
        leader = await known_leader(self.target)
        if kind == LEADER and leader is None:
            return op.done("info", nothing("no member says that it leads"))
        place = leader if kind == LEADER else self._victim(kind, leader)
        assert place is not None
        self._begun[kind] += 1
        self._change = asyncio.create_task(self._carry_out(kind, place))
        return op.done("info", {"what": kind, "member": place})

    def _possible(self, what: str) -> str | None:
        """This kind, or its opposite where there is no more room for it."""
        if what == REJOIN and not self.target.places.rejoins:
            return None
        if what == GROW and not self.target.places.free():
            return SHRINK
        if what == SHRINK and len(self.target.present) <= self._least:
            return GROW
        return what

    def _victim(self, kind: str, leader: int | None) -> int:
        if kind == GROW:
            return self._random.choice(self.target.places.free())
        followers = [one for one in self.target.present if one != leader]
        return self._random.choice(self.target.present if kind == REPLACE else followers)

    # --- changes --------------------------------------------------------------------------
    async def _carry_out(self, kind: str, place: int) -> None:
        began = asyncio.get_running_loop().time()
        few = len(self.target.present) <= self._least
        await self._steps(kind, place, few)
        self._done[kind] += 1
        seconds = round(asyncio.get_running_loop().time() - began, 1)
        log.info("members: %s of place %d took %.1f s", kind, place, seconds)
        self._told.append({"what": kind, "member": place, "seconds": seconds})

    async def _steps(self, kind: str, place: int, few: bool) -> None:
        places, board = self.target.places, board_of(self.target)
        if kind == GROW:
            await self._until(places.admit, place)
            return
        if kind == REJOIN:
            await board.keep_down(self.name, [place])
            await self._undisturbed(place, but=self.name)
            try:
                await self._until(places.lose, place)
            finally:
                await board.let_up(self.name)
            await self._until(places.rejoin, place)
            return
        if kind == DEAD:
            await board.keep_down(self.name, [place])
        try:
            await self._until(places.dismiss, place)
        finally:
            await board.let_up(self.name)
        await self._undisturbed(place)
        await self._until(places.empty, place)
        if kind in (REPLACE, DEAD):
            await self._until(places.admit, place)
        elif kind == LEADER and few:
            await self._until(places.admit, self._random.choice(places.free()))

    async def _until(self, step: Callable[[int], Awaitable[None]], place: int) -> None:
        """Until it is done, however often it is refused."""
        while True:
            try:
                await step(place)
            except TargetError as error:
                self._stuck = str(error)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    async def _undisturbed(self, place: int, but: str = "") -> None:
        """Until no other nemesis keeps the process of this place down or stopped."""
        board = board_of(self.target)
        while board.is_down(place, but=but) or board.is_paused(place):
            await asyncio.sleep(RETRY_SECONDS)

    # --- the end --------------------------------------------------------------------------
    def _end_of(self, change: "asyncio.Task[None] | None") -> None:
        """Raises what a change met that is a bug."""
        if change is not None and change.done() and not change.cancelled():
            change.result()

    async def heal(self) -> None:
        """Lets the change that is under way come to its end. Errors: TargetError, if it does not.

        The other faults are over by then: each nemesis's are taken back here, as one that comes
        later may be what holds the change up.
        """
        change, self._change = self._change, None
        if change is None:
            return
        await board_of(self.target).clear(but=self.name)
        _, late = await asyncio.wait([change], timeout=GIVE_UP_SECONDS)
        if late:
            change.cancel()
            await asyncio.gather(change, return_exceptions=True)
            raise TargetError(f"a change of members does not end; {self._stuck}")
        change.result()

    async def evidence(self) -> Mapping[str, Any]:
        """For the checker of members."""
        found = await self.target.places.evidence()
        counts = {"begun": dict(self._begun), "done": dict(self._done)}
        return {"membership": {**found, **counts}}
