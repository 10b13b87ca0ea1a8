"""What the client library raises: one tree, and the table that says what means what.

    RaftkvError
    +-- ClientError                code, text, outcome, endpoint
        +-- OutcomeUnknown             a write that may have been carried out, or may still be
        +-- BadRequest                 the request's form is wrong
        |   +-- EmptyKey
        |   +-- RequestTooLarge            too many bytes or operations
        |   +-- DuplicateKey               a transaction puts one key twice
        |   +-- KeyNotFound                a put that keeps a value or lease that is not there
        +-- Compacted                  the revision's history is gone (compact_revision)
        +-- FutureRevision             the revision has not come yet
        +-- LeaseError
        |   +-- LeaseNotFound
        |   +-- LeaseExists
        |   +-- LeaseTtlTooLarge
        |   +-- LeaseLost                  known by this client's own clock or by a TTL of 0
        +-- ClusterError               what concerns members
        |   +-- MemberNotFound
        |   +-- MemberExists
        |   +-- NotReady                   this change of members is unsafe now
        |   +-- NotLeader                  the call is for the leader itself
        |   +-- DowngradeError
        +-- ClusterChanged             the answer is from another cluster, or an older past of it
        +-- AuthError
        |   +-- AuthenticationFailed       wrong name or password
        |   +-- PermissionDenied
        |   +-- TokenRefused               stale even after a new login
        |   +-- AccountError               users, roles, and whether they are in force
        +-- NoRoom
        |   +-- NoSpace                    the store has reached its quota
        |   +-- TooManyRequests
        |   +-- ReadsTooMuch               a transaction that reads or answers too much
        +-- Unavailable                a server that cannot serve now; another one may
        |   +-- NotConnected               no endpoint could be reached
        |   +-- NoLeader
        |   +-- Learner                    the endpoint is a learner
        +-- TimedOut (TimeoutError)    no answer within the time given
        +-- Cancelled                  the call or the watch was cancelled at the server
        +-- Corrupt                    members disagree about what they store
        +-- Unsupported                the server does not know this call
        |   +-- ExactlyOnceUnsupported
        +-- RecipeError                what locks, elections and the other recipes report
        |   +-- NotHeld                    given up, lost, or never had
        |   +-- NotAcquired (TimeoutError) not in the time that was given
        +-- BadSettings (ValueError)   the client was set up wrongly
        +-- Misused                    the client cannot be used so; nothing was sent
        |   +-- ClientClosed               after `close()`
        |   +-- ForkedClient               in a forked child
        |   +-- WrongLoop                  in another event loop than the first call's
        +-- SessionLost                an exactly-once session is over at the server
        +-- AlreadyApplied             carried out once, but its answer was too large to keep
        +-- ServerError                an answer that is none of these

`outcome` tells what may be concluded about a write: DEFINITE = it was not carried out and never
will be, UNKNOWN = it may have been or may still be. Repeat only what ended DEFINITE. A read has
nothing to be unknown about: its errors are all DEFINITE.

Sources: the texts are etcd's (api/v3rpc/rpctypes/error.go), clients match on them exactly; the
outcomes are raftkv.errors'.
"""

import re
from typing import Final

from raftkv import errors as known
from raftkv.errors import Code, Outcome, RaftkvError


class ClientError(RaftkvError):
    """Root of what the client library raises.

    code: gRPC status code (raftkv.errors.Code). text: what the server said, or this library.
    outcome: see the module's docstring. endpoint: who said it; empty if none did.
    """

    def __init__(
        self,
        text: str,
        *,
        code: int = Code.UNKNOWN,
        outcome: Outcome = Outcome.DEFINITE,
        endpoint: str = "",
    ) -> None:
        super().__init__(text)
        self.text = text
        self.code = code
        self.outcome = outcome
        self.endpoint = endpoint

    def __str__(self) -> str:
        return f"{self.text} ({self.endpoint})" if self.endpoint else self.text


class OutcomeUnknown(ClientError):
    """A write that may have been carried out, or may still be: look before you repeat it.

    reason: the error that ended the call, as a read would have met it.
    """

    def __init__(self, reason: ClientError) -> None:
        super().__init__(
            f"{reason.text}: the write may or may not have been carried out; "
            "check before you repeat it",
            code=reason.code,
            outcome=Outcome.UNKNOWN,
            endpoint=reason.endpoint,
        )
        self.reason = reason


class BadRequest(ClientError):
    """The request's form is wrong."""


class EmptyKey(BadRequest):
    """A key is empty."""


class RequestTooLarge(BadRequest):
    """The request has too many bytes, or the transaction too many operations."""


class DuplicateKey(BadRequest):
    """A transaction writes one key twice."""


class KeyNotFound(BadRequest):
    """A put with ignore_value or ignore_lease of a key that does not exist."""


class Compacted(ClientError):
    """The history that was asked for is gone.

    compact_revision: the oldest revision that can be read; 0 = the server did not say.
    """

    compact_revision: int = 0


class FutureRevision(ClientError):
    """The revision that was asked for has not come yet."""


class LeaseError(ClientError):
    """Root of what concerns leases."""


class LeaseNotFound(LeaseError):
    """There is no such lease: it ran out or was revoked, or never was."""


class LeaseExists(LeaseError):
    """The lease id is taken."""


class LeaseTtlTooLarge(LeaseError):
    """More than 9,000,000,000 seconds."""


class LeaseLost(LeaseError):
    """A lease that this client kept is over, or may be by its own clock."""


class ClusterError(ClientError):
    """Root of what concerns the cluster's members."""


class MemberNotFound(ClusterError):
    """No member has this id."""


class MemberExists(ClusterError):
    """The member's id or a peer URL is taken."""


class NotReady(ClusterError):
    """The change of members is unsafe or too much right now."""


class NotLeader(ClusterError):
    """The call is one for the leader itself, and the endpoint is not."""


class DowngradeError(ClusterError):
    """What concerns the way back to an earlier version."""


class ClusterChanged(ClientError):
    """The answer comes from another cluster, or from an earlier past of this one.

    What the client knew (revisions, leases, caches) is void. The error comes once per change;
    later calls go by what the endpoints are now.
    """


class AuthError(ClientError):
    """Root of what concerns users, roles and permissions."""


class AuthenticationFailed(AuthError):
    """The name or the password is wrong."""


class PermissionDenied(AuthError):
    """The user may not do this."""


class TokenRefused(AuthError):
    """The login was refused again, right after a new one."""


class AccountError(AuthError):
    """Users and roles: names that are missing or taken; authentication not in force."""


class NoRoom(ClientError):
    """Root of what a server has no room for. The request was not carried out."""


class NoSpace(NoRoom):
    """The store has reached its quota and takes no more writes that grow it."""


class TooManyRequests(NoRoom):
    """The server has more work than it takes on."""


class ReadsTooMuch(NoRoom):
    """A transaction that would read or answer too much."""


class Unavailable(ClientError):
    """A server that cannot serve now; another one, or the same one later, may."""


class NotConnected(Unavailable):
    """No connection came about; nothing was sent."""


class NoLeader(Unavailable):
    """The server knows no leader: it is cut off, or an election is under way."""


class Learner(Unavailable):
    """The server is a learner, which serves only stale reads."""


class TimedOut(ClientError, TimeoutError):
    """No answer within the time that was given. Nothing was written."""


class Cancelled(ClientError):
    """The call or the watch was cancelled at the server."""


class Corrupt(ClientError):
    """The members disagree about what they store."""


class Unsupported(ClientError):
    """The server does not know this call or option."""


class ExactlyOnceUnsupported(Unsupported):
    """The server keeps no sessions, so a repeated write cannot be made safe."""


class RecipeError(ClientError):
    """Root of what locks, elections and the other recipes report."""


class NotHeld(RecipeError):
    """What should be held was given up or lost, or never was acquired."""


class NotAcquired(RecipeError, TimeoutError):
    """What was asked for was not to be had in the time that was given."""


class BadSettings(ClientError, ValueError):
    """The client was set up wrongly; says how."""


class Misused(ClientError):
    """Root of ways in which a client cannot be used. Nothing was sent."""


class ClientClosed(Misused):
    """The client was used after `close()`, or closed while it was used."""


class ForkedClient(Misused):
    """The client was used in a forked child: make a new one there."""


class WrongLoop(Misused):
    """The client was used in another event loop than the one of its first call."""


class SessionLost(ClientError):
    """A session of exactly-once writes is over at the server, or has gone on without this write."""


class AlreadyApplied(ClientError):
    """A repeated write was carried out once; its answer was too large for the server to keep.

    revision: of the write.
    """

    revision: int = 0


class ServerError(ClientError):
    """An answer that the library has no name for."""


# --- what the texts mean ----------------------------------------------------------------
def _texts(kind: type[ClientError], *texts: str) -> dict[str, type[ClientError]]:
    return {"etcdserver: " + text: kind for text in texts}


BY_TEXT: dict[str, type[ClientError]] = {
    **_texts(EmptyKey, "key is not provided"),
    **_texts(KeyNotFound, "key not found"),
    **_texts(
        BadRequest,
        "value is provided",
        "lease is provided",
        "invalid client api version",
        "invalid sort option",
        "given member URLs are invalid",
    ),
    **_texts(RequestTooLarge, "too many operations in txn request", "request is too large"),
    **_texts(DuplicateKey, "duplicate key given in txn request"),
    **_texts(Compacted, "mvcc: required revision has been compacted"),
    **_texts(FutureRevision, "mvcc: required revision is a future revision"),
    **_texts(LeaseTtlTooLarge, "too large lease TTL"),
    **_texts(LeaseNotFound, "requested lease not found"),
    **_texts(LeaseExists, "lease already exists"),
    **_texts(NoSpace, "mvcc: database space exceeded"),
    **_texts(TooManyRequests, "too many requests"),
    **_texts(MemberNotFound, "member not found"),
    **_texts(MemberExists, "member ID already exist", "Peer URLs already exists"),
    **_texts(
        NotReady,
        "re-configuration failed due to not enough started members",
        "can only promote a learner member",
        "can only promote a learner member which is in sync with leader",
        "too many learner members in cluster",
        "bad leader transferee",
        "unhealthy cluster",
    ),
    **_texts(NotLeader, "not leader"),
    **_texts(
        DowngradeError,
        "wrong downgrade target version format",
        "invalid downgrade target version",
        "cluster version not found during downgrade",
        "cluster has a downgrade job in progress",
        "no inflight downgrade job",
    ),
    **_texts(ClusterChanged, "cluster ID mismatch"),
    **_texts(AuthenticationFailed, "authentication failed, invalid user ID or password"),
    **_texts(PermissionDenied, "permission denied"),
    **_texts(TokenRefused, "invalid auth token", "revision of auth store is old"),
    **_texts(
        AccountError,
        "user name is empty",
        "role name is empty",
        "permission not given",
        "invalid auth management",
        "root user does not exist",
        "root user does not have root role",
        "user name already exists",
        "user name not found",
        "role name already exists",
        "role name not found",
        "role is not granted to the user",
        "permission is not granted to the role",
        "authentication is not enabled",
    ),
    **_texts(NoLeader, "no leader"),
    **_texts(Learner, "rpc not supported for learner"),
    **_texts(
        Unavailable,
        "leader changed",
        "server stopped",
        "request timed out",
        "request timed out, possibly due to previous leader failure",
        "request timed out, possibly due to connection lost",
        "request timed out, waiting for the applied index took too long",
    ),
    **_texts(Cancelled, "request canceled", "watch canceled"),
    **_texts(Corrupt, "corrupt cluster"),
    **_texts(Unsupported, "not capable"),
    **_texts(TimedOut, "context deadline exceeded"),
    "context deadline exceeded": TimedOut,
    "mutex: session is expired": LeaseLost,
    "election: not leader": NotHeld,
    "election: no leader": NotHeld,
    '"leader" field must be provided': BadRequest,
}

# What only raftkv says.
BY_TEXT |= {
    known.SESSION_NOT_FOUND.text: SessionLost,
    known.SESSION_PASSED.text: SessionLost,
    known.ALREADY_APPLIED.text: AlreadyApplied,
    known.SEQUENCE_TOO_HIGH.text: TooManyRequests,
    known.TOO_MANY_SESSIONS.text: TooManyRequests,
    known.SESSION_MALFORMED.text: BadRequest,
    known.SESSION_MISPLACED.text: BadRequest,
    known.SESSION_TTL_NOT_POSITIVE.text: BadRequest,
    known.TTL_NOT_POSITIVE.text: BadRequest,
    known.TXN_READS_TOO_MUCH.text: ReadsTooMuch,
    known.TXN_ANSWER_TOO_LARGE.text: ReadsTooMuch,
    known.RANGE_STREAM_UNSUPPORTED.text: Unsupported,
}
_APPLIED: Final = re.compile(r"raftkv: already applied(?: at revision (\d+))?")

# Texts after which a write may have been carried out although the server answered.
UNKNOWN_TEXTS: Final = frozenset(
    error.text
    for error in vars(known).values()
    if isinstance(error, known.ApiError) and error.outcome is Outcome.UNKNOWN
) | {"etcdserver: context deadline exceeded"}

# What is meant when the text is not in the table.
_BY_CODE: Final[dict[int, type[ClientError]]] = {
    Code.CANCELLED: Cancelled,
    Code.INVALID_ARGUMENT: BadRequest,
    Code.DEADLINE_EXCEEDED: TimedOut,
    Code.PERMISSION_DENIED: PermissionDenied,
    Code.RESOURCE_EXHAUSTED: NoRoom,
    Code.UNIMPLEMENTED: Unsupported,
    Code.UNAVAILABLE: Unavailable,
    Code.DATA_LOSS: Corrupt,
    Code.UNAUTHENTICATED: AuthError,
}

# Codes that servers give instead of carrying something out. The others, with a text that is not
# in the table, may come from anything between here and there.
_REFUSALS: Final = frozenset(
    (
        Code.INVALID_ARGUMENT,
        Code.NOT_FOUND,
        Code.ALREADY_EXISTS,
        Code.PERMISSION_DENIED,
        Code.FAILED_PRECONDITION,
        Code.OUT_OF_RANGE,
        Code.UNIMPLEMENTED,
        Code.UNAUTHENTICATED,
    )
)

# How grpcio begins its text when it had no connection to send the call on.
NOT_SENT: Final = ("failed to connect to all addresses", "DNS resolution failed")


def mapped(code: int, text: str, *, write: bool, endpoint: str = "") -> ClientError:
    """The error for a status that a call ended with.

    code: gRPC status code. text: its message, exactly. write: whether the call could change
    anything; then an outcome that is unknown is an OutcomeUnknown.
    """
    if code == Code.UNAVAILABLE and text.startswith(NOT_SENT):
        return NotConnected(reason(text), code=code, endpoint=endpoint)
    if applied := _APPLIED.match(text):
        done = AlreadyApplied(text, code=code, outcome=Outcome.UNKNOWN, endpoint=endpoint)
        done.revision = int(applied[1] or 0)
        return done
    kind = BY_TEXT.get(text)
    if kind is not None:
        unknown = text in UNKNOWN_TEXTS
    else:
        kind = _BY_CODE.get(code, ServerError)
        unknown = code not in _REFUSALS
        if code == Code.DEADLINE_EXCEEDED:
            text = "no answer in time"
        elif code == Code.UNAVAILABLE:
            text = f"lost the connection before the answer: {text}"
    error = kind(text, code=code, endpoint=endpoint)
    return OutcomeUnknown(error) if write and unknown else error


def reason(text: str) -> str:
    """Why no connection came about, in a few words, from grpcio's text."""
    for known, words in (
        ("Connection refused", "connection refused"),
        ("DNS resolution failed", "host name not found"),
        ("Connection reset", "connection reset"),
        ("andshake", "TLS handshake failed"),
        ("SSL", "TLS handshake failed"),
        ("http1.x", "this is no gRPC server"),
        ("HTTP1", "this is no gRPC server"),
        ("imed out", "no answer"),
        ("imeout", "no answer"),
    ):
        if known in text:
            return words
    return text
