"""How a damaged member comes back: started again, or replaced as its own last words say.

A member that refuses its directory ends, with the reason and the way back in its log: it is to be
removed, added again, and started with an empty directory. That is done here, while other faults go
on; so it may take several attempts, and nothing waits for it but the end of the run.
"""

import asyncio
import logging
from typing import Final

from jepsen_lite.nemesis.board import POLL_SECONDS, board_of, serves
from jepsen_lite.target.base import Target, TargetError
from raftkv.pb import rpc_pb2
from raftkv.testing import probe

log = logging.getLogger("jepsen_lite")

HASH_KV: Final = "/etcdserverpb.Maintenance/HashKV"
REFUSALS: Final = 2  # ends by itself, one after the other
SILENT_SECONDS: Final = 15.0  # runs, is disturbed by nobody, and does not serve
RETRY_SECONDS: Final = 0.5
SCRUB_SECONDS: Final = 10.0
GIVE_UP_SECONDS: Final = 90.0


class Recovery:
    """The coming back of the members that one nemesis damages.

    scrub: read all of a member's rows before it is called well, so that damage that nobody has
    met by then is met.
    """

    def __init__(self, target: Target, *, scrub: bool = False) -> None:
        self._target = target
        self._board = board_of(target)
        self._scrub = scrub
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self.outcomes: list[dict[str, object]] = []  # since they were last taken

    def begin(self, member: int) -> None:
        """Brings this member back, beside everything else."""
        task = self._tasks.get(member)
        if task is None or task.done():
            self._tasks[member] = asyncio.create_task(self._bring_back(member))

    def take_outcomes(self) -> list[dict[str, object]]:
        """How members came back since the last time."""
        found, self.outcomes = self.outcomes, []
        return found

    async def finish(self) -> None:
        """Returns when all are back. Errors: TargetError."""
        tasks, self._tasks = self._tasks, {}
        if not tasks:
            return
        _, late = await asyncio.wait(tasks.values(), timeout=GIVE_UP_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        if late:
            members = sorted(member for member, task in tasks.items() if task in late)
            raise TargetError(f"damaged members {members} do not come back")
        for task in tasks.values():
            task.result()

    async def _bring_back(self, member: int) -> None:
        how = "restarted"
        while not await self._well(member):
            how = "replaced"
            log.info("member %d is removed, added and started with an empty directory", member)
            try:
                await self._target.kill(member)
                await self._target.replace(member)
            except TargetError as error:  # no majority just now, perhaps
                log.info("member %d cannot be replaced now: %s", member, error)
                await asyncio.sleep(RETRY_SECONDS)
        self._board.recovered(member)
        self.outcomes.append({"member": member, "came back": how})

    async def _well(self, member: int) -> bool:
        """Waits until it serves; False when it must be replaced."""
        target, board = self._target, self._board
        loop = asyncio.get_running_loop()
        refusals, calm_since = 0, loop.time()
        kills = board.kills.get(member, 0)
        started = target.running(member)
        while True:
            if board.is_down(member) or board.is_paused(member):
                calm_since = loop.time()
            elif not target.running(member):
                if started and board.kills.get(member, 0) == kills:
                    refusals += 1
                    if refusals >= REFUSALS:
                        return False
                kills, started = board.kills.get(member, 0), True
                await target.restart(member)
                calm_since = loop.time()
            elif await serves(target, member):
                if not self._scrub or await self._reads_everything(member):
                    return True
            elif loop.time() - calm_since > SILENT_SECONDS and await self._majority_serves(member):
                return False
            await asyncio.sleep(POLL_SECONDS)

    async def _reads_everything(self, member: int) -> bool:
        """Has the member read all rows of keys; False if it ended over that, or was disturbed."""
        host, _, port = self._target.endpoints[member].rpartition(":")
        try:
            await asyncio.to_thread(_read_all, (host, int(port)))
        except probe.CallFailed:
            return False
        return True

    async def _majority_serves(self, member: int) -> bool:
        """Whether the others could have it among them: then its silence is its own."""
        others = [one for one in self._target.present if one != member]
        answers = await asyncio.gather(*(serves(self._target, one) for one in others))
        return sum(answers) > len(self._target.present) // 2


def _read_all(address: tuple[str, int]) -> None:
    """Errors: CallFailed."""
    request, answer = rpc_pb2.HashKVRequest(), rpc_pb2.HashKVResponse
    probe.call(address, HASH_KV, request, answer, SCRUB_SECONDS)
