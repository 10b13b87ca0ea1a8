"""Directories that are damaged, lost or old when their member starts again.

One member at a time, and never one of a majority: such a member may have forgotten what it
promised. What it must do is refuse; then it is replaced, the documented way (`recovery`).

The end of a log is the delicate part. A write that was torn looks like the end of a file whose
last bytes are gone; raftkv tells the two apart by its mark, which it writes a second behind. So a
member is cut off from the others before it is killed, until its disk was idle and its mark is up
to date: from then on every byte of its log is one that it promised to keep. Writes that are torn in
truth, before anybody was told of them, are made by the nemesis `disk`.
"""

import asyncio
from pathlib import Path
from random import Random
from typing import Any, Final

from jepsen_lite.generator import Generator
from jepsen_lite.history import Op
from jepsen_lite.nemesis import damage
from jepsen_lite.nemesis.base import Nemesis
from jepsen_lite.nemesis.board import Links, await_serving, board_of
from jepsen_lite.nemesis.disk import ENOUGH
from jepsen_lite.nemesis.episodes import LEADER, ONE, Lengths, drawn, episodes, nothing, victims
from jepsen_lite.nemesis.recovery import Recovery
from jepsen_lite.nemesis.shapes import between
from jepsen_lite.target.base import Target, TargetError

FLIP_LOG, FLIP_STATE, FLIP_MARK = "flip-log", "flip-state", "flip-mark"
CUT, WIPE, STALE = "cut-tail", "wipe", "stale-copy"
QUIET_SECONDS: Final = 3.0  # cut off: leadership ends, the disk is idle, the mark is written
OLD_SECONDS: Final = 10.0  # for a member to serve again after it was copied
_FLIPS: Final = {FLIP_LOG: damage.LOG, FLIP_STATE: damage.STATE, FLIP_MARK: damage.MARK}


class Files(Nemesis):
    """Damages the directory of one member while it is down."""

    name = "files"
    summary = "bit flips, cut tails, wiped and stale directories of one member (it rejoins)"
    fs = frozenset({"start-files", "stop-files"})
    needs = frozenset({"files", "kill", "network", "membership", "disk"})
    variants = (FLIP_LOG, WIPE, FLIP_STATE, STALE, CUT, FLIP_MARK)
    lengths = Lengths(0.5, 3.0, 4.0, 10.0)

    def __init__(self) -> None:
        self._member: int | None = None
        self._copy: Path | None = None

    async def setup(self, target: Target) -> None:
        await super().setup(target)
        if len(target.present) < 3:
            raise TargetError("the nemesis files needs 3 members: it costs one of them")
        self._recovery = Recovery(target, scrub=True)

    def generator(self, random: Random) -> Generator:
        return episodes(self.name, self.variants, random, self.lengths)

    async def invoke(self, op: Op) -> Op:
        if op.f == "stop-files":
            before = self._recovery.take_outcomes()
            value = await self._stop() or nothing("no member was damaged")
            return op.done("info", {**value, "came back before": before})
        await self._stop()
        what, random = drawn(op.value)
        board = board_of(self.target)
        chosen = await victims(self.target, random.choice((ONE, ONE, LEADER)), random)
        if not chosen or not board.may_damage(chosen[0]) or board.is_down(chosen[0]):
            return op.done("info", nothing(ENOUGH))
        (member,) = chosen
        board.damage(self.name, member)
        self._member = member
        await self._silence(member)
        await board.keep_down(self.name, [member])
        done = await asyncio.to_thread(self._harm, what, self.target.data_dir(member), random)
        await board.links(self.name, None)
        if self._copy is not None:  # it goes on, so that its copy grows old
            await board.let_up(self.name)
            if not await await_serving(self.target, member, OLD_SECONDS):
                self._copy = None  # the others may not have met its next life
                done = nothing("it did not serve after it was copied")
        return op.done("info", {"what": what, "member": member, **done})

    async def _silence(self, member: int) -> None:
        board = board_of(self.target)
        cut = between([member], self.target.present)
        await board.links(self.name, Links(cut=cut))
        if self.target.running(member) and not board.is_paused(member):
            await asyncio.sleep(QUIET_SECONDS)

    def _harm(self, what: str, directory: Path, random: Random) -> dict[str, Any]:
        if what == WIPE:
            damage.wipe(directory)
            return {}
        if what == STALE:
            self._copy = damage.keep_copy(directory)
            return {}
        if what == CUT:
            done = damage.cut_tail(directory, random)
        else:
            done = damage.flip_bits(directory, _FLIPS[what], random)
        if not done:
            return nothing("there was no such file yet")
        return {"damage": [one._asdict() for one in done]}

    async def _stop(self) -> dict[str, Any]:
        member, self._member = self._member, None
        if member is None:
            return {}
        board = board_of(self.target)
        await board.links(self.name, None)
        copy, self._copy = self._copy, None
        if copy is not None:
            await board.keep_down(self.name, [member])
            await asyncio.to_thread(damage.put_back, copy, self.target.data_dir(member))
        await board.let_up(self.name)
        self._recovery.begin(member)
        return {"member": member, "started": True}

    async def heal(self) -> None:
        await board_of(self.target).clear()
        await self._stop()
        await self._recovery.finish()
