"""Bugs that the simulator found, cut down to the smallest thing that shows each.

Seeds of whole runs are in seeds.txt.
"""

from dataclasses import replace
from itertools import combinations

import pytest

from raftkv.kv import commands
from raftkv.raft.messages import Forward
from raftkv.raft.types import Entry
from raftkv.replica.housekeeping import Housekeeping
from raftkv.sim.etcd import encode_message
from raftkv.sim.node import Node
from raftkv.sim.operations import Get, Outcome, Put
from raftkv.sim.world import MILLISECOND, SECOND
from tests.sim.scenario import LOAD, TIMING, Scenario


def test_truncation_that_ends_after_an_install_does_not_move_the_log_start_back() -> None:
    """The next truncation asked the log for the term of an entry that it no longer has."""
    housekeeping = Housekeeping(20, 5, checkpoint_index=140, anchor_index=100)
    assert housekeeping.truncation_due() == 135
    housekeeping.installed(178)
    housekeeping.truncated(135)
    assert housekeeping.truncation_due() == 0


def frames_between(run: Scenario, left: Node, right: Node, elections: float) -> int:
    """How many frames the two exchange in that time."""
    pair = {left.member, right.member}
    counted = 0
    send = run.cluster.network.send

    def counting(sender: int, receiver: int, frame: bytes, *, stream: bool = False) -> None:
        nonlocal counted
        counted += {sender, receiver} == pair
        send(sender, receiver, frame, stream=stream)

    run.cluster.network.send = counting  # type: ignore[method-assign]
    run.elections(elections)
    run.cluster.network.send = send  # type: ignore[method-assign]
    return counted


def test_writes_that_the_leader_sends_back_are_not_sent_again_at_once() -> None:
    """A leader that hands over takes no forwards; the two kept each other busy until it ended."""
    run = Scenario(load=replace(LOAD, clients=0))
    leader, (heir, follower) = run.leader, run.followers
    heir.disk.stall()
    run.answer(leader, Put(b"k/a", b"1"))
    leader.transfer(heir.member)
    writes = [run.ask(follower, Put(b"k/b", b"%d" % number)) for number in range(3)]
    assert frames_between(run, leader, follower, 0.9) < 100
    run.elections(3)
    assert [write.outcome for write in writes] == [Outcome.OK] * 3
    run.finish()


@pytest.mark.parametrize("uncommitted", [False, True])
def test_reads_that_a_former_leader_gives_back_are_not_asked_again_at_once(
    uncommitted: bool,
) -> None:
    """It stepped down in the same term, and one follower does not know that yet. Reads that were
    asked one after the other came back one after the other, and each answer had the last one
    asked again.
    """
    run = Scenario(nodes=5, load=replace(LOAD, clients=0))
    leader, follower, *others = run.leader, *run.followers
    run.cut(*[(one, other) for one in (leader, follower) for other in others])
    run.cut(*combinations(others, 2))
    if uncommitted:
        run.ask(leader, Put(b"k/a", b"1"))
    run.world.run_while(lambda: leader.leads, run.world.now_us + 3 * run.cluster.election_us)
    assert follower.replica.leader == leader.member
    reads = [run.ask(follower, Get(b"k/a")) for _ in range(3)]
    assert frames_between(run, leader, follower, 0.9) < 100
    run.cluster.heal()
    run.elections(4)
    assert [read.outcome for read in reads] == [Outcome.OK] * 3
    run.finish()


def test_forward_of_an_ended_process_repeated_after_its_successor_spoke_appends_nothing() -> None:
    """Numbers count within a process, so each process has a newest number of its own."""
    run = Scenario(load=replace(LOAD, clients=0))
    leader, follower = run.leader, run.followers[0]
    last = leader.replica.core.last_index

    def forward(boot: int, number: int) -> int:
        payload = commands.encode(
            commands.PUT, encode_message(Put(b"k", b"v")), (follower.member, boot, number)
        )
        leader.replica.on_message(
            Forward(leader.member, follower.member, leader.term, boot, [(number, payload)])
        )
        leader.replica.turn(leader.clock.now())
        return leader.replica.core.last_index - last

    assert forward(boot=11, number=5) == 1
    assert forward(boot=22, number=1) == 2
    assert forward(boot=11, number=5) == 2
    assert forward(boot=11, number=6) == 3
    assert forward(boot=22, number=1) == 3


def test_leader_commits_by_voters_that_its_follower_has_yet_to_hear_of() -> None:
    """Raft 6: the newest configuration in its log counts. The check of what is on disks took the
    follower's for it.
    """
    timing = replace(TIMING, max_inflight_messages=1)
    run = Scenario(timing=timing, load=replace(LOAD, clients=0))
    leader, (follower, out) = run.leader, run.followers
    assert run.cluster.replace_member(out.member)
    (new,) = [member for member in run.cluster.goal if member not in (1, 2, 3)]
    learner = run.cluster.nodes[new]
    limit_us = run.world.now_us + 10 * SECOND
    run.world.run_while(lambda: learner.applied_index < leader.applied_index, limit_us)
    assert leader.configuration.learners == (new,)
    leader.disk.stall()  # a majority of two voters is out of reach, one of three is not
    write = run.ask(follower, Put(b"k/a", b"1"))
    run.run_for(20 * MILLISECOND)
    follower.disk.stall()  # it has the write; the next is under way, and nothing goes behind it
    run.ask(leader, Put(b"k/a", b"2"))
    told: list[tuple[int, ...]] = []
    applied = follower.applied

    def seen(entry: Entry, state_hash: int) -> None:
        told.append(follower.configuration.voters)
        applied(entry, state_hash)

    follower.replica.machine.observer = seen  # type: ignore[attr-defined]
    run.world.run_while(lambda: write.identity in run.clients.waiting, limit_us)
    assert write.outcome is Outcome.OK
    assert new not in told[0]
    assert new in leader.configuration.voters
    run.finish()
