"""HashKV: one number for everything that can be read at a revision.

Two members that hold the same history answer the same, whatever their caches, their files or the
progress of their compactions: versions that compaction hides are skipped whether their rows are
still there or not. It covers, in key order, every version written after the compacted revision up
to the one asked for, and the version of each key that was the newest at the compacted revision.
The number is this project's own; it need not be etcd's.
"""

from collections.abc import Generator
from zlib import crc32

from raftkv.kv.backend import View
from raftkv.kv.encoding import (
    DELETION_MARK,
    ID_BYTES,
    KEY_ROWS,
    ROW_HEAD_BYTES,
    SUB_BITS,
    SUB_MASK,
    parse_key_row,
)
from raftkv.kv.ranges import LOAD_UNITS, SLICE_UNITS, STEP_UNITS
from raftkv.kv.store import load_row


def hash_kv_slices(view: View, compacted: int, revision: int) -> Generator[None, None, int]:
    """The hash over `view`, pausing (a yield) after every slice of work.

    compacted, revision: compacted revision and the newest revision to cover.
    """
    newest = revision << SUB_BITS | SUB_MASK
    floor = compacted << SUB_BITS | SUB_MASK
    value = crc32(b"%d" % compacted)
    units = 0
    current = b""
    decided = False
    for row, mark in view.scan(*KEY_ROWS):
        units += STEP_UNITS
        name = row[:-ID_BYTES]
        if name != current:
            current, decided = name, False
        row_id = parse_key_row(row)[1]
        if not decided and row_id <= newest:
            deleted = mark == DELETION_MARK
            if row_id <= floor:
                decided = True
            if not (decided and deleted):
                units += LOAD_UNITS
                framed = load_row(view, row_id)[ROW_HEAD_BYTES:]
                value = crc32(framed, crc32(b"%d" % (row_id << 1 | deleted), value))
        if units >= SLICE_UNITS:
            units = 0
            yield
    return value
