"""The connection of a member to its leader, as far as fast failover looks at it.

A process that ends closes its connections at once; the redial is refused as long as no
new process listens. Then, after 20 to 80 ms, the leader counts as gone. A cut network is
silence: nobody notices a closed connection. `raftkv.server` has the rule for real
connections; this is the same rule for virtual ones.
"""

from random import Random
from typing import TYPE_CHECKING

from raftkv.raft.types import NOBODY
from raftkv.sim.world import MILLISECOND

if TYPE_CHECKING:
    from raftkv.sim.node import Node


class LeaderLink:
    """Watches one member's connection to whoever leads."""

    def __init__(self, node: "Node", random: Random) -> None:
        self._node = node
        self._random = random
        self._closed = NOBODY  # the leader whose connection is closed

    def leader_changed(self) -> None:
        """An old suspicion says nothing about a new leader."""
        self._closed = NOBODY
        self.check()

    def closed(self, member: int) -> None:
        """The connection with `member` closed."""
        node = self._node
        if member != node.replica.leader or node.leads:
            return
        self._closed = member
        node.replica.core.leader_connection(False)
        delay_us = self._random.randint(20, 80) * MILLISECOND
        node.later(delay_us, self._gone, member, node.term)

    def _gone(self, member: int, term: int) -> None:
        node = self._node
        if self._closed == member == node.replica.leader and node.term == term:
            node.world.record("leader gone", node.member, member)
            node.replica.core.leader_lost()
            node.wake()

    def check(self) -> None:
        """If the leader can be reached the connection to it is open (again)."""
        node = self._node
        leader = node.cluster.nodes.get(node.replica.leader)
        if leader is None or leader is node or not leader.up:
            return
        connected = node.cluster.network.connected
        if connected(node.member, leader.member) and connected(leader.member, node.member):
            self._closed = NOBODY
            node.replica.core.leader_connection(True)
