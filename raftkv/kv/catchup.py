"""Watchers that are behind, served from the revision rows.

A `Scan` walks once over the rows from the earliest revision that any of its watchers needs to the
newest one published when it ends, and gathers for all of them. It works in slices; a slice ends
between two revisions and then delivers, so a revision is never split. If one revision is longer
than a slice, delivery waits until its end.

Between slices nothing is held but the place to go on at and some versions for prev_kv. Each slice
looks at the compacted revision first: revisions from that on are complete in the rows
(`compaction`), whatever is being removed below them.
"""

from typing import Final

from raftkv.kv.audience import Audience, Watcher
from raftkv.kv.encoding import DELETE_ROW, ID_BYTES, ROW_HEAD_BYTES, SUB_BITS, revision_row
from raftkv.kv.events import stored_previous
from raftkv.kv.machine import StateMachine
from raftkv.kv.store import row_key

# Units of work, about a microsecond each.
START_UNITS: Final = 30
ROW_UNITS: Final = 2
EVENT_UNITS: Final = 1
PREVIOUS_UNITS: Final = 12
BATCH_BYTES: Final = 1024 * 1024  # rows read before a delivery
RECENT_BYTES: Final = 4 * 1024 * 1024  # of versions remembered for prev_kv, per scan


class Scan:
    """A walk over history for some watchers. They are in its audience; see the module."""

    __slots__ = ("_recent", "_recent_bytes", "_remembers", "audience", "next_id")

    def __init__(self, watchers: list[Watcher]) -> None:
        first = min(watcher.next_revision for watcher in watchers)
        self.audience = Audience(first)
        for watcher in watchers:
            self.audience.add(watcher)
        self.next_id = max(first, 0) << SUB_BITS  # the row to go on with
        # Versions met by their row ids, for the prev_kv of what replaced them.
        self._recent: dict[int, bytes] = {}
        self._recent_bytes = 0
        self._remembers = any(watcher.prev_kv for watcher in watchers)

    def read(self, machine: StateMachine, newest: int, units: int) -> int:
        """Gather from the rows up to revision `newest` for about `units`; units left.

        The rows must be flushed that far. Afterwards `next_id` is at the start of a revision if
        the gathered events are whole revisions and may be delivered.
        """
        audience, backend = self.audience, machine.backend
        compacted = machine.store.compacted
        find, gather = audience.index.find, audience.gather
        left, bytes_left = units - START_UNITS, BATCH_BYTES
        current = revision = row_id = previous_id = 0

        recent = self._recent

        def previous() -> bytes:
            nonlocal left
            if revision > compacted and previous_id >> SUB_BITS != revision:
                found = recent.pop(previous_id, None)  # a version is replaced only once
                if found is not None:
                    self._recent_bytes -= len(found)
                    return found
            left -= PREVIOUS_UNITS
            return stored_previous(backend, row_id, previous_id, compacted)

        stop = revision_row((newest + 1) << SUB_BITS)
        for name, row in backend.scan(revision_row(self.next_id), stop):
            row_id = int.from_bytes(name[1:], "big")
            revision = row_id >> SUB_BITS
            if revision != current:
                # One revision at least, however little is left.
                if current and (left <= 0 or bytes_left <= 0):
                    self.next_id = revision << SUB_BITS
                    return 0
                current = revision
            elif left <= -units:  # far too long a revision: pause within it
                self.next_id = row_id
                return 0
            left -= ROW_UNITS
            bytes_left -= len(row)
            groups = find(row_key(row))
            if groups:
                previous_id = int.from_bytes(row[:ID_BYTES], "big")
                deleted = row[ID_BYTES] == DELETE_ROW
                framed = row[ROW_HEAD_BYTES:]
                count = gather(groups, revision, deleted, framed, previous)
                left -= EVENT_UNITS * count  # `previous` has changed it, too
                if self._remembers and not deleted:
                    recent[row_id] = framed
                    self._recent_bytes += len(framed)
            if self._recent_bytes > RECENT_BYTES:
                recent.clear()
                self._recent_bytes = 0
        self.next_id = (newest + 1) << SUB_BITS
        return max(left, 0)
