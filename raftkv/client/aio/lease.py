"""A lease that the library keeps: as long as `alive` is true, its keys are surely there.

Failure story. The thread of `raftkv.client.keeper` renews it at a third of its TTL, over whatever
endpoint answers, so an outage that is shorter than the TTL less a margin costs nothing. When it
cannot be renewed any longer, or a server says that it is gone, it is lost: `alive` turns false,
`lost` is set, the functions given to `on_loss` are called, and all of that before any server can
have given its keys' place to somebody else, by this process's own clock
(`raftkv.client.lifetime`). A lease that is lost never comes back: get a new one.

`alive` needs no thread and no network. It is right in a process whose event loop is blocked, whose
network is dead, or that was stopped for a while. What it cannot tell is that the process will be
stopped between asking and acting: guard writes by a fencing token (the create_revision of a key
that hangs on the lease).
"""

import math
import random
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from raftkv.client.aio.connection import Connection
from raftkv.client.aio.runtime import Acquiring, Event, acquiring, finish
from raftkv.client.errors import (
    BadRequest,
    ClientError,
    LeaseLost,
    LeaseNotFound,
    OutcomeUnknown,
    TimedOut,
)
from raftkv.client.kept import Kept
from raftkv.client.lifetime import now
from raftkv.client.logger import log
from raftkv.errors import Code
from raftkv.pb import rpc_pb2

GRANT: Final = "/etcdserverpb.Lease/LeaseGrant"
REVOKE: Final = "/etcdserverpb.Lease/LeaseRevoke"
TIME_TO_LIVE: Final = "/etcdserverpb.Lease/LeaseTimeToLive"
LOOK_SECONDS: Final = 0.5  # the least for finding out what became of a grant, beyond its timeout


class Lease:
    """See the module's docstring. Made by `Client.lease`; any thread may look at it.

    id: the server's. lost: set when the lease is over, also by `revoke` or the client's `close`.
    """

    def __init__(self, connection: Connection, kept: Kept, ids_are_unique: bool) -> None:
        self.id: int = kept.id
        self.lost: Event = Event()
        self._connection = connection
        self._kept = kept
        self._may_repeat = ids_are_unique
        self._detached = False
        kept.when_over(self.lost.set)

    @property
    def ttl(self) -> float:
        """Seconds that it lives without being renewed, as the server granted them."""
        return self._kept.lifetime.ttl

    @property
    def deadline(self) -> float:
        """Until when it surely lives, by `raftkv.client.lifetime.now`, in seconds."""
        return self._kept.lifetime.deadline

    @property
    def alive(self) -> bool:
        """Whether it surely lives. Always false in a forked child: the lease is the parent's."""
        return self._kept.alive

    @property
    def remaining(self) -> float:
        """Seconds that it surely lives if it is not renewed; 0 when it is over."""
        return self._kept.lifetime.remaining if self._kept.alive else 0.0

    @property
    def reason(self) -> str:
        """Why it is over; empty as long as nobody was told so."""
        return self._kept.reason

    def on_loss(self, callback: Callable[[], object]) -> None:
        """Calls `callback`, once, when the lease is lost; at once if it is.

        Not when it was revoked by this object. It is called in a thread of its own,
        also by an asynchronous client, whose event loop may be what hangs: to get into the loop
        use its `call_soon_threadsafe`, or wait for `lost` there.
        """
        self._kept.when_lost(callback)

    def check(self) -> None:
        """Errors: LeaseLost, unless `alive`."""
        if not self.alive:
            raise self._loss()

    def detach(self) -> None:
        """Renews it no more: it runs out by itself. `alive` stays right; the context manager's
        end does not revoke it.
        """
        self._detached = True
        self._connection.keeper.detach(self._kept)

    async def refresh(self, timeout: float | None = None) -> float:
        """Renews it now, whether it is kept or not; returns `remaining`.

        timeout: seconds, None = the client's. Errors: LeaseLost, TimedOut.
        """
        self._connection.check()
        answered = Event()
        outcome: list[bool] = []

        def note(renewed: bool) -> None:
            outcome.append(renewed)
            answered.set()

        self._connection.keeper.renew_now(self._kept, note)
        seconds = self._connection.settings.timeout if timeout is None else timeout
        if not await answered.wait(seconds):
            raise TimedOut(f"no answer to a renewal in {seconds:g} s", code=Code.DEADLINE_EXCEEDED)
        if not outcome[0]:
            raise self._loss()
        return self.remaining

    async def revoke(self, timeout: float | None = None) -> None:
        """Ends it now; its keys go in the same step (etcd Lease.LeaseRevoke).

        From the beginning of this call on it is not `alive`. That it is gone already is no error.
        timeout: seconds, None = the client's. Errors: OutcomeUnknown, Unavailable, ...: it is not
        renewed any more, so it runs out within its TTL.
        """
        self._connection.keeper.release(self._kept)
        with suppress(LeaseNotFound):
            await self._connection.call(
                REVOKE,
                rpc_pb2.LeaseRevokeRequest(ID=self.id),
                rpc_pb2.LeaseRevokeResponse,
                # No other lease ever gets an id that this library drew, so revoking it twice
                # is the same as once. One that the user chose may have been granted anew.
                write=not self._may_repeat,
                timeout=timeout,
            )

    def _loss(self) -> LeaseLost:
        return LeaseLost(self._kept.reason or "the lease ran out by this client's clock")

    async def _leave(self) -> None:
        try:
            await self.revoke()
        except ClientError as error:
            log.warning(
                "lease %x could not be revoked and runs out within %g s: %s",
                self.id & 0xFFFF_FFFF_FFFF_FFFF,
                self.ttl,
                error,
            )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._detached:
            await finish(self._leave)


class LeaseKeeping:
    """Leases that the library keeps. Part of `Client`."""

    _connection: Connection

    def lease(
        self, ttl: float, *, id: int = 0, keep_alive: bool = True, timeout: float | None = None
    ) -> Acquiring[Lease]:
        """Grants a lease and keeps it (etcd Lease.LeaseGrant, Lease.LeaseKeepAlive).

            async with client.lease(10) as lease: ...    # revoked at the end
            lease = await client.lease(10)

        ttl: seconds, rounded up to whole ones; the server may grant more. id: a chosen one,
        0 = a new one is drawn. keep_alive: False lets it run out unless `refresh` is called.
        timeout: seconds, None = the client's.
        Errors: LeaseExists, LeaseTtlTooLarge, BadRequest, OutcomeUnknown, Unavailable, ...
        """
        return acquiring(self._grant(ttl, id, keep_alive, timeout))

    async def _grant(
        self, ttl: float, chosen: int, keep_alive: bool, timeout: float | None
    ) -> Lease:
        if not 0 < ttl < math.inf:
            raise BadRequest(f"a TTL of {ttl} seconds", code=Code.INVALID_ARGUMENT)
        lease_id = chosen or random.SystemRandom().randrange(1, 2**63)
        request = rpc_pb2.LeaseGrantRequest(TTL=math.ceil(ttl), ID=lease_id)
        sent = now()
        try:
            answer = await self._connection.call(
                GRANT, request, rpc_pb2.LeaseGrantResponse, write=True, timeout=timeout
            )
            granted = answer.TTL
        except OutcomeUnknown as error:
            if chosen:
                raise  # a lease of this id may be anybody's
            seconds = self._connection.settings.timeout if timeout is None else timeout
            left = max(sent + seconds - now(), LOOK_SECONDS)
            granted = await self._granted(lease_id, error, left)
        kept = self._connection.keeper.keep(lease_id, granted, sent, renewing=keep_alive)
        return Lease(self._connection, kept, ids_are_unique=not chosen)

    async def _granted(self, lease_id: int, unknown: OutcomeUnknown, timeout: float) -> int:
        """Whether a lease was granted, although its answer was lost: it can be looked up, for its
        id is this client's alone. Errors: the unknown outcome, if it is not there (yet).
        """
        try:
            found = await self._connection.call(
                TIME_TO_LIVE,
                rpc_pb2.LeaseTimeToLiveRequest(ID=lease_id),
                rpc_pb2.LeaseTimeToLiveResponse,
                write=False,
                timeout=timeout,
            )
        except ClientError:
            raise unknown from None
        if found.TTL < 0:
            raise unknown
        return found.grantedTTL
