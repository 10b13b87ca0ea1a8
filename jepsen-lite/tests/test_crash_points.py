"""D01, D16, D17, D18: a simulated member's life cut at its disk's operations (`sim.cuts`)."""

import pytest

from jepsen_lite.crash_points import kind_of, points_of, run_points
from raftkv.sim.cuts import AFTER, BEFORE, KILLED, MODES, MUTANTS, TORN, run_cut
from raftkv.sim.hunting import applied

SAMPLE_STEP = {1: 31, 3: 53}
RECEIVED = "a received state is not synced"


@pytest.mark.parametrize("nodes", [1, 3])
def test_the_script_meets_every_kind_of_disk_operation(nodes: int) -> None:
    base = points_of(nodes)
    assert not base.failure
    kinds = {kind_of(point) for point in base.calls}
    assert kinds >= {"commit log", "write mark", "sync mark", "create log", "remove log"}
    assert kinds >= {"write state", "sync state", "syncdir member", "mkdir state"}, kinds
    assert any(kind.startswith("rename identity") for kind in kinds)
    assert base.counts["checkpoints"] > 2
    assert base.counts["truncations"] > 2
    assert base.counts["restarts"] == 2
    assert base.compacted > 1
    assert base.installed == (0 if nodes == 1 else 1)
    assert points_of(nodes).calls == base.calls, "the same in every run"


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 3])
def test_a_cut_at_a_sample_of_the_operations_breaks_no_promise(nodes: int) -> None:
    """D01, D16, D17: `python jepsen-lite crash-points` cuts all of them."""
    base = points_of(nodes)
    points = range(nodes, len(base.calls), SAMPLE_STEP[nodes])
    results = list(run_points(nodes, points))
    assert {result.mode for result in results} == set(MODES)
    for result in results:
        assert not result.failure, f"{result.mode} {result.at} ({result.point}): {result.failure}"
        assert result.calls[: result.at + 1] == base.calls[: result.at + 1]


def test_each_way_to_cut_an_operation_takes_what_it_says() -> None:
    base = points_of(1)
    at = base.calls.index("write member/mark.a")
    for mode in (BEFORE, AFTER, TORN, KILLED):
        result = run_cut(1, at, mode)
        assert not result.failure
        assert result.point == "write member/mark.a"
        assert result.counts["restarts"] == 3


def test_a_missing_sync_that_the_next_checkpoint_makes_up_for_is_found_only_by_a_cut() -> None:
    """D16, D17: a received state becomes the current one before its rows are durable."""
    with applied(MUTANTS[RECEIVED]):
        base = points_of(3)
    assert not base.failure
    assert base.installed == 1
    made = base.calls.index("mkdir member/state-2")
    reset = base.calls.index("commit log", made)
    found = [
        bool(result.failure)
        for result in run_points(3, [made, reset + 3], (BEFORE,), mutant=RECEIVED)
    ]
    assert found == [False, True]


@pytest.mark.parametrize("mutant", sorted(MUTANTS.keys() - {RECEIVED}))
def test_a_missing_sync_is_found(mutant: str) -> None:
    """D18."""
    for nodes in (3, 1):
        points = range(2, len(points_of(nodes).calls), 21)
        for result in run_points(nodes, points, (BEFORE, AFTER), mutant=mutant):
            if result.failure:
                return
    raise AssertionError(f"nothing noticed that {mutant}")
