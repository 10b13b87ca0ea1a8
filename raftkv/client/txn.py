"""Transactions as values: compares, operations, and what they are on the wire. Pure.

    Txn().when(key("a").version == 0).then(Put("a", "1")).otherwise(Get("a"))

All compares must hold for `then`; if one does not, `otherwise` is done. An empty `when` holds.
Everything happens at one revision (etcd API, Txn). A `Txn` is itself an operation.
"""

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple, Protocol, TypeAlias

from raftkv.client.keys import Key, Namespace, encoded
from raftkv.pb import rpc_pb2

if TYPE_CHECKING:
    Target: TypeAlias = rpc_pb2.Compare.CompareTarget.ValueType
    Relation: TypeAlias = rpc_pb2.Compare.CompareResult.ValueType


class SortBy(Enum):
    """What a range is ordered by."""

    KEY = 0
    VERSION = 1
    CREATE_REVISION = 2
    MOD_REVISION = 3
    VALUE = 4


class HasLeaseId(Protocol):
    """A lease: what has an id."""

    @property
    def id(self) -> int:
        """The lease's id."""


LeaseLike = int | HasLeaseId | None


def lease_id(lease: LeaseLike) -> int:
    """The id of a lease; 0 for none."""
    if lease is None:
        return 0
    return lease if isinstance(lease, int) else lease.id


# --- compares ---------------------------------------------------------------------------
_VERSION: Final = rpc_pb2.Compare.VERSION
_CREATE: Final = rpc_pb2.Compare.CREATE
_MOD: Final = rpc_pb2.Compare.MOD
_VALUE: Final = rpc_pb2.Compare.VALUE
_LEASE: Final = rpc_pb2.Compare.LEASE
_EQUAL: Final = rpc_pb2.Compare.EQUAL
_GREATER: Final = rpc_pb2.Compare.GREATER
_LESS: Final = rpc_pb2.Compare.LESS
_NOT_EQUAL: Final = rpc_pb2.Compare.NOT_EQUAL


class Compare(NamedTuple):
    """One condition: "stored (result) given" for a key, or for every key of a range.

    target, result: numbers of etcd's Compare. end, is_prefix: the range, if it is one.
    """

    key: bytes
    target: "Target"
    result: "Relation"
    given: int | bytes
    end: bytes = b""
    is_prefix: bool = False

    def fill(self, message: rpc_pb2.Compare, namespace: Namespace) -> None:
        """Says it in an empty message. namespace: to put before keys."""
        _fill_range(message, namespace, self.key, self.end, self.is_prefix)
        message.target = self.target
        message.result = self.result
        setattr(message, _FIELDS[self.target], self.given)


_FIELDS: Final = ("version", "create_revision", "mod_revision", "value", "lease")


@dataclass(frozen=True, slots=True, eq=False)
class Number:
    """A number of a key, to be compared with ==, !=, < or >."""

    subject: "Subject"
    target: "Target"

    def _compare(self, result: "Relation", given: int) -> Compare:
        subject = self.subject
        return Compare(subject.key, self.target, result, given, subject.end, subject.is_prefix)

    def __eq__(self, given: int) -> Compare:  # type: ignore[override]
        return self._compare(_EQUAL, given)

    def __ne__(self, given: int) -> Compare:  # type: ignore[override]
        return self._compare(_NOT_EQUAL, given)

    def __lt__(self, given: int) -> Compare:
        return self._compare(_LESS, given)

    def __gt__(self, given: int) -> Compare:
        return self._compare(_GREATER, given)

    __hash__: ClassVar[None] = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """The value of a key, to be compared with ==, !=, < or > by its bytes.

    A key that does not exist meets no such compare.
    """

    subject: "Subject"

    def _compare(self, result: "Relation", given: Key) -> Compare:
        subject = self.subject
        return Compare(
            subject.key,
            _VALUE,
            result,
            encoded(given),
            subject.end,
            subject.is_prefix,
        )

    def __eq__(self, given: Key) -> Compare:  # type: ignore[override]
        return self._compare(_EQUAL, given)

    def __ne__(self, given: Key) -> Compare:  # type: ignore[override]
        return self._compare(_NOT_EQUAL, given)

    def __lt__(self, given: Key) -> Compare:
        return self._compare(_LESS, given)

    def __gt__(self, given: Key) -> Compare:
        return self._compare(_GREATER, given)

    __hash__: ClassVar[None] = None  # type: ignore[assignment]


class Subject(NamedTuple):
    """A key, or a range of keys, that conditions are made of. See `key`."""

    key: bytes
    end: bytes = b""
    is_prefix: bool = False

    def prefix(self) -> "Subject":
        """All keys that begin with this one: the condition must hold for each that exists."""
        return Subject(self.key, is_prefix=True)

    def range(self, end: Key) -> "Subject":
        """All keys from this one to `end`, which does not belong to them."""
        return Subject(self.key, encoded(end))

    @property
    def version(self) -> Number:
        """1 for a key's first write, 0 for a missing one."""
        return Number(self, _VERSION)

    @property
    def create_revision(self) -> Number:
        """Of the write that created the key, 0 for a missing one."""
        return Number(self, _CREATE)

    @property
    def mod_revision(self) -> Number:
        """Of the key's last write, 0 for a missing one."""
        return Number(self, _MOD)

    @property
    def lease(self) -> Number:
        """Id of the key's lease, 0 for none."""
        return Number(self, _LEASE)

    @property
    def value(self) -> Content:
        """The key's value."""
        return Content(self)

    def exists(self) -> Compare:
        """The key is there."""
        return self.create_revision > 0

    def missing(self) -> Compare:
        """The key is not there; of a range: none is."""
        return self.create_revision == 0


def key(name: Key) -> Subject:
    """What a condition is about: key("a").mod_revision == 5, key("a").missing(), ...

    name: of the key; `.prefix()` or `.range(end)` make it a range.
    """
    return Subject(encoded(name))


# --- operations ---------------------------------------------------------------------------
# An operation fills the empty message that lies in its transaction's: a message that is made
# first and handed over is copied, which costs as much again.
def _fill_range(
    message: rpc_pb2.Compare | rpc_pb2.RangeRequest | rpc_pb2.DeleteRangeRequest,
    namespace: Namespace,
    key: Key,
    end: Key,
    is_prefix: bool,
) -> None:
    """Says which keys are meant. namespace: to put before them."""
    if is_prefix:
        message.key, message.range_end = namespace.prefixed(key)
    elif end:
        message.key, message.range_end = namespace.range(key, end)
    else:
        message.key = namespace.key(key)


class Get(NamedTuple):
    """Reads a key; with `end` a range, with `prefix` all keys that begin with it.

    end: b"\\0" = all keys from `key` on. limit: 0 = all. revision: 0 = now. The bounds by
    revision are inclusive, 0 = none.
    """

    key: Key
    end: Key = b""
    prefix: bool = False
    limit: int = 0
    revision: int = 0
    sort_by: SortBy = SortBy.KEY
    descending: bool = False
    keys_only: bool = False
    count_only: bool = False
    serializable: bool = False
    min_mod_revision: int = 0
    max_mod_revision: int = 0
    min_create_revision: int = 0
    max_create_revision: int = 0

    def request(self, namespace: Namespace) -> rpc_pb2.RangeRequest:
        """For the wire. namespace: to put before keys."""
        request = rpc_pb2.RangeRequest()
        self._fill(request, namespace)
        return request

    def fill(self, message: rpc_pb2.RequestOp, namespace: Namespace) -> None:
        """Says it in an empty message. namespace: to put before keys."""
        self._fill(message.request_range, namespace)

    def _fill(self, request: rpc_pb2.RangeRequest, namespace: Namespace) -> None:
        _fill_range(request, namespace, self.key, self.end, self.prefix)
        if self[_RANGE_FIELDS:] != _NO_OPTIONS:
            self._fill_options(request)

    def _fill_options(self, request: rpc_pb2.RangeRequest) -> None:
        for name in _SAME_NAMES:
            setattr(request, name, getattr(self, name))
        if self.descending:
            request.sort_order = rpc_pb2.RangeRequest.DESCEND
        elif self.sort_by is not SortBy.KEY:
            request.sort_order = rpc_pb2.RangeRequest.ASCEND
        if self.sort_by is not SortBy.KEY:
            request.sort_target = self.sort_by.value


_RANGE_FIELDS: Final = 3  # of a Get: key, end, prefix; its options follow
_NO_OPTIONS: Final = Get("")[_RANGE_FIELDS:]
_SAME_NAMES: Final = (  # as in the message
    "limit",
    "revision",
    "keys_only",
    "count_only",
    "serializable",
    "min_mod_revision",
    "max_mod_revision",
    "min_create_revision",
    "max_create_revision",
)


def GetPrefix(prefix: Key, *, limit: int = 0, keys_only: bool = False) -> Get:  # noqa: N802
    """Reads all keys that begin with `prefix`. limit: 0 = all. keys_only: leaves values out."""
    return Get(prefix, prefix=True, limit=limit, keys_only=keys_only)


def GetRange(key: Key, end: Key, *, limit: int = 0, keys_only: bool = False) -> Get:  # noqa: N802
    """Reads the keys of [key, end). end, limit, keys_only: as in `Get`."""
    return Get(key, end, limit=limit, keys_only=keys_only)


class Put(NamedTuple):
    """Writes a key.

    lease: a Lease or its id, that the key shall hang on. prev_kv: return the pair before.
    ignore_value, ignore_lease: keep the present one.
    """

    key: Key
    value: Key = b""
    lease: LeaseLike = None
    prev_kv: bool = False
    ignore_value: bool = False
    ignore_lease: bool = False

    def fill(self, message: rpc_pb2.RequestOp, namespace: Namespace) -> None:
        """Says it in an empty message. namespace: to put before keys."""
        request = message.request_put
        request.key = namespace.key(self.key)
        request.value = encoded(self.value)
        if self.lease is not None:
            request.lease = lease_id(self.lease)
        if self.prev_kv or self.ignore_value or self.ignore_lease:
            request.prev_kv = self.prev_kv
            request.ignore_value = self.ignore_value
            request.ignore_lease = self.ignore_lease


class Delete(NamedTuple):
    """Deletes a key; with `end` a range, with `prefix` all keys that begin with it.

    prev_kv: return the pairs.
    """

    key: Key
    end: Key = b""
    prefix: bool = False
    prev_kv: bool = False

    def request(self, namespace: Namespace) -> rpc_pb2.DeleteRangeRequest:
        """For the wire. namespace: to put before keys."""
        request = rpc_pb2.DeleteRangeRequest()
        self._fill(request, namespace)
        return request

    def fill(self, message: rpc_pb2.RequestOp, namespace: Namespace) -> None:
        """Says it in an empty message. namespace: to put before keys."""
        self._fill(message.request_delete_range, namespace)

    def _fill(self, request: rpc_pb2.DeleteRangeRequest, namespace: Namespace) -> None:
        _fill_range(request, namespace, self.key, self.end, self.prefix)
        request.prev_kv = self.prev_kv


def DeletePrefix(prefix: Key, *, prev_kv: bool = False) -> Delete:  # noqa: N802
    """Deletes all keys that begin with `prefix`. prev_kv: return them."""
    return Delete(prefix, prefix=True, prev_kv=prev_kv)


def DeleteRange(key: Key, end: Key, *, prev_kv: bool = False) -> Delete:  # noqa: N802
    """Deletes the keys of [key, end). prev_kv: return them."""
    return Delete(key, end, prev_kv=prev_kv)


class Txn(NamedTuple):
    """A transaction. `when`, `then` and `otherwise` return a longer one; this one stays."""

    compares: tuple[Compare, ...] = ()
    success: "tuple[Operation, ...]" = ()
    failure: "tuple[Operation, ...]" = ()

    def when(self, *compares: Compare) -> "Txn":
        """With more conditions; all must hold. compares: made with `key`, or a guard's."""
        return Txn(self.compares + compares, self.success, self.failure)

    def then(self, *operations: "Operation") -> "Txn":
        """With more operations to do when the conditions hold."""
        return Txn(self.compares, self.success + operations, self.failure)

    def otherwise(self, *operations: "Operation") -> "Txn":
        """With more operations to do when a condition does not hold."""
        return Txn(self.compares, self.success, self.failure + operations)

    @property
    def writes(self) -> bool:
        """Whether one of its branches can change anything."""
        for operation in self.success + self.failure:
            if operation.writes if isinstance(operation, Txn) else not isinstance(operation, Get):
                return True
        return False

    @property
    def is_linearizable(self) -> bool:
        """Whether the answer is as new as its question: not so if it only reads stale ranges."""
        return self.writes or not all(
            operation.is_linearizable is False
            if isinstance(operation, Txn)
            else isinstance(operation, Get) and operation.serializable
            for operation in self.success + self.failure
        )

    def request(self, namespace: Namespace) -> rpc_pb2.TxnRequest:
        """For the wire. namespace: to put before keys."""
        request = rpc_pb2.TxnRequest()
        self._fill(request, namespace)
        return request

    def fill(self, message: rpc_pb2.RequestOp, namespace: Namespace) -> None:
        """Says it in an empty message. namespace: to put before keys."""
        message.request_txn.SetInParent()  # it may have nothing to say
        self._fill(message.request_txn, namespace)

    def _fill(self, request: rpc_pb2.TxnRequest, namespace: Namespace) -> None:
        for compare in self.compares:
            compare.fill(request.compare.add(), namespace)
        for operation in self.success:
            operation.fill(request.success.add(), namespace)
        for operation in self.failure:
            operation.fill(request.failure.add(), namespace)


Operation = Get | Put | Delete | Txn
