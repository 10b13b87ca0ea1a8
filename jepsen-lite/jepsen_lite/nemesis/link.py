"""Links that are slow, and links that lose.

Members speak TCP, which hides loss: what was lost is sent again, late, and everything behind it
waits for it. So on a user-space proxy a loss is exactly that: a chunk of bytes that stalls for the
kernel's resend time, and its connection with it. What an application can see of lost packets is
all there; `netem` (with root) loses true packets.
"""

from random import Random
from typing import Final

from jepsen_lite.generator import Generator
from jepsen_lite.history import Op
from jepsen_lite.nemesis.base import Nemesis
from jepsen_lite.nemesis.board import Links, board_of
from jepsen_lite.nemesis.episodes import drawn, episodes, known_leader
from jepsen_lite.nemesis.partition import listed
from jepsen_lite.nemesis.shapes import Pair, between

_LEADER, _ALL, _ONE_WAY = "leader", "all", "one-way"
WHICH: Final = (_ALL, _LEADER, _ONE_WAY)


def _links(members: list[int], leader: int | None, which: str, random: Random) -> frozenset[Pair]:
    if which == _ALL:
        return between(members, members)
    chosen = leader if leader is not None else random.choice(members)
    if which == _LEADER:
        return between([chosen], members)
    source = random.choice(members)
    return frozenset((source, other) for other in members if other != source)


class Slow(Nemesis):
    """Everything on some links arrives later, by up to half a second."""

    name = "slow"
    summary = "links with a latency of 10 to 500 ms"
    fs = frozenset({"start-slow", "stop-slow"})
    needs = frozenset({"network", "latency"})

    def generator(self, random: Random) -> Generator:
        return episodes(self.name, WHICH, random)

    async def invoke(self, op: Op) -> Op:
        board = board_of(self.target)
        if op.f == "stop-slow":
            await board.links(self.name, None)
            return op.done("info", {"healed": self.name})
        which, random = drawn(op.value)
        pairs = _links(self.target.present, await known_leader(self.target), which, random)
        seconds = round(random.choice((0.01, 0.03, 0.1, 0.2, 0.5)) * random.uniform(0.7, 1.0), 3)
        await board.links(self.name, Links(delay_seconds=dict.fromkeys(sorted(pairs), seconds)))
        return op.done("info", {"what": which, "seconds": seconds, "links": listed(pairs)})

    async def heal(self) -> None:
        await board_of(self.target).links(self.name, None)


class Loss(Nemesis):
    """A share of what is sent on some links is lost (R12): it stalls until it is sent again."""

    name = "loss"
    summary = "links that lose 1 to 30 % (over TCP: stalls of its resend time)"
    fs = frozenset({"start-loss", "stop-loss"})
    needs = frozenset({"network", "latency"})

    def generator(self, random: Random) -> Generator:
        return episodes(self.name, WHICH, random)

    async def invoke(self, op: Op) -> Op:
        board = board_of(self.target)
        if op.f == "stop-loss":
            await board.links(self.name, None)
            return op.done("info", {"healed": self.name})
        which, random = drawn(op.value)
        pairs = _links(self.target.present, await known_leader(self.target), which, random)
        share = random.choice((0.01, 0.05, 0.1, 0.3))
        await board.links(self.name, Links(loss=dict.fromkeys(sorted(pairs), share)))
        return op.done("info", {"what": which, "share": share, "links": listed(pairs)})

    async def heal(self) -> None:
        await board_of(self.target).links(self.name, None)
