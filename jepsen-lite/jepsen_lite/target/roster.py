"""Places of processes that are emptied and taken again: members removed, added, coming back anew.

What is done here is what an operator does with `raftctl member remove`, `add`, `promote` and, after
the loss of a disk, `raftkv serve --rejoin`; of etcd the same calls. Every step looks at the member
table first and goes on from there, so one whose answer was lost is no other one.

Who has been removed must notice that and end by itself: raftkv with its own exit code (16), also if
it was down and is started again. Its number (member id) must never be seen again; all numbers are
kept for the checker of members.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from jepsen_lite.target.base import TargetError
from jepsen_lite.target.process import MemberProcess
from jepsen_lite.target.replacing import emptied
from raftkv.client.aio import Client
from raftkv.client.errors import ClientError, MemberExists, MemberNotFound
from raftkv.client.results import Member

if TYPE_CHECKING:
    from jepsen_lite.target.processes import Processes

CALL_SECONDS: Final = 5.0
END_SECONDS: Final = 40.0  # for a removed member to notice that it is one
POLL_SECONDS: Final = 0.05


@dataclass(slots=True)
class _Life:
    """One member. number: its id. process: its own. dismissed: it was removed. ends: how often its
    process had ended by itself before that. lost: a number that it had before its disk was lost."""

    number: int
    process: MemberProcess
    dismissed: bool = False
    ends: int = 0
    lost: int = 0


class Roster:
    """The `base.Places` of a cluster of processes. numbers: of its first members, by place."""

    def __init__(self, target: "Processes", numbers: Mapping[int, int]) -> None:
        self.rejoins = target.member_system.rejoins
        self._target = target
        self._lives = {
            place: _Life(number, target.process(place)) for place, number in numbers.items()
        }
        self._names = {target.place(place).peer_url: target.place(place).name for place in numbers}
        self._numbers = list(numbers.values())  # all that there ever were
        self._removed: list[dict[str, Any]] = []

    def free(self) -> list[int]:
        """See Places."""
        return [place for place in range(self._target.count) if place not in self._lives]

    def present(self) -> list[int]:
        """The places of members that nobody has dismissed."""
        return sorted(place for place, life in self._lives.items() if not life.dismissed)

    # --- coming and going ---------------------------------------------------------
    async def admit(self, place: int) -> None:
        """See Places."""
        url = self._target.place(place).peer_url
        async with self._client(self.present(), f"no member can be added at {url}") as client:
            members = list(await client.members())
            known = _at(members, url)
            if known is None:
                try:
                    known, table = await client.member_add([url], is_learner=True)
                except MemberExists:  # an attempt before this one came through just now
                    raise TargetError(f"{url} was added a moment ago") from None
                members = list(table)
            life = self._lives.get(place)
            if life is None or life.number != known.id:
                life = self._begin(place, known.id, members)
            if known.is_learner:
                if not life.process.argv[-1].startswith("--auto-promote"):
                    await client.member_promote(known.id)
                raise TargetError(f"{life.process.name} is a learner yet")

    def _begin(self, place: int, number: int, members: Sequence[Member]) -> _Life:
        """A new member lives at this place from now on."""
        target = self._target
        target.learn(number, place)
        fresh = target.another_name(place)
        url = target.place(place).peer_url
        self._names[url] = fresh
        self._numbers.append(number)
        promotes_itself = self.rejoins and len(self._numbers) % 2 == 0
        process = target.anew(
            place,
            fresh,
            self._cluster(members),
            ["--initial-cluster-state=existing", *["--auto-promote"] * promotes_itself],
        )
        life = self._lives[place] = _Life(number, process)
        process.start()
        return life

    def _cluster(self, members: Sequence[Member]) -> str:
        return ",".join(
            f"{self._names.get(url, member.name)}={url}"
            for member in members
            for url in member.peer_urls
        )

    async def dismiss(self, place: int) -> None:
        """See Places."""
        life, url = self._lives[place], self._target.place(place).peer_url
        if life.dismissed:
            return
        self._target.running(place)
        life.ends = len(life.process.ends)
        others = [one for one in self.present() if one != place]
        async with self._client(others, f"{life.process.name} cannot be removed") as client:
            known = _at(await client.members(), url)
            if known is not None:
                assert known.id == life.number, "nobody else changes the membership"
                with suppress(MemberNotFound):  # an attempt whose answer was lost
                    await client.member_remove(known.id)
        life.dismissed = True

    async def empty(self, place: int) -> None:
        """See Places. One of etcd that does not notice is killed: etcd promises nothing there."""
        life = self._lives[place]
        assert life.dismissed, "who is a member does not end"
        process = life.process
        deadline = asyncio.get_running_loop().time() + END_SECONDS
        code: int | None = None
        while True:
            if not process.running:
                if len(process.ends) > life.ends:
                    code = process.ends[-1]
                    break
                process.start()
            elif asyncio.get_running_loop().time() > deadline:
                await process.kill()
                break
            await asyncio.sleep(POLL_SECONDS)
        self._note_removed(life.number, process.name, code)
        del self._lives[place]

    async def lose(self, place: int) -> None:
        """See Places."""
        life, target = self._lives[place], self._target
        members = await self._table_of_others(place)
        assert not life.process.running, "its disk is lost while it is down"
        life.lost = life.number
        await asyncio.to_thread(emptied, target.data_dir(place))
        ways = ["--rejoin", "--auto-promote"]
        life.process = target.anew(place, life.process.name, self._cluster(members), ways)
        life.process.start()

    async def rejoin(self, place: int) -> None:
        """See Places."""
        life, target = self._lives[place], self._target
        known = _at(await self._table_of_others(place), target.place(place).peer_url)
        if not life.process.running and life.process.ends:
            life.process.ends.clear()  # refused for now: the leader takes the old one for alive
            life.process.start()
        if known is not None and known.id != life.number:
            if life.number != life.lost:  # it was killed before it had a directory again
                self._note_removed(life.number, life.process.name, None, disk_lost=True)
            life.number = known.id
            self._numbers.append(known.id)
            target.learn(known.id, place)
        if known is None or known.id == life.lost or known.is_learner:
            raise TargetError(f"{life.process.name} is no voter again yet")
        self._note_removed(life.lost, life.process.name, None, disk_lost=True)
        life.lost = 0

    async def _table_of_others(self, place: int) -> list[Member]:
        others = [one for one in self.present() if one != place]
        name = self._lives[place].process.name
        async with self._client(others, f"{name} cannot rejoin") as client:
            return list(await client.members())

    def _note_removed(
        self, number: int, name: str, code: int | None, *, disk_lost: bool = False
    ) -> None:
        self._removed.append(
            {"number": f"{number:x}", "name": name, "code": code, "disk lost": disk_lost}
        )

    # --- what there was -----------------------------------------------------------
    async def evidence(self) -> Mapping[str, Any]:
        """See Places."""
        tables: dict[str, Any] = {}
        for place in self.present():
            async with self._client([place], "the member table cannot be read") as client:
                members = await client.members(linearizable=False)
            tables[self._names[self._target.place(place).peer_url]] = sorted(
                [f"{one.id:x}", one.name, list(one.peer_urls), one.is_learner] for one in members
            )
        return {
            "tables": tables,
            "current": sorted(f"{self._lives[place].number:x}" for place in self.present()),
            "numbers": [f"{number:x}" for number in self._numbers],
            "removed": self._removed,
            "exit code": self._target.member_system.removed_code,
        }

    @asynccontextmanager
    async def _client(self, places: Sequence[int], trouble: str) -> AsyncIterator[Client]:
        """A client of these places' members. Errors: TargetError in the place of ClientError."""
        endpoints = [self._target.endpoints[place] for place in places]
        try:
            async with Client(endpoints, timeout=CALL_SECONDS, dial_timeout=CALL_SECONDS) as client:
                yield client
        except ClientError as error:
            raise TargetError(f"{trouble}: {error}") from None


def _at(members: Sequence[Member] | Any, url: str) -> Member | None:
    """The member with this peer URL."""
    return next((member for member in members if url in member.peer_urls), None)
