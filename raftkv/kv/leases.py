"""Leases as the log tells them: granted, revoked, checkpointed, expired; and their keys' end.

Nothing here knows the time. The leader's clock decides when a lease is over and proposes that; to
apply it is to delete, on every member alike. A put names a lease and the order of the log decides
whether that still exists; a key whose newest version names a lease goes when the lease goes, all
keys of one entry in one revision and in key order.

Requests of the commands, big-endian, behind the envelope (`commands`):

    LEASE_GRANT       id i64 | ttl_ms i64
    LEASE_REVOKE      id i64
    LEASE_CHECKPOINT  known u64 | (id i64 | remaining_ms i64)*     0: the lease was renewed
    LEASE_EXPIRE      term u64 | known u64 | id i64*
    PUT_WITH_TTL      id i64 | ttl_ms i64 | PutRequest
    SESSION_OPEN      id i64 | ttl_ms i64
    LEASE_GRANT_DRAWN id i64 | ttl_ms i64                          LEASE_GRANT of a drawn id

The proposer chooses ids and has raised a TTL to the minimum. A request that is longer or shorter
than this, or has an id or a TTL of 0, is of another version: ProtocolError, so that no two versions
apply one entry differently.

An expiry belongs to the leader that decided it. If its entry has another term than the one that it
names, the leader's clock was no longer the one that counts, and the entry does nothing.

What the clock decides is about the leases of the state that it knew: `known` is the index applied
then. While the decision is on its way a lease may be revoked and another one granted under its id;
nothing was decided about that one, so what was granted behind `known` is left alone (M08, M09).

A hidden lease comes into being with the only put that was ever meant to use it. When the next such
put to the same key leaves it without any key, it goes too: a key that is refreshed a thousand times
within its TTL has one lease, not a thousand. Everything else treats it as any lease. So it does a
session (`sessions`), whose answers are dropped in the entry that ends its lease.

A row: `l` + id + 2^63 as u64 -> version u8 | ttl_ms i64 | remaining_ms i64 | flags u8 |
    granted index u64 | renewed index u64
"""

from collections.abc import Iterator
from heapq import merge
from operator import attrgetter
from struct import Struct
from struct import error as struct_error
from typing import Final, NamedTuple
from zlib import crc32

from raftkv.errors import (
    LEASE_EXISTS,
    LEASE_NOT_FOUND,
    LEASE_PROVIDED,
    TOO_MANY_SESSIONS,
    ApiError,
    CorruptionError,
    ProtocolError,
)
from raftkv.kv import commands
from raftkv.kv.backend import Row
from raftkv.kv.encoding import LEASE_ROWS, varint
from raftkv.kv.sessions import Sessions
from raftkv.kv.store import Store
from raftkv.kv.writes import Writer
from raftkv.limits import MAX_SESSIONS
from raftkv.pb import rpc_pb2 as pb
from raftkv.raft.types import Entry

# Kinds of lease events, for the leader's clock.
GRANTED: Final = 1
REVOKED: Final = 2
CHECKPOINTED: Final = 3

_GRANTS: Final = (commands.LEASE_GRANT, commands.LEASE_GRANT_DRAWN, commands.SESSION_OPEN)
_VERSION: Final = 1
_HIDDEN: Final = 1
_SESSION: Final = 2
_ROW: Final = Struct(">BqqBQQ")
_NAME: Final = Struct(">cQ")
_ID_OFFSET: Final = 1 << 63
_ID: Final = Struct(">q")
_PAIR: Final = Struct(">qq")
_KNOWN: Final = Struct(">Q")
_DECIDED: Final = Struct(">QQ")
_granted_index: Final = attrgetter("granted_index")


class Lease(NamedTuple):
    """id: signed, 64 bits, never 0. ttl_ms: what was granted. remaining_ms: what was left of it at
    the last checkpoint, 0 if it was renewed since or had none. hidden: made by a put with a TTL.
    granted_index: the entry of the log that made it. renewed_index: the newest entry that says that
    it was granted or renewed; a renewal by the leader that wrote that one makes none.
    session: made by SESSION_OPEN.
    """

    id: int
    ttl_ms: int
    remaining_ms: int = 0
    hidden: bool = False
    granted_index: int = 0
    renewed_index: int = 0
    session: bool = False


class Leases:
    """Every lease that exists.

    by_id: in the order of their grants. Not to be changed by anybody but the commands.
    """

    __slots__ = ("by_id",)

    def __init__(self) -> None:
        self.by_id: dict[int, Lease] = {}

    def __contains__(self, lease: int) -> bool:
        return lease in self.by_id

    def __iter__(self) -> Iterator[Lease]:
        return iter(self.by_id.values())

    def __len__(self) -> int:
        return len(self.by_id)

    def get(self, lease: int) -> Lease | None:
        """The lease with this id."""
        return self.by_id.get(lease)


# --- requests ------------------------------------------------------------------
def grant_request(lease: int, ttl_ms: int) -> bytes:
    """The request of LEASE_GRANT, LEASE_GRANT_DRAWN and SESSION_OPEN."""
    return _PAIR.pack(lease, ttl_ms)


def revoke_request(lease: int) -> bytes:
    """The request of LEASE_REVOKE."""
    return _ID.pack(lease)


def checkpoint_request(known_index: int, remaining: list[tuple[int, int]]) -> bytes:
    """The request of LEASE_CHECKPOINT.

    known_index: applied when it was decided. remaining: (id, milliseconds left, 0: renewed).
    """
    return _KNOWN.pack(known_index) + b"".join([_PAIR.pack(*one) for one in remaining])


def expire_request(term: int, known_index: int, leases: list[int]) -> bytes:
    """The request of LEASE_EXPIRE.

    term: of the leader whose clock has decided it. known_index: applied there when it did.
    """
    return _DECIDED.pack(term, known_index) + b"".join([_ID.pack(lease) for lease in leases])


def put_with_ttl_request(lease: int, ttl_ms: int, put: bytes) -> bytes:
    """The request of PUT_WITH_TTL. put: a PutRequest's bytes, which name no lease."""
    return _PAIR.pack(lease, ttl_ms) + put


# --- rows ----------------------------------------------------------------------
def row_name(lease: int) -> bytes:
    """The key of a lease's row: rows in the order of ids, negative ones first."""
    return _NAME.pack(b"l", lease + _ID_OFFSET)


def lease_row(lease: Lease) -> tuple[bytes, bytes]:
    """The row of one lease."""
    flags = (_HIDDEN if lease.hidden else 0) | (_SESSION if lease.session else 0)
    indices = lease.granted_index, lease.renewed_index
    value = _ROW.pack(_VERSION, lease.ttl_ms, lease.remaining_ms, flags, *indices)
    return row_name(lease.id), value


def parse_lease_row(name: bytes, value: bytes) -> Lease:
    """The lease in a row. Raises CorruptionError if this version did not write it."""
    if len(name) != _NAME.size or len(value) != _ROW.size or value[0] != _VERSION:
        raise CorruptionError(f"the row {name!r} holds no lease that this version knows")
    _, ttl_ms, remaining_ms, flags, granted, renewed = _ROW.unpack(value)
    number = _NAME.unpack(name)[1] - _ID_OFFSET
    hidden, session = bool(flags & _HIDDEN), bool(flags & _SESSION)
    return Lease(number, ttl_ms, remaining_ms, hidden, granted, renewed, session)


def load_leases(store: Store, leases: Leases, slice_rows: int) -> Iterator[None]:
    """Fill `leases` from the rows, oldest grant first; pauses after every `slice_rows` rows.

    Raises CorruptionError for a row that cannot be read, and for a key of a lease that is not
    there: nothing would ever delete it. The store knows its keys already.
    """
    # Rows come in the order of ids. Sorting all of them at once would be one long step.
    slices: list[list[Lease]] = [[]]
    for name, value in store.backend.scan(*LEASE_ROWS):
        slices[-1].append(parse_lease_row(name, value))
        if len(slices[-1]) == slice_rows:
            slices[-1].sort(key=_granted_index)
            slices.append([])
            yield
    slices[-1].sort(key=_granted_index)
    # No two leases have the same index: an entry grants one.
    for number, lease in enumerate(merge(*slices, key=_granted_index), 1):
        leases.by_id[lease.id] = lease
        if number % slice_rows == 0:
            yield
    for orphaned in store.attached:
        if orphaned not in leases:
            raise CorruptionError(f"keys are attached to lease {orphaned:x}, which does not exist")


class LeaseCounts:
    """What was applied since this process began; for whoever exposes it."""

    __slots__ = ("expired", "granted", "revoked")

    def __init__(self) -> None:
        self.granted = 0
        self.revoked = 0
        self.expired = 0

    def add(self, before: "LeaseCounts") -> None:
        """What was applied to a state that this one replaces."""
        self.granted += before.granted
        self.revoked += before.revoked
        self.expired += before.expired


class LeaseCommands:
    """Applies the commands about leases.

    store: has the keys and which lease each is attached to. writer: carries out puts. sessions:
        learns which leases are sessions.
    events: (kind, id) of every lease that was granted, revoked or checkpointed, in log order. The
        reader empties it in place.
    """

    __slots__ = ("_sessions", "_store", "_writer", "counts", "events", "leases")

    def __init__(self, store: Store, leases: Leases, writer: Writer, sessions: Sessions) -> None:
        self._store = store
        self._sessions = sessions
        self._writer = writer
        self.leases = leases
        self.events: list[tuple[int, int]] = []
        self.counts = LeaseCounts()

    def apply(self, entry: Entry, at: int) -> bytes | ApiError:
        """Carry out an entry whose request begins at `at`; the body of the answer.

        Raises ProtocolError if it is none of the commands about leases, or one of a form that this
        version does not know. Nothing has changed then.
        """
        command, request = entry.payload[1], entry.payload[at:]
        try:
            if command in _GRANTS:
                return self._grant(request, entry.index, command == commands.SESSION_OPEN)
            if command == commands.PUT_WITH_TTL:
                return self._put_with_ttl(request, entry.index)
            if command == commands.LEASE_REVOKE:
                return self._revoke(*_ID.unpack(request))
            if command == commands.LEASE_CHECKPOINT:
                (known,) = _KNOWN.unpack_from(request)
                remaining = list(_PAIR.iter_unpack(request[_KNOWN.size :]))
                return self._checkpoint(remaining, known, entry.index)
            if command == commands.LEASE_EXPIRE:
                term, known = _DECIDED.unpack_from(request)
                leases = [lease for (lease,) in _ID.iter_unpack(request[_DECIDED.size :])]
                if term == entry.term:
                    self.counts.expired += self._end(
                        [lease for lease in leases if self._known(lease, known) is not None]
                    )
                return b""
        except struct_error as cause:
            raise ProtocolError(
                f"entry {entry.index}: a request of command {command} has {len(request)} bytes"
            ) from cause
        raise ProtocolError(f"entry {entry.index} has the unknown command {command}")

    def keys(self, lease: int) -> list[bytes]:
        """The live keys attached to a lease, in key order."""
        return sorted(self._store.attached.get(lease, ()))

    # --- commands --------------------------------------------------------------
    def _grant(self, request: bytes, index: int, session: bool) -> bytes | ApiError:
        lease, ttl_ms = _PAIR.unpack(request)
        granted = _checked(Lease(lease, ttl_ms, 0, False, index, index, session))
        if lease in self.leases:
            return LEASE_EXISTS
        if session and len(self._sessions) >= MAX_SESSIONS:
            return TOO_MANY_SESSIONS
        self._add(granted)
        return b"\x10%b\x18%b" % (varint(lease), varint(ttl_ms // 1000))

    def _put_with_ttl(self, request: bytes, index: int) -> bytes | ApiError:
        lease, ttl_ms = _PAIR.unpack_from(request)
        granted = _checked(Lease(lease, ttl_ms, 0, True, index, index))
        put = pb.PutRequest.FromString(request[_PAIR.size :])
        if lease in self.leases:
            return LEASE_EXISTS
        if put.lease or put.ignore_lease:
            return LEASE_PROVIDED
        refused = self._writer.check_put(put)
        if refused is not None:
            return refused
        old = self._store.numbers(put.key)
        replaced = 0 if old is None else old[4]
        put.lease = lease
        body = self._writer.put_request(put)  # reads rows: before the lease's own row
        self._add(granted)
        before = self.leases.get(replaced)
        if before is not None and before.hidden and replaced not in self._store.attached:
            self._remove(replaced)
            self.counts.revoked += 1
        return body + b"\x18" + varint(lease)

    def _revoke(self, lease: int) -> bytes | ApiError:
        if lease not in self.leases:
            return LEASE_NOT_FOUND
        self.counts.revoked += self._end([lease])
        return b""

    def _end(self, leases: list[int]) -> int:
        """End those that exist, and all their keys in one revision. Returns how many."""
        attached = self._store.attached
        over = [lease for lease in dict.fromkeys(leases) if lease in self.leases]
        # A key has one lease at most: each is here once.
        keys = sorted([key for lease in over for key in attached.pop(lease, ())])
        if keys:
            self._store.delete_all(keys, detached=True)
        for lease in over:
            self._remove(lease)
        return len(over)

    def _checkpoint(self, remaining: list[tuple[int, int]], known: int, index: int) -> bytes:
        if any(left < 0 for _, left in remaining):
            raise ProtocolError("a checkpoint says that less than nothing is left")
        for number, left in remaining:
            lease = self._known(number, known)
            if lease is None:
                continue
            # More can be left than was granted: a leader that has taken over adds to it.
            renewed = lease.renewed_index if left else index
            self._write(lease._replace(remaining_ms=left, renewed_index=renewed))
            self.events.append((CHECKPOINTED, number))
        return b""

    def _known(self, number: int, known_index: int) -> Lease | None:
        """A lease that exists and did when index `known_index` was applied."""
        lease = self.leases.by_id.get(number)
        return None if lease is None or lease.granted_index > known_index else lease

    # --- rows --------------------------------------------------------------------
    def _add(self, lease: Lease) -> None:
        self._write(lease)
        self.counts.granted += 1
        self.events.append((GRANTED, lease.id))
        if lease.session:
            self._sessions.begin(lease.id)

    def _write(self, lease: Lease) -> None:
        self.leases.by_id[lease.id] = lease
        name, value = lease_row(lease)
        self._record((name, value), name + value)

    def _remove(self, number: int) -> None:
        lease = self.leases.by_id.pop(number)
        name = row_name(number)
        self._record((name, None), name)
        if lease.session:
            self._sessions.end(number)
        self.events.append((REVOKED, number))

    def _record(self, row: Row, change: bytes) -> None:
        self._store.pending.append(row)
        self._store.hash = crc32(change, self._store.hash)


def _checked(lease: Lease) -> Lease:
    """What is about to be granted. Raises ProtocolError if no proposer of ours asked for it."""
    if not lease.id or lease.ttl_ms <= 0:
        raise ProtocolError(f"no proposer asks for lease {lease.id} with {lease.ttl_ms} ms")
    return lease
