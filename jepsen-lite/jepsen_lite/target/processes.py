"""Members as real processes on this machine, and what lies between them.

How members reach each other is a `wiring.Wiring`: proxies on the loopback, or namespaces of the
kernel. Clients dial members directly: who talks to a member of a minority gets what a minority
answers.
"""

import asyncio
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from jepsen_lite.member.control import UnixControl
from jepsen_lite.session import Session
from jepsen_lite.target.base import Control, NetworkFaults, Target, TargetError
from jepsen_lite.target.process import MemberProcess
from jepsen_lite.target.replacing import as_joining, emptied, readmit
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
    name. seed: of the links' losses. wiring: between members; None = proxies.
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
    ) -> None:
        self.system = system.name
        self._system = system
        self._directory = directory.absolute()
        self._flags = {**system.defaults, **(flags or {})}
        self._wiring = wiring or Proxied(seed)
        self._runtime = Path(f"/tmp/jepsen-{secrets.token_hex(6)}")  # a socket's path must be short
        self._members: list[MemberProcess] = []
        self._places: list[Place] = []
        self._stopped = False
        self._plan(members)

    # --- beginning and end --------------------------------------------------------

    def _plan(self, members: int) -> None:
        self._spots = self._wiring.spots(members)
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
        identify = self._system.identify([member_id([url], TOKEN) for url in urls], urls)
        self._wiring.open(self._spots, identify)
        cluster = ",".join(f"{place.name}={place.peer_url}" for place in self._places)
        for index, place in enumerate(self._places):
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
            argv = [
                *self._wiring.within(index),
                *self._system.program(place),
                *(f"--{name}={text}" for name, text in flags.items()),
            ]
            member = MemberProcess(place.name, argv, self._directory / f"{place.name}.log")
            self._members.append(member)
            member.start()
        await self._await_all()

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
        first = process % self.count
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
        self._members[member].start()

    async def replace(self, member: int) -> None:
        """It comes back as a new member, with an empty directory (`replacing`)."""
        process, place = self._members[member], self._places[member]
        await process.kill()
        others = [one for index, one in enumerate(self.endpoints) if index != member]
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
            for member in range(self.count)
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
        return self._directory / f"{self._places[member].name}.log"

    async def recover(self) -> None:
        """Heals the links, resumes, heals processes, starts who is down; waits until all serve."""
        await self._wiring.heal()
        for index, member in enumerate(self._members):
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
        waiting = list(range(self.count))
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
