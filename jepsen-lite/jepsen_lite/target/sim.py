"""A simulated cluster: the same workloads, interpreter and checkers in virtual time.

Members are `raftkv.sim`'s: the real replica and storage over a simulated network, disk and clock.
A session is the real client library over simulated channels (`simchannel`), with its watches, kept
leases and recipes. What is not simulated: calls about members, maintenance and users, and the
servers' own locks and elections.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from jepsen_lite.session import Session
from jepsen_lite.storelog import encoded
from jepsen_lite.target.base import Target, TargetError
from jepsen_lite.target.simchannel import Road, SimConnection
from raftkv.client.aio.pages import Pages
from raftkv.client.keys import Namespace
from raftkv.client.settings import Endpoint, Settings
from raftkv.kv.audience import Batch
from raftkv.kv.events import decode_event
from raftkv.kv.watches import Watcher
from raftkv.sim.cluster import Cluster, Timing
from raftkv.sim.node import Node
from raftkv.sim.world import MILLISECOND, SECOND, World

LOOK_SECONDS: Final = 0.1
RECOVER_US: Final = 120 * SECOND
TIMING: Final = Timing(snapshot_count=500, catch_up_entries=100)


class SimClient(Session):
    """A session with a simulated cluster."""

    def __init__(self, connection: SimConnection) -> None:
        # Not Session's: its connection would dial.
        self._namespace = Namespace(b"")
        self._connection = connection
        self._pages = Pages(connection)


class _Tap:
    """Takes all events of one member's hub (raftkv.sim.hub.Outlet) behind revision `last`.

    compacted: history before it is gone. alive: the hub is there, and goes on telling.
    """

    def __init__(self, node: Node, last: int) -> None:
        self.rows: list[list[Any]] = []
        self.last = last
        self.compacted = 0
        self.alive = True
        self._node = node
        self._watcher = Watcher(self, 1, b"\0", b"\0", last + 1)
        node.hub.add(self._watcher, self)

    def deliver(self, watcher: Watcher, first: int, last: int, events: Batch) -> None:
        """See Sink."""
        for framed in events:
            event = decode_event(framed)
            kv = event.kv
            value = None if event.deleted else kv.value.decode("utf-8", "backslashreplace")
            key = kv.key.decode("utf-8", "backslashreplace")
            row = [kv.mod_revision, key, value, kv.version, kv.create_revision, kv.lease]
            self.rows.append(row)
            self.last = kv.mod_revision

    def full(self) -> bool:
        """See Sink."""
        return False

    def cancelled(self, watcher: Watcher, compact_revision: int) -> None:
        """See Sink."""
        self.compacted, self.alive = compact_revision, False
        self.last = max(self.last, compact_revision - 1)

    def synced(self, watcher: Watcher, revision: int) -> None:
        """See Sink."""

    def lost(self) -> None:
        """See Outlet."""
        self.alive = False

    def close(self) -> None:
        """Takes no more."""
        if self.alive:
            self.alive = False
            self._node.hub.remove(self._watcher, self)
            self._node.hub.close(self)


class SimTarget(Target):
    """Members 1..members of a simulated world; their indices here begin with 0."""

    world = "sim"
    system = "raftkv"
    abilities = frozenset({"sim"})

    def __init__(self, world: World, members: int) -> None:
        self.simulated = world
        self.cluster = Cluster(world, members, TIMING)
        self.endpoints = [f"member-{member}" for member in self.cluster.goal]
        self._road = Road(world, world.stream("travel"))

    async def start(self) -> None:
        """Starts all members and waits for a leader. Errors: TargetError."""
        self.cluster.start()
        await self.until(lambda: self.cluster.leader() is not None, "has no leader")

    async def stop(self) -> None:
        """Ends all processes."""
        for node in self.cluster.nodes.values():
            node.retire()

    async def session(self, process: int, timeout_seconds: float) -> Session:
        """A client whose first member goes by its process's number.

        An address is a place among the members: where one is replaced, its heir has it.
        """
        settings = Settings(
            tuple(Endpoint(name, name, secure=False) for name in self.endpoints),
            timeout=timeout_seconds,
        )
        finds = [partial(self.at, place) for place in range(self.count)]
        connection = SimConnection(settings, self._road, finds)
        connection.places.prefer(process % self.count)
        return SimClient(connection)

    def at(self, place: int) -> Node:
        """The member that has this place now."""
        return self.cluster.nodes[self.cluster.goal[place]]

    async def leader(self) -> int | None:
        """The running leader of the highest term."""
        found = self.cluster.leader()
        return None if found is None else self.cluster.goal.index(found.member)

    async def recover(self) -> None:
        """Heals everything; waits until all members have applied the same. Errors: TargetError."""
        self.cluster.heal()
        await self.until(self._converged, "did not converge")

    def _converged(self) -> bool:
        leader = self.cluster.leader()
        if leader is None or not self.cluster.settled():
            return False
        nodes = [self.cluster.nodes[member] for member in self.cluster.goal]
        target = leader.replica.core.last_index
        return all(node.up and node.applied_index >= target for node in nodes)

    async def until(self, condition: Callable[[], bool], trouble: str) -> None:
        """Waits in virtual time. trouble: what the cluster does otherwise. Errors: TargetError."""
        deadline = self.simulated.now_us + RECOVER_US
        while not condition():
            if self.simulated.now_us > deadline:
                raise TargetError(f"the simulated cluster {trouble}: {self.cluster.describe()}")
            await asyncio.sleep(20 * MILLISECOND / SECOND)

    def follower(self, session: Session, prefix: str, first: int, path: Path) -> "SimFollower":
        """See Target."""
        return SimFollower(self, first, path)

    async def said(self, revision: int) -> dict[str, Any]:
        """See Target."""
        await self.until(self._converged, "did not converge")
        found: dict[str, Any] = {}
        for index, member in enumerate(self.cluster.goal):
            own_revision, key_hash = self.cluster.nodes[member].key_hash()
            found[self.endpoints[index]] = {
                "revision": own_revision,
                "hashes": {str(own_revision): {"hash": key_hash, "compact_revision": 0}},
            }
        return found


class SimFollower:
    """Reads what a simulated store did (as `storelog.StoreFollower`), whole revisions at a time."""

    def __init__(self, target: SimTarget, first: int, path: Path) -> None:
        self._target = target
        self._first = self._last = first
        self._compacted = 0
        self._path = path
        self._rows: list[list[Any]] = []
        self._tap: _Tap | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Follows from now on, beside the run."""
        self._task = asyncio.get_running_loop().create_task(self._follow())

    async def _follow(self) -> None:
        while True:
            self._look()
            await asyncio.sleep(LOOK_SECONDS)

    def _look(self) -> None:
        """Takes what has come, and another member where the last one is gone."""
        tap = self._tap
        if tap is not None:
            self._rows += tap.rows
            self._last, self._compacted = tap.last, max(self._compacted, tap.compacted)
            tap.rows = []
        if tap is None or not tap.alive:
            up = [node for node in self._target.cluster.nodes.values() if node.up]
            self._tap = _Tap(up[0], self._last) if up else None

    async def finish(self, last: int) -> None:
        """Errors: TargetError."""
        self.close()

        def told() -> bool:
            self._look()
            return self._last >= last

        await self._target.until(told, "does not tell its history")
        if self._tap is not None:
            self._tap.close()
        lines = [encoded({"first": self._first}), *map(encoded, self._rows)]
        lines.append(encoded({"last": last, "compacted": self._compacted}))
        self._path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def close(self) -> None:
        """Follows no more."""
        if self._task is not None:
            self._task.cancel()
