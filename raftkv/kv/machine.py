"""The replicated state machine: applies committed entries in log order, answers reads.

Pure and deterministic: what `apply` does and answers depends on the entries alone, never on time,
chance, hash order or how the rows got where they are. An answer is (revision, body): body is every
field of the etcd response but the header, which the answering member puts in front
(`encoding.header`).

Every entry, also a refused one, moves the applied index and the rolling state hash. The hash is a
CRC over the logical changes (the canonical KeyValue of each write, the text of each refusal) mixed
with the index; two members with equal hashes at an index have gone the same way there.

Rows of many entries go to the backend in one write, together with the applied index (`flush`), so
after a crash the state is exactly that of one applied index and the log is replayed from there.
An exception out of `apply` means that this version cannot carry out the entry. The member must
stop; nothing of that entry can be flushed.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Final
from zlib import crc32

from raftkv import limits
from raftkv.errors import (
    COMPACTED,
    CORRUPT,
    EMPTY_KEY,
    FUTURE_REVISION,
    MEMBER_NOT_FOUND,
    ApiError,
)
from raftkv.kv import commands, loading, ranges, txn
from raftkv.kv.alarms import Alarms
from raftkv.kv.answers import HashResult as HashResult
from raftkv.kv.answers import Result as Result
from raftkv.kv.answers import Status as Status
from raftkv.kv.backend import Backend, Row, View
from raftkv.kv.commands import SESSION
from raftkv.kv.compaction import Compaction
from raftkv.kv.encoding import APPLIED, APPLIED_ROW
from raftkv.kv.leases import LeaseCommands, Leases, load_leases
from raftkv.kv.members import (
    Member,
    Roster,
    decode_member,
    encode_member,
    joining_member,
    moving_member,
)
from raftkv.kv.runs import put_run
from raftkv.kv.sessions import Sessions
from raftkv.kv.sliced import SlicedReads
from raftkv.kv.space import Space, growth_bytes
from raftkv.kv.store import Change, Store
from raftkv.kv.swaps import carry_out, read_swap, swap_run
from raftkv.kv.upkeep import Upkeep
from raftkv.kv.writes import Writer, is_read_only
from raftkv.pb import rpc_pb2 as pb
from raftkv.raft.membership import decode_change
from raftkv.raft.types import CONFIG, NORMAL, Configuration, Entry

_MAX_REVISION: Final = (1 << 63) - 1
_INDEX_MASK: Final = (1 << 32) - 1
# What applies neighbouring entries in one go, by their command byte.
_RUNS: Final = {bytes((commands.PUT,)): put_run, bytes((commands.TXN,)): swap_run}
_new = tuple.__new__


@dataclass(frozen=True, slots=True)
class MachineSettings:
    """max_txn_ops: operations per branch of a txn, checked before propose (etcd --max-txn-ops).
    cache_bytes: memory for hot keys' newest versions.
    stream_chunk_bytes: size that RangeStream's chunks grow to.
    """

    max_txn_ops: int = limits.MAX_TXN_OPS
    cache_bytes: int = 32 * limits.MIB
    stream_chunk_bytes: int = limits.MAX_REQUEST_BYTES


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """The state of a new cluster, the same on every first member.

    index, term: the entry that this state counts as. With index 1 the log begins behind it, so
        a member that joins later cannot mistake an empty log for the cluster's beginning.
    """

    configuration: Configuration
    members: list[Member]
    index: int = 0
    term: int = 0


class StateMachine(SlicedReads):
    """One member's replica of the store. See the module's docstring.

    backend: holds the rows; empty, or what an earlier machine flushed to it.
    cluster: cluster id.
    bootstrap: what to begin with if the backend is empty; None: a member that gets its state
        from others.
    """

    def __init__(
        self,
        backend: Backend,
        cluster: int,
        settings: MachineSettings | None = None,
        bootstrap: Bootstrap | None = None,
    ) -> None:
        for _ in self._open(backend, cluster, settings or MachineSettings(), bootstrap):
            pass

    @classmethod
    def opening(
        cls, backend: Backend, cluster: int, settings: MachineSettings
    ) -> "Generator[None, None, StateMachine]":
        """The constructor in slices (after a snapshot install): a pause at every yield."""
        machine = cls.__new__(cls)
        yield from machine._open(backend, cluster, settings, None)
        return machine

    def _open(
        self,
        backend: Backend,
        cluster: int,
        settings: MachineSettings,
        bootstrap: Bootstrap | None,
    ) -> Iterator[None]:
        self.backend = backend
        self.cluster = cluster
        self.settings = settings
        self.applied_index = 0
        self.applied_term = 0
        self.leases = Leases()
        self.store = Store(backend, settings.cache_bytes)
        self._roster = Roster()
        self._rows: list[Row] = []  # rows about members and configuration, not yet flushed
        self._flushed_index = -1
        self._writer = Writer(self.store, self.leases.__contains__)
        self.sessions = Sessions(self.store)
        self._lease_commands = LeaseCommands(self.store, self.leases, self._writer, self.sessions)
        self.lease_events = self._lease_commands.events
        self.lease_counts = self._lease_commands.counts
        stored = backend.get(APPLIED_ROW)
        if stored is not None:
            self.applied_index, self.applied_term = loading.load_applied(self.store, stored)
            self._flushed_index = self.applied_index
            self._roster = loading.load_roster(backend)
            yield from loading.load_keys(self.store)
            yield from load_leases(self.store, self.leases, loading.SLICE_ROWS)
            yield from self.sessions.load([one.id for one in self.leases if one.session])
        elif bootstrap is not None:
            self._bootstrap(bootstrap)
        self._compaction = Compaction(self.store)
        members = self._roster.members
        self.alarms = Alarms(self.store)
        self.space = Space(self.store, self.leases, self.sessions, self.alarms, members)
        self.upkeep = Upkeep(self.store, self.alarms, self.space, members)
        if stored is not None:
            self.alarms.load(members)
            self.space.load()
            self.upkeep.load()
        self._handlers = {
            commands.PUT: self._put,
            commands.DELETE_RANGE: self._delete_range,
            commands.TXN: self._txn,
            commands.COMPACT: self._compact,
            commands.PUBLISH: self._publish,
            commands.ALARM: self.upkeep.alarm,
            commands.SPACE: self._tell_space,
            commands.CHECK: self._check,
            commands.DOWNGRADE: self.upkeep.downgraded,
        }

    def _bootstrap(self, bootstrap: Bootstrap) -> None:
        self.applied_index, self.applied_term = bootstrap.index, bootstrap.term
        self._roster.configure(bootstrap.configuration, None)
        for member in bootstrap.members:
            assert member.id in self._roster.members, f"member {member.id} is not configured"
            self._roster.members[member.id] = member
        self._rows = loading.roster_rows(self._roster)

    # --- what it knows ---------------------------------------------------------
    @property
    def revision(self) -> int:
        """The store's revision; 1 when fresh."""
        return self.store.revision

    @property
    def compacted_revision(self) -> int:
        """Reads below it fail. 0: never compacted."""
        return max(self.store.compacted, 0)

    @property
    def state_hash(self) -> int:
        """Rolling hash over every applied entry's outcome (32 bits)."""
        return self.store.hash

    @property
    def configuration(self) -> Configuration:
        """The configuration at the applied index."""
        return self._roster.configuration

    @property
    def members(self) -> dict[int, Member]:
        """Members of that configuration by id. Not to be changed by the caller."""
        return self._roster.members

    @property
    def removed(self) -> dict[int, None]:
        """Ids that may never come back, in the order of their removal."""
        return self._roster.removed

    # --- applying --------------------------------------------------------------
    def apply(self, entry: Entry) -> Result | ApiError | None:
        """Carry out the next entry of the log.

        Returns the answer for whoever proposed it, None for entries of Raft's own.
        Raises ProtocolError or whatever else goes wrong for an entry that this version cannot
        carry out: the member must stop.
        """
        index = entry.index
        assert index == self.applied_index + 1, f"entry {index} after {self.applied_index}"
        store = self.store
        store.hash ^= index & _INDEX_MASK
        outcome: Result | ApiError | None = None
        kind = entry.kind
        if kind == NORMAL:
            payload = entry.payload
            at = commands.request_at(payload)
            asked = None
            if payload[0] & SESSION:
                asked = commands.session(payload, at)
                outcome = self.sessions.repeat(asked)
            if outcome is None:
                handler = self._handlers.get(payload[1])
                if handler is None:
                    answer = self.space.lease_refusal(payload) or self._lease_commands.apply(
                        entry, at
                    )
                else:
                    answer = handler(payload, at)
                revision = store.close_entry()
                if isinstance(answer, bytes):
                    outcome = _new(Result, (revision, answer))
                else:
                    store.hash = crc32(answer.text.encode(), store.hash)
                    outcome = answer
                if asked is not None:
                    self.sessions.keep(asked, outcome, payload[1])
                if self.alarms.own:
                    self.space.lift()
        elif kind == CONFIG:
            self._configure(entry.payload)
        self.applied_index = index
        self.applied_term = entry.term
        return outcome

    def apply_some(self, entries: list[Entry], first: int) -> list[Result | ApiError | None]:
        """`apply` for one entry or more of the log, from position `first` of `entries` on: what it
        would have returned for each. Neighbouring writes of one kind are done in one go.
        """
        # A run is not worth its preparations for one entry.
        results = self.apply_run(entries, first) if first + 1 < len(entries) else None
        return results or [self.apply(entries[first])]

    def apply_run(self, entries: list[Entry], first: int) -> list[Result | ApiError | None]:
        """`apply` for the plain puts, or the swaps, from position `first` on, up to the first other
        entry. None at all is possible.
        """
        run = _RUNS.get(entries[first].payload[1:2])
        if run is None:
            return []
        assert entries[first].index == self.applied_index + 1, "the log has a hole"
        sure = self.space.plain_puts()
        if sure < len(entries) - first:  # near the quota: each one is judged
            entries, first = entries[first : first + sure], 0
            if not sure:
                return []
        answers = run(self.store, entries, first)
        if answers:
            last = entries[first + len(answers) - 1]
            self.applied_index += len(answers)
            self.applied_term = last.term
            assert last.index == self.applied_index, "the log has a hole"
        return [_new(Result, answer) for answer in answers]

    def _put(self, payload: bytes, at: int) -> bytes | ApiError:
        return self.space.refusal(len(payload)) or self._writer.put(payload, at)

    def _delete_range(self, payload: bytes, at: int) -> bytes | ApiError:
        if self.alarms.everybody:
            return CORRUPT
        request = pb.DeleteRangeRequest.FromString(payload[at:])
        return self._writer.delete(request) if request.key else EMPTY_KEY

    def _txn(self, payload: bytes, at: int) -> bytes | ApiError:
        swap = read_swap(payload, at)
        if swap is not None:
            refused = self.space.refusal(swap[3] - swap[1])
            return refused or carry_out(self.store, payload, swap)
        request = pb.TxnRequest.FromString(payload[at:])
        growth = growth_bytes(request)
        if growth:
            refused = self.space.refusal(growth)
        else:
            refused = CORRUPT if self.alarms.everybody else None
        return refused or self._writer.txn(request, self._history)

    def _history(self) -> View:
        """Everything applied so far, readable by revision. Called before an entry's first write,
        with the hash of the last entry: this one's index is taken out of it meanwhile.
        """
        mixed = (self.applied_index + 1) & _INDEX_MASK
        self.store.hash ^= mixed
        self.flush()
        self.store.hash ^= mixed
        return self.backend

    def _compact(self, payload: bytes, at: int) -> bytes | ApiError:
        revision = pb.CompactionRequest.FromString(payload[at:]).revision
        store = self.store
        error = CORRUPT if self.alarms.everybody else self.check_compaction(revision)
        if error is not None:
            return error
        store.compacted = revision
        store.hash = crc32(b"compact %d" % revision, store.hash)
        return b""

    def check_compaction(self, revision: int) -> ApiError | None:
        """May this revision be compacted now? 0 passes while nothing ever was."""
        if revision <= self.store.compacted:
            return COMPACTED
        return FUTURE_REVISION if revision > self.store.revision else None

    def _configure(self, payload: bytes) -> None:
        configuration, context = decode_change(payload)
        joining = joining_member(context)
        before = len(self.removed)
        self._rows += loading.change_rows(self._roster, configuration, joining)
        moving = moving_member(context)
        moved = self._roster.move(moving) if moving is not None else None
        if moved is not None:
            self._rows.append(loading.member_row(moved))
        self.store.hash = crc32(payload, self.store.hash)
        self.alarms.configured(self.members, list(self.removed)[before:])

    def _tell_space(self, payload: bytes, at: int) -> bytes:
        return self.upkeep.space(payload, self.applied_index + 1, at)

    def _check(self, payload: bytes, at: int) -> bytes:
        return self.upkeep.check(payload, self.applied_index + 1, at)

    def _publish(self, payload: bytes, at: int) -> bytes | ApiError:
        member = self._roster.publish(decode_member(payload[at:]))
        if member is None:
            return MEMBER_NOT_FOUND
        self._rows.append(loading.member_row(member))
        self.store.hash = crc32(encode_member(member), self.store.hash)
        return b""

    @property
    def unflushed_rows(self) -> int:
        """Rows that the backend does not have yet."""
        return len(self.store.pending) + len(self._rows)

    def flush(self) -> None:
        """Hand every pending row and the applied index to the backend, in one write."""
        if self.applied_index != self._flushed_index or self._rows:
            self._flush_rows()

    def _flush_rows(self) -> None:
        store = self.store
        assert not store.writing(), "an entry is half applied"
        assert store.revision <= _MAX_REVISION
        applied = APPLIED.pack(
            self.applied_index,
            self.applied_term,
            store.revision,
            store.compacted,
            store.hash,
            store.written_bytes,
        )
        self.backend.write([*store.take_pending(), *self._rows, (APPLIED_ROW, applied)])
        self._rows = []
        store.flushed()
        self._flushed_index = self.applied_index

    # --- reads -------------------------------------------------------------------
    def range(self, request: pb.RangeRequest | bytes) -> Result | ApiError:
        """A RangeRequest (the message or its bytes) in one go; see `is_long`.

        The form of a message was checked by `txn.validate_range`; bytes are checked here.
        """
        store = self.store
        if isinstance(request, bytes):
            # The commonest read: one key, nothing else, or serializable besides.
            size = len(request)
            if size > 2 and request[0] == 0x0A and request[1] < 128:
                end = request[1] + 2
                if end > 2 and (size == end or (size == end + 2 and request[end:] == b"\x38\x01")):
                    record = store.fetch(request[2:end])
                    body = b"" if record is None else record[0] + b"\x20\x01"
                    return _new(Result, (store.revision, body))
            request = pb.RangeRequest.FromString(request)
            error = txn.validate_range(request)
            if error is not None:
                return error
        error = ranges.check_revision(store, request.revision)
        if error is not None:
            return error
        if request.revision > 0:
            self.flush()
        return Result(store.revision, ranges.answer(store, request, self.backend))

    def read_txn(self, request: pb.TxnRequest) -> Result | ApiError:
        """A transaction that `is_read_only`, without an entry of the log."""
        assert is_read_only(request), "a read-only transaction writes"
        answer = self._writer.txn(request, self._flushed_backend, metered=False)
        return Result(self.store.revision, answer) if isinstance(answer, bytes) else answer

    def _flushed_backend(self) -> View:
        self.flush()
        return self.backend

    def status(self) -> Status:
        """Sizes of the store."""
        in_use = self.store.written_bytes - self._compaction.removed_bytes
        size = max(self.backend.size(), in_use)  # rows are in memory until a table has them
        return Status(size, in_use, len(self.store.index))

    # --- changes, for watchers -----------------------------------------------------
    def collect_changes(self, on: bool) -> None:
        """Begin or stop to keep the changes of applied entries for `take_changes`."""
        self.store.changes = [] if on else None

    def take_changes(self) -> list[Change]:
        """Changes since the last call, in the order of their row ids."""
        changes = self.store.changes
        if not changes:
            return []
        self.store.changes = []
        return changes

    def lease_keys(self, lease: int) -> list[bytes]:
        """The live keys attached to a lease, in key order."""
        return self._lease_commands.keys(lease)

    # --- compaction ------------------------------------------------------------------
    @property
    def reclaimed(self) -> tuple[int, int]:
        """The newest revision below which this member has removed everything, as far as it knows
        how many bytes that came to, and these bytes. The same on every member that got there.
        """
        return self._compaction.reclaimed

    @property
    def physically_compacted(self) -> int:
        """Everything below this revision has been removed on this member. A physical Compact(r)
        is done when it reaches r.
        """
        return self._compaction.finished

    def compact_slice(self, rows: int = 200) -> bool:
        """Remove history for a while (about 15 us per row). True while work is left."""
        if not self._compaction.pending:
            return False
        self.flush()
        return self._compaction.slice(rows)

    def compaction_areas(self) -> list[tuple[bytes, bytes]]:
        """Areas emptied by a finished compaction, each time once: the caller runs
        `backend.compact(*area)` for each where a long blocking call does no harm.
        """
        return self._compaction.take_areas()

    # --- state transfer ----------------------------------------------------------------
    def snapshot_view(self) -> tuple[View, bytes]:
        """Everything as rows at the applied index, and that index, term and configuration as
        `encode_meta` wrote them. The caller closes the view. Loading such rows into an empty
        backend and opening a machine on it gives the same state.
        """
        self.flush()
        return self.backend.view(), loading.encode_meta(
            self.applied_index, self.applied_term, self.configuration
        )
