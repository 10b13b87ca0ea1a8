"""Hand-made scenarios: a small cluster with clients, without a nemesis."""

from itertools import pairwise
from typing import Any

import pytest

from raftkv.sim.clients import Load
from raftkv.sim.cluster import Cluster, Timing
from raftkv.sim.node import Node
from raftkv.sim.operations import Operation, Outcome, Request
from raftkv.sim.profiles import Profile
from raftkv.sim.run import Run
from raftkv.sim.world import MILLISECOND, SECOND

TIMING = Timing(tick_us=50 * MILLISECOND, snapshot_count=1000, catch_up_entries=100)
LOAD = Load(clients=4, think_us=60 * MILLISECOND, timeout_us=2 * SECOND)
ASKER = 500_000  # client number of hand-made requests


def change_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members change only when the test says so; answers to a list are appended to it."""
    monkeypatch.setattr(Cluster, "_administer", lambda self: None)
    answer = Node._answer

    def keep(self: Node, asker: Any, result: Any) -> None:
        if isinstance(asker, list):
            asker.append(result)
        else:
            answer(self, asker, result)

    monkeypatch.setattr(Node, "_answer", keep)


class Scenario(Run):
    """A running cluster. `begin` was called: it has a leader and busy clients."""

    def __init__(
        self, seed: int = 1, nodes: int = 3, timing: Timing = TIMING, load: Load = LOAD
    ) -> None:
        super().__init__(seed, Profile(nodes, timing, load, (), 0, 0))
        self._asked = 0
        self.begin()

    @property
    def leader(self) -> Node:
        """The leader; there is one."""
        leader = self.cluster.leader()
        assert leader is not None, self.cluster.describe()
        return leader

    @property
    def followers(self) -> list[Node]:
        """The other members."""
        leader = self.leader
        return [node for node in self.cluster.nodes.values() if node is not leader]

    def elections(self, count: float) -> None:
        """Let `count` election timeouts pass."""
        self.run_for(int(count * self.cluster.election_us))

    def ask(self, node: Node, request: Request) -> Operation:
        """Send a request to `node` now, from a client of its own."""
        self._asked += 1
        return self.clients.ask(ASKER + self._asked, node.member, request)

    def answer(self, node: Node, request: Request) -> Operation:
        """The request with its answer; it must be answered well."""
        operation = self.ask(node, request)
        self.world.run_while(
            lambda: operation.identity in self.clients.waiting, self.world.now_us + 10 * SECOND
        )
        assert operation.outcome is Outcome.OK, operation
        return operation

    def cut(self, *pairs: tuple[Node, Node]) -> None:
        """Cut both directions between the two of each pair."""
        for left, right in pairs:
            self.cluster.network.cut(left.member, right.member)
            self.cluster.network.cut(right.member, left.member)

    def isolate(self, node: Node) -> None:
        """Cut `node` off from everyone."""
        self.cut(*[(node, other) for other in self.cluster.nodes.values() if other is not node])

    def acknowledged_since(self, time_us: int) -> list[int]:
        """Times of acknowledgements after `time_us`."""
        return [time for time in self.clients.acknowledged_at_us if time > time_us]

    def longest_pause_us(self, time_us: int) -> int:
        """The longest time without an acknowledgement since `time_us`."""
        times = [time_us, *self.acknowledged_since(time_us), self.world.now_us]
        return max(later - earlier for earlier, later in pairwise(times))
