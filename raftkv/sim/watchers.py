"""Virtual clients that watch: what they ask for, how they lose a watch and go on with it.

A client has one watch at a time, on a member drawn at random. What the member's hub delivers goes
through a session: a short queue, full while the client does not read (W05), and lost with the
process or when the client leaves. Then the client goes on behind the last revision it has seen on
another member, which may be far behind or ahead (W01, W02). Cancelled because of a compaction, or
weary of it, it asks for something else. Every session is recorded as it arrives, in order, and the
sessions of one watch are joined; at the end `sim.validators` compares all with the committed log.
"""

from collections import Counter, deque
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from raftkv.kv.audience import Batch
from raftkv.kv.encoding import KeyValue
from raftkv.kv.events import Event, decode_event
from raftkv.kv.watches import Watcher
from raftkv.kv.watchindex import FROM_KEY, prefix_end
from raftkv.sim.invariants import InvariantBroken
from raftkv.sim.model import Model
from raftkv.sim.proofs import Proofs
from raftkv.sim.validators import validate
from raftkv.sim.watch_records import (
    Asked,
    Cancelled,
    Created,
    History,
    Progress,
    Received,
    Response,
    WatchRecord,
    joined,
)
from raftkv.sim.world import MILLISECOND, SECOND

if TYPE_CHECKING:
    from raftkv.sim.cluster import Cluster
    from raftkv.sim.node import Node

CREATE_TIMEOUT_US: Final = 2 * SECOND
STAY_US: Final = 2500 * MILLISECOND  # how long a client mostly stays with a member
PROGRESS_US: Final = 250 * MILLISECOND
_TRAVEL_US: Final = 300
# What is asked for: some keys of `sim.clients`, some ranges, everything.
RANGES: Final = (
    (b"k0/1", b""),
    (b"k1/0", b""),
    (b"m0", b""),
    (b"m2", b""),
    (b"m", b"n"),
    (b"k0/", prefix_end(b"k0/")),
    (b"k", b"l"),
    (b"l", FROM_KEY),
    (b"\0", FROM_KEY),
)


class Session:
    """One watch on one process: the sink of its watcher and the connection behind it."""

    def __init__(self, client: "WatchClient", node: "Node", asked: Asked) -> None:
        self.client = client
        self.node = node
        self.record = WatchRecord(f"{client.name} at {node.member}", asked)
        self.closed = False
        self.capacity = client.random.choice((1, 2, 8, 100))
        self._queue: deque[Received] = deque()
        self._pumping = False
        self.watcher = Watcher(
            self,
            1,
            asked.key,
            asked.end,
            asked.start_revision,
            prev_kv=asked.prev_kv,
            no_put=asked.no_put,
            no_delete=asked.no_delete,
        )

    def create(self) -> None:
        """The request has arrived at the member."""
        if not self.closed:
            revision = self.node.hub.add(self.watcher, self)
            self._push(Created(revision))
            self._progress()

    def close(self) -> None:
        """The client leaves: what is under way is lost."""
        self.closed = True
        self._queue.clear()
        self.node.hub.remove(self.watcher, self)
        self.node.hub.close(self)

    def lost(self) -> None:
        """See Outlet: the process has ended."""
        self.closed = True
        self._queue.clear()
        self.client.disconnected(self)

    # --- the hub's side -----------------------------------------------------------
    def deliver(self, watcher: Watcher, first: int, last: int, events: Batch) -> None:
        """See Sink."""
        compacted = self.node.replica.machine.store.compacted
        self._push(Response(tuple(map(decode_event, events)), False, compacted))

    def full(self) -> bool:
        """See Sink."""
        return len(self._queue) >= self.capacity

    def cancelled(self, watcher: Watcher, compact_revision: int) -> None:
        """See Sink."""
        self._push(Cancelled(compact_revision, "compacted"))

    def _progress(self) -> None:
        hub, random = self.node.hub.watches, self.client.random
        if self.closed or hub is None:
            return
        seen = hub.seen(self.watcher)
        if seen and not self.record_over and random.random() < self.client.progress:
            self._push(Progress(seen))
        self.node.later(int(random.uniform(0.2, 2) * PROGRESS_US), self._progress)

    # --- the connection -----------------------------------------------------------
    @property
    def record_over(self) -> bool:
        """True if the last thing there is, arrived or not, is a cancel."""
        newest = self._queue or self.record.received
        return bool(newest) and isinstance(newest[-1], Cancelled)

    def _push(self, one: Received) -> None:
        self._queue.append(one)
        self.pump()

    def pump(self) -> None:
        """Something may travel to the client."""
        if self._queue and not self._pumping and not self.client.stalled:
            self._pumping = True
            random, world = self.client.random, self.client.world
            world.after(50 + int(random.expovariate(1.0) * _TRAVEL_US), self._arrive)

    def _arrive(self) -> None:
        self._pumping = False
        if self.closed or not self._queue:
            return
        was_full = self.full()
        one = self._queue.popleft()
        self.record.received.append(one)
        self.client.received(self, one)
        if was_full and self.client.random.random() < 0.5:
            self.node.hub.wake((self.watcher,))  # the others are asked again by a later slice
        self.pump()


class WatchClient:
    """One client; see the module's docstring.

    progress: the chance that a bookmark is made at a possible moment. stalled: it does not read.
    """

    def __init__(self, watching: "WatchClients", number: int) -> None:
        self.world = watching.world
        self.random = self.world.stream(f"watcher/{number}")
        self.name = ""
        self.progress = 0.0
        self.stalled = False
        self._watching = watching
        self._number = number
        self._watches = 0
        self._next = 0
        self._asked = Asked(b"")
        self._session: Session | None = None
        self._records: list[WatchRecord] = []

    # --- what it asks for -----------------------------------------------------------
    def begin(self, start: int | None = None) -> None:
        """Ask for something else. start: the revision to start at; None: drawn."""
        random = self.random
        self._keep()
        self._watches += 1
        self.name = f"watch {self._number}/{self._watches}"
        self.progress = random.choice((0.0, 0.3, 1.0))
        newest = self._watching.newest_revision()
        if start is None:
            start = random.choice((0, 0, 1, random.randint(1, newest), newest + 5))
        key, end = random.choice(RANGES)
        kind = random.random()
        self._asked = Asked(
            key,
            end,
            start,
            prev_kv=random.random() < 0.5,
            no_put=kind < 0.1,
            no_delete=0.1 < kind < 0.2,
        )
        self._next = start
        self._connect()

    def _connect(self) -> None:
        members = self._watching.members()
        node = self._watching.cluster.nodes[self.random.choice(members)]
        session = Session(self, node, replace(self._asked, start_revision=self._next))
        self._session = session
        if node.up:
            self._watching.counts["sessions"] += 1
            node.later(self.random.randrange(2 * MILLISECOND), session.create)
        self.world.after(CREATE_TIMEOUT_US, self._give_up, session)
        stay_us = int(self.random.expovariate(1.0) * STAY_US)
        self.world.after(stay_us, self._leave, session)

    def _give_up(self, session: Session) -> None:
        if not session.record.received:
            self.leave(session)

    def _leave(self, session: Session) -> None:
        """Enough of this member, or of this watch; or only of reading."""
        if session is not self._session or not self._watching.running:
            return
        drawn = self.random.random()
        if drawn < 0.5:
            self.leave(session)
        elif drawn < 0.65 and session.record.received:
            session.close()
            session.record.cancel_asked = True
            session.record.received.append(Cancelled())
            self.begin()
        else:
            self.stalled = True
            pause_us = int(self.random.random() * SECOND)
            self.world.after(pause_us, self.read_again)
            self.world.after(pause_us + SECOND, self._leave, session)

    def read_again(self) -> None:
        """It reads what has gathered."""
        self.stalled = False
        if self._session is not None:
            self._session.pump()

    def leave(self, session: Session | None = None) -> None:
        """Close the connection and go on elsewhere."""
        session = session or self._session
        if session is not None and session is self._session:
            session.close()
            self.disconnected(session)

    def disconnected(self, session: Session) -> None:
        """The connection is gone: go on behind what was seen, in a while."""
        if session is not self._session:
            return
        self._session = None
        if session.record.received:
            self._records.append(session.record)
            self._watching.counts["resumes"] += 1
        pause_us = int(self.random.expovariate(1.0) * 30 * MILLISECOND)
        self.world.after(pause_us, self._connect)

    # --- what it is told --------------------------------------------------------------
    def received(self, session: Session, one: Received) -> None:
        """Something has arrived and is in the record."""
        counts, world = self._watching.counts, self.world
        if isinstance(one, Response):
            newest = one.events[-1].kv.mod_revision
            self._next = newest + 1
            counts["events"] += len(one.events)
            world.record("watched", self._number, session.node.member, newest, len(one.events))
        elif isinstance(one, Progress):
            self._next = one.revision + 1
            counts["bookmarks"] += 1
            world.record("bookmark", self._number, session.node.member, one.revision)
        elif isinstance(one, Created):
            self._next = self._next or one.revision + 1
            counts["created"] += 1
            world.record("watching", self._number, session.node.member, one.revision, self._next)
        else:
            counts["compacted"] += 1
            world.record("cancelled", self._number, session.node.member, one.compact_revision)
            session.close()
            self.begin(one.compact_revision)

    def _keep(self) -> None:
        """The watch is over, or the run is: its sessions become one record."""
        records, self._records = self._records, []
        session, self._session = self._session, None
        if session is not None and session.record.received:
            records.append(session.record)
        if records:
            self._watching.sessions += records
            self._watching.watches.append(joined(records))

    def finish(self) -> None:
        """Nothing more is recorded."""
        self._keep()

    @property
    def member(self) -> int:
        """Whom it watches at, 0 while it changes."""
        return self._session.node.member if self._session is not None else 0


class WatchClients:
    """All that watch in a run.

    counts: what they saw. checked: by validator, how much. watches, sessions: what is over.
    """

    def __init__(self, cluster: "Cluster", number: int) -> None:
        self.world = cluster.world
        self.cluster = cluster
        self.running = False
        self.counts: Counter[str] = Counter()
        self.checked: Counter[str] = Counter()
        self.watches: list[WatchRecord] = []
        self.sessions: list[WatchRecord] = []
        self._clients = [WatchClient(self, one) for one in range(number)]

    def start(self) -> None:
        """They begin."""
        self.running = True
        for client in self._clients:
            client.begin()

    def calm(self) -> None:
        """Everybody reads, stays, and is at a member that stays."""
        self.running = False
        for client in self._clients:
            client.read_again()
            if client.member and client.member not in self.cluster.goal:
                client.leave()

    def members(self) -> list[int]:
        """Whom a client may ask."""
        return self.cluster.members if self.running else self.cluster.goal

    def newest_revision(self) -> int:
        """The newest revision that a client has seen."""
        clients = self.cluster.clients
        return clients.newest_revision if clients is not None else 1

    def check(self, history: History) -> None:
        """Raises InvariantBroken if a watch was not told what the committed log has."""
        for client in self._clients:
            client.finish()
        self.counts["watches"] = len(self.watches)
        self.counts["stalls"] = sum(node.hub.stalls for node in self.cluster.nodes.values())
        proofs = Proofs(history)
        whole = validate(self.watches, history, complete=True, proofs=proofs)
        self.checked += whole.checked
        findings = whole.findings + validate(self.sessions, history, proofs=proofs).findings
        if findings:
            first = findings[0]
            raise InvariantBroken(f"watch {first.validator}", f"{first.watch}: {first.text}")


def history_of(model: Model) -> History:
    """Every event of the commands that a model has applied."""
    events = []
    for key, revision, found in model.events:
        if found is None:
            events.append(Event(True, KeyValue(key, 0, revision, 0, b"", 0), None))
        else:
            kv = KeyValue(
                key, found.create_revision, revision, found.version, found.value, found.lease
            )
            events.append(Event(False, kv, None))
    return History(events, model.compactions)
