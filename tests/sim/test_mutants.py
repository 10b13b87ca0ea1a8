"""Every known-wrong variant of the code is noticed by the simulator."""

import pytest

from raftkv.sim import session_mutants, ttl_mutants, watch_mutants
from raftkv.sim.mutants import MUTANTS, Mutant, applied, hunt
from raftkv.sim.run import run_seed

# test_sessioning, test_ttl_puts, test_watching and test_watchload hunt these, and look at what
# noticed them.
PATCHES_HUNTED_ELSEWHERE = (
    *session_mutants.PATCHES,
    *ttl_mutants.PATCHES,
    *watch_mutants.PATCHES,
    *watch_mutants.VIEWED_PATCHES,
)
# Only many seeds bring these out: `python -m raftkv.sim --mutants` hunts them with all others.
RARE = {
    "commit without a majority",
    "read before the own term commits",
    "read joins the open round",
    "truncate on a stale append",
    "let what was decided for a lease meet a later one of its id",
}
OTHERS = [
    one for one in MUTANTS if one.name not in RARE | {name for name, _ in PATCHES_HUNTED_ELSEWHERE}
]


def test_there_are_enough_mutants_with_names_of_their_own() -> None:
    assert len(MUTANTS) >= 12
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert {mutant.name for mutant in MUTANTS} >= RARE


def test_patches_are_undone() -> None:
    before = [vars(owner)[name] for mutant in MUTANTS for owner, name, _ in mutant.patches]
    for mutant in MUTANTS:
        with applied(mutant):
            owner, name, replacement = mutant.patches[0]
            assert vars(owner)[name] is replacement
    after = [vars(owner)[name] for mutant in MUTANTS for owner, name, _ in mutant.patches]
    assert before == after


def test_mutants_are_told_from_the_real_code() -> None:
    """A seed that kills a mutant passes without it, so it is the mutant that was noticed."""
    mutant = next(mutant for mutant in MUTANTS if mutant.name == "a disk that does not sync")
    taken, summary = hunt(mutant)
    assert taken
    assert summary.failure
    assert not run_seed(summary.seed, nodes=3, seconds=3).failure


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutant", OTHERS, ids=lambda mutant: mutant.name)
def test_mutant_is_killed(mutant: Mutant) -> None:
    taken, _ = hunt(mutant)
    assert taken, f"{mutant.name!r} survived {mutant.seeds} seeds"
