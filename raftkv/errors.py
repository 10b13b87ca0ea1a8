"""The one error tree of raftkv.

    RaftkvError
    +-- ConfigError          a flag, file or URL is wrong; says which and why
    +-- StorageError         the data directory cannot be trusted or written
    |   +-- CorruptionError      stored bytes are damaged: refuse, say how to rejoin
    |   +-- DiskFailure          a write or fsync failed: final, the process stops
    |   +-- DirectoryLocked      another process holds the data directory
    |   +-- WrongDirectory       the directory belongs to another cluster or member
    |   +-- MemberRemoved        the member was removed from its cluster: it stops for good
    +-- ProtocolError        a peer or client broke the wire protocol
    +-- ApiError             an answer of the etcd API: gRPC code, exact text, outcome

Every ApiError is a constant of this module: clients match on the exact text
(etcd api/v3rpc/rpctypes/error.go), so no text is made anywhere else except by
`ApiError.with_text` for the few that carry numbers.

An error's outcome says what a caller may conclude about a write:
DEFINITE = it was not applied and never will be; UNKNOWN = it may have been
applied or may still be. A caller may repeat only what ended DEFINITE.
"""

from enum import Enum
from typing import Final


class Outcome(Enum):
    """What an error tells about the write that met it."""

    DEFINITE = "definite"
    UNKNOWN = "unknown"


class Code:
    """gRPC status codes (grpc/doc/statuscodes.md)."""

    OK: Final = 0
    CANCELLED: Final = 1
    UNKNOWN: Final = 2
    INVALID_ARGUMENT: Final = 3
    DEADLINE_EXCEEDED: Final = 4
    NOT_FOUND: Final = 5
    ALREADY_EXISTS: Final = 6
    PERMISSION_DENIED: Final = 7
    RESOURCE_EXHAUSTED: Final = 8
    FAILED_PRECONDITION: Final = 9
    ABORTED: Final = 10
    OUT_OF_RANGE: Final = 11
    UNIMPLEMENTED: Final = 12
    INTERNAL: Final = 13
    UNAVAILABLE: Final = 14
    DATA_LOSS: Final = 15
    UNAUTHENTICATED: Final = 16


class RaftkvError(Exception):
    """Root of every error that raftkv raises on purpose."""


class ConfigError(RaftkvError):
    """A flag, an environment variable, a file or a URL is wrong."""


class StorageError(RaftkvError):
    """The data directory cannot be used. `exit_code` is the process's exit code."""

    exit_code: int = 10


class CorruptionError(StorageError):
    """Stored bytes are damaged or missing: the member must not vote on them."""

    exit_code = 11


class DiskFailure(StorageError):
    """A write or fsync failed. Final: never retried, nothing acknowledged after it."""

    exit_code = 12


class DirectoryLocked(StorageError):
    """Another process holds the data directory."""

    exit_code = 13


class WrongDirectory(StorageError):
    """The directory belongs to another cluster or member."""

    exit_code = 14


class MemberRemoved(StorageError):
    """The cluster has removed this member. Starting it again would end the same."""

    exit_code = 16


# Exit code of a member that met an error it has no name for: a bug, or a log entry that this
# version cannot carry out. Going on would let it differ from the others.
INTERNAL_EXIT_CODE: Final = 15


class ProtocolError(RaftkvError):
    """The other end of a connection broke the protocol."""


class ApiError(RaftkvError):
    """An error answer of the etcd API.

    code: gRPC status code. text: the exact status message, prefix included.
    outcome: what the caller may conclude about a write.
    """

    __slots__ = ("code", "outcome", "text")

    def __init__(self, code: int, text: str, outcome: Outcome = Outcome.DEFINITE) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.outcome = outcome

    def with_text(self, text: str) -> "ApiError":
        """The same code and outcome with another text (for texts that carry numbers)."""
        return ApiError(self.code, text, self.outcome)


def _etcd(code: int, text: str, outcome: Outcome = Outcome.DEFINITE) -> ApiError:
    return ApiError(code, "etcdserver: " + text, outcome)


def _own(code: int, text: str, outcome: Outcome = Outcome.DEFINITE) -> ApiError:
    return ApiError(code, "raftkv: " + text, outcome)


# --- requests ---------------------------------------------------------------
EMPTY_KEY: Final = _etcd(Code.INVALID_ARGUMENT, "key is not provided")
KEY_NOT_FOUND: Final = _etcd(Code.INVALID_ARGUMENT, "key not found")
VALUE_PROVIDED: Final = _etcd(Code.INVALID_ARGUMENT, "value is provided")
LEASE_PROVIDED: Final = _etcd(Code.INVALID_ARGUMENT, "lease is provided")
TOO_MANY_OPS: Final = _etcd(Code.INVALID_ARGUMENT, "too many operations in txn request")
DUPLICATE_KEY: Final = _etcd(Code.INVALID_ARGUMENT, "duplicate key given in txn request")
INVALID_CLIENT_API_VERSION: Final = _etcd(Code.INVALID_ARGUMENT, "invalid client api version")
INVALID_SORT_OPTION: Final = _etcd(Code.INVALID_ARGUMENT, "invalid sort option")
REQUEST_TOO_LARGE: Final = _etcd(Code.INVALID_ARGUMENT, "request is too large")
RANGE_STREAM_UNSUPPORTED: Final = _etcd(
    Code.UNIMPLEMENTED, "range stream offers the default order only, without revision filters"
)
COMPACTED: Final = _etcd(Code.OUT_OF_RANGE, "mvcc: required revision has been compacted")
FUTURE_REVISION: Final = _etcd(Code.OUT_OF_RANGE, "mvcc: required revision is a future revision")
NO_SPACE: Final = _etcd(Code.RESOURCE_EXHAUSTED, "mvcc: database space exceeded")
TOO_MANY_REQUESTS: Final = _etcd(Code.RESOURCE_EXHAUSTED, "too many requests")
TXN_READS_TOO_MUCH: Final = _etcd(
    Code.RESOURCE_EXHAUSTED,
    "a transaction that writes must not read so much: limit its ranges and compares, or read "
    "beforehand and compare revisions in the transaction",
)
TXN_ANSWER_TOO_LARGE: Final = _etcd(
    Code.RESOURCE_EXHAUSTED, "the answer is too large: split the transaction or limit its ranges"
)

# --- leases -----------------------------------------------------------------
LEASE_NOT_FOUND: Final = _etcd(Code.NOT_FOUND, "requested lease not found")
LEASE_EXISTS: Final = _etcd(Code.FAILED_PRECONDITION, "lease already exists")
LEASE_TTL_TOO_LARGE: Final = _etcd(Code.OUT_OF_RANGE, "too large lease TTL")
TTL_NOT_POSITIVE: Final = _etcd(Code.INVALID_ARGUMENT, "ttl_ms must be at least 1")

# --- membership -------------------------------------------------------------
MEMBER_BAD_URLS: Final = _etcd(Code.INVALID_ARGUMENT, "given member URLs are invalid")
MEMBER_NOT_FOUND: Final = _etcd(Code.NOT_FOUND, "member not found")
MEMBER_EXISTS: Final = _etcd(Code.FAILED_PRECONDITION, "member ID already exist")
PEER_URL_EXISTS: Final = _etcd(Code.FAILED_PRECONDITION, "Peer URLs already exists")
UNHEALTHY_RECONFIG: Final = _etcd(  # etcd forgets to give it its code, FAILED_PRECONDITION
    Code.UNKNOWN, "re-configuration failed due to not enough started members"
)
MEMBER_NOT_LEARNER: Final = _etcd(Code.FAILED_PRECONDITION, "can only promote a learner member")
LEARNER_NOT_READY: Final = _etcd(
    Code.FAILED_PRECONDITION,
    "can only promote a learner member which is in sync with leader",
)
TOO_MANY_LEARNERS: Final = _etcd(Code.FAILED_PRECONDITION, "too many learner members in cluster")
MEMBER_IS_RUNNING: Final = _own(
    Code.FAILED_PRECONDITION, "the member to be replaced answers the leader; stop it first"
)
CLUSTER_ID_MISMATCH: Final = _etcd(Code.FAILED_PRECONDITION, "cluster ID mismatch")
NOT_LEADER: Final = _etcd(Code.FAILED_PRECONDITION, "not leader")
BAD_TRANSFEREE: Final = _etcd(Code.FAILED_PRECONDITION, "bad leader transferee")
NOT_FOR_LEARNER: Final = _etcd(Code.FAILED_PRECONDITION, "rpc not supported for learner")

# --- downgrades -------------------------------------------------------------
DOWNGRADE_BAD_FORMAT: Final = _etcd(Code.INVALID_ARGUMENT, "wrong downgrade target version format")
DOWNGRADE_BAD_TARGET: Final = _etcd(Code.INVALID_ARGUMENT, "invalid downgrade target version")
DOWNGRADE_IN_PROGRESS: Final = _etcd(
    Code.FAILED_PRECONDITION, "cluster has a downgrade job in progress"
)
NO_DOWNGRADE: Final = _etcd(Code.FAILED_PRECONDITION, "no inflight downgrade job")
UNKNOWN_METHOD: Final = _etcd(Code.UNKNOWN, "unknown method")

UNKNOWN_ALARM_ACTION: Final = _own(Code.INVALID_ARGUMENT, "unknown action of an alarm request")

# --- availability -----------------------------------------------------------
NO_LEADER: Final = _etcd(Code.UNAVAILABLE, "no leader")
LEADER_CHANGED: Final = _etcd(Code.UNAVAILABLE, "leader changed")
STOPPED: Final = _etcd(Code.UNAVAILABLE, "server stopped", Outcome.UNKNOWN)
TIMEOUT: Final = _etcd(Code.UNAVAILABLE, "request timed out", Outcome.UNKNOWN)
TIMEOUT_LEADER_FAIL: Final = _etcd(
    Code.UNAVAILABLE,
    "request timed out, possibly due to previous leader failure",
    Outcome.UNKNOWN,
)
TIMEOUT_CONNECTION_LOST: Final = _etcd(
    Code.UNAVAILABLE,
    "request timed out, possibly due to connection lost",
    Outcome.UNKNOWN,
)
TIMEOUT_APPLY: Final = _etcd(
    Code.UNAVAILABLE, "request timed out, waiting for the applied index took too long"
)
UNHEALTHY: Final = _etcd(Code.UNAVAILABLE, "unhealthy cluster")
CORRUPT: Final = _etcd(Code.DATA_LOSS, "corrupt cluster")
CANCELLED: Final = _etcd(Code.CANCELLED, "request canceled", Outcome.UNKNOWN)
DEADLINE_EXCEEDED: Final = ApiError(
    Code.DEADLINE_EXCEEDED, "context deadline exceeded", Outcome.UNKNOWN
)

# --- sessions of raftkv.v1: FAILED_PRECONDITION, which no client library repeats by itself --------
SESSION_NOT_FOUND: Final = _own(
    Code.FAILED_PRECONDITION,
    "session not found; the outcome of a repeated write is unknown",
    Outcome.UNKNOWN,
)
SESSION_PASSED: Final = _own(
    Code.FAILED_PRECONDITION,
    "the sequence is below the session's lowest unanswered one; nothing was done now",
    Outcome.UNKNOWN,
)
# The text gets the revision by `with_text`. The write was applied.
ALREADY_APPLIED: Final = _own(Code.ALREADY_EXISTS, "already applied", Outcome.UNKNOWN)
SEQUENCE_TOO_HIGH: Final = _own(
    Code.RESOURCE_EXHAUSTED,
    "the sequence is too far above the lowest unanswered one; wait for answers first",
)
TOO_MANY_SESSIONS: Final = _own(Code.RESOURCE_EXHAUSTED, "too many sessions")
SESSION_MALFORMED: Final = _own(
    Code.INVALID_ARGUMENT,
    "a write in a session needs raftkv-session, raftkv-sequence and raftkv-unanswered: decimal "
    "numbers, the session's id and 1 <= raftkv-unanswered <= raftkv-sequence",
)
SESSION_MISPLACED: Final = _own(
    Code.INVALID_ARGUMENT, "this call cannot be in a session: leave its metadata out"
)
SESSION_TTL_NOT_POSITIVE: Final = _own(Code.INVALID_ARGUMENT, "ttl must be at least 1")

# --- locks and elections: what etcd's services say is not a status of its own, hence UNKNOWN -----
LOCK_SESSION_EXPIRED: Final = ApiError(Code.UNKNOWN, "mutex: session is expired")
ELECTION_NOT_LEADER: Final = ApiError(Code.UNKNOWN, "election: not leader")
ELECTION_NO_LEADER: Final = ApiError(Code.UNKNOWN, "election: no leader")
LEADER_KEY_MISSING: Final = ApiError(Code.UNKNOWN, '"leader" field must be provided')
