"""Makes a failing run smaller: delta debugging over the faults of a seed.

A run of a long load is a list of episodes with names (`sim.episodes`), and any subset can be run.
The search asks again and again "does it still break the same rule?" and keeps the smaller of two
that do:

1. the virtual time behind the failure goes, and what had not struck by then;
2. what clients do besides plain operations: watches, leases, sessions;
3. whole kinds of faults, one after the other;
4. single episodes: halves, quarters, ... of what is left are taken away (Zeller and Hildebrandt's
   ddmin), until no single one can be missed;
5. shorter time: the end of the last fault phase, by halving.

Every answer is a run of the real thing, so the result needs no proof: it was run, and failed. The
budget is a number of runs; when it is spent the smallest failing run so far is the result.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from raftkv.sim.profiles import LEASES, SESSIONS, WATCHES
from raftkv.sim.replay import EPISODIC, Replay
from raftkv.sim.run import Summary
from raftkv.sim.world import SECOND

DEFAULT_RUNS: Final = 80
_SECONDS_STEP: Final = 0.5
_SPARE: Final = (WATCHES, SESSIONS, LEASES)

RunIt: TypeAlias = Callable[[Replay], Summary]


@dataclass(slots=True)
class Shrunk:
    """replay, summary: the smallest run that fails alike. runs: how many it took."""

    replay: Replay
    summary: Summary
    runs: int

    def lines(self) -> list[str]:
        """What is left, as text."""
        episodes = self.summary.episodes
        kinds = sorted({one.kind for one in episodes})
        found = [
            f"shrunk in {self.runs} runs to {len(self.replay.only or ())} episodes of "
            f"{len(kinds)} kinds in {self.replay.seconds:g} s of faults: "
            f"{self.summary.failure.splitlines()[0]}"
        ]
        found += [f"  {one.name:6} {one.at_us / SECOND:10.3f} s  {one.kind}" for one in episodes]
        return [*found, f"  replay: {self.replay.command()}"]


class _Spent(Exception):
    """The budget of runs is spent."""


class _Search:
    def __init__(self, replay: Replay, summary: Summary, run: RunIt, runs: int) -> None:
        self.best = replay
        self.summary = summary
        self.runs = 0
        self._run = run
        self._left = runs
        self._tried: set[Replay] = {replay}

    def attempt(self, replay: Replay) -> bool:
        """Does this one fail alike? Then it is the best so far."""
        if replay in self._tried:
            return False
        self._tried.add(replay)
        if not self._left:
            raise _Spent
        self._left -= 1
        self.runs += 1
        summary = self._run(replay)
        if summary.rule != self.summary.rule:
            return False
        self.best, self.summary = replay, summary
        return True

    def keep(self, names: Sequence[str]) -> bool:
        """Does it fail alike with these episodes only?"""
        return self.attempt(self.best._replace(only=tuple(names)))

    @property
    def names(self) -> list[str]:
        """Of the episodes that are left, and struck."""
        return list(dict.fromkeys(one.name for one in self.summary.episodes))

    def cut_the_end(self) -> None:
        """What had not begun when it failed had no part in it."""
        ended = -(-self.summary.fault_us // 100_000) / 10
        seconds = min(self.best.seconds, ended)
        self.attempt(self.best._replace(seconds=seconds, only=tuple(self.names)))

    def spare_clients(self) -> None:
        """Without watches, sessions, leases."""
        for one in _SPARE:
            if one not in self.best.without:
                self.attempt(self.best._replace(without=(*self.best.without, one)))

    def drop_kinds(self) -> None:
        """Kind by kind, the commonest first: it takes most away."""
        kinds = [one.kind for one in self.summary.episodes]
        for kind in sorted(set(kinds), key=lambda one: (-kinds.count(one), one)):
            others = {one.name for one in self.summary.episodes if one.kind != kind}
            self.keep([name for name in self.names if name in others])

    def drop_episodes(self) -> None:
        """ddmin."""
        parts = 2
        while self.names:
            names = self.names
            parts = min(parts, len(names))
            size = -(-len(names) // parts)
            for start in range(0, len(names), size):
                if self.keep(names[:start] + names[start + size :]):
                    parts = max(parts - 1, 2)
                    break
            else:
                if size == 1:
                    return
                parts = 2 * parts

    def shorten(self) -> None:
        """The least time of faults that still does it."""
        low, high = 0.0, self.best.seconds
        while high - low > _SECONDS_STEP:
            middle = round((low + high) / 2, 1)
            if self.attempt(self.best._replace(seconds=middle)):
                high = middle
            else:
                low = middle


def shrink(
    replay: Replay, summary: Summary, *, runs: int = DEFAULT_RUNS, run: RunIt = Replay.run
) -> Shrunk:
    """The smallest run like this failing one that `runs` runs find.

    summary: of `replay`, which failed and is of a load with episodes. run: how to run one.
    """
    assert summary.failure
    assert replay.load in EPISODIC
    search = _Search(replay, summary, run, runs)
    try:
        search.cut_the_end()
        search.spare_clients()
        search.drop_kinds()
        search.drop_episodes()
        search.shorten()
    except _Spent:
        pass
    if search.best.only is None:  # say which ones there are
        search.best = replay._replace(only=tuple(search.names))
    return Shrunk(search.best, search.summary, search.runs)
