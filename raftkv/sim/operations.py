"""What virtual clients ask, what they are told, and the history of both.

Requests and responses are plain tuples, so that the checkers know nothing of the
bytes on the wire and compare with `==`. The history is the only thing that the
checkers see of the clients.

Times are virtual microseconds. An operation without an answer has outcome
UNKNOWN and no return time.
"""

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, TypeAlias


class Put(NamedTuple):
    """Set `key` to `value`. lease: 0 for none."""

    key: bytes
    value: bytes
    lease: int = 0


class PutWithTTL(NamedTuple):
    """Set `key` to `value` together with a lease of its own (raftkv.v1)."""

    key: bytes
    value: bytes
    lease: int
    ttl_ms: int


class Get(NamedTuple):
    """Read [key, end), or one key if `end` is empty.

    revision: 0 = the newest. serializable: from the member's own state, maybe old.
    """

    key: bytes
    end: bytes = b""
    revision: int = 0
    serializable: bool = False


class Delete(NamedTuple):
    """Delete [key, end), or one key if `end` is empty."""

    key: bytes
    end: bytes = b""


class Compare(NamedTuple):
    """A condition of a Txn: `key`'s value, or its mod revision, equals this.

    value None: compare `mod_revision` instead (0: the key does not exist).
    """

    key: bytes
    value: bytes | None = None
    mod_revision: int = 0


class Txn(NamedTuple):
    """All compares hold: `success` happens, else `failure`. One revision for all of it."""

    compares: tuple[Compare, ...]
    success: "tuple[Put | Get | Delete, ...]"
    failure: "tuple[Put | Get | Delete, ...]" = ()


class Compact(NamedTuple):
    """Forget what was overwritten at `revision` or before."""

    revision: int


class Grant(NamedTuple):
    """A lease begins. log_index: of the entry."""

    lease: int
    ttl_ms: int
    log_index: int = 0


class Revoke(NamedTuple):
    """A lease ends, and its keys with it."""

    lease: int


class Expire(NamedTuple):
    """Leases end because a leader's clock has decided it in `term`; void in another one, and for
    what was granted behind the index that it knew.
    """

    term: int
    entry_term: int
    leases: tuple[int, ...]
    known_index: int = 1 << 62


Request: TypeAlias = Put | PutWithTTL | Get | Delete | Txn | Compact
# What the log has of leases. It carries no operation's identity: `Logged` has -log_index.
LeaseCommand: TypeAlias = Grant | Revoke | Expire


class KeyValue(NamedTuple):
    """One live key as the API shows it."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int = 0


class PutDone(NamedTuple):
    """The answer to Put and PutWithTTL."""


class Found(NamedTuple):
    """The answer to Get."""

    keys: tuple[KeyValue, ...]
    total: int
    more: bool = False


class Deleted(NamedTuple):
    """The answer to Delete: how many keys there were."""

    keys_deleted: int


class TxnDone(NamedTuple):
    """The answer to Txn."""

    succeeded: bool
    responses: "tuple[PutDone | Found | Deleted, ...]"


class Compacted(NamedTuple):
    """The answer to Compact."""


Response: TypeAlias = PutDone | Found | Deleted | TxnDone | Compacted


class Outcome(Enum):
    """What a client may conclude."""

    OK = "ok"
    DEFINITE = "definite"  # failed, and has no effect now or later
    UNKNOWN = "unknown"  # no answer, or one that leaves it open


@dataclass(slots=True)
class Operation:
    """One call of a client.

    identity: unique in the run, carried inside the request into the log.
    member: who was asked. revision: of the answer's header; 0 without an answer.
    """

    identity: int
    client: int
    member: int
    request: Request
    called_us: int
    returned_us: int | None = None
    outcome: Outcome = Outcome.UNKNOWN
    revision: int = 0
    response: Response | None = None
    error: str = ""


class Logged(NamedTuple):
    """A client's command as the committed log has it, in log order."""

    log_index: int
    identity: int
    request: Request | LeaseCommand


def reads_only(request: Request) -> bool:
    """True if `request` never goes through the log."""
    return isinstance(request, Get)


def keys_of(request: Request) -> tuple[bytes, ...]:
    """Every single key that `request` names; a range counts with its first key."""
    if isinstance(request, Compact):
        return ()
    if isinstance(request, Txn):
        parts = [compare.key for compare in request.compares]
        parts += [part.key for part in request.success + request.failure]
        return tuple(dict.fromkeys(parts))
    return (request.key,)
