"""Scenarios of the failure catalogue about state transfers (Raft 7)."""

from dataclasses import replace

import pytest

from raftkv.sim import transfer
from raftkv.sim.node import Node
from raftkv.sim.world import MILLISECOND, SECOND
from tests.sim.scenario import LOAD, TIMING, Scenario

SMALL = replace(TIMING, tick_us=20 * MILLISECOND, snapshot_count=20, catch_up_entries=5)
BUSY = replace(LOAD, put=60, clients=8, think_us=20 * MILLISECOND, timeout_us=300 * MILLISECOND)


def behind_the_log(seed: int = 1) -> tuple[Scenario, Node]:
    """A follower that was away until the others had dropped what it needs."""
    run = Scenario(seed, timing=SMALL, load=BUSY)
    away = run.followers[0]
    run.isolate(away)
    while run.leader.replica.core.log.first_index <= away.replica.core.last_index + 1:
        run.run_for(100 * MILLISECOND)
    return run, away


def test_follower_behind_the_log_gets_the_state() -> None:
    """R36."""
    run, _ = behind_the_log()
    run.cluster.heal()
    run.must_converge(run.cluster.goal)
    assert run.cluster.counts["snapshots installed"] == 1
    run.finish()


def test_follower_keeps_up_while_states_are_sent_again_and_again() -> None:
    """R36: it falls behind once more before it has caught up."""
    run, away = behind_the_log()
    for _ in range(6):
        run.cluster.heal()
        run.run_for(60 * MILLISECOND)
        run.isolate(away)
        run.run_for(600 * MILLISECOND)
    run.finish()


def test_install_during_checkpoints_compaction_and_apply_mixes_nothing() -> None:
    """R37: the receiver's own housekeeping goes on meanwhile."""
    run = Scenario(3, timing=SMALL, load=replace(BUSY, compact=20))
    for _ in range(4):
        away = run.followers[0]
        run.isolate(away)
        run.run_for(2 * SECOND)
        run.cluster.heal()
        run.run_for(SECOND)
    assert run.cluster.counts["snapshots installed"] >= 2
    run.finish()


@pytest.mark.parametrize("seed", range(4))
def test_crash_at_any_moment_of_an_install_leaves_the_old_state_or_the_new(seed: int) -> None:
    """R38, D17: every start finds a state that fits its log."""
    run, away = behind_the_log(seed)
    random = run.world.stream("install crashes")
    run.cluster.heal()
    for _ in range(12):
        run.run_for(random.randrange(40 * MILLISECOND))
        away.crash()
        away.start()
    run.must_converge(run.cluster.goal)
    run.finish()
    assert run.cluster.counts["snapshots installed"] >= 1


def test_state_damaged_on_the_way_is_refused_and_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R39, D09."""
    monkeypatch.setattr(transfer, "_DAMAGED", 1.0)
    run, _ = behind_the_log()
    run.cluster.heal()
    run.run_for(SECOND)
    assert run.cluster.counts["states refused"] >= 1
    assert run.cluster.counts["snapshots installed"] == 0
    monkeypatch.setattr(transfer, "_DAMAGED", 0.0)
    run.must_converge(run.cluster.goal)
    run.finish()


def test_state_of_another_cluster_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """R39."""
    run, away = behind_the_log()
    monkeypatch.setattr(type(run.leader), "cluster_id", 0xBAD)
    run.cluster.nodes[away.member].__class__ = _Other
    run.cluster.heal()
    run.run_for(SECOND)
    assert run.cluster.counts["states refused"] >= 1
    assert run.cluster.counts["snapshots installed"] == 0


class _Other(Node):
    """A member that belongs to the right cluster."""

    cluster_id = 0x5151


def test_new_member_gets_the_state_and_becomes_a_voter() -> None:
    """R27: as a learner first; promoted when it has the log."""
    run = Scenario(timing=SMALL, load=BUSY)
    out = run.followers[0].member
    assert run.cluster.replace_member(out)
    run.must_settle()
    assert out not in run.leader.configuration.members()
    assert run.cluster.counts["snapshots installed"] >= 1
    run.finish()


def test_leader_that_is_removed_hands_over_within_two_elections() -> None:
    """R30."""
    run = Scenario(timing=SMALL)
    leader = run.leader
    assert run.cluster.replace_member(leader.member)
    run.must_settle()
    assert run.leader is not leader
    run.finish()


@pytest.mark.parametrize("seed", range(3))
def test_second_state_waits_until_the_first_one_is_durable(seed: int) -> None:
    """R36: on a slow disk, the leader sends another state before the first is acknowledged."""
    run, away = behind_the_log(seed)
    away.disk.slow_us = 700 * MILLISECOND
    run.cluster.network.heal()
    for _ in range(8):
        run.run_for(1100 * MILLISECOND)
        away.crash()
        away.start()
    run.finish()
