"""Watches in whole runs: they are told what the committed log has, and wrong hubs are noticed."""

import pytest

from raftkv.sim import watch_mutants
from raftkv.sim.mutants import MUTANTS, Mutant, hunt
from raftkv.sim.run import run_seed

HUB_MUTANTS = {name for name, _ in watch_mutants.PATCHES}


def test_watches_of_a_run_see_much_and_are_resumed() -> None:
    """W01, W02, W05: a few seeds together must have met all that can happen to a watch."""
    counts = {"events": 0, "bookmarks": 0, "resumes": 0, "stalls": 0, "compacted": 0}
    for seed in (2, 17, 19):
        summary = run_seed(seed, nodes=3, seconds=5)
        assert not summary.failure, summary.failure
        for name in counts:
            counts[name] += summary.watching[name]
    assert counts["events"] > 500
    assert all(counts.values()), counts


def test_run_without_watches_is_possible() -> None:
    summary = run_seed(2, nodes=3, seconds=2, without=("watches",))
    assert not summary.failure
    assert not summary.watching["events"]


@pytest.mark.parametrize(
    "mutant", [one for one in MUTANTS if one.name in HUB_MUTANTS], ids=lambda one: one.name
)
def test_wrong_hub_is_noticed_by_its_watches(mutant: Mutant) -> None:
    """W01, W05, W06, W18: not by anything else that fails a run."""
    taken, summary = hunt(mutant)
    assert taken
    assert summary.failure.startswith("InvariantBroken: watch")
