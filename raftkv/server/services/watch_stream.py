"""One Watch stream: what the client asks for, and which of its watches there are.

Ids, texts and headers are etcd's. The id of a watch that the server has cancelled stays in use
until the client cancels it too, which is answered once more; so it is in etcd.

A progress request is answered with the published revision when all watches of the stream have
got everything up to it, and not before: what it says about a watch is true when it arrives.
"""

import asyncio
import random
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from raftkv import limits
from raftkv.errors import ApiError
from raftkv.kv.watches import Watcher, normal_range
from raftkv.pb import rpc_pb2
from raftkv.server.clients import ClientProtocol
from raftkv.server.services.context import CANNOT_DECODE
from raftkv.server.services.watch_responses import (
    CANCELED,
    CREATED,
    NO_ID,
    compacted,
    id_field,
    reason,
)
from raftkv.server.services.watch_sink import Share, StreamSink

if TYPE_CHECKING:
    from raftkv.server.services.watch import WatchService

DUPLICATE_ID: Final = "mvcc: duplicate watch ID provided on the WatchStream"
EMPTY_RANGE: Final = "mvcc: watcher range is empty"
TOO_MANY: Final = (
    f"raftkv: there are {limits.MAX_WATCHES_PER_CONNECTION} watches on this connection; "
    "cancel some or open another connection"
)
_NOPUT: Final = rpc_pb2.WatchCreateRequest.NOPUT
_NODELETE: Final = rpc_pb2.WatchCreateRequest.NODELETE


class WatchStream:
    """One call; see the module's docstring."""

    __slots__ = (
        "_asked",
        "_asked_last",
        "_client",
        "_next_id",
        "_notified",
        "_service",
        "_share",
        "_sink",
        "_stream",
        "_timer",
        "_unsynced",
        "_watchers",
    )

    def __init__(
        self, service: "WatchService", client: ClientProtocol, stream: int, share: Share
    ) -> None:
        self._service = service
        self._client = client
        self._stream = stream
        self._share = share
        self._sink = StreamSink(service, client, stream, share, self._members, self._lost)
        self._watchers: dict[int, Watcher | None] = {}  # None: cancelled by the server
        self._next_id = 0
        self._unsynced: Watcher | None = None  # why a progress request has no answer yet
        self._asked = 0  # the oldest revision that a progress request waits for; 0: none waits
        self._asked_last = 0  # the newest one
        self._notified: dict[int, Watcher] = {}  # watches that want bookmarks
        self._timer: asyncio.TimerHandle | None = None

    def _members(self) -> list[Watcher]:
        return [watcher for watcher in self._watchers.values() if watcher is not None]

    # --- what the client says -----------------------------------------------------------
    def message(self, message: bytes) -> None:
        """A request."""
        try:
            request = rpc_pb2.WatchRequest.FromString(message)
        except DecodeError:
            self.abandon(CANNOT_DECODE)
            return
        kind = request.WhichOneof("request_union")
        if kind == "create_request":
            self._create(request.create_request)
        elif kind == "cancel_request":
            self._cancel(request.cancel_request.watch_id)
        elif kind == "progress_request":
            self._ask()

    def half_closed(self) -> None:
        """The client will ask for nothing more; what it watches goes on."""

    def cancelled(self) -> None:
        """The call is gone."""
        self._close()

    def writable(self) -> None:
        """The client has taken nearly all that was queued."""
        self._sink.drained()

    def _create(self, request: rpc_pb2.WatchCreateRequest) -> None:
        service = self._service
        wanted = normal_range(request.key, request.range_end)
        watch_id = request.watch_id
        if wanted is None:
            self._refuse(EMPTY_RANGE)
        elif watch_id and watch_id in self._watchers:
            self._refuse(DUPLICATE_ID)
        elif self._share.watches >= limits.MAX_WATCHES_PER_CONNECTION:
            self._refuse(TOO_MANY)
        else:
            self._share.watches += 1
            watcher = Watcher(
                self._sink,
                watch_id or self._free_id(),
                *wanted,
                self._start(request.start_revision),
                prev_kv=request.prev_kv,
                no_put=_NOPUT in request.filters,
                no_delete=_NODELETE in request.filters,
                progress_notify=request.progress_notify,
                fragment=request.fragment,
            )
            self._sink.tell(service.context.header_now() + id_field(watcher.watch_id) + CREATED)
            self._watchers[watcher.watch_id] = watcher
            if watcher.progress_notify:
                self._notify_of(watcher)
            service.watching.add(watcher)

    def _start(self, revision: int) -> int:
        """Before anything was compacted the revision -1 counts as now, in etcd."""
        compacted_revision = self._service.context.replica.machine.store.compacted
        return 0 if revision == -1 == compacted_revision else revision

    def _free_id(self) -> int:
        while self._next_id in self._watchers:
            self._next_id += 1
        self._next_id += 1
        return self._next_id - 1

    def _refuse(self, text: str) -> None:
        head = self._service.context.header_now() + id_field(NO_ID)
        self._sink.tell(head + CREATED + CANCELED + reason(text))

    def _ask(self) -> None:
        """Progress: whoever has read a revision waits for a bookmark of that one or later."""
        self._asked_last = self._service.context.replica.machine.revision
        self._asked = self._asked or self._asked_last
        if not self.settled():
            self._service.watching.await_settled(self)

    def _cancel(self, watch_id: int) -> None:
        if watch_id not in self._watchers:
            return
        watcher = self._watchers.pop(watch_id)
        if watcher is not None:
            self._service.watching.remove(watcher)
            self._forget(watcher)
        self._share.watches -= 1
        self._sink.tell(self._service.context.header_now() + id_field(watch_id) + CANCELED)

    # --- what the server says -------------------------------------------------------------
    def _lost(self, watcher: Watcher, compact_revision: int) -> None:
        """A watch was cancelled because it came too late for its events."""
        self._watchers[watcher.watch_id] = None
        self._forget(watcher)
        head = self._service.context.header(0) + id_field(watcher.watch_id)
        self._sink.tell(head + compacted(compact_revision))

    def settled(self) -> bool:
        """Answers progress requests that can be answered now; are there no others?"""
        watches = self._service.watching.watches
        # What the present turn has applied but not yet published is not included.
        revision = watches.revision if watches.count else watches.machine.revision
        if watches.amid_publication or revision < self._asked:
            return False
        unsynced, is_synced = self._unsynced, watches.is_synced
        if unsynced is not None and not is_synced(unsynced) and self._is_member(unsynced):
            return False
        for watcher in self._watchers.values():
            if watcher is not None and not is_synced(watcher):
                self._unsynced = watcher
                return False
        self._unsynced = None
        self._sink.tell(self._service.context.header(revision) + id_field(NO_ID))
        self._asked = self._asked_last if revision < self._asked_last else 0
        return not self._asked

    def _is_member(self, watcher: Watcher) -> bool:
        return self._watchers.get(watcher.watch_id) is watcher

    # --- bookmarks --------------------------------------------------------------------------
    def _notify_of(self, watcher: Watcher) -> None:
        self._notified[watcher.watch_id] = watcher
        if self._timer is None:
            # Streams that were opened together should not be served together.
            seconds = self._service.notify_seconds * (1 + random.random() / 10)
            self._timer = self._client.driver.loop.call_later(seconds, self._notify, seconds)

    def _notify(self, seconds: float) -> None:
        """A bookmark for each watch that asked for them, has got everything and had no event."""
        self._timer = None
        if not self._notified:
            return
        self._timer = self._client.driver.loop.call_later(seconds, self._notify, seconds)
        loud, sink, watches = self._sink.loud, self._sink, self._service.watching.watches
        for watch_id, watcher in self._notified.items():
            if watcher not in loud and watches.is_synced(watcher):
                revision = watches.seen(watcher)
                if revision and not sink.full():
                    sink.tell(self._service.context.header(revision) + id_field(watch_id))
        loud.clear()

    def _forget(self, watcher: Watcher) -> None:
        if watcher.progress_notify:
            self._notified.pop(watcher.watch_id, None)
            self._sink.loud.discard(watcher)

    # --- the end ----------------------------------------------------------------------------
    def abandon(self, error: ApiError) -> None:
        """Ends the call with an error, behind what was sent."""
        self._sink.flush()
        client = self._client
        client.fail(self._stream, error)
        client.routes.finished(client, self._stream)
        client.driver.mark_dirty(client)
        self._close()

    def _close(self) -> None:
        if self._sink.closed:
            return
        self._sink.closed = True
        service = self._service
        service.watching.forget(self)
        service.watching.retire(self._members())
        self._share.watches -= len(self._watchers)
        service.closed(self, self._client, self._share)
        self._watchers.clear()
        self._notified.clear()
        if self._timer is not None:
            self._timer.cancel()
