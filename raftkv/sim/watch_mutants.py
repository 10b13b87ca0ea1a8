"""Known-wrong variants of the hub of watches, for `sim.mutants`."""

from collections.abc import Iterator
from typing import Any, Final

from raftkv.kv import audience, catchup, fragments
from raftkv.kv.audience import GONE, SCANNED, Audience, Batch, Watcher
from raftkv.kv.backend import View
from raftkv.kv.catchup import Scan
from raftkv.kv.encoding import SUB_BITS
from raftkv.kv.machine import StateMachine
from raftkv.kv.watches import NEAR_REVISIONS, Watches

_place = Watches._place
_seen = Watches.seen


def _skip_when_full(self: Watches, watcher: Watcher) -> None:
    """A full sink loses the events, and the watcher is taken for one that got them."""


def _repeat_after_catch_up(self: Watches, watcher: Watcher) -> None:
    """A watcher that has caught up gets the newest revision once more."""
    if watcher.state == SCANNED and not watcher.fragment and watcher.start_revision < self.revision:
        watcher.fragment = True  # once
        watcher.next_revision = self.revision
    _place(self, watcher)


def _split_revisions(self: Watches, served: Audience, last: int) -> int:
    """Every event travels alone."""
    gathered, served.gathered = served.gathered, []
    for group in gathered:
        events, revisions = group.events or Batch(), group.revisions
        group.events, group.revisions = None, []
        for watcher in tuple(group.members):
            if watcher.sink.full():
                self._stall(watcher)
                continue
            for event, revision in zip(events, revisions, strict=True):
                if revision >= watcher.next_revision:
                    watcher.sink.deliver(watcher, revision, last, Batch((event,)))
    return len(gathered)


def _bookmark_ahead(self: Watches, watcher: Watcher) -> int:
    """A bookmark tells the member's revision, also to who is behind."""
    return self.revision if _seen(self, watcher) else 0


def _never_cancel(self: Watches) -> None:
    """Who is behind a compaction goes on with what is left."""


def _sort_without_cancel(self: Watches) -> int:
    """Who comes with a compacted revision gets what is left."""
    for watcher in self._waiting:
        watcher.next_revision = max(watcher.next_revision, self.machine.store.compacted)
    return _sort_waiting(self)


_sort_waiting = Watches._sort_waiting


def _replaced_as_synced(self: Watches, machine: StateMachine) -> None:
    """After another member's state everybody goes on with what comes next."""
    watchers = [*self._synced.watchers()]
    _replaced(self, machine)
    for watcher in watchers:
        self.remove(watcher)
        watcher.start_revision = self.revision + 1
        self.add(watcher)


_replaced = Watches.replaced


def _forget_who_waits(self: Watches) -> None:
    """Who is not reached by the first slice of a publication gets nothing of it."""
    _go_on(self)
    self._delivering.clear()


_go_on = Watches.go_on


def _scan_from_the_next(self: Scan, watchers: list[Watcher]) -> None:
    """A scan begins one revision late."""
    _scan_init(self, watchers)
    self.next_id += 1 << 32


_scan_init = Scan.__init__


# --- noticed by the load for watches ---------------------------------------------------
def _lose_in_a_long_scan(self: Scan, machine: StateMachine, newest: int, units: int) -> int:
    """A scan that comes from far behind loses the last event of a slice for somebody."""
    first = self.next_id >> SUB_BITS
    left = _scan_read(self, machine, newest, units)
    for group in self.audience.gathered:
        if newest - first > NEAR_REVISIONS and group.events is not None and len(group.events) > 2:
            group.events.pop()
            group.revisions.pop()
            break
    return left


_scan_read = Scan.read


def _lose_previous(view: View, row_id: int, previous_id: int, compacted: int) -> bytes:
    """A scan takes everything that it has not met itself for compacted."""
    return b""


def _fragments_backwards(head: bytes, events: list[bytes], max_bytes: int) -> Iterator[bytes]:
    """The last fragment comes first."""
    return reversed(list(_fragments(head, events, max_bytes)))


def _fragments_without_a_flag(head: bytes, events: list[bytes], max_bytes: int) -> Iterator[bytes]:
    """Nobody can tell that a revision goes on in the next response."""
    for body in _fragments(head, events, max_bytes):
        yield body.replace(head + fragments.FRAGMENT, head, 1)


_fragments = fragments.fragments


def _cut_anywhere(events: list[bytes], last: int, max_bytes: int) -> Iterator[fragments.Part]:
    """A long batch is cut without regard to revisions."""
    for at in range(0, len(events), 3):
        yield last, events[at : at + 3]


def _cancel_with_the_needed(self: Watches, watcher: Watcher) -> None:
    """A cancel names the revision that is missing, from which nobody can begin again."""
    if watcher.state != GONE:
        self.remove(watcher)
        watcher.sink.cancelled(watcher, max(watcher.next_revision, 1))


def _cancel_one_too_many(self: Watches) -> int:
    """Who needs the compacted revision itself is cancelled, though it is there."""
    compacted = self.machine.store.compacted
    for watcher in list(self._waiting):
        if watcher.next_revision == compacted:
            self._cancel(watcher)
    return _sort_waiting(self)


def _name_without_filters(watcher: Watcher) -> tuple[bytes, bytes, int]:
    """Who wants no deletions is given those of the others with the same range."""
    return watcher.key, watcher.end, int(watcher.prev_kv)


Patches = tuple[tuple[str, tuple[tuple[Any, str, Any], ...]], ...]

VIEWED_PATCHES: Final[Patches] = (
    ("lose an event in a long scan", ((Scan, "read", _lose_in_a_long_scan),)),
    ("lose prev_kv in a scan", ((catchup, "stored_previous", _lose_previous),)),
    ("fragments backwards", ((fragments, "fragments", _fragments_backwards),)),
    ("fragments without a flag", ((fragments, "fragments", _fragments_without_a_flag),)),
    ("cut a long batch anywhere", ((fragments, "whole_revisions", _cut_anywhere),)),
    ("cancel with a wrong revision", ((Watches, "_cancel", _cancel_with_the_needed),)),
    ("cancel one revision too many", ((Watches, "_sort_waiting", _cancel_one_too_many),)),
    ("groups without regard to filters", ((audience, "_name", _name_without_filters),)),
)

# (name, ((owner, attribute, replacement), ...))
PATCHES: Final[Patches] = (
    ("lose events at a full sink", ((Watches, "_stall", _skip_when_full),)),
    ("repeat after catch-up", ((Watches, "_place", _repeat_after_catch_up),)),
    ("split a revision", ((Watches, "_deliver", _split_revisions),)),
    ("bookmark ahead of events", ((Watches, "seen", _bookmark_ahead),)),
    (
        "miss the cancel after a compaction",
        (
            (Watches, "_check_compacted", _never_cancel),
            (Watches, "_sort_waiting", _sort_without_cancel),
        ),
    ),
    ("start to scan too late", ((Scan, "__init__", _scan_from_the_next),)),
    ("forget who waits for a publication", ((Watches, "go_on", _forget_who_waits),)),
    ("go on behind a received state", ((Watches, "replaced", _replaced_as_synced),)),
)
