"""Keepalives and remaining times on the leader, at followers, and when the leader changes."""

import random
import time

import pytest

from raftkv.errors import NO_LEADER, TIMEOUT, TOO_MANY_REQUESTS
from raftkv.kv import commands
from raftkv.kv.leases import Lease, grant_request, revoke_request
from raftkv.raft.messages import RENEW, HeartbeatReply, LeaseAsk, LeaseTold, TimeoutNow
from raftkv.replica.effects import LeaseAnswer
from tests.replica.lease_cluster import ELECTION_SECONDS, Cluster


def asks(cluster: Cluster) -> list[LeaseAsk]:
    """Every LeaseAsk that was sent."""
    return [message for message in cluster.sent if type(message) is LeaseAsk]


def test_the_leader_renews_at_once_and_without_an_entry() -> None:
    cluster = Cluster()
    leader = cluster.elect()
    cluster.grant(7, 10)
    cluster.run(4)
    before = leader.core.last_index
    assert cluster.remaining(7).ttl_seconds in (5, 6)
    assert cluster.renew(7) == LeaseAnswer(7, 10, 10)
    assert cluster.remaining(7) == LeaseAnswer(7, 9, 10), "never the whole TTL, like etcd"
    cluster.run(0.1)
    assert cluster.remaining(7) == LeaseAnswer(7, 9, 10)
    assert leader.core.last_index == before


def test_what_does_not_exist_is_said_only_after_a_quorum_has_answered_the_question() -> None:
    """TTL 0 for a keepalive, -1 for what is left."""
    cluster = Cluster()
    cluster.elect()
    assert cluster.renew(404, ticket="a") is None
    assert cluster.remaining(404, ticket="b") is None
    cluster.run(0.2)
    assert cluster.answers["a"] == LeaseAnswer(404, 0, 0)
    assert cluster.answers["b"] == LeaseAnswer(404, -1, 0)


def test_all_that_a_follower_is_asked_in_a_turn_goes_to_the_leader_in_one_message() -> None:
    cluster = Cluster()
    cluster.elect()
    for lease in range(1, 51):
        cluster.grant(lease, 10)
    follower = cluster.members[2]
    for lease in range(1, 51):
        follower.renew(lease, ("renew", lease))
        follower.time_to_live(-lease, ("left", lease))
    cluster.settle()
    (ask,) = asks(cluster)
    assert len(ask.asks) == 100
    told = [message for message in cluster.sent if type(message) is LeaseTold]
    assert [len(message.answers) for message in told] == [50]
    cluster.run(0.3)
    for lease in range(1, 51):
        assert cluster.answers["renew", lease] == LeaseAnswer(lease, 10, 10)
        assert cluster.answers["left", lease] == LeaseAnswer(-lease, -1, 0)
    assert len(follower.keepalives) == 0


def test_a_learner_asks_the_leader_too() -> None:
    cluster = Cluster(3, learners=(4,))
    cluster.elect()
    cluster.run(0.5)
    cluster.grant(7, 10)
    assert cluster.renew(7, at=4) == LeaseAnswer(7, 10, 10)


def test_the_only_member_of_a_cluster_always_has_its_quorum() -> None:
    cluster = Cluster(1)
    cluster.elect()
    cluster.grant(7, 10)
    assert cluster.renew(7) == LeaseAnswer(7, 10, 10)
    assert cluster.renew(8) == LeaseAnswer(8, 0, 0)


def test_a_lost_question_is_asked_again_after_an_election_timeout_under_its_number() -> None:
    cluster = Cluster()
    cluster.elect()
    cluster.grant(7, 10)
    cluster.cut = {(2, 1)}
    assert cluster.renew(7, at=2) is None
    cluster.heal()
    for other in range(8):  # later questions are answered, which says nothing about this one
        assert cluster.renew(7, at=2, ticket=other) == LeaseAnswer(7, 10, 10)
        cluster.run(0.1)
    assert "renew" not in cluster.answers
    cluster.run(0.3)
    assert cluster.answers["renew"] == LeaseAnswer(7, 10, 10)
    assert [ask.asks[0][0] for ask in asks(cluster)].count(1) == 2


def test_after_a_leader_change_the_question_goes_to_the_new_leader_at_once() -> None:
    cluster = Cluster()
    cluster.elect(1)
    cluster.grant(7, 10)
    cluster.isolate(1)
    assert cluster.renew(7, at=2) is None
    assert cluster.renew(7, at=1, ticket="old") == LeaseAnswer(7, 10, 10)  # E is not over yet
    cluster.run(4, until=lambda: "renew" in cluster.answers)
    assert cluster.answers["renew"] == LeaseAnswer(7, 10, 10)
    leader = cluster.leader()
    assert leader is not None
    assert leader.member != 1


def test_a_deposed_leaders_own_questions_go_to_the_new_leader() -> None:
    cluster = Cluster()
    cluster.elect(1)
    cluster.grant(7, 30)
    cluster.isolate(1)
    cluster.run(1.5)
    assert cluster.renew(7, at=1) is None
    cluster.run(3)
    assert not cluster.members[1].is_leader
    cluster.heal()
    cluster.run(3, until=lambda: "renew" in cluster.answers)
    assert cluster.answers["renew"] == LeaseAnswer(7, 30, 30)


def test_without_a_leader_a_question_times_out_like_a_read() -> None:
    cluster = Cluster()
    for number in cluster.members:
        cluster.isolate(number)
    cluster.run(0.2)
    assert cluster.renew(7, at=2) is None
    cluster.run(6.7)
    assert not cluster.answers
    cluster.run(0.6)
    assert cluster.answers["renew"] is TIMEOUT


def test_a_question_to_a_leader_that_does_not_answer_times_out() -> None:
    cluster = Cluster()
    cluster.elect()
    cluster.cut = {(2, 1)}
    cluster.renew(7, at=2)
    cluster.run(7.3)
    assert cluster.answers["renew"] is TIMEOUT
    assert len(cluster.members[2].keepalives) == 0


def test_stopping_answers_every_question_once() -> None:
    cluster = Cluster()
    follower = cluster.members[2]
    cluster.renew(7, at=2, ticket="waiting")
    follower.renew(8, "new")
    assert follower.close() == [("new", NO_LEADER), ("waiting", NO_LEADER)]
    assert follower.close() == []


def test_more_questions_than_may_wait_are_refused() -> None:
    cluster = Cluster()
    replica = cluster.members[1]
    for number in range(replica.settings.max_pending_reads):
        assert replica.renew(7, number) is None
    assert replica.renew(7, "one more") is TOO_MANY_REQUESTS
    assert replica.time_to_live(7, "one more") is TOO_MANY_REQUESTS


def test_an_answer_of_another_process_or_term_is_ignored() -> None:
    cluster = Cluster()
    cluster.elect()
    cluster.grant(7, 10)
    cluster.cut = {(1, 2)}
    cluster.renew(7, at=2)
    follower = cluster.members[2]
    term = follower.core.term
    for boot, of_term in ((follower.boot + 1, term), (follower.boot, term - 1)):
        follower.on_message(LeaseTold(2, 1, of_term, boot, [(1, 99_000, 99_000)]))
        cluster.settle()
    assert "renew" not in cluster.answers
    follower.on_message(LeaseTold(2, 1, term, follower.boot, [(1, 10_000, 10_000), (9, 1, 1)]))
    cluster.settle()
    assert cluster.answers["renew"] == LeaseAnswer(7, 10, 10)


def test_a_flood_of_keepalives_costs_a_leader_a_few_microseconds_each() -> None:
    """Own clients' and followers' alike. The least of many runs, with room for a slow machine."""
    cluster = Cluster()
    leader = cluster.elect()
    by_id = leader.machine.leases.by_id
    by_id.update((lease, Lease(lease, 60_000)) for lease in range(1, 1001))
    for lease in range(1, 1001):
        leader.renew(lease, ("first", lease))  # this one goes to the log
    cluster.run(0.5)
    ask = LeaseAsk(1, 2, leader.core.term, 5, [(lease, RENEW, lease) for lease in range(1, 501)])
    best = 1.0
    for _ in range(30):
        began = time.perf_counter()
        for lease in range(501, 1001):
            leader.renew(lease, lease)
        leader.on_message(ask)
        effects = leader.turn(cluster.now)
        best = min(best, (time.perf_counter() - began) / 1000)
        assert len(effects.replies) == 500
        (told,) = [message for message in effects.messages if type(message) is LeaseTold]
        assert len(told.answers) == 500
    assert best < 10e-6


# --- contact with a quorum -----------------------------------------------------


def test_a_leader_without_its_quorum_answers_for_one_election_timeout_and_then_no_more() -> None:
    """M08."""
    cluster = Cluster()
    cluster.elect()
    cluster.grant(7, 30)
    cluster.isolate(1)
    answered = []
    for turn in range(15):
        ticket = ("renew", turn)
        if cluster.renew(7, ticket=ticket) is not None:
            answered.append(turn)
        cluster.run(0.1)
    # The newest message that a quorum acknowledged was sent up to two ticks before the cut.
    assert 7 <= max(answered) <= 9
    assert answered == list(range(max(answered) + 1))


def test_what_a_deposed_leader_has_answered_holds_under_a_leader_elected_right_after_the_cut() -> (
    None
):
    """M08: the worst case of the addition. Voters leave the old leader at once, as they do when
    connections close, and the old one answers as long as it may.
    """
    cluster = Cluster()
    cluster.elect(1)
    cluster.grant(7, 3)
    cluster.isolate(1)
    cluster.members[2].core.start_campaign(force=True)
    cluster.settle()
    assert cluster.members[2].is_leader
    last = 0.0
    for turn in range(15):
        if cluster.renew(7, ticket=("renew", turn)) is not None:
            last = cluster.now
        cluster.run(0.1)
    assert last > 1000.5
    cluster.run(5, until=lambda: bool(cluster.ended))
    assert last + 3 <= cluster.ended[0][0] <= last + 3 + 2 * ELECTION_SECONDS


def test_late_acknowledgements_of_old_messages_prove_nothing() -> None:
    """What counts is when the acknowledged message was sent."""
    cluster = Cluster()
    leader = cluster.elect()
    cluster.grant(7, 30)
    cluster.held = {(2, 1), (3, 1)}
    cluster.run(0.3)  # these heartbeats are answered late
    early = [message for message in cluster.late if type(message) is HeartbeatReply]
    assert early
    cluster.late = []
    cluster.run(0.8)
    assert leader.is_leader
    for reply in early:
        leader.on_message(reply)
    # Ten ticks after the oldest of them was sent, seven after the newest.
    assert cluster.renew(7, ticket="in time") == LeaseAnswer(7, 30, 30)
    cluster.run(0.5)
    assert leader.is_leader
    for reply in early:
        leader.on_message(reply)
    assert cluster.renew(7, ticket="too late") is None
    cluster.release()
    cluster.run(0.2)
    assert cluster.answers["too late"] == LeaseAnswer(7, 30, 30)


def test_a_leader_that_was_stopped_answers_only_when_its_quorum_has_spoken_again() -> None:
    """Ticks do not count what a stopped process missed; the driver's clock does."""
    cluster = Cluster()
    leader = cluster.elect()
    cluster.grant(7, 60)
    cluster.now += 1.05  # stopped; its first turn comes before any message
    leader.renew(7, "first")
    effects = leader.turn(cluster.now)
    assert leader.is_leader
    assert effects.replies == []
    cluster.run(0.2)
    assert cluster.answers["first"] == LeaseAnswer(7, 60, 60)


def test_while_leadership_is_handed_over_nothing_is_answered_without_a_newer_contact() -> None:
    """M08: the other may lead, and have revoked the lease, before this member hears of it."""
    cluster = Cluster()
    leader = cluster.elect()
    cluster.grant(7, 30)
    cluster.cut = {(1, 2), (1, 3)}
    leader.core.transfer(2)
    assert cluster.renew(7, ticket="during") is None
    cluster.run(0.9)
    assert "during" not in cluster.answers
    cluster.heal()
    cluster.run(1.5)
    assert cluster.leader() is leader  # nothing came of it
    assert cluster.answers["during"] == LeaseAnswer(7, 30, 30)
    # The message to the other may still arrive: caution stays for this term.
    assert cluster.renew(7, ticket="after") is None
    cluster.run(0.2)
    assert cluster.answers["after"] == LeaseAnswer(7, 30, 30)


def test_a_handed_over_leadership_answers_what_the_old_leader_was_asked() -> None:
    cluster = Cluster()
    leader = cluster.elect()
    cluster.grant(7, 30)
    leader.core.transfer(2)
    leader.renew(7, "renew")
    cluster.run(0.5)
    assert any(type(message) is TimeoutNow for message in cluster.sent)
    assert cluster.members[2].is_leader
    assert cluster.answers["renew"] == LeaseAnswer(7, 30, 30)


def test_a_leader_answers_from_a_state_that_has_what_other_members_have_told_already() -> None:
    """M08: its disk is slow, so others apply, and tell their clients, before it does."""
    cluster = Cluster()
    leader = cluster.elect()
    cluster.grant(7, 30)
    cluster.slow = {1}
    follower = cluster.members[2]
    follower.propose(commands.LEASE_REVOKE, revoke_request(7), "revoke")
    follower.propose(commands.LEASE_GRANT, grant_request(8, 30_000), "grant")
    cluster.settle()
    cluster.run(0.2)
    assert {"revoke", "grant"} <= set(cluster.answers)
    assert list(leader.machine.leases.by_id) == [7]
    assert cluster.renew(7, at=2, ticket="revoked") is None
    assert cluster.renew(8, at=1, ticket="granted") is None
    cluster.run(0.2)
    assert not {"revoked", "granted"} & set(cluster.answers)
    cluster.write_all()
    cluster.run(0.2)
    assert leader.is_leader
    assert cluster.answers["revoked"] == LeaseAnswer(7, 0, 0)
    assert cluster.answers["granted"] == LeaseAnswer(8, 30, 30)


# --- the log ----------------------------------------------------------------------


def test_only_the_leader_proposes_that_a_lease_is_over() -> None:
    """M06: followers apply the end of it with the log, whatever their clocks say."""
    cluster = Cluster()
    cluster.elect()
    cluster.grant(7, 2)
    cluster.members[3].turn(cluster.now + 10_000)
    cluster.run(1.9)
    assert all(7 in one.machine.leases for one in cluster.members.values())
    cluster.run(0.5)
    assert all(7 not in one.machine.leases for one in cluster.members.values())
    assert cluster.entries(commands.LEASE_EXPIRE) == 1


def test_a_minority_leader_proposes_no_expiry() -> None:
    """M06, M09."""
    cluster = Cluster()
    leader = cluster.elect()
    cluster.grant(7, 2)
    cluster.run(1.0)
    cluster.isolate(1)
    cluster.run(0.9)
    before = leader.core.last_index
    cluster.run(1.0)
    assert leader.core.last_index == before


def test_renewing_checkpointed_leases_costs_one_entry_per_turn_and_waits_for_it() -> None:
    """M07."""
    cluster = Cluster()
    leader = cluster.elect()
    for lease in range(1, 21):
        cluster.grant(lease, 20)
    cluster.run(11)
    assert cluster.entries(commands.LEASE_CHECKPOINT) <= 2
    assert all(0 < one.remaining_ms <= 12_000 for one in leader.machine.leases)
    before = cluster.entries(commands.LEASE_CHECKPOINT)
    cluster.held = {(2, 1), (3, 1)}
    for lease in range(1, 11):
        leader.renew(lease, lease)
    for lease in range(11, 21):
        cluster.members[2].renew(lease, lease)
    cluster.settle()
    assert not any(lease in cluster.answers for lease in range(1, 21))
    cluster.release()
    cluster.settle()
    assert cluster.entries(commands.LEASE_CHECKPOINT) == before + 2  # one per turn that asked
    assert all(cluster.answers[lease] == LeaseAnswer(lease, 20, 20) for lease in range(1, 21))
    assert all(one.remaining_ms == 0 for one in leader.machine.leases)
    assert cluster.renew(3) == LeaseAnswer(3, 20, 20)
    assert cluster.entries(commands.LEASE_CHECKPOINT) == before + 2


def test_a_keepalive_that_meets_a_proposed_expiry_waits_and_learns_that_it_was_too_late() -> None:
    """M08."""
    cluster = Cluster()
    leader = cluster.elect()
    cluster.grant(7, 2)
    cluster.run(1.9)
    cluster.held = {(2, 1), (3, 1)}
    cluster.run(0.3)
    assert cluster.entries(commands.LEASE_EXPIRE) == 1
    assert 7 in leader.machine.leases
    assert cluster.renew(7, ticket="own") is None
    assert cluster.remaining(7) == LeaseAnswer(7, 0, 2)
    cluster.release()
    cluster.run(0.3)
    assert 7 not in leader.machine.leases
    assert cluster.answers["own"] == LeaseAnswer(7, 0, 0)


def test_a_new_leader_does_not_apply_what_an_old_one_decided_in_its_own_name() -> None:
    """M09: an expiry entry of the old leader that is in no majority's log is replaced, and the
    lease lives as long as the new leader's clock says.
    """
    cluster = Cluster()
    cluster.elect(1)
    cluster.grant(7, 4)
    cluster.run(3.95)
    cluster.isolate(1)
    cluster.run(0.3)
    assert cluster.entries(commands.LEASE_EXPIRE, 1) == 1
    began = cluster.now
    cluster.run(4, until=lambda: cluster.members[2].is_leader or cluster.members[3].is_leader)
    cluster.heal()
    cluster.run(0.5)
    assert all(7 in one.machine.leases for one in cluster.members.values())
    leader = cluster.leader()
    assert leader is not None
    assert cluster.renew(7, at=leader.member) is None or cluster.now > began
    cluster.run(0.3)
    assert cluster.entries(commands.LEASE_EXPIRE, 1) == 0
    assert not cluster.ended


def test_a_single_member_that_was_stopped_for_half_a_minute_hears_its_clients_first() -> None:
    """M10."""
    cluster = Cluster(1)
    replica = cluster.elect()
    cluster.grant(7, 10)
    cluster.grant(8, 10)
    cluster.run(5)
    cluster.now += 30
    replica.tick()
    cluster.settle()  # a timer comes before anything that waits in a socket
    assert not cluster.ended
    assert cluster.remaining(7).ttl_seconds in (4, 5)
    assert cluster.renew(8).ttl_seconds == 10
    cluster.run(4.5)
    assert not cluster.ended
    cluster.run(1)
    assert [lease for _, lease in cluster.ended] == [7]


@pytest.mark.parametrize("voters", [1, 3])
def test_a_member_that_was_held_up_for_a_moment_hears_its_clients_first(voters: int) -> None:
    """M10: so short a time counts, and the timer comes before what waits in sockets."""
    cluster = Cluster(voters)
    replica = cluster.elect()
    cluster.grant(7, 2)
    cluster.grant(8, 2)
    cluster.run(0.9)
    assert (cluster.renew(7), cluster.renew(8)) == (LeaseAnswer(7, 2, 2), LeaseAnswer(8, 2, 2))
    cluster.run(1.7)
    cluster.now += 0.45
    replica.tick()
    cluster.settle()
    assert not cluster.ended
    cluster.renew(8)
    cluster.run(1)
    assert {lease for _, lease in cluster.ended} == {7}


def test_a_clock_that_jumps_by_an_hour_expires_nothing() -> None:
    """R20. The driver's clock is monotonic; should it jump all the same, that is no silence."""
    cluster = Cluster(1)
    cluster.elect()
    cluster.grant(7, 10)
    cluster.run(1)
    for jump in (3600.0, -3600.0):
        cluster.now += jump
        cluster.run(1)
        assert not cluster.ended
        assert cluster.renew(7).ttl_seconds == 10


class Holders:
    """Clients that keep leases alive for a while and then fall silent, and what they were told.

    promised: lease -> no end of it may be applied anywhere before this moment.
    """

    def __init__(self, cluster: Cluster, source: random.Random) -> None:
        self.cluster = cluster
        self.source = source
        self.promised: dict[int, float] = {}
        self._until: dict[int, float] = {}  # active until then
        self._count = 0
        self._last = 0
        self.renewed = 0

    def act(self) -> None:
        """New leases, and keepalives of those that are active."""
        cluster, source = self.cluster, self.source
        machine = cluster.members[1].machine
        leader = cluster.leader()
        if len(machine.leases) < 12 and leader is not None and not cluster.stopped:
            self._last += 1
            request = grant_request(self._last, source.choice((2000, 3000, 5000)))
            leader.propose(commands.LEASE_GRANT, request, ("grant", self._last))
            self._until[self._last] = cluster.now + source.uniform(0.5, 8)
        for lease, until in list(self._until.items()):
            if cluster.now < until and source.random() < 0.4:
                self._count += 1
                self.cluster.members[source.choice(sorted(cluster.members))].renew(
                    lease, self._count
                )

    def judge(self) -> None:
        """Takes the answers; every end that was applied must have been due."""
        answers = self.cluster.answers
        for ticket in [ticket for ticket in answers if type(ticket) is int]:
            answer = answers.pop(ticket)
            if isinstance(answer, LeaseAnswer) and answer.ttl_seconds:
                self.renewed += 1
                end = self.cluster.answered_at[ticket] + answer.ttl_seconds
                self.promised[answer.lease] = max(self.promised.get(answer.lease, 0), end)
        for at, lease in self.cluster.ended:
            assert at >= self.promised.get(lease, 0) - 1e-6, (lease, at, self.promised[lease])


@pytest.mark.parametrize("seed", range(12))
def test_no_lease_ends_before_its_last_answered_keepalive_and_its_ttl(seed: int) -> None:
    """M06 to M10 under cuts, stopped members and leaderships that are handed over: an expiry is
    applied nowhere before (last answer + TTL).
    """
    source = random.Random(seed)
    cluster = Cluster(3 if seed % 2 else 5, seed=seed)
    cluster.elect(1)
    holders = Holders(cluster, source)
    for _ in range(600):
        disturb(cluster, source)
        holders.act()
        cluster.run(0.1)
        holders.judge()
    assert len(cluster.ended) > 20
    assert holders.renewed > 200
    cluster.heal()
    cluster.stopped.clear()
    cluster.run(14)
    holders.judge()
    assert all(not len(one.machine.leases) for one in cluster.members.values())


def disturb(cluster: Cluster, source: random.Random) -> None:
    """Something that happens to members, now and then."""
    chance = source.random()
    members = sorted(cluster.members)
    leader = cluster.leader()
    if chance < 0.03:
        cluster.isolate(source.choice(members) if leader is None else leader.member)
    elif chance < 0.04:
        cluster.cut.add((source.choice(members), source.choice(members)))
    elif chance < 0.09:
        cluster.heal()
    elif chance < 0.11 and leader is not None and not cluster.stopped:
        cluster.stopped.add(leader.member)
    elif chance < 0.14:
        for number in sorted(cluster.stopped):
            cluster.stopped.discard(number)
            # A timer may come first, before any message that waits in a socket.
            if source.random() < 0.7:
                cluster.turn_first(number)
    elif chance < 0.16 and leader is not None and leader.core.transferee == 0:
        target = leader.transfer_target()
        if target:
            leader.core.transfer(target)
            cluster.settle()
            cluster.isolate(leader.member)
