"""Transactions: form checks, compares, and the two passes that make them all or nothing.

A transaction is decided before it writes: every compare, nested ones included, reads the state
before the transaction, which fixes the branch taken at each level; then the operations of the
taken branches are checked against the same state (first the puts, then the ranges). Only if all
pass are they carried out in order, so nothing is ever rolled back. Reads of the second pass do see
the writes before them.

The form checks need no state and look at both branches; they run before a command is proposed.
"""

from collections.abc import Iterable
from typing import Any, Final

from raftkv import limits
from raftkv.errors import (
    DUPLICATE_KEY,
    EMPTY_KEY,
    INVALID_SORT_OPTION,
    KEY_NOT_FOUND,
    LEASE_PROVIDED,
    TOO_MANY_OPS,
    VALUE_PROVIDED,
    ApiError,
)
from raftkv.kv.encoding import framed_value
from raftkv.kv.metering import Meter
from raftkv.kv.store import Record, Store
from raftkv.pb import rpc_pb2 as pb

_SORT_TARGETS: Final = 5
_EQUAL, _GREATER, _LESS, _NOT_EQUAL = range(4)  # Compare.CompareResult
_VERSION, _CREATE, _MOD, _VALUE, _LEASE = range(5)  # Compare.CompareTarget
_NOBODY: Final[Record] = (b"", 0, 0, 0, 0)


# --- form ---------------------------------------------------------------------
def validate_put(request: pb.PutRequest) -> ApiError | None:
    """The form of a put; None if it is well."""
    if not request.key:
        return EMPTY_KEY
    if request.ignore_value and request.value:
        return VALUE_PROVIDED
    if request.ignore_lease and request.lease:
        return LEASE_PROVIDED
    return None


def validate_delete(request: pb.DeleteRangeRequest) -> ApiError | None:
    """The form of a delete; None if it is well."""
    return None if request.key else EMPTY_KEY


def validate_range(request: pb.RangeRequest) -> ApiError | None:
    """The form of a range; None if it is well. An unknown order is allowed, a target is not."""
    if not request.key:
        return EMPTY_KEY
    target: int = request.sort_target
    return None if 0 <= target < _SORT_TARGETS else INVALID_SORT_OPTION


def validate_txn(request: pb.TxnRequest, max_ops: int) -> ApiError | None:
    """The form of a transaction, both branches and nested ones.

    max_ops: the largest number of compares, or of operations in a branch. A nested transaction
        has what its parent's largest list leaves of it; siblings do not share.
    """
    error = _validate_level(request, max_ops, 1)
    if error is None:
        for branch in (request.success, request.failure):
            # A single operation collides with none, unless it is a transaction.
            alone = len(branch) == 1 and not branch[0].HasField("request_txn")
            if branch and not alone and not _Footprint().add_all(list(branch)):
                return DUPLICATE_KEY
    return error


def _validate_level(request: pb.TxnRequest, max_ops: int, depth: int) -> ApiError | None:
    compares, success, failure = request.compare, request.success, request.failure
    left = max_ops - max(len(compares), len(success), len(failure))
    if left < 0 or depth > limits.MAX_TXN_DEPTH:
        return TOO_MANY_OPS
    for compare in compares:
        if not compare.key:
            return EMPTY_KEY
    for branch in (success, failure):
        for op in branch:
            error = _validate_op(op, left, depth)
            if error is not None:
                return error
    return None


def _validate_op(op: pb.RequestOp, max_ops: int, depth: int) -> ApiError | None:
    kind = op.WhichOneof("request")
    if kind == "request_put":
        return validate_put(op.request_put)
    if kind == "request_range":
        return validate_range(op.request_range)
    if kind == "request_delete_range":
        return validate_delete(op.request_delete_range)
    if kind == "request_txn":
        return _validate_level(op.request_txn, max_ops, depth + 1)
    return KEY_NOT_FOUND


class _Footprint:
    """The keys that the operations of one branch put and the ranges that they delete.

    etcd takes a delete's bounds literally here: the range end 00, which means "all keys from
    here on" when it is carried out, covers nothing.
    """

    def __init__(self) -> None:
        self.puts: dict[bytes, None] = {}
        self.deletes: list[tuple[bytes, bytes]] = []  # start, stop

    def _put(self, key: bytes) -> bool:
        if key in self.puts or self._deleted(key):
            return False
        self.puts[key] = None
        return True

    def _deleted(self, key: bytes) -> bool:
        return any(start <= key < stop for start, stop in self.deletes)

    def add_all(self, ops: Iterable[pb.RequestOp]) -> bool:
        """Take in one branch; False if a key is put twice, or put and deleted."""
        for op in ops:
            if op.HasField("request_delete_range"):
                self.deletes.append(_span(op.request_delete_range))
        for op in ops:
            if op.HasField("request_txn") and not self._add_nested(op.request_txn):
                return False
        return all(self._put(op.request_put.key) for op in ops if op.HasField("request_put"))

    def _add_nested(self, txn: pb.TxnRequest) -> bool:
        """Only one branch is carried out, so both may put the same key."""
        branches = (_Footprint(), _Footprint())
        if not branches[0].add_all(txn.success) or not branches[1].add_all(txn.failure):
            return False
        taken = dict(self.puts)
        for branch in branches:
            for key in branch.puts:
                if key in taken or self._deleted(key):
                    return False
                self.puts[key] = None
        for branch in branches:
            self.deletes += branch.deletes
        return True


def _span(request: pb.DeleteRangeRequest) -> tuple[bytes, bytes]:
    return request.key, request.range_end or request.key + b"\0"


# --- the branch taken ---------------------------------------------------------
Step = tuple[str | None, Any]  # which request is set, and it; for a nested txn its Path


class Path:
    """The operations of the branch that a transaction takes, nested ones decided too.

    careful: something in it depends on the state besides the compares (a lease, a value to keep,
    a revision to read, no request at all) and must be checked before anything is written.
    looks_back: a range in it names a revision.
    meter: is told what ranges of compares read; its Exceeded goes through.
    """

    __slots__ = ("careful", "looks_back", "steps", "succeeded")

    def __init__(self, store: Store, request: pb.TxnRequest, meter: Meter | None) -> None:
        succeeded = True
        for compare in request.compare:
            if not holds(store, compare, meter):
                succeeded = False
                break
        self.succeeded = succeeded
        self.careful = self.looks_back = False
        steps: list[Step] = []
        for op in request.success if succeeded else request.failure:
            kind = op.WhichOneof("request")
            if kind == "request_put":
                put = op.request_put
                if put.lease or put.ignore_value or put.ignore_lease or not put.key:
                    self.careful = True
                steps.append((kind, put))
            elif kind == "request_range":
                asked = op.request_range
                if asked.revision:
                    self.careful = self.looks_back = True
                steps.append((kind, asked))
            elif kind == "request_txn":
                nested = Path(store, op.request_txn, meter)
                self.careful |= nested.careful
                self.looks_back |= nested.looks_back
                steps.append((kind, nested))
            elif kind == "request_delete_range":
                steps.append((kind, op.request_delete_range))
            else:
                self.careful = True
                steps.append((None, None))
        self.steps = steps


def holds(store: Store, compare: pb.Compare, meter: Meter | None) -> bool:
    """Is the compare true for every key of its range (for an absent key if there is none)?"""
    by_value = compare.target == _VALUE
    if not compare.range_end:
        find = store.fetch if by_value else store.numbers
        record = find(compare.key)
        return holds_without_keys(compare) if record is None else satisfies(compare, record)
    first, last = store.index.bounds(compare.key, compare.range_end)
    if meter is not None:
        meter.keys(last - first)
    if first == last:
        return holds_without_keys(compare)
    for key in store.index.slice(first, last):
        record = store.known(key)
        if by_value and meter is not None:
            meter.record(record[0])
        if not satisfies(compare, record):
            return False
    return True


def holds_without_keys(compare: pb.Compare) -> bool:
    """Is the compare true if no key is there?"""
    return compare.target != _VALUE and satisfies(compare, _NOBODY)


def satisfies(compare: pb.Compare, record: Record) -> bool:
    """Is the compare true for this version of a key?"""
    target: int = compare.target
    if target == _VALUE:
        stored_value, given_value = framed_value(record[0]), compare.value
        sign = (stored_value > given_value) - (stored_value < given_value)
    else:
        if target == _VERSION:
            stored, given = record[3], compare.version
        elif target == _CREATE:
            stored, given = record[2], compare.create_revision
        elif target == _MOD:
            stored, given = record[1] >> 32, compare.mod_revision
        elif target == _LEASE:
            stored, given = record[4], compare.lease
        else:
            stored = given = 0
        sign = (stored > given) - (stored < given)
    result: int = compare.result
    if result == _EQUAL:
        return sign == 0
    if result == _NOT_EQUAL:
        return sign != 0
    if result == _GREATER:
        return sign > 0
    return sign < 0 if result == _LESS else True
