"""A state carried forward by events that were archived, and one made of a listing of keys.

What a watch tells of a revision is all that the rows need: the events in their order give the same
row ids, and each put's KeyValue says what its key's create revision, version and lease are. The
store works these out anew, so an archive that does not belong to this state, or lacks something, is
noticed at the first key that comes out differently.

Grants of leases are no events. A lease that keys are attached to and that this state does not have
is granted anew, as of this state's applied index: its keys must not live for ever. One that has
ended meanwhile is still there, without keys, and ends by itself.

A listing is all that existed at one revision, without history. Its state counts as that of the
first entry of a log, compacted up to the revision.
"""

from collections.abc import Iterable
from typing import Final
from zlib import crc32

from raftkv.errors import CorruptionError
from raftkv.kv.backend import Backend, Row
from raftkv.kv.encoding import (
    APPLIED_ROW,
    COMPACTION,
    COMPACTION_ROW,
    ID_BYTES,
    NO_ID,
    PUT_ROW,
    SUB_BITS,
    SUB_MASK,
    decode_kv,
    framed_key,
    key_field,
    key_row,
    lease_mark,
    revision_row,
    value_field,
)
from raftkv.kv.leases import Lease, Leases, lease_row, load_leases
from raftkv.kv.loading import SLICE_ROWS, load_applied, load_keys
from raftkv.kv.restoring import Applied, applied_row, read_applied
from raftkv.kv.store import Store

CACHE_BYTES: Final = 64 * 1024 * 1024
FLUSH_ROWS: Final = 10_000
FLUSH_BYTES: Final = 16 * 1024 * 1024


class Replay:
    """See the module's docstring. `apply` and `count` may be mixed; `finish` comes last.

    revision: the newest one that was applied, at first that of the state.
    """

    def __init__(self, backend: Backend) -> None:
        """Loads a state. Raises CorruptionError."""
        self._backend = backend
        self._applied = read_applied(backend)
        self._store = store = Store(backend, CACHE_BYTES)
        self._leases = Leases()
        self._granted: dict[int, int] = {}
        self._pending_bytes = 0
        load_applied(store, backend.get(APPLIED_ROW) or b"")
        for _ in load_keys(store):
            pass
        for _ in load_leases(store, self._leases, SLICE_ROWS):
            pass

    @property
    def revision(self) -> int:
        """See the class's docstring."""
        return self._store.revision

    def apply(self, revision: int, events: Iterable[tuple[bool, bytes]]) -> None:
        """The next revision. events: (deleted, framed KeyValue) in their order.

        Raises CorruptionError if this cannot have followed; then nothing more may be asked.
        """
        store = self._store
        if revision != store.revision + 1:
            raise CorruptionError(f"revision {revision} follows {store.revision}")
        try:
            for deleted, framed in events:
                self._event(deleted, framed)
        except (AssertionError, IndexError) as error:
            raise CorruptionError(f"revision {revision} has an event that is none") from error
        store.close_entry()
        if store.revision != revision:
            raise CorruptionError(f"revision {revision} changes nothing")
        if len(store.pending) > FLUSH_ROWS or self._pending_bytes > FLUSH_BYTES:
            self._flush([])

    def _event(self, deleted: bool, framed: bytes) -> None:
        store = self._store
        self._pending_bytes += len(framed)
        if deleted:
            key = framed_key(framed)
            if key not in store.live:
                raise CorruptionError(f"the archive deletes {key!r}, which does not exist")
            store.delete_all([key])
            made = store.pending[-2][1] or b""
            if not made.endswith(framed):
                raise CorruptionError(f"the archive deletes {key!r} in another revision")
            return
        kv = decode_kv(framed)
        store.put(kv.key, key_field(kv.key), value_field(kv.value), kv.lease)
        if store.cache[kv.key][0] != framed:
            raise CorruptionError(
                f"the archive's version {kv.version} of {kv.key!r} does not follow from this state"
            )

    def granted(self, lease: int, ttl_ms: int) -> None:
        """What is known of a lease that keys will be attached to. ttl_ms: 0: nothing."""
        self._granted[lease] = ttl_ms

    def check_count(self, keys: int) -> None:
        """As many keys existed at this revision. Raises CorruptionError."""
        if len(self._store.live) != keys:
            raise CorruptionError(
                f"{len(self._store.live)} keys at revision {self.revision}, there were {keys}: "
                "the archive lacks something"
            )

    def finish(self, unknown_ttl_ms: int) -> int:
        """Writes what is left to write; how many leases got `unknown_ttl_ms`, for nobody knew more.

        Raises DiskFailure.
        """
        rows: list[Row] = []
        unknown = 0
        index = self._applied.applied_index
        for number in sorted(self._store.attached):
            ttl_ms = self._granted.get(number, 0)
            known = self._leases.get(number)
            if known is not None and (not ttl_ms or known.ttl_ms // 1000 == ttl_ms // 1000):
                continue
            if not ttl_ms:
                unknown += 1
                ttl_ms = unknown_ttl_ms
            rows.append(lease_row(Lease(number, ttl_ms, 0, False, index, index)))
        self._flush(rows)
        return unknown

    def _flush(self, rows: list[Row]) -> None:
        store = self._store
        applied = self._applied._replace(
            revision=store.revision, hash=store.hash, written_bytes=store.written_bytes
        )
        self._backend.write([*store.take_pending(), *rows, applied_row(applied)])
        store.flushed()
        self._pending_bytes = 0


class Listing:
    """Makes a state in an empty backend. See the module's docstring.

    revision: that everything is listed at.
    """

    def __init__(self, backend: Backend, revision: int) -> None:
        self._backend = backend
        self._revision = revision
        self._rows: list[Row] = []
        self._subs: dict[int, int] = {}
        self._leases: dict[int, None] = {}
        self._hash = self._bytes = 0

    def add(self, framed: bytes) -> int:
        """The next key's KeyValue, framed; the lease that it is attached to, 0: none.

        Keys come in their order. Raises DiskFailure.
        """
        kv = decode_kv(framed)
        sub = self._subs.get(kv.mod_revision, 0)
        self._subs[kv.mod_revision] = sub + 1
        assert 0 < kv.mod_revision <= self._revision, "it is listed at this revision"
        assert sub <= SUB_MASK, "a revision has fewer keys"
        row_id = kv.mod_revision << SUB_BITS | sub
        pointer, mark = key_row(kv.key, row_id), lease_mark(kv.lease) if kv.lease else b""
        name, value = revision_row(row_id), b"%b%c%b" % (NO_ID, PUT_ROW, framed)
        self._rows += ((name, value), (pointer, mark))
        self._bytes += len(name) + len(value) + len(pointer) + len(mark)
        self._hash = crc32(framed, self._hash)
        if kv.lease:
            self._leases[kv.lease] = None
        if len(self._rows) > FLUSH_ROWS:
            self._flush()
        return kv.lease

    def finish(self, ttls_ms: dict[int, int], unknown_ttl_ms: int) -> Applied:
        """Writes what is left to write. ttls_ms: of leases, as far as known. Raises DiskFailure."""
        for number in sorted(self._leases):
            ttl_ms = ttls_ms.get(number) or unknown_ttl_ms
            self._rows.append(lease_row(Lease(number, ttl_ms, 0, False, 1, 1)))
        at = (self._revision << SUB_BITS).to_bytes(ID_BYTES, "big")
        self._rows.append((COMPACTION_ROW, COMPACTION.pack(self._revision, at, 0)))
        applied = Applied(1, 1, self._revision, self._revision, self._hash, self._bytes)
        self._rows.append(applied_row(applied))
        self._flush()
        return applied

    def _flush(self) -> None:
        self._backend.write(self._rows)
        self._rows = []
