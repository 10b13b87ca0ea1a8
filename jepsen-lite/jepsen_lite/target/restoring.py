"""Processes whose data directories are put back from images: one cluster lives many lives."""

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from jepsen_lite.target.base import TargetError
from jepsen_lite.target.processes import Processes
from jepsen_lite.target.systems import System

EXIT_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.05


class Restorable(Processes):
    """See the module's docstring. directory: as of `Processes`."""

    def __init__(self, members: int, directory: Path) -> None:
        super().__init__(System(), members, directory, flags={"snapshot-count": "100000"})
        self._commands: list[list[str]] = []
        self._said: dict[int, int] = {}  # size of a member's log when its newest life began

    async def start(self) -> None:
        """See Target.start."""
        await super().start()
        self._commands = [list(member.argv) for member in self._members]

    async def restore(self, images: Sequence[Path]) -> None:
        """Kills all members and gives each a copy of its image and its first command."""
        await asyncio.gather(*(self.kill(member) for member in range(self.count)))
        for member, image in enumerate(images):
            place = self.data_dir(member)
            shutil.rmtree(place, ignore_errors=True)
            await asyncio.to_thread(shutil.copytree, image, place, symlinks=True)
            self._members[member].argv = list(self._commands[member])

    async def begin(self) -> None:
        """Starts all members; they need not come up."""
        for member in range(self.count):
            path = self.log_path(member)
            self._said[member] = path.stat().st_size if path is not None and path.exists() else 0
            self._members[member].ends.clear()
            await self.restart(member)

    async def refusal(self, member: int) -> tuple[int, str]:
        """Waits for a member to end by itself: its exit code and what it said in this life.

        Errors: TargetError if it goes on.
        """
        deadline = asyncio.get_running_loop().time() + EXIT_SECONDS
        while self.running(member):
            if asyncio.get_running_loop().time() > deadline:
                raise TargetError(f"member {member} did not refuse its directory")
            await asyncio.sleep(POLL_SECONDS)
        path = self.log_path(member)
        assert path is not None
        text = path.read_bytes()[self._said[member] :].decode(errors="replace")
        return self.ends(member)[-1], text
