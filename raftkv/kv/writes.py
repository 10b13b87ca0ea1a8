"""Carrying out writes: put, delete range and transactions, as bytes in and bytes out.

A put as nearly every client sends it (key and value, nothing else) is read straight from the
request's bytes: its key field is the KeyValue's key field, and its value field differs only in the
tag. Everything else goes through the generated messages.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from raftkv.errors import (
    EMPTY_KEY,
    KEY_NOT_FOUND,
    LEASE_NOT_FOUND,
    TXN_READS_TOO_MUCH,
    ApiError,
)
from raftkv.kv import ranges
from raftkv.kv.backend import View
from raftkv.kv.encoding import (
    SUB_BITS,
    SUB_MASK,
    bytes_field,
    decode_kv,
    key_field,
    revision_header,
    value_field,
    varint,
)
from raftkv.kv.metering import Exceeded, Meter
from raftkv.kv.runs import plain_put
from raftkv.kv.store import Store
from raftkv.kv.txn import Path
from raftkv.pb import rpc_pb2 as pb

_EMPTY_HEADER: Final = b"\x0a\x00"


class Writer:
    """Applies write requests to a store.

    lease_exists: whether a lease id may be attached to.
    """

    __slots__ = ("lease_exists", "store")

    def __init__(self, store: Store, lease_exists: Callable[[int], bool]) -> None:
        self.store = store
        self.lease_exists = lease_exists

    def put(self, payload: bytes, at: int) -> bytes | ApiError:
        """The PutRequest at `at`: the body of its PutResponse."""
        place = plain_put(payload, at, len(payload))
        if place:
            tail = b"\x2a" + payload[place + 1 :]
            self.store.put(payload[at + 2 : place], payload[at:place], tail)
            return b""
        request = pb.PutRequest.FromString(payload[at:])
        return self.check_put(request) or self.put_request(request)

    def check_put(self, request: pb.PutRequest) -> ApiError | None:
        """What a put needs of the state. The lease is looked at first."""
        if not request.key:
            return EMPTY_KEY
        if request.lease and not self.lease_exists(request.lease):
            return LEASE_NOT_FOUND
        if (request.ignore_value or request.ignore_lease) and request.key not in self.store.live:
            return KEY_NOT_FOUND
        return None

    def check_txn_put(self, request: pb.PutRequest) -> ApiError | None:
        """`check_put` as a transaction does it: the lease is looked at last."""
        if (request.ignore_value or request.ignore_lease) and request.key not in self.store.live:
            return KEY_NOT_FOUND
        return self.check_put(request)

    def put_request(self, request: pb.PutRequest) -> bytes:
        """A checked put. Its key may have gone by an earlier operation of the same transaction;
        then there is no value or lease to keep.
        """
        key = request.key
        value, lease = request.value, request.lease
        if request.ignore_value or request.ignore_lease:
            old = self.store.fetch(key)
            if request.ignore_value:
                value = b"" if old is None else decode_kv(old[0]).value
            if request.ignore_lease:
                lease = 0 if old is None else old[4]
        replaced = self.store.fetch(key) if request.prev_kv else None
        self.store.put(key, key_field(key), value_field(value), lease)
        return b"" if replaced is None else replaced[0]

    def delete(self, request: pb.DeleteRangeRequest) -> bytes:
        """Delete the live keys of a range, in key order: the body of a DeleteRangeResponse."""
        store = self.store
        store.deletes += 1
        if not request.range_end:
            keys = [request.key] if request.key in store.live else []
        else:
            keys = store.index.keys(request.key, request.range_end)
        if not keys:
            return b""
        removed = store.delete_all(keys, returning=request.prev_kv)
        body = b"\x10" + varint(len(keys))
        if request.prev_kv:
            body += b"".join([b"\x1a" + record[0][1:] for record in removed])
        return body

    # --- transactions ---------------------------------------------------------
    def txn(
        self, request: pb.TxnRequest, history: Callable[[], View], *, metered: bool = True
    ) -> bytes | ApiError:
        """Decide, check, carry out: the body of a TxnResponse, or why nothing was done.

        history: called before the first write if a range looks at a past revision; flushes.
        metered: for an entry of the log, which may read only so much (`metering`).
        """
        self.store.txns += metered
        meter = Meter(self.store.compacted) if metered else None
        ahead: deque[ranges.Found] = deque()
        try:
            path = Path(self.store, request, meter)
            if path.careful:
                error = self._check(path, puts=True) or self._check(path, puts=False)
                if error is not None:
                    return error
            view = history() if path.looks_back else self.store.backend
            if meter is not None:
                self._read_ahead(path, view, meter, ahead)
        except Exceeded:
            return TXN_READS_TOO_MUCH
        return self._run(path, view, None if meter is None else ahead)

    def _read_ahead(self, path: Path, view: View, meter: Meter, ahead: deque[ranges.Found]) -> None:
        """Reads every range before anything is written, to learn how much that is: Exceeded.

        ahead: takes what was found, in order. The keys that the transaction itself puts come on top
        of it; there are at most as many as operations.
        """
        for kind, step in path.steps:
            if kind == "request_range":
                ahead.append(ranges.read_metered(self.store, ranges.Plan(step), view, meter))
            elif kind == "request_txn":
                self._read_ahead(step, view, meter, ahead)

    def _check(self, path: Path, *, puts: bool) -> ApiError | None:
        """The first thing wrong with the puts (or with all else) of the branches taken."""
        error: ApiError | None = None
        for kind, step in path.steps:
            if kind == "request_txn":
                error = self._check(step, puts=puts)
            elif kind == "request_put":
                error = self.check_txn_put(step) if puts else None
            elif puts:
                continue
            elif kind == "request_range":
                error = ranges.check_txn_revision(
                    self.store.revision, self.store.compacted, step.revision
                )
            elif kind is None:
                error = KEY_NOT_FOUND
            if error is not None:
                return error
        return None

    def _run(self, path: Path, view: View, ahead: deque[ranges.Found] | None) -> bytes:
        store = self.store
        body = b"\x10\x01" if path.succeeded else b""
        for kind, step in path.steps:
            if kind == "request_put":
                replaced = self.put_request(step)
                tag, response = b"\x12", self._header() + replaced
            elif kind == "request_range":
                found = None if ahead is None else ahead.popleft()
                if found is None or (step.revision <= 0 and store.writing()):
                    response = self._header() + ranges.answer(store, step, view)
                else:
                    response = self._header() + ranges.Plan(step).finish(*found)
                tag = b"\x0a"
            elif kind == "request_delete_range":
                removed = self.delete(step)
                tag, response = b"\x1a", self._header() + removed
            else:
                tag, response = b"\x22", _EMPTY_HEADER + self._run(step, view, ahead)
            size = len(response)
            if size < 126:
                body += b"\x1a%c%b%c%b" % (size + 2, tag, size, response)
            else:
                body += bytes_field(0x1A, tag + varint(size) + response)
        return body

    def _header(self) -> bytes:
        """The revision as an operation sees it: the old one until the entry's first write."""
        store = self.store
        next_id = store.next_id
        return revision_header(next_id >> SUB_BITS if next_id & SUB_MASK else store.revision)


def is_read_only(request: pb.TxnRequest) -> bool:
    """True if no branch, taken or not, nested or not, writes."""
    for branch in (request.success, request.failure):
        for op in branch:
            kind = op.WhichOneof("request")
            if kind in ("request_put", "request_delete_range"):
                return False
            if kind == "request_txn" and not is_read_only(op.request_txn):
                return False
    return True
