"""A store of keys and leases in a few lines: what the client's transaction values mean.

It knows what the recipes use: compares of numbers and values, gets with order, limit and bounds of
the revisions, puts with leases, deletions, revocation.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from raftkv.client.errors import LeaseNotFound
from raftkv.client.keys import encoded, prefix_end
from raftkv.client.results import DeleteResult, Header, KeyValue, PutResult, RangeResult, TxnResult
from raftkv.client.txn import Compare, Delete, Get, Operation, Put, SortBy, Txn, lease_id

_ABSENT: Final = KeyValue(b"", b"", 0, 0, 0, 0)
_READ: Final[tuple[Callable[[KeyValue], int | bytes], ...]] = (
    lambda kv: kv.version,
    lambda kv: kv.create_revision,
    lambda kv: kv.mod_revision,
    lambda kv: kv.value,
    lambda kv: kv.lease,
)
_VALUE: Final = 3


class Store:
    """revision: of the last change. kvs: by key. leases: that live."""

    def __init__(self) -> None:
        self.revision = 1
        self.kvs: dict[bytes, KeyValue] = {}
        self.leases: set[int] = set()

    def header(self) -> Header:
        """Of an answer given now."""
        return Header(1, 1, self.revision, 1)

    def apply(self, txn: Txn) -> TxnResult:
        """Carries a transaction out. Errors: LeaseNotFound, and then nothing is done."""
        holds = all(self._holds(compare) for compare in txn.compares)
        operations = txn.success if holds else txn.failure
        puts = [operation for operation in operations if isinstance(operation, Put)]
        if any(lease_id(put.lease) not in {0, *self.leases} for put in puts):
            raise LeaseNotFound("etcdserver: requested lease not found")
        next_revision = self.revision + 1
        results = tuple([self._do(operation, next_revision) for operation in operations])
        if any(_changed(result) for result in results):
            self.revision = next_revision
        header = self.header()
        return TxnResult(header, holds, tuple([replace(each, header=header) for each in results]))

    def revoke(self, lease: int) -> None:
        """Ends a lease; its keys go with it, at one revision."""
        self.leases.discard(lease)
        mine = [name for name, kv in self.kvs.items() if kv.lease == lease]
        if mine:
            self.revision += 1
        for name in mine:
            del self.kvs[name]

    def find(self, key: bytes, end: bytes) -> list[KeyValue]:
        """What is in a range, by key."""
        if not end:
            return [self.kvs[key]] if key in self.kvs else []
        return [kv for name, kv in sorted(self.kvs.items()) if key <= name < end]

    def _holds(self, compare: Compare) -> bool:
        end = prefix_end(compare.key) if compare.is_prefix else compare.end
        found = self.find(compare.key, end)
        if not found:
            if compare.target == _VALUE:
                return False
            found = [_ABSENT]
        return all(_compared(_READ[compare.target](kv), compare) for kv in found)

    def _do(self, operation: Operation, revision: int) -> RangeResult | PutResult | DeleteResult:
        header = self.header()
        if isinstance(operation, Get):
            return self._get(operation)
        if isinstance(operation, Put):
            name = encoded(operation.key)
            before = self.kvs.get(name, _ABSENT)
            created = before.create_revision or revision
            self.kvs[name] = KeyValue(
                name,
                encoded(operation.value),
                created,
                revision,
                before.version + 1,
                lease_id(operation.lease),
            )
            return PutResult(header)
        assert isinstance(operation, Delete)
        gone = self.kvs.pop(encoded(operation.key), None)
        return DeleteResult(header, int(gone is not None))

    def _get(self, get: Get) -> RangeResult:
        key = encoded(get.key)
        found = self.find(key, prefix_end(key) if get.prefix else encoded(get.end))
        count = len(found)
        if get.max_create_revision:
            found = [kv for kv in found if kv.create_revision <= get.max_create_revision]
        if get.min_mod_revision:
            found = [kv for kv in found if kv.mod_revision >= get.min_mod_revision]
        if get.sort_by is SortBy.CREATE_REVISION:
            found.sort(key=lambda kv: kv.create_revision, reverse=get.descending)
        kept = found[: get.limit] if get.limit else found
        if get.keys_only:
            kept = [kv._replace(value=b"") for kv in kept]
        return RangeResult(self.header(), tuple(kept), count, len(kept) < len(found))


def _changed(result: RangeResult | PutResult | DeleteResult) -> bool:
    return isinstance(result, PutResult) or (
        isinstance(result, DeleteResult) and result.deleted > 0
    )


def _compared(stored: int | bytes, compare: Compare) -> bool:
    given = compare.given
    order = (stored > given) - (stored < given)  # type: ignore[operator]
    # etcd's CompareResult: EQUAL, GREATER, LESS, NOT_EQUAL
    return (order == 0, order > 0, order < 0, order != 0)[compare.result]
