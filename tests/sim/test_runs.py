"""Whole runs: equal seeds give equal runs, pinned seeds stay green, fresh ones pass."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raftkv.sim.faults import KINDS
from raftkv.sim.profiles import draw_profile
from raftkv.sim.replay import Replay, read_seeds
from raftkv.sim.run import Summary, run_seed
from raftkv.sim.totals import Totals

SEEDS_FILE = Path(__file__).with_name("seeds.txt")


def must_pass(summary: Summary) -> Summary:
    assert not summary.failure, (
        f"python -m raftkv.sim --seed {summary.seed}\n{summary.failure}\n"
        + "\n".join(summary.trace[-40:])
    )
    return summary


def test_same_seed_gives_the_same_run() -> None:
    first, second = run_seed(11, seconds=4), run_seed(11, seconds=4)
    assert first.trace_hash == second.trace_hash
    assert first.events == second.events
    assert first.operations == second.operations > 50
    assert first.watching == second.watching
    assert first.watching["events"] > 50
    assert first.leasing == second.leasing
    assert first.leasing["renewed"]


def test_other_seed_gives_another_run() -> None:
    assert run_seed(11, seconds=4).trace_hash != run_seed(12, seconds=4).trace_hash


def test_hash_seed_of_the_process_does_not_matter() -> None:
    code = (
        "from raftkv.sim.run import run_seed\n"
        "print(*(run_seed(13, seconds=4, load=one).trace_hash for one in ('mixed', 'swarm')))"
    )
    hashes = set()
    for hash_seed in ("0", "1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=100,
        )
        hashes.add(done.stdout.strip())
    mixed, swarm = run_seed(13, seconds=4), run_seed(13, seconds=4, load="swarm")
    assert hashes == {f"{mixed.trace_hash} {swarm.trace_hash}"}


def test_profile_of_a_seed_is_fixed() -> None:
    assert draw_profile(5) == draw_profile(5)
    assert any(draw_profile(5) != draw_profile(seed) for seed in range(6, 9))
    assert {kind for seed in range(60) for kind in draw_profile(seed).kinds} == set(KINDS)


@pytest.mark.parametrize("pinned", read_seeds(SEEDS_FILE), ids=lambda one: str(one.seed))
@pytest.mark.slow
def test_pinned_seed_stays_green(pinned: Replay) -> None:
    must_pass(
        run_seed(pinned.seed, seconds=pinned.seconds, without=pinned.without, load=pinned.load)
    )


def test_pinned_seed_keeps_the_faults_that_it_was_found_with() -> None:
    """Kinds that came later would make another run of it."""
    pinned = {one.seed: one for one in read_seeds(SEEDS_FILE)}
    assert pinned[13].without == ("usurp", "watches", "leases", "sessions")
    assert draw_profile(13, without=pinned[13].without).kinds == ("mute leader", "partition")
    assert "usurp" in draw_profile(13).kinds


@pytest.mark.slow
def test_short_seeds_pass_and_do_enough() -> None:
    """A dozen and a half short runs; together they must have met the faults that matter."""
    totals = Totals()
    for seed in range(18):
        totals.add(must_pass(run_seed(seed, seconds=3)))
    assert totals.sums["operations"] > 2500
    assert totals.sums["acknowledged"] > totals.sums["operations"] // 2
    assert totals.sums["elections"] > totals.runs
    assert totals.sums["restarts"] > 10
    assert sum(totals.faults.values()) > 2 * totals.runs


def test_run_that_does_too_little_fails() -> None:
    """A test that does nothing must not be green."""
    from dataclasses import replace

    from raftkv.sim.run import Run

    load = replace(draw_profile(3).load, clients=0)
    idle = replace(draw_profile(3, 3, 2.0), load=load, sessions=0)
    assert "effort" in Run(3, idle).execute().failure
