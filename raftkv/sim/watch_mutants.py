"""Known-wrong variants of the hub of watches, for `sim.mutants`."""

from typing import Any, Final

from raftkv.kv.audience import SCANNED, Audience, Batch, Watcher
from raftkv.kv.catchup import Scan
from raftkv.kv.machine import StateMachine
from raftkv.kv.watches import Watches

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


def _split_revisions(self: Watches, audience: Audience, last: int) -> int:
    """Every event travels alone."""
    gathered, audience.gathered = audience.gathered, []
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


def _scan_from_the_next(self: Scan, watchers: list[Watcher]) -> None:
    """A scan begins one revision late."""
    _scan_init(self, watchers)
    self.next_id += 1 << 32


_scan_init = Scan.__init__

# (name, ((owner, attribute, replacement), ...))
PATCHES: Final[tuple[tuple[str, tuple[tuple[Any, str, Any], ...]], ...]] = (
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
    ("go on behind a received state", ((Watches, "replaced", _replaced_as_synced),)),
)
