"""A store in memory that does what etcd does, for workloads to run against without a server.

`MemoryStore` keeps every version; `MemorySession` has the verbs that workloads use. Faults are
asked for: answers that are lost before or behind the write, writes that are acknowledged and
forgotten, reads of the past.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from jepsen_lite.checker.base import LogEvent, StoreLog
from raftkv.client.errors import Compacted, OutcomeUnknown, Unavailable
from raftkv.client.keys import Key, encoded, prefix_end
from raftkv.client.results import (
    CompactResult,
    DeleteResult,
    GetResult,
    Header,
    KeyValue,
    PutResult,
    RangeResult,
    TxnResult,
)
from raftkv.client.txn import Compare, Delete, Get, LeaseLike, Operation, Put, SortBy, Txn
from raftkv.pb import rpc_pb2

Result = RangeResult | PutResult | DeleteResult | TxnResult
State = dict[bytes, KeyValue]


@dataclass
class MemoryStore:
    """All states there ever were, by revision; 1 is the empty one.

    lost: part of the answers that are lost. forgotten: part of the writes that are acknowledged
    only. stale: part of the reads that see an older state.
    """

    random: Random = field(default_factory=lambda: Random(1))
    lost: float = 0.0
    forgotten: float = 0.0
    stale: float = 0.0
    states: list[State] = field(default_factory=lambda: [{}, {}])
    log: StoreLog = field(default_factory=lambda: StoreLog(first_revision=1))
    compacted: int = 0

    @property
    def revision(self) -> int:
        return len(self.states) - 1

    def evidence(self) -> StoreLog:
        """The log as it is now."""
        self.log.last_revision = self.revision
        return self.log

    # --- one transaction --------------------------------------------------------------------
    def apply(self, txn: Txn) -> TxnResult:
        seen = self.revision if txn.writes else self._seen()
        before = self.states[seen]
        succeeded = all(_holds(compare, before) for compare in txn.compares)
        state, revision = dict(before), self.revision + 1
        events: dict[bytes, LogEvent] = {}
        results = [
            self._operate(operation, state, revision, events)
            for operation in (txn.success if succeeded else txn.failure)
        ]
        if events:
            self._commit(state, events, revision)
        elif not txn.writes:
            return TxnResult(self._header(seen), succeeded, tuple(results))
        return TxnResult(self._header(self.revision), succeeded, tuple(results))

    def _commit(self, state: State, events: dict[bytes, LogEvent], revision: int) -> None:
        if self.random.random() < self.forgotten:
            self.states.append(self.states[-1])
            self.log.revisions.append(revision)  # taken by something that nobody asked for
            self.log.events.append(LogEvent(revision, f"elsewhere{revision}", "x", 1, revision))
            return
        self.states.append(state)
        self.log.revisions.append(revision)
        self.log.events += events.values()

    def _seen(self) -> int:
        if self.random.random() < self.stale:
            return max(1, self.revision - 3)
        return self.revision

    def _header(self, revision: int) -> Header:
        return Header(1, 1, revision, 1)

    def _operate(
        self, operation: Operation, state: State, revision: int, events: dict[bytes, LogEvent]
    ) -> Result:
        if isinstance(operation, Get):
            return self.ranged(operation, state, revision)
        if isinstance(operation, Put):
            key = encoded(operation.key)
            old = state.get(key)
            created, version = (old.create_revision, old.version) if old else (revision, 0)
            kv = KeyValue(key, encoded(operation.value), created, revision, version + 1, 0)
            state[key] = kv
            events[key] = LogEvent(
                revision, key.decode(), kv.value.decode(), kv.version, kv.create_revision
            )
            return PutResult(self._header(revision))
        assert isinstance(operation, Delete)
        gone = [one for one in sorted(state) if _within(one, operation)]
        for key in gone:
            del state[key]
            events[key] = LogEvent(revision, key.decode(), None, 0, 0)
        return DeleteResult(self._header(revision), len(gone))

    def ranged(self, wanted: Get, state: State, revision: int) -> RangeResult:
        found = [state[one] for one in sorted(state) if _within(one, wanted)]
        if wanted.sort_by is SortBy.CREATE_REVISION:
            found.sort(key=lambda kv: kv.create_revision)
        kept = found[: wanted.limit] if wanted.limit else found
        return RangeResult(self._header(revision), tuple(kept), len(found), len(kept) < len(found))

    def read(self, wanted: Get) -> RangeResult:
        if 0 < wanted.revision < self.compacted:
            raise Compacted("compacted")
        header = self._seen()
        return self.ranged(wanted, self.states[wanted.revision or header], header)


def _within(key: bytes, operation: Get | Delete) -> bool:
    first = encoded(operation.key)
    if operation.prefix:
        end = prefix_end(first)
    elif operation.end:
        end = encoded(operation.end)
    else:
        return key == first
    return first <= key < end


def _holds(compare: Compare, state: State) -> bool:
    kv = state.get(compare.key)
    if kv is None and compare.target == rpc_pb2.Compare.VALUE:
        return False
    fields = ("version", "create_revision", "mod_revision", "value", "lease")
    real = getattr(kv, fields[compare.target]) if kv else 0
    relation, given = compare.result, compare.given
    if relation == rpc_pb2.Compare.EQUAL:
        return bool(real == given)
    if relation == rpc_pb2.Compare.NOT_EQUAL:
        return bool(real != given)
    assert isinstance(given, int)
    return bool(real > given) if relation == rpc_pb2.Compare.GREATER else bool(real < given)


class MemorySession:
    """The verbs, each with a pause in front and behind, in which others take their turns."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store

    async def txn(self, txn: Txn) -> TxnResult:
        random = self.store.random
        await _pauses(random)
        lot = random.random()
        if lot < self.store.lost / 2:
            raise _unanswered(txn.writes)
        answer = self.store.apply(txn)
        await _pauses(random)
        if lot < self.store.lost:
            raise _unanswered(txn.writes)
        return answer

    async def read(self, wanted: Get) -> RangeResult:
        await _pauses(self.store.random)
        if self.store.random.random() < self.store.lost:
            raise _unanswered(False)
        answer = self.store.read(wanted)
        await _pauses(self.store.random)
        return answer

    async def get(self, key: Key, *, revision: int = 0, serializable: bool = False) -> GetResult:
        found = await self.read(Get(key, revision=revision))
        return GetResult(found.header, found.kvs[0] if found.kvs else None)

    async def get_range(
        self, key: Key, end: Key, *, limit: int = 0, revision: int = 0
    ) -> RangeResult:
        return await self.read(Get(key, end, limit=limit, revision=revision))

    async def get_prefix(
        self, prefix: Key, *, limit: int = 0, sort_by: SortBy = SortBy.KEY
    ) -> RangeResult:
        return await self.read(Get(prefix, prefix=True, limit=limit, sort_by=sort_by))

    async def put(self, key: Key, value: Key, *, lease: LeaseLike = None) -> PutResult:
        return PutResult((await self.txn(Txn().then(Put(key, value)))).header)

    async def delete(self, key: Key) -> DeleteResult:
        return await self._deleted(Delete(key))

    async def delete_range(self, key: Key, end: Key) -> DeleteResult:
        return await self._deleted(Delete(key, end))

    async def _deleted(self, wanted: Delete) -> DeleteResult:
        answer = await self.txn(Txn().then(wanted))
        (result,) = answer.results
        assert isinstance(result, DeleteResult)
        return DeleteResult(answer.header, result.deleted)

    async def compact(self, revision: int) -> CompactResult:
        await _pauses(self.store.random)
        if revision <= self.store.compacted:
            raise Compacted("compacted")
        self.store.compacted = revision
        return CompactResult(Header(1, 1, self.store.revision, 1))


def _unanswered(writes: bool) -> Unavailable | OutcomeUnknown:
    error = Unavailable("the answer was lost")
    return OutcomeUnknown(error) if writes else error


async def _pauses(random: Random) -> None:
    for _ in range(random.randrange(4)):
        await asyncio.sleep(0)


def written(store: MemoryStore) -> Sequence[str]:
    """What stands in the log."""
    return [event.value for event in store.log.events if event.value is not None]
