"""Reads that are too long for one go: generators that pause (yield) after every slice of work.

Revision and rows are pinned before the first pause; entries applied meanwhile do not show. What a
generator returns is the answer. Who gives one up closes it, which lets go of the pinned rows.
"""

from abc import ABC, abstractmethod
from collections.abc import Generator
from typing import TYPE_CHECKING

from raftkv.errors import ApiError
from raftkv.kv import longranges, longtxn, ranges
from raftkv.kv.answers import HashResult, Result
from raftkv.kv.backend import Backend
from raftkv.kv.hashing import hash_kv_slices
from raftkv.kv.store import Store
from raftkv.kv.writes import is_read_only
from raftkv.pb import rpc_pb2 as pb

if TYPE_CHECKING:
    from raftkv.kv.machine import MachineSettings


class SlicedReads(ABC):
    """The long reads of a state machine."""

    backend: Backend
    store: Store
    settings: "MachineSettings"

    @abstractmethod
    def flush(self) -> None:
        """See StateMachine.flush."""

    def is_long(self, request: pb.RangeRequest) -> bool:
        """Should this range go through `range_steps` rather than `range`?"""
        return longranges.work_units(self.store, request) > longranges.LONG_UNITS

    def range_steps(self, request: pb.RangeRequest) -> Generator[None, None, Result | ApiError]:
        """`range` in slices of about `ranges.SLICE_UNITS` microseconds."""
        store = self.store
        error = ranges.check_revision(store, request.revision)
        if error is not None:
            return error
        self.flush()
        answered = store.revision
        view = self.backend.view()
        try:
            plan = ranges.Plan(request)
            wanted = request.revision if request.revision > 0 else answered
            body = yield from longranges.slices(store, plan, wanted, view, answered)
            return Result(answered, body)
        finally:
            view.close()

    def range_stream(
        self, request: pb.RangeRequest
    ) -> Generator[bytes | None, None, Result | ApiError]:
        """RangeStream: yields bodies that hold only kvs, None for a pause; returns the last one,
        which has `more` and `count` (etcd 3.7). The form was checked by `validate_range`.
        """
        store = self.store
        error = ranges.check_revision(store, request.revision) or longranges.check_stream(request)
        if error is not None:
            return error
        self.flush()
        answered = store.revision
        view = self.backend.view()
        try:
            wanted = request.revision if request.revision > 0 else answered
            chunk_bytes = self.settings.stream_chunk_bytes
            last = yield from longranges.chunks(
                store, ranges.Plan(request), wanted, view, chunk_bytes
            )
            return Result(answered, last)
        finally:
            view.close()

    def is_long_txn(self, request: pb.TxnRequest) -> bool:
        """Should this read-only transaction go through `read_txn_steps`, not `read_txn`?"""
        return longtxn.work_units(self.store, request) > longranges.LONG_UNITS

    def read_txn_steps(self, request: pb.TxnRequest) -> Generator[None, None, Result | ApiError]:
        """`read_txn` in slices. The form was checked by `validate_txn`."""
        assert is_read_only(request), "a read-only transaction writes"
        self.flush()
        answered = self.store.revision
        view = self.backend.view()
        try:
            answer = yield from longtxn.LongTxn(self.store, view).answer(request)
            return Result(answered, answer) if isinstance(answer, bytes) else answer
        finally:
            view.close()

    def hash_kv(self, revision: int = 0) -> Generator[None, None, HashResult | ApiError]:
        """HashKV at a revision (0: the current one), in slices."""
        store = self.store
        error = ranges.check_revision(store, revision)
        if error is not None:
            return error
        self.flush()
        wanted = revision if revision > 0 else store.revision
        compacted = max(store.compacted, 0)
        view = self.backend.view()
        try:
            value = yield from hash_kv_slices(view, compacted, wanted)
        finally:
            view.close()
        return HashResult(value, compacted, wanted)
