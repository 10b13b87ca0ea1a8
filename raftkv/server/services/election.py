"""v3electionpb.Election: Campaign, Proclaim, Leader, Observe, Resign.

An election is a queue of keys (`services.queueing`); the oldest one's holder leads, and its value
is what the leader proclaims. The name, key, create revision and lease that Campaign answers are
all the proof of leadership that Proclaim and Resign ask for.

Better than etcd: a candidate whose key went while it waited is told so and does not lead (C04).
"""

from collections.abc import Callable
from typing import Any, Final

from google.protobuf.message import DecodeError

from raftkv.errors import (
    ELECTION_NO_LEADER,
    ELECTION_NOT_LEADER,
    LEADER_KEY_MISSING,
    ApiError,
)
from raftkv.kv.audience import Batch
from raftkv.kv.encoding import bytes_field
from raftkv.kv.events import decode_event
from raftkv.kv.watches import Watcher
from raftkv.kv.watchindex import prefix_end
from raftkv.pb import election_pb2, kv_pb2
from raftkv.server.clients import ClientProtocol
from raftkv.server.routes import Call, Routes
from raftkv.server.services.context import CANNOT_DECODE, Context
from raftkv.server.services.longcall import LongCall, as_told
from raftkv.server.services.queueing import Place, Queues, copy_of, leaving, prefix_of
from raftkv.server.watching import Watching
from raftkv.wire.grpc import RequestHead

QUEUED_BYTES: Final = 256 * 1024  # not taken by an observer: skip values until it reads again
_FIELD_2: Final = 0x12  # CampaignResponse.leader, LeaderResponse.kv

_UNKNOWN: Final = Batch()  # in place of events that are compacted


class ElectionService:
    """The Election service of one member."""

    def __init__(self, context: Context, queues: Queues, watching: Watching) -> None:
        self._context = context
        self._queues = queues
        self._watching = watching

    def register(self, routes: Routes) -> None:
        """Adds the service's paths."""
        path = b"/v3electionpb.Election/"
        routes.unary[path + b"Campaign"] = self.campaign
        routes.unary[path + b"Proclaim"] = self.proclaim
        routes.unary[path + b"Leader"] = self.leader
        routes.unary[path + b"Resign"] = self.resign
        routes.streams[path + b"Observe"] = self.observe

    def campaign(
        self, client: ClientProtocol, stream: int, head: RequestHead, message: bytes
    ) -> None:
        """Election.Campaign: answers when the caller leads."""
        request = election_pb2.CampaignRequest()
        if self._is_well(client, stream, head, message, request):
            LongCall(client, stream, self._campaign(request, head))

    def proclaim(
        self, client: ClientProtocol, stream: int, head: RequestHead, message: bytes
    ) -> None:
        """Election.Proclaim: a new value of the one who leads."""
        request = election_pb2.ProclaimRequest()
        if self._is_well(client, stream, head, message, request):
            LongCall(client, stream, self._proclaim(request))

    def leader(
        self, client: ClientProtocol, stream: int, head: RequestHead, message: bytes
    ) -> None:
        """Election.Leader: who leads now."""
        request = election_pb2.LeaderRequest()
        if self._is_well(client, stream, head, message, request):
            LongCall(client, stream, self._leader(request))

    def resign(
        self, client: ClientProtocol, stream: int, head: RequestHead, message: bytes
    ) -> None:
        """Election.Resign: gives leadership, or a place in the queue, up."""
        request = election_pb2.ResignRequest()
        if self._is_well(client, stream, head, message, request):
            LongCall(client, stream, self._resign(request))

    def observe(self, client: ClientProtocol, stream: int, head: RequestHead) -> Call:
        """Election.Observe begins."""
        return Observation(self._context, self._queues, self._watching, client, stream, head)

    def _is_well(
        self,
        client: ClientProtocol,
        stream: int,
        head: RequestHead,
        message: bytes,
        request: Any,
    ) -> bool:
        """Reads `message` into `request`; False: the call has ended with an error."""
        error = self._context.refusal(head)
        if error is None:
            try:
                request.MergeFromString(message)
            except DecodeError:
                error = CANNOT_DECODE
        if error is not None:
            client.fail(stream, error)
        return error is None

    # --- what the calls do ---------------------------------------------------------

    async def _campaign(self, request: election_pb2.CampaignRequest, head: RequestHead) -> bytes:
        first = await self._queues.become_first(
            request.name, request.lease, request.value, ELECTION_NOT_LEADER, head
        )
        place = first.place
        leader = election_pb2.LeaderKey(
            name=request.name, key=place.key, rev=place.create_revision, lease=place.lease
        )
        header = self._context.header(first.entered_revision)
        return header + bytes_field(_FIELD_2, leader.SerializeToString())

    async def _proclaim(self, request: election_pb2.ProclaimRequest) -> bytes:
        place = _place(request)
        if not place.lease:  # etcd gives such a leader a lease of the server's own, too
            place = place._replace(lease=await self._queues.grant())
        return self._context.header(await self._queues.proclaim(place, request.value))

    async def _leader(self, request: election_pb2.LeaderRequest) -> bytes:
        await self._queues.confirm()
        revision, found = self._queues.oldest(request.name)
        if found is None:
            raise copy_of(ELECTION_NO_LEADER)
        return _leader_response(self._context.header(revision), found)

    async def _resign(self, request: election_pb2.ResignRequest) -> bytes:
        revision, _ = await self._queues.transact(leaving(_place(request)))
        return self._context.header(revision)


def _place(request: election_pb2.ProclaimRequest | election_pb2.ResignRequest) -> Place:
    """Where the caller says that it leads. Raises ApiError if it does not say."""
    if not request.HasField("leader"):
        raise copy_of(LEADER_KEY_MISSING)
    leader = request.leader
    return Place(prefix_of(leader.name), leader.key, leader.lease, leader.rev)


def _leader_response(header: bytes, pair: kv_pb2.KeyValue) -> bytes:
    return header + bytes_field(_FIELD_2, pair.SerializeToString())


class Ear:
    """The sink of what an observation watches."""

    def __init__(self, hear: Callable[[Watcher, int, Batch], None]) -> None:
        self._hear = hear

    def deliver(self, watcher: Watcher, first: int, last: int, events: Batch) -> None:
        """Something has changed."""
        self._hear(watcher, last, events)

    def full(self) -> bool:
        """Never: what a client does not take is not kept."""
        return False

    def cancelled(self, watcher: Watcher, compact_revision: int) -> None:
        """What happened is compacted; the present is not."""
        self._hear(watcher, compact_revision, _UNKNOWN)


class Observation:
    """One Observe stream: the present leader, then every change, never an older after a newer.

    Behind a read index, who leads is read from this member's state, which only moves forward; so
    the stream does (C08). While somebody leads, its key alone is watched; while nobody does, all
    keys of the queue are. A client that does not read misses values, and is told who leads when
    it reads again.
    """

    def __init__(
        self,
        context: Context,
        queues: Queues,
        watching: Watching,
        client: ClientProtocol,
        stream: int,
        head: RequestHead,
    ) -> None:
        self._context = context
        self._queues = queues
        self._watching = watching
        self._client = client
        self._stream = stream
        self._head = head
        self._name: bytes | None = None
        self._ear = Ear(self._heard)
        self._watcher: Watcher | None = None
        self._sent = (0, 0)  # create and mod revision of what was sent last
        self._skipping = False  # the client does not read
        self._ended = False

    # --- what the client says ---------------------------------------------------------

    def message(self, message: bytes) -> None:
        """The request."""
        if self._name is not None or self._ended:
            return
        error = self._context.refusal(self._head)
        try:
            self._name = election_pb2.LeaderRequest.FromString(message).name
        except DecodeError:
            error = CANNOT_DECODE
        if error is None:
            error = self._context.read((self._confirmed,))
            self._context.driver.wake()
        if error is not None:
            self._client.fail(self._stream, error)
            self._close()
            return
        self._context.long_streams.add(self, self._head)

    def half_closed(self) -> None:
        """Nothing more to hear."""

    def cancelled(self) -> None:
        """The client is gone."""
        self._ended = True
        self._context.long_streams.remove(self)
        self._unwatch()

    def writable(self) -> None:
        """The client has taken what was sent; who leads meanwhile?"""
        if self._skipping:
            self._skipping = False
            self._follow()

    # --- the work ------------------------------------------------------------------------

    def _confirmed(self, ticket: Any, error: ApiError | None) -> None:
        if error is None:
            self._follow()
        else:
            self.abandon(error)

    def _follow(self) -> None:
        """Tells who leads now, unless it was told, and watches for what comes next."""
        if self._ended:
            return
        assert self._name is not None
        revision, found = self._queues.oldest(self._name)
        if found is None:
            prefix = prefix_of(self._name)
            self._watch(prefix, prefix_end(prefix), no_delete=True)
            return
        self._watch(found.key, b"", no_delete=False)
        if (found.create_revision, found.mod_revision) > self._sent:
            self._send(revision, found)

    def _watch(self, key: bytes, end: bytes, *, no_delete: bool) -> None:
        self._unwatch()
        self._watcher = Watcher(self._ear, 0, key, end, no_delete=no_delete)
        self._watching.add(self._watcher)

    def _unwatch(self) -> None:
        if self._watcher is not None:
            self._watching.remove(self._watcher)
            self._watcher = None

    def _heard(self, watcher: Watcher, last: int, events: Batch) -> None:
        """The leader's key has changed, or a key has come where none was."""
        if watcher is not self._watcher:
            return
        if watcher.end or events is _UNKNOWN:
            self._follow()
            return
        for framed in events:
            event = decode_event(framed)
            if event.deleted:
                self._follow()
                return
            self._send(last, kv_pb2.KeyValue(**event.kv._asdict()))
            if self._skipping:
                return

    def _send(self, revision: int, pair: kv_pb2.KeyValue) -> None:
        self._sent = (pair.create_revision, pair.mod_revision)
        client = self._client
        answer = _leader_response(self._context.header(revision), pair)
        client.connection.send(self._stream, answer)
        client.driver.mark_dirty(client)
        if client.connection.queued(self._stream) > QUEUED_BYTES:
            self._skipping = True
            self._unwatch()

    def abandon(self, error: ApiError) -> None:
        """Ends the stream with an error."""
        if not self._ended:
            self._client.fail(self._stream, as_told(error))
            self._close()

    def _close(self) -> None:
        self.cancelled()
        self._client.routes.finished(self._client, self._stream)
        self._client.driver.mark_dirty(self._client)
