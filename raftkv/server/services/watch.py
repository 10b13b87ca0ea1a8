"""etcdserverpb.Watch: its streams, what they share, and what ends them all.

The hub hands the same batch of events to every watcher that asked for the same. `lead` makes what
is equal in their responses once: the gRPC prefix and the header. So a response costs its stream
three references (lead, watch id, the batch's joined bytes), and everything that a stream was
given in a turn is joined and framed once.

A stream that asked for it (metadata `hasleader`) ends when this member has known no leader for an
election timeout. Noticing that a leader is gone takes a member up to two more, so the client
hears of it within three.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from raftkv import limits
from raftkv.errors import NO_LEADER, STOPPED, ApiError
from raftkv.kv.audience import Batch
from raftkv.raft.types import NOBODY
from raftkv.server.clients import ClientProtocol
from raftkv.server.routes import Call, Routes
from raftkv.server.services.context import Context
from raftkv.server.services.watch_responses import WATCH_ID_TAG
from raftkv.server.services.watch_stream import WatchStream
from raftkv.server.watching import Watching
from raftkv.wire.frames import PREFIX
from raftkv.wire.grpc import RequestHead

_EMPTY: Final = Batch()


class WatchService:
    """Makes one `WatchStream` per call; counts are plain integers.

    notify_seconds: between the bookmarks of watches that asked for them and had no events.
    election_timeout_seconds: how long a stream that wants a leader bears to have none.
    """

    def __init__(
        self,
        context: Context,
        watching: Watching,
        notify_seconds: float,
        election_timeout_seconds: float,
    ) -> None:
        self.context = context
        self.watching = watching
        self.notify_seconds = notify_seconds
        # A response that is to be fragmented stays below this (etcd: a request and gRPC's part).
        self.fragment_bytes = context.max_request_bytes + limits.GRPC_OVERHEAD_BYTES
        self._large_bytes = min(limits.WATCH_RESPONSE_BYTES, self.fragment_bytes // 2)
        self.streams: dict[WatchStream, None] = {}
        self.batch = _EMPTY  # the batch that `body` and the leads are of
        self.body = b""
        self.large = False  # the batch needs more than one response
        self._last = 0
        self._leads: dict[int, tuple[bytes, int]] = {}
        self._held: dict[ClientProtocol, int] = {}  # watches per connection
        self._patience_seconds = election_timeout_seconds
        self._no_leader: asyncio.TimerHandle | None = None
        context.driver.role_listeners.append(self._role_changed)

    def register(self, routes: Routes) -> None:
        """Adds the path."""
        routes.streams[b"/etcdserverpb.Watch/Watch"] = self.open
        routes.ends.append(self.drain)

    # --- counts ---------------------------------------------------------------------
    @property
    def watchers(self) -> int:
        """Watches that are open."""
        return self.watching.watches.count

    @property
    def slow_watchers(self) -> int:
        """Watches that have not got everything yet."""
        return self.watching.watches.behind

    @property
    def events(self) -> int:
        """Events delivered since the start."""
        return self.watching.watches.delivered_events

    @property
    def backlog(self) -> int:
        """Revisions that the watch furthest behind has still to get."""
        return self.watching.watches.backlog

    # --- streams --------------------------------------------------------------------
    def open(self, client: ClientProtocol, stream: int, head: RequestHead) -> Call:
        """A stream begins."""
        call = WatchStream(self, client, stream, wants_leader=b"hasleader" in head.metadata)
        error = self.context.refusal(head)
        if error is None:
            self.streams[call] = None
        else:
            call.end(error)
        return call

    def closed(self, stream: WatchStream) -> None:
        """A stream is gone."""
        self.streams.pop(stream, None)

    def admit(self, client: ClientProtocol) -> bool:
        """Counts one more watch of a connection. False: it has as many as it may have."""
        held = self._held.get(client, 0)
        if held >= limits.MAX_WATCHES_PER_CONNECTION:
            return False
        self._held[client] = held + 1
        return True

    def dismiss(self, client: ClientProtocol, count: int) -> None:
        """So many watches of a connection are gone."""
        left = self._held.get(client, 0) - count
        if left > 0:
            self._held[client] = left
        else:
            self._held.pop(client, None)

    # --- responses ------------------------------------------------------------------
    def prepare(self, batch: Batch, last: int) -> None:
        """Makes what the responses with `batch`, which ends at revision `last`, have in common."""
        self.batch = batch
        self.body = batch.joined()
        self.large = len(self.body) > self._large_bytes and len(batch) > 1
        self._last = last
        self._leads.clear()

    def lead(self, id_bytes: int) -> tuple[bytes, int]:
        """What comes before a watch id of `id_bytes` (0: the id 0, which is left out), and the
        size of the whole response with its prefix.
        """
        known = self._leads.get(id_bytes)
        if known is None:
            head = self.context.header(self._last)
            if id_bytes:
                head += WATCH_ID_TAG
            size = len(head) + id_bytes + len(self.body)
            known = self._leads[id_bytes] = (PREFIX.pack(0, size) + head, size + 5)
        return known

    # --- ends -----------------------------------------------------------------------
    def drain(self) -> None:
        """This member stops: its watches go on elsewhere."""
        self._end_some(lambda stream: True, STOPPED)
        self.watching.stop()
        if self._no_leader is not None:
            self._no_leader.cancel()

    def _end_some(self, which: Callable[[WatchStream], bool], error: ApiError) -> None:
        for stream in list(self.streams):
            if which(stream):
                stream.end(error)

    def _role_changed(self) -> None:
        if self.context.replica.leader != NOBODY:
            if self._no_leader is not None:
                self._no_leader.cancel()
                self._no_leader = None
        elif self._no_leader is None:
            loop = self.context.driver.loop
            self._no_leader = loop.call_later(self._patience_seconds, self._leader_missed)

    def _leader_missed(self) -> None:
        self._no_leader = None
        self._end_some(lambda stream: stream.wants_leader, NO_LEADER)
