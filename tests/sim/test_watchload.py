"""The load for watches: it meets what can happen to a watch, and notices wrong hubs."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner

from raftkv.sim import floors, watch_mutants
from raftkv.sim.__main__ import main
from raftkv.sim.faults import KINDS, Nemesis, done
from raftkv.sim.hunting import hunt, profile_of
from raftkv.sim.mutants import MUTANTS, Mutant
from raftkv.sim.profiles import watch_profile
from raftkv.sim.replay import Replay, read_seeds
from raftkv.sim.run import Run, Summary, run_seed
from raftkv.sim.totals import Totals
from raftkv.sim.world import SECOND
from tests.sim.scenario import Scenario

VIEWED = [
    mutant
    for mutant in MUTANTS
    if mutant.name in {name for name, _ in watch_mutants.VIEWED_PATCHES}
]
SEEDS = 3  # by then every wrong hub was noticed


def small(seed: int) -> Summary:
    """A short run with few viewers."""
    profile = replace(watch_profile(seed, 3, 1.0), viewers=3, kinds=("crash one", "isolate one"))
    return Run(seed, profile).execute()


@pytest.mark.slow
def test_same_seed_gives_the_same_run_of_the_load_for_watches() -> None:
    first, second = small(5), small(5)
    assert not first.failure, first.failure
    assert first.trace_hash == second.trace_hash
    assert first.viewing == second.viewing
    assert first.checked == second.checked
    assert first.viewing["events checked"] > 5000


def test_what_validators_have_checked_is_in_the_summary() -> None:
    summary = small(6)
    events = summary.viewing["events checked"] + summary.watching["events"]
    assert events > 5000
    assert summary.checked["reliable"] == summary.checked["prev_kv"] == events
    assert summary.checked["closed"] > summary.checked["atomic"] > 100
    assert summary.checked["bookmarkable"] > 10


def test_compaction_is_asked_for_every_100_ms() -> None:
    """W06"""
    profile = replace(watch_profile(7, 3, 2.0), viewers=2, kinds=("bad weather", "transfer"))
    run = Run(7, profile)
    run.begin()
    before = run.load.counts["compactions asked"]
    run.run_for(2 * SECOND)
    assert 15 <= run.load.counts["compactions asked"] - before <= 20


@pytest.mark.slow
@pytest.mark.parametrize("mutant", VIEWED, ids=lambda mutant: mutant.name)
def test_wrong_hub_is_noticed_by_the_load_for_watches(mutant: Mutant) -> None:
    """W01, W05, W06, W08, W09: noticed by validators of watches, not by anything else."""
    taken, summary = hunt(mutant)
    assert 0 < taken <= SEEDS  # so the next test shows that it was the mutant
    assert summary.failure.startswith("InvariantBroken: watch")


@pytest.mark.slow
def test_right_hub_passes_where_wrong_ones_were_noticed() -> None:
    for seed in range(SEEDS):
        (profile,) = {profile_of(mutant, seed) for mutant in VIEWED}
        assert not Run(seed, profile).execute().failure


@pytest.mark.slow
def test_run_of_the_load_for_watches_meets_everything() -> None:
    """W01, W02, W05, W06, W13, W18: all floors reached."""
    totals = Totals()
    summary = run_seed(302, seconds=3, load="watch")
    assert not summary.failure, summary.failure
    totals.add(summary)
    assert totals.checked["reliable"] > 300_000
    assert floors.watching_missing(totals.viewing, totals.runs, 3) == []


def test_viewer_whose_member_ends_before_its_requests_arrive_goes_on_elsewhere() -> None:
    """It waited for ever at a process that had never heard of it. Found by seed 2003."""
    profile = replace(watch_profile(8, 3, 1.0), viewers=1, kinds=("transfer",))
    run = Run(8, profile)
    run.begin()
    run.load.stop()
    (viewer,) = run.load._viewers
    viewer.leave()
    run.world.run_while(lambda: not viewer.member, run.world.now_us + SECOND)
    member, created = viewer.member, run.load.counts["created"]
    run.cluster.nodes[member].crash()
    run.run_for(SECOND)
    assert viewer.member not in (0, member)
    assert run.load.counts["created"] > created
    run.cluster.heal()
    run.finish()


# --- floors -----------------------------------------------------------------------------


def test_fault_that_never_struck_is_reported() -> None:
    chosen, struck = Counter({"usurp": 1, "pause": 10}), Counter({"usurp": 1, "pause": 5})
    assert floors.faults_missing(chosen, struck, 12, even=True) == []
    assert floors.faults_missing(chosen, struck - Counter({"usurp": 1}), 12, even=True)
    assert floors.faults_missing(chosen, struck - Counter({"pause": 1}), 12, even=True)
    few = Counter({"usurp": 1})
    assert floors.faults_missing(chosen, few, floors.ALL_STRUCK_RUNS - 1, even=False) == []
    assert len(floors.faults_missing(chosen, few, floors.ALL_STRUCK_RUNS, even=False)) == 1


def test_too_little_of_anything_is_reported() -> None:
    enough = Counter({name: 10 * number for name, number in floors.WATCHED.items()})
    assert floors.watching_missing(enough, 10, floors.SECONDS) == []
    for name in floors.WATCHED:
        less = enough - Counter({name: 1})
        assert len(floors.watching_missing(less, 10, floors.SECONDS)) == 1
        assert floors.watching_missing(less, 10, floors.SECONDS / 2) == []


def test_too_few_events_fail_a_whole_run() -> None:
    totals = Totals()
    totals.add(Summary(1, checked=Counter({"reliable": 99})))
    assert totals.missing("mixed", 20, 99) == []
    assert "99 of at least 100" in totals.missing("mixed", 20, 100)[0]


def test_command_fails_if_too_little_was_checked_and_says_what_was() -> None:
    words = ["--seeds", "1", "--seconds", "1", "--processes", "1"]
    enough = CliRunner().invoke(main, words)
    assert enough.exit_code == 0, enough.output
    for line in ("faults that struck: ", "checked: ", "leases: "):
        assert f"\n{line}" in enough.output
    too_little = CliRunner().invoke(main, [*words, "--least-events", "1000000"])
    assert too_little.exit_code == 1
    assert "too little: checked events of watches: " in too_little.output


def test_pinned_seed_may_be_of_the_load_for_watches(tmp_path: Path) -> None:
    file = tmp_path / "seeds.txt"
    file.write_text("7 5 -usurp +watch  # what it found\n8 6\n")
    assert read_seeds(file) == [
        Replay(7, 5.0, ("usurp",), "watch"),
        Replay(8, 6.0, (), "mixed"),
    ]
    assert "--load watch" in read_seeds(file)[0].command()


# --- faults in turn ----------------------------------------------------------------------


def test_every_kind_of_fault_can_strike_and_is_counted_only_if_it_did() -> None:
    run = Scenario(nodes=3)
    struck = {kind for kind in KINDS if _strike(run, kind)}
    assert struck == set(KINDS)
    for node in run.cluster.nodes.values():
        node.crash()
    assert not KINDS["crash leader"](run.cluster, Random(1))
    assert not KINDS["transfer"](run.cluster, Random(1))


def _strike(run: Scenario, kind: str) -> bool:
    undo = KINDS[kind](run.cluster, Random(1))
    if undo is not None and undo is not done:
        undo()
    run.cluster.heal()
    run.must_settle()
    return undo is not None


def test_faults_have_their_turn_where_that_is_asked_for() -> None:
    run = Scenario()
    kinds = ["pause", "transfer", "slow disk", "clock rate"]
    nemesis = Nemesis(run.world, run.cluster, kinds, even=True)
    nemesis.begin(1)
    run.run_for(20 * SECOND)
    nemesis.end()
    run.cluster.heal()
    counts = [nemesis.counts[kind] for kind in kinds]
    assert min(counts) > 5
    assert max(nemesis.struck[kind] for kind in kinds) - min(nemesis.struck.values()) <= 1
    run.finish()
