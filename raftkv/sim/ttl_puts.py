"""Virtual clients of PutWithTTL, and clients that ask what is left of a lease.

Some keys are put with a TTL again and again, mostly before it has passed, sometimes after; some are
deleted or overwritten by a plain put in between. `TtlPuts` follows the committed log and says which
hidden lease begins and which one ends because the next put took its only key (`kv.leases`). So
`sim.leasing` and `sim.lease_bounds` check of each of them:

* it never ends before its TTL has passed since the put was applied first, answered or not (M06);
* it ends within the bound of a lease that nobody renews.

When a lease ends its keys go in the same entry, which `sim.model` does as well: so a key of
PutWithTTL goes when its lease does. The question what is left is asked of all kinds of leases.
"""

from typing import TYPE_CHECKING, Final

from raftkv.raft.types import NORMAL, Entry
from raftkv.sim.etcd import identity_of
from raftkv.sim.operations import Delete, Put, PutWithTTL, Request
from raftkv.sim.world import MILLISECOND

if TYPE_CHECKING:
    from raftkv.sim.clients import Clients
    from raftkv.sim.cluster import Cluster
    from raftkv.sim.leasing import Leasing

PUTTER: Final = 3_500_000  # client number
KEYS: Final = 3
TTLS_MS: Final = (300, 700, 1500, 3000)
PUT_US: Final = 250 * MILLISECOND
ASK_US: Final = 120 * MILLISECOND


class TtlPuts:
    """See the module's docstring. leasing: has the leases, their clients and their checks."""

    def __init__(self, leasing: "Leasing", clients: "Clients") -> None:
        self._leasing = leasing
        self._cluster: Cluster = leasing.cluster
        self._clients = clients
        self._random = leasing.world.stream("ttl puts")
        self._lease_of: dict[bytes, int] = {}  # in the committed log
        self._cluster.commit_watchers.append(self._committed)

    def start(self) -> None:
        """They begin, and end with the other clients of leases."""
        self._put()
        self._ask()

    def _put(self) -> None:
        leasing, random = self._leasing, self._random
        if not leasing.running:
            return
        key = b"t%d" % random.randrange(KEYS)
        value = b"%d" % (len(self._clients.history) + 1)
        drawn = random.random()
        request: Request = Put(key, value)
        if drawn < 0.08:
            request = Delete(key)
        elif drawn > 0.16:
            ttl_ms = random.choice(TTLS_MS)
            request = PutWithTTL(key, value, leasing.new_lease(ttl_ms).id, ttl_ms)
        self._clients.ask(PUTTER, random.choice(self._cluster.members), request)
        leasing.world.after(int(random.expovariate(1.0) * PUT_US), self._put)

    def _ask(self) -> None:
        leasing, random = self._leasing, self._random
        if not leasing.running:
            return
        some = leasing.alive()
        if not some or random.random() < 0.3:
            some = list(leasing.held.values())[-12:]
        if some:
            node = self._cluster.nodes[random.choice(self._cluster.members)]
            leasing.ask(random.choice(some), node)
        leasing.world.after(int(random.expovariate(1.0) * ASK_US), self._ask)

    def _committed(self, entry: Entry) -> None:
        """An entry was applied for the first time."""
        identity = identity_of(entry.payload) if entry.kind == NORMAL else None
        if identity is None or identity > len(self._clients.history):
            return
        request = self._clients.history[identity - 1].request
        if isinstance(request, PutWithTTL):
            self._take(request, entry.index)
        elif isinstance(request, Put | Delete):
            self._lease_of.pop(request.key, None)

    def _take(self, request: PutWithTTL, index: int) -> None:
        """A lease begins, and that of the version before ends if it was the key's own."""
        leasing = self._leasing
        held = leasing.held[request.lease]
        leasing.begun(held, index)
        leasing.counts["puts with a TTL"] += 1
        leasing.promise(held, held.granted_us, request.ttl_ms * MILLISECOND)
        before = self._lease_of.get(request.key)
        self._lease_of[request.key] = request.lease
        if before is not None:
            if not leasing.held[before].ended_us:
                leasing.counts["leases replaced by a put"] += 1
            leasing.ended(before, by_clock=False)
