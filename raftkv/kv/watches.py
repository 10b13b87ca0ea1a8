"""The hub of watches: every watcher gets each of its events once, in order, revisions whole.

A watcher is *synced* if it has seen everything up to the published revision; then `publish`, at
the end of a turn, gives it the turn's events. Otherwise it is behind, keeps nothing but the next
revision it needs, and is served from the revision rows by `catch_up`, in slices that the driver
calls while there is work:

    add --> synced (it starts now or later)
        \\-> waiting -> scanned -> synced
                ^         |          |
                |         v          |
                +----- stalled <-----+   its sink is full

A watcher near the published revision is scanned at once; the others share a few long scans. One
whose next revision is below the compacted one is cancelled with that revision: there is never a
silent gap. So is one that starts there: revisions from the compacted one on can be watched.

A publication to many watchers takes several slices (`go_on`): between two of them each watcher has
got all of it or nothing, and what turns change meanwhile waits and is published together.

`seen` tells the revision of an exact bookmark. A watcher that begins in the future has seen
nothing, neither event nor bookmark, until its start.

After a state came from another member every watcher is behind: its events lie in the new rows.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Final

from raftkv.kv.audience import (
    GONE,
    SCANNED,
    STALLED,
    SYNCED,
    WAITING,
    Audience,
    Batch,
    Group,
    Sink,
    Watcher,
)
from raftkv.kv.catchup import Scan
from raftkv.kv.encoding import SUB_BITS, SUB_MASK
from raftkv.kv.events import stored_previous
from raftkv.kv.machine import StateMachine
from raftkv.kv.store import Change
from raftkv.kv.watchindex import normal_range

__all__ = ["Batch", "Sink", "Watcher", "Watches", "normal_range"]

SLICE_UNITS: Final = 2500  # of `catch_up`, about a microsecond each
NEAR_REVISIONS: Final = 1000  # so far behind, a watcher need not wait for a long scan
LONG_SCANS: Final = 4  # at once
POLLED: Final = 64  # stalled watchers looked at in one slice
MOVED: Final = 250  # watchers taken into a scan, or out of one, at once
MOVE_UNITS: Final = 4
PUBLISHED: Final = 1500  # in one slice: a few milliseconds, with what the sinks send


class Watches:
    """See the module's docstring. Never called again from within `publish` or `catch_up`, but a
    sink may add and remove watchers there.

    published: changes that are looked at, and deliveries, in one slice of a publication.
    """

    def __init__(self, machine: StateMachine, published: int = PUBLISHED) -> None:
        self.machine = machine
        self._published = published
        self.revision = machine.revision  # published
        self.count = 0  # watchers
        self.delivered_events = 0
        self.stalls = 0  # how often a watcher met a full sink
        self._synced = Audience(self.revision + 1)
        self._leaving: deque[Audience] = deque()  # were synced or scanned, to be placed anew
        self._gathering: list[Change] = []  # of the publication under way, and then ...
        self._delivering: deque[_Delivery] = deque()
        self._deferred: list[Change] = []  # to be published then, up to a revision
        self._deferred_revision = 0
        self._waiting: dict[Watcher, None] = {}
        self._far: dict[Watcher, None] = {}  # waiting for a long scan
        self._stalled: dict[Watcher, None] = {}
        self._near: deque[Scan] = deque()
        self._long: deque[Scan] = deque()
        self._compacted = machine.store.compacted

    # --- coming and going --------------------------------------------------------
    def add(self, watcher: Watcher) -> None:
        """Begin to serve a watcher. No event comes before this returns."""
        assert watcher.state == GONE, "the watcher is there already"
        if not self.count:
            self._begin()
        self.count += 1
        start = watcher.start_revision
        watcher.next_revision = start if start else self.machine.revision + 1
        self._place(watcher)

    def remove(self, watcher: Watcher) -> None:
        """Nothing more comes for it. Harmless if it is gone."""
        state = watcher.state
        if state == GONE:
            return
        if watcher.group is not None:
            watcher.group.audience.remove(watcher)
        elif state == STALLED:
            del self._stalled[watcher]
        elif watcher in self._waiting:
            del self._waiting[watcher]
        else:
            del self._far[watcher]
        watcher.state = GONE
        self.count -= 1
        if not self.count:
            self._drop_publication()
            self.machine.collect_changes(False)

    def _begin(self) -> None:
        self.revision = self.machine.revision
        self._synced.next_revision = self.revision + 1
        self.machine.collect_changes(True)

    def _place(self, watcher: Watcher) -> None:
        if watcher.next_revision > self.revision:
            watcher.state = SYNCED
            self._synced.add(watcher)
        else:
            watcher.state = WAITING
            self._waiting[watcher] = None

    def wake(self, watchers: Iterable[Watcher]) -> None:
        """The sink of these is no longer full."""
        for watcher in watchers:
            if watcher.state == STALLED:
                del self._stalled[watcher]
                watcher.state = WAITING
                self._waiting[watcher] = None

    # --- what a watcher has seen ---------------------------------------------------
    def seen(self, watcher: Watcher) -> int:
        """The revision up to which everything was delivered; 0: nothing to say yet, because it
        starts later. A bookmark with this revision is exact.
        """
        seen = watcher.next_revision
        if watcher.group is not None:
            seen = max(seen, watcher.group.audience.next_revision)
        seen -= 1
        return seen if seen >= watcher.start_revision else 0

    def is_synced(self, watcher: Watcher) -> bool:
        """Does it get what is published? Not all of it yet while that is `unfinished`."""
        return watcher.group is not None and watcher.group.audience is self._synced

    @property
    def behind(self) -> int:
        """Watchers that are not synced."""
        return self.count - self._synced.size

    @property
    def backlog(self) -> int:
        """Revisions that the watcher furthest behind has still to get. Walks over those behind."""
        floors = [scan.audience.next_revision for scan in (*self._near, *self._long)]
        floors += [audience.next_revision for audience in self._leaving if audience.size]
        floors += [
            watcher.next_revision
            for some in (self._waiting, self._far, self._stalled)
            for watcher in some
        ]
        return self.revision + 1 - max(min(floors), 1) if floors else 0

    # --- synced watchers -------------------------------------------------------------
    def publish(self, changes: list[Change], revision: int) -> None:
        """What a turn changed, in order, up to the store's revision after it. Afterwards there may
        be more to do: `unfinished`.
        """
        if self.unfinished:
            self._deferred += changes
            self._deferred_revision = max(revision, self._deferred_revision)
        elif self._begin_publication(changes, revision):
            self.go_on()

    def _begin_publication(self, changes: list[Change], revision: int) -> bool:
        """True if there is one: somebody may want some of `changes`."""
        first = self.revision + 1
        if revision < first:
            return False
        self.revision = revision
        if not self.count:
            self._synced.next_revision = revision + 1
            return False
        if changes[0].row_id >> SUB_BITS < first:  # of before the first watcher came
            changes = [one for one in changes if one.row_id >> SUB_BITS >= first]
        assert changes[0].row_id >> SUB_BITS == first, "changes are missing"
        assert changes[-1].row_id >> SUB_BITS == revision, "changes are missing"
        self._gathering = changes
        return True

    @property
    def unfinished(self) -> bool:
        """True: not everybody has got what was published; call `go_on`."""
        return bool(self._delivering or self._gathering or self._deferred)

    @property
    def amid_publication(self) -> bool:
        """True: some of the synced watchers may have got the last publication and others not. It is
        False for a moment after each, however many wait to be published.
        """
        return bool(self._delivering or self._gathering)

    def go_on(self) -> None:
        """A slice of a publication; no other one begins in the slice in which one ends."""
        if not self.amid_publication:
            changes, self._deferred = self._deferred, []
            if not self._begin_publication(changes, self._deferred_revision):
                return
        budget = self._published
        if self._gathering:
            some = self._gathering[:budget]
            self._gathering = self._gathering[budget:]
            self._gather(some)
            if self._gathering:
                return
            budget -= len(some)
            self._delivering += _take(self._synced)
        delivering = self._delivering
        while delivering and budget > 0:
            delivery = delivering[0]
            budget -= self._hand_over(delivery, self.revision, budget)
            if delivery.at == len(delivery.members) and delivering:  # a sink may have ended it all
                delivering.popleft()
        if not delivering:
            self._synced.next_revision = self.revision + 1

    def _drop_publication(self) -> None:
        """Who has not got it gets it from the rows, or has gone."""
        self._delivering.clear()
        self._gathering, self._deferred = [], []
        self._synced.gathered.clear()

    def _gather(self, changes: list[Change]) -> None:
        find, gather = self._synced.index.find, self._synced.gather
        change = changes[0]

        def previous() -> bytes:
            return self._previous(change)

        for change in changes:
            row_id, key, deleted, framed = change[:4]
            groups = find(key)
            if groups:
                gather(groups, row_id >> SUB_BITS, deleted, framed, previous)

    def _previous(self, change: Change) -> bytes:
        """The framed prev_kv of a change just made."""
        store = self.machine.store
        revision = change.row_id >> SUB_BITS
        if not change.previous_id or revision <= store.compacted:
            return b""
        if change.previous and change.previous_id >> SUB_BITS != revision:
            return change.previous
        self.machine.flush()
        return stored_previous(store.backend, change.row_id, change.previous_id, store.compacted)

    def _deliver(self, audience: Audience, last: int) -> int:
        """Hand over what was gathered, up to revision `last`; how many watchers that took."""
        return sum(
            self._hand_over(delivery, last, len(delivery.members)) for delivery in _take(audience)
        )

    def _hand_over(self, delivery: "_Delivery", last: int, most: int) -> int:
        """Deliver to up to `most` further watchers of a group; how many were looked at."""
        group, events, revisions = delivery.group, delivery.events, delivery.revisions
        first = revisions[0]
        begin = delivery.at
        some = delivery.members[begin : begin + most]
        delivery.at = begin + len(some)
        for watcher in some:
            if watcher.group is not group:
                continue  # it was removed
            at = 0
            if watcher.next_revision > first:
                at = bisect_left(revisions, watcher.next_revision)
                if at == len(revisions):
                    continue
            sink = watcher.sink
            if sink.full():
                self._stall(watcher)
                continue
            part = Batch(events[at:]) if at else events
            self.delivered_events += len(part)
            watcher.next_revision = last + 1
            sink.deliver(watcher, revisions[at], last, part)
        return len(some)

    def _stall(self, watcher: Watcher) -> None:
        assert watcher.group is not None
        watcher.group.audience.remove(watcher)
        watcher.state = STALLED
        self._stalled[watcher] = None
        self.stalls += 1

    # --- watchers that are behind ---------------------------------------------------
    def catch_up(self, units: int = SLICE_UNITS) -> bool:
        """One slice of about `units` microseconds, or up to half as long again. True: there is
        more to do at once.

        To be called after `publish` while watchers are `behind`, and at every tick.
        """
        if self.count == self._synced.size:
            return False
        self._check_compacted()
        woken = self._poll()
        units -= self._move_leaving()
        units -= self._sort_waiting()
        # However many are near all the time, the long scans get half a slice.
        left = self._advance_all(self._near, max(units, 1))
        self._advance_all(self._long, max(left, units // 2, 1))
        # Where some were no longer full, others may be so, too.
        under_way = self._waiting or self._far or self._near or self._long or self._leaving
        return bool(under_way or (woken and self._stalled))

    def _poll(self) -> bool:
        """Ask some full sinks again, in turn; was one of them no longer full?"""
        woken = False
        for watcher in tuple(islice(self._stalled, POLLED)):
            if watcher.state != STALLED:
                continue
            del self._stalled[watcher]
            if watcher.sink.full():
                self._stalled[watcher] = None  # behind the others
            else:
                watcher.state = WAITING
                self._waiting[watcher] = None
                woken = True
        return woken

    def _check_compacted(self) -> None:
        """After a compaction: cancel everybody who has missed something."""
        compacted = self.machine.store.compacted
        if compacted == self._compacted:
            return
        self._compacted = compacted
        lost = [
            watcher
            for some in (self._far, self._stalled)
            for watcher in some
            if watcher.next_revision < compacted
        ]
        for scan in (*self._near, *self._long):
            floor = scan.audience.next_revision
            if floor < compacted:
                members = scan.audience.watchers()
                lost += [one for one in members if max(one.next_revision, floor) < compacted]
        for watcher in lost:
            self._cancel(watcher)

    def _cancel(self, watcher: Watcher) -> None:
        if watcher.state != GONE:
            self.remove(watcher)
            watcher.sink.cancelled(watcher, self.machine.store.compacted)

    def _move_leaving(self) -> int:
        """Some of those that are no longer synced wait like others. Units used."""
        moved = 0
        while self._leaving and moved < MOVED:
            audience = self._leaving[0]
            for watcher in audience.some(MOVED - moved):
                audience.remove(watcher)
                self._place(watcher)
                moved += 1
            if not audience.size:
                self._leaving.popleft()
        return moved * MOVE_UNITS

    def _sort_waiting(self) -> int:
        """Who is near gets a scan at once, the others wait until fewer long ones are under way.
        Units used.
        """
        moved = min(len(self._waiting), MOVED)
        near: list[Watcher] = []
        lost: list[Watcher] = []
        compacted, revision = self.machine.store.compacted, self.revision
        for watcher in tuple(islice(self._waiting, MOVED)):
            del self._waiting[watcher]
            if watcher.next_revision < compacted:
                self._far[watcher] = None  # so that it can be removed
                lost.append(watcher)
            elif watcher.next_revision > revision:
                self._place(watcher)
            elif watcher.next_revision > revision - NEAR_REVISIONS:
                near.append(watcher)
            else:
                self._far[watcher] = None
        for watcher in lost:
            self._cancel(watcher)
        if near:
            self._near.append(_scan(near))
        if self._far and len(self._long) < LONG_SCANS:
            some = list(islice(self._far, MOVED))
            for watcher in some:
                del self._far[watcher]
            self._long.append(_scan(some))
            moved += len(some)
        return moved * MOVE_UNITS

    def _advance_all(self, scans: deque[Scan], units: int) -> int:
        """Each scan once, until the units are used up; units left."""
        for _ in range(len(scans)):
            if units <= 0:
                break
            scan = scans.popleft()
            units = self._advance(scan, units)
            if scan.audience.size:
                scans.append(scan)
        return units

    def _advance(self, scan: Scan, units: int) -> int:
        """A slice of one scan; units left."""
        audience, machine = scan.audience, self.machine
        if audience.size <= POLLED:  # a slice for nobody would be a waste
            for watcher in audience.watchers():
                if watcher.group is not None and watcher.sink.full():
                    self._stall(watcher)
            if not audience.size:
                return units
        if scan.next_id >> SUB_BITS <= self.revision:
            newest = min(self.revision, machine.store.flushed_id >> SUB_BITS)
            if scan.next_id >> SUB_BITS > newest:
                machine.flush()
                newest = self.revision
            units = scan.read(machine, newest, units)
            if scan.next_id & SUB_MASK:
                return units  # within a revision
            units -= self._deliver(audience, (scan.next_id >> SUB_BITS) - 1)
            audience.next_revision = scan.next_id >> SUB_BITS
        if audience.next_revision > self.revision:
            done = audience.watchers()[:MOVED]
            for watcher in done:
                audience.remove(watcher)
                self._place(watcher)
            units -= len(done) * MOVE_UNITS
        return units

    # --- another state -----------------------------------------------------------------
    def replaced(self, machine: StateMachine) -> None:
        """The state was replaced by one received from another member, further on in the log.

        Everybody is behind then; those that were synced or scanned are moved in slices.
        """
        self.machine.collect_changes(False)
        self.machine = machine
        assert machine.revision >= self.revision, "a state went back"
        self._drop_publication()
        self.revision = machine.revision
        self._leaving.append(self._synced)
        self._leaving += [scan.audience for scan in (*self._near, *self._long)]
        self._synced = Audience(self.revision + 1)
        self._near.clear()
        self._long.clear()
        if self.count:
            machine.collect_changes(True)


class _Delivery:
    """What the members of a group are to be given, and how many of them have been looked at."""

    __slots__ = ("at", "events", "group", "members", "revisions")

    def __init__(self, group: Group) -> None:
        assert group.events is not None, "nothing was gathered for the group"
        self.group = group
        self.members = tuple(group.members)
        self.events, self.revisions = group.events, group.revisions
        self.at = 0
        group.events, group.revisions = None, []


def _take(audience: Audience) -> list[_Delivery]:
    """What was gathered for an audience."""
    gathered, audience.gathered = audience.gathered, []
    return [_Delivery(group) for group in gathered]


def _scan(watchers: list[Watcher]) -> Scan:
    for watcher in watchers:
        watcher.state = SCANNED
    return Scan(watchers)
