"""A transaction that only reads, in slices, at one pinned revision.

What `txn` and `Writer` do in one go for a short one: decide every compare, nested ones included;
check the revisions that its ranges name; then answer them in order. Everything is read from a view,
so entries applied during the pauses do not show.
"""

from collections.abc import Generator
from typing import Any, Final

from raftkv import limits
from raftkv.errors import TXN_ANSWER_TOO_LARGE, ApiError
from raftkv.kv import longranges, ranges
from raftkv.kv.backend import View
from raftkv.kv.encoding import bytes_field, revision_header, varint
from raftkv.kv.store import Store
from raftkv.kv.txn import holds_without_keys, satisfies
from raftkv.pb import rpc_pb2 as pb

_RESPONSES_TAG: Final = 0x1A  # TxnResponse.responses
_RANGE_TAG, _TXN_TAG = b"\x0a", b"\x22"  # of a ResponseOp
_EMPTY_HEADER: Final = b"\x0a\x00"

# The branch taken: did the compares hold, and its operations (for a nested one its own branch).
Branch = tuple[bool, list[Any]]


class _TooLarge(Exception):
    """The answer would be cut off anyway."""


def work_units(store: Store, request: pb.TxnRequest) -> int:
    """About how many microseconds a transaction's reads take if they are answered in one go."""
    units = 0
    for compare in request.compare:
        if compare.range_end:
            first, last = store.index.bounds(compare.key, compare.range_end)
            units += (last - first) * ranges.LOAD_UNITS
    for branch in (request.success, request.failure):
        for op in branch:
            if op.HasField("request_range"):
                units += longranges.work_units(store, op.request_range)
            elif op.HasField("request_txn"):
                units += work_units(store, op.request_txn)
            if units > longranges.LONG_UNITS:
                return units
    return units


class LongTxn:
    """Answers one transaction over `view`, a picture of `store` as it is now (all flushed)."""

    def __init__(self, store: Store, view: View) -> None:
        self._store = store
        self._view = view
        self._revision = store.revision
        self._compacted = store.compacted
        self._left_bytes: int = limits.MAX_CONNECTION_OUTPUT_BYTES

    def answer(self, request: pb.TxnRequest) -> Generator[None, None, bytes | ApiError]:
        """The body of the TxnResponse, or what is wrong with it: a pause at every yield."""
        branch = yield from self._decide(request)
        error = self._check(branch)
        if error is not None:
            return error
        try:
            return (yield from self._run(branch))
        except _TooLarge:
            return TXN_ANSWER_TOO_LARGE

    def _decide(self, request: pb.TxnRequest) -> Generator[None, None, Branch]:
        succeeded = True
        for compare in request.compare:
            holds = yield from self._holds(compare)
            if not holds:
                succeeded = False
                break
        steps: list[Any] = []
        for op in request.success if succeeded else request.failure:
            if op.HasField("request_txn"):
                steps.append((yield from self._decide(op.request_txn)))
            else:
                steps.append(op.request_range)
        return succeeded, steps

    def _holds(self, compare: pb.Compare) -> Generator[None, None, bool]:
        store, view = self._store, self._view
        if not compare.range_end:
            record = store.at_revision(view, compare.key, self._revision)
            return holds_without_keys(compare) if record is None else satisfies(compare, record)
        found = False
        units = 0
        for version in ranges.versions_at(view, compare.key, compare.range_end, self._revision):
            units += ranges.STEP_UNITS
            if version is not None:
                found = True
                units += ranges.LOAD_UNITS
                if not satisfies(compare, store.record_of(view, *version)):
                    return False
            if units >= ranges.SLICE_UNITS:
                units = 0
                yield
        return found or holds_without_keys(compare)

    def _check(self, branch: Branch) -> ApiError | None:
        for step in branch[1]:
            if isinstance(step, tuple):
                error = self._check(step)
            else:
                error = ranges.check_txn_revision(self._revision, self._compacted, step.revision)
            if error is not None:
                return error
        return None

    def _run(self, branch: Branch) -> Generator[None, None, bytes]:
        succeeded, steps = branch
        parts = [b"\x10\x01" if succeeded else b""]
        header = revision_header(self._revision)
        for step in steps:
            if isinstance(step, tuple):
                nested = yield from self._run(step)
                tag, response = _TXN_TAG, _EMPTY_HEADER + nested
            else:
                plan = ranges.Plan(step)
                wanted = step.revision if step.revision > 0 else self._revision
                body = yield from longranges.slices(
                    self._store, plan, wanted, self._view, self._revision
                )
                self._left_bytes -= len(body)
                if self._left_bytes < 0:
                    raise _TooLarge
                tag, response = _RANGE_TAG, header + body
            parts.append(bytes_field(_RESPONSES_TAG, tag + varint(len(response)) + response))
            yield
        return b"".join(parts)
