# Made by scripts/generate_sync.py from raftkv/client/aio: edit that.
"""A semaphore that many processes share: at most `limit` hold it at a time, in their order.

    with client.semaphore("builds", 4) as holding:
        ...

When things go wrong it is as with `lock`: a holder that is paused beyond its lease may act late
beside `limit` others. `guard` refuses its writes. The `fencing_token` grows from holder to holder,
but with several at a time a smaller token is no proof of a late one: compare with `guard`.

All must mean the same limit, or two of them would count differently and let too many in. So it is
written to `<name>/limit` by the first of the queue, and who comes with another one is refused
(LimitDisagrees) instead of waiting. Once nobody is in the queue, the next one's limit counts: a new
limit is rolled out by letting the queue run empty.

Keys are `<name>/holders/<lease id in hex>`; the `limit` oldest hold. etcd's Go packages have no
semaphore to share the layout with. A release wakes all who wait, with one event each; none
of them asks the servers again before its turn has come.
"""

from typing import TYPE_CHECKING

from raftkv.client import queueing
from raftkv.client.errors import BadRequest
from raftkv.client.keys import Key, encoded
from raftkv.client.patience import Patience
from raftkv.client.results import KeyValue
from raftkv.client.sync.recipes.queued import Holding, Lockable, hold
from raftkv.client.txn import SortBy

if TYPE_CHECKING:
    from raftkv.client.sync.client import Client
    from raftkv.client.sync.lease import Lease

__all__ = ["Holding", "Semaphore"]


class Semaphore(Lockable):
    """See the module's docstring. Made by `Client.semaphore`.

    limit: how many may hold it at a time, >= 1. name, ttl, lease, identity: as in Lock.
    """

    def __init__(
        self,
        client: "Client",
        name: Key,
        limit: int,
        *,
        ttl: float = 10.0,
        lease: "Lease | None" = None,
        identity: Key | None = None,
    ) -> None:
        super().__init__()
        if limit < 1:
            raise BadRequest(f"a semaphore's limit is at least 1, not {limit}")
        self.name: bytes = encoded(name)
        self.limit = limit
        self._client = client
        self._queue = queueing.semaphore_queue(self.name, limit)
        self._ttl = ttl
        self._lease = lease
        self._identity = b"" if identity is None else encoded(identity)

    def _acquire(self, timeout: float | None, blocking: bool) -> Holding:
        seat = hold(
            self._client,
            self._queue,
            self._identity,
            ttl=self._ttl,
            lease=self._lease,
            patience=Patience(timeout),
            blocking=blocking,
        )
        return Holding(seat)

    def queue(self, timeout: float | None = None) -> tuple[KeyValue, ...]:
        """Who holds it (the first `limit`) and who waits; values are the identities.

        timeout: seconds, None = the client's. Errors: Unavailable, TimedOut.
        """
        found = self._client.get_prefix(
            self._queue.before, sort_by=SortBy.CREATE_REVISION, timeout=timeout
        )
        return found.kvs
