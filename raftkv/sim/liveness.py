"""The liveness phase: when faults have ended the cluster must work again, and go on working.

A safety phase lets faults do what they like and asks only that nothing wrong happens. A liveness
phase behind it makes two promises with numbers:

* It comes back. From the moment at which a majority is whole (runs, reaches each other, disks and
  clocks well) it must acknowledge an operation within `recovery_us`: ten election timeouts and five
  seconds of virtual time. By then all of it must have applied what was committed, but for whom the
  leader does not reach: a broken leader may still reach a majority and leave one of the well ones
  out (R08).
* It goes on. A minority (the leader may be among it) is broken at that moment and stays so for the
  whole phase, each member in a way of its own (`sim.minority`), some of which never leave the
  others in peace: crash loops, links that flap, a member that hears only some. Once the majority
  has come back, some operation that was sent to one of its members must be acknowledged in every
  `PAUSE_ELECTIONS` election timeouts and a second.

What is asked here comes from a client of its own, one operation every quarter of an election
timeout, whether or not the others were answered. The other clients ask broken members too and wait
for them, so they cannot be the measure.
"""

from random import Random
from typing import TYPE_CHECKING, Final, Protocol

from raftkv.sim.episodes import MINORITY, EpisodicNemesis, episode_name
from raftkv.sim.faults import Undo
from raftkv.sim.invariants import InvariantBroken
from raftkv.sim.minority import BREAKS
from raftkv.sim.operations import Operation, Outcome
from raftkv.sim.world import SECOND

if TYPE_CHECKING:
    from raftkv.sim.cluster import Cluster
    from raftkv.sim.swarm import Swarm

RECOVERY_ELECTIONS: Final = 10
PAUSE_ELECTIONS: Final = 5
ALL_WELL: Final = 0.25  # of the phases nobody stays broken
PROBES_PER_ELECTION: Final = 4


def recovery_us(election_us: int) -> int:
    """How long a majority may take to work again."""
    return RECOVERY_ELECTIONS * election_us + 5 * SECOND


def longest_pause_us(election_us: int) -> int:
    """How long no operation may be acknowledged while a majority is well and a minority broken."""
    return PAUSE_ELECTIONS * election_us + SECOND


class Prober(Protocol):
    """The run, as far as a liveness phase needs it."""

    def run_for(self, duration_us: int) -> None:
        """Let virtual time pass."""

    def must_settle(self) -> None:
        """Those that should vote are the voters, and converge, in time."""

    def probe(self, members: list[int]) -> Operation:
        """Ask one of `members` for something now."""


class Liveness:
    """All liveness phases of a run.

    phases: how many had a broken minority. longest_pause: the longest that was seen, in election
    timeouts. slowest_recovery_us: of a majority.
    """

    def __init__(
        self, run: Prober, cluster: "Cluster", nemesis: EpisodicNemesis, swarm: "Swarm"
    ) -> None:
        self.phases = 0
        self.longest_pause = 0.0
        self.slowest_recovery_us = 0
        self._run = run
        self._cluster = cluster
        self._world = cluster.world
        self._nemesis = nemesis
        self._swarm = swarm

    def phase(self, round_number: int) -> None:
        """The phase behind the faults of a round. InvariantBroken if a promise is."""
        cluster, run = self._cluster, self._run
        cluster.heal()
        if not cluster.settled():
            run.must_settle()
        name = episode_name(round_number, MINORITY)
        random = self._nemesis.stream(name)
        well = random.random() < ALL_WELL or not self._swarm.has(name)
        undos = {} if well else self._break(name, random)
        healthy = [member for member in cluster.goal if member not in undos]
        began_us = self._world.now_us
        self._must_come_back(healthy)
        self.slowest_recovery_us = max(self.slowest_recovery_us, self._world.now_us - began_us)
        if undos:
            self.phases += 1
            self._must_go_on(healthy, int(random.uniform(4, 12) * cluster.election_us))
        for undo in undos.values():
            undo()
        run.must_settle()

    def _break(self, name: str, random: Random) -> dict[int, Undo]:
        """Break a minority of the voters. Returns how to end that, by member."""
        cluster = self._cluster
        voters = cluster.voters()
        leader = cluster.leader()
        random.shuffle(voters)
        if leader is not None and leader.member in voters and random.random() < 0.5:
            voters.remove(leader.member)
            voters.insert(0, leader.member)
        undos: dict[int, Undo] = {}
        for member in voters[: random.randint(1, (len(voters) - 1) // 2)]:
            kind = random.choice(list(BREAKS))
            self._world.record("broken", member, kind)
            self._nemesis.counts[f"minority {kind}"] += 1
            self._nemesis.struck[f"minority {kind}"] += 1
            self._nemesis.struck_by(name, f"minority {kind}")
            undos[member] = BREAKS[kind](cluster, member, random)
        return undos

    def _must_come_back(self, healthy: list[int]) -> None:
        world, cluster = self._world, self._cluster
        limit_us = world.now_us + recovery_us(cluster.election_us)
        asked: list[Operation] = []
        while not any(one.outcome is Outcome.OK for one in asked):
            if world.now_us >= limit_us:
                raise InvariantBroken(
                    "recovery", f"{healthy} acknowledged nothing: {cluster.describe()}"
                )
            asked.append(self._run.probe(healthy))
            self._run.run_for(cluster.election_us // PROBES_PER_ELECTION)
        target = cluster.invariants.last_committed
        if not world.run_while(lambda: self._behind(healthy, target), limit_us):
            raise InvariantBroken(
                "recovery", f"some of {healthy} did not apply {target}: {cluster.describe()}"
            )

    def _behind(self, healthy: list[int], target: int) -> bool:
        """Has one of these, whom the leader reaches, not applied `target`?"""
        cluster = self._cluster
        leader = cluster.leader()
        if leader is None:
            return True
        connected = cluster.network.connected
        reached = [
            one
            for one in healthy
            if one == leader.member
            or (connected(one, leader.member) and connected(leader.member, one))
        ]
        return cluster.behind(reached, target) != []

    def _must_go_on(self, healthy: list[int], duration_us: int) -> None:
        world, election_us = self._world, self._cluster.election_us
        end_us = world.now_us + duration_us
        limit_us = longest_pause_us(election_us)
        waiting: list[Operation] = []
        newest_us = world.now_us  # of an acknowledgement
        while world.now_us < end_us:
            waiting.append(self._run.probe(healthy))
            self._run.run_for(election_us // PROBES_PER_ELECTION)
            answered = [one for one in waiting if one.outcome is Outcome.OK]
            waiting = [one for one in waiting if one.outcome is not Outcome.OK]
            for one in answered:
                assert one.returned_us is not None
                self._saw(one.returned_us - newest_us)
                newest_us = max(newest_us, one.returned_us)
            if world.now_us - newest_us > limit_us:
                raise InvariantBroken(
                    "liveness",
                    f"no operation of {healthy}, which are well, was acknowledged in "
                    f"{(world.now_us - newest_us) / SECOND} s: {self._cluster.describe()}",
                )
        self._saw(world.now_us - newest_us)

    def _saw(self, pause_us: int) -> None:
        self.longest_pause = max(self.longest_pause, pause_us / self._cluster.election_us)
