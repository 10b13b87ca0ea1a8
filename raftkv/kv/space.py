"""The space quota, in log order: every member refuses the same writes (M23).

What counts is what the log has put into the store and no compaction has taken out again:

    used = rows of versions written - rows that compactions removed + leases + kept answers

in bytes of rows, live versions and history alike, never the files' size: what LevelDB has not given
back yet costs nobody a write, and nothing has to be defragmented.

Versions and leases follow from the log. How many bytes a compaction removes does too, but no
member knows before it has walked through them, at its own pace. So the leader tells in the log when
it has: SPACE says the revision up to which all is removed and how many bytes all removals together
came to. It also tells the quota, so that members with different settings cannot part; the newest
leader's setting counts. Until a leader has told one there is none.

A write that would lead beyond the quota is refused and raises NOSPACE; from then on all that grows
the store is refused: puts, transactions with a put in a branch, grants of leases and sessions.
Deletes, compactions, revocations and reads go on. When used has fallen to nine tenths of the quota,
the alarm goes in the same entry that did it.

Request of SPACE, and the row, big-endian:

    q -> member u64 | quota i64 | revision i64 | bytes u64       quota 0: none
"""

from collections.abc import Iterable, Mapping
from struct import Struct
from struct import error as struct_error
from typing import Final, NamedTuple
from zlib import crc32

from raftkv.errors import CORRUPT, NO_SPACE, ApiError, CorruptionError, ProtocolError
from raftkv.kv import alarms as alarm_kinds
from raftkv.kv import commands
from raftkv.kv.alarms import Alarms
from raftkv.kv.encoding import SPACE_ROW
from raftkv.kv.leases import Leases
from raftkv.kv.sessions import Sessions
from raftkv.kv.store import Store
from raftkv.limits import MAX_ALL_KEPT_BYTES
from raftkv.pb import rpc_pb2 as pb

LEASE_BYTES: Final = 48  # of a lease: its row
# No plain put, be it alone or in a swap, costs more or adds more bytes of rows than this.
PLAIN_PUT_BYTES: Final = 17_000
_BOUNDLESS: Final = 1 << 62
_SPACE: Final = Struct(">QqqQ")

# Commands that only grow the store. Of a transaction it is the puts in it.
GROWING: Final = frozenset(
    (
        commands.LEASE_GRANT,
        commands.LEASE_GRANT_DRAWN,
        commands.SESSION_OPEN,
        commands.PUT_WITH_TTL,
    )
)
_LEASES: Final = GROWING | {commands.LEASE_REVOKE}


class Told(NamedTuple):
    """What the newest SPACE entries said.

    member: whose quota it is. quota_bytes: 0: none. reclaimed_revision: history below it is gone.
    reclaimed_bytes: of all rows that compactions up to that one removed.
    """

    member: int = 0
    quota_bytes: int = 0
    reclaimed_revision: int = 0
    reclaimed_bytes: int = 0


class Space:
    """Judges what grows the store. members: those of the cluster, by id."""

    __slots__ = ("_alarms", "_leases", "_sessions", "_store", "_sure_bytes", "members", "told")

    def __init__(
        self,
        store: Store,
        leases: Leases,
        sessions: Sessions,
        alarms: Alarms,
        members: Mapping[int, object],
    ) -> None:
        self._store = store
        self._leases = leases
        self._sessions = sessions
        self._alarms = alarms
        self.members = members
        self.told = Told()
        # Up to so many written bytes there is room for sure: what a hot path looks at first. Leases
        # are reckoned with one more than there are, sessions with all that they may keep.
        self._sure_bytes = _BOUNDLESS

    def _reckon(self) -> None:
        told = self.told
        besides = LEASE_BYTES * (len(self._leases) + 1) + MAX_ALL_KEPT_BYTES
        room = told.quota_bytes + told.reclaimed_bytes - besides
        self._sure_bytes = room if told.quota_bytes else _BOUNDLESS

    @property
    def used_bytes(self) -> int:
        """What counts against the quota."""
        rows = self._store.written_bytes - self.told.reclaimed_bytes
        return rows + LEASE_BYTES * len(self._leases) + self._sessions.kept_bytes

    def plain_puts(self) -> int:
        """So many plain puts, one after the other, would certainly be let through now."""
        if self._alarms.stops:
            return 0
        room = self._sure_bytes - self._store.written_bytes
        if room < MAX_ALL_KEPT_BYTES:
            room = max(self.told.quota_bytes - self.used_bytes, 0)
        return room // PLAIN_PUT_BYTES

    def refusal(self, size: int) -> ApiError | None:
        """May a command that adds about `size` bytes be carried out? Raises the alarm if not."""
        alarms, told = self._alarms, self.told
        if not alarms.stops and self._store.written_bytes + size <= self._sure_bytes:
            return None
        if alarms.everybody:
            return CORRUPT
        if not alarms.no_space:
            if not told.quota_bytes or self.used_bytes + size <= told.quota_bytes:
                return None
            alarms.activate(alarm_kinds.NOSPACE, told.member, self.members, own=True)
        return NO_SPACE

    def lease_refusal(self, payload: bytes) -> ApiError | None:
        """`refusal` of a command about leases; what the leader's clock says always passes."""
        command = payload[1]
        if command in GROWING:
            self._reckon()
            return self.refusal(len(payload))
        return CORRUPT if self._alarms.everybody and command in _LEASES else None

    def lift(self) -> None:
        """There may be room again. For the end of an entry, while the quota's own alarm is on."""
        quota = self.told.quota_bytes
        if not quota or self.used_bytes * 10 <= quota * 9:
            for kind, member in self._alarms.own_alarms():
                self._alarms.deactivate(kind, member, self.members)

    def tell(self, request: bytes, index: int) -> bytes:
        """Carry out SPACE. Raises ProtocolError for a request of another version."""
        try:
            said = Told(*_SPACE.unpack(request))
        except struct_error as cause:
            raise ProtocolError(f"entry {index}: {len(request)} bytes tell of space") from cause
        known = self.told
        newer = known.reclaimed_revision < said.reclaimed_revision <= self._store.compacted
        if not (newer and known.reclaimed_bytes <= said.reclaimed_bytes):
            # Of a leader that was behind: what it says about the quota counts.
            said = said._replace(
                reclaimed_revision=known.reclaimed_revision, reclaimed_bytes=known.reclaimed_bytes
            )
        if said != known:
            self.told = said
            self._reckon()
            row = _SPACE.pack(*said)
            self._store.pending.append((SPACE_ROW, row))
            self._store.hash = crc32(row, self._store.hash)
        return b""

    def load(self) -> None:
        """Read the row. Raises CorruptionError."""
        row = self._store.backend.get(SPACE_ROW)
        if row is not None:
            if len(row) != _SPACE.size:
                raise CorruptionError(f"the row of the quota has {len(row)} bytes")
            self.told = Told(*_SPACE.unpack(row))
            self._reckon()


def space_request(told: Told) -> bytes:
    """The request of SPACE."""
    return _SPACE.pack(*told)


def growth_bytes(request: pb.TxnRequest) -> int:
    """What a transaction may add: keys and values of its puts, in the larger branch; 0: no put."""
    return max(_branch_bytes(request.success), _branch_bytes(request.failure))


def _branch_bytes(branch: Iterable[pb.RequestOp]) -> int:
    size = 0
    for op in branch:
        kind = op.WhichOneof("request")
        if kind == "request_put":
            size += len(op.request_put.key) + len(op.request_put.value) + 1
        elif kind == "request_txn":
            size += growth_bytes(op.request_txn)
    return size
