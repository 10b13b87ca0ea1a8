# Made by scripts/generate_sync.py from raftkv/client/aio: edit that.
"""The verbs of keys and values: get, put, delete, transactions, history.

Reads are asked again elsewhere when an endpoint fails; writes never, unless they surely were
not carried out (`raftkv.client.retrying`).
"""

from collections.abc import Iterator
from typing import Final

from raftkv.client.errors import Unavailable
from raftkv.client.keys import Key, Namespace, encoded
from raftkv.client.results import (
    CompactResult,
    DeleteResult,
    GetResult,
    Header,
    KeyValue,
    PutResult,
    RangeResult,
    TtlPutResult,
    TxnResult,
)
from raftkv.client.sync.connection import Connection
from raftkv.client.sync.pages import RANGE, Pages
from raftkv.client.sync.runtime import Eventually
from raftkv.client.txn import (
    Compare,
    Delete,
    Get,
    LeaseLike,
    Operation,
    SortBy,
    Txn,
    lease_id,
)
from raftkv.pb import rpc_pb2, v1_pb2

PUT: Final = "/etcdserverpb.KV/Put"
DELETE: Final = "/etcdserverpb.KV/DeleteRange"
TXN: Final = "/etcdserverpb.KV/Txn"
COMPACT: Final = "/etcdserverpb.KV/Compact"
PUT_WITH_TTL: Final = "/raftkv.v1.KV/PutWithTTL"


class KeyValueVerbs:
    """Reads and writes of keys. Part of `Client`.

    In every method `timeout` is in seconds, None = the client's own, and every error is a
    ClientError.
    """

    _connection: Connection
    _namespace: Namespace
    _pages: Pages

    # --- reads ----------------------------------------------------------------------------
    def get(
        self,
        key: Key,
        *,
        revision: int = 0,
        serializable: bool = False,
        min_revision: int = 0,
        timeout: float | None = None,
    ) -> GetResult:
        """Reads one key (etcd KV.Range).

        revision: read the store as it was then, 0 = now. serializable: one member's own state
        will do, although it may lag. min_revision: a serializable answer older than that is
        not taken: the read is made linearizable (`client.revision` makes reads monotonic).
        timeout: seconds, None = the client's.
        Errors: Compacted, FutureRevision, Unavailable, TimedOut.
        """
        request = rpc_pb2.RangeRequest(key=self._namespace.key(key))
        if revision or serializable:
            request.revision = revision
            request.serializable = serializable
        answer = self._range(request, timeout)
        if min_revision:
            answer = self._newer(answer, request, min_revision, timeout)
        return GetResult.read(answer, self._namespace, request.serializable)

    def get_prefix(
        self,
        prefix: Key,
        *,
        limit: int = 0,
        revision: int = 0,
        sort_by: SortBy = SortBy.KEY,
        descending: bool = False,
        keys_only: bool = False,
        count_only: bool = False,
        serializable: bool = False,
        min_revision: int = 0,
        min_mod_revision: int = 0,
        max_mod_revision: int = 0,
        min_create_revision: int = 0,
        max_create_revision: int = 0,
        timeout: float | None = None,
    ) -> RangeResult:
        """Reads all keys that begin with `prefix`; an empty one reads all keys.

        min_mod_revision, max_mod_revision, min_create_revision, max_create_revision: only keys
        within, bounds included, 0 = no bound. limit, sort_by, descending, keys_only, count_only,
        revision, serializable, min_revision, timeout, errors: as `get_range`.
        """
        wanted = Get(
            prefix,
            prefix=True,
            limit=limit,
            revision=revision,
            sort_by=sort_by,
            descending=descending,
            keys_only=keys_only,
            count_only=count_only,
            serializable=serializable,
            min_mod_revision=min_mod_revision,
            max_mod_revision=max_mod_revision,
            min_create_revision=min_create_revision,
            max_create_revision=max_create_revision,
        )
        return self.read(wanted, min_revision=min_revision, timeout=timeout)

    def get_range(
        self,
        key: Key,
        end: Key,
        *,
        limit: int = 0,
        revision: int = 0,
        sort_by: SortBy = SortBy.KEY,
        descending: bool = False,
        keys_only: bool = False,
        count_only: bool = False,
        serializable: bool = False,
        min_revision: int = 0,
        timeout: float | None = None,
    ) -> RangeResult:
        """Reads the keys of [key, end) (etcd KV.Range).

        end: b"\\0" = all keys from `key` on. limit: at most so many, 0 = all; `more` tells whether
        there are others. sort_by, descending: the order. keys_only: values are left out.
        count_only: nothing but `count` is read. revision, serializable, min_revision, timeout,
        errors: as `get`.
        """
        wanted = Get(
            key,
            end,
            limit=limit,
            revision=revision,
            sort_by=sort_by,
            descending=descending,
            keys_only=keys_only,
            count_only=count_only,
            serializable=serializable,
        )
        return self.read(wanted, min_revision=min_revision, timeout=timeout)

    def read(
        self, wanted: Get, *, min_revision: int = 0, timeout: float | None = None
    ) -> RangeResult:
        """Reads what a `Get` says, with every option that there is (etcd KV.Range).

        wanted: made with Get, GetPrefix or GetRange. min_revision, timeout, errors: as `get`.
        """
        request = wanted.request(self._namespace)
        answer = self._range(request, timeout)
        if min_revision:
            answer = self._newer(answer, request, min_revision, timeout)
        header = Header.read(answer.header)
        return RangeResult.read(answer, self._namespace, header, request.serializable)

    def count(self, prefix: Key, *, revision: int = 0, timeout: float | None = None) -> int:
        """How many keys begin with `prefix`. revision, timeout, errors: as `get`."""
        found = self.get_prefix(prefix, revision=revision, count_only=True, timeout=timeout)
        return found.count

    def iterate(
        self,
        prefix: Key = b"",
        *,
        end: Key | None = None,
        page_size: int = 1000,
        revision: int = 0,
        keys_only: bool = False,
        timeout: float | None = None,
    ) -> Iterator[KeyValue]:
        """All keys that begin with `prefix`, or those of [prefix, end), however many.

        They come in order, in pages or as a stream, all as of one revision: the first page's, or
        the given one. page_size: keys that are asked for at a time. keys_only: values are left
        out. timeout: seconds for each piece. Errors: as `get`; Compacted if history overtakes a
        slow reader.
        """
        if end is None:
            key, last = self._namespace.prefixed(prefix)
        else:
            key, last = self._namespace.range(prefix, end)
        request = rpc_pb2.RangeRequest(
            key=key, range_end=last, limit=page_size, revision=revision, keys_only=keys_only
        )
        for kv in self._pages.read(request, timeout):
            yield KeyValue.read(kv, self._namespace)

    def _range(
        self, request: rpc_pb2.RangeRequest, timeout: float | None
    ) -> Eventually[rpc_pb2.RangeResponse]:
        """The answer, of any age if the request is serializable."""
        current = not request.serializable
        return self._connection.call(
            RANGE,
            request,
            rpc_pb2.RangeResponse,
            write=False,
            linearizable=current,
            leading=current,
            timeout=timeout,
        )

    def _newer(
        self,
        answer: rpc_pb2.RangeResponse,
        request: rpc_pb2.RangeRequest,
        min_revision: int,
        timeout: float | None,
    ) -> rpc_pb2.RangeResponse:
        """The answer if it is new enough, or that of the read made linearizable."""
        if answer.header.revision < min_revision and request.serializable:
            request.serializable = False
            answer = self._range(request, timeout)
        if answer.header.revision < min_revision:
            raise Unavailable(
                f"the store is at revision {answer.header.revision}, "
                f"at least {min_revision} was asked for"
            )
        return answer

    # --- writes ---------------------------------------------------------------------------
    def put(
        self,
        key: Key,
        value: Key,
        *,
        lease: LeaseLike = None,
        prev_kv: bool = False,
        ignore_value: bool = False,
        ignore_lease: bool = False,
        timeout: float | None = None,
    ) -> PutResult:
        """Writes one key (etcd KV.Put).

        value: str is encoded as UTF-8. lease: a Lease or its id, that the key shall hang on.
        prev_kv: return the pair before. ignore_value, ignore_lease: keep the present one of a key
        that exists. timeout: seconds, None = the client's.
        Errors: OutcomeUnknown, LeaseNotFound, KeyNotFound, RequestTooLarge, NoSpace, ...
        """
        request = rpc_pb2.PutRequest(key=self._namespace.key(key), value=encoded(value))
        if lease is not None:
            request.lease = lease_id(lease)
        if prev_kv or ignore_value or ignore_lease:
            request.prev_kv = prev_kv
            request.ignore_value = ignore_value
            request.ignore_lease = ignore_lease
        answer = self._connection.call(
            PUT, request, rpc_pb2.PutResponse, write=True, linearizable=True, timeout=timeout
        )
        header = Header.read(answer.header)
        return PutResult.read(answer, self._namespace, header) if prev_kv else PutResult(header)

    def put_with_ttl(
        self,
        key: Key,
        value: Key,
        ttl: float,
        *,
        prev_kv: bool = False,
        timeout: float | None = None,
    ) -> TtlPutResult:
        """Writes a key that goes away by itself (raftkv.v1 KV.PutWithTTL).

        ttl: seconds, at least 0.001; the key never goes earlier. A plain put makes it
        permanent. value, prev_kv, timeout: as `put`. Errors: as `put`; Unsupported by etcd,
        which needs a lease for that.
        """
        request = v1_pb2.PutWithTTLRequest(
            key=self._namespace.key(key),
            value=encoded(value),
            ttl_ms=round(ttl * 1000),
            prev_kv=prev_kv,
        )
        answer = self._connection.call(
            PUT_WITH_TTL,
            request,
            v1_pb2.PutWithTTLResponse,
            write=True,
            linearizable=True,
            timeout=timeout,
        )
        previous = None
        if answer.HasField("prev_kv"):
            previous = KeyValue.read(answer.prev_kv, self._namespace)
        return TtlPutResult(Header.read(answer.header), answer.lease, previous)

    def delete(
        self, key: Key, *, prev_kv: bool = False, timeout: float | None = None
    ) -> DeleteResult:
        """Deletes one key (etcd KV.DeleteRange); that it is not there is no error.

        prev_kv: return the pair that is deleted. timeout: seconds, None = the client's.
        Errors: OutcomeUnknown, Unavailable, ...
        """
        return self._delete(Delete(key, prev_kv=prev_kv), timeout)

    def delete_prefix(
        self, prefix: Key, *, prev_kv: bool = False, timeout: float | None = None
    ) -> DeleteResult:
        """Deletes all keys that begin with `prefix`, at one revision; an empty one: all keys.

        prev_kv, timeout, errors: as `delete`.
        """
        return self._delete(Delete(prefix, prefix=True, prev_kv=prev_kv), timeout)

    def delete_range(
        self, key: Key, end: Key, *, prev_kv: bool = False, timeout: float | None = None
    ) -> DeleteResult:
        """Deletes the keys of [key, end), at one revision.

        end: b"\\0" = all keys from `key` on. prev_kv, timeout, errors: as `delete`.
        """
        return self._delete(Delete(key, end, prev_kv=prev_kv), timeout)

    def _delete(self, wanted: Delete, timeout: float | None) -> DeleteResult:
        answer = self._connection.call(
            DELETE,
            wanted.request(self._namespace),
            rpc_pb2.DeleteRangeResponse,
            write=True,
            linearizable=True,
            timeout=timeout,
        )
        return DeleteResult.read(answer, self._namespace, Header.read(answer.header))

    # --- transactions and history -----------------------------------------------------------
    def txn(self, transaction: Txn, *, timeout: float | None = None) -> TxnResult:
        """Decides a transaction (etcd KV.Txn); the result is true if its compares held.

        transaction: a value, which may be used again. timeout: seconds, None = the client's.
        Errors: as `put`; DuplicateKey, RequestTooLarge (too many operations), ReadsTooMuch.
        """
        write = transaction.writes
        answer = self._connection.call(
            TXN,
            transaction.request(self._namespace),
            rpc_pb2.TxnResponse,
            write=write,
            linearizable=write or transaction.is_linearizable,
            timeout=timeout,
        )
        return TxnResult.read(answer, self._namespace, Header.read(answer.header))

    def transaction(self) -> "Transaction":
        """Begins one to be read aloud: client.transaction().when(...).then(...).commit()."""
        return Transaction(self, Txn())

    def compact(
        self, revision: int, *, physical: bool = False, timeout: float | None = None
    ) -> CompactResult:
        """Forgets history: `revision` is the oldest that stays readable (etcd KV.Compact).

        physical: answer only when the space is free. timeout: seconds, None = the client's.
        Errors: Compacted, FutureRevision, OutcomeUnknown.
        """
        answer = self._connection.call(
            COMPACT,
            rpc_pb2.CompactionRequest(revision=revision, physical=physical),
            rpc_pb2.CompactionResponse,
            write=True,
            timeout=timeout,
        )
        return CompactResult(Header.read(answer.header))


class Transaction:
    """A `Txn` that knows its client. Every method but `commit` returns a longer one."""

    __slots__ = ("_client", "txn")

    def __init__(self, client: KeyValueVerbs, txn: Txn) -> None:
        self._client = client
        self.txn: Txn = txn

    def when(self, *compares: Compare) -> "Transaction":
        """With more conditions; all must hold. compares: made with `key`."""
        return Transaction(self._client, self.txn.when(*compares))

    def then(self, *operations: Operation) -> "Transaction":
        """With more operations to do when the conditions hold."""
        return Transaction(self._client, self.txn.then(*operations))

    def otherwise(self, *operations: Operation) -> "Transaction":
        """With more operations to do when a condition does not hold."""
        return Transaction(self._client, self.txn.otherwise(*operations))

    def commit(self, *, timeout: float | None = None) -> TxnResult:
        """Decides it. timeout: seconds, None = the client's. Errors: as `Client.txn`."""
        return self._client.txn(self.txn, timeout=timeout)
