"""The server's end of a client's calls in the simulated world: what they become in a member.

Members of `raftkv.sim` have the real replica, leases and hub of watches, but no gRPC services. Here
is what these do with a request, in a process that may be paused, slow or gone: it asks the replica,
and what the replica or the hub says goes back as the bytes of an answer. Ends of streams are told
when their process ends (`raftkv.sim.hub.Outlet`).

Paths that are missing here are UNIMPLEMENTED.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from random import Random
from typing import TYPE_CHECKING, Any, Final

from raftkv.errors import ApiError, Code, Outcome
from raftkv.kv.audience import Batch
from raftkv.kv.commands import LEASE_GRANT, LEASE_REVOKE
from raftkv.kv.fragments import fragments, whole_revisions
from raftkv.kv.leases import grant_request, revoke_request
from raftkv.kv.watches import Watcher, normal_range
from raftkv.pb import rpc_pb2
from raftkv.replica.effects import LeaseAnswer
from raftkv.sim.etcd import COMMANDS
from raftkv.sim.leasing import LeaseCall
from raftkv.sim.node import Node
from raftkv.sim.operations import Compact, Delete, Put, Txn
from raftkv.sim.process import CLUSTER_ID
from raftkv.sim.world import MILLISECOND

if TYPE_CHECKING:
    from jepsen_lite.target.simchannel import SimCall

Answer = bytes | ApiError

KV, LEASE = "/etcdserverpb.KV/", "/etcdserverpb.Lease/"
WRITES: Final[Mapping[str, int]] = {
    KV + "Put": COMMANDS[Put],
    KV + "DeleteRange": COMMANDS[Delete],
    KV + "Txn": COMMANDS[Txn],
    KV + "Compact": COMMANDS[Compact],
}
ANY_KEY: Final = rpc_pb2.RangeRequest(key=b"\0", count_only=True).SerializeToString()
CAPACITIES: Final = (1, 8, 100)  # unread responses that fill a stream; one is drawn
RESPONSE_BYTES: Final = 6000  # longer batches become several responses
FRAGMENT_BYTES: Final = 2500  # longer responses are cut for who wants fragments
SETTLE_US: Final = 2 * MILLISECOND  # between looks whether a question for progress can be answered
BOOKMARK_US: Final = 400 * MILLISECOND
ALL_WATCHES: Final = -1
COMPACTED: Final = "etcdserver: mvcc: required revision has been compacted"
LOST: Final = ApiError(Code.UNAVAILABLE, "connection lost", Outcome.UNKNOWN)


def header(node: Node, revision: int) -> rpc_pb2.ResponseHeader:
    """Of an answer of this member."""
    return rpc_pb2.ResponseHeader(
        cluster_id=CLUSTER_ID, member_id=node.member, revision=revision, raft_term=node.term
    )


def _with_header(node: Node, revision: int, body: bytes) -> bytes:
    """An answer: its field 1, and all others."""
    return rpc_pb2.PutResponse(header=header(node, revision)).SerializeToString() + body


# --- single calls -------------------------------------------------------------------------
class Ticket(LeaseCall):
    """One call at a member: told the answer, or of the end of the process, once.

    done: gets the bytes of the answer, or the error.
    """

    def __init__(self, node: Node, done: Callable[[Answer], None]) -> None:
        self._node = node
        self._told: Callable[[Answer], None] | None = done
        node.hub.open(self)  # type: ignore[arg-type]  # it is told of the end, and never a sink

    def replied(self, result: object) -> None:
        """See LeaseCall."""
        self._node.hub.close(self)  # type: ignore[arg-type]
        if isinstance(result, ApiError):
            self._tell(result)
        elif isinstance(result, LeaseAnswer):
            self._tell(self.of_the_clock(result))
        else:
            assert isinstance(result, tuple)
            self._tell(_with_header(self._node, *result))

    def of_the_clock(self, answer: LeaseAnswer) -> bytes:
        """What is left of a lease."""
        return rpc_pb2.LeaseTimeToLiveResponse(
            header=header(self._node, self._node.replica.machine.revision),
            ID=answer.lease,
            TTL=answer.ttl_seconds,
            grantedTTL=answer.granted_seconds,
        ).SerializeToString()

    def lost(self) -> None:
        """The process has ended with the call."""
        self._tell(LOST)

    def _tell(self, answer: Answer) -> None:
        done, self._told = self._told, None
        if done is not None:
            done(answer)


class _Confirmed(LeaseCall):
    """A read that is followed by another question to the same member."""

    def __init__(self, ticket: Ticket, ask: Callable[[], ApiError | None]) -> None:
        self._ticket = ticket
        self._ask = ask

    def replied(self, result: object) -> None:
        """See LeaseCall."""
        refusal = result if isinstance(result, ApiError) else self._ask()
        if refusal is not None:
            self._ticket.replied(refusal)


def serve(node: Node, path: str, data: bytes, ticket: Ticket) -> None:
    """A request has arrived at the member's process."""
    refusal = _asked(node, path, data, ticket)
    if refusal is not None:
        ticket.replied(refusal)
    node.wake()


def _asked(node: Node, path: str, data: bytes, ticket: Ticket) -> ApiError | None:
    replica = node.replica
    if path == KV + "Range":
        if not rpc_pb2.RangeRequest.FromString(data).serializable:
            return replica.read((ticket, data))
        ticket.replied(replica.machine.range(data))
        return None
    if path in WRITES:
        return replica.propose(WRITES[path], data, (ticket, data))
    if path == LEASE + "LeaseGrant":
        grant = rpc_pb2.LeaseGrantRequest.FromString(data)
        timing = node.cluster.timing
        least_ms = 3 * timing.election_ticks * timing.tick_us // (2 * MILLISECOND)
        request = grant_request(grant.ID, max(grant.TTL, -(-least_ms // 1000)) * 1000)
        return replica.propose(LEASE_GRANT, request, (ticket, b""))
    if path == LEASE + "LeaseRevoke":
        request = revoke_request(rpc_pb2.LeaseRevokeRequest.FromString(data).ID)
        return replica.propose(LEASE_REVOKE, request, (ticket, b""))
    if path == LEASE + "LeaseTimeToLive":
        lease = rpc_pb2.LeaseTimeToLiveRequest.FromString(data).ID

        def left() -> ApiError | None:
            node.wake()
            return node.replica.time_to_live(lease, (ticket, b""))

        return replica.read((_Confirmed(ticket, left), ANY_KEY))
    return ApiError(Code.UNIMPLEMENTED, f"{path} is not simulated")


# --- streams --------------------------------------------------------------------------------
class End(ABC):
    """The server's end of a stream, in one process of a member. call: the client's end."""

    def __init__(self, node: Node, call: "SimCall", random: Random) -> None:
        self.node = node
        self.call = call
        self.closed = False
        self._capacity = random.choice(CAPACITIES)
        node.hub.open(self)  # type: ignore[arg-type]  # the watches' is a sink, others are told

    @abstractmethod
    def message(self, data: bytes) -> None:
        """A request."""

    def full(self) -> bool:
        """The client is to read before it gets more (see Sink)."""
        return self.call.unread >= self._capacity

    def drained(self) -> None:  # noqa: B027  (nothing to send)
        """The client has read."""

    def later(self, delay_us: int, act: Callable[[], None]) -> None:
        """In this process, unless the stream is closed by then."""

        def guarded() -> None:
            if not self.closed:
                act()

        self.node.later(delay_us, guarded)

    def header_now(self) -> rpc_pb2.ResponseHeader:
        """A header with the revision that this member has applied."""
        return header(self.node, self.node.replica.machine.revision)

    def close(self) -> None:
        """The client has gone."""
        if not self.closed:
            self.closed = True
            self.node.hub.close(self)  # type: ignore[arg-type]

    def lost(self) -> None:
        """See Outlet."""
        if not self.closed:
            self.closed = True
            self.call.arrive_later(LOST)


class KeepAliveEnd(End):
    """Lease.LeaseKeepAlive."""

    def message(self, data: bytes) -> None:
        """A question for a renewal."""
        lease = rpc_pb2.LeaseKeepAliveRequest.FromString(data).ID
        ticket = _Renewal(self)
        refusal = self.node.replica.renew(lease, (ticket, b""))
        if refusal is not None:
            ticket.replied(refusal)
        self.node.wake()


class _Renewal(LeaseCall):
    def __init__(self, end: KeepAliveEnd) -> None:
        self._of = end

    def replied(self, result: object) -> None:
        """See LeaseCall."""
        end = self._of
        if end.closed:
            return
        if isinstance(result, ApiError):
            end.call.arrive_later(result)
            end.close()
            return
        assert isinstance(result, LeaseAnswer)
        answer = rpc_pb2.LeaseKeepAliveResponse(
            header=end.header_now(), ID=result.lease, TTL=result.ttl_seconds
        )
        end.call.arrive_later(answer.SerializeToString())


class WatchEnd(End):
    """Watch.Watch: the sink of its watches, as the server's own stream (etcd API, Watch)."""

    def __init__(self, node: Node, call: "SimCall", random: Random) -> None:
        super().__init__(node, call, random)
        self._watchers: dict[int, Watcher] = {}
        self._next_id = 0
        self._asked = 0  # a question for progress waits for this revision; 0: none
        self.later(BOOKMARK_US, self._bookmarks)

    # --- what the client says -----------------------------------------------------------
    def message(self, data: bytes) -> None:
        """A request."""
        request = rpc_pb2.WatchRequest.FromString(data)
        kind = request.WhichOneof("request_union")
        if kind == "create_request":
            self._create(request.create_request)
        elif kind == "cancel_request":
            self._cancel(request.cancel_request.watch_id)
        elif kind == "progress_request":
            waits = self._asked
            self._asked = self.node.replica.machine.revision
            if not waits:
                self._settle()

    def _create(self, asked: rpc_pb2.WatchCreateRequest) -> None:
        filters = rpc_pb2.WatchCreateRequest
        wanted = normal_range(asked.key, asked.range_end)
        assert wanted is not None, "no workload asks for an empty range"
        watcher = Watcher(
            self,
            self._next_id,
            *wanted,
            asked.start_revision,
            prev_kv=asked.prev_kv,
            no_put=filters.NOPUT in asked.filters,
            no_delete=filters.NODELETE in asked.filters,
            progress_notify=asked.progress_notify,
            fragment=asked.fragment,
        )
        self._next_id += 1
        self._watchers[watcher.watch_id] = watcher
        self._tell(rpc_pb2.WatchResponse(watch_id=watcher.watch_id, created=True))
        self.node.hub.add(watcher, self)

    def _cancel(self, watch_id: int) -> None:
        watcher = self._watchers.pop(watch_id, None)
        if watcher is not None:
            self.node.hub.remove(watcher, self)
            self._tell(rpc_pb2.WatchResponse(watch_id=watch_id, canceled=True))

    # --- what the server says -------------------------------------------------------------
    def _tell(self, response: rpc_pb2.WatchResponse, revision: int = 0, body: bytes = b"") -> None:
        """body: fields behind those of `response`. revision: of its header; 0: what is applied."""
        known = header(self.node, revision) if revision else self.header_now()
        response.header.CopyFrom(known)
        self.call.arrive_later(response.SerializeToString() + body)

    def deliver(self, watcher: Watcher, first: int, last: int, events: Batch) -> None:
        """See Sink."""
        parts: list[tuple[int, list[bytes]]] = [(last, events)]
        if len(events.joined()) > RESPONSE_BYTES:
            parts = list(whole_revisions(events, last, RESPONSE_BYTES))
        for revision, part in parts:
            bodies = [b"".join(part)]
            if watcher.fragment:
                bodies = list(fragments(b"", part, FRAGMENT_BYTES))
            for body in bodies:
                self._tell(rpc_pb2.WatchResponse(watch_id=watcher.watch_id), revision, body)

    def cancelled(self, watcher: Watcher, compact_revision: int) -> None:
        """See Sink."""
        del self._watchers[watcher.watch_id]
        self._tell(
            rpc_pb2.WatchResponse(
                watch_id=watcher.watch_id,
                canceled=True,
                compact_revision=compact_revision,
                cancel_reason=COMPACTED,
            )
        )

    def drained(self) -> None:
        """See End."""
        self.node.hub.wake(list(self._watchers.values()))

    def _settle(self) -> None:
        """Answers a question for progress when every watch of the stream has got everything."""
        hub = self.node.hub.watches
        assert hub is not None
        revision = hub.revision if hub.count else hub.machine.revision
        settled = revision >= self._asked and not hub.amid_publication
        if settled and all(hub.is_synced(watcher) for watcher in self._watchers.values()):
            self._asked = 0
            self._tell(rpc_pb2.WatchResponse(watch_id=ALL_WATCHES), revision)
        else:
            self.later(SETTLE_US, self._settle)

    def _bookmarks(self) -> None:
        """For each watch that asked for them and has got everything."""
        hub = self.node.hub.watches
        assert hub is not None
        for watcher in self._watchers.values():
            if watcher.progress_notify and hub.is_synced(watcher) and not self.full():
                revision = hub.seen(watcher)
                if revision:
                    self._tell(rpc_pb2.WatchResponse(watch_id=watcher.watch_id), revision)
        self.later(BOOKMARK_US, self._bookmarks)

    def close(self) -> None:
        """See End."""
        if not self.closed:
            for watcher in self._watchers.values():
                self.node.hub.remove(watcher, self)
            super().close()


ENDS: Final[Mapping[str, Any]] = {
    "/etcdserverpb.Watch/Watch": WatchEnd,
    LEASE + "LeaseKeepAlive": KeepAliveEnd,
}
