"""The storm and the rule tests are worth something: known-wrong cores do not pass them."""

from collections.abc import Callable

import pytest

from raftkv.errors import RaftkvError
from tests.raft import mutants, test_changes, test_reads, test_replication
from tests.raft.mutants import STORMED, Mutant
from tests.raft.world import storm

TICKS = 60
SEEDS = 40


@pytest.mark.parametrize("mutant", STORMED, ids=lambda mutant: mutant.apply.__name__)
def test_the_storm_catches_the_mutant_and_spares_the_right_core(
    mutant: Mutant, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(mutant.first, mutant.first + SEEDS):
        with monkeypatch.context() as patch:
            mutant.apply(patch)
            try:
                storm(seed, TICKS, **mutant.options)
            except (AssertionError, RaftkvError):
                break
    else:
        pytest.fail(f"{mutant.apply.__name__} survived {SEEDS} seeds")
    storm(seed, TICKS, **mutant.options)


@pytest.mark.parametrize(
    ("mutate", "promise"),
    [
        (
            mutants.commit_beyond_verified,
            test_replication.test_commit_follows_the_leader_but_not_beyond_what_the_append_verified,
        ),
        (
            mutants.claims_survive_truncation,
            test_replication.test_an_old_batch_does_not_vouch_for_entries_that_replaced_its_own,
        ),
        (
            mutants.reads_survive_leader_change,
            test_reads.test_reads_of_a_follower_are_lost_when_its_leader_changes,
        ),
        (
            mutants.change_before_own_commit,
            test_changes.test_no_change_before_the_leader_committed_in_its_own_term,
        ),
        (mutants.changes_overlap, test_changes.test_a_second_change_waits_for_the_first),
    ],
    ids=lambda value: value.__name__,
)
def test_the_rule_test_catches_the_mutant(
    mutate: Callable[[pytest.MonkeyPatch], None],
    promise: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """These break promises that a storm meets too rarely, or that only forbid luck."""
    mutate(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        promise()
