"""The nemesis of long runs: every fault is an episode with a name, and any may be left out.

An episode is called `round.number`: the second fault of the third round is `3.2`. Its kind, when it
begins, how long it lasts and what it strikes come from a random stream of its own, seeded by
(seed, name). So a run in which some episodes are left out has all the others, at the same times,
and `sim.shrinking` can look for the few that a failure needs. `3.0` is not a fault of the fault
phase but the minority that stays broken in the liveness phase behind it (`sim.liveness`).

A fault strikes what is there: "isolate leader" needs a leader, so what came before decides whether
and whom it strikes. That does not spoil the search: a subset counts only if it was run and failed.
"""

from random import Random
from typing import TYPE_CHECKING, Final, NamedTuple

from raftkv.sim.faults import LASTS, Nemesis, done
from raftkv.sim.world import MILLISECOND, SECOND, World

if TYPE_CHECKING:
    from raftkv.sim.cluster import Cluster
    from raftkv.sim.swarm import Swarm

MINORITY: Final = 0  # the number of the episode of a liveness phase


class Episode(NamedTuple):
    """A fault that struck. at_us: virtual time."""

    name: str
    kind: str
    at_us: int


def episode_name(round_number: int, number: int) -> str:
    """What an episode is called. Both count from 1; `MINORITY` is a number as well."""
    return f"{round_number}.{number}"


def round_of(name: str) -> int:
    """The round of an episode; ValueError if it is no name of one."""
    round_number, number = name.split(".")
    int(number)
    return int(round_number)


class EpisodicNemesis(Nemesis):
    """See the module's docstring. episodes: what has struck so far, in order."""

    def __init__(self, world: World, cluster: "Cluster", kinds: list[str], swarm: "Swarm") -> None:
        super().__init__(world, cluster, kinds)
        self.episodes: list[Episode] = []
        self._swarm = swarm
        self._round = 0
        self._number = 0

    def stream(self, name: str) -> Random:
        """The random stream of an episode."""
        return self._world.stream(f"episode/{name}")

    def struck_by(self, name: str, kind: str) -> None:
        """An episode has done its harm."""
        self.episodes.append(Episode(name, kind, self._world.now_us))

    def begin(self, number: int) -> None:
        """See Nemesis."""
        self._running = True
        self._round = number
        self._number = 0
        self._schedule()

    def _schedule(self) -> None:
        """Draw the next episode but for what it strikes."""
        self._number += 1
        name = episode_name(self._round, self._number)
        random = self.stream(name)
        pause_us = int(random.expovariate(1.0) * self._swarm.pause_us)
        kind = random.choice(self.kinds)
        lasts_us = int(random.choice(LASTS) * random.random() * SECOND * self._swarm.lasting)
        self._world.after(pause_us + MILLISECOND, self._begin, self._round, name, kind, lasts_us)

    def _begin(self, round_number: int, name: str, kind: str, lasts_us: int) -> None:
        if not self._running or round_number != self._round:
            return
        if self._swarm.has(name):
            undo = self._strike(kind, self.stream(f"{name}/strike"))
            if undo is not None:
                self.struck_by(name, kind)
                if undo is not done:
                    self._undo_later(kind, undo, lasts_us)
        self._schedule()
