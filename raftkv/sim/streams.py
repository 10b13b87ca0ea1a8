"""Virtual clients with many watches: connections, what travels on them, and slow readers.

A `Viewer` is a client with one connection at a time, to a member drawn at random, and several
watches on it: single keys, prefixes, ranges and everything, with all options. The server's end of a
connection, a `Stream`, is the sink of all of them: responses queue up in the order of delivery, too
long ones are cut as the server cuts them, and with too many events queued the stream is full. A
viewer that does not read for seconds falls thousands of revisions behind, and all its watches with
it (W05, W13).

A viewer moves on now and then, or its member dies: what is under way is lost, and every watch goes
on behind the last revision that it has seen whole, elsewhere (W01, W02). A watch that a compaction
has overtaken (W06), or of which its viewer has had enough, is followed by another one.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from raftkv.kv import fragments
from raftkv.kv.audience import Batch
from raftkv.kv.watches import NEAR_REVISIONS, Watcher
from raftkv.sim.watch_records import (
    Asked,
    Cancelled,
    Created,
    Progress,
    Received,
    Response,
    WatchRecord,
)
from raftkv.sim.world import MILLISECOND, SECOND

if TYPE_CHECKING:
    from raftkv.sim.node import Node
    from raftkv.sim.watchload import WatchLoad

RESPONSE_BYTES: Final = 6000  # longer batches become several responses
FRAGMENT_BYTES: Final = 2500  # longer responses are cut for who wants fragments
CAPACITIES: Final = (20, 300, 3000, 20_000)  # events that a stream queues; one is drawn
READS: Final = (3, 40, 100_000)  # responses that arrive at once; one is drawn
PROGRESS_US: Final = 300 * MILLISECOND
ACT_US: Final = 700 * MILLISECOND
PAUSES_US: Final = (200 * MILLISECOND, SECOND, 6 * SECOND)  # of reading, at most; one is drawn
CONNECT_US: Final = 30 * MILLISECOND
_TRAVEL_US: Final = 300


@dataclass(eq=False, slots=True)
class Watch:
    """One watch of a viewer, over all its connections.

    next: the revision to go on at, 0: from now on. record: on the connection that there is.
    """

    name: str
    asked: Asked
    progress: bool
    next: int
    record: WatchRecord | None = None
    watcher: Watcher | None = None
    records: list[WatchRecord] = field(default_factory=list)

    def end_session(self) -> None:
        """The connection is gone. Fragments of a response that never ended are dropped."""
        record, self.record, self.watcher = self.record, None, None
        if record is None or not record.received:
            return
        newest = record.received
        while newest and isinstance(newest[-1], Response) and newest[-1].fragment:
            newest.pop()
        self.records.append(record)


class Stream:
    """One connection, at its server's end: the sink of its watches. See `raftkv.sim.hub.Outlet`."""

    def __init__(self, viewer: "Viewer", node: "Node") -> None:
        self.viewer = viewer
        self.node = node
        self.closed = False
        self._load = viewer.load
        self._random = viewer.random
        self._capacity = self._random.choice(CAPACITIES)
        self._read = self._random.choice(READS)
        self._of: dict[Watcher, Watch] = {}
        self._queue: deque[tuple[Watch, Received]] = deque()
        self._queued = 0  # events
        self._pumping = False
        node.hub.open(self)
        self.later(PROGRESS_US, self._progress)

    def later(self, delay_us: int, act: Callable[..., None], *arguments: Any) -> None:
        """Calls `act` in the process of the server, if that lives and the connection does."""

        def guarded() -> None:
            if not self.closed:
                act(*arguments)

        self.node.later(delay_us, guarded)

    # --- requests, as they arrive at the server -----------------------------------------
    def create(self, watch: Watch) -> None:
        """WatchCreateRequest."""
        if watch.record is not None or self.closed:
            return
        asked = replace(watch.asked, start_revision=watch.next)
        watch.record = WatchRecord(f"{watch.name} at {self.node.member}", asked)
        watch.watcher = watcher = Watcher(
            self,
            len(self._of) + 1,
            asked.key,
            asked.end,
            asked.start_revision,
            prev_kv=asked.prev_kv,
            no_put=asked.no_put,
            no_delete=asked.no_delete,
            progress_notify=watch.progress,
            fragment=asked.fragment,
        )
        self._of[watcher] = watch
        revision = self.node.hub.add(watcher, self)
        self._push(watch, Created(revision))

    def cancel(self, watch: Watch) -> None:
        """WatchCancelRequest. Nothing if a compaction was faster."""
        watcher = watch.watcher
        if watcher is not None and self._of.pop(watcher, None) is not None:
            assert watch.record is not None
            watch.record.cancel_asked = True
            self.node.hub.remove(watcher, self)
            self._push(watch, Cancelled())

    def _progress(self) -> None:
        """Bookmarks for who wants them, now and then for everybody."""
        hub = self.node.hub.watches
        assert hub is not None
        everybody = self._random.random() < 0.1
        for watcher, watch in self._of.items():
            if everybody or watcher.progress_notify:
                seen = hub.seen(watcher)
                if seen:
                    self._push(watch, Progress(seen))
        self.later(int(self._random.uniform(0.2, 2) * PROGRESS_US), self._progress)

    # --- the hub's side -----------------------------------------------------------------
    def deliver(self, watcher: Watcher, first: int, last: int, events: Batch) -> None:
        """See Sink."""
        load = self._load
        watch = self._of[watcher]
        self._queued += len(events)
        hub = self.node.hub.watches
        if hub is not None and hub.revision - last >= NEAR_REVISIONS:
            load.counts["events of long scans"] += len(events)
        compacted = self.node.replica.machine.store.compacted
        if len(events) > 1 and len(events.joined()) > RESPONSE_BYTES:
            for _, part in fragments.whole_revisions(events, last, RESPONSE_BYTES):
                self._deliver_part(watch, part, compacted)
        else:
            self._push(watch, Response(load.decoder.batch(events), False, compacted))

    def _deliver_part(self, watch: Watch, part: list[bytes], compacted: int) -> None:
        decoder = self._load.decoder
        if not watch.asked.fragment:
            self._push(watch, Response(tuple(map(decoder.event, part)), False, compacted))
            return
        for body in fragments.fragments(b"", part, FRAGMENT_BYTES):
            flagged = body.startswith(fragments.FRAGMENT)
            if flagged:
                body = body[len(fragments.FRAGMENT) :]
            self._push(watch, Response(decoder.body(body), flagged, compacted))

    def full(self) -> bool:
        """See Sink."""
        return self._queued >= self._capacity

    def cancelled(self, watcher: Watcher, compact_revision: int) -> None:
        """See Sink."""
        watch = self._of.pop(watcher)
        self._push(watch, Cancelled(compact_revision, "compacted"))

    def lost(self) -> None:
        """See Outlet."""
        if not self.closed:
            self._close()
            self.viewer.disconnected(self)

    # --- the connection -----------------------------------------------------------------
    def close(self) -> None:
        """The viewer leaves: what is under way is lost."""
        for watcher in self._of:
            self.node.hub.remove(watcher, self)
        self.node.hub.close(self)
        self._close()

    def _close(self) -> None:
        self.closed = True
        self._queue.clear()
        self._of.clear()

    def _push(self, watch: Watch, one: Received) -> None:
        self._queue.append((watch, one))
        if not self._pumping:
            self.pump()

    def pump(self) -> None:
        """Something may travel to the viewer."""
        if self._queue and not self._pumping and not self.viewer.stalled:
            self._pumping = True
            delay_us = 50 + int(self._random.expovariate(1.0) * _TRAVEL_US)
            self.viewer.world.after(delay_us, self._arrive)

    def _arrive(self) -> None:
        self._pumping = False
        if self.closed or self.viewer.stalled:
            return
        was_full = self.full()
        queue = self._queue
        arrived = [queue.popleft() for _ in range(min(len(queue), self._read))]
        if not queue:
            self._queued = 0
        else:
            self._queued -= sum(
                [len(one.events) for _, one in arrived if isinstance(one, Response)]
            )
        self.viewer.received(self, arrived)
        if was_full and not self.closed and not self.full() and self._random.random() < 0.7:
            self.node.hub.wake(self._of)  # else a later slice finds it out
        self.pump()


class Viewer:
    """A client; see the module's docstring. stalled: it does not read."""

    def __init__(self, load: "WatchLoad", number: int) -> None:
        self.load = load
        self.world = load.world
        self.number = number
        self.random = self.world.stream(f"viewer/{number}")
        self.stalled = False
        self._stream: Stream | None = None
        self._watches: list[Watch] = []
        self._begun = 0

    @property
    def member(self) -> int:
        """Whom it watches at, 0 while it changes."""
        return self._stream.node.member if self._stream is not None else 0

    def begin(self) -> None:
        """Its watches begin, and it begins to act."""
        for _ in range(self.random.randint(3, 12)):
            self._watches.append(self._new_watch())
        self._connect()
        self.world.after(self.random.randrange(ACT_US), self._act)

    def _new_watch(self, start: int | None = None) -> Watch:
        self._begun += 1
        asked = self.load.draw_asked(self.random, start)
        progress = self.random.random() < 0.3
        name = f"watch {self.number}/{self._begun}"
        return Watch(name, asked, progress, asked.start_revision)

    # --- connections ----------------------------------------------------------------------
    def _connect(self) -> None:
        node = self.load.cluster.nodes[self.random.choice(self.load.members())]
        if not node.up:
            self.world.after(CONNECT_US, self._connect)
            return
        self.load.counts["connections"] += 1
        stream = self._stream = Stream(self, node)
        for watch in self._watches:
            self._send(stream, watch)

    def _send(self, stream: Stream, watch: Watch) -> None:
        stream.later(self.random.randrange(2 * MILLISECOND), stream.create, watch)

    def leave(self) -> None:
        """Close the connection and go on elsewhere."""
        stream = self._stream
        if stream is not None:
            stream.close()
            self.disconnected(stream)

    def disconnected(self, stream: Stream) -> None:
        """The connection is gone."""
        assert stream is self._stream
        self._stream = None
        for watch in self._watches:
            if watch.record is not None and watch.record.received:
                self.load.counts["resumes"] += 1
            watch.end_session()
        pause_us = int(self.random.expovariate(1.0) * CONNECT_US)
        self.world.after(pause_us, self._connect)

    # --- what it does -----------------------------------------------------------------------
    def _act(self) -> None:
        """Enough of this member, of a watch, or of reading."""
        if not self.load.running:
            return
        stream, drawn = self._stream, self.random.random()
        if stream is None:
            pass
        elif drawn < 0.2:
            self.leave()
        elif drawn < 0.45:
            self._stall()
        elif drawn < 0.75:
            watch = self.random.choice(self._watches)
            stream.later(self.random.randrange(2 * MILLISECOND), stream.cancel, watch)
        self.world.after(int(self.random.expovariate(1.0) * ACT_US), self._act)

    def _stall(self) -> None:
        if not self.stalled:
            self.stalled = True
            self.load.counts["stalled viewers"] += 1
            pause_us = int(self.random.random() * self.random.choice(PAUSES_US))
            self.world.after(pause_us, self.read_again)
            if self.random.random() < 0.5:
                self.load.flood()

    def read_again(self) -> None:
        """It reads what has gathered."""
        self.stalled = False
        if self._stream is not None:
            self._stream.pump()

    # --- what it is told ----------------------------------------------------------------------
    def received(self, stream: Stream, arrived: list[tuple[Watch, Received]]) -> None:
        """Some responses have arrived."""
        counts = self.load.counts
        events = newest = 0
        for watch, one in arrived:
            record = watch.record
            assert record is not None
            record.received.append(one)
            if type(one) is Response:
                newest = one.events[-1].kv.mod_revision
                events += len(one.events)
                if one.fragment:
                    counts["fragments"] += 1
                else:
                    watch.next = newest + 1
            elif type(one) is Progress:
                watch.next = one.revision + 1
                counts["bookmarks"] += 1
            elif type(one) is Created:
                watch.next = watch.next or one.revision + 1
                counts["created"] += 1
            else:
                self._cancelled(stream, watch, one)
        counts["events"] += events
        self.world.record("viewed", self.number, stream.node.member, len(arrived), events, newest)

    def _cancelled(self, stream: Stream, watch: Watch, one: Received) -> None:
        """A watch is over; another one takes its place."""
        assert isinstance(one, Cancelled)
        counts, compacted = self.load.counts, one.compact_revision
        counts["overtaken by a compaction" if compacted else "cancelled"] += 1
        self._keep(watch)
        again = compacted if compacted and self.random.random() < 0.5 else None
        new = self._new_watch(again)
        self._watches[self._watches.index(watch)] = new
        self._send(stream, new)

    # --- the end --------------------------------------------------------------------------------
    def _keep(self, watch: Watch) -> None:
        watch.end_session()
        if watch.records:
            self.load.keep(watch.records)

    def finish(self) -> None:
        """Nothing more is recorded."""
        for watch in self._watches:
            self._keep(watch)
        self._watches = []
