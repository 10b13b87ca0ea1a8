"""Elections: Raft 5.1, 5.2, 5.4.1, figure 2; dissertation 3.8, 4.2.3, 9.6. One test per rule."""

import pytest

from raftkv.errors import CorruptionError
from raftkv.raft.messages import (
    AppendEntries,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from raftkv.raft.roles import CANDIDATE, FOLLOWER, LEADER, PRE_CANDIDATE
from raftkv.raft.types import NOBODY, NOOP, Configuration
from tests.raft.cluster import TIMEOUT, Cluster, Stage, entries, every, only


def heartbeat(term: int, sender: int = 2, to: int = 1) -> Heartbeat:
    return Heartbeat(to, sender, term, 0)


def ask(
    term: int, sender: int = 3, *, last: tuple[int, int] = (0, 0), **flags: bool
) -> VoteRequest:
    return VoteRequest(1, sender, term, *last, **flags)


def candidate(term: int = 0) -> Stage:
    """Member 1 of 1, 2, 3, in a real election of `term` + 1."""
    stage = Stage(term=term)
    stage.core.campaign()
    stage.run()
    stage.take(VoteReply(1, 2, term + 1, True, True))
    assert stage.core.role == CANDIDATE
    return stage


def leader(term: int = 0) -> Stage:
    """Member 1 of 1, 2, 3, leading `term` + 1, its no-op durable at itself."""
    stage = candidate(term)
    stage.take(VoteReply(1, 2, term + 1, True))
    assert stage.core.role == LEADER
    return stage


# --- terms (5.1) ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        Heartbeat(1, 2, 5, 0),
        AppendEntries(1, 2, 5, 0, 0, [], 0),
        AppendReply(1, 2, 5, False, 0),
        HeartbeatReply(1, 2, 5),
        VoteReply(1, 2, 5, False),
        VoteReply(1, 2, 5, False, True),
        VoteRequest(1, 2, 5, 9, 9),
    ],
    ids=lambda message: type(message).__name__,
)
@pytest.mark.parametrize("make", [candidate, leader])
def test_a_candidate_or_leader_becomes_a_follower_when_it_sees_a_higher_term(make, message) -> None:  # type: ignore[no-untyped-def]
    stage = make()
    if isinstance(message, VoteRequest):
        message.force = True  # otherwise a leader sticks to itself
    stage.take(message)
    assert stage.core.role == FOLLOWER
    assert stage.core.term == 5


def test_a_message_of_a_lower_term_changes_nothing_and_is_answered_with_ours() -> None:
    stage = Stage(term=4)
    reply = only(stage.take(AppendEntries(1, 2, 3, 0, 0, entries(1, [3]), 1)), AppendReply)
    assert (reply.success, reply.term) == (False, 4)
    assert only(stage.take(heartbeat(3)), HeartbeatReply).term == 4
    refusal = only(stage.take(ask(3)), VoteReply)
    assert (refusal.granted, refusal.term) == (False, 4)
    assert stage.core.leader == NOBODY
    assert stage.core.last_index == 0


def test_a_deposed_leader_that_returns_learns_the_new_term_from_the_answer() -> None:
    """R06: terms never deadlock."""
    stage = leader()
    stage.take(HeartbeatReply(1, 3, 9))
    assert (stage.core.role, stage.core.term) == (FOLLOWER, 9)


def test_replies_of_an_older_term_are_ignored() -> None:
    stage = candidate(term=3)
    stage.take(VoteReply(1, 2, 3, True), VoteReply(1, 3, 3, True))
    assert stage.core.role == CANDIDATE


# --- the timer (5.2) -------------------------------------------------------------------


def test_a_follower_stays_a_follower_while_it_hears_a_leader() -> None:
    stage = Stage(term=1)
    for _ in range(5 * TIMEOUT):
        stage.take(heartbeat(1))
        assert not every(stage.tick(), VoteRequest)
    assert stage.core.role == FOLLOWER


def test_a_follower_that_hears_nobody_starts_an_election_within_two_timeouts() -> None:
    stage = Stage()
    stage.tick(TIMEOUT - 1)
    assert stage.core.role == FOLLOWER
    stage.tick(TIMEOUT)
    assert stage.core.role == PRE_CANDIDATE


def test_election_timeouts_are_drawn_again_each_time_between_one_and_two_timeouts() -> None:
    stage = Stage()
    drawn = []
    for _ in range(300):
        stage.core.reset_election_timer()
        drawn.append(stage.core.election_timeout)
    assert set(drawn) == set(range(TIMEOUT, 2 * TIMEOUT))


def test_granting_a_vote_resets_the_election_timer() -> None:
    stage = Stage()
    stage.tick(TIMEOUT - 1)
    stage.take(ask(1))
    stage.tick(TIMEOUT - 1)
    assert stage.core.role == FOLLOWER


def test_refusing_a_vote_does_not_reset_the_election_timer() -> None:
    stage = Stage(terms=[1])
    stage.tick(TIMEOUT - 1)
    elapsed = stage.core.election_elapsed
    stage.take(ask(1, pre=True))
    assert stage.core.election_elapsed == elapsed


def test_a_split_vote_ends_in_a_new_election_after_a_timeout() -> None:
    stage = candidate()
    stage.tick(2 * TIMEOUT)
    assert stage.core.role == PRE_CANDIDATE
    stage.take(VoteReply(1, 3, stage.core.term + 1, True, True))
    assert stage.core.term == 2


# --- the candidate (5.2) -----------------------------------------------------------------


def test_a_candidate_increments_its_term_votes_for_itself_and_asks_all_other_voters() -> None:
    stage = Stage(terms=[1, 1, 2])
    stage.core.campaign()
    stage.run()
    sent = every(stage.take(VoteReply(1, 2, 3, True, True)), VoteRequest)
    assert (stage.core.term, stage.core.vote) == (3, 1)
    assert [(m.to, m.term, m.last_index, m.last_term, m.pre) for m in sent] == [
        (2, 3, 3, 2, False),
        (3, 3, 3, 2, False),
    ]
    assert stage.disk.hard_state == (3, 1)


def test_vote_requests_leave_only_when_the_own_vote_is_durable() -> None:
    """R03."""
    stage = Stage()
    stage.core.campaign()
    stage.run()
    assert every(stage.take(VoteReply(1, 2, 1, True, True), sync=False), VoteRequest) == []
    assert len(every(stage.run(), VoteRequest)) == 2


def test_the_own_vote_counts_only_when_it_is_durable() -> None:
    """R03, R42: a single voter leads and commits only by what its disk holds."""
    stage = Stage(voters=(1,))
    stage.core.campaign()
    stage.run(sync=False)
    assert stage.core.role == CANDIDATE
    stage.run()
    assert stage.core.role == LEADER


def test_a_candidate_wins_with_a_majority_of_the_same_term() -> None:
    stage = candidate()
    stage.take(VoteReply(1, 3, 1, True))
    assert stage.core.role == LEADER


def test_one_voter_counts_once_however_often_it_answers() -> None:
    stage = Stage(voters=(1, 2, 3, 4, 5))
    stage.core.campaign()
    stage.run()
    stage.take(*[VoteReply(1, 2, 1, True, True)] * 5)
    assert stage.core.role == PRE_CANDIDATE


def test_votes_of_members_that_do_not_vote_do_not_count() -> None:
    stage = Stage(configuration=Configuration((1, 2, 3), learners=(4, 5)))
    stage.core.campaign()
    stage.run()
    stage.take(VoteReply(1, 4, 1, True, True), VoteReply(1, 9, 1, True, True))
    assert stage.core.role == PRE_CANDIDATE


def test_a_candidate_that_hears_a_leader_of_its_term_follows_it() -> None:
    stage = candidate()
    stage.take(heartbeat(1))
    assert (stage.core.role, stage.core.leader) == (FOLLOWER, 2)


def test_a_candidate_that_hears_a_leader_of_an_older_term_stays_a_candidate() -> None:
    stage = candidate(term=3)
    stage.take(heartbeat(3))
    assert stage.core.role == CANDIDATE


def test_a_candidate_refused_by_a_majority_follows_again() -> None:
    stage = candidate()
    stage.take(VoteReply(1, 2, 1, False), VoteReply(1, 3, 1, False))
    assert stage.core.role == FOLLOWER


def test_a_new_leader_announces_itself_with_an_empty_entry_at_once() -> None:
    stage = candidate()
    sent = every(stage.take(VoteReply(1, 2, 1, True), sync=False), AppendEntries)
    assert [m.to for m in sent] == [2, 3]
    assert [e.kind for e in sent[0].entries] == [NOOP]


def test_two_leaders_in_one_term_are_a_lost_vote_and_stop_the_member() -> None:
    """R43: two members that share an id, or a forgotten vote."""
    stage = leader()
    with pytest.raises(CorruptionError, match="both lead term 1"):
        stage.take(heartbeat(1, sender=3))


# --- the voter (5.2, 5.4.1) ------------------------------------------------------------


def test_a_voter_votes_for_the_first_that_asks_and_only_once_per_term() -> None:
    stage = Stage()
    assert only(stage.take(ask(1, 3)), VoteReply).granted
    assert not only(stage.take(ask(1, 2)), VoteReply).granted


def test_a_voter_repeats_its_vote_for_the_same_candidate() -> None:
    stage = Stage()
    assert all(only(stage.take(ask(1, 3)), VoteReply).granted for _ in range(3))


def test_a_vote_is_given_only_when_it_is_durable() -> None:
    """R03: crash between voting and writing."""
    stage = Stage()
    assert every(stage.take(ask(1, 3), sync=False), VoteReply) == []
    stage.reboot()
    assert only(stage.take(ask(1, 2)), VoteReply).granted


def test_a_vote_survives_a_restart() -> None:
    """R03."""
    stage = Stage()
    stage.take(ask(1, 3))
    stage.reboot()
    assert (stage.core.term, stage.core.vote) == (1, 3)
    assert not only(stage.take(ask(1, 2)), VoteReply).granted


def test_a_reply_never_carries_a_term_that_could_be_forgotten() -> None:
    """R04: even a refusal waits until the new term is durable."""
    stage = Stage(terms=[1, 2])
    assert stage.take(ask(7, 3, last=(1, 1)), sync=False) == []
    stage.reboot()
    assert stage.core.term == 2
    (reply,) = stage.take(ask(7, 3, last=(1, 1)))
    assert reply.term == 7
    stage.reboot()
    assert stage.core.term == 7


@pytest.mark.parametrize(
    ("terms", "last", "granted"),
    [
        ([1, 1], (2, 1), True),  # equal
        ([1, 1], (3, 1), True),  # longer, same term
        ([1, 1], (1, 1), False),  # shorter, same term
        ([1, 1], (1, 2), True),  # shorter, later term
        ([1, 2], (9, 1), False),  # longer, earlier term
    ],
)
def test_a_vote_goes_only_to_a_log_at_least_as_up_to_date(
    terms: list[int], last: tuple[int, int], granted: bool
) -> None:
    for pre in (True, False):
        stage = Stage(terms=terms)
        assert only(stage.take(ask(5, last=last, pre=pre)), VoteReply).granted is granted


def test_a_voter_that_knows_the_leader_of_a_term_votes_for_nobody_in_it() -> None:
    stage = Stage(term=1)
    stage.take(heartbeat(1))
    assert not only(stage.take(ask(1, 3)), VoteReply).granted


# --- who may campaign (4.2) ------------------------------------------------------------


@pytest.mark.parametrize(
    "configuration", [Configuration((2, 3), learners=(1,)), Configuration((2,))]
)
def test_a_member_that_is_no_voter_never_campaigns(configuration: Configuration) -> None:
    stage = Stage(configuration=configuration)
    stage.core.campaign()
    assert stage.tick(5 * TIMEOUT) == []
    stage.take(heartbeat(1), TimeoutNow(1, 2, 1))
    assert stage.core.role == FOLLOWER


def test_a_learner_without_a_leader_says_so_after_a_while() -> None:
    stage = Stage(configuration=Configuration((2, 3), learners=(1,)))
    stage.take(heartbeat(1))
    assert stage.core.leader == 2
    stage.tick(2 * TIMEOUT)
    assert stage.core.leader == NOBODY


def test_a_learner_that_is_asked_for_its_vote_answers() -> None:
    """The asking member may know of its promotion already (4.2.1)."""
    stage = Stage(configuration=Configuration((2, 3), learners=(1,)))
    assert only(stage.take(ask(1, 2)), VoteReply).granted


# --- pre-vote (9.6) --------------------------------------------------------------------


def test_a_pre_vote_changes_no_term_and_no_vote_anywhere() -> None:
    """R05."""
    stage = Stage(term=3)
    stage.core.campaign()
    sent = every(stage.run(), VoteRequest)
    assert [(m.term, m.pre) for m in sent] == [(4, True)] * 2
    assert (stage.core.term, stage.core.vote) == (3, NOBODY)
    voter = Stage(term=3)
    reply = only(voter.take(ask(4, pre=True)), VoteReply)
    assert (reply.granted, reply.pre, reply.term) == (True, True, 4)
    assert (voter.core.term, voter.core.vote) == (3, NOBODY)
    assert voter.disk.hard_state == (3, NOBODY)


def test_a_member_may_grant_pre_votes_to_several_candidates() -> None:
    stage = Stage()
    assert only(stage.take(ask(1, 2, pre=True)), VoteReply).granted
    assert only(stage.take(ask(1, 3, pre=True)), VoteReply).granted


def test_an_isolated_member_does_not_grow_its_term_and_does_not_disturb_when_it_returns() -> None:
    """R05."""
    cluster = Cluster()
    cluster.elect(1)
    cluster.isolate(3)
    cluster.tick(20 * TIMEOUT)
    assert cluster[3].term == 1
    cluster.cut.clear()
    cluster.tick(3 * TIMEOUT)
    assert cluster.leaders() == [1]
    assert [cluster[m].term for m in (1, 2, 3)] == [1, 1, 1]
    assert cluster[3].leader == 1


def test_a_late_pre_vote_grant_does_not_count_in_the_election() -> None:
    stage = candidate()
    stage.take(VoteReply(1, 3, 2, True, True), VoteReply(1, 3, 1, True, True))
    assert stage.core.role == CANDIDATE


# --- stickiness (4.2.3, 6.2) -------------------------------------------------------------


@pytest.mark.parametrize("pre", [True, False])
def test_a_member_that_heard_a_leader_within_a_timeout_refuses_others(pre: bool) -> None:
    """R06, R31: its term does not even grow."""
    stage = Stage(term=1)
    stage.take(heartbeat(1))
    stage.tick(TIMEOUT - 1)
    assert not only(stage.take(ask(2, pre=pre)), VoteReply).granted
    assert stage.core.term == 1
    stage.tick(1)
    if stage.core.role == FOLLOWER:
        assert only(stage.take(ask(2, pre=pre)), VoteReply).granted


def test_a_leader_refuses_others() -> None:
    """R31."""
    stage = leader()
    assert not only(stage.take(ask(9, last=(9, 9))), VoteReply).granted
    assert stage.core.role == LEADER


def test_a_forced_election_overrules_stickiness() -> None:
    """3.10: the leader itself ordered it."""
    stage = Stage(term=1)
    stage.take(heartbeat(1))
    assert only(stage.take(ask(2, force=True)), VoteReply).granted


def test_a_member_behind_and_cut_off_from_the_leader_only_gets_no_vote() -> None:
    """R06: no vote while others hear the leader, and no deadlock of terms afterwards."""
    cluster = Cluster()
    cluster.elect(1)
    cluster.cut = {(1, 3), (3, 1)}
    cluster.put(b"x")
    cluster.tick(10 * TIMEOUT)
    assert cluster.leaders() == [1]
    assert cluster[1].term == cluster[3].term == 1
    cluster.cut.clear()
    cluster.tick(5)
    assert cluster[3].commit == cluster[1].commit


def test_a_member_stuck_at_a_higher_term_is_taken_back() -> None:
    """R06: the leader learns the term from its answer and a new election frees everybody."""
    cluster = Cluster()
    cluster.elect(1)
    cluster.stages[3].disk.hard_state = type(cluster.stages[3].disk.hard_state)(7, 3)
    cluster.crash(3)
    cluster.restart(3)
    cluster.tick(6 * TIMEOUT)
    (now,) = cluster.leaders()
    assert cluster[now].term > 7
    assert {cluster[m].leader for m in (1, 2, 3)} == {now}


# --- the leader is gone ----------------------------------------------------------------


def test_a_member_that_lost_its_connection_asks_with_leader_gone() -> None:
    stage = Stage(term=1)
    stage.take(heartbeat(1))
    stage.core.leader_lost()
    sent = every(stage.run(), VoteRequest)
    assert [(m.pre, m.leader_gone, m.term) for m in sent] == [(True, True, 2)] * 2
    sent = every(stage.take(VoteReply(1, 3, 2, True, True)), VoteRequest)
    assert [(m.pre, m.leader_gone) for m in sent] == [(False, True)] * 2


@pytest.mark.parametrize(
    ("lost", "open_", "granted"),
    [(False, True, False), (True, True, True), (False, False, True)],
)
def test_leader_gone_is_granted_only_by_members_that_lost_the_leader_too(
    lost: bool, open_: bool, granted: bool
) -> None:
    """R06 with the fast failover rule."""
    for pre in (True, False):
        stage = Stage(term=1)
        stage.take(heartbeat(1))
        stage.core.leader_connection(open_)
        if lost:
            stage.core.leader_lost()
            stage.run()
        assert only(stage.take(ask(2, pre=pre, leader_gone=True)), VoteReply).granted is granted
        if not granted:
            assert stage.core.term == 1


def test_hearing_the_leader_again_ends_the_readiness_to_replace_it() -> None:
    stage = Stage(term=1)
    stage.take(heartbeat(1))
    stage.core.leader_lost()
    stage.run()
    stage.take(heartbeat(1))
    assert (stage.core.role, stage.core.leader) == (FOLLOWER, 2)
    assert not only(stage.take(ask(2, pre=True, leader_gone=True)), VoteReply).granted


def test_at_most_one_such_election_per_election_timeout() -> None:
    stage = Stage(term=1)
    for _ in range(3):
        stage.take(heartbeat(1))
        stage.core.leader_lost()
        stage.run()
    stage.take(heartbeat(1))
    stage.core.leader_lost()
    assert every(stage.run(), VoteRequest) == []
    stage.tick(TIMEOUT)
    stage.take(heartbeat(1))
    stage.core.leader_lost()
    assert len(every(stage.run(), VoteRequest)) == 2


def test_a_refused_leader_gone_election_does_not_postpone_the_ordinary_one() -> None:
    stage = Stage(term=1)
    stage.take(heartbeat(1))
    stage.tick(TIMEOUT - 2)
    stage.core.leader_lost()
    stage.take(VoteReply(1, 2, 1, False, True), VoteReply(1, 3, 1, False, True))
    assert stage.core.role == FOLLOWER
    stage.tick(TIMEOUT + 1)
    assert stage.core.role == PRE_CANDIDATE


def test_a_crashed_leader_is_replaced_at_once_when_a_majority_lost_it() -> None:
    cluster = Cluster()
    cluster.elect(1)
    cluster.crash(1)
    cluster[2].leader_lost()
    cluster.flow()
    assert cluster.leaders() == []
    cluster[3].leader_lost()
    cluster.flow()
    assert cluster.leaders() == [3]


# --- CheckQuorum (6.2) and partial links ---------------------------------------------------


def test_a_leader_that_hears_no_quorum_steps_down_within_two_timeouts() -> None:
    """R07: it can send, but receives nothing."""
    cluster = Cluster()
    cluster.elect(1)
    cluster.cut = {(2, 1), (3, 1)}
    cluster.tick(2 * TIMEOUT, [1])
    assert cluster[1].role == FOLLOWER
    assert cluster[1].leader == NOBODY


def test_a_leader_with_a_quorum_stays() -> None:
    cluster = Cluster()
    cluster.elect(1)
    cluster.isolate(3)
    cluster.tick(6 * TIMEOUT)
    assert cluster.leaders() == [1]
    assert cluster[1].term == 1


def test_quorum_activity_ends_one_timeout_after_the_last_acknowledged_message() -> None:
    cluster = Cluster()
    cluster.elect(1)
    cluster.tick(1)
    assert cluster[1].quorum_active()
    cluster.isolate(1)
    active = []
    for _ in range(TIMEOUT + 1):
        cluster.tick(1, [1])
        active.append(cluster[1].quorum_active())
    assert active[0] is True
    assert active[-1] is False


def test_late_answers_do_not_prove_a_quorum_active() -> None:
    stage = leader()
    old = stage.core.state.rounds.newest  # type: ignore[union-attr]
    stage.tick(2 * TIMEOUT - 1)
    stage.take(HeartbeatReply(1, 2, 1, old), HeartbeatReply(1, 3, 1, old))
    assert not stage.core.quorum_active()


def test_a_follower_cut_off_from_its_peer_but_not_from_the_leader_stays_quiet() -> None:
    """R08."""
    cluster = Cluster()
    cluster.elect(3)
    cluster.cut = {(1, 2), (2, 1)}
    cluster.tick(10 * TIMEOUT)
    assert cluster.leaders() == [3]
    assert cluster[3].term == 1


def test_a_partial_mesh_of_five_has_a_stable_leader() -> None:
    """R09: 1-2-3 full mesh, 4 only to 2, 5 only to 3."""
    cluster = Cluster(5)
    for a, b in ((4, 1), (4, 3), (4, 5), (5, 1), (5, 2)):
        cluster.cut |= {(a, b), (b, a)}
    cluster.tick(10 * TIMEOUT)
    leaders = cluster.leaders()
    assert len(leaders) == 1
    term = cluster[leaders[0]].term
    cluster.tick(10 * TIMEOUT)
    assert cluster.leaders() == leaders
    assert cluster[leaders[0]].term == term


def test_the_one_fully_connected_member_wins_after_quorum_loss() -> None:
    """R10: five members; only 1 still reaches everybody, the leader 5 only 1."""
    cluster = Cluster(5)
    cluster.elect(5)
    members = (2, 3, 4, 5)
    cluster.cut = {(a, b) for a in members for b in members if a != b}
    cluster.tick(12 * TIMEOUT)
    assert cluster.leaders() == [1]


@pytest.mark.parametrize("period", [5, 12, 20])
def test_flapping_links_leave_no_trace_after_they_stop(period: int) -> None:
    """R11."""
    cluster = Cluster(5)
    cluster.elect(1)
    for flap in range(40):
        cluster.cut.clear()
        cluster.isolate(flap % 5 + 1, (flap * 2) % 5 + 1)
        cluster.tick(period)
    cluster.cut.clear()
    cluster.tick(4 * TIMEOUT)
    assert len(cluster.leaders()) == 1
    cluster.put(b"after")
    cluster.tick(3)
    assert len({cluster[m].commit for m in cluster.stages}) == 1


def test_a_single_voter_elects_itself() -> None:
    stage = Stage(voters=(1,))
    stage.tick(2 * TIMEOUT)
    assert stage.core.role == LEADER
    assert stage.core.commit == 1


def test_a_lost_term_is_found_at_the_start() -> None:
    """A log newer than the durable term means that the vote may be lost, too."""
    stage = Stage(terms=[1, 2])
    stage.disk.hard_state = type(stage.disk.hard_state)(1, 0)
    with pytest.raises(CorruptionError, match="vote were lost"):
        stage.start()
