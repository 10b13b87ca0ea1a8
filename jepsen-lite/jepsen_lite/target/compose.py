"""A docker-compose cluster: members in containers, broken by Docker's own means.

A run either starts the project itself, under a name of its own, and removes it with its volumes; or
it takes one that runs (`--project`) and leaves it running, with the run's keys in it. `kill` is
`docker kill`, so the restart policy does not act; a partition takes containers off the peers'
network, which cuts a member off all others and leaves its clients. Links between two members cannot
be cut from here, nor can they be slow: for that there are processes and namespaces.
"""

import asyncio
import secrets
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from jepsen_lite.session import Session
from jepsen_lite.target.attach import Attached
from jepsen_lite.target.base import NetworkFaults, TargetError
from jepsen_lite.target.project import Project
from raftkv.testing import probe

START_SECONDS: Final = 120.0
POLL_SECONDS: Final = 0.1
ASK_SECONDS: Final = 1.0
DIAL_SECONDS: Final = 1.0
MOST_PORTS: Final = 9


class Compose(Attached):
    """The members of a compose file.

    file: of compose. project: one that runs; "" = one of the run's own. logs: a directory for the
    members' logs. prefix: of the run's keys.
    """

    world = "compose"
    abilities = frozenset({"kill", "pause", "isolation", "transfer"})

    def __init__(self, file: Path, logs: Path, project: str = "", prefix: str = "") -> None:
        self._owned = not project
        self._project = Project(
            file,
            project or f"jepsen-{secrets.token_hex(4)}",
            variables=_free_ports() if self._owned else {},
        )
        self._logs = logs
        self._services: list[str] = []
        self._down: set[int] = set()
        self._stopped = False
        self._links = Isolation(self)
        super().__init__(["not started"], "raftkv", prefix=prefix)
        self.shared = not self._owned

    # --- beginning and end --------------------------------------------------------

    async def start(self) -> None:
        """Starts the project if it is the run's own; finds the members. Errors: TargetError."""
        if self._owned:
            await asyncio.to_thread(self._project.up)
        found = await asyncio.to_thread(lambda: self._project.containers)
        if not found:
            raise TargetError(
                f"the project {self._project.name!r} has no container that publishes a client port"
            )
        self._services = list(found)
        self.endpoints = [
            await asyncio.to_thread(self._project.endpoint, one) for one in self._services
        ]
        await self._await_all()

    async def stop(self) -> None:
        """Keeps the logs; removes the project if it is the run's own."""
        if self._stopped:
            return
        self._stopped = True
        with suppress(TargetError):
            await asyncio.to_thread(self._keep_logs)
        if self._owned:
            await asyncio.to_thread(self._project.down, True)

    def _keep_logs(self) -> None:
        self._logs.mkdir(parents=True, exist_ok=True)
        for member in range(len(self._services)):
            path = self._path(member)
            path.write_text(self._project.log(self._services[member]))

    async def session(self, process: int, timeout_seconds: float) -> Session:
        """A client whose first endpoint goes by its process's number."""
        first = process % self.count
        return Session(
            [*self.endpoints[first:], *self.endpoints[:first]],
            timeout=timeout_seconds,
            dial_timeout=min(DIAL_SECONDS, timeout_seconds),
        )

    async def _await_all(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        for endpoint in self.endpoints:
            while not await asyncio.to_thread(_reads, endpoint):
                if time.monotonic() > deadline:
                    raise TargetError(f"{endpoint} does not serve after {START_SECONDS:g} s")
                await asyncio.sleep(POLL_SECONDS)

    # --- members ------------------------------------------------------------------

    async def kill(self, member: int) -> None:
        """`docker kill`."""
        self._down.add(member)
        await asyncio.to_thread(self._project.kill, self._services[member])

    async def restart(self, member: int) -> None:
        """`docker start`."""
        await asyncio.to_thread(self._project.start, self._services[member])
        self._down.discard(member)

    async def pause(self, member: int) -> None:
        """`docker pause`."""
        await asyncio.to_thread(self._project.pause, self._services[member])

    async def resume(self, member: int) -> None:
        """`docker unpause`."""
        await asyncio.to_thread(self._project.resume, self._services[member])

    def running(self, member: int) -> bool:
        """Whether nobody killed it. One that ends by itself is for its restart policy."""
        return member not in self._down

    async def leader(self) -> int | None:
        """Who says that it leads, in the newest term that anybody names."""
        asked = [asyncio.to_thread(_leads, member, at) for member, at in enumerate(self.endpoints)]
        found = [answer for answer in await asyncio.gather(*asked) if answer is not None]
        return max(found)[1] if found else None

    # --- faults -------------------------------------------------------------------

    @property
    def network(self) -> NetworkFaults:
        """Members as a whole can be cut off."""
        return self._links

    def set_isolated(self, members: Iterable[int]) -> None:
        """These members, and no others, hear nobody. Errors: TargetError."""
        wanted = {self._services[member] for member in members}
        for service in self._project.isolated:
            if service not in wanted:
                self._project.join(service)
        for service in sorted(wanted):
            self._project.isolate(service)

    def log_path(self, member: int) -> Path | None:
        """A copy, made when the run ends."""
        return self._path(member) if self._services else None

    def _path(self, member: int) -> Path:
        return self._logs / f"{self._services[member]}.log"

    async def recover(self) -> None:
        """Joins the networks, resumes and starts who is down; waits until all serve."""
        await asyncio.to_thread(self.set_isolated, [])
        for service in self._services:
            await asyncio.to_thread(self._project.resume, service)
            await asyncio.to_thread(self._project.start, service)
        self._down.clear()
        await self._await_all()


class Isolation:
    """A `base.NetworkFaults` that can only cut members off as a whole.

    Cuts are told link by link; who has lost all its links, both ways, is cut off, and nothing
    happens before that.
    """

    def __init__(self, target: Compose) -> None:
        self._target = target
        self._cut: set[tuple[int, int]] = set()

    def cut(self, sources: Iterable[int], targets: Iterable[int]) -> None:
        """One way; takes effect for members whose links are all cut."""
        others = list(targets)
        self._cut |= {(one, other) for one in sources for other in others if one != other}
        members = range(self._target.count)
        self._target.set_isolated(
            one
            for one in members
            if all({(one, other), (other, one)} <= self._cut for other in members if other != one)
        )

    def partition(self, side: Iterable[int], other_side: Iterable[int]) -> None:
        """Cuts both ways between two sets."""
        few, many = list(side), list(other_side)
        self.cut(few, many)
        self.cut(many, few)

    def delay(self, sources: Iterable[int], targets: Iterable[int], seconds: float) -> None:
        """Errors: TargetError."""
        raise self._target.cannot("latency")

    def loss(self, sources: Iterable[int], targets: Iterable[int], share: float) -> None:
        """Errors: TargetError."""
        raise self._target.cannot("latency")

    def heal(self) -> None:
        """All members hear each other."""
        self._cut.clear()
        self._target.set_isolated([])


def _address(endpoint: str) -> tuple[str, int]:
    host, _, port = endpoint.rpartition(":")
    return host, int(port)


def _reads(endpoint: str) -> bool:
    try:
        probe.read(_address(endpoint), ASK_SECONDS)
    except probe.CallFailed:
        return False
    return True


def _leads(member: int, endpoint: str) -> tuple[int, int] | None:
    try:
        status = probe.status(_address(endpoint), ASK_SECONDS)
    except probe.CallFailed:
        return None
    if status.leader and status.leader == status.header.member_id:
        return status.raftTerm, member
    return None


def _free_ports() -> dict[str, str]:
    """NODE1_PORT and so on, so that a run does not meet a cluster at the usual ports."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(MOST_PORTS)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return {f"NODE{number}_PORT": str(port) for number, port in enumerate(ports, 1)}
