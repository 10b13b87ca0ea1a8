"""Changes of members while some are down (--strict-reconfig-check), on simulated clusters."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from raftkv.errors import (
    LEARNER_NOT_READY,
    MEMBER_IS_RUNNING,
    MEMBER_NOT_FOUND,
    PEER_URL_EXISTS,
    TOO_MANY_LEARNERS,
    UNHEALTHY,
    UNHEALTHY_RECONFIG,
    ApiError,
)
from raftkv.kv import commands
from raftkv.kv.members import Member, encode_member, encode_replacement
from raftkv.replica.changes import MEMBER_ID
from raftkv.replica.replica import ReplicaSettings
from raftkv.sim import process
from raftkv.sim.node import Node
from raftkv.sim.world import SECOND
from tests.sim.scenario import LOAD, Scenario, change_by_hand

QUIET = replace(LOAD, clients=1)
NEW = Member(9, peer_urls=("http://new:2380",))
Start = Callable[[int], Scenario]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Start:
    """Starts so many members that judge strictly; they change only when the test says so."""
    change_by_hand(monkeypatch)
    monkeypatch.setattr(process, "ReplicaSettings", partial(ReplicaSettings, strict_changes=True))
    return lambda nodes: Scenario(nodes=nodes, load=QUIET)


def result(run: Scenario, node: Node, command: int, request: bytes) -> Any:
    """What `node` answers to a change."""
    answers: list[Any] = []
    node.replica.change(command, request, (answers,))
    node.wake()
    run.world.run_while(lambda: not answers, run.world.now_us + 8 * SECOND)
    return answers[0]


def add(run: Scenario, command: int = commands.MEMBER_ADD, member: Member = NEW) -> Any:
    return result(run, run.leader, command, encode_member(member))


def remove(run: Scenario, node: Node) -> Any:
    return result(run, run.leader, commands.MEMBER_REMOVE, MEMBER_ID.pack(node.member))


def put_in_place_of(run: Scenario, gone: Node, heir: Member = NEW) -> Any:
    request = encode_replacement(gone.member, heir)
    return result(run, run.followers[0], commands.MEMBER_REPLACE, request)


def crash(run: Scenario, *nodes: Node) -> None:
    """Power cut of these, for good, and time for the leader to notice."""
    for node in nodes:
        node.crash()
        node.retire()
        run.cluster.goal.remove(node.member)
    run.elections(2)


def carried_out(answer: Any) -> bool:
    assert not isinstance(answer, ApiError), answer
    return True


def test_a_voter_may_be_added_while_those_that_answer_are_still_a_quorum(start: Start) -> None:
    """R26: five with one down become six, whose quorum of four is there. etcd 3.5 refuses that."""
    run = start(5)
    crash(run, run.followers[0])
    assert carried_out(add(run))
    assert len(run.leader.configuration.voters) == 6
    assert run.acknowledged_since(run.world.now_us - SECOND)


def test_no_voter_is_added_that_those_who_answer_could_not_do_without(start: Start) -> None:
    """R26: three with one down; as a learner it may come."""
    run = start(3)
    crash(run, run.followers[0])
    before = run.leader.configuration
    assert add(run) is UNHEALTHY
    assert run.leader.configuration == before
    assert carried_out(add(run, commands.LEARNER_ADD))
    promote = MEMBER_ID.pack(NEW.id)
    assert result(run, run.leader, commands.MEMBER_PROMOTE, promote) is LEARNER_NOT_READY
    assert run.acknowledged_since(run.world.now_us - SECOND)


def test_the_dead_may_go_and_the_living_may_not(start: Start) -> None:
    """R26: five with two down. Without one of the living three nothing would work any more."""
    run = start(5)
    first, second, *rest = run.followers
    crash(run, first, second)
    assert remove(run, rest[0]) is UNHEALTHY
    assert carried_out(remove(run, first))
    assert carried_out(remove(run, second))
    assert carried_out(remove(run, rest[0]))
    assert len(run.leader.configuration.voters) == 2


def test_a_leader_that_was_just_elected_finds_out_who_is_there_before_it_refuses(
    start: Start,
) -> None:
    """R26: it has heard of the quorum that elected it and of nobody else."""
    run = start(5)
    run.leader.crash()
    run.world.run_while(lambda: run.cluster.leader() is None, run.world.now_us + 9 * SECOND)
    assert carried_out(add(run))
    assert len(run.leader.configuration.voters) == 6


def test_one_member_may_become_two(start: Start) -> None:
    """There is no other way; the second one is needed from then on."""
    run = start(1)
    assert remove(run, run.leader) is UNHEALTHY_RECONFIG
    answers: list[Any] = []
    run.leader.replica.change(commands.MEMBER_ADD, encode_member(NEW), (answers,))
    run.leader.wake()
    run.elections(0.5)
    assert not answers  # in the log, and not committed without it
    assert len(run.leader.configuration.voters) == 2


def test_a_dead_voter_is_replaced_by_a_learner_in_one_entry(start: Start) -> None:
    """R32, R33: nobody else, nobody twice, and not while it runs."""
    run = start(3)
    gone = run.followers[1]
    refused = put_in_place_of(run, gone)
    assert isinstance(refused, ApiError)
    assert refused.text == MEMBER_IS_RUNNING.text
    crash(run, gone)
    taken = Member(8, peer_urls=process.member_of(run.leader.member).peer_urls)
    assert put_in_place_of(run, gone, taken).text == PEER_URL_EXISTS.text
    index = run.leader.replica.core.configuration_index
    heir = Member(NEW.id, peer_urls=process.member_of(gone.member).peer_urls)
    assert carried_out(put_in_place_of(run, gone, heir))
    core = run.leader.replica.core
    assert core.configuration.learners == (NEW.id,)
    assert gone.member not in core.configuration.members()
    assert core.configuration_index > index
    machine = run.leader.replica.machine
    assert list(machine.removed) == [gone.member]
    assert machine.members[NEW.id] == heir
    assert put_in_place_of(run, gone, Member(10, peer_urls=("http://x:1",))).text == (
        MEMBER_NOT_FOUND.text
    )


def test_a_dead_learner_is_replaced_although_there_may_be_only_one(start: Start) -> None:
    run = start(3)
    assert carried_out(add(run, commands.LEARNER_ADD))
    again = Member(10, peer_urls=NEW.peer_urls)
    request = encode_replacement(NEW.id, again)
    assert carried_out(result(run, run.leader, commands.MEMBER_REPLACE, request))
    assert run.leader.configuration.learners == (10,)
    crash(run, run.followers[1])
    third = Member(12, peer_urls=("http://z:1",))
    gone = next(one for one in run.cluster.nodes.values() if not one.up)
    request = encode_replacement(gone.member, third)
    assert result(run, run.leader, commands.MEMBER_REPLACE, request) is TOO_MANY_LEARNERS
