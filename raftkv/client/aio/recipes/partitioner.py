"""Divides partitions over the processes that are there, and runs a function for each that is ours.

    async def work(share: Share) -> None:
        while not share.stop.is_set():
            await do_something(share.partition, share.fencing_token)
            await share.stop.wait(1)

    await client.partitioner("shards", [f"{n:02}" for n in range(16)], work).run()

`run` takes part, works out its share whenever somebody comes or goes, and runs the function, in a
task or thread of its own, for each partition it has. Before a partition goes to somebody else its
function is told to stop, and is waited for.

When things go wrong:

* A process dies or is cut off: its partitions have no owner when its lease has ended, at most the
  TTL later, and are divided among the others.
* The servers cannot be reached: while the lease has more than `grace` seconds left the work goes
  on. Then every function is told to stop, so that it has `grace` seconds to come to an end
  before another process can have its partition. `run` takes part again when they are back.
* A function does not stop in time: its partition stays with this process while the lease lasts, and
  the others wait. If the lease is lost as well, the function goes on beside the next owner's:
  nobody can kill it. It is told on the log, and this process does not take part again before it
  has ended.
* A process is paused: its functions go on for a moment when others work already. Write through
  `share.guard`, or send `share.fencing_token`, which grows from owner to owner.
* Members disagree on who there is, for a moment: a partition may be without an owner meanwhile; it
  never has two, for its key is put only where there is none.
* The answer to a request is lost: the keys are read again. A partition that was once given up is
  never taken up again with the same token, whatever comes late.
* A function raises: `run` stops the others, leaves, and raises that. One that returns keeps its
  partition.

So each partition has at most one function by the clocks of all processes, as long as functions stop
within their grace; beyond that there is the fencing token. `raftkv.client.partitioning` has the
layout and the division.
"""

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from raftkv.client import partitioning
from raftkv.client.aio import runtime
from raftkv.client.aio.recipes.marks import repeated
from raftkv.client.aio.recipes.party import join
from raftkv.client.aio.recipes.queue import let_go
from raftkv.client.aio.watch import WatchCallback
from raftkv.client.errors import (
    BadRequest,
    ClientError,
    ClusterChanged,
    LeaseError,
    LeaseLost,
    Misused,
    OutcomeUnknown,
)
from raftkv.client.keys import Key, encoded
from raftkv.client.partitioning import Board, Layout
from raftkv.client.patience import Patience
from raftkv.client.resuming import goes_on
from raftkv.client.txn import GetPrefix, Txn, key

if TYPE_CHECKING:
    from raftkv.client.aio.client import Client
    from raftkv.client.aio.lease import Lease

__all__ = ["Partitioner", "Share"]

GRACE_SHARE: Final = 0.25  # of the TTL
RETRY_SECONDS: Final = 0.2  # after a request that no server could serve
WARN_SECONDS: Final = 10.0  # between two warnings about functions that do not stop

_log = logging.getLogger(__name__)


class Share:
    """One partition that this process has.

    partition: its name. fencing_token: of this ownership. stop: set when the function should come
    to an end.
    """

    def __init__(self, partition: bytes, own: bytes, token: int, lease: "Lease") -> None:
        self.partition = partition
        self.key = own
        self.fencing_token = token
        self.lease = lease
        self.stop: runtime.Event = runtime.Event()
        self.task: runtime.Task | None = None
        self.is_over: bool = False
        self.is_gone: bool = False

    @property
    def text(self) -> str:
        """The partition's name as UTF-8 text. Errors: UnicodeDecodeError."""
        return self.partition.decode()

    @property
    def is_held(self) -> bool:
        """Whether the partition is this process's, by its own clock; asks nobody."""
        return not self.is_gone and self.lease.alive

    @property
    def lost(self) -> runtime.Event:
        """Set when the lease is over, at the latest when its time is up by the own clock."""
        return self.lease.lost

    def on_loss(self, callback: Callable[[], object]) -> None:
        """Calls `callback` once, in another thread, if the lease is lost."""
        self.lease.on_loss(callback)

    def guard(self, txn: Txn) -> Txn:
        """`txn`, to succeed only while this very ownership lasts."""
        return txn.when(key(self.key).create_revision == self.fencing_token)


class Partitioner:
    """See the module's docstring. Made by `Client.partitioner`.

    partitions: their names, the same for all who take part. function: is given a Share. identity:
    what others see. ttl: seconds that a process which is gone keeps its partitions. grace: seconds
    before the end of the lease at which functions are told to stop; a quarter of the TTL if not
    given.
    """

    def __init__(
        self,
        client: "Client",
        name: Key,
        partitions: Iterable[Key],
        function: Callable[[Share], runtime.Eventually[None]],
        *,
        identity: Key = b"",
        ttl: float = 10.0,
        grace: float | None = None,
    ) -> None:
        self.name: bytes = encoded(name)
        self.partitions: tuple[bytes, ...] = partitioning.names(partitions)
        self._client = client
        self._layout = Layout(self.name)
        self._function = function
        self._identity = encoded(identity)
        self._ttl = ttl
        self._grace = GRACE_SHARE * ttl if grace is None else grace
        if not 0 <= self._grace < 0.6 * ttl:
            raise BadRequest("the grace must be less than 60 % of the TTL, or no share could last")
        self._stopping = runtime.Event()
        self._woken = runtime.Event()
        self._error: BaseException | None = None
        self._shares: dict[bytes, Share] = {}
        self._given: set[int] = set()  # tokens that must not be taken up again
        self._is_running = False

    @property
    def shares(self) -> tuple[Share, ...]:
        """The partitions that this process has now, by name."""
        shares = tuple(self._shares.values())
        return tuple(sorted((one for one in shares if one.is_held), key=lambda one: one.partition))

    def stop(self) -> None:
        """Makes `run` stop all functions, leave and return. May be called from any thread."""
        self._stopping.set()
        self._woken.set()

    async def run(self) -> None:
        """Takes part until `stop` is called or a function raises.

        Errors: the function's own, and those of the servers that do not pass by themselves.
        """
        if self._is_running:
            raise Misused("this partitioner runs already")
        self._is_running, self._error = True, None
        try:
            while not self._stopping.is_set():
                try:
                    await self._take_part()
                except (LeaseError, OutcomeUnknown, ClusterChanged) as error:
                    _log.warning("no part in %r for the moment: %s", self.name, error)
                except ClientError as error:
                    if not goes_on(error):
                        raise
                if self._error is not None:
                    raise self._error
                await self._stopping.wait(RETRY_SECONDS)
        finally:
            self._is_running = False

    async def _take_part(self) -> None:
        """From one lease's beginning to its end."""
        lease = await self._client.lease(self._ttl)
        try:
            own = self._layout.member(self._identity, lease.id)
            lease.on_loss(self._wake)
            await join(self._client, own, b"", lease, self._patience(lease))
            await self._follow(lease)
        finally:
            await runtime.finish(self._leave, lease)

    async def _follow(self, lease: "Lease") -> None:
        """Sees to the own shares at each change. Errors: LeaseLost, ..."""
        watching: WatchCallback | None = None
        try:
            while not self._stopping.is_set() and self._error is None:
                self._woken = runtime.Event()
                if self._stopping.is_set():
                    break
                pause: float | None = None
                try:
                    board = await self._look(lease)
                    if watching is None or watching.ended.is_set():
                        if watching is not None:
                            await watching.close()
                        watching = await self._watch(board, lease)
                    await self._settle(board, lease)
                except OutcomeUnknown:
                    pause = RETRY_SECONDS  # the next look tells
                except ClientError as error:
                    if not goes_on(error):
                        raise
                    pause = RETRY_SECONDS
                await self._wait(lease, pause)
        finally:
            if watching is not None:
                await runtime.finish(watching.close)

    async def _look(self, lease: "Lease") -> Board:
        found = await self._client.read(
            GetPrefix(self._layout.everything), timeout=self._patience(lease).call_timeout()
        )
        board = self._layout.read(found.kvs, found.revision)
        if lease.id not in board.members:
            raise LeaseLost(f"this process is no member of {self.name!r} any more")
        return board

    async def _watch(self, board: Board, lease: "Lease") -> WatchCallback:
        return await self._client.add_watch_callback(
            self._layout.everything,
            self._wake,
            on_error=self._wake,
            prefix=True,
            start_revision=board.revision + 1,
            timeout=self._patience(lease).call_timeout(),
        )

    def _wake(self, _: object = None) -> None:
        self._woken.set()  # whichever event it is now: the loop makes a new one for each look

    async def _wait(self, lease: "Lease", pause: float | None) -> None:
        """Waits for a change, or `pause` seconds. Errors: LeaseLost, `grace` before the end."""
        while not self._woken.is_set():
            left = lease.remaining - self._grace
            if left <= 0:
                raise LeaseLost(f"the lease of a member of {self.name!r} is running out")
            await self._woken.wait(left if pause is None else min(left, pause))
            if pause is not None:
                break

    def _patience(self, lease: "Lease") -> Patience:
        """For one request: no longer than the work may go on without an answer."""
        return Patience(min(self._client.timeout, max(lease.remaining - self._grace, 0.0)))

    # --- shares -------------------------------------------------------------------------------
    async def _settle(self, board: Board, lease: "Lease") -> None:
        """Stops, gives up and takes what the division says."""
        owners = {each: owner.lease for each, owner in board.owners.items()}
        division = partitioning.divide(self.partitions, board.members, owners)
        wanted = {each for each, member in division.items() if member == lease.id}
        await self._stop_some(board, wanted)
        for each, owner in board.owners.items():
            if owner.lease != lease.id or each in self._shares:
                continue
            if each in wanted and owner.token not in self._given:
                self._begin(each, owner.token, lease)  # the answer to its taking was lost
            else:
                self._given.add(owner.token)
                giving = self._layout.giving(each, owner.token)
                await repeated(self._client, giving, self._patience(lease))
        for each in self.partitions:
            if each in wanted and each not in board.owners and each not in self._shares:
                await self._take(each, lease)

    async def _stop_some(self, board: Board, wanted: set[bytes]) -> None:
        """Tells functions to stop whose partition is to go, or is gone; forgets what has ended."""
        for each, share in tuple(self._shares.items()):
            owner = board.owners.get(each)
            if owner is None or owner.token != share.fencing_token:
                share.is_gone = True
            if (share.is_gone or each not in wanted) and not share.stop.is_set():
                share.stop.set()
                if share.task is not None:
                    await share.task.stop(0.0)
            if share.stop.is_set() and share.is_over:
                share.is_gone = True
                self._given.add(share.fencing_token)
                del self._shares[each]

    async def _take(self, partition: bytes, lease: "Lease") -> None:
        taking = self._layout.taking(partition, self._identity, lease.id)
        result = await self._client.txn(taking, timeout=self._patience(lease).call_timeout())
        if result.succeeded:
            self._begin(partition, result.revision, lease)

    def _begin(self, partition: bytes, token: int, lease: "Lease") -> None:
        share = Share(partition, self._layout.owner(partition), token, lease)
        self._shares[partition] = share
        share.task = runtime.spawn(self._work, share)

    async def _work(self, share: Share) -> None:
        try:
            await self._function(share)
        except Exception as error:  # noqa: BLE001 - whatever it is, `run` raises or logs it
            if share.is_held and not share.stop.is_set():
                self._error = error
            else:
                _log.warning("the work on %r ended badly: %r", share.partition, error)
        finally:
            share.is_over = True
            self._woken.set()

    async def _leave(self, lease: "Lease") -> None:
        """Stops all functions, waits for them, and only then lets the partitions go."""
        shares = tuple(self._shares.values())
        for share in shares:
            share.stop.set()
        for share in shares:
            if share.task is not None:
                await share.task.stop(0.0)
        for share in shares:
            while share.task is not None and not await share.task.join(WARN_SECONDS):
                _log.warning("the work on %r goes on although it was stopped", share.partition)
            share.is_gone = True
        self._shares.clear()
        self._given.clear()
        await let_go(lease)
