"""A read-write lock that many processes share: any number of readers, or one writer.

    async with client.rwlock("catalogue").read():
        ...
    async with client.rwlock("catalogue").write() as holding:
        await client.txn(holding.guard(Txn()).then(Put("products/1", "shoes")))

When things go wrong it is as with `lock`: a holder whose lease has run out may not know it yet, so
a writer writes through `guard` or with its `fencing_token`. A reader that must not act on what has
been overwritten meanwhile puts its own `guard` into the transaction that acts: a reader's lease
that ended lets a writer in, too.

It is fair: everybody waits for those who came before, readers for earlier writers only. So readers
that keep coming cannot starve a writer, and a reader that comes while a writer waits, waits. A
reader that asks for the write lock waits for itself: release first.

Tokens grow along the one queue of readers and writers. Among writers they say who came later;
readers that hold at the same time have different ones.

Keys are `<name>/read/<lease id in hex>` and `<name>/write/<lease id in hex>`, in one queue with
etcd's Go `contrib/recipes.RWMutex` of the same name.
"""

from typing import TYPE_CHECKING

from raftkv.client import queueing
from raftkv.client.aio import runtime
from raftkv.client.aio.recipes.queued import Holding, hold
from raftkv.client.keys import Key, encoded
from raftkv.client.patience import Patience
from raftkv.client.results import KeyValue
from raftkv.client.txn import SortBy

if TYPE_CHECKING:
    from raftkv.client.aio.client import Client
    from raftkv.client.aio.lease import Lease

__all__ = ["Holding", "RWLock"]


class RWLock:
    """See the module's docstring. Made by `Client.rwlock`.

    name, ttl, lease, identity: as in Lock. With `lease`, one reader and one writer at a time.
    """

    def __init__(
        self,
        client: "Client",
        name: Key,
        *,
        ttl: float = 10.0,
        lease: "Lease | None" = None,
        identity: Key | None = None,
    ) -> None:
        self.name: bytes = encoded(name)
        self._client = client
        self._ttl = ttl
        self._lease = lease
        self._identity = b"" if identity is None else encoded(identity)

    def read(
        self, timeout: float | None = None, *, blocking: bool = True
    ) -> runtime.Acquiring[Holding]:
        """Waits until no writer that came before is left.

        timeout, blocking, errors: as `Lock.acquire`.
        """
        return runtime.acquiring(self._acquire(queueing.read_queue(self.name), timeout, blocking))

    def write(
        self, timeout: float | None = None, *, blocking: bool = True
    ) -> runtime.Acquiring[Holding]:
        """Waits until nobody that came before is left.

        timeout, blocking, errors: as `Lock.acquire`.
        """
        return runtime.acquiring(self._acquire(queueing.write_queue(self.name), timeout, blocking))

    async def _acquire(
        self, queue: queueing.Queue, timeout: float | None, blocking: bool
    ) -> Holding:
        seat = await hold(
            self._client,
            queue,
            self._identity,
            ttl=self._ttl,
            lease=self._lease,
            patience=Patience(timeout),
            blocking=blocking,
        )
        return Holding(seat)

    async def queue(self, timeout: float | None = None) -> tuple[KeyValue, ...]:
        """All readers and writers that hold or wait, in their order; the key tells which.

        timeout: seconds, None = the client's. Errors: Unavailable, TimedOut.
        """
        found = await self._client.get_prefix(
            self.name + b"/", sort_by=SortBy.CREATE_REVISION, timeout=timeout
        )
        return found.kvs
