"""What all nemeses of a run have done to one target: so that they can overlap.

Two nemeses may want the same member down, or the same link cut. Each notes here what it wants,
under its own name, and takes it back under that name; what the target is told is what all of them
want together. So one that ends leaves the faults of the others as they are. (All links are open
for a moment while their faults are put together anew: what was held passes then.)

A member that was damaged (its disk lied, its directory was changed or lost) may have forgotten
what it promised. The cluster survives that of a minority at a time; so the next one is damaged
only when the last has its part of the log again.
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

from jepsen_lite.target.base import Target
from raftkv.client.aio import Client
from raftkv.client.errors import ClientError

Pair = tuple[int, int]
POLL_SECONDS: Final = 0.1
READ_SECONDS: Final = 1.0
WELL_SECONDS: Final = 60.0  # for a member to serve again; then it is taken for lost


class Links(NamedTuple):
    """What one nemesis wants of the links, by (source, target)."""

    cut: frozenset[Pair] = frozenset()
    delay_seconds: Mapping[Pair, float] = {}
    loss: Mapping[Pair, float] = {}


class Board:
    """The wishes of all nemeses for one target; get it by `board_of`."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._links: dict[str, Links] = {}
        self._applying = asyncio.Lock()
        self._down: dict[str, frozenset[int]] = {}
        self._paused: dict[str, frozenset[int]] = {}
        self._damaged: dict[int, str] = {}  # by whom
        self.kills: dict[int, int] = {}  # by member: how often somebody wanted it down

    # --- links ------------------------------------------------------------------

    async def links(self, owner: str, wish: Links | None) -> None:
        """What `owner` wants of the links from now on; None: nothing. Errors: TargetError."""
        if wish is None and owner not in self._links:
            return
        if wish is None:
            del self._links[owner]
        else:
            self._links[owner] = wish
        await self._apply()

    async def _apply(self) -> None:
        async with self._applying:  # those that flap change links by themselves
            await asyncio.to_thread(self._apply_links, tuple(self._links.values()))

    def _apply_links(self, wishes: tuple[Links, ...]) -> None:
        network = self._target.network
        network.heal()
        delays: dict[Pair, float] = {}
        losses: dict[Pair, float] = {}
        for wish in wishes:
            for pair in sorted(wish.cut):
                network.cut([pair[0]], [pair[1]])
            for pair, seconds in wish.delay_seconds.items():
                delays[pair] = delays.get(pair, 0.0) + seconds
            for pair, share in wish.loss.items():
                losses[pair] = max(losses.get(pair, 0.0), share)
        for (source, sink), seconds in delays.items():
            network.delay([source], [sink], seconds)
        for (source, sink), share in losses.items():
            network.loss([source], [sink], share)

    async def clear(self, but: str = "") -> None:
        """Takes back what everybody wants, when the faults of a run are over. but: not this one."""
        if self._links:
            self._links.clear()
            await self._apply()
        for owner in list(self._paused):
            await self.let_go_on(owner)
        for owner in list(self._down):
            if owner != but:
                await self.let_up(owner)

    # --- processes --------------------------------------------------------------

    async def keep_down(self, owner: str, members: Iterable[int]) -> list[int]:
        """Kills these members; nobody starts them before `let_up`. Returns who was running."""
        chosen = frozenset(members)
        struck = [one for one in sorted(chosen) if self._target.running(one)]
        for one in chosen:
            self.kills[one] = self.kills.get(one, 0) + 1
        self._down[owner] = self._down.get(owner, frozenset()) | chosen
        await asyncio.gather(*(self._target.kill(one) for one in sorted(chosen)))
        return struck

    async def let_up(self, owner: str) -> list[int]:
        """Starts the members that only `owner` kept down. Returns them."""
        mine = self._down.pop(owner, frozenset())
        free = [one for one in sorted(mine) if not self.is_down(one)]
        for one in free:
            await self._target.restart(one)
        return free

    def is_down(self, member: int, but: str = "") -> bool:
        """Whether some nemesis keeps it down. but: another one than this."""
        return any(member in members for owner, members in self._down.items() if owner != but)

    async def keep_paused(self, owner: str, members: Iterable[int]) -> list[int]:
        """Stops these members until `let_go_on`. Returns who was running."""
        chosen = frozenset(members)
        struck = [one for one in sorted(chosen) if self._target.running(one)]
        self._paused[owner] = self._paused.get(owner, frozenset()) | chosen
        await asyncio.gather(*(self._target.pause(one) for one in struck))
        return struck

    async def let_go_on(self, owner: str) -> list[int]:
        """Lets the members go on that only `owner` had stopped. Returns them."""
        mine = self._paused.pop(owner, frozenset())
        free = [one for one in sorted(mine) if not self.is_paused(one)]
        for one in free:
            await self._target.resume(one)
        return free

    def is_paused(self, member: int) -> bool:
        """Whether some nemesis keeps it standing still."""
        return any(member in members for members in self._paused.values())

    # --- damage -----------------------------------------------------------------

    @property
    def damaged(self) -> frozenset[int]:
        """Members that may lack what they promised to have."""
        return frozenset(self._damaged)

    def may_damage(self, member: int) -> bool:
        """Whether a majority would be left that has lost nothing."""
        return len(self.damaged | {member}) <= (len(self._target.present) - 1) // 2

    def damage(self, owner: str, member: int) -> None:
        """Notes that `owner` damages this member now; ask `may_damage` before."""
        assert self.may_damage(member), "a majority would have lost something"
        self._damaged[member] = owner

    def recovered(self, member: int) -> None:
        """It serves again and has what it must have."""
        self._damaged.pop(member, None)

    def damaged_by(self, owner: str) -> list[int]:
        """The members that this nemesis has damaged and that are not well again."""
        return sorted(one for one, by in self._damaged.items() if by == owner)


_boards: "WeakKeyDictionary[Target, Board]" = WeakKeyDictionary()


def board_of(target: Target) -> Board:
    """The one board of this target."""
    board = _boards.get(target)
    if board is None:
        board = _boards[target] = Board(target)
    return board


async def serves(target: Target, member: int, *, timeout_seconds: float = READ_SECONDS) -> bool:
    """Whether it answers a linearizable read: then it has applied what is committed."""
    if not target.running(member):
        return False
    try:
        async with Client(
            target.endpoints[member], timeout=timeout_seconds, dial_timeout=timeout_seconds
        ) as client:
            await client.get("jepsen-lite/is-anybody-there")
    except ClientError:
        return False
    return True


async def await_serving(target: Target, member: int, seconds: float = WELL_SECONDS) -> bool:
    """Waits until this member serves; False if it ends by itself or takes too long."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while loop.time() < until:
        if not target.running(member):
            return False
        if await serves(target, member):
            return True
        await asyncio.sleep(POLL_SECONDS)
    return False


async def await_end(target: Target, member: int, seconds: float) -> bool:
    """Waits until this member has no process; False if it still has one."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while target.running(member):
        if loop.time() >= until:
            return False
        await asyncio.sleep(0.02)
    return True
