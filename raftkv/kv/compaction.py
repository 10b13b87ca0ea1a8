"""Compaction: history below a revision becomes unreadable at once and is removed bit by bit.

A COMPACT entry moves the compacted revision; from then on reads below it fail on every member,
whatever has been removed. Removal is each member's own housekeeping, in slices: walk the revision
rows from the last finished compaction up to the compacted revision; each row names the version it
replaced, which nothing can read any more, and a deletion is of no more use itself. Rows *at* the
compacted revision stay (a watch may start there); the next walk begins with them.

A slice's deletions and the place to go on with are one write, so a crash repeats nothing and loses
nothing. A newer COMPACT entry during a walk only moves its end.
"""

from typing import Final

from raftkv.kv.encoding import (
    COMPACTION,
    COMPACTION_ROW,
    DELETE_ROW,
    ID_BYTES,
    NO_ID,
    SUB_BITS,
    key_row,
    key_row_start,
    key_row_stop,
    parse_revision_row,
    revision_row,
)
from raftkv.kv.store import REVISION_ROW_BYTES, Store, row_key

RECLAIM_ROWS: Final = 10_000  # removed rows that make it worth rewriting the walked revisions
CROWDED_VERSIONS: Final = 1_000  # removed versions of one key: a seek would step over them
SPARED_VERSIONS: Final = 16
TRACKED_KEYS: Final = 50_000


class Compaction:
    """Progress of the physical removal on this member."""

    __slots__ = (
        "_areas",
        "_dead",
        "_removed",
        "finished",
        "next_id",
        "reclaimed",
        "removed_bytes",
        "store",
    )

    def __init__(self, store: Store) -> None:
        self.store = store
        self.finished = 0  # everything below this revision that can go is gone
        self.next_id = 0  # row id to go on with
        self.removed_bytes = 0  # of all rows removed so far
        # The newest finished revision whose removed bytes are known, and these.
        self.reclaimed = 0, 0
        self._removed = 0
        self._dead: dict[bytes, int] = {}  # key -> versions removed by this walk
        self._areas: list[tuple[bytes, bytes]] = []
        stored = store.backend.get(COMPACTION_ROW)
        if stored is not None:
            self.finished, at, self.removed_bytes = COMPACTION.unpack(stored)
            self.next_id = int.from_bytes(at, "big")
            if self.next_id == self.finished << SUB_BITS:  # between two walks
                self.reclaimed = self.finished, self.removed_bytes

    @property
    def pending(self) -> bool:
        """Is there anything to remove? The store must be flushed before `slice`."""
        return 0 < self.store.compacted > self.finished

    def slice(self, rows: int) -> bool:
        """Look at up to `rows` revision rows (about 15 us each). True while work is left."""
        if not self.pending:
            return False
        store = self.store
        target = store.compacted
        deleted: list[tuple[bytes, bytes | None]] = []
        stop = revision_row((target + 1) << SUB_BITS)
        left = rows
        next_id = 0
        for name, row in store.backend.scan(revision_row(self.next_id), stop):
            row_id = parse_revision_row(name)
            if left == 0:
                next_id = row_id
                break
            left -= 1
            self._examine(row_id, row, target, deleted)
        if next_id:
            self.next_id = next_id
        else:
            self.next_id = target << SUB_BITS
            self._note_areas(self.finished, target)
            self.finished = target
            self.reclaimed = target, self.removed_bytes
        progress = COMPACTION.pack(
            self.finished, self.next_id.to_bytes(ID_BYTES, "big"), self.removed_bytes
        )
        store.backend.write([*deleted, (COMPACTION_ROW, progress)])
        return self.pending

    def _examine(
        self, row_id: int, row: bytes, target: int, deleted: list[tuple[bytes, bytes | None]]
    ) -> None:
        """Which rows does this one make superfluous?"""
        key = b""
        if row[:ID_BYTES] != NO_ID:
            previous = int.from_bytes(row[:ID_BYTES], "big")
            if previous >> SUB_BITS < target:
                key = row_key(row)
                self._remove(key, previous, deleted)
        if row[ID_BYTES] == DELETE_ROW and row_id >> SUB_BITS < target:
            key = key or row_key(row)
            self._remove(key, row_id, deleted)

    def _remove(self, key: bytes, row_id: int, deleted: list[tuple[bytes, bytes | None]]) -> None:
        store = self.store
        name = revision_row(row_id)
        row = store.backend.get(name)
        if row is None:  # a walk that begins at the rows of its predecessor's end meets these
            return
        pointer = key_row(key, row_id)
        mark = store.backend.get(pointer) or b""
        self.removed_bytes += len(row) + REVISION_ROW_BYTES + len(pointer) + len(mark)
        deleted += ((name, None), (pointer, None))
        self._removed += 2
        self._count_dead(key)

    def _count_dead(self, key: bytes) -> None:
        """Remember how many versions of which key went; forget the small fry when it gets much."""
        dead = self._dead
        dead[key] = dead.get(key, 0) + 1
        if len(dead) > TRACKED_KEYS:
            self._dead = {name: count for name, count in dead.items() if count >= SPARED_VERSIONS}

    def _note_areas(self, began: int, target: int) -> None:
        """Find what is nearly empty now: the walked revisions, and keys that had many versions.

        Elsewhere removed rows lie scattered among live ones; LevelDB drops those in its own time.
        """
        if self._removed >= RECLAIM_ROWS:
            self._areas.append((revision_row(began << SUB_BITS), revision_row(target << SUB_BITS)))
            self._removed = 0
        self._areas += [
            (key_row_start(key), key_row_stop(key))
            for key, count in self._dead.items()
            if count >= CROWDED_VERSIONS
        ]
        self._dead = {}

    def take_areas(self) -> list[tuple[bytes, bytes]]:
        """Key ranges that a finished compaction emptied: for `Backend.compact`, once."""
        areas, self._areas = self._areas, []
        return areas
