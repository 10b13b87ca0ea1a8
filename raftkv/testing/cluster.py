"""A cluster for tests: real members, real sockets, real LevelDB, and faults at will.

    with Cluster(3) as cluster:
        ...                             any etcd client, at cluster.endpoint
        cluster.kill_leader()           SIGKILL, or what equals it inside this process
        cluster.partition({0}, {1, 2})  silence between them, both ways
        cluster.heal()
        cluster.restart(0)

Members run on threads of this process, each with an event loop of its own, or as `raftkv serve`
processes (`processes=True`); the first start faster and show in a debugger, the second share
no interpreter lock with the test and can be killed truly. Both are told the same flags.

Between members stands a proxy per member (`proxy.Network`), which the others dial: it makes
partitions, one-way cuts and delays. Clients are never cut off: a test that talks to a member of a
minority gets what a minority answers.

Everything that the cluster makes (processes, threads, ports, its temporary directory) ends with
`stop`, which leaving the `with` block calls however it is left, and the interpreter's exit too.
"""

import atexit
import os
import secrets
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from raftkv.config import member_id
from raftkv.errors import ConfigError
from raftkv.testing import probe
from raftkv.testing.dialers import MemberNames
from raftkv.testing.errors import NoLeader, StartFailed
from raftkv.testing.member import Member, Plan
from raftkv.testing.nursery import Nursery
from raftkv.testing.ports import HOST, Ports
from raftkv.testing.process_member import ProcessMember
from raftkv.testing.proxy import Network
from raftkv.testing.scratch import Scratch

START_SECONDS: Final = 30.0
LEADER_SECONDS: Final = 15.0
POLL_SECONDS: Final = 0.01
ASK_SECONDS: Final = 1.0
CLEAR_SECONDS: Final = 5.0
OTHERS_LINES: Final = 15

# Short enough for tests to go on soon after a fault, long enough for a busy machine.
_DEFAULTS: Final = {"heartbeat-interval": "50", "election-timeout": "500", "log-format": "console"}
_OURS: Final = frozenset(
    {
        "name",
        "data-dir",
        "listen-client-urls",
        "advertise-client-urls",
        "listen-peer-urls",
        "initial-advertise-peer-urls",
        "initial-cluster",
        "initial-cluster-state",
        "initial-cluster-token",
        "config-file",
    }
)

_TLS_ENDINGS: Final = ("cert-file", "key-file", "ca-file", "cert-auth")

Indices = int | Iterable[int]


class Cluster:
    """`nodes` members on this machine. A context manager; members are named by index, from 0.

    processes: each member is a process; otherwise a thread of this one.
    directory: keeps logs and data there, which must be empty; None: a temporary one (`scratch`).
    flags: of `raftkv serve` for every member, by name, as {"snapshot-count": "100"}.
    start_timeout_seconds: for all members to come up.
    """

    def __init__(
        self,
        nodes: int = 3,
        *,
        processes: bool = False,
        directory: str | os.PathLike[str] | None = None,
        flags: Mapping[str, str] | None = None,
        start_timeout_seconds: float = START_SECONDS,
    ) -> None:
        if nodes < 1:
            raise ValueError("a cluster has at least one node")
        taken = _OURS & set(flags or ())
        if taken:
            raise ConfigError(f"--{min(taken)} is what the test cluster decides by itself")
        secure = [name for name in flags or () if name.endswith(_TLS_ENDINGS)]
        if secure:
            raise ConfigError(f"--{secure[0]}: a test cluster speaks no TLS")
        self.nodes = nodes
        self.processes = processes
        self._flags = {**_DEFAULTS, **(flags or {})}
        self._given_directory = Path(directory) if directory is not None else None
        self._start_timeout_seconds = start_timeout_seconds
        self._members: list[Member] = []
        self._ports = Ports()
        self._nursery: Nursery | None = None
        self._scratch: Scratch | None = None
        self._network: Network | None = None
        self._started_by = 0

    # --- beginning and end --------------------------------------------------------

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.check()
        finally:
            self.stop()

    def start(self) -> None:
        """Starts all members; returns when each has answered a linearizable read.

        Raises StartFailed with the end of a member's log; nothing is left running then.
        """
        if self._members:
            raise ValueError("the cluster was started already")
        self._started_by = os.getpid()
        atexit.register(self.stop)
        try:
            self._build()
            for member in self._members:
                member.start()
            self._wait_all()
        except BaseException:
            self.stop()
            raise

    def _wait_all(self) -> None:
        """Waits until every member answers. Raises StartFailed: the cause may be another member."""
        deadline = time.monotonic() + self._start_timeout_seconds
        members = self._members
        for member in members:
            try:
                member.wait_serving(deadline, linearizable=True)
            except StartFailed as failure:
                others = [one for one in members if one is not member]
                raise StartFailed(f"{failure}{_logs(others)}") from None

    def stop(self) -> None:
        """Ends everything. A second call does nothing.

        Members whose data is thrown away are killed; those of a given directory end in order.
        """
        if self._started_by != os.getpid():
            return  # never started; or a fork of the process that did
        members, self._members = self._members, []
        try:
            if self._given_directory is not None:
                stops = [threading.Thread(target=member.stop) for member in members]
                for thread in stops:
                    thread.start()
                for thread in stops:
                    thread.join()
        finally:
            for member in members:
                member.kill()
            self._release()

    def _release(self) -> None:
        with ExitStack() as stack:  # in reverse, and all of it whatever one of them raises
            stack.callback(atexit.unregister, self.stop)
            if self._scratch is not None:
                stack.callback(self._scratch.close)
            if self._nursery is not None:
                stack.callback(self._nursery.close)
            stack.callback(self._ports.close)
            if self._network is not None:
                stack.callback(self._network.close)
            self._network = self._nursery = self._scratch = None

    # --- building -----------------------------------------------------------------

    def _build(self) -> None:
        directory = self._directory()
        if self.processes:
            self._nursery = Nursery(directory)  # it imports the server while the rest is built
        names = [f"node{index}" for index in range(self.nodes)]
        clients = [self._ports.take() for _ in names]
        peers = [self._ports.take() for _ in names]
        doors = [self._ports.take() for _ in names] if self.nodes > 1 else peers
        self._ports.release_unheld()
        urls = [f"http://{HOST}:{door}" for door in doors]
        token = f"test-{secrets.token_hex(8)}"
        if self.nodes > 1:
            self._network = Network()
            identify = MemberNames((member_id([url], token) for url in urls), urls)
            for index, (door, peer) in enumerate(zip(doors, peers, strict=True)):
                self._network.add(index, door, peer, identify)
        for index, name in enumerate(names):
            client = f"http://{HOST}:{clients[index]}"
            flags = {
                **self._flags,
                "name": name,
                "data-dir": str(directory / name),
                "listen-client-urls": client,
                "advertise-client-urls": client,
                "listen-peer-urls": f"http://{HOST}:{peers[index]}",
                "initial-advertise-peer-urls": urls[index],
                "initial-cluster": ",".join(f"{n}={u}" for n, u in zip(names, urls, strict=True)),
                "initial-cluster-token": token,
            }
            plan = Plan(index, name, clients[index], peers[index], directory, flags)
            self._members.append(self._member(plan))

    def _directory(self) -> Path:
        if self._given_directory is None:
            self._scratch = Scratch()
            return self._scratch.path
        self._given_directory.mkdir(parents=True, exist_ok=True)
        if any(self._given_directory.iterdir()):
            raise ConfigError(f"the directory {self._given_directory} must be empty")
        return self._given_directory.absolute()

    def _member(self, plan: Plan) -> Member:
        if self.processes:
            assert self._nursery is not None, "made before its members"
            return ProcessMember(plan, self._nursery)
        from raftkv.cli.flags import build
        from raftkv.testing.thread_member import ThreadMember

        return ThreadMember(plan, build(plan.flags))

    # --- what it is -----------------------------------------------------------------

    @property
    def members(self) -> Sequence[Member]:
        """All members, by index."""
        return tuple(self._members)

    @property
    def endpoints(self) -> list[str]:
        """host:port of every member for clients, also of those that are down."""
        return [member.endpoint for member in self._members]

    @property
    def endpoint(self) -> str:
        """All endpoints in one comma-separated text, as most clients and etcdctl take them."""
        return ",".join(self.endpoints)

    @property
    def port(self) -> int:
        """The first member's port for clients, on 127.0.0.1."""
        return self._at(0).address[1]

    @property
    def network(self) -> Network:
        """The network between the members, for one-way cuts and delays; nodes are indices.

        Raises ValueError for a cluster of one node, which has none.
        """
        if self._network is None:
            raise ValueError("a cluster of one node has no network between members")
        return self._network

    @property
    def leader(self) -> int | None:
        """Index of the member that says it leads, in the newest term that anybody names; or None.

        A leader that was just cut off still says so: `wait_leader` asks for proof.
        """
        found: list[tuple[int, int]] = []
        for index, member in enumerate(self._members):
            if not member.answers:
                continue
            try:
                status = probe.status(member.address, ASK_SECONDS)
            except probe.CallFailed:
                continue
            if status.leader and status.leader == status.header.member_id:
                found.append((status.raftTerm, index))
        return max(found)[1] if found else None

    def wait_leader(self, timeout_seconds: float = LEADER_SECONDS) -> int:
        """Index of a leader that has just proved, by a read, that a majority follows it.

        Raises NoLeader when there is none in time, MemberDied if a member ended by itself.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            self.check()
            leader = self.leader
            left = deadline - time.monotonic()
            if leader is not None and self._proves(leader, min(ASK_SECONDS, max(left, 0.05))):
                return leader
            if left <= 0:
                raise NoLeader(f"no leader within {timeout_seconds:g} s{_logs(self._members)}")
            time.sleep(POLL_SECONDS)

    def _proves(self, leader: int, timeout_seconds: float) -> bool:
        try:
            probe.read(self._members[leader].address, timeout_seconds)
        except probe.CallFailed:
            return False
        return self.leader == leader

    def check(self) -> None:
        """Raises MemberDied if a member ended that nobody had stopped."""
        for member in self._members:
            member.check()

    # --- faults -----------------------------------------------------------------------

    def kill(self, index: int) -> None:
        """The member vanishes: no last word, no checkpoint; its connections are cut."""
        self._at(index).kill()

    def kill_leader(self) -> int:
        """Kills the leader (after `wait_leader`); its index."""
        leader = self.wait_leader()
        self.kill(leader)
        return leader

    def terminate(self, index: int) -> None:
        """The member ends in order, as on SIGTERM: it hands over and writes out."""
        self._at(index).stop()

    def pause(self, index: int) -> None:
        """The member stands still: it neither reads nor writes nor ticks; its sockets stay open."""
        self._at(index).pause()

    def resume(self, index: int) -> None:
        """A paused member goes on."""
        self._at(index).resume()

    def restart(self, index: int, *, wait: bool = True) -> None:
        """Starts a member that is down; one that still runs is killed first.

        wait: return when it serves clients, with or without a leader. Raises StartFailed.
        """
        member = self._at(index)
        member.kill()
        member.start()
        if wait:
            deadline = time.monotonic() + self._start_timeout_seconds
            member.wait_serving(deadline, linearizable=False)

    def partition(self, side: Indices, other_side: Indices) -> None:
        """Silence between two sets of members, both ways, on top of earlier ones."""
        self.network.partition(self._all(side), self._all(other_side))

    def isolate(self, index: int) -> None:
        """Silence between one member and all the others."""
        self.partition(index, [one for one in range(self.nodes) if one != index])

    def heal(self) -> None:
        """Ends every partition, cut and delay. Members that are down or paused stay so."""
        if self._network is not None:
            self._network.heal()

    def recover(self) -> None:
        """Undoes every fault: heals, resumes, restarts; returns when all members answer reads.

        Raises StartFailed, or MemberDied if a member had ended by itself.
        """
        self.check()
        self.heal()
        for index, member in enumerate(self._members):
            if member.paused:
                member.resume()
            elif not member.running:
                self.restart(index, wait=False)
        self._wait_all()

    def clear(self) -> None:
        """Revokes every lease and deletes every key. Revisions stay, and grow by it."""
        leader = self.wait_leader()
        probe.clear(self._members[leader].address, CLEAR_SECONDS)

    def _at(self, index: int) -> Member:
        if not self._members:
            raise ValueError("the cluster is not running")
        if not 0 <= index < self.nodes:
            raise ValueError(f"there is no member {index}: they are 0 to {self.nodes - 1}")
        return self._members[index]

    def _all(self, indices: Indices) -> list[int]:
        chosen = [indices] if isinstance(indices, int) else list(indices)
        for index in chosen:
            self._at(index)
        return chosen


def _logs(members: Iterable[Member]) -> str:
    return "".join(f"\n{one.name}:\n{one.log_end(OTHERS_LINES)}" for one in members)
