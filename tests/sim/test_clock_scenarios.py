"""Scenarios of the failure catalogue about clocks of a wrong rate and processes that stall."""

from dataclasses import replace

import pytest

from raftkv.sim.operations import Get, Put
from raftkv.sim.world import SECOND
from tests.sim.scenario import LOAD, Scenario


@pytest.mark.parametrize("rate", [0.9, 0.5])
def test_old_leader_with_a_slow_clock_answers_no_read_on_trust(rate: float) -> None:
    """R19: reads rest on no lease, so by no difference of clocks is one answered stale. The old
    leader's clock is slow, the others' are fast: they have a new leader while it still leads.
    """
    run = Scenario(load=replace(LOAD, clients=0))
    old, others = run.leader, run.followers
    run.answer(old, Put(b"k/r19", b"old"))
    old.clock.rate = rate
    for node in others:
        node.clock.rate = 2 - rate
    run.isolate(old)
    both_led, reads = 0, []
    end_us = run.world.now_us + 12 * run.cluster.election_us
    while run.world.now_us < end_us:
        if old.leads:
            reads.append(run.ask(old, Get(b"k/r19")))
        if run.leader is not old and run.leader.replica.core.own_term_committed:
            both_led += old.leads
            run.answer(run.leader, Put(b"k/r19", b"new"))
        run.elections(0.05)
    assert reads
    assert both_led or rate > 0.5  # else nothing could have been stale
    assert all(read.response is None for read in reads)
    run.cluster.heal()
    run.finish()


def test_stalls_of_half_an_election_timeout_elect_nobody() -> None:
    """R44: a collection of garbage or a long piece of work on the leader, again and again."""
    run = Scenario()
    leader, term = run.leader, run.leader.term
    random = run.world.stream("stalls")
    began = run.world.now_us
    for _ in range(40):
        leader.pause()
        run.elections(0.5)
        leader.resume()
        run.elections(random.uniform(0.1, 0.5))
    assert run.leader is leader
    assert leader.term == term
    assert all(node.term == term for node in run.followers)
    assert run.longest_pause_us(began) < SECOND
    run.finish()


def test_a_stall_of_several_election_timeouts_does_elect_somebody() -> None:
    """R44: so the test above could have failed."""
    run = Scenario()
    leader, term = run.leader, run.leader.term
    leader.pause()
    run.elections(4)
    assert run.leader is not leader
    assert run.leader.term > term
    leader.resume()
    run.finish()
