"""A double barrier: `count` processes begin together and end together.

    async with client.double_barrier("step-3", 5):
        ...                                        # nobody is here before all five are

When things go wrong:

* A process dies before all are there: its place goes with its lease, at most the TTL later, and the
  others go on waiting until another one comes.
* A process dies inside: nobody waits for it longer than its lease lives.
* More than `count` come: those who are too many get TooMany and leave no trace.
* The lease of one who waits is lost: LeaseLost; of one inside: `is_inside` is false, and the others
  may leave without it.
* Who completes the round dies before it says so: the others see that all are there and say it.

The keys are those of etcd's Go recipes (`raftkv.client.rendezvous`), so both stand at one barrier.
"""

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from raftkv.client.aio import runtime
from raftkv.client.aio.recipes.marks import repeated
from raftkv.client.aio.recipes.until import until
from raftkv.client.errors import BadRequest, ClientError, Misused, NotHeld
from raftkv.client.keys import Key, encoded
from raftkv.client.patience import Patience
from raftkv.client.rendezvous import Rendezvous, Step, TooMany
from raftkv.client.results import KeyValue, RangeResult
from raftkv.client.txn import GetPrefix

if TYPE_CHECKING:
    from raftkv.client.aio.client import Client
    from raftkv.client.aio.lease import Lease

__all__ = ["DoubleBarrier", "TooMany"]

Judge = Callable[[tuple[KeyValue, ...]], Step | None]

LEAVE_SECONDS: Final = 2.0  # for telling the servers that a place is given up


class DoubleBarrier:
    """See the module's docstring. Made by `Client.double_barrier`.

    count: how many must be there, >= 1. ttl: seconds that a place outlives its process. identity:
    what others see as the place's value. One object has at most one place at a time.
    """

    def __init__(
        self,
        client: "Client",
        name: Key,
        count: int,
        *,
        ttl: float = 10.0,
        identity: Key = b"",
    ) -> None:
        if count < 1:
            raise BadRequest(f"a double barrier is for at least 1, not {count}")
        self.name: bytes = encoded(name)
        self.count = count
        self._client = client
        self._round = Rendezvous(self.name, count)
        self._ttl = ttl
        self._identity = encoded(identity)
        self._lease: Lease | None = None
        self._is_taken = False  # from the first step in to the last one out
        self._opened = 0  # revision of the `ready` by which this one entered; 0: not inside

    @property
    def is_inside(self) -> bool:
        """Whether this process has entered and its place lives, by its own clock."""
        return self._opened > 0 and self._lease is not None and self._lease.alive

    @property
    def lost(self) -> runtime.Event:
        """Set when the place is lost. Errors: NotHeld without a place."""
        if self._lease is None:
            raise NotHeld(f"no place at the double barrier {self.name!r}")
        return self._lease.lost

    async def enter(self, timeout: float | None = None) -> None:
        """Waits until `count` are there. timeout: seconds, None = for ever.

        Errors: NotAcquired (a TimeoutError), TooMany, LeaseLost; then the place is given up.
        """
        if self._is_taken:
            raise Misused(f"this object already has a place at {self.name!r}")
        self._is_taken = True
        patience = Patience(timeout)
        try:
            self._lease = await self._client.lease(self._ttl, timeout=patience.call_timeout())
            self._opened = await self._enter(self._lease, patience)
        except BaseException:
            await runtime.finish(self._end)
            raise

    async def _enter(self, lease: "Lease", patience: Patience) -> int:
        own = self._round.waiter(lease.id)
        await repeated(self._client, self._round.joining(own, self._identity, lease.id), patience)
        step, ready = await self._until(
            lambda kvs: self._round.entering(kvs, own), patience, "others"
        )
        if step is Step.COMPLETE:
            await repeated(self._client, self._round.completing(own, ready), patience)
            _, ready = await self._until(
                lambda kvs: _only(self._round.entering(kvs, own), Step.ENTERED), patience, "entry"
            )
        lease.check()
        return ready

    async def leave(self, timeout: float | None = None) -> None:
        """Waits until all who entered leave too. timeout: seconds, None = for ever.

        Errors: NotHeld, NotAcquired (a TimeoutError); the place is given up in any case.
        """
        if self._lease is None or not self._opened:
            raise NotHeld(f"not inside the double barrier {self.name!r}")
        lease, opened = self._lease, self._opened
        own = self._round.waiter(lease.id)
        patience = Patience(timeout)
        try:
            step, _ = await self._until(
                lambda kvs: self._round.leaving(kvs, own, opened), patience, "the others' end"
            )
            if step is Step.GO:
                await runtime.finish(self._give_up)  # half of it would leave the place behind
                await self._until(
                    lambda kvs: _only(self._round.leaving(kvs, own, opened), Step.LEFT),
                    patience,
                    "the others' end",
                )
            await repeated(self._client, self._round.clearing(opened), patience)
        finally:
            await runtime.finish(self._end)

    async def _until(self, judge: Judge, patience: Patience, what: str) -> tuple[Step, int]:
        """What `judge` says at last, and the revision of `ready` when it did."""
        lease = self._lease

        def check() -> None:
            if lease is not None and not self._opened:  # who is inside leaves without a place, too
                lease.check()

        def look(found: RangeResult) -> tuple[Step, int] | None:
            step = judge(found.kvs)
            return None if step is None else (step, self._round.opened(found.kvs))

        return await until(
            self._client,
            GetPrefix(self.name + b"/"),
            look,
            patience=patience,
            what=f"{what} at the double barrier {self.name!r}",
            check=check,
        )

    async def _give_up(self) -> None:
        lease, self._lease, self._opened = self._lease, None, 0
        if lease is None:
            return
        try:
            await lease.revoke(timeout=LEAVE_SECONDS)
        except ClientError:
            lease.detach()  # the place goes when its time is up

    async def _end(self) -> None:
        """Gives the place up, if there is one; from now on the object may be used again."""
        try:
            await self._give_up()
        finally:
            self._is_taken = False

    async def __aenter__(self) -> Self:
        await self.enter()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:  # the others must not wait for this one
            await runtime.finish(self._end)
        else:
            await self.leave()


def _only(step: Step | None, wanted: Step) -> Step | None:
    return step if step is wanted else None
