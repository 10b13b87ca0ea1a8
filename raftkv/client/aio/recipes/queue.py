"""A queue: any number put, any number take, first come, first served.

    await client.queue("jobs").put("build 17")
    async with client.queue("jobs").claim() as job:     # elsewhere
        ...                                             # done at its end, put back by an error

When things go wrong:

* `take` gives an item at most once: it is gone when `take` returns, so a process that dies before
  its work is done loses it. Where nothing may be lost use `claim`.
* `claim` gives an item at least once: it stays in the queue, unseen by others, until `done`. When
  the claimant dies or is cut off, its lease runs out and the item is free again, at most the TTL
  later. A claimant that is paused beyond its lease may then work on it beside the next one:
  `guard` refuses its late writes, and `done` tells it.
* The answer to `put` is lost: if the item is there, all is well; if it is not, it may still come
  (or has come and gone), which is OutcomeUnknown.
* The answer to `take` is lost: it is sent again, which tells in most cases. If the item is gone
  by then, nobody can say whether this take or another one got it; if it was claimed meanwhile, the
  first attempt may still come when the claim is over: OutcomeUnknown.
* The answer to `claim` or `done` is lost: both are found out by looking.

`raftkv.client.items` has the layout, which is that of etcd's Go recipes.
"""

import math
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from raftkv.client import items
from raftkv.client.aio import runtime
from raftkv.client.aio.recipes.marks import again
from raftkv.client.aio.recipes.until import changed
from raftkv.client.errors import (
    ClientError,
    LeaseLost,
    LeaseNotFound,
    NotHeld,
    OutcomeUnknown,
    TimedOut,
    Unavailable,
)
from raftkv.client.keys import Key, encoded
from raftkv.client.patience import Patience
from raftkv.client.results import KeyValue, RangeResult
from raftkv.client.txn import GetPrefix, Txn, key

if TYPE_CHECKING:
    from raftkv.client.aio.client import Client
    from raftkv.client.aio.lease import Lease

LEAVE_SECONDS: Final = 2.0  # for telling the servers that a claim is given up
CLAIMED_SECONDS: Final = 0.5  # between two looks at claims that keep all items
RETRY_SECONDS: Final = 0.1  # after a read that no server could serve


class Claim:
    """An item that this process works on. Ends with `done` or `release`."""

    def __init__(
        self, client: "Client", shelf: items.Shelf, item: KeyValue, lease: "Lease", revision: int
    ) -> None:
        self.key: bytes = item.key
        self.value: bytes = item.value
        self.lease = lease
        self.fencing_token = revision
        self._client = client
        self._shelf = shelf
        self._is_over = False
        self._may_be_done = False  # the answer to an earlier `done` was lost

    @property
    def text(self) -> str:
        """The item as UTF-8 text. Errors: UnicodeDecodeError."""
        return self.value.decode()

    @property
    def is_held(self) -> bool:
        """Whether the item is still this process's, by its own clock; asks nobody."""
        return not self._is_over and self.lease.alive

    @property
    def lost(self) -> runtime.Event:
        """Set when the claim is lost, at the latest when its time is up by the own clock."""
        return self.lease.lost

    def on_loss(self, callback: Callable[[], None]) -> None:
        """Calls `callback` once, in another thread, if the claim is lost."""
        self.lease.on_loss(callback)

    def guard(self, txn: Txn) -> Txn:
        """`txn`, to succeed only while this claim stands."""
        return txn.when(key(self._shelf.claim(self.key)).create_revision == self.fencing_token)

    async def done(self) -> None:
        """Takes the item out of the queue for good.

        Errors: LeaseLost when the claim was lost before: somebody else may work on the item, or
        has; NotHeld after `release`; other ClientErrors, and then `done` may be called again, as
        it may when its caller was cancelled. Until then, or `release`, the claim is kept; the end
        of an `async with` never leaves it so.
        """
        await self._done(Patience(None))

    async def _done(self, patience: Patience) -> None:
        if self._is_over:
            raise NotHeld(f"the claim on {self.key!r} is over")
        finishing = self._shelf.finishing(self.key, self.fencing_token)
        try:
            result = await self._client.txn(finishing, timeout=patience.call_timeout())
        except OutcomeUnknown as error:
            # Sent again, it can find nothing but its own traces: the claim is nobody else's.
            self._may_be_done = True
            result = await again(self._client, finishing, patience, error)
        except ClientError:
            raise
        except BaseException:  # cancelled, while it may be carried out
            self._may_be_done = True
            raise
        if not result.succeeded:
            left = result.results[0]
            assert isinstance(left, RangeResult)
            if left.kvs or not self._may_be_done:
                await self.release()  # the lease may live: others can delete a claim, too
                raise LeaseLost(f"the claim on {self.key!r} was lost before the work was done")
        self._is_over = True
        await self._let_go()

    async def release(self) -> None:
        """Gives the item back; the second time nothing happens."""
        if not self._is_over:
            self._is_over = True
            await self._let_go()

    async def _let_go(self) -> None:
        await runtime.finish(let_go, self.lease)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            await self.release()
        elif not self._is_over:
            await runtime.finish(self._end)

    async def _end(self) -> None:
        """`done`; if that fails, the item is given back: nobody is left who would try again."""
        try:
            await self._done(Patience(self._client.timeout))
        except BaseException:
            await self.release()
            raise


class Queue:
    """See the module's docstring. Made by `Client.queue`.

    In its methods timeout: seconds, None = for ever where they wait for an item, else the
    client's default.
    """

    def __init__(self, client: "Client", name: Key) -> None:
        self.name: bytes = encoded(name)
        self._client = client
        self._shelf = self._make_shelf()

    def _make_shelf(self) -> items.Shelf:
        return items.Shelf(self.name)

    async def put(self, value: Key, timeout: float | None = None) -> bytes:
        """Appends an item with this value; returns its key.

        Errors: OutcomeUnknown, other ClientErrors.
        """
        fresh = self._shelf.fresh()
        try:
            await self._client.put(fresh, value, timeout=timeout)
        except OutcomeUnknown as error:
            if not await self._is_there(fresh, error, timeout):
                raise
        return fresh

    async def _is_there(self, item: bytes, error: OutcomeUnknown, timeout: float | None) -> bool:
        """Whether an item is in the queue. Errors: `error`, when nobody can be asked."""
        try:
            return (await self._client.get(item, timeout=timeout)).exists
        except ClientError as failure:
            raise error from failure

    async def take(self, timeout: float | None = None) -> bytes:
        """Waits for the next item and takes it away. Errors: NotAcquired (a TimeoutError)."""
        patience = Patience(timeout)
        while True:
            item = await self._next(patience)
            if await self._taken(self._shelf.taking(item), patience):
                return item.value

    async def _taken(self, taking: Txn, patience: Patience) -> bool:
        """Whether this one has the item now. Errors: OutcomeUnknown, other ClientErrors."""
        try:
            return (await self._client.txn(taking, timeout=patience.call_timeout())).succeeded
        except OutcomeUnknown as error:
            if (await again(self._client, taking, patience, error)).succeeded:
                return True
            raise error from None

    def claim(self, timeout: float | None = None, *, ttl: float = 10.0) -> runtime.Acquiring[Claim]:
        """Waits for the next item and claims it.

        timeout: seconds, None = for ever. ttl: seconds after which the item is free again if this
        process is gone. Errors: NotAcquired (a TimeoutError), other ClientErrors.
        """
        return runtime.acquiring(self._claim(timeout, ttl))

    async def _claim(self, timeout: float | None, ttl: float) -> Claim:
        patience = Patience(timeout)
        await self._next(patience)  # no lease is made before there is something to claim
        lease = await self._client.lease(ttl, timeout=patience.call_timeout())
        try:
            while True:
                item = await self._next(patience)
                claimed = await self._claimed(item, lease, patience)
                if claimed:
                    return Claim(self._client, self._shelf, item, lease, claimed)
        except BaseException:
            await runtime.finish(let_go, lease)
            raise

    async def _claimed(self, item: KeyValue, lease: "Lease", patience: Patience) -> int:
        """The revision of the claim; 0: somebody else was faster."""
        claiming = self._shelf.claiming(item, lease.id)
        try:
            result = await self._client.txn(claiming, timeout=patience.call_timeout())
        except OutcomeUnknown:
            result = await self._client.txn(claiming, timeout=patience.call_timeout())
        if result.succeeded:
            return result.revision
        there = result.results[0]
        assert isinstance(there, RangeResult)
        return next((kv.create_revision for kv in there.kvs if kv.lease == lease.id), 0)

    async def _next(self, patience: Patience) -> KeyValue:
        """Waits for an item without a claim."""
        count = items.SEARCHED
        while True:
            try:
                result = await self._client.txn(
                    self._shelf.look(count), timeout=patience.call_timeout()
                )
            except (Unavailable, TimedOut) as error:
                if patience.is_over:
                    raise patience.over(self._what()) from error
                await runtime.sleep(min(RETRY_SECONDS, patience.left))
                continue
            found, claims = result.results
            assert isinstance(found, RangeResult)
            assert isinstance(claims, RangeResult)
            free = self._shelf.free(found.kvs, claims)
            if free is not None:
                return free
            if found.more:
                count *= 4  # all of these are claimed
                continue
            await self._changed(found, claims, patience)

    async def _changed(self, found: RangeResult, claims: RangeResult, patience: Patience) -> None:
        """Waits for an item; for a moment only while claims are there, for they may end."""
        await changed(
            self._client,
            GetPrefix(self._shelf.items),
            found.revision + 1,
            patience,
            what=self._what(),
            moment=CLAIMED_SECONDS if claims.kvs else math.inf,
        )

    def _what(self) -> str:
        return f"an item of the queue {self.name!r}"

    async def size(self, timeout: float | None = None) -> int:
        """How many items there are, claimed ones among them."""
        return await self._client.count(self._shelf.items, timeout=timeout)


async def let_go(lease: "Lease") -> None:
    """Ends a lease, at the latest when its time is up."""
    try:
        await lease.revoke(timeout=LEAVE_SECONDS)
    except LeaseNotFound:
        pass
    except ClientError:
        lease.detach()
