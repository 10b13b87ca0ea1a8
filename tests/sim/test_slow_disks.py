"""Whole clusters whose disks differ (D14): leadership goes to a fast one, once, and stays."""

from dataclasses import replace

from raftkv.sim.world import MILLISECOND, SECOND
from tests.sim.scenario import LOAD, Scenario

BUSY = replace(LOAD, clients=3, think_us=100 * MILLISECOND)
SLOW_US = 120 * MILLISECOND  # a fraction of the election timeout: the disk never stands still


def test_a_leader_with_a_disk_that_is_always_late_hands_over_within_five_seconds() -> None:
    """D14: it heartbeats in time and every write is durable well before an election timeout."""
    run = Scenario(load=BUSY)
    slow = run.leader
    elections = run.cluster.invariants.elections
    slow.disk.slow_us = SLOW_US
    began = run.world.now_us
    run.run_for(5 * SECOND)
    assert run.leader is not slow
    assert slow.replica.watchdog.handovers == 1
    assert run.longest_pause_us(began) < SECOND
    leader = run.leader
    run.run_for(12 * SECOND)
    assert run.leader is leader
    assert run.cluster.invariants.elections == elections + 1
    run.finish()


def test_leadership_stays_when_the_followers_are_as_slow() -> None:
    """D14: the commit index waits for them too, so the leader is not ahead of its own disk."""
    run = Scenario(load=BUSY)
    leader, elections = run.leader, run.cluster.invariants.elections
    for node in run.cluster.nodes.values():
        node.disk.slow_us = SLOW_US
    run.run_for(9 * SECOND)
    assert run.leader is leader
    assert run.cluster.invariants.elections == elections
    assert leader.replica.watchdog.handovers == 0
    run.finish()


def test_leadership_stays_when_one_of_two_followers_is_as_slow() -> None:
    """D14: a faster leader would have to wait for one of the slow disks as well."""
    run = Scenario(load=BUSY)
    leader = run.leader
    for node in (leader, run.followers[0]):
        node.disk.slow_us = SLOW_US
    run.run_for(9 * SECOND)
    assert run.leader is leader
    assert leader.replica.watchdog.handovers == 0
    run.finish()


def test_a_disk_that_is_slow_now_and_then_costs_no_leadership() -> None:
    """D14: a second in three."""
    run = Scenario(load=BUSY)
    leader, elections = run.leader, run.cluster.invariants.elections
    for _ in range(3):
        leader.disk.slow_us = SLOW_US
        run.run_for(SECOND)
        leader.disk.slow_us = 0
        run.run_for(2 * SECOND)
    assert run.leader is leader
    assert run.cluster.invariants.elections == elections
    run.finish()


def test_a_slow_leader_waits_for_a_follower_that_has_caught_up() -> None:
    """D14: cut off from one follower and with the other one as slow there is nobody better."""
    run = Scenario(load=BUSY)
    leader = run.leader
    away, slow = run.followers
    run.cut((leader, away), (slow, away))
    for node in (leader, slow):
        node.disk.slow_us = SLOW_US
    run.run_for(8 * SECOND)
    assert run.leader is leader
    run.cluster.network.heal()
    slow.disk.slow_us = 0
    run.run_for(8 * SECOND)
    assert run.leader is not leader
    run.finish()
