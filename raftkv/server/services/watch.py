"""etcdserverpb.Watch: its streams and what they share.

The hub hands the same batch of events to every watcher that asked for the same. `lead` makes what
is equal in their responses once: the gRPC prefix and the header. So a response costs its stream
three references (lead, watch id, the batch's joined bytes), and everything that a stream was
given in a turn is joined and framed once.
"""

from typing import Final

from raftkv import limits
from raftkv.kv.audience import Batch
from raftkv.kv.fragments import Part, whole_revisions
from raftkv.server.clients import ClientProtocol
from raftkv.server.routes import Call, Routes
from raftkv.server.services.context import Context
from raftkv.server.services.watch_responses import WATCH_ID_TAG
from raftkv.server.services.watch_sink import Share
from raftkv.server.services.watch_stream import WatchStream
from raftkv.wire.frames import PREFIX
from raftkv.wire.grpc import RequestHead

_EMPTY: Final = Batch()
_MARGIN_BYTES: Final = 256  # more than a header and a watch id


class WatchService:
    """Makes one `WatchStream` per call.

    notify_seconds: between the bookmarks of watches that asked for them and had no events.
    """

    def __init__(self, context: Context, notify_seconds: float) -> None:
        self.context = context
        self.watching = context.driver.watches
        self.notify_seconds = notify_seconds
        # A response that is to be fragmented stays below this (etcd: a request and gRPC's part).
        self.fragment_bytes = context.max_request_bytes + limits.GRPC_OVERHEAD_BYTES
        self._large_bytes = min(limits.WATCH_RESPONSE_BYTES, self.fragment_bytes - _MARGIN_BYTES)
        self.batch = _EMPTY  # the batch that `body` and the leads are of
        self.body = b""
        self.parts: list[Part] = []  # instead of `body`, if the batch needs several responses
        self._last = 0
        self._leads: dict[int, tuple[bytes, int]] = {}
        self._shares: dict[ClientProtocol, Share] = {}

    def register(self, routes: Routes) -> None:
        """Adds the path."""
        routes.streams[b"/etcdserverpb.Watch/Watch"] = self.open

    # --- streams --------------------------------------------------------------------
    def open(self, client: ClientProtocol, stream: int, head: RequestHead) -> Call:
        """A stream begins."""
        share = self._shares.get(client)
        if share is None:
            share = self._shares[client] = Share()
        share.streams += 1
        self.watching.streams += 1
        call = WatchStream(self, client, stream, share)
        self.context.long_streams.add(call, head)
        error = self.context.refusal(head)
        if error is not None:
            call.abandon(error)
        return call

    def closed(self, stream: WatchStream, client: ClientProtocol, share: Share) -> None:
        """A stream is gone."""
        self.context.long_streams.remove(stream)
        self.watching.streams -= 1
        share.streams -= 1
        if not share.streams:
            del self._shares[client]

    # --- responses ------------------------------------------------------------------
    def prepare(self, batch: Batch, last: int) -> None:
        """Makes what the responses with `batch`, which ends at revision `last`, have in common."""
        self.batch = batch
        self.body = batch.joined()
        self.parts = []
        if len(self.body) > self._large_bytes and len(batch) > 1:
            self.parts = list(whole_revisions(batch, last, limits.WATCH_RESPONSE_BYTES))
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
