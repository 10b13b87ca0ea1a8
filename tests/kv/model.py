"""What etcd's key-value service means, as simply as it can be said: every revision in full.

One dict of all keys per revision, requests and answers as messages, no cleverness, no sharing of
code with `raftkv.kv`. Slow on purpose; used as the judge of random tests and by the simulator.

The form of requests (empty keys, duplicate keys of a transaction...) is not looked at.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from google.protobuf.message import Message

from raftkv.pb import rpc_pb2 as pb
from raftkv.pb.kv_pb2 import KeyValue

FUTURE: Final = "etcdserver: mvcc: required revision is a future revision"
COMPACTED: Final = "etcdserver: mvcc: required revision has been compacted"
KEY_NOT_FOUND: Final = "etcdserver: key not found"
LEASE_NOT_FOUND: Final = "etcdserver: requested lease not found"
LEASE_EXISTS: Final = "etcdserver: lease already exists"
LEASE_PROVIDED: Final = "etcdserver: lease is provided"

Keys: TypeAlias = dict[bytes, KeyValue]


class Refused(Exception):
    """An error answer; the text is the status message."""


@dataclass
class Granted:
    """A lease: milliseconds granted, and left at the last checkpoint (0: none)."""

    ttl_ms: int
    remaining_ms: int = 0
    hidden: bool = False


class Model:
    """A store that remembers everything.

    history: revision -> every key at that revision. leases: id -> what was granted.
    """

    def __init__(self) -> None:
        self.history: dict[int, Keys] = {1: {}}
        self.revision = 1
        self.compacted = -1
        self.leases: dict[int, Granted] = {}
        self._now: Keys = {}  # while a request is carried out
        self._writes = 0

    def perform(self, request: Message) -> Message:
        """The answer; its header has only the revision. Raises Refused: nothing changed."""
        if isinstance(request, pb.CompactionRequest):
            self._compact(request.revision)
            return pb.CompactionResponse(header=_header(self.revision))
        self._now = dict(self.history[self.revision])
        self._writes = 0
        answer: Any
        if isinstance(request, pb.RangeRequest):
            self._check_revision(request.revision)
            answer = self._range(request)
        elif isinstance(request, pb.PutRequest):
            self._check_put(request, lease_first=True)
            answer = self._put(request)
        elif isinstance(request, pb.DeleteRangeRequest):
            answer = self._delete(request)
        else:
            assert isinstance(request, pb.TxnRequest)
            taken = self._decide(request)
            self._check(taken, self._check_put_op)
            self._check(taken, self._check_range_op)
            answer = self._carry_out(taken)
        if self._writes:
            self.revision += 1
            self.history[self.revision] = self._now
        answer.header.CopyFrom(_header(self.revision))
        assert isinstance(answer, Message)
        return answer

    # --- leases ----------------------------------------------------------------------
    def grant(self, lease: int, ttl_ms: int = 60_000) -> None:
        """Raises Refused if there is such a lease."""
        if lease in self.leases:
            raise Refused(LEASE_EXISTS)
        self.leases[lease] = Granted(ttl_ms)

    def revoke(self, lease: int) -> None:
        """Raises Refused if there is no such lease."""
        if lease not in self.leases:
            raise Refused(LEASE_NOT_FOUND)
        self.expire([lease])

    def expire(self, leases: list[int]) -> list[bytes]:
        """End all that exist, in one revision; the keys that go."""
        over = [lease for lease in leases if self.leases.pop(lease, None) is not None]
        gone = [name for name, kv in sorted(self.latest().items()) if kv.lease in over]
        if gone:
            left = {name: kv for name, kv in self.latest().items() if name not in gone}
            self.revision += 1
            self.history[self.revision] = left
        return gone

    def checkpoint(self, remaining: list[tuple[int, int]]) -> None:
        """What is left of some leases."""
        for lease, left in remaining:
            if lease in self.leases:
                self.leases[lease].remaining_ms = left

    def put_with_ttl(self, lease: int, ttl_ms: int, request: pb.PutRequest) -> Message:
        """A put and the lease of its own. Raises Refused: neither happened."""
        if lease in self.leases:
            raise Refused(LEASE_EXISTS)
        if request.lease or request.ignore_lease:
            raise Refused(LEASE_PROVIDED)
        old = self.latest().get(request.key)
        put = pb.PutRequest()
        put.CopyFrom(request)
        put.lease = lease
        self.leases[lease] = Granted(ttl_ms, hidden=True)
        try:
            answer = self.perform(put)
        except Refused:
            del self.leases[lease]
            raise
        before = None if old is None else self.leases.get(old.lease)
        if old is not None and before is not None and before.hidden:
            used = [kv.lease for kv in self.latest().values()]
            if old.lease not in used:
                del self.leases[old.lease]
        return answer

    def latest(self) -> Keys:
        """Every key that exists."""
        return self.history[self.revision]

    # --- single operations -------------------------------------------------------
    def _seen(self) -> int:
        """The revision that an operation reports."""
        return self.revision + 1 if self._writes else self.revision

    def _check_revision(self, revision: int) -> None:
        if revision > self.revision:
            raise Refused(FUTURE)
        if 0 < revision < self.compacted:
            raise Refused(COMPACTED)

    def _check_put(self, request: pb.PutRequest, *, lease_first: bool) -> None:
        no_lease = bool(request.lease) and request.lease not in self.leases
        keeps = request.ignore_value or request.ignore_lease
        no_key = keeps and request.key not in self._now
        if no_lease and (lease_first or not no_key):
            raise Refused(LEASE_NOT_FOUND)
        if no_key:
            raise Refused(KEY_NOT_FOUND)

    def _put(self, request: pb.PutRequest) -> pb.PutResponse:
        self._writes += 1
        revision = self.revision + 1
        old = self._now.get(request.key)
        kv = KeyValue(key=request.key, value=request.value, lease=request.lease)
        kv.mod_revision = revision
        kv.create_revision = old.create_revision if old else revision
        kv.version = old.version + 1 if old else 1
        if request.ignore_value and old:
            kv.value = old.value
        if request.ignore_lease and old:
            kv.lease = old.lease
        self._now[request.key] = kv
        answer = pb.PutResponse(header=_header(self._seen()))
        if request.prev_kv and old:
            answer.prev_kv.CopyFrom(old)
        return answer

    def _delete(self, request: pb.DeleteRangeRequest) -> pb.DeleteRangeResponse:
        gone = within(self._now, request.key, request.range_end)
        for kv in gone:
            self._writes += 1
            del self._now[kv.key]
        prev_kvs = gone if request.prev_kv else []
        return pb.DeleteRangeResponse(
            header=_header(self._seen()), deleted=len(gone), prev_kvs=prev_kvs
        )

    def _range(self, request: pb.RangeRequest) -> pb.RangeResponse:
        keys = self.history[request.revision] if request.revision > 0 else self._now
        kvs = within(keys, request.key, request.range_end)
        answer = pb.RangeResponse(header=_header(self._seen()), count=len(kvs))
        if request.count_only:
            return answer
        filters: tuple[tuple[int, Callable[[KeyValue, int], bool]], ...] = (
            (request.max_mod_revision, lambda kv, bound: kv.mod_revision <= bound),
            (request.min_mod_revision, lambda kv, bound: kv.mod_revision >= bound),
            (request.max_create_revision, lambda kv, bound: kv.create_revision <= bound),
            (request.min_create_revision, lambda kv, bound: kv.create_revision >= bound),
        )
        order: int = request.sort_order
        limit = request.limit
        if limit > 0 and order == 0 and not any(bound for bound, _ in filters):
            kvs = kvs[: limit + 1]
        for bound, keep in filters:
            if bound:
                kvs = [kv for kv in kvs if keep(kv, bound)]
        if order == 0 and request.sort_target != pb.RangeRequest.KEY:
            order = 1
        if order in (1, 2):
            kvs = sorted(kvs, key=_SORT[request.sort_target], reverse=order == 2)
        if 0 < limit < len(kvs):
            kvs, answer.more = kvs[:limit], True
        for kv in kvs:
            answer.kvs.add().CopyFrom(kv)
            if request.keys_only:
                answer.kvs[-1].value = b""
        return answer

    def _compact(self, revision: int) -> None:
        if revision <= self.compacted:
            raise Refused(COMPACTED)
        if revision > self.revision:
            raise Refused(FUTURE)
        self.compacted = revision

    # --- transactions ---------------------------------------------------------------
    def _decide(self, request: pb.TxnRequest) -> "Taken":
        succeeded = all(self._holds(compare) for compare in request.compare)
        ops = list(request.success if succeeded else request.failure)
        nested = [self._decide(op.request_txn) for op in ops if op.HasField("request_txn")]
        return succeeded, ops, nested

    def _holds(self, compare: pb.Compare) -> bool:
        found = within(self._now, compare.key, compare.range_end)
        if not found:
            if compare.target == pb.Compare.VALUE:
                return False
            found = [KeyValue()]
        return all(_compares(kv, compare) for kv in found)

    def _check(self, taken: "Taken", check: Callable[[pb.RequestOp], None]) -> None:
        _, ops, nested = taken
        remaining = iter(nested)
        for op in ops:
            if op.HasField("request_txn"):
                self._check(next(remaining), check)
            else:
                check(op)

    def _check_put_op(self, op: pb.RequestOp) -> None:
        if op.HasField("request_put"):
            self._check_put(op.request_put, lease_first=False)

    def _check_range_op(self, op: pb.RequestOp) -> None:
        if op.HasField("request_range"):
            revision = op.request_range.revision
            if revision > self.revision:
                raise Refused(FUTURE)
            if revision and revision < self.compacted:
                raise Refused(COMPACTED)

    def _carry_out(self, taken: "Taken") -> pb.TxnResponse:
        succeeded, ops, nested = taken
        remaining = iter(nested)
        answer = pb.TxnResponse(succeeded=succeeded)
        for op in ops:
            response = answer.responses.add()
            if op.HasField("request_put"):
                response.response_put.CopyFrom(self._put(op.request_put))
            elif op.HasField("request_range"):
                response.response_range.CopyFrom(self._range(op.request_range))
            elif op.HasField("request_delete_range"):
                response.response_delete_range.CopyFrom(self._delete(op.request_delete_range))
            else:
                response.response_txn.CopyFrom(self._carry_out(next(remaining)))
                response.response_txn.header.SetInParent()
        return answer


Taken: TypeAlias = tuple[bool, list[pb.RequestOp], list[Any]]

_SORT: Final[dict[int, Callable[[KeyValue], Any]]] = {
    pb.RangeRequest.KEY: lambda kv: kv.key,
    pb.RangeRequest.VERSION: lambda kv: kv.version,
    pb.RangeRequest.CREATE: lambda kv: kv.create_revision,
    pb.RangeRequest.MOD: lambda kv: kv.mod_revision,
    pb.RangeRequest.VALUE: lambda kv: kv.value,
}


def _header(revision: int) -> pb.ResponseHeader:
    return pb.ResponseHeader(revision=revision)


def _compares(kv: KeyValue, compare: pb.Compare) -> bool:
    pairs: dict[int, tuple[Any, Any]] = {
        pb.Compare.VERSION: (kv.version, compare.version),
        pb.Compare.CREATE: (kv.create_revision, compare.create_revision),
        pb.Compare.MOD: (kv.mod_revision, compare.mod_revision),
        pb.Compare.VALUE: (kv.value, compare.value),
        pb.Compare.LEASE: (kv.lease, compare.lease),
    }
    stored, given = pairs.get(compare.target, (0, 0))
    verdicts: dict[int, bool] = {
        pb.Compare.EQUAL: stored == given,
        pb.Compare.GREATER: stored > given,
        pb.Compare.LESS: stored < given,
        pb.Compare.NOT_EQUAL: stored != given,
    }
    return verdicts.get(compare.result, True)


def within(keys: Keys, key: bytes, range_end: bytes) -> list[KeyValue]:
    """The pairs of a range in key order."""
    return [keys[name] for name in sorted(keys) if _covers(name, key, range_end)]


def _covers(name: bytes, key: bytes, range_end: bytes) -> bool:
    if not range_end:
        return name == key
    return name >= key and (range_end == b"\0" or name < range_end)


def visible_rows(model: Model) -> Iterable[KeyValue]:
    """Every version that can still be read, once."""
    first = max(model.compacted, 1)
    seen: dict[tuple[bytes, int], KeyValue] = {}
    for revision in range(first, model.revision + 1):
        for name, kv in model.history[revision].items():
            seen[name, kv.mod_revision] = kv
    return seen.values()
