# Made by scripts/generate_sync.py from raftkv/client/aio: edit that.
"""A lock that many processes share: one at a time holds it, in the order in which they asked.

    with client.lock("jobs") as holding:
        client.txn(holding.guard(Txn()).then(Put("results/jobs", "done")))

When things go wrong:

* The holder dies, hangs or loses the network: its lease runs out and the next one holds the lock,
  at most the TTL later. The holder's own clock tells it before that: `is_held`, `lost`, `on_loss`.
* The holder is paused between looking at the clock and writing (a stopped process, a long garbage
  collection): then two believe that they hold the lock, and no lock service can prevent it. What
  can be prevented is the late write: make it a transaction with `guard`, or hand the
  `fencing_token` to where it goes and let that refuse smaller tokens than it has seen (C03).
* The lease ends while one waits: LeaseLost (C04). The wait is cancelled, or runs out of time: the
  place in the queue is given up at once (C09).
* The servers are away while one waits: the wait goes on for as long as the lease lives.
* The answer to a request is lost: it is found out before anything is claimed (C02).

The queue is that of etcd's Go `concurrency.Mutex`, of the v3lock service, of `etcdctl lock` and
`raftctl lock`: keys `<name>/<lease id in hex>`, the oldest of which holds. So a lock "a" also
waits for the queue of a lock "a/b"; do not nest names.
"""

from typing import TYPE_CHECKING

from raftkv.client import queueing
from raftkv.client.keys import Key, encoded
from raftkv.client.patience import Patience
from raftkv.client.results import KeyValue
from raftkv.client.sync import runtime
from raftkv.client.sync.recipes.queued import Holding, Lockable, Seat, hold
from raftkv.client.txn import SortBy

if TYPE_CHECKING:
    from raftkv.client.sync.client import Client
    from raftkv.client.sync.lease import Lease

__all__ = ["Holding", "Lock"]


class Lock(Lockable):
    """See the module's docstring. Made by `Client.lock`.

    name: of the lock. ttl: seconds that the lock outlives a holder that is gone; each acquisition
    has a lease of its own, unless `lease` is given. reentrant: the same task (thread) may
    acquire the same Lock object again; it must release it as often. Other tasks (threads) wait, and
    so does the same one with another Lock object. identity: what others see as the holder's value.
    """

    def __init__(
        self,
        client: "Client",
        name: Key,
        *,
        ttl: float = 10.0,
        lease: "Lease | None" = None,
        reentrant: bool = False,
        identity: Key | None = None,
    ) -> None:
        super().__init__()
        self.name: bytes = encoded(name)
        self._client = client
        self._queue = queueing.lock_queue(self.name)
        self._ttl = ttl
        self._lease = lease
        self._is_reentrant = reentrant
        self._identity = b"" if identity is None else encoded(identity)
        self._held: dict[object, Seat] = {}  # by caller, if reentrant

    def _acquire(self, timeout: float | None, blocking: bool) -> Holding:
        caller = runtime.caller()
        if self._is_reentrant:
            seat = self._held.get(caller)
            if seat is not None and seat.users > 0:
                if not seat.is_held:
                    raise queueing.lost(seat.place.key)
                seat.users += 1
                return Holding(seat)
        seat = hold(
            self._client,
            self._queue,
            self._identity,
            ttl=self._ttl,
            lease=self._lease,
            patience=Patience(timeout),
            blocking=blocking,
        )
        if self._is_reentrant:
            self._held = {owner: held for owner, held in self._held.items() if held.users > 0}
            self._held[caller] = seat
        return Holding(seat)

    def queue(self, timeout: float | None = None) -> tuple[KeyValue, ...]:
        """Who holds it (the first) and who waits, in their order; values are the identities.

        timeout: seconds, None = the client's. Errors: Unavailable, TimedOut.
        """
        found = self._client.get_prefix(
            self._queue.before, sort_by=SortBy.CREATE_REVISION, timeout=timeout
        )
        return found.kvs
