# Made by scripts/generate_sync.py from raftkv/client/aio: edit that.
"""The recipes, by name: each is imported when it is first asked for.

What a recipe does when things go wrong is the beginning of its own module's docstring
(`raftkv/client/aio/recipes/`).
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar, cast

from raftkv.client.keys import Key
from raftkv.client.sync.runtime import Eventually

if TYPE_CHECKING:
    from raftkv.client.isolation import Isolation
    from raftkv.client.sync.client import Client
    from raftkv.client.sync.lease import Lease
    from raftkv.client.sync.recipes.barrier import Barrier
    from raftkv.client.sync.recipes.cache import Cache
    from raftkv.client.sync.recipes.counter import Counter
    from raftkv.client.sync.recipes.double_barrier import DoubleBarrier
    from raftkv.client.sync.recipes.election import Election
    from raftkv.client.sync.recipes.leader_runner import LeaderRunner, Shift
    from raftkv.client.sync.recipes.lock import Lock
    from raftkv.client.sync.recipes.partitioner import Partitioner, Share
    from raftkv.client.sync.recipes.party import Party
    from raftkv.client.sync.recipes.priority_queue import PriorityQueue
    from raftkv.client.sync.recipes.queue import Queue
    from raftkv.client.sync.recipes.registry import ServiceRegistry
    from raftkv.client.sync.recipes.rwlock import RWLock
    from raftkv.client.sync.recipes.semaphore import Semaphore
    from raftkv.client.sync.recipes.stm import Transaction as StmTransaction

T = TypeVar("T")


class RecipeFactories:
    """Makes recipes for this client. Part of `Client`.

    name: what all who take part call it: the beginning of its keys. Names do not nest: the keys of
    "a/b" would lie among those of "a". ttl: seconds that a place outlives a process that is gone;
    each acquisition has a lease of its own, unless `lease` is given. identity: what others see.

    None of them asks a server before it is used; they raise BadRequest for what can never be.
    """

    @property
    def _client(self) -> "Client":
        return cast("Client", self)

    def lock(
        self,
        name: Key,
        *,
        ttl: float = 10.0,
        lease: "Lease | None" = None,
        reentrant: bool = False,
        identity: Key | None = None,
    ) -> "Lock":
        """A lock: one holder at a time, first come, first served.

        reentrant: who holds it may acquire it again. identity: what others see as the holder's
        value.
        """
        from raftkv.client.sync.recipes.lock import Lock

        return Lock(
            self._client, name, ttl=ttl, lease=lease, reentrant=reentrant, identity=identity
        )

    def rwlock(
        self,
        name: Key,
        *,
        ttl: float = 10.0,
        lease: "Lease | None" = None,
        identity: Key | None = None,
    ) -> "RWLock":
        """A lock with many readers or one writer."""
        from raftkv.client.sync.recipes.rwlock import RWLock

        return RWLock(self._client, name, ttl=ttl, lease=lease, identity=identity)

    def semaphore(
        self,
        name: Key,
        limit: int,
        *,
        ttl: float = 10.0,
        lease: "Lease | None" = None,
        identity: Key | None = None,
    ) -> "Semaphore":
        """At most `limit` holders at a time."""
        from raftkv.client.sync.recipes.semaphore import Semaphore

        return Semaphore(self._client, name, limit, ttl=ttl, lease=lease, identity=identity)

    def election(self, name: Key, *, ttl: float = 10.0, lease: "Lease | None" = None) -> "Election":
        """An election: campaign, proclaim, observe, resign."""
        from raftkv.client.sync.recipes.election import Election

        return Election(self._client, name, ttl=ttl, lease=lease)

    def barrier(self, name: Key) -> "Barrier":
        """A barrier: while one process holds it, others wait at it."""
        from raftkv.client.sync.recipes.barrier import Barrier

        return Barrier(self._client, name)

    def double_barrier(
        self, name: Key, count: int, *, ttl: float = 10.0, identity: Key = b""
    ) -> "DoubleBarrier":
        """A double barrier: `count` processes begin together and end together."""
        from raftkv.client.sync.recipes.double_barrier import DoubleBarrier

        return DoubleBarrier(self._client, name, count, ttl=ttl, identity=identity)

    def counter(self, name: Key) -> "Counter":
        """A number that many processes add to."""
        from raftkv.client.sync.recipes.counter import Counter

        return Counter(self._client, name)

    def queue(self, name: Key) -> "Queue":
        """A queue: first come, first served."""
        from raftkv.client.sync.recipes.queue import Queue

        return Queue(self._client, name)

    def priority_queue(self, name: Key) -> "PriorityQueue":
        """A queue whose most urgent items go first."""
        from raftkv.client.sync.recipes.priority_queue import PriorityQueue

        return PriorityQueue(self._client, name)

    def party(self, name: Key, *, ttl: float = 10.0) -> "Party":
        """A party: who takes part, and for how long."""
        from raftkv.client.sync.recipes.party import Party

        return Party(self._client, name, ttl=ttl)

    def partitioner(
        self,
        name: Key,
        partitions: Iterable[Key],
        function: "Callable[[Share], Eventually[None]]",
        *,
        identity: Key = b"",
        ttl: float = 10.0,
        grace: float | None = None,
    ) -> "Partitioner":
        """Divides partitions over all who take part; runs a function for each that is ours.

        identity: what others see. grace: seconds before the end of the lease at which functions
        are told to stop; None = a quarter of the TTL.
        """
        from raftkv.client.sync.recipes.partitioner import Partitioner

        return Partitioner(
            self._client, name, partitions, function, identity=identity, ttl=ttl, grace=grace
        )

    def registry(self, name: Key, *, ttl: float = 10.0) -> "ServiceRegistry":
        """A service registry: register, discover, watch."""
        from raftkv.client.sync.recipes.registry import ServiceRegistry

        return ServiceRegistry(self._client, name, ttl=ttl)

    def cache(self, prefix: Key, *, check_seconds: float = 5.0) -> "Cache":
        """The keys below a prefix, kept in memory, always as of one revision.

        check_seconds: how often the servers are asked whether it is current; 0 = never.
        """
        from raftkv.client.sync.recipes.cache import Cache

        return Cache(self._client, prefix, check_seconds=check_seconds)

    def leader_runner(
        self,
        name: Key,
        function: "Callable[[Shift], Eventually[None]]",
        *,
        value: Key = b"",
        ttl: float = 10.0,
        grace: float | None = None,
    ) -> "LeaderRunner":
        """Runs a function in one process at a time: in the one that leads.

        value: what observers of the election see. grace: seconds before the end of the lease at
        which the function is told to stop; None = a quarter of the TTL.
        """
        from raftkv.client.sync.recipes.leader_runner import LeaderRunner

        return LeaderRunner(self._client, name, function, value=value, ttl=ttl, grace=grace)

    def stm(
        self,
        function: "Callable[[StmTransaction], Eventually[T]]",
        *,
        isolation: "Isolation | None" = None,
        attempts: int = 0,
        marker: Key | None = None,
        timeout: float | None = None,
    ) -> T:
        """Runs a function as a transaction, again after each conflict; returns what it returns.

        isolation: None = serializable snapshot. attempts: how often the function is run at
        most, 0 = the module's bound. marker: a key of this caller's own, by which a commit
        whose outcome is unknown is recognised. timeout: seconds for all of it.
        """
        from raftkv.client.sync.recipes import stm

        return stm.stm(
            self._client,
            function,
            isolation=isolation or stm.Isolation.SERIALIZABLE_SNAPSHOT,
            attempts=attempts or stm.ATTEMPTS,
            marker=marker,
            timeout=timeout,
        )
