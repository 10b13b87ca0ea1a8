"""What the client library raises: one tree.

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

`statuses.py` has the table that leads from what servers say to these classes.
"""

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
