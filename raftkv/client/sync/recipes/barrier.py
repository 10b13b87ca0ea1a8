# Made by scripts/generate_sync.py from raftkv/client/aio: edit that.
"""A barrier: while it is held, whoever waits at it waits.

    with client.barrier("maintenance").hold():
        ...                                        # elsewhere: barrier.wait()

When things go wrong:

* The process that holds it dies: with the lease that `hold` makes by default, the barrier goes at
  most the TTL later and all who wait go on. `hold(ttl=None)` makes one that stays until somebody
  calls `release`, for a maintenance that must not be passed just because a process died.
* Who waits loses the servers: the wait goes on when they are back, and ends only on what a quorum
  says.
* A barrier that is released and held again in between: who waits may or may not have seen the
  moment in which it was open, and goes on waiting then.
* The answer to `hold` or `release` is lost: both are found out by looking, for the key says by its
  lease or value whose it is.

The key is the barrier's name, as in etcd's Go recipes; any value closes it.
"""

import secrets
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from raftkv.client.errors import (
    ClientError,
    LeaseLost,
    NotAcquired,
    NotHeld,
    OutcomeUnknown,
)
from raftkv.client.keys import Key, encoded
from raftkv.client.patience import Patience
from raftkv.client.results import RangeResult
from raftkv.client.sync import runtime
from raftkv.client.sync.recipes.marks import again, repeated
from raftkv.client.sync.recipes.until import until
from raftkv.client.txn import Delete, Get, Put, Txn, key

if TYPE_CHECKING:
    from raftkv.client.sync.client import Client
    from raftkv.client.sync.lease import Lease

LEAVE_SECONDS: Final = 2.0  # for telling the servers that nothing is held


class Closed:
    """A barrier that this process holds. Ends with `release`, or with its `with`."""

    def __init__(
        self, client: "Client", name: bytes, create_revision: int, lease: "Lease | None"
    ) -> None:
        self.key = name
        self.fencing_token = create_revision
        self.lease = lease
        self._client = client
        self._is_released = False

    @property
    def is_held(self) -> bool:
        """Whether it is held, by this process's own clock; asks nobody."""
        return not self._is_released and (self.lease is None or self.lease.alive)

    def guard(self, txn: Txn) -> Txn:
        """`txn`, to succeed only while this very barrier stands."""
        return txn.when(key(self.key).create_revision == self.fencing_token)

    def release(self) -> None:
        """Opens it; the second time nothing happens.

        Errors: ClientError. A barrier without a lease stays closed then: call this again.
        """
        runtime.finish(self._release)

    def _release(self) -> None:
        if self._is_released:
            return
        self._is_released = True
        if self.lease is not None:
            self.lease.revoke()
            return
        try:  # sent again, it takes away this barrier only, not the next one
            repeated(self._client, self.guard(Txn()).then(Delete(self.key)), Patience(None))
        except BaseException:
            self._is_released = False
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        was_lost = not self._is_released and not self.is_held
        self.release()
        if was_lost and error is None:
            raise LeaseLost(f"the lease of barrier {self.key!r} was lost while it was held")


class Barrier:
    """See the module's docstring. Made by `Client.barrier`."""

    def __init__(self, client: "Client", name: Key) -> None:
        self.name: bytes = encoded(name)
        self._client = client

    def hold(self, *, ttl: float | None = 10.0) -> runtime.Acquiring[Closed]:
        """Closes the barrier.

        ttl: seconds that it outlives this process; None = it stays until it is released.
        Errors: NotAcquired when it is closed already, and other ClientErrors.
        """
        return runtime.acquiring(self._hold(ttl))

    def _hold(self, ttl: float | None) -> Closed:
        lease = None if ttl is None else self._client.lease(ttl)
        token = secrets.token_bytes(16) if lease is None else b""
        closing = (
            Txn()
            .when(key(self.name).missing())
            .then(Put(self.name, token, lease=lease))
            .otherwise(Get(self.name))
        )
        try:
            if lease is not None:
                return self._close(closing, lease, token)
            # What is taken back must not come later than its taking back: a cancelled caller
            # waits for the answer.
            return runtime.finish(self._close, closing, None, token)
        except BaseException as error:
            if lease is not None:
                runtime.finish(_let_go, lease)
            elif not isinstance(error, ClientError):  # cancelled: nobody else would ever open it
                runtime.finish(self._take_back, token)
            raise

    def _take_back(self, token: bytes) -> None:
        """Opens what a `hold` without a lease has closed whose caller was cancelled."""
        own = Txn().when(key(self.name).value == token).then(Delete(self.name))
        with suppress(ClientError):
            repeated(self._client, own, Patience(LEAVE_SECONDS))

    def _close(self, closing: Txn, lease: "Lease | None", token: bytes) -> Closed:
        lost: OutcomeUnknown | None = None
        try:
            result = self._client.txn(closing)
        except OutcomeUnknown as error:
            lost = error
            # With a lease it can be sent again: whatever of it comes late ends with the lease.
            second = closing if lease is not None else _look(self.name)
            result = again(self._client, second, Patience(None), error)
        if result.succeeded:
            return Closed(self._client, self.name, result.revision, lease)
        found = result.results[0]
        assert isinstance(found, RangeResult)
        for there in found.kvs:
            if there.lease == lease.id if lease is not None else there.value == token:
                return Closed(self._client, self.name, there.create_revision, lease)
        if lost is not None and lease is None:
            raise lost  # it may still come
        raise NotAcquired(f"the barrier {self.name!r} is closed already")

    def release(self) -> None:
        """Opens it, whoever closed it. Errors: NotHeld when it is open; other ClientErrors."""
        deleted = self._client.delete(self.name)
        if not deleted.deleted:
            raise NotHeld(f"the barrier {self.name!r} is open")

    def wait(self, timeout: float | None = None) -> int:
        """Waits until the barrier is open; returns the revision at which it was seen open.

        timeout: seconds, None = for ever. Errors: NotAcquired (a TimeoutError).
        """
        return until(
            self._client,
            Get(self.name),
            lambda found: found.revision if not found.kvs else None,
            patience=Patience(timeout),
            what=f"the opening of barrier {self.name!r}",
        )


def _let_go(lease: "Lease") -> None:
    """Ends what a `hold` that failed may have left. At worst it ends with the lease's time."""
    with suppress(ClientError):
        lease.revoke(timeout=LEAVE_SECONDS)


def _look(name: bytes) -> Txn:
    """A transaction whose condition never holds, to read a key as the other one does."""
    return Txn().when(key(name).version < 0).otherwise(Get(name))
