"""How long a lease may be there that nobody renews, and whether members have the right ones.

While all is well the leader's clock ends a lease soon after its TTL. What is not well: a member is
down, stopped, cut off or on a wrong clock, a disk is slow, messages get lost, a membership change
is under way, or more requests wait than a turn takes; and every election is the end of a calm time.
From the later of these two on, the newest try to renew it and the beginning of the calm time, a
lease may have its TTL, what a new leader adds (`replica.lessor`: 1.1 election timeouts, after one
in which nothing ends), and some time for the entry (M06, M07, M11).

And who has applied all that was committed has exactly the leases that the log leaves.
"""

from typing import TYPE_CHECKING, Final

from raftkv.sim.invariants import InvariantBroken
from raftkv.sim.world import MILLISECOND, SECOND

if TYPE_CHECKING:
    from raftkv.sim.cluster import Cluster
    from raftkv.sim.leasing import Leasing
    from raftkv.sim.node import Node

LOOK_US: Final = 50 * MILLISECOND
ELECTIONS: Final = 2.5  # election timeouts that a new leader may add
ENTRY_US: Final = SECOND  # from the decision to the entry
CROWD: Final = 100  # requests that wait


class LeaseBounds:
    """See the module's docstring."""

    def __init__(self, leasing: "Leasing") -> None:
        self._leasing = leasing
        self._cluster: Cluster = leasing.cluster
        self._calm_since_us = 0

    def start(self) -> None:
        """Look from now on."""
        self._cluster.leader_watchers.append(self._elected)
        self._look()

    def _elected(self, member: int) -> None:
        self._calm_since_us = self._leasing.world.now_us

    def _look(self) -> None:
        world, checked = self._leasing.world, self._leasing.checked
        world.after(LOOK_US, self._look)
        self._compare()
        if self._troubled():
            self._calm_since_us = world.now_us
            return
        more_us = int(ELECTIONS * self._cluster.election_us) + ENTRY_US
        for held in self._leasing.alive():
            checked["lease bound"] += 1
            since_us = max(held.active_us, self._calm_since_us)
            if world.now_us > since_us + held.ttl_us + more_us:
                raise InvariantBroken("lease bound", f"{held} is there at {world.now_us}")

    def _troubled(self) -> bool:
        """Is anything not well?"""
        cluster, clients = self._cluster, self._cluster.clients
        network = cluster.network
        return (
            network.weather != network.fair
            or any(link.cuts for link in network.links.values())
            or not all(_well(cluster.nodes[member]) for member in cluster.goal)
            or not cluster.settled()
            or (clients is not None and len(clients.waiting) > CROWD)
        )

    def _compare(self) -> None:
        """The leases of a member against those of the committed log."""
        cluster, held = self._cluster, self._leasing.held
        expected = {one.id for one in self._leasing.alive()}
        for member in cluster.goal:
            node = cluster.nodes[member]
            if node.applied_index != cluster.invariants.last_committed:
                continue
            found = {one.id for one in node.replica.machine.leases if one.id in held}
            self._leasing.checked["lease set"] += 1
            if found != expected:
                raise InvariantBroken(
                    "leases", f"member {member} has {sorted(found)}, the log {sorted(expected)}"
                )


def _well(node: "Node") -> bool:
    disk = node.disk
    sick = node.paused or disk.slow_us or disk.stalled or disk.broken
    return node.up and not sick and node.clock.rate == 1.0
