"""Members as real processes on this machine, and what lies between them.

How members reach each other is a `wiring.Wiring`: proxies on the loopback, or namespaces of the
kernel. Clients dial members directly: who talks to a member of a minority gets what a minority
answers.
"""

import asyncio
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from jepsen_lite.member.control import UnixControl
from jepsen_lite.session import Session
from jepsen_lite.target.base import Control, NetworkFaults, Target, TargetError
from jepsen_lite.target.process import MemberProcess
from jepsen_lite.target.replacing import as_joining, emptied, readmit
from jepsen_lite.target.roster import Roster
from jepsen_lite.target.systems import Place, System
from jepsen_lite.target.wiring import Proxied, Wiring
from raftkv.config import member_id
from raftkv.errors import Code
from raftkv.testing import probe

START_SECONDS: Final = 90.0
POLL_SECONDS: Final = 0.05
ASK_SECONDS: Final = 1.0
DIAL_SECONDS: Final = 1.0
RESTARTS: Final = 3  # of a member that ends by itself while all are to come back
TOKEN: Final = "jepsen"


class Processes(Target):
    """`members` processes of a system.

    directory: for data, logs and sockets; it must be empty or not exist. flags: of the server, by
    name. seed: of the links' losses. wiring: between members; None = proxies. spare: places that
    are free at first, for members to come.
    Errors: TargetError, if there is no place for so many.
    """

    world = "processes"

    def __init__(
        self,
        system: System,
        members: int,
        directory: Path,
        *,
        flags: Mapping[str, str] | None = None,
        seed: int = 0,
        wiring: Wiring | None = None,
        spare: int = 0,
    ) -> None:
        self.system = system.name
        self._system = system
        self._directory = directory.absolute()
        self._flags = {**system.defaults, **(flags or {})}
        self._wiring = wiring or Proxied(seed)
        self._runtime = Path(f"/tmp/jepsen-{secrets.token_hex(6)}")  # a socket's path must be short
        self._members: list[MemberProcess] = []
        self._places: list[Place] = []
        self._former: list[MemberProcess] = []
        self._stopped = False
        self._first = list(range(members))
        self._roster: Roster | None = None
        self._plan(members + spare)
        if spare:
            self.abilities = self.abilities | {"churn"}

    # --- beginning and end --------------------------------------------------------

    def _plan(self, places: int) -> None:
        self._spots = self._wiring.spots(places)
        self.abilities = self._system.abilities | self._wiring.abilities
        self.lacking = self._wiring.lacking
        for index, spot in enumerate(self._spots):
            name = f"node{index}"
            data, control = self._directory / name, self._runtime / f"{index}.sock"
            self._places.append(Place(name, *spot, data_dir=data, control=control))
        self.endpoints = [f"{place.host}:{place.client_port}" for place in self._places]

    async def start(self) -> None:
        """Starts all members. Errors: TargetError, with the end of a member's log."""
        self._directory.mkdir(parents=True, exist_ok=True)
        if any(self._directory.iterdir()):
            raise TargetError(f"the directory {self._directory} must be empty")
        self._runtime.mkdir(mode=0o700)
        urls = [place.peer_url for place in self._places]
        numbers = [member_id([urls[index]], TOKEN) for index in self._first]
        self._wiring.open(self._spots, self._system.identify(numbers, urls))
        first = [self._places[index] for index in self._first]
        cluster = ",".join(f"{place.name}={place.peer_url}" for place in first)
        for index, place in enumerate(self._places):
            argv = self._command(index, cluster)
            self._members.append(MemberProcess(place.name, argv, self._log_of(place.name)))
        if "churn" in self.abilities:
            self._roster = Roster(self, dict(zip(self._first, numbers, strict=True)))
        for index in self._first:
            self._members[index].start()
        await self._await_all()

    def _command(self, index: int, cluster: str) -> list[str]:
        place = self._places[index]
        client = f"http://{place.host}:{place.client_port}"
        flags = {
            **self._flags,
            "name": place.name,
            "data-dir": str(place.data_dir),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": f"http://{place.host}:{place.peer_port}",
            "initial-advertise-peer-urls": place.peer_url,
            "initial-cluster": cluster,
            "initial-cluster-token": TOKEN,
        }
        return [
            *self._wiring.within(index),
            *self._system.program(place),
            *(f"--{name}={text}" for name, text in flags.items()),
        ]

    def _log_of(self, name: str) -> Path:
        return self._directory / f"{name}.log"

    async def stop(self) -> None:
        """Kills what runs and gives everything back but the directory."""
        if self._stopped:
            return
        self._stopped = True
        await asyncio.gather(*(member.kill() for member in self._members))
        await self._wiring.close()
        if self._runtime.exists():
            for path in self._runtime.iterdir():
                path.unlink(missing_ok=True)
            self._runtime.rmdir()

    async def session(self, process: int, timeout_seconds: float) -> Session:
        """A client whose first endpoint goes by its process's number."""
        present = self.present
        first = present[process % len(present)]
        return Session(
            [*self.endpoints[first:], *self.endpoints[:first]],
            timeout=timeout_seconds,
            dial_timeout=min(DIAL_SECONDS, timeout_seconds),
        )

    # --- members ------------------------------------------------------------------

    async def kill(self, member: int) -> None:
        """SIGKILL."""
        await self._members[member].kill()

    async def restart(self, member: int) -> None:
        """Starts it if it does not run."""
        if member in self.present:
            self._members[member].start()

    async def replace(self, member: int) -> None:
        """It comes back as a new member, with an empty directory (`replacing`)."""
        process, place = self._members[member], self._places[member]
        await process.kill()
        others = [self.endpoints[one] for one in self.present if one != member]
        number = await readmit(others, place.peer_url)
        self._wiring.learn(number, member)
        await asyncio.to_thread(emptied, place.data_dir)
        process.argv = as_joining(process.argv)
        process.start()

    async def pause(self, member: int) -> None:
        """SIGSTOP."""
        await self._members[member].pause()

    async def resume(self, member: int) -> None:
        """SIGCONT."""
        self._members[member].resume()

    def running(self, member: int) -> bool:
        """Whether it has a process."""
        return self._members[member].running

    def ends(self, member: int) -> Sequence[int]:
        """Exit codes with which it ended although nobody had asked for that."""
        self.running(member)
        return tuple(self._members[member].ends)

    async def leader(self) -> int | None:
        """Who says that it leads, in the newest term that anybody names."""
        asked = [
            asyncio.to_thread(self._leads, member)
            for member in self.present
            if self.running(member) and not self._members[member].paused
        ]
        found = [answer for answer in await asyncio.gather(*asked) if answer is not None]
        return max(found)[1] if found else None

    def _client_address(self, member: int) -> tuple[str, int]:
        place = self._places[member]
        return place.host, place.client_port

    def _leads(self, member: int) -> tuple[int, int] | None:
        try:
            status = probe.status(self._client_address(member), ASK_SECONDS)
        except probe.CallFailed:
            return None
        if status.leader and status.leader == status.header.member_id:
            return status.raftTerm, member
        return None

    # --- faults -------------------------------------------------------------------

    @property
    def network(self) -> NetworkFaults:
        """The links between members. Errors: TargetError, for a cluster of one."""
        return self._wiring.network()

    def control(self, member: int) -> Control:
        """Faults inside the member's process. Errors: TargetError."""
        if "disk" not in self.abilities:
            raise self.cannot("disk")
        return UnixControl(str(self._places[member].control))

    def peer_ports(self, member: int) -> list[int]:
        """Those on the loopback. Errors: TargetError, if it is not there."""
        return self._wiring.peer_ports(self._spots[member])

    def data_dir(self, member: int) -> Path:
        """Where it keeps its data."""
        return self._places[member].data_dir

    def log_path(self, member: int) -> Path | None:
        """Its output."""
        return self._log_of(self._places[member].name)

    def member_logs(self) -> dict[str, Path]:
        """Those of former members, too."""
        former = {process.name: process.log for process in self._former}
        return {**super().member_logs(), **former}

    # --- who is a member ------------------------------------------------------------

    @property
    def present(self) -> list[int]:
        """See Target."""
        return list(self._first) if self._roster is None else self._roster.present()

    @property
    def places(self) -> Roster:
        """See Target."""
        if self._roster is None:
            raise self.cannot("churn")
        return self._roster

    @property
    def member_system(self) -> System:
        """What the members are."""
        return self._system

    def place(self, member: int) -> Place:
        """Where it lives."""
        return self._places[member]

    def process(self, member: int) -> MemberProcess:
        """Its process, running or not."""
        return self._members[member]

    def learn(self, number: int, member: int) -> None:
        """The member at this place has another id now."""
        self._wiring.learn(number, member)

    def another_name(self, member: int) -> str:
        """For the next one who lives here."""
        process = self._members[member]
        if not process.starts:
            return process.name
        first, _, number = process.name.partition("-")
        return f"{first}-{int(number or 1) + 1}"

    def anew(self, member: int, name: str, cluster: str, flags: Sequence[str]) -> MemberProcess:
        """A process for this place, with the directory and the log of its name, not started yet.

        cluster: the members, itself among them, as --initial-cluster has them.
        """
        before = self._members[member]
        assert not before.running, "one after the other"
        if before.starts and before.name != name:
            self._former.append(before)
        data = self._directory / name
        self._places[member] = replace(self._places[member], name=name, data_dir=data)
        process = MemberProcess(name, [*self._command(member, cluster), *flags], self._log_of(name))
        self._members[member] = process
        return process

    async def recover(self) -> None:
        """Heals the links, resumes, heals processes, starts who is down; waits until all serve."""
        await self._wiring.heal()
        for index in self.present:
            member = self._members[index]
            if member.paused:
                member.resume()
            if not member.running:
                member.start()
            elif "disk" in self.abilities:
                await self._heal_process(index)
        await self._await_all(restarts=RESTARTS)

    async def _heal_process(self, member: int) -> None:
        try:
            await self.control(member).heal()
        except TargetError:
            if self.running(member):  # it starts just now, or hangs: a new process is well
                await self.kill(member)
                await self.restart(member)

    async def _await_all(self, restarts: int = 0) -> None:
        """Waits until every member answers a linearizable read. Errors: TargetError."""
        deadline = time.monotonic() + START_SECONDS
        left = [restarts] * self.count
        waiting = self.present
        reason = ""
        while waiting:
            for index in list(waiting):
                member = self._members[index]
                if not member.running:
                    if not left[index]:
                        raise TargetError(f"{member.name} ended by itself; {member.last_words()}")
                    left[index] -= 1
                    member.start()
                failure = await asyncio.to_thread(self._ask, index)
                if failure is None:
                    waiting.remove(index)
                else:
                    reason = failure
            if waiting and time.monotonic() > deadline:
                member = self._members[waiting[0]]
                raise TargetError(
                    f"{member.name} does not serve after {START_SECONDS:g} s ({reason}); "
                    f"{member.last_words()}"
                )
            if waiting:
                await asyncio.sleep(POLL_SECONDS)

    def _ask(self, member: int) -> str | None:
        """Why a member does not serve; None if it does."""
        try:
            probe.read(self._client_address(member), ASK_SECONDS)
        except probe.CallFailed as failure:
            # UNKNOWN: etcd says so of a read that its own deadline ended.
            if failure.code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.UNKNOWN):
                return str(failure)
            raise TargetError(f"{self._places[member].name}: {failure}") from None
        return None
