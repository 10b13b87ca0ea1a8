"""Multi-version storage of keys: every write keeps the version it replaced (etcd MVCC).

In memory: `live` has every key that exists, `index` keeps the same keys in order, and `cache` holds
hot keys' newest versions as ready-made records. While a key is in the cache its value in `live`
means nothing, so a put of a hot key changes one dict. Of another key it says what the next put has
to know: `version << 96 | row id` with the create revision above that, or the row id alone if the
rest was never seen since the start or there is a lease. Then the row must be read.

On disk: one revision row and one pointer row per version (`encoding` has the layout).

Writes collect in `pending` until `take_pending`; a read of the newest version never needs those
rows, because a version stays in the cache at least until it is flushed. A read of history does:
flush first (legal between two entries, never within one).

An entry's writes share one revision. `next_id` is the row id of the next write; `close_entry`
moves to the next revision if the entry wrote anything.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple
from zlib import crc32

from raftkv.errors import CorruptionError
from raftkv.kv.backend import Backend, Row, View
from raftkv.kv.encoding import (
    DELETE_ROW,
    DELETION_MARK,
    FRAME_HEADS,
    ID_BYTES,
    ID_MAX,
    REVISION_ROW_TAG,
    ROW_HEAD_BYTES,
    SUB_BITS,
    SUB_MASK,
    decode_kv,
    frame,
    key_row_start,
    key_row_stop,
    lease_field,
    lease_mark,
    parse_key_row,
    parse_revision_row,
    revision_row,
    varint,
)
from raftkv.kv.index import KeyIndex

RECORD_OVERHEAD_BYTES: Final = 320  # tuple, numbers, bytes objects and dict slot of one record
REVISION_ROW_BYTES: Final = 1 + ID_BYTES  # a revision row's key
_new = tuple.__new__
_VERSION_MASK: Final = (1 << 32) - 1  # in a value of `live`

# The newest version of a key: framed KeyValue, row id, create revision, version, lease.
Record = tuple[bytes, int, int, int, int]


class Change(NamedTuple):
    """One write, for watchers: the framed KeyValue (key and mod_revision only if deleted)."""

    row_id: int
    key: bytes
    deleted: bool
    framed: bytes
    previous_id: int  # row id of the version replaced, 0: the key did not exist
    previous: bytes = b""  # that version, framed, if it was at hand


class Store:
    """See the module's docstring. Not for use outside `kv` except through the machine."""

    def __init__(self, backend: Backend, cache_bytes: int) -> None:
        self.backend = backend
        self.revision = 1
        self.compacted = -1  # never yet; even revision 0 can be compacted once
        self.next_id = 2 << SUB_BITS
        self.flushed_id = 0  # every version up to this one is in the backend
        self.live: dict[bytes, int] = {}
        self.index = KeyIndex()
        self.cache: dict[bytes, Record] = {}
        self.cache_limit_bytes = cache_bytes
        self.cached_bytes = 0
        self.pending: list[Row] = []
        self.written_bytes = 0  # of all revision and pointer rows ever written
        self.hash = 0
        self.changes: list[Change] | None = None  # filled only while somebody watches
        self.attached: dict[int, dict[bytes, None]] = {}  # lease -> its keys
        # Operations applied since the process began, for whoever watches it; no part of the state.
        self.puts = self.deletes = self.txns = 0

    def inherit_counts(self, earlier: "Store") -> None:
        """Goes on counting where the store that this one replaces was."""
        self.puts, self.deletes, self.txns = earlier.puts, earlier.deletes, earlier.txns

    # --- writes --------------------------------------------------------------
    def put(self, key: bytes, head: bytes, tail: bytes, lease: int = 0) -> bytes:
        """Write a version of `key`; its mod revision as a varint.

        head, tail: the ready-made fields 1 and 5 of the KeyValue.
        """
        self.puts += 1
        row_id = self.next_id
        self.next_id = row_id + 1
        old = self.cache.get(key)
        if old is None:
            self.cached_bytes += RECORD_OVERHEAD_BYTES
            old = self.evicted(key)
        else:
            self.cached_bytes -= len(old[0])
        mod = varint(row_id >> SUB_BITS)
        if old is None:
            old_id = 0
            create_revision = row_id >> SUB_BITS
            version = 1
            kv = b"".join((head, b"\x10", mod, b"\x18", mod, b"\x20\x01", tail))
            self.index.add(key)
            self.live[key] = 0
        else:
            _, old_id, create_revision, version, old_lease = old
            version += 1
            create = varint(create_revision)
            kv = b"".join((head, b"\x10", create, b"\x18", mod, b"\x20", varint(version), tail))
            if old_lease and old_lease != lease:
                self.detach(key, old_lease)
        mark = b""
        if lease:
            kv += lease_field(lease)
            mark = lease_mark(lease)
            self.attached.setdefault(lease, {})[key] = None
        framed = frame(kv)
        self.cache[key] = (framed, row_id, create_revision, version, lease)
        self.cached_bytes += len(framed)
        # 0 in key: asking for b"\0" takes ten times as long. 14 bytes: the end mark 00 00 as well.
        escaped = key.replace(b"\0", b"\0\xff") if 0 in key else key
        pointer = b"k%b%b" % (escaped, (ID_MAX - row_id).to_bytes(ID_BYTES + 2, "big"))
        value = (old_id << 8).to_bytes(ROW_HEAD_BYTES, "big") + framed  # kind: PUT_ROW
        self.written_bytes += len(pointer) + len(mark) + len(value) + REVISION_ROW_BYTES
        name = (REVISION_ROW_TAG + row_id).to_bytes(REVISION_ROW_BYTES, "big")
        self.pending += ((name, value), (pointer, mark))
        self.hash = crc32(kv, self.hash)
        if self.changes is not None:
            replaced = old[0] if old is not None else b""
            self.changes.append(Change(row_id, key, False, framed, old_id, replaced))
        return mod

    def delete_all(
        self, keys: list[bytes], *, returning: bool = False, detached: bool = False
    ) -> list[Record]:
        """Write deletions of live keys, which are in order and all different.

        returning: give back the records that ended; else nothing is read that need not be.
        detached: they had leases, which know nothing of them any more.
        """
        # A range of a hundred thousand keys is one entry, and nothing else happens until it is
        # applied. So this is one loop, in which every name is a local one.
        first = self.next_id
        self.next_id = first + len(keys)
        revision = b"\x18" + varint(first >> SUB_BITS)
        uncached, forget, load = self.cache.pop, self.live.pop, self._load
        changes = self.changes
        removed: list[Record] = []
        kvs: list[bytes] = []
        rows: list[Row] = []
        cached_bytes = written_bytes = 0
        for row_id, key in enumerate(keys, first):
            old = uncached(key, None)
            known = forget(key)
            if old is not None:
                cached_bytes += len(old[0]) + RECORD_OVERHEAD_BYTES
            elif detached or (known > ID_MAX and not returning):
                old = b"", known & ID_MAX, 0, 0, 0  # it has no lease
            else:
                old = load(known & ID_MAX)
            kv = b"\x0a%b%b%b" % (varint(len(key)), key, revision)
            size = len(kv)
            head = FRAME_HEADS[size] if size < len(FRAME_HEADS) else frame(kv)[:-size]
            value = b"%b%b%b" % ((old[1] << 8 | 1).to_bytes(ROW_HEAD_BYTES, "big"), head, kv)
            escaped = key.replace(b"\0", b"\0\xff") if 0 in key else key
            pointer = b"k%b%b" % (escaped, (ID_MAX - row_id).to_bytes(ID_BYTES + 2, "big"))
            name = (REVISION_ROW_TAG + row_id).to_bytes(REVISION_ROW_BYTES, "big")
            rows += ((name, value), (pointer, DELETION_MARK))
            kvs.append(kv)
            written_bytes += len(pointer) + len(value)
            if old[4] and not detached:
                self.detach(key, old[4])
            if changes is not None:
                change = row_id, key, True, value[ROW_HEAD_BYTES:], old[1], old[0]
                changes.append(_new(Change, change))
            if returning:
                removed.append(old)
        self.cached_bytes -= cached_bytes
        self.written_bytes += written_bytes
        self.written_bytes += len(keys) * (len(DELETION_MARK) + REVISION_ROW_BYTES)
        self.hash = crc32(b"".join(kvs), self.hash)
        self.pending += rows
        self.index.remove_all(keys)
        return removed

    def detach(self, key: bytes, lease: int) -> None:
        """`key` is no longer attached to this lease."""
        keys = self.attached[lease]
        del keys[key]
        if not keys:
            del self.attached[lease]

    def close_entry(self) -> int:
        """End an entry; the store's revision after it."""
        if self.next_id & SUB_MASK:
            self.revision += 1
            self.next_id = (self.revision + 1) << SUB_BITS
        return self.revision

    def take_pending(self) -> list[Row]:
        """The rows to write now. Afterwards call `flushed`."""
        self.index.settle()
        return self.pending

    def flushed(self) -> None:
        """The pending rows are in the backend."""
        self.pending = []
        self.flushed_id = self.next_id - 1
        if self.cached_bytes > self.cache_limit_bytes:
            self._evict()

    def _evict(self) -> None:
        """Drop the records cached longest ago until an eighth of the budget is free."""
        cache, live = self.cache, self.live
        goal = self.cache_limit_bytes - self.cache_limit_bytes // 8
        gone = []
        excess = self.cached_bytes - goal
        for key, record in cache.items():
            if excess <= 0:
                break
            excess -= len(record[0]) + RECORD_OVERHEAD_BYTES
            gone.append(key)
        for key in gone:
            _, row_id, create_revision, version, lease = cache.pop(key)
            rare = lease or version > _VERSION_MASK
            live[key] = row_id if rare else create_revision << 128 | version << 96 | row_id
        self.cached_bytes = goal + excess

    def evicted(self, key: bytes) -> Record | None:
        """The newest version of a key that is not in the cache, None if it does not exist, as a
        put that replaces it needs it: without its bytes if all else is known.
        """
        known = self.live.get(key)
        if known is None:
            return None
        if known > ID_MAX:
            return b"", known & ID_MAX, known >> 128, known >> 96 & _VERSION_MASK, 0
        return self._load(known)

    # --- reads of the newest version -----------------------------------------
    def latest(self, key: bytes) -> Record | None:
        """The newest version of `key`, None if it does not exist. Does not fill the cache."""
        record = self.cache.get(key)
        if record is None:
            row_id = self.live.get(key)
            if row_id is not None:
                return self._load(row_id & ID_MAX)
        return record

    def fetch(self, key: bytes) -> Record | None:
        """`latest`, and the record stays in the cache: for keys that will be asked for again."""
        record = self.cache.get(key)
        if record is None:
            row_id = self.live.get(key)
            if row_id is None:
                return None
            record = self._load(row_id & ID_MAX)
            self.cache[key] = record
            self.cached_bytes += len(record[0]) + RECORD_OVERHEAD_BYTES
            if self.cached_bytes > self.cache_limit_bytes and not self.pending:
                self._evict()
        return record

    def numbers(self, key: bytes) -> Record | None:
        """`fetch` for who needs no value: the record is without its bytes if that saves a read."""
        record = self.cache.get(key)
        if record is None:
            known = self.live.get(key, 0)
            return self.evicted(key) if known > ID_MAX else self.fetch(key)
        return record

    def known(self, key: bytes) -> Record:
        """The newest version of a key that is in the index. Does not fill the cache."""
        record = self.cache.get(key)
        return self._load(self.live[key] & ID_MAX) if record is None else record

    def records(self, keys: Iterable[bytes], *, keep: bool = False) -> list[Record]:
        """The newest versions of live keys, in their order. keep: put them into the cache."""
        cached = self.cache.get
        find = self.fetch if keep else self.latest
        found = []
        for key in keys:
            record = cached(key) or find(key)
            assert record is not None, "the index has a key that does not exist"
            found.append(record)
        return found

    def record_of(self, view: View, key: bytes, row_id: int) -> Record:
        """The version `row_id` of `key`, from the cache if it is still the newest."""
        record = self.cache.get(key)
        return record if record is not None and record[1] == row_id else load_record(view, row_id)

    def writing(self) -> bool:
        """True while an entry is half applied, from its first write on."""
        return self.next_id & SUB_MASK != 0

    def _load(self, row_id: int) -> Record:
        return load_record(self.backend, row_id)

    # --- reads of history (everything flushed) -------------------------------
    def at_revision(self, view: View, key: bytes, revision: int) -> Record | None:
        """The version of `key` that was the newest at `revision`, None if it did not exist."""
        live = self.cache.get(key)
        if live is not None and live[1] >> SUB_BITS <= revision:
            return live
        row_id = version_at(view, key, revision)
        return load_record(view, row_id) if row_id else None

    def adopt(self, keys: Iterable[bytes]) -> None:
        """The keys of `live` in order, after a load."""
        self.index = KeyIndex(keys)


def load_record(view: View, row_id: int) -> Record:
    """The stored version `row_id`. Raises CorruptionError if its row is missing."""
    framed = load_row(view, row_id)[ROW_HEAD_BYTES:]
    kv = decode_kv(framed)
    return framed, row_id, kv.create_revision, kv.version, kv.lease


def load_row(view: View, row_id: int) -> bytes:
    """The revision row of `row_id`. Raises CorruptionError if it is missing."""
    row = view.get(revision_row(row_id))
    if row is None:
        raise CorruptionError(
            f"the row of revision {row_id >> SUB_BITS}.{row_id & SUB_MASK} is missing"
        )
    return row


def version_at(view: View, key: bytes, revision: int) -> int:
    """Row id of the version of `key` that was the newest at `revision`; 0 if it did not exist."""
    newest = (revision << SUB_BITS) | SUB_MASK
    found = view.seek(key_row_start(key) + (ID_MAX - newest).to_bytes(ID_BYTES, "big"))
    if found is None or found[0] >= key_row_stop(key) or found[1] == DELETION_MARK:
        return 0
    return parse_key_row(found[0])[1]


def row_key(row: bytes) -> bytes:
    """The key that a revision row is about."""
    at = ROW_HEAD_BYTES + 2
    if row[at - 1] > 127:  # the frame's length has several bytes
        while row[at - 1] > 127:
            at += 1
    size = row[at + 1]
    if size < 128:
        return row[at + 2 : at + 2 + size]
    return decode_kv(row[ROW_HEAD_BYTES:]).key


def parse_row(name: bytes, row: bytes) -> Change:
    """A revision row as the change that it is."""
    framed = row[ROW_HEAD_BYTES:]
    return Change(
        parse_revision_row(name),
        row_key(row),
        row[ID_BYTES] == DELETE_ROW,
        framed,
        int.from_bytes(row[:ID_BYTES], "big"),
    )
