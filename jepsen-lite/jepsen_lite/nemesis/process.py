"""Members that vanish and members that stand still."""

from collections.abc import Sequence
from random import Random
from typing import ClassVar, Final

from jepsen_lite.generator import Generator
from jepsen_lite.history import Op
from jepsen_lite.nemesis.base import Nemesis
from jepsen_lite.nemesis.board import board_of
from jepsen_lite.nemesis.episodes import (
    ALL,
    LEADER,
    MINORITY,
    ONE,
    USUAL,
    Lengths,
    drawn,
    episodes,
    nothing,
    victims,
)

NO_LEADER: Final = "no member says that it leads"


class Kill(Nemesis):
    """SIGKILL to one member, the leader, or a minority; they start again at the end."""

    name = "kill"
    summary = "kill -9 of one member, the leader or a minority"
    fs = frozenset({"start-kill", "stop-kill"})
    needs = frozenset({"kill"})
    whom: ClassVar[Sequence[str]] = (ONE, LEADER, MINORITY)
    lengths: ClassVar[Lengths] = USUAL

    def generator(self, random: Random) -> Generator:
        return episodes(self.name, self.whom, random, self.lengths)

    async def invoke(self, op: Op) -> Op:
        board = board_of(self.target)
        if op.f == f"stop-{self.name}":
            return op.done("info", {"started": await board.let_up(self.name)})
        whom, random = drawn(op.value)
        chosen = await victims(self.target, whom, random)
        struck = await board.keep_down(self.name, chosen)
        if not struck:
            return op.done("info", nothing("nobody was running" if chosen else NO_LEADER))
        return op.done("info", {"killed": struck, "what": whom})

    async def heal(self) -> None:
        await board_of(self.target).let_up(self.name)


class KillAll(Kill):
    """SIGKILL to all members at once (D03)."""

    name = "kill-all"
    summary = "kill -9 of all members at once"
    fs = frozenset({"start-kill-all", "stop-kill-all"})
    whom = (ALL,)
    lengths = Lengths(0.3, 1.5, 5.0, 12.0)


class Pause(Nemesis):
    """SIGSTOP to one member, the leader, or a minority (R18); SIGCONT at the end."""

    name = "pause"
    summary = "SIGSTOP and SIGCONT of one member, the leader or a minority"
    fs = frozenset({"start-pause", "stop-pause"})
    needs = frozenset({"pause"})

    def generator(self, random: Random) -> Generator:
        return episodes(self.name, (LEADER, ONE, LEADER, MINORITY), random)

    async def invoke(self, op: Op) -> Op:
        board = board_of(self.target)
        if op.f == "stop-pause":
            return op.done("info", {"resumed": await board.let_go_on(self.name)})
        whom, random = drawn(op.value)
        chosen = await victims(self.target, whom, random)
        struck = await board.keep_paused(self.name, chosen)
        if not struck:
            return op.done("info", nothing("nobody was running" if chosen else NO_LEADER))
        return op.done("info", {"paused": struck, "what": whom})

    async def heal(self) -> None:
        await board_of(self.target).let_go_on(self.name)
