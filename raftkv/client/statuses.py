"""What servers and grpcio say, and which error of `errors.py` it means. Pure.

The texts are etcd's (api/v3rpc/rpctypes/error.go), which clients match on exactly, and raftkv's
own; the outcomes are those of `raftkv.errors`. What is not in the table is judged by its gRPC
code: codes that servers give instead of carrying something out are definite, the others may
come from anything between here and there.
"""

import re
from typing import Final

from raftkv import errors as known
from raftkv.client.errors import (
    AccountError,
    AlreadyApplied,
    AuthenticationFailed,
    AuthError,
    BadRequest,
    Cancelled,
    ClientError,
    ClusterChanged,
    Compacted,
    Corrupt,
    DowngradeError,
    DuplicateKey,
    EmptyKey,
    FutureRevision,
    KeyNotFound,
    Learner,
    LeaseExists,
    LeaseLost,
    LeaseNotFound,
    LeaseTtlTooLarge,
    MemberExists,
    MemberNotFound,
    NoLeader,
    NoRoom,
    NoSpace,
    NotConnected,
    NotHeld,
    NotLeader,
    NotReady,
    OutcomeUnknown,
    PermissionDenied,
    ReadsTooMuch,
    RequestTooLarge,
    ServerError,
    SessionLost,
    TimedOut,
    TokenRefused,
    TooManyRequests,
    Unavailable,
    Unsupported,
)
from raftkv.errors import Code, Outcome


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
        "unknown method",
    ),
    **_texts(ClusterChanged, "cluster ID mismatch"),
    **_texts(AuthenticationFailed, "authentication failed, invalid user ID or password"),
    **_texts(PermissionDenied, "permission denied"),
    "auth: permission denied": PermissionDenied,  # so say etcd's calls of Maintenance
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
    known.MEMBER_IS_RUNNING.text: NotReady,
    known.UNKNOWN_ALARM_ACTION.text: BadRequest,
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

# How grpcio begins its text when it had no connection to send the call on; the last two are older
# and newer words for a name that has no address.
NOT_SENT: Final = (
    "failed to connect to all addresses",
    "DNS resolution failed",
    "errors resolving",
)

# How it begins its text when a stream broke under it, although the code is INTERNAL: reset by the
# other end, or written to after that, in which case grpcio forgets the status that came with it.
_BROKEN: Final = ("Received RST_STREAM", "Internal error from Core")


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
        broken = code == Code.INTERNAL and text.startswith(_BROKEN)
        kind = Unavailable if broken else _BY_CODE.get(code, ServerError)
        unknown = code not in _REFUSALS
        if code == Code.DEADLINE_EXCEEDED:
            text = "no answer in time"
        elif broken or code == Code.UNAVAILABLE:
            text = f"lost the connection before the answer: {text}"
    error = kind(text, code=code, endpoint=endpoint)
    return OutcomeUnknown(error) if write and unknown else error


def reason(text: str) -> str:
    """Why no connection came about, in a few words, from grpcio's text."""
    for sign, words in (
        ("Connection refused", "connection refused"),
        ("DNS resolution failed", "host name not found"),
        ("errors resolving", "host name not found"),
        ("Connection reset", "connection reset"),
        ("Hostname Verification", "its certificate is for another name"),
        ("andshake", "TLS handshake failed"),
        ("SSL", "TLS handshake failed"),
        ("http1.x", "this is no gRPC server"),
        ("HTTP1", "this is no gRPC server"),
        ("imed out", "no answer"),
        ("imeout", "no answer"),
    ):
        if sign in text:
            return words
    return text
