"""Scenarios of the failure catalogue about reads, leadership, disks and power."""

from dataclasses import replace

import pytest

from raftkv.raft.messages import ReadIndexReply
from raftkv.sim.node import Node
from raftkv.sim.operations import Found, Get, Operation, Put
from raftkv.sim.world import MILLISECOND, SECOND
from tests.sim.scenario import LOAD, TIMING, Scenario

# --- reads ----------------------------------------------------------------------


def value_of(read: Operation) -> bytes:
    """The value that a read of one key was answered."""
    assert isinstance(read.response, Found), read
    return read.response.keys[0].value


def stall_all(run: Scenario) -> None:
    for node in run.cluster.nodes.values():
        node.disk.stall()


def release_all(run: Scenario) -> None:
    for node in run.cluster.nodes.values():
        node.disk.release()


def test_new_leader_answers_no_read_before_an_entry_of_its_term_is_committed() -> None:
    """R16: its commit index may be behind until then."""
    run = Scenario()
    old = run.leader
    run.answer(old, Put(b"k/r16", b"new"))
    run.isolate(old)
    while run.cluster.leader() in (None, old):
        run.run_for(MILLISECOND)
    stall_all(run)
    leader = run.leader
    assert not leader.replica.core.own_term_committed
    read = run.ask(leader, Get(b"k/r16"))
    run.run_for(SECOND)
    assert read.response is None
    release_all(run)
    run.cluster.heal()
    run.elections(6)
    answer = run.answer(run.leader, Get(b"k/r16"))
    assert value_of(answer) == b"new"
    run.finish()


def test_read_index_answer_of_an_older_leadership_is_not_used() -> None:
    """R17: the follower asked the old leader; its answer comes after the change."""
    run = Scenario()
    follower = run.followers[0]
    asked = follower.replica.core.read()
    run.run_for(0)
    follower.wake()
    run.run_for(100)
    old_leader, old_term = run.leader.member, follower.term
    late = ReadIndexReply(
        follower.member, old_leader, old_term, follower.replica.core.reads.wire_base + asked, 1
    )
    run.cluster.transfer_leadership(follower.member)
    run.elections(3)
    assert follower.term > old_term
    before = follower.replica.core.reads.answered
    follower.replica.on_message(late)
    assert follower.replica.core.reads.answered == before
    run.finish()


def test_leader_that_stood_still_answers_no_stale_read() -> None:
    """R18: SIGSTOP for three election timeouts amid reads, then SIGCONT."""
    run = Scenario(load=replace(LOAD, get=100, clients=8))
    stopped = run.leader
    stopped.pause()
    reads = [run.ask(stopped, Get(b"k0/0")) for _ in range(5)]
    run.elections(3)
    stopped.resume()
    reads += [run.ask(stopped, Get(b"k0/0")) for _ in range(5)]
    run.elections(4)
    assert len(reads) == 10
    run.finish()  # the witness compares every read with what had returned before it


@pytest.mark.parametrize("seconds", [3600.0, 86_400.0])
def test_clock_that_jumps_causes_no_election(seconds: float) -> None:
    """R20: timeouts of Raft count ticks, so a leap of any clock elects nobody."""
    run = Scenario()
    leader, term = run.leader, run.leader.term
    for node in run.cluster.nodes.values():
        node.clock.leap(seconds)
    run.elections(6)
    assert run.leader is leader
    assert leader.term == term
    run.finish()


def test_follower_serves_a_read_only_when_it_has_applied_the_read_index() -> None:
    """R21: its disk is stalled, so what the leader committed is not applied there yet."""
    run = Scenario()
    follower = run.followers[0]
    follower.disk.stall()
    run.answer(run.leader, Put(b"k/r21", b"fresh"))
    read = run.ask(follower, Get(b"k/r21"))
    run.run_for(300 * MILLISECOND)
    assert read.response is None
    follower.disk.release()
    run.run_for(200 * MILLISECOND)
    assert value_of(read) == b"fresh"
    run.finish()


# --- leadership -------------------------------------------------------------------


def test_leadership_goes_to_the_member_that_was_named() -> None:
    """Dissertation 3.10."""
    run = Scenario()
    heir = run.followers[0]
    run.leader.transfer(heir.member)
    run.elections(2)
    assert run.leader is heir
    run.finish()


@pytest.mark.parametrize("trouble", ["lagging", "cut off", "crashed"])
def test_transfer_to_a_member_in_trouble_is_given_up_and_writes_resume(trouble: str) -> None:
    """R35."""
    run = Scenario()
    leader, heir = run.leader, run.followers[0]
    if trouble == "lagging":
        heir.disk.stall()
        run.run_for(SECOND)
    elif trouble == "cut off":
        run.isolate(heir)
    else:
        heir.crash()
    leader.transfer(heir.member)
    run.elections(3)
    assert run.leader is leader
    run.answer(leader, Put(b"k/r35", b"after"))
    run.finish()


# --- disks and power ----------------------------------------------------------------


def test_single_member_acknowledges_only_what_survives_a_power_cut() -> None:
    """R42, D16: cut the power right after every answer."""
    run = Scenario(nodes=1)
    (node,) = run.cluster.nodes.values()
    for number in range(15):
        value = b"%d" % number
        run.answer(node, Put(b"k/r42", value))
        node.crash()
        node.start()
        run.elections(2.5)
        found = run.answer(node, Get(b"k/r42"))
        assert value_of(found) == value
    run.finish()


def test_power_cut_of_all_members_loses_nothing_acknowledged() -> None:
    """D03: again and again, at arbitrary moments."""
    run = Scenario(timing=replace(TIMING, tick_us=20 * MILLISECOND, snapshot_count=30))
    random = run.world.stream("power")
    for _ in range(25):
        run.run_for(random.randrange(2 * SECOND // 3))
        for node in run.cluster.nodes.values():
            node.crash()
        for node in run.cluster.nodes.values():
            node.start()
    run.finish()
    assert run.clients.counts["acknowledged"] > 50


def test_member_stops_at_the_first_failed_fsync_and_acknowledges_nothing_after_it() -> None:
    """D10."""
    run = Scenario()
    leader = run.leader
    leader.disk.broken = True
    written = leader.disk.writes
    run.elections(3)
    assert not leader.up
    assert leader.disk.writes == written
    assert run.leader is not leader
    run.finish()


def test_leader_with_a_slow_disk_hands_over_to_a_faster_one() -> None:
    """D14: 2 s per fsync; the other two commit without it, its clients would wait."""
    run = Scenario()
    slow = run.leader
    slow.disk.slow_us = 2 * SECOND
    began = run.world.now_us
    run.run_for(6 * SECOND)
    assert run.leader is not slow
    assert run.longest_pause_us(began) < 3 * SECOND  # all clients waited for the slow member
    run.finish()


def test_leader_whose_fsync_hangs_gives_way_and_acknowledges_nothing() -> None:
    """D15: heartbeats alone would keep it in office for ever."""
    run = Scenario()
    hung = run.leader
    hung.disk.stall()
    run.elections(4)
    assert run.leader is not hung
    durable = hung.disk.durable_number
    began = run.world.now_us
    run.run_for(4 * SECOND)
    assert run.longest_pause_us(began) < 2 * SECOND
    assert hung.disk.durable_number == durable
    run.finish()


def test_leadership_stays_when_all_disks_are_slow() -> None:
    """Nobody would do better; changing leaders would only make it worse."""
    run = Scenario()
    leader, elections = run.leader, run.cluster.invariants.elections
    for node in run.cluster.nodes.values():
        node.disk.slow_us = 700 * MILLISECOND
    began = run.world.now_us
    run.run_for(15 * SECOND)
    assert run.cluster.invariants.elections <= elections + 1
    assert run.acknowledged_since(began)
    assert leader.up
    run.finish()


def test_member_whose_fsync_hangs_acknowledges_nothing() -> None:
    """D15."""
    run = Scenario()
    hung = run.followers[0]
    hung.disk.stall()
    durable = hung.disk.durable_number
    run.run_for(5 * SECOND)
    match = run.leader.replica.core.match_index(hung.member)
    assert match <= hung.home.promised().last_index
    assert hung.disk.durable_number == durable
    run.finish()


def crash_often(run: Scenario, node: Node, times: int, within_us: int) -> None:
    random = run.world.stream(f"crashes/{node.member}")
    for _ in range(times):
        run.run_for(random.randrange(within_us))
        node.crash()
        node.start()


def test_entries_are_applied_once_across_crashes_between_append_and_apply() -> None:
    """D16: the invariants see every applied entry of every process."""
    run = Scenario()
    for node in list(run.cluster.nodes.values()):
        crash_often(run, node, 8, 200 * MILLISECOND)
    run.finish()
    assert run.cluster.counts["restarts"] == 24
