"""Scenarios of the failure catalogue that cut, bend and flood the network."""

from dataclasses import replace

import pytest

from raftkv.sim.faults import flap
from raftkv.sim.network import ROUGH, STORM
from raftkv.sim.operations import Outcome
from raftkv.sim.world import MILLISECOND, SECOND
from tests.sim.scenario import LOAD, TIMING, Scenario


def test_isolated_member_returns_without_disturbing_the_leader() -> None:
    """R05: pre-vote keeps its term down, so nothing changes when it is back."""
    run = Scenario()
    leader, away = run.leader, run.followers[0]
    term = leader.term
    run.isolate(away)
    run.elections(20)
    assert away.term == term
    run.cluster.heal()
    run.elections(5)
    assert run.leader is leader
    assert leader.term == term
    run.finish()


def test_leader_that_hears_nobody_steps_down_and_answers_no_stale_read() -> None:
    """R07: CheckQuorum, at most two election timeouts after the last answer."""
    run = Scenario()
    deaf = run.leader
    for other in run.followers:
        run.cluster.network.cut(other.member, deaf.member)
    run.elections(2.1)
    assert not deaf.leads
    run.elections(4)
    assert run.cluster.leader() not in (None, deaf)
    run.finish()


def test_cut_between_two_followers_leaves_the_leader_in_place() -> None:
    """R08: both still hear the leader, so there is nothing to elect; nobody waits 3 s."""
    run = Scenario()
    leader = run.leader
    began = run.world.now_us
    run.cut((run.followers[0], run.followers[1]))
    run.run_for(12 * SECOND)
    assert run.leader is leader
    assert run.longest_pause_us(began) < 3 * SECOND
    run.finish()


def test_cut_between_leader_and_one_follower_costs_at_most_one_change() -> None:
    """R08, R06: the follower that lost the leader cannot win against those who hear it."""
    run = Scenario()
    elections = run.cluster.invariants.elections
    began = run.world.now_us
    run.cut((run.leader, run.followers[0]))
    run.run_for(12 * SECOND)
    assert run.cluster.invariants.elections <= elections + 1
    assert run.longest_pause_us(began) < 3 * SECOND
    run.finish()


def test_partial_mesh_of_five_gets_a_stable_leader() -> None:
    """R09: 1, 2, 3 hear each other, 4 only 2, 5 only 3."""
    run = Scenario(nodes=5)
    one, two, three, four, five = run.cluster.nodes.values()
    run.cut((four, one), (four, three), (four, five), (five, one), (five, two))
    run.elections(10)
    elections = run.cluster.invariants.elections
    began = run.world.now_us
    run.elections(20)
    assert run.cluster.invariants.elections == elections
    assert run.longest_pause_us(began) < 2 * SECOND
    run.finish()


@pytest.mark.slow
def test_leader_with_a_minority_gives_way_to_the_one_member_that_reaches_all() -> None:
    """R10: quorum loss; the leader hears one of four, one other member hears everybody."""
    run = Scenario(nodes=5)
    leader = run.leader
    hub, *rest = run.followers
    run.cut(*[(leader, other) for other in rest])
    run.cut((rest[0], rest[1]), (rest[0], rest[2]), (rest[1], rest[2]))
    run.elections(15)
    assert run.leader is hub
    began = run.world.now_us
    run.elections(10)
    assert run.longest_pause_us(began) < 2 * SECOND
    run.finish()


@pytest.mark.slow
def test_flapping_links_break_no_promise_and_recover_soon() -> None:
    """R11: five members, links up and down every 0.5 to 2 election timeouts."""
    run = Scenario(nodes=5)
    random = run.world.stream("flap")
    undos = [flap(run.cluster, random) for _ in range(2)]
    run.run_for(60 * SECOND)
    for undo in undos:
        assert undo is not None
        undo()
    run.cluster.heal()
    run.run_for(5 * SECOND)
    assert run.acknowledged_since(run.world.now_us - 500 * MILLISECOND)
    run.finish()


def test_rough_weather_slows_but_does_not_stop() -> None:
    """R12: 10 % loss, duplicates, reordering, delays up to a second: progress."""
    run = Scenario()
    began = run.world.now_us
    run.cluster.network.set_weather(ROUGH)
    run.run_for(20 * SECOND)
    assert len(run.acknowledged_since(began)) > 150
    run.finish()


@pytest.mark.slow
def test_storm_breaks_no_promise() -> None:
    """R12: 30 % loss, 50 % duplicates and reordering, delays up to 5 s."""
    run = Scenario(nodes=5)
    run.cluster.network.set_weather(STORM)
    run.run_for(40 * SECOND)
    run.finish()
    assert run.cluster.network.counts["duplicated"] > 1000


def test_isolated_leader_keeps_a_bounded_tail_and_refuses_the_rest() -> None:
    """R40: clients keep proposing to a leader that cannot commit."""
    limit = 20_000
    run = Scenario(
        timing=replace(TIMING, max_uncommitted_bytes=limit, election_ticks=40),
        load=replace(LOAD, put=100, value_bytes=4000, clients=20, timeout_us=SECOND),
    )
    leader = run.leader
    run.isolate(leader)
    worst = 0
    for _ in range(30):
        run.run_for(50 * MILLISECOND)
        if leader.leads:
            worst = max(worst, leader.replica.core.uncommitted_bytes)
    assert limit // 4 < worst <= limit + 5000
    run.finish()


def test_removed_or_wiped_member_is_replaced_and_cannot_vote_again() -> None:
    """R33: an empty directory under a known id gets no hearing; the cluster goes on."""
    run = Scenario()
    victim = run.leader
    term = victim.term
    run.cluster.wipe(victim.member)
    run.must_settle()
    assert victim.member not in run.cluster.goal
    assert run.leader.term > term
    assert victim.applied_index in (-1, 0)
    run.finish()


def test_probes_of_a_healthy_cluster_succeed() -> None:
    run = Scenario()
    run.run_for(5 * SECOND)
    done = [one for one in run.clients.history if one.returned_us is not None]
    assert len(done) > 150
    assert all(one.outcome is Outcome.OK or "mvcc" in one.error for one in done)
    run.finish()
