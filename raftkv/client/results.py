"""What the calls of the client return: frozen values, the same for both faces.

Keys and values are bytes; `.text` and `.key_text` decode them as UTF-8. Keys are as the user
knows them, without the client's namespace. Every answer's header says which member gave it and
at what revision of the store.

What there may be many of (headers, pairs, events) are named tuples: they are made in a third of
the time that a frozen dataclass takes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple, overload

from raftkv.client.keys import Namespace
from raftkv.pb import kv_pb2, rpc_pb2

_made: Final = tuple.__new__  # of a named tuple: takes all its fields, in half the time


class Header(NamedTuple):
    """Stands in front of every answer (etcd ResponseHeader).

    member_id: who answered. revision: of the store when the request was done.
    """

    cluster_id: int
    member_id: int
    revision: int
    raft_term: int

    @classmethod
    def read(cls, header: rpc_pb2.ResponseHeader) -> "Header":
        """From the wire."""
        return _made(cls, (header.cluster_id, header.member_id, header.revision, header.raft_term))


class KeyValue(NamedTuple):
    """One key as it stood at one revision.

    create_revision: of the write that created this generation of the key; mod_revision: of the
    write that made this very pair. version: 1 for the first write of the generation.
    lease: the lease it hangs on, 0 = none.
    """

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int

    @property
    def text(self) -> str:
        """The value as UTF-8 text. Errors: UnicodeDecodeError."""
        return self.value.decode()

    @property
    def key_text(self) -> str:
        """The key as UTF-8 text. Errors: UnicodeDecodeError."""
        return self.key.decode()

    @classmethod
    def read(cls, kv: kv_pb2.KeyValue, namespace: Namespace) -> "KeyValue":
        """From the wire. namespace: to take off keys."""
        return _made(
            cls,
            (
                namespace.own(kv.key) if namespace.prefix else kv.key,
                kv.value,
                kv.create_revision,
                kv.mod_revision,
                kv.version,
                kv.lease,
            ),
        )


class GetResult(NamedTuple):
    """One key, or that there is none.

    may_be_stale: one member answered from its own state, which was current at `revision`
    and may lag behind (serializable=True).
    """

    header: Header
    kv: KeyValue | None
    may_be_stale: bool = False

    @property
    def exists(self) -> bool:
        """Whether there is such a key."""
        return self.kv is not None

    @property
    def value(self) -> bytes | None:
        """The value, or None."""
        return None if self.kv is None else self.kv.value

    @property
    def text(self) -> str | None:
        """The value as UTF-8 text, or None. Errors: UnicodeDecodeError."""
        return None if self.kv is None else self.kv.text

    @property
    def mod_revision(self) -> int:
        """Of the key; 0 if there is none, which is what a compare takes for a missing key."""
        return 0 if self.kv is None else self.kv.mod_revision

    @property
    def create_revision(self) -> int:
        """Of the key; 0 if there is none."""
        return 0 if self.kv is None else self.kv.create_revision

    @property
    def version(self) -> int:
        """Of the key; 0 if there is none."""
        return 0 if self.kv is None else self.kv.version

    @property
    def revision(self) -> int:
        """Of the store, when the key was read."""
        return self.header.revision

    @classmethod
    def read(
        cls, answer: rpc_pb2.RangeResponse, namespace: Namespace, may_be_stale: bool
    ) -> "GetResult":
        """From the wire. namespace: to take off keys."""
        header, kvs = Header.read(answer.header), answer.kvs
        return _made(cls, (header, KeyValue.read(kvs[0], namespace) if kvs else None, may_be_stale))


@dataclass(frozen=True, slots=True)
class RangeResult:
    """The keys of a range, in the order that was asked for. To be iterated, counted, indexed.

    count: keys in the range before `limit` and revision bounds. more: `limit` left some out.
    may_be_stale: as in GetResult.
    """

    header: Header
    kvs: tuple[KeyValue, ...]
    count: int
    more: bool
    may_be_stale: bool = False

    @property
    def revision(self) -> int:
        """Of the store, when the range was read."""
        return self.header.revision

    def __iter__(self) -> Iterator[KeyValue]:
        return iter(self.kvs)

    def __len__(self) -> int:
        return len(self.kvs)

    @overload
    def __getitem__(self, place: int) -> KeyValue: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[KeyValue, ...]: ...

    def __getitem__(self, place: int | slice) -> KeyValue | tuple[KeyValue, ...]:
        return self.kvs[place]

    @classmethod
    def read(
        cls,
        answer: rpc_pb2.RangeResponse,
        namespace: Namespace,
        header: Header,
        may_be_stale: bool = False,
    ) -> "RangeResult":
        """From the wire. namespace: to take off keys."""
        # A list of them (`[:]`), for the message's own sequence ends each loop with an error.
        kvs = tuple([KeyValue.read(kv, namespace) for kv in answer.kvs[:]])
        return cls(header, kvs, answer.count, answer.more, may_be_stale)


@dataclass(frozen=True, slots=True)
class PutResult:
    """A key was written. previous: the pair before, if it was asked for and there was one."""

    header: Header
    previous: KeyValue | None = None

    @property
    def revision(self) -> int:
        """Of the write."""
        return self.header.revision

    @classmethod
    def read(cls, answer: rpc_pb2.PutResponse, namespace: Namespace, header: Header) -> "PutResult":
        """From the wire. namespace: to take off keys."""
        if answer.HasField("prev_kv"):
            return cls(header, KeyValue.read(answer.prev_kv, namespace))
        return cls(header)


@dataclass(frozen=True, slots=True)
class TtlPutResult:
    """A key was written that goes away by itself. lease: the key's own, to renew it by."""

    header: Header
    lease: int
    previous: KeyValue | None = None

    @property
    def revision(self) -> int:
        """Of the write."""
        return self.header.revision


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """deleted: number of keys. previous: their pairs, if they were asked for."""

    header: Header
    deleted: int
    previous: tuple[KeyValue, ...] = ()

    @property
    def revision(self) -> int:
        """Of the store behind the deletion."""
        return self.header.revision

    @classmethod
    def read(
        cls, answer: rpc_pb2.DeleteRangeResponse, namespace: Namespace, header: Header
    ) -> "DeleteResult":
        """From the wire. namespace: to take off keys."""
        previous = tuple([KeyValue.read(kv, namespace) for kv in answer.prev_kvs[:]])
        return cls(header, answer.deleted, previous)


@dataclass(frozen=True, slots=True)
class TxnResult:
    """A transaction was decided. True in a condition iff its compares held.

    results: one per operation of the branch that was done, in order. Their headers are this
    one's, with the revision as of that operation where the server gives one.
    """

    header: Header
    succeeded: bool
    results: "tuple[RangeResult | PutResult | DeleteResult | TxnResult, ...]"

    @property
    def revision(self) -> int:
        """Of the store behind the transaction: of its writes, if it made any."""
        return self.header.revision

    def __bool__(self) -> bool:
        return self.succeeded

    @classmethod
    def read(cls, answer: rpc_pb2.TxnResponse, namespace: Namespace, header: Header) -> "TxnResult":
        """From the wire. namespace: to take off keys."""
        results = tuple([_result(op, namespace, header) for op in answer.responses[:]])
        return cls(header, answer.succeeded, results)


def _result(
    op: rpc_pb2.ResponseOp, namespace: Namespace, header: Header
) -> RangeResult | PutResult | DeleteResult | TxnResult:
    kind = op.WhichOneof("response")
    if kind == "response_range":
        return RangeResult.read(op.response_range, namespace, header)
    if kind == "response_put":
        return PutResult.read(op.response_put, namespace, header)
    if kind == "response_delete_range":
        return DeleteResult.read(op.response_delete_range, namespace, header)
    return TxnResult.read(op.response_txn, namespace, header)


@dataclass(frozen=True, slots=True)
class CompactResult:
    """History below a revision is gone."""

    header: Header


# --- leases ---------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class LeaseResult:
    """A lease was granted. ttl: seconds, may be more than was asked for."""

    header: Header
    id: int
    ttl: int


@dataclass(frozen=True, slots=True)
class RevokeResult:
    """A lease is over and its keys are gone."""

    header: Header


@dataclass(frozen=True, slots=True)
class TimeToLive:
    """What is left of a lease.

    ttl: whole seconds; -1 = there is no such lease. granted_ttl: seconds. keys: if asked for.
    """

    header: Header
    id: int
    ttl: int
    granted_ttl: int
    keys: tuple[bytes, ...] = ()

    @property
    def exists(self) -> bool:
        """Whether there is such a lease."""
        return self.ttl >= 0


# --- watches --------------------------------------------------------------------------
class EventType(Enum):
    """What happened to a key."""

    PUT = 0
    DELETE = 1


class Event(NamedTuple):
    """One change of one key.

    kv: the new pair; of a deletion only key and mod_revision, which is the deletion's.
    previous: the pair before, if it was asked for and there was one.
    """

    type: EventType
    kv: KeyValue
    previous: KeyValue | None = None

    @property
    def is_put(self) -> bool:
        """The key was written."""
        return self.type is EventType.PUT

    @property
    def is_create(self) -> bool:
        """The key was written and had not been there."""
        return self.is_put and self.kv.create_revision == self.kv.mod_revision

    @property
    def is_delete(self) -> bool:
        """The key was deleted."""
        return self.type is EventType.DELETE

    @property
    def key(self) -> bytes:
        """The key."""
        return self.kv.key

    @property
    def value(self) -> bytes:
        """The new value; empty for a deletion."""
        return self.kv.value

    @property
    def text(self) -> str:
        """The new value as UTF-8 text. Errors: UnicodeDecodeError."""
        return self.kv.text

    @property
    def revision(self) -> int:
        """Of the change."""
        return self.kv.mod_revision

    @classmethod
    def read(cls, event: kv_pb2.Event, namespace: Namespace) -> "Event":
        """From the wire. namespace: to take off keys."""
        return cls(
            EventType.DELETE if event.type else EventType.PUT,
            KeyValue.read(event.kv, namespace),
            KeyValue.read(event.prev_kv, namespace) if event.HasField("prev_kv") else None,
        )


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """One or more whole revisions; without events: nothing more up to `revision`."""

    header: Header
    events: tuple[Event, ...] = ()

    @property
    def is_progress(self) -> bool:
        """Only tells how far the watch is."""
        return not self.events

    @property
    def revision(self) -> int:
        """Of the header."""
        return self.header.revision

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    def __len__(self) -> int:
        return len(self.events)


# --- the cluster ------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Member:
    """name and client_urls are empty until the member has started for the first time."""

    id: int
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    is_learner: bool

    @classmethod
    def read(cls, member: rpc_pb2.Member) -> "Member":
        """From the wire."""
        return cls(
            member.ID,
            member.name,
            tuple(member.peerURLs),
            tuple(member.clientURLs),
            member.isLearner,
        )


@dataclass(frozen=True, slots=True)
class Members:
    """The members of the cluster; to be iterated and counted."""

    header: Header
    members: tuple[Member, ...]

    def __iter__(self) -> Iterator[Member]:
        return iter(self.members)

    def __len__(self) -> int:
        return len(self.members)


@dataclass(frozen=True, slots=True)
class Status:
    """One member's view.

    leader: member id, 0 = none known. db_size, db_size_in_use: bytes. errors: alarms and the like.
    """

    header: Header
    version: str
    db_size: int
    db_size_in_use: int
    leader: int
    raft_index: int
    raft_applied_index: int
    raft_term: int
    is_learner: bool
    errors: tuple[str, ...]

    @property
    def is_leader(self) -> bool:
        """Whether the member that answered leads."""
        return self.leader != 0 and self.leader == self.header.member_id

    @classmethod
    def read(cls, answer: rpc_pb2.StatusResponse) -> "Status":
        """From the wire."""
        return cls(
            header=Header.read(answer.header),
            version=answer.version,
            db_size=answer.dbSize,
            db_size_in_use=answer.dbSizeInUse,
            leader=answer.leader,
            raft_index=answer.raftIndex,
            raft_applied_index=answer.raftAppliedIndex,
            raft_term=answer.raftTerm,
            is_learner=answer.isLearner,
            errors=tuple(answer.errors),
        )


class AlarmType(Enum):
    """NOSPACE: the store has reached its quota. CORRUPT: members disagree."""

    NOSPACE = 1
    CORRUPT = 2


@dataclass(frozen=True, slots=True)
class Alarm:
    """One alarm of one member."""

    member_id: int
    type: AlarmType
