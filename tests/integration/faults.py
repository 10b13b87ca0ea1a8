"""Faults of whole processes under load, and the proof that nobody was told a wrong thing.

    python -m tests.integration.faults --seconds 60 --seed 7

Three real members, clients at all of them, and one fault after the other from a seeded list:
members are killed (SIGKILL) and restarted, one, two or all at once; the leader is stopped
(SIGSTOP) for three election timeouts and continued (R18); a member is stopped politely.
Afterwards the order of all commands is read from every member and must be the same, and the
whole history must be strictly serializable in that order (`raftkv.sim.witness`): nothing
acknowledged lost, nothing read stale, nothing that was refused done.
"""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

from raftkv.pb import rpc_pb2
from raftkv.sim.operations import Outcome
from raftkv.sim.witness import check_history
from tests.integration.calls import CallFailed, Wire
from tests.integration.workload import Clients, now_us, order_of, read_order
from tests.processes import Cluster, Server, raftkv

MEMBERS: Final = 3
CLIENTS: Final = 8
HEARTBEAT_MS: Final = 50
ELECTION_MS: Final = 500
SNAPSHOT_COUNT: Final = 60  # so small that members which were away need the whole state
RESUME_SECONDS: Final = 3.0
PAUSE_SECONDS: Final = 3 * ELECTION_MS / 1000
LEAST_FAULTS: Final = 4


@dataclass
class Report:
    """What a run did and found. resumed: seconds until writes went on, per fault."""

    seed: int
    faults: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    resumed: list[tuple[str, float]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    revisions: int = 0
    transfers: int = 0  # whole states that were sent to members that fell behind

    def lines(self) -> str:
        """For a person."""
        slowest = max((seconds for _, seconds in self.resumed), default=0.0)
        return "\n".join(
            [
                f"seed {self.seed}: {self.revisions} revisions, outcomes {dict(self.outcomes)}",
                f"  faults {dict(self.faults)}; slowest resumption {slowest:.2f} s; "
                f"{self.transfers} states transferred",
                f"  errors {dict(self.errors)}",
                *(f"  PROBLEM {problem}" for problem in self.problems),
            ]
        )


async def leader_of(servers: list[Server]) -> Server | None:
    """The member that calls itself leader in the newest term, None if nobody says so."""
    found: list[tuple[int, int, Server]] = []
    for number, server in enumerate(servers):
        if not server.running():
            continue
        with suppress(CallFailed):
            wire = await Wire.connect(server.client_port)
            path = "/etcdserverpb.Maintenance/Status"
            try:
                request = rpc_pb2.StatusRequest()
                status = await wire.call(path, request, rpc_pb2.StatusResponse, 1.0)
            finally:
                wire.close()
            if status.leader == status.header.member_id:
                found.append((status.raftTerm, number, server))
    return max(found)[2] if found else None


class Nemesis:
    """Does one fault after the other to the members."""

    def __init__(self, cluster: Cluster, clients: Clients, random: Random, report: Report) -> None:
        self._servers = cluster.servers
        self._clients = clients
        self._random = random
        self._report = report

    async def run(self, seconds: float) -> None:
        """Faults until the time is over, and at least a few; everyone runs at the end."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        faults: list[Callable[[], Awaitable[None]]] = []
        while loop.time() < end or self._report.faults.total() < LEAST_FAULTS:
            if not faults:  # every kind in every round, in a random order
                faults = [
                    self.kill_one,
                    self.kill_leader,
                    self.kill_leader,
                    self.pause_leader,
                    self.pause_leader,
                    self.pause_one,
                    self.wake_into_a_vacuum,
                    self.kill_two,
                    self.kill_all,
                    self.stop_politely,
                ]
                self._random.shuffle(faults)
            fault = faults.pop()
            await fault()
            self._report.faults[fault.__name__] += 1
            await asyncio.sleep(self._random.uniform(0.2, 1.2))

    async def kill_one(self) -> None:
        """A random member dies and comes back."""
        await self._kill(self._random.choice(self._servers), "kill one")

    async def kill_leader(self) -> None:
        """The leader dies and comes back; the others must go on without it."""
        await self._kill(await self._leader(), "kill leader")

    async def kill_two(self) -> None:
        """No quorum for a while."""
        for server in self._random.sample(self._servers, 2):
            server.kill()
        await asyncio.sleep(self._random.uniform(0.1, 1.0))
        await self._start_all("kill two")

    async def kill_all(self) -> None:
        """Everyone dies at the same time."""
        for server in self._servers:
            server.kill()
        await self._start_all("kill all")

    async def pause_leader(self) -> None:
        """R18: the leader stands still and wakes up believing that it leads."""
        await self._pause(await self._leader(), "pause leader")

    async def wake_into_a_vacuum(self) -> None:
        """R18: an old leader wakes up at the moment when its successor dies."""
        old = await self._leader()
        os.kill(old.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(PAUSE_SECONDS)
            new = await leader_of([one for one in self._servers if one is not old])
        finally:
            os.kill(old.pid, signal.SIGCONT)
        if new is None:
            return
        new.kill()
        await self._resumed("wake into a vacuum", now_us(), new)
        new.start()
        await self._ready(new)

    async def pause_one(self) -> None:
        """A random member stands still."""
        await self._pause(self._random.choice(self._servers), "pause one")

    async def stop_politely(self) -> None:
        """SIGTERM under load: exit code 0, and the others go on."""
        server = self._random.choice(self._servers)
        moment = now_us()
        code = await asyncio.get_running_loop().run_in_executor(None, server.stop)
        if code:
            self._report.problems.append(f"{server.name} ended with {code} after SIGTERM")
        await self._resumed("stop politely", moment, server)
        server.start()
        await self._ready(server)

    async def _leader(self) -> Server:
        return await leader_of(self._servers) or self._random.choice(self._servers)

    async def _kill(self, server: Server, name: str) -> None:
        moment = now_us()
        server.kill()
        await self._resumed(name, moment, server)
        await asyncio.sleep(self._random.uniform(0.0, 1.0))
        server.start()
        if self._random.random() < 0.3:  # killed again while it starts
            await asyncio.sleep(self._random.uniform(0.0, 0.6))
            server.kill()
            server.start()
        await self._ready(server)

    async def _pause(self, server: Server, name: str) -> None:
        moment = now_us()
        os.kill(server.pid, signal.SIGSTOP)
        try:
            await self._resumed(name, moment, server)
            await asyncio.sleep(max(0.0, PAUSE_SECONDS - (now_us() - moment) / 1e6))
        finally:
            os.kill(server.pid, signal.SIGCONT)

    async def _start_all(self, name: str) -> None:
        for server in self._servers:
            if not server.running():
                server.start()
        for server in self._servers:
            await self._ready(server)
        await self._resumed(name, now_us(), None)

    async def _ready(self, server: Server) -> None:
        await asyncio.get_running_loop().run_in_executor(None, server.wait_ready)

    async def _resumed(self, name: str, moment_us: int, without: Server | None) -> None:
        """Waits until a write that was called after the fault is acknowledged by the others."""
        member = None if without is None else self._servers.index(without)
        while (now_us() - moment_us) / 1e6 < 4 * RESUME_SECONDS:
            at = self._clients.resumed_after(moment_us, member)
            if at is not None:
                self._report.resumed.append((name, (at - moment_us) / 1e6))
                return
            await asyncio.sleep(0.01)
        self._report.problems.append(f"no write for {4 * RESUME_SECONDS} s after {name}")


async def _scenario(cluster: Cluster, seed: int, seconds: float, report: Report) -> None:
    random = Random(seed)
    clients = Clients([server.client_port for server in cluster.servers], random)
    running = asyncio.create_task(clients.run(CLIENTS))
    await asyncio.sleep(0.5)
    try:
        await Nemesis(cluster, clients, random, report).run(seconds)
        await asyncio.sleep(0.5)
    finally:
        clients.stopped = True
        await running
    history = clients.history
    report.outcomes.update(operation.outcome.value for operation in history)
    report.errors.update(one.error for one in history if one.outcome is not Outcome.OK)
    orders = [await read_order(server.client_port) for server in cluster.servers]
    report.revisions = len(orders[0])
    for server, order in zip(cluster.servers, orders, strict=True):
        if order != orders[0]:
            report.problems.append(f"{server.name} has another history")
    violations = check_history(order_of(orders[0], history), history)
    report.problems += [f"{one.rule}: {one.explanation}" for one in violations]
    for name, late in report.resumed:
        if late > RESUME_SECONDS:
            report.problems.append(f"writes resumed only {late:.2f} s after {name}")


def run(directory: Path, seed: int, seconds: float) -> Report:
    """One cluster, one seed; the members are gone when this returns."""
    report = Report(seed)
    timing = (f"--heartbeat-interval={HEARTBEAT_MS}", f"--election-timeout={ELECTION_MS}")
    with raftkv(directory, MEMBERS, *timing, f"--snapshot-count={SNAPSHOT_COUNT}") as cluster:
        try:
            asyncio.run(_scenario(cluster, seed, seconds, report))
        except Exception as error:  # noqa: BLE001  a run that breaks is a finding
            report.problems.append(f"{type(error).__name__}: {error}")
        for server in cluster.servers:
            log = server.log_end(100_000)
            report.transfers += log.count("sent the state at index")
            if "Traceback" in log or '"level": "critical"' in log:
                report.problems.append(f"{server.name} logged a traceback or a critical line")
    return report


def main() -> int:
    """Runs seeds until the time is over; 1 if anything was found. Keeps the logs of bad runs."""
    parser = argparse.ArgumentParser(prog="python -m tests.integration.faults")
    parser.add_argument("--seconds", type=float, default=60.0, help="all runs together")
    parser.add_argument("--seed", type=int, default=1, help="of the first run")
    parser.add_argument("--each", type=float, default=30.0, help="seconds of faults per run")
    parser.add_argument("--keep", type=Path, help="directory for the members' files and logs")
    given = parser.parse_args()
    base = given.keep or Path(tempfile.mkdtemp(prefix="faults-"))
    found = 0
    left, seed = given.seconds, given.seed
    while left > 0:
        report = run(base / str(seed), seed, min(given.each, left))
        print(report.lines(), flush=True)
        found += bool(report.problems)
        left -= given.each
        seed += 1
    print(f"{found} runs with problems; files in {base}", flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
