"""The sink of all watches of one stream: responses are gathered, then sent together.

While the hub delivers, each response is three references. When the turn or slice is over, `flush`
joins them and gives them to the connection. What the client has not taken is queued there. A
stream with much queued is full, and its watches fall behind without keeping anything: from
`WATCH_HISTORY_BYTES` on for events of history, from `WATCH_STREAM_BYTES` on for those of now, so
that a watch that catches up does not hold up the others. When the queue has drained they go on
from the revision rows.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from raftkv import limits
from raftkv.kv.audience import Batch
from raftkv.kv.encoding import SMALL_VARINTS, varint
from raftkv.kv.fragments import fragments
from raftkv.kv.watches import Watcher
from raftkv.server.clients import ClientProtocol
from raftkv.server.services.watch_responses import id_field
from raftkv.wire.frames import PREFIX

if TYPE_CHECKING:
    from raftkv.server.services.watch import WatchService

_FEW: Final = len(SMALL_VARINTS)
# Below every limit of what may be queued.
_LITTLE_BYTES: Final = 16 * limits.KIB


class Share:
    """What the watch streams of one connection have in common.

    streams, watches: how many there are. load: bytes that wait in the connection, as last
    measured, and gathered since.
    """

    __slots__ = ("load", "streams", "watches")

    def __init__(self) -> None:
        self.load = self.streams = self.watches = 0


class StreamSink:
    """See the module's docstring.

    members: the stream's watches. lost: called for a watch that compaction has overtaken, with
    the compacted revision.
    """

    __slots__ = (
        "_client",
        "_load",
        "_lost",
        "_members",
        "_parts",
        "_refused",
        "_service",
        "_stream",
        "closed",
        "loud",
        "share",
    )

    def __init__(
        self,
        service: "WatchService",
        client: ClientProtocol,
        stream: int,
        share: Share,
        members: Callable[[], Iterable[Watcher]],
        lost: Callable[[Watcher, int], None],
    ) -> None:
        self.closed = False
        self.share = share
        self.loud: set[Watcher] = set()  # watches that want bookmarks and had events
        self._service = service
        self._client = client
        self._stream = stream
        self._members = members
        self._lost = lost
        self._parts: list[bytes] = []
        self._load = 0  # bytes queued, as last measured, and gathered since
        self._refused = False  # the hub was told that the stream is full

    # --- for the hub (kv.audience.Sink) ---------------------------------------------------
    def full(self) -> bool:
        """Whether as much is queued as may be."""
        share = self.share
        if self._load < _LITTLE_BYTES and share.load < _LITTLE_BYTES:
            return False  # as nearly always
        room = (
            limits.WATCH_STREAM_BYTES
            if self._service.watching.publishing
            else limits.WATCH_HISTORY_BYTES
        )
        if self._load < room and share.load < limits.WATCH_CONNECTION_BYTES:
            return False
        self._send()
        connection = self._client.connection
        self._load = connection.queued(self._stream)
        if not self._service.watching.gathering:
            share.load = connection.queued_total()
        if self._load < room and share.load < limits.WATCH_CONNECTION_BYTES:
            return False
        self._refused = True
        return True

    def deliver(self, watcher: Watcher, first: int, last: int, events: Batch) -> None:
        """One response for one watch, of parts that it shares with others."""
        if self.closed:
            return
        service = self._service
        if events is not service.batch:
            service.prepare(events, last)
        if watcher.progress_notify:
            self.loud.add(watcher)
        if service.parts:
            self._deliver_parts(watcher)
            return
        parts = self._parts
        if not parts:
            service.watching.touch(self)
        number = watcher.watch_id
        if number:
            field = SMALL_VARINTS[number] if 0 < number < _FEW else varint(number)
            lead, size = service.lead(len(field))
            parts += (lead, field, service.body)
        else:
            lead, size = service.lead(0)
            parts += (lead, b"", service.body)
        self._load += size
        self.share.load += size

    def _deliver_parts(self, watcher: Watcher) -> None:
        """Several responses, cut between revisions, and within them if the watch allows that."""
        service = self._service
        field = id_field(watcher.watch_id)
        for revision, part in service.parts:
            head = service.context.header(revision) + field
            if watcher.fragment:
                for body in fragments(head, part, service.fragment_bytes):
                    self.tell(body)
            else:
                self.tell(head + b"".join(part))

    def cancelled(self, watcher: Watcher, compact_revision: int) -> None:
        """Revisions that a watch has not got are gone."""
        if not self.closed:
            self._lost(watcher, compact_revision)

    # --- output ---------------------------------------------------------------------------
    def tell(self, response: bytes) -> None:
        """One more response behind what is gathered."""
        if not self._parts:
            self._service.watching.touch(self)
        size = len(response)
        self._parts += (PREFIX.pack(0, size), b"", response)
        self._load += size + 5
        self.share.load += size + 5

    def flush(self) -> None:
        """Gives the connection what was gathered."""
        self._send()
        self.drained()

    def drained(self) -> None:
        """Less may be queued than before: has the stream room again?"""
        connection, share = self._client.connection, self.share
        self._load = connection.queued(self._stream)
        share.load = connection.queued_total()
        if (
            self._refused
            and self._load < limits.WATCH_HISTORY_BYTES
            and share.load < limits.WATCH_CONNECTION_BYTES
        ):
            self._refused = False
            self._service.watching.wake(self._members())

    def _send(self) -> None:
        parts, client = self._parts, self._client
        if parts and not self.closed:
            messages, count = b"".join(parts), len(parts) // 3
            parts.clear()
            client.connection.send_framed(self._stream, messages, count)
            client.driver.mark_dirty(client)
