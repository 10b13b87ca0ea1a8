"""From rows to memory when a machine opens, and the rows about members.

The live keys come from one scan over the pointer rows: the first row of each key is its newest
version. Keys with many versions are skipped by a seek (see `ranges`).
"""

from collections.abc import Iterator
from struct import Struct
from typing import Final

from raftkv.errors import CorruptionError, ProtocolError
from raftkv.kv.backend import Backend, Row
from raftkv.kv.encoding import (
    APPLIED,
    CONFIGURATION_ROW,
    DELETION_MARK,
    ID_BYTES,
    ID_MAX,
    KEY_ROWS,
    MEMBER_ROWS,
    REMOVED_ROWS,
    SUB_BITS,
    marked_lease,
)
from raftkv.kv.members import Member, Roster, decode_member, encode_member
from raftkv.kv.store import Store
from raftkv.raft.membership import decode_change, encode_change
from raftkv.raft.types import Configuration, SnapshotMeta

_META: Final = Struct(">QQ")
SLICE_ROWS: Final = 2000  # pointer rows of one slice, about 1-2 us each
SKIP_VERSIONS: Final = 16  # stale versions of one key to step over


def load_applied(store: Store, stored: bytes) -> tuple[int, int]:
    """Set the store's counters from the applied row; applied index and term."""
    if len(stored) != APPLIED.size:
        raise CorruptionError(f"the row of the applied index has {len(stored)} bytes")
    index, term, store.revision, store.compacted, store.hash, store.written_bytes = APPLIED.unpack(
        stored
    )
    store.next_id = (store.revision + 1) << SUB_BITS
    store.flushed_id = store.next_id - 1
    return index, term


def load_keys(store: Store) -> Iterator[None]:
    """Rebuild the live keys; pauses after every slice of work."""
    live = store.live
    start, stop = KEY_ROWS
    again = True
    rows = 0
    while again:
        again = False
        current = b""
        stale = 0
        for row, mark in store.backend.scan(start, stop):
            rows += 1
            if rows == SLICE_ROWS:
                rows = 0
                yield
            name = row[1:-14]
            if name == current:
                stale += 1
                if stale > SKIP_VERSIONS:
                    start = row[: -ID_BYTES - 1] + b"\x01"
                    again = True
                    break
                continue
            current, stale = name, 0
            if mark == DELETION_MARK:
                continue
            key = name.replace(b"\0\xff", b"\0") if 0 in name else name
            live[key] = ID_MAX - int.from_bytes(row[-ID_BYTES:], "big")
            if mark:
                store.attached.setdefault(marked_lease(mark), {})[key] = None
    store.adopt(live)


def load_roster(backend: Backend) -> Roster:
    """Configuration, members and removed ids. Raises CorruptionError for damaged rows."""
    roster = Roster()
    stored = backend.get(CONFIGURATION_ROW)
    try:
        if stored is not None:
            roster.configuration = decode_change(stored)[0]
        for _, row in backend.scan(*MEMBER_ROWS):
            member = decode_member(row)
            roster.members[member.id] = member
    except ProtocolError as error:
        raise CorruptionError(f"the rows about members are damaged: {error}") from error
    removed = [
        (int.from_bytes(order, "big"), int.from_bytes(name[1:], "big"))
        for name, order in backend.scan(*REMOVED_ROWS)
    ]
    for _, number in sorted(removed):
        roster.removed[number] = None
    return roster


def member_row(member: Member) -> Row:
    """The row of one member."""
    return b"n" + member.id.to_bytes(8, "big"), encode_member(member)


def roster_rows(roster: Roster) -> list[Row]:
    """All rows of a roster that has none yet."""
    rows: list[Row] = [(CONFIGURATION_ROW, encode_change(roster.configuration, b""))]
    rows.extend(member_row(member) for member in roster.members.values())
    return rows


def change_rows(roster: Roster, configuration: Configuration, joining: Member | None) -> list[Row]:
    """Take over an applied configuration; the rows that it changes."""
    added, gone = roster.configure(configuration, joining)
    rows: list[Row] = [(CONFIGURATION_ROW, encode_change(configuration, b""))]
    rows.extend(member_row(member) for member in added)
    for number in gone:
        identity = number.to_bytes(8, "big")
        order = list(roster.removed).index(number)
        rows.append((b"n" + identity, None))
        rows.append((b"x" + identity, order.to_bytes(8, "big")))
    return rows


def encode_meta(index: int, term: int, configuration: Configuration) -> bytes:
    """What a snapshot stands for: index u64 | term u64 | configuration."""
    return _META.pack(index, term) + encode_change(configuration, b"")


def decode_meta(meta: bytes) -> SnapshotMeta:
    """Raises ProtocolError for anything but `encode_meta`'s bytes."""
    if len(meta) < _META.size:
        raise ProtocolError("a snapshot's meta is cut short")
    index, term = _META.unpack_from(meta)
    return SnapshotMeta(index, term, decode_change(meta[_META.size :])[0])
