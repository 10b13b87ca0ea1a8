"""Scenarios of the failure catalogue about members: what must outlast restarts and leaders."""

from dataclasses import replace
from typing import Any

import pytest

from raftkv.errors import MEMBER_EXISTS, ApiError
from raftkv.kv import commands
from raftkv.kv.members import Member, encode_member
from raftkv.replica.changes import MEMBER_ID
from raftkv.sim.node import Node
from raftkv.sim.process import member_of
from raftkv.sim.world import MILLISECOND, SECOND
from tests.sim.scenario import LOAD, TIMING, Scenario, change_by_hand

SMALL = replace(TIMING, tick_us=20 * MILLISECOND, snapshot_count=20, catch_up_entries=5)
NEWCOMER = 4


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Scenario:
    """A cluster whose members change only when the test says so; answers to it are kept."""
    change_by_hand(monkeypatch)
    return Scenario(timing=SMALL, load=replace(LOAD, put=60))


def ask(run: Scenario, node: Node, command: int, request: bytes) -> Any:
    """What `node` answers to a change that is asked of it."""
    answers: list[Any] = []
    if command == commands.PUBLISH:
        assert node.replica.propose(command, request, (answers,)) is None
    else:
        node.replica.change(command, request, (answers,))
    node.wake()
    run.world.run_while(lambda: not answers, run.world.now_us + 5 * SECOND)
    (result,) = answers
    return result


def refused(run: Scenario, node: Node, command: int, request: bytes) -> ApiError:
    result = ask(run, node, command, request)
    assert isinstance(result, ApiError), result
    return result


def carried_out(run: Scenario, node: Node, command: int, request: bytes) -> None:
    result = ask(run, node, command, request)
    assert not isinstance(result, ApiError), result
    run.must_converge(run.cluster.goal)


def with_learner(run: Scenario) -> Node:
    """A fourth member that listens and has no vote."""
    learner = run.cluster._add(NEWCOMER, initial=())
    learner.start()
    carried_out(run, run.leader, commands.LEARNER_ADD, encode_member(member_of(NEWCOMER)))
    run.must_converge([*run.cluster.goal, NEWCOMER])
    return learner


def restart_all(run: Scenario) -> None:
    """Power cut of everyone."""
    nodes = [node for node in run.cluster.nodes.values() if node.up]
    for node in nodes:
        node.crash()
    for node in nodes:
        node.start()
    run.elections(6)
    run.must_converge([node.member for node in nodes])


def check_learner(run: Scenario, urls: tuple[str, ...]) -> None:
    """Everywhere the newcomer has these peer URLs and no vote."""
    for node in run.cluster.nodes.values():
        assert node.replica.machine.members[NEWCOMER].peer_urls == urls
        for configuration in (node.configuration, node.replica.machine.configuration):
            assert configuration.learners == (NEWCOMER,)
            assert configuration.voters == (1, 2, 3)
    assert run.cluster.nodes[NEWCOMER].replica.is_learner


def test_a_learner_whose_peer_url_changes_is_still_a_learner(run: Scenario) -> None:
    """R28: at once, for every member, and after everyone has started again."""
    learner = with_learner(run)
    moved = Member(NEWCOMER, peer_urls=("http://elsewhere:2380",))
    carried_out(run, run.leader, commands.MEMBER_UPDATE, encode_member(moved))
    run.must_converge([*run.cluster.goal, NEWCOMER])
    check_learner(run, moved.peer_urls)
    restart_all(run)
    check_learner(run, moved.peer_urls)
    run.elections(10)
    assert learner.term == run.leader.term  # it has not campaigned either
    published = replace(moved, name="new", client_urls=("http://elsewhere:2379",))
    carried_out(run, run.leader, commands.PUBLISH, encode_member(published))
    run.must_converge([*run.cluster.goal, NEWCOMER])
    check_learner(run, moved.peer_urls)
    carried_out(run, run.leader, commands.MEMBER_PROMOTE, MEMBER_ID.pack(NEWCOMER))
    assert run.leader.configuration.voters == (1, 2, 3, NEWCOMER)
    run.cluster.goal.append(NEWCOMER)
    run.finish()


def test_a_voter_whose_peer_url_changes_still_votes(run: Scenario) -> None:
    """R28, the other way round."""
    voter = run.followers[0].member
    moved = Member(voter, peer_urls=("http://elsewhere:2380",))
    carried_out(run, run.leader, commands.MEMBER_UPDATE, encode_member(moved))
    restart_all(run)
    for node in run.cluster.nodes.values():
        assert node.replica.machine.members[voter].peer_urls == moved.peer_urls
        assert node.configuration.voters == (1, 2, 3)
    run.finish()


def check_refused_for_ever(run: Scenario, gone: int, asked: Node) -> None:
    """No way of adding `gone` is open at `asked`, also under other URLs."""
    before = run.leader.configuration
    for urls in (member_of(gone).peer_urls, ("http://elsewhere:2380",)):
        record = encode_member(Member(gone, peer_urls=urls))
        for command in (commands.MEMBER_ADD, commands.LEARNER_ADD):
            assert refused(run, asked, command, record) is MEMBER_EXISTS
    assert run.leader.configuration == before
    assert gone not in run.leader.replica.machine.members


def test_the_id_of_a_removed_member_is_refused_for_ever(run: Scenario) -> None:
    """R32: by the same leader, by every member after a power cut of all, and by a leader that
    knows of the removal only from the state that it was sent.
    """
    cluster = run.cluster
    gone = run.followers[0].member
    cluster.goal.remove(gone)
    carried_out(run, run.leader, commands.MEMBER_REMOVE, MEMBER_ID.pack(gone))
    removal = run.leader.applied_index
    cluster.nodes[gone].retire()
    check_refused_for_ever(run, gone, run.leader)
    left = [node for node in cluster.nodes.values() if node.up]
    while any(node.replica.core.log.first_index <= removal for node in left):
        run.run_for(100 * MILLISECOND)  # until it is in no log any more
    restart_all(run)
    check_refused_for_ever(run, gone, run.leader)
    heir = with_learner(run)
    assert cluster.counts["snapshots installed"] >= 1
    carried_out(run, run.leader, commands.MEMBER_PROMOTE, MEMBER_ID.pack(NEWCOMER))
    cluster.goal.append(NEWCOMER)
    run.must_converge(cluster.goal)
    run.leader.transfer(NEWCOMER)
    run.elections(2)
    assert run.leader is heir
    check_refused_for_ever(run, gone, heir)
    run.finish()
