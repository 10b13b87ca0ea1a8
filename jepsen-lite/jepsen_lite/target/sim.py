"""A simulated cluster: the same workloads, interpreter and checkers in virtual time.

Members are `raftkv.sim`'s: the real replica and storage over a simulated network, disk and clock.
A session is a client whose connection goes to a simulated member; it has the verbs of keys,
values and transactions. Watches, leases and recipes need threads and streams: not here.

What a session does when something goes wrong is the client library's: it goes to another member
when one cannot be reached, and a write that may have been carried out is never repeated.
"""

import asyncio
import random as randomness
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from google.protobuf.message import Message

from jepsen_lite.session import Session
from jepsen_lite.storelog import encoded
from jepsen_lite.target.base import Target, TargetError
from raftkv.client.aio.pages import Pages
from raftkv.client.errors import ClientError, NotConnected, OutcomeUnknown, TimedOut, Unsupported
from raftkv.client.keys import Namespace
from raftkv.client.statuses import mapped
from raftkv.errors import ApiError, Code, Outcome
from raftkv.kv.audience import Batch
from raftkv.kv.events import decode_event
from raftkv.kv.watches import Watcher
from raftkv.pb import rpc_pb2
from raftkv.replica.effects import LeaseAnswer
from raftkv.sim.cluster import Cluster, Timing
from raftkv.sim.etcd import COMMANDS
from raftkv.sim.leasing import LeaseCall
from raftkv.sim.node import Node
from raftkv.sim.operations import Compact, Delete, Put, Txn
from raftkv.sim.process import CLUSTER_ID
from raftkv.sim.world import MILLISECOND, SECOND, World

Reply = TypeVar("Reply", bound=Message)

RANGE: Final = "/etcdserverpb.KV/Range"
WRITES: Final[Mapping[str, int]] = {
    "/etcdserverpb.KV/Put": COMMANDS[Put],
    "/etcdserverpb.KV/DeleteRange": COMMANDS[Delete],
    "/etcdserverpb.KV/Txn": COMMANDS[Txn],
    "/etcdserverpb.KV/Compact": COMMANDS[Compact],
}
PAUSE_SECONDS: Final = 0.05  # between two attempts
LOOK_SECONDS: Final = 0.1
RECOVER_US: Final = 120 * SECOND
TIMING: Final = Timing(snapshot_count=500, catch_up_entries=100)


class _Call(LeaseCall):
    """The ticket of one call: told by its member, or of its process's end."""

    def __init__(self, node: Node, answer: "asyncio.Future[Any]") -> None:
        self._node = node
        self._answer = answer
        node.hub.open(self)  # type: ignore[arg-type]  # it is told of the end, and never a sink

    def replied(self, result: object) -> None:
        """See LeaseCall."""
        self._node.hub.close(self)  # type: ignore[arg-type]
        self._settle(result)

    def lost(self) -> None:
        """The process has ended with the call."""
        self._settle(ApiError(Code.UNAVAILABLE, "connection lost", Outcome.UNKNOWN))

    def _settle(self, result: object) -> None:
        if not self._answer.done():
            self._answer.set_result(result)


class SimConnection:
    """What the verbs of a client call. members: whom it may ask, in this order."""

    def __init__(
        self, cluster: Cluster, members: list[int], travel: randomness.Random, timeout: float
    ) -> None:
        self._cluster = cluster
        self._members = members
        self._travel = travel
        self._timeout = timeout
        self.revision = 0

    async def call(
        self,
        path: str,
        request: Message,
        reply: type[Reply],
        *,
        write: bool,
        linearizable: bool = False,
        leading: bool = True,
        timeout: float | None = None,
        place: int | None = None,
    ) -> Reply:
        """One call, at one member after the other until one answers. Errors: ClientError."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self._timeout if timeout is None else timeout)
        while True:
            left = deadline - loop.time()
            if left <= 0:
                raise TimedOut("no answer in time", code=Code.DEADLINE_EXCEEDED)
            try:
                answer = await self._ask(self._members[0], path, request, write, left)
            except ClientError as error:
                self._members.append(self._members.pop(0))
                unknown = error.outcome is Outcome.UNKNOWN
                if unknown or not isinstance(error, NotConnected):
                    raise
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            revision, body = answer
            found = reply.FromString(body)
            header: rpc_pb2.ResponseHeader = cast(Any, found).header
            header.cluster_id, header.revision = CLUSTER_ID, revision
            self.revision = max(self.revision, revision)
            return found

    async def _ask(
        self, member: int, path: str, request: Message, write: bool, seconds: float
    ) -> tuple[int, bytes]:
        data, endpoint = request.SerializeToString(), f"member-{member}"
        await self._on_the_way()
        node = self._cluster.nodes[member]
        if not node.up:
            raise NotConnected("connection refused", code=Code.UNAVAILABLE, endpoint=endpoint)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        call = _Call(node, answer)
        node.later(0, _deliver, node, call, path, data, request)
        try:
            async with asyncio.timeout(seconds):
                result = await answer
        except TimeoutError:
            late = TimedOut("no answer in time", code=Code.DEADLINE_EXCEEDED, endpoint=endpoint)
            raise (OutcomeUnknown(late) if write else late) from None
        await self._on_the_way()
        if isinstance(result, ApiError):
            text = result.text
            raise mapped(result.code, text, write=write, endpoint=endpoint)
        assert not isinstance(result, LeaseAnswer)
        return cast("tuple[int, bytes]", result)

    async def _on_the_way(self) -> None:
        await asyncio.sleep((100 + int(self._travel.expovariate(1.0) * 200)) / SECOND)


def _deliver(node: Node, call: _Call, path: str, data: bytes, request: Message) -> None:
    """The request has arrived at the member's process."""
    replica = node.replica
    refusal: ApiError | None
    if path == RANGE:
        if cast(rpc_pb2.RangeRequest, request).serializable:
            call.replied(replica.machine.range(data))
            return
        refusal = replica.read((call, data))
    elif path in WRITES:
        refusal = replica.propose(WRITES[path], data, (call, data))
    else:
        refusal = ApiError(Code.UNIMPLEMENTED, f"{path} is not simulated")
    if refusal is not None:
        call.replied(refusal)
    node.wake()


class SimClient(Session):
    """A session with a simulated cluster: keys, values and transactions."""

    def __init__(self, connection: SimConnection) -> None:
        # Not Session's: nothing is dialled, and there is no thread that keeps leases.
        self._namespace = Namespace(b"")
        self._connection = connection  # type: ignore[assignment]  # it has what verbs need
        self._pages = Pages(self._connection)

    def watch(self, *_: Any, **__: Any) -> Any:
        """Errors: Unsupported."""
        raise Unsupported("watches are not simulated here: see `raftkv.sim`")

    async def stream(self, *_: Any, **__: Any) -> Any:
        """Errors: Unsupported."""
        raise Unsupported("streams are not simulated here: see `raftkv.sim`")

    async def close(self) -> None:
        """There is nothing to close."""


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
        self._travel = world.stream("travel")

    async def start(self) -> None:
        """Starts all members and waits for a leader. Errors: TargetError."""
        self.cluster.start()
        await self.until(lambda: self.cluster.leader() is not None, "has no leader")

    async def stop(self) -> None:
        """Ends all processes."""
        for node in self.cluster.nodes.values():
            node.retire()

    async def session(self, process: int, timeout_seconds: float) -> Session:
        """A client whose first member goes by its process's number."""
        members = list(self.cluster.goal)
        first = process % len(members)
        order = [*members[first:], *members[:first]]
        return SimClient(SimConnection(self.cluster, order, self._travel, timeout_seconds))

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
