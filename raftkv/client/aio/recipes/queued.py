"""A place in a queue of keys, kept by a lease: what locks, semaphores and elections are made of.

What goes wrong, and what comes of it:

* Whoever holds is paused, or cut off from the servers. Its lease runs out and the next in the queue
  holds. `is_held` is false and `lost` is set before that can happen, by this process's own
  clock; but a process that was stopped between the question and the act acts late. So what must
  not overlap is written through `guard`, which no late writer passes, or carries the
  `fencing_token`, which grows from holder to holder, to wherever it is written.
* The lease ends while one waits: LeaseLost, never a holding (C04).
* The caller gives up, is cancelled or fails while it waits: its key is taken away at once, by
  revoking the lease; if no server can be asked, nobody keeps the lease any more and the key goes
  with it, at most its TTL later (C09).
* The answer to a request is lost: `raftkv.client.queueing` says why asking again is safe here.
* Somebody deletes the key by hand. No clock tells that; `guard` does.

With a lease of the caller's own (`lease=`) the key is deleted instead of the lease. Where that
cannot be done for seconds, the lease is no longer kept either: a key that nobody stands behind
would hold up the whole queue.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from raftkv.client import queueing
from raftkv.client.aio import runtime
from raftkv.client.errors import (
    ClientError,
    Compacted,
    LeaseLost,
    LeaseNotFound,
    NotHeld,
    OutcomeUnknown,
    TimedOut,
    Unavailable,
)
from raftkv.client.logger import log
from raftkv.client.patience import Patience
from raftkv.client.results import TxnResult
from raftkv.client.txn import Txn

if TYPE_CHECKING:
    from raftkv.client.aio.client import Client
    from raftkv.client.aio.lease import Lease

SLICE_SECONDS: Final = 1.0  # how often who waits looks at its lease and its time
RETRY_SECONDS: Final = 0.1  # after a read that no server could serve
LEAVE_SECONDS: Final = 2.0  # for telling the servers that a place is given up

# Which leases of callers are in which queues now: (id of the object, key).
_shared: Final[set[tuple[int, bytes]]] = set()


class Seat:
    """One place in one queue: entered, waited for, held, left.

    users: holdings that share it (a lock that is acquired again by who has it).
    """

    def __init__(
        self, client: "Client", queue: queueing.Queue, lease: "Lease", *, is_own: bool
    ) -> None:
        self.lease = lease
        self.users: int = 1
        self._client = client
        self._is_own = is_own
        self._key = queue.key(lease.id)
        self._queue = queue
        self._place: queueing.Place | None = None
        self._claim = (id(lease), self._key)
        self._is_left = False
        if not is_own:
            if self._claim in _shared:
                raise queueing.already(self._key)
            _shared.add(self._claim)

    @property
    def place(self) -> queueing.Place:
        """Where it is. Only after `take`."""
        assert self._place is not None, "taken before it is handed out"
        return self._place

    @property
    def is_held(self) -> bool:
        """Whether it is held, by this process's own clock."""
        return not self._is_left and self.lease.alive

    async def take(self, value: bytes, patience: Patience, *, blocking: bool) -> None:
        """Enters the queue and waits. Errors: ClientError; the caller then leaves."""
        way = queueing.contend(self._queue, self.lease.id, value)
        answer: TxnResult | None = None
        try:
            step = next(way)
            while True:
                if isinstance(step, queueing.Ask):
                    answer = await self._ask(step, patience)
                elif blocking:
                    answer = None
                    await self._wait(step, patience)
                else:
                    raise Patience(0).over(_shown(self._key))
                self._check()
                step = way.send(answer)
        except StopIteration as end:
            self._place = end.value

    def _check(self) -> None:
        if not self.lease.alive:
            raise queueing.lost(self._key)

    async def _ask(self, ask: queueing.Ask, patience: Patience) -> TxnResult | None:
        """The transaction's result; None: a write whose outcome is unknown."""
        while True:
            try:
                if self._is_own or not ask.is_write:
                    return await self._client.txn(ask.txn, timeout=patience.call_timeout())
                # No lease is revoked that would refuse a put which comes behind its deletion, so
                # a cancelled caller waits for the answer.
                return await runtime.finish(
                    self._client.txn, ask.txn, timeout=patience.call_timeout()
                )
            except LeaseNotFound as error:
                raise queueing.lost(self._key) from error
            except OutcomeUnknown:
                if patience.is_over:
                    raise
                await runtime.sleep(min(RETRY_SECONDS, patience.left))
                return None
            except (Unavailable, TimedOut) as error:
                if ask.is_write:
                    raise
                self._check()
                if patience.is_over:
                    raise patience.over(_shown(self._key)) from error
            await runtime.sleep(min(RETRY_SECONDS, patience.left))

    async def _wait(self, step: queueing.Await, patience: Patience) -> None:
        """Returns when enough older keys are gone, or when it cannot tell any more."""
        older = set(step.older)
        watch = self._client.watch(
            step.key, end=step.end or None, start_revision=step.start_revision, no_put=True
        )
        try:
            while len(older) > step.spare:
                self._check()
                if patience.is_over:
                    raise patience.over(_shown(self._key))
                moment = min(SLICE_SECONDS, patience.left, self.lease.remaining)
                try:
                    batch = await watch.next(timeout=moment)
                except Compacted:
                    return
                except TimeoutError:
                    continue
                except Unavailable:
                    await runtime.sleep(min(RETRY_SECONDS, patience.left))
                    continue
                older.difference_update(event.key for event in batch.events)
        finally:
            await runtime.finish(watch.close)

    async def leave(self) -> None:
        """Gives the place up, once. Errors: ClientError, and then the lease is kept no more."""
        if self._is_left:
            return
        self._is_left = True
        _shared.discard(self._claim)
        patience = Patience(LEAVE_SECONDS)
        try:
            if self._is_own:
                await self.lease.revoke(timeout=patience.call_timeout())
            else:
                await self._delete(patience)
        except LeaseNotFound:
            pass  # and the key went with it
        except BaseException:
            self.lease.detach()
            raise

    def forget(self) -> None:
        """Nothing was put here, so there is nothing to give up."""
        self._is_left = True
        _shared.discard(self._claim)

    async def leave_quietly(self) -> None:
        """The same, where another error is on its way: what goes wrong here is logged only."""
        try:
            await self.leave()
        except ClientError as error:
            log.warning(
                "%s goes at most %.0f s from now, with its lease: %s",
                _shown(self._key),
                self.lease.ttl,
                error,
            )

    async def _delete(self, patience: Patience) -> None:
        if self._place is None:
            txn = queueing.withdrawing(self._key, self.lease.id)
        else:
            txn = queueing.leaving(self._place)
        while self.lease.alive:
            try:
                await self._client.txn(txn, timeout=patience.call_timeout())
            except (OutcomeUnknown, Unavailable, TimedOut):
                if patience.is_over:
                    raise
                await runtime.sleep(min(RETRY_SECONDS, patience.left))
            else:
                return


class Holding:
    """What one holds: a lock, a unit of a semaphore, a leadership. Ends with `release`.

    Leaving an `async with` releases it. Where the lease was lost before, that raises LeaseLost
    unless another error is on its way: what was done inside without a guard may have overlapped.
    """

    _tells_loss = True

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self._is_released = False

    def __repr__(self) -> str:
        state = "held" if self.is_held else "not held"
        return f"<{type(self).__name__} {_shown(self.key)} {state}, token {self.fencing_token}>"

    @property
    def key(self) -> bytes:
        """The key that stands for it."""
        return self._seat.place.key

    @property
    def fencing_token(self) -> int:
        """The create revision of the key: greater than that of every holder before."""
        return self._seat.place.create_revision

    @property
    def lease(self) -> "Lease":
        """What keeps it."""
        return self._seat.lease

    @property
    def is_held(self) -> bool:
        """Whether it is held, by this process's own clock; asks nobody."""
        return not self._is_released and self._seat.is_held

    @property
    def lost(self) -> runtime.Event:
        """Set when the lease is over, at the latest when its time is up by the own clock."""
        return self._seat.lease.lost

    def on_loss(self, callback: Callable[[], None]) -> None:
        """Calls `callback` once, in another thread, if the lease is lost before `release`.

        At once if it is lost already.
        """

        def tell() -> None:
            if not self._is_released:
                callback()

        self._seat.lease.on_loss(tell)

    def guard(self, txn: Txn) -> Txn:
        """`txn`, to succeed only while the key is there, by the servers' own state."""
        return self._seat.place.guard(txn)

    def check(self) -> None:
        """Errors: NotHeld (released), LeaseLost (lost by the own clock)."""
        if self._is_released:
            raise NotHeld(f"{_shown(self.key)} was released")
        if not self._seat.is_held:
            raise LeaseLost(f"the lease of {_shown(self.key)} is lost")

    async def release(self) -> None:
        """Gives it up; the second time nothing happens.

        Errors: ClientError if no server could be told within two seconds. Then nobody keeps the
        lease any more, and the next in the queue has to wait for its end.
        """
        if self._release_own():
            await runtime.finish(self._seat.leave)

    def _release_own(self) -> bool:
        """Whether this was the last user of the seat, which is to be left now."""
        if self._is_released:
            return False
        self._is_released = True
        self._seat.users -= 1
        return self._seat.users == 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        was_lost = not self._is_released and not self._seat.is_held
        if self._release_own():
            await runtime.finish(self._seat.leave_quietly)
        if was_lost and self._tells_loss and error is None:
            raise LeaseLost(
                f"the lease of {_shown(self.key)} was lost before it was released: what was done "
                "without a guard may have overlapped with the next holder"
            )


async def hold(
    client: "Client",
    queue: queueing.Queue,
    value: bytes,
    *,
    ttl: float,
    lease: "Lease | None",
    patience: Patience,
    blocking: bool = True,
) -> Seat:
    """Takes a place and waits until it is among the first.

    ttl: of a lease of its own, in seconds; lease: the caller's, to be used instead. patience: for
    all of it; without any time it is as if not blocking. blocking: False = do not wait at all.
    Errors: NotAcquired (out of time, or taken), LeaseLost, queueing.AlreadyQueued and
    LimitDisagrees, and what the first requests met; nothing of it stays in the queue.
    """
    if not patience.is_endless and not patience.left:
        patience, blocking = Patience(None), False
    try:
        return await _hold(client, queue, value, ttl, lease, patience, blocking)
    except (OutcomeUnknown, TimedOut) as error:
        if not patience.is_over:
            raise
        # Whatever it was that has no answer: it was given up again, or ends with its lease.
        raise patience.over(_shown(queue.own)) from error


async def _hold(
    client: "Client",
    queue: queueing.Queue,
    value: bytes,
    ttl: float,
    lease: "Lease | None",
    patience: Patience,
    blocking: bool,
) -> Seat:
    if not blocking:
        taken = await client.get_prefix(
            queue.before, limit=queue.limit, keys_only=True, timeout=patience.call_timeout()
        )
        if len(taken) >= queue.limit:
            raise Patience(0).over(_shown(queue.before))
    is_own = lease is None
    if lease is None:
        lease = await client.lease(ttl, timeout=patience.call_timeout())
    seat = Seat(client, queue, lease, is_own=is_own)
    try:
        await seat.take(value, patience, blocking=blocking)
    except queueing.AlreadyQueued:
        seat.forget()
        raise
    except BaseException:
        await runtime.finish(seat.leave_quietly)
        raise
    return seat


class Lockable(ABC):
    """What is acquired by `acquire` or, the whole of it, by `async with`."""

    def __init__(self) -> None:
        self._entered: dict[object, list[Holding]] = {}  # by whom

    def acquire(
        self, timeout: float | None = None, *, blocking: bool = True
    ) -> runtime.Acquiring[Holding]:
        """Waits for it. timeout: seconds, None = for ever. blocking: False = do not wait at all.

        timeout=0 means the same as blocking=False: then requests have the client's timeout.
        The result is awaited or used in `async with`. Errors: NotAcquired (a TimeoutError),
        LeaseLost (the lease ended while waiting), and other ClientErrors.
        """
        return runtime.acquiring(self._acquire(timeout, blocking))

    @abstractmethod
    async def _acquire(self, timeout: float | None, blocking: bool) -> Holding:
        """`acquire`, carried out."""

    async def __aenter__(self) -> Holding:
        holding = await self._acquire(None, True)
        self._entered.setdefault(runtime.caller(), []).append(holding)
        return holding

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        caller = runtime.caller()
        if caller not in self._entered:  # an exit stack may be closed by another task
            caller = next(reversed(tuple(self._entered)))
        mine = self._entered[caller]
        holding = mine.pop()
        if not mine:
            del self._entered[caller]
        await holding.__aexit__(kind, error, traceback)


def _shown(name: bytes) -> str:
    return name.decode(errors="backslashreplace")
