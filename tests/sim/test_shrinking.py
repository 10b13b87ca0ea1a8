"""A failing run is made smaller, and what is left fails alike."""

import re
import shlex
from collections.abc import Collection

import pytest
from click.testing import CliRunner

from raftkv.sim.__main__ import main
from raftkv.sim.episodes import Episode
from raftkv.sim.replay import Replay
from raftkv.sim.run import Summary
from raftkv.sim.shrinking import shrink
from raftkv.sim.world import SECOND

EPISODES = [
    Episode(f"{number // 10 + 1}.{number % 10 + 1}", ("pause", "flap", "usurp")[number % 3], 0)
    for number in range(60)
]
WHOLE = Replay(1, 60.0, load="swarm")


class Fake:
    """Fails if all of `needed` happen in at least so many seconds of faults."""

    def __init__(self, needed: Collection[str], seconds: float = 5.0) -> None:
        self.needed = set(needed)
        self.seconds = seconds
        self.runs = 0

    def __call__(self, replay: Replay) -> Summary:
        self.runs += 1
        only = None if replay.only is None else set(replay.only)
        episodes = [one for one in EPISODES if only is None or one.name in only]
        broken = self.needed <= {one.name for one in episodes} and replay.seconds >= self.seconds
        summary = Summary(1, fault_us=40 * SECOND, episodes=episodes)
        if broken:
            summary.rule, summary.failure = "election safety", "election safety: two"
        return summary


def test_only_the_episodes_that_matter_are_left() -> None:
    fake = Fake({"1.4", "3.5"})
    shrunk = shrink(WHOLE, fake(WHOLE), runs=200, run=fake)
    assert set(shrunk.replay.only or ()) == {"1.4", "3.5"}
    assert 5.0 <= shrunk.replay.seconds < 6.0
    assert shrunk.replay.without == ("watches", "sessions", "leases")
    assert shrunk.runs == fake.runs - 1


def test_kinds_that_do_not_matter_go_first() -> None:
    fake = Fake({"2.1"})
    shrunk = shrink(WHOLE, fake(WHOLE), runs=8, run=fake)
    assert {one.kind for one in shrunk.summary.episodes} == {"flap"}


def test_budget_of_runs_is_kept_and_the_smallest_failing_run_is_the_result() -> None:
    fake = Fake({"1.4", "3.5", "5.5"})
    first = fake(WHOLE)
    shrunk = shrink(WHOLE, first, runs=9, run=fake)
    assert shrunk.runs == fake.runs - 1 == 9
    assert fake(shrunk.replay).rule == "election safety"
    assert len(shrunk.replay.only or ()) < len(EPISODES)


def test_failure_of_another_rule_is_not_taken_for_the_same() -> None:
    fake = Fake({"1.4"})
    other = Summary(1, rule="liveness", failure="liveness: none", episodes=EPISODES)
    shrunk = shrink(WHOLE, other, runs=30, run=fake)
    assert shrunk.replay.only == tuple(one.name for one in EPISODES)
    assert shrunk.summary is other


MUTANT = "a checkpoint that syncs nothing"
WORDS = ["--load", "calm", "--seconds", "40", "--nodes", "3", "--processes", "1"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_mutant_is_shrunk_to_a_few_episodes_and_the_printed_command_fails_alike() -> None:
    """The whole way: a series meets the mutant, and the last command that it prints is run."""
    done = CliRunner().invoke(main, ["--seeds", "1", *WORDS, "--mutant", MUTANT])
    assert done.exit_code == 1, done.output
    assert "FAILED: CorruptionError: " in done.output
    met = re.search(r"(\d+) faults \|", done.output)
    shrunk = re.search(r"to (\d+) episodes of (\d+) kinds", done.output)
    assert met, done.output
    assert shrunk, done.output
    assert int(met[1]) >= 8
    assert 1 <= int(shrunk[1]) <= 3
    assert int(shrunk[2]) <= 3
    printed = [line for line in done.output.splitlines() if "replay: " in line]
    assert len(printed) == 2
    words = shlex.split(printed[1].partition("raftkv.sim ")[2])
    replayed = CliRunner().invoke(main, [word for word in words if word != "--verbose"])
    assert replayed.exit_code == 1
    assert "FAILED: CorruptionError: " in replayed.output
    right = words[: words.index("--mutant")]
    assert CliRunner().invoke(main, right).exit_code == 0  # so it is the mutant that was cornered
