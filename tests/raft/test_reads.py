"""ReadIndex: dissertation 6.4, rules R16, R17, R21 as far as the core decides."""

import pytest

from raftkv.raft.messages import (
    AppendEntries,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    Message,
    ReadIndexReply,
    ReadIndexRequest,
    VoteReply,
)
from raftkv.raft.ready import ReadState
from raftkv.raft.roles import NoLeader
from raftkv.raft.types import Configuration
from tests.raft.cluster import TIMEOUT, Cluster, Stage, every, only
from tests.raft.test_replication import accept, append, leader


def results(stage: Stage) -> tuple[list[ReadState], list[int]]:
    """Reads answered and lost so far."""
    states = [state for ready in stage.readies for state in ready.reads]
    lost = [number for ready in stage.readies for number in ready.lost_reads]
    stage.readies.clear()
    return states, lost


def settled_leader() -> Stage:
    """A leader whose first entry is committed; followers 2 and 3 stream."""
    stage = leader()
    stage.run()
    stage.take(accept(stage, 2), accept(stage, 3))
    results(stage)
    return stage


def carried_round(messages: list[Message], to: int = 2) -> int:
    """The round that the messages to `to` carry."""
    return max(
        m.read_round for m in messages if isinstance(m, (AppendEntries, Heartbeat)) and m.to == to
    )


def echo(round_: int, sender: int = 2, term: int = 1) -> HeartbeatReply:
    return HeartbeatReply(1, sender, term, round_)


def test_a_read_is_answered_with_the_commit_index_when_a_quorum_echoed_its_round() -> None:
    stage = settled_leader()
    number = stage.core.read()
    sent = stage.run()
    assert {m.to for m in every(sent, Heartbeat)} == {2, 3}
    assert results(stage) == ([], [])
    stage.take(echo(carried_round(sent)))
    assert results(stage) == ([ReadState(number, 1)], [])


def test_an_echo_of_an_earlier_round_confirms_nothing() -> None:
    stage = settled_leader()
    before = carried_round(stage.tick())
    stage.core.read()
    stage.run()
    stage.take(echo(before), echo(before, 3))
    assert results(stage) == ([], [])


def test_a_read_does_not_join_the_round_in_flight() -> None:
    """The round in flight may have begun before a write that the reader knows of."""
    stage = settled_leader()
    first = stage.core.read()
    round_ = carried_round(stage.run())
    second = stage.core.read()
    stage.core.step(echo(round_))
    later = carried_round(stage.run())
    assert results(stage) == ([ReadState(first, 1)], [])
    stage.take(echo(later))
    assert results(stage) == ([ReadState(second, 1)], [])


def test_all_reads_of_one_turn_share_one_round() -> None:
    stage = settled_leader()
    numbers = [stage.core.read() for _ in range(50)]
    assert numbers == list(range(numbers[0], numbers[0] + 50))
    sent = stage.run()
    assert len(sent) == 2
    stage.take(echo(carried_round(sent)))
    assert results(stage) == ([ReadState(numbers[-1], 1)], [])


def test_an_append_of_the_same_turn_carries_the_round_and_its_reply_confirms() -> None:
    stage = settled_leader()
    number = stage.core.read()
    stage.core.propose([b"x"])
    sent = stage.run()
    assert every(sent, Heartbeat) == []
    stage.take(AppendReply(1, 2, 1, True, 1, read_round=carried_round(sent)))
    assert results(stage) == ([ReadState(number, 1)], [])


def test_a_refused_append_confirms_leadership_too() -> None:
    stage = settled_leader()
    number = stage.core.read()
    round_ = carried_round(stage.run())
    stage.take(AppendReply(1, 2, 1, False, 1, 1, 1, read_round=round_))
    assert results(stage)[0] == [ReadState(number, 1)]


def test_a_new_leader_reads_nothing_before_it_committed_in_its_term() -> None:
    """R16."""
    stage = leader([1, 1])
    stage.core.read()
    sent = stage.run()
    stage.take(echo(carried_round(sent), 2, 2), echo(carried_round(sent), 3, 2))
    sent = stage.tick()
    stage.take(echo(carried_round(sent), 2, 2))
    assert results(stage)[0] == []
    sent = stage.take(accept(stage, 2))
    assert stage.core.own_term_committed
    stage.take(echo(carried_round(sent), 2, 2))
    assert results(stage)[0] == [ReadState(1, 3)]


def test_a_single_voter_needs_no_round_but_its_own_commit() -> None:
    stage = Stage(voters=(1,))
    stage.core.campaign()
    stage.run(sync=False)
    while not stage.core.is_leader:
        stage.sync(stage.out.append)
    stage.core.read()
    stage.run(sync=False)
    assert results(stage)[0] == []
    stage.run()
    assert results(stage)[0] == [ReadState(1, 1)]
    stage.core.read()
    stage.run(sync=False)
    assert results(stage)[0] == [ReadState(2, 1)]


def test_learners_confirm_nothing() -> None:
    stage = Stage(configuration=Configuration((1, 2, 3), learners=(4,)))
    stage.core.campaign()
    stage.run()
    stage.take(VoteReply(1, 2, 1, True, True), VoteReply(1, 2, 1, True))
    stage.take(accept(stage, 2), accept(stage, 4))
    stage.core.read()
    sent = stage.run()
    stage.take(echo(carried_round(sent), 4))
    assert results(stage)[0] == []
    stage.take(echo(carried_round(sent), 2))
    assert results(stage)[0] == [ReadState(1, 1)]


def test_in_a_joint_configuration_both_majorities_must_echo() -> None:
    stage = Stage(configuration=Configuration((1, 4, 5), outgoing=(1, 2, 3)))
    stage.core.campaign()
    stage.run()
    stage.take(*(VoteReply(1, m, 1, True, True) for m in (2, 4)))
    stage.take(*(VoteReply(1, m, 1, True) for m in (2, 4)))
    assert stage.core.is_leader
    stage.core.state.change_open = False  # type: ignore[union-attr] # stay joint
    stage.take(*(accept(stage, m) for m in (2, 4)))
    stage.core.read()
    round_ = carried_round(stage.run())
    stage.take(echo(round_, 4), echo(round_, 5))
    assert results(stage)[0] == []
    stage.take(echo(round_, 3))
    assert results(stage)[0] == [ReadState(1, 1)]


@pytest.mark.parametrize("end", ["term", "quorum"])
def test_reads_are_lost_when_leadership_ends(end: str) -> None:
    """R17, R07."""
    stage = settled_leader()
    numbers = [stage.core.read() for _ in range(3)]
    stage.run()
    numbers.append(stage.core.read())
    if end == "term":
        stage.take(HeartbeatReply(1, 2, 9))
    else:
        stage.tick(2 * TIMEOUT)
    assert not stage.core.is_leader
    assert results(stage) == ([], numbers)
    stage.take(echo(99), echo(99, 3))
    assert results(stage) == ([], [])


def test_without_a_leader_no_read_starts() -> None:
    with pytest.raises(NoLeader):
        Stage().core.read()


# --- followers --------------------------------------------------------------------------------


def follower() -> Stage:
    """Member 1 follows leader 2 in term 1."""
    stage = Stage(terms=[1])
    stage.take(append(1, 1, 1, [], commit=1))
    stage.readies.clear()
    return stage


def test_a_follower_asks_the_leader_once_per_turn_and_takes_its_answer() -> None:
    """R21: the caller waits until the index is applied."""
    stage = follower()
    for _ in range(5):
        stage.core.read()
    request = only(stage.run(), ReadIndexRequest)
    assert request.to == 2
    stage.take(ReadIndexReply(1, 2, 1, request.number, 7))
    assert results(stage) == ([ReadState(5, 7)], [])


@pytest.mark.parametrize(
    ("sender", "term"), [(3, 1), (2, 0)], ids=["not the leader", "an older term"]
)
def test_an_answer_of_another_leader_or_term_is_dropped(sender: int, term: int) -> None:
    """R17."""
    stage = follower()
    stage.core.read()
    request = only(stage.run(), ReadIndexRequest)
    stage.take(ReadIndexReply(1, sender, term, request.number, 7))
    assert results(stage) == ([], [])


def test_an_answer_for_an_earlier_process_of_the_member_is_dropped() -> None:
    """R17: numbers start anew with every process, their wire form does not repeat."""
    stage = follower()
    stage.core.read()
    old = only(stage.run(), ReadIndexRequest)
    stage.reboot()
    stage.take(append(1, 1, 1, [], commit=1))
    stage.core.read()
    new = only(stage.run(), ReadIndexRequest)
    stage.readies.clear()
    assert new.number != old.number
    stage.take(ReadIndexReply(1, 2, 1, old.number, 1))
    assert results(stage) == ([], [])


def test_an_answer_comes_once_however_often_it_is_delivered() -> None:
    stage = follower()
    stage.core.read()
    request = only(stage.run(), ReadIndexRequest)
    reply = ReadIndexReply(1, 2, 1, request.number, 7)
    stage.take(reply, reply)
    assert results(stage) == ([ReadState(1, 7)], [])


def test_reads_of_a_follower_are_lost_when_its_leader_changes() -> None:
    """R17."""
    stage = follower()
    stage.core.read()
    request = only(stage.run(), ReadIndexRequest)
    stage.core.read()
    stage.take(Heartbeat(1, 3, 2, 0))
    assert results(stage) == ([], [1, 2])
    stage.take(ReadIndexReply(1, 3, 2, request.number, 7))
    assert results(stage) == ([], [])


def test_a_request_without_answer_is_lost_after_an_election_timeout() -> None:
    stage = follower()
    stage.core.read()
    stage.run()
    for _ in range(TIMEOUT):
        assert results(stage) == ([], [])
        stage.take(Heartbeat(1, 2, 1, 1))
        stage.tick()
    assert results(stage) == ([], [1])


def test_a_refused_request_is_lost_at_once() -> None:
    stage = follower()
    stage.core.read()
    request = only(stage.run(), ReadIndexRequest)
    stage.take(ReadIndexReply(1, 2, 1, request.number, 0))
    assert results(stage) == ([], [1])


def test_a_member_that_does_not_lead_refuses_requests() -> None:
    stage = follower()
    reply = only(stage.take(ReadIndexRequest(1, 3, 1, 42)), ReadIndexReply)
    assert (reply.to, reply.number, reply.index) == (3, 42, 0)
    reply = only(stage.take(ReadIndexRequest(1, 3, 0, 43)), ReadIndexReply)
    assert (reply.term, reply.index) == (1, 0)


def test_a_leader_answers_a_follower_after_the_next_round() -> None:
    stage = settled_leader()
    round_ = carried_round(stage.take(ReadIndexRequest(1, 3, 1, 42)))
    reply = only(stage.take(echo(round_)), ReadIndexReply)
    assert (reply.to, reply.number, reply.index, reply.term) == (3, 42, 1, 1)


def test_a_read_on_any_member_sees_every_write_answered_before() -> None:
    cluster = Cluster()
    cluster.elect(1)
    for member in (1, 2, 3):
        index = cluster.put(b"x")
        states: list[ReadState] = []
        stage = cluster.stages[member]
        turn = stage.turn

        def watching(send: object, turn=turn, states=states) -> object:  # type: ignore[no-untyped-def]
            ready = turn(send)
            states.extend(ready.reads)
            return ready

        stage.turn = watching  # type: ignore[method-assign,assignment]
        cluster[member].read()
        cluster.flow()
        assert [state.index for state in states] == [index]


def test_a_deposed_leader_that_does_not_know_it_answers_no_read() -> None:
    """R07, R18: it still believes to lead; its rounds find no quorum."""
    cluster = Cluster()
    old = cluster.elect(1)
    cluster.put(b"a")
    cluster.isolate(1)
    cluster.tick(TIMEOUT, [2, 3])
    cluster[2].campaign()
    cluster.flow()
    assert len(cluster.leaders()) == 2
    old.read()
    cluster.flow()
    assert [r.reads for r in cluster.stages[1].readies if r.reads] == []
    assert old.reads.answered == 0
    cluster.tick(2 * TIMEOUT, [1])
    assert not old.is_leader
    assert old.reads.answered == old.reads.issued
