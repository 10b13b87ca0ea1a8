"""Elections: of all who campaign under a name, one leads at a time.

    async with client.election("workers/leader").campaign("host-a") as term:
        while term.is_leader:
            await work(term)

When things go wrong:

* The leader dies, hangs or loses the network: its lease runs out and the next candidate leads, at
  most the TTL later. The leader's own clock tells it before that, with the network dead and
  the program's loop blocked: `is_leader` is a comparison of two numbers, `lost` and `on_loss` are
  told by a thread of their own (C05, C07).
* The leader is paused between asking `is_leader` and acting. Then it acts late, beside the next
  leader. Only the store can refuse that: write through `guard`, or send `fencing_token` with what
  goes elsewhere (C03). `proclaim` and `resign` are guarded.
* A candidate's lease ends while it waits: LeaseLost, never a term (C04). One that is cancelled or
  runs out of time leaves no key behind (C09).
* The servers are away: leadership lasts as long as the lease surely lives, a candidate goes on
  waiting, an observer goes on where it was (C06, C08).
* Somebody deletes the leader's key: no clock tells that. `guard`, `proclaim` and `confirm` do.

The queue is that of etcd's Go `concurrency.Election`, the v3election service, `etcdctl elect` and
`raftctl elect`: keys `<name>/<lease id in hex>`; the oldest one leads and its value is
what the leader proclaims. An election and a lock of one name are one queue.
"""

from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from raftkv.client import queueing
from raftkv.client.aio import runtime
from raftkv.client.aio.recipes.queued import Holding, Seat, hold
from raftkv.client.errors import (
    ClientClosed,
    ClusterChanged,
    Compacted,
    NotHeld,
    OutcomeUnknown,
    TimedOut,
    Unavailable,
)
from raftkv.client.keys import Key, encoded
from raftkv.client.patience import Patience
from raftkv.client.results import KeyValue, RangeResult, WatchBatch
from raftkv.client.txn import SortBy

if TYPE_CHECKING:
    from raftkv.client.aio.client import Client
    from raftkv.client.aio.lease import Lease
    from raftkv.client.aio.watch import Watch

__all__ = ["Election", "Observation", "Term"]

RETRY_SECONDS: Final = 0.2  # an observer's, when no server could serve it


class Term(Holding):
    """A leadership. Ends with `resign`, or by leaving `async with`; losing it there is no error."""

    _tells_loss = False

    def __init__(self, client: "Client", seat: Seat, value: bytes) -> None:
        super().__init__(seat)
        self._client = client
        self._value = value
        self._mod_revision = seat.place.create_revision
        self._proclaiming = runtime.Mutex()

    @property
    def is_leader(self) -> bool:
        """Whether this is the leader, by this process's own clock; asks nobody."""
        return self.is_held

    @property
    def value(self) -> bytes:
        """What was proclaimed last."""
        return self._value

    async def proclaim(self, value: Key, timeout: float | None = None) -> None:
        """Replaces the leader's value; observers are told.

        timeout: seconds; None = as long as the term lasts, if need be. An answer that is lost is
        found out before this returns. Errors: NotHeld (another leads, or the term is over),
        LeaseLost, OutcomeUnknown.
        """
        wanted = encoded(value)
        patience = Patience(timeout)
        unknown: OutcomeUnknown | None = None
        async with self._proclaiming:
            while True:
                if unknown is None:
                    self.check()
                elif not self.is_held or patience.is_over:
                    raise unknown
                txn = queueing.proclaiming(
                    self._seat.place, self._mod_revision, wanted, self.lease.id
                )
                try:
                    answer = await self._client.txn(txn, timeout=patience.call_timeout())
                except OutcomeUnknown as error:
                    unknown = error
                    await runtime.sleep(min(RETRY_SECONDS, patience.left))
                    continue
                if answer.succeeded:
                    self._mod_revision = answer.revision
                    break
                found = queueing.found(answer, 0)
                if not found or found[0].create_revision != self.fencing_token:
                    raise unknown or NotHeld("the key of this leadership is gone")
                self._mod_revision = found[0].mod_revision
                if unknown is not None and found[0].value == wanted:
                    break  # the answer was lost, the value was not
            self._value = wanted

    async def confirm(self, timeout: float | None = None) -> bool:
        """Whether the servers still have this leader's key, which is the oldest of its queue.

        timeout: seconds, None = the client's. Errors: Unavailable, TimedOut.
        """
        now = await self._client.get(self.key, timeout=timeout)
        return self.is_held and now.create_revision == self.fencing_token

    async def resign(self) -> None:
        """Gives leadership up, so that the next candidate leads at once. Errors: as `release`."""
        await self.release()


class Election:
    """See the module's docstring. Made by `Client.election`.

    name: of the election. ttl: seconds that a leadership outlives a leader that is gone; each
    candidacy has a lease of its own, unless `lease` is given.
    """

    def __init__(
        self,
        client: "Client",
        name: Key,
        *,
        ttl: float = 10.0,
        lease: "Lease | None" = None,
    ) -> None:
        self.name: bytes = encoded(name)
        self._client = client
        self._queue = queueing.lock_queue(self.name)
        self._ttl = ttl
        self._lease = lease

    def campaign(
        self, value: Key = b"", timeout: float | None = None, *, blocking: bool = True
    ) -> runtime.Acquiring[Term]:
        """Waits until it leads. value: what observers see.

        timeout: seconds, None = for ever. blocking: False = do not wait at all, as timeout=0. The
        result is awaited or used in `async with`.
        Errors: NotAcquired (a TimeoutError), LeaseLost, and other ClientErrors.
        """
        return runtime.acquiring(self.campaigning(encoded(value), Patience(timeout), blocking))

    async def campaigning(self, value: bytes, patience: Patience, blocking: bool = True) -> Term:
        """What `campaign` does, with a patience that may be called off: for other recipes.

        value, blocking, errors: as `campaign`.
        """
        seat = await hold(
            self._client,
            self._queue,
            value,
            ttl=self._ttl,
            lease=self._lease,
            patience=patience,
            blocking=blocking,
        )
        return Term(self._client, seat, value)

    async def leader(self, timeout: float | None = None) -> KeyValue | None:
        """The leader's key and value (`.text`), or None while nobody leads.

        timeout: seconds, None = the client's. Errors: Unavailable, TimedOut.
        """
        found = await self._oldest(timeout)
        return found.kvs[0] if found.kvs else None

    async def candidates(self, timeout: float | None = None) -> tuple[KeyValue, ...]:
        """The leader and those who wait, in their order. timeout, errors: as `leader`."""
        found = await self._client.get_prefix(
            self._queue.before, sort_by=SortBy.CREATE_REVISION, timeout=timeout
        )
        return found.kvs

    def observe(self) -> "Observation":
        """The present leader, then every change of leader or value: an iterator, to be closed."""
        return Observation(self._client, self)

    async def _oldest(self, timeout: float | None) -> RangeResult:
        return await self._client.get_prefix(
            self._queue.before, limit=1, sort_by=SortBy.CREATE_REVISION, timeout=timeout
        )


class Observation:
    """Who leads, as it changes: `async for leader in observation`, or `next`.

    An item is the leader's key and value. Changes that come faster than they are taken are joined
    into the latest; one that is older than what was given is never given, whatever was
    disconnected, compacted or moved to another endpoint meanwhile (C08). While nobody
    leads nothing comes. Close it, or use it in `async with`: that ends an iteration.
    """

    def __init__(self, client: "Client", election: Election) -> None:
        self._client = client
        self._election = election
        self._prefix = election.name + b"/"
        self._seen = (0, 0)  # create and mod revision of what was given last
        self._watch: Watch | None = None  # of the leader's key, or of all while nobody leads
        self._leader: KeyValue | None = None
        self._is_closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> KeyValue:
        try:
            if not self._is_closed:
                return await self._change(Patience(None))
        except ClientClosed:
            if not self._is_closed:
                raise
        raise StopAsyncIteration

    async def next(self, timeout: float | None = None) -> KeyValue:
        """The next change. timeout: seconds, None = for ever.

        Errors: TimeoutError (nothing is lost by it), and ClientErrors that do not pass by
        themselves (PermissionDenied, ClientClosed, ...). ClusterChanged comes once: what was
        seen before it is of another past, and the next call begins anew.
        """
        self._is_closed = False
        return await self._change(Patience(timeout))

    async def _change(self, patience: Patience) -> KeyValue:
        try:
            return await self._newer(patience)
        except ClusterChanged:
            self._seen = (0, 0)
            await self._hang_up()
            raise

    async def _newer(self, patience: Patience) -> KeyValue:
        """The first value behind what was seen."""
        while True:
            if self._watch is None:
                await self._look(patience)
            else:
                await self._listen(self._watch, patience)
            leader = self._leader
            if leader is not None and (leader.create_revision, leader.mod_revision) > self._seen:
                self._seen = (leader.create_revision, leader.mod_revision)
                return leader

    async def _look(self, patience: Patience) -> None:
        """Reads who leads, and watches from there on."""
        try:
            found = await self._election._oldest(patience.call_timeout())
        except (Unavailable, TimedOut) as error:
            if patience.is_over:
                raise patience.over("the next leader") from error
            await runtime.sleep(min(RETRY_SECONDS, patience.left))
            return
        self._leader = found.kvs[0] if found.kvs else None
        start = found.revision + 1
        if self._leader is None:
            self._watch = self._client.watch(
                self._prefix, prefix=True, start_revision=start, no_delete=True
            )
        else:
            self._watch = self._client.watch(self._leader.key, start_revision=start)

    async def _listen(self, watch: "Watch", patience: Patience) -> None:
        """Waits for a change of what is watched."""
        try:
            batch = await watch.next(timeout=None if patience.is_endless else patience.left)
        except Compacted:
            await self._hang_up()
            return
        except Unavailable as error:
            if patience.is_over:
                raise patience.over("the next leader") from error
            await runtime.sleep(min(RETRY_SECONDS, patience.left))
            return
        if batch.events and not self._take(batch):
            await self._hang_up()

    def _take(self, batch: WatchBatch) -> bool:
        """Notes the leader's last value; False if who leads must be read anew."""
        if self._leader is None:
            return False
        for event in batch.events:
            if event.is_delete:
                return False
            self._leader = event.kv
        return True

    async def close(self) -> None:
        """Ends the watch, and an iteration. `next` begins another one."""
        self._is_closed = True
        await self._hang_up()

    async def _hang_up(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            await watch.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
