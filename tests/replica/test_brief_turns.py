"""A turn in which only questions about leases came up is brief, and delays nothing else."""

from collections.abc import Callable

import pytest

from raftkv.kv import commands
from raftkv.pb import rpc_pb2
from raftkv.raft.messages import (
    RENEW,
    AppendReply,
    Forward,
    HeartbeatReply,
    LeaseAsk,
    LeaseTold,
    Message,
)
from raftkv.replica.changes import MEMBER_ID
from raftkv.replica.effects import LeaseAnswer
from raftkv.replica.replica import Replica
from tests.replica.lease_cluster import ELECTION_SECONDS, TICK_SECONDS, Cluster

PUT = rpc_pb2.PutRequest(key=b"k", value=b"v").SerializeToString()


def calm(leases: int = 1) -> tuple[Cluster, Replica, Replica]:
    """A cluster that renewed its leases just now and has nothing to do; its leader, a follower."""
    cluster = Cluster()
    leader = cluster.elect()
    for lease in range(1, leases + 1):
        cluster.grant(lease, 10)
    cluster.run(0.5)
    for lease in range(1, leases + 1):
        cluster.renew(lease)
    cluster.run(0.5)
    for member in cluster.members.values():
        member.turn(cluster.now)
    return cluster, leader, cluster.members[2]


def ask_of(follower: Replica, leader: Replica, lease: int = 1) -> LeaseAsk:
    """A follower's question."""
    return LeaseAsk(leader.member, follower.member, leader.core.term, 77, [(5, RENEW, lease)])


def test_the_leader_answers_its_own_clients_and_other_members_in_one_brief_turn() -> None:
    cluster, leader, follower = calm(2)
    leader.renew(1, "own")
    leader.on_message(ask_of(follower, leader, 2))
    effects = leader.turn(cluster.now)
    assert effects.brief
    assert effects.replies == [("own", LeaseAnswer(1, 10, 10))]
    (told,) = effects.messages
    assert isinstance(told, LeaseTold)
    assert (told.to, told.boot, told.answers) == (2, 77, [(5, 10_000, 10_000)])
    assert not effects.more


def test_a_follower_asks_in_a_brief_turn_and_answers_in_another() -> None:
    cluster, leader, follower = calm()
    follower.renew(1, "a")
    asking = follower.turn(cluster.now)
    assert asking.brief
    (ask,) = asking.messages
    leader.on_message(ask)
    (told,) = leader.turn(cluster.now).messages
    follower.on_message(told)
    answering = follower.turn(cluster.now)
    assert answering.brief
    assert answering.replies == [("a", LeaseAnswer(1, 10, 10))]
    assert answering.messages == []


def _message(make: Callable[[Replica], Message]) -> Callable[[Replica], None]:
    return lambda leader: leader.on_message(make(leader))


FACTS: dict[str, Callable[[Replica], object]] = {
    "write": lambda leader: leader.propose(commands.PUT, PUT, "put"),
    "read": lambda leader: leader.read("read"),
    "tick": lambda leader: leader.tick(),
    "membership": lambda leader: leader.change(
        commands.MEMBER_PROMOTE, MEMBER_ID.pack(9), "change"
    ),
    "checkpoint": lambda leader: leader.on_checkpoint(1),
    "truncation": lambda leader: leader.on_truncated(0),
    "state sent": lambda leader: leader.on_snapshot_sent(2, True, 0),
    "state dropped": lambda leader: leader.on_snapshot_dropped(2),
    "durable": lambda leader: leader.on_persisted(1),
    "campaign": lambda leader: leader.core.become_follower(leader.core.term + 1, 0),
    "append reply": _message(
        lambda leader: AppendReply(1, 2, leader.core.term, True, leader.core.commit)
    ),
    "heartbeat reply": _message(lambda leader: HeartbeatReply(1, 2, leader.core.term)),
    "forward": _message(
        lambda leader: Forward(
            1, 2, leader.core.term, 77, [(1, commands.encode(commands.PUT, PUT, (2, 77, 1)))]
        )
    ),
}


@pytest.mark.parametrize("fact", FACTS)
def test_whatever_else_came_up_makes_a_turn_a_full_one(fact: str) -> None:
    cluster, leader, _ = calm()
    leader.renew(1, "before")
    assert leader.turn(cluster.now).brief, "else this would prove nothing"
    FACTS[fact](leader)
    leader.renew(1, "a")
    assert not leader.turn(cluster.now).brief


def test_what_a_full_turn_has_left_to_do_is_done_in_the_next_one() -> None:
    """A member that hands leadership over keeps its clients' writes waiting."""
    cluster, leader, _ = calm()
    leader.core.transfer(2)
    leader.propose(commands.PUT, PUT, "put")
    leader.turn(cluster.now)
    assert leader.writes.pending.waiting
    leader.renew(1, "a")
    assert not leader.turn(cluster.now).brief


def test_news_for_followers_is_told_although_only_renewals_follow_the_commit() -> None:
    """The turn behind an acknowledgement that leaves nothing to apply says that there are news."""
    cluster, leader, _ = calm()
    leader.propose(commands.PUT, PUT, "put")
    appended = leader.turn(cluster.now)
    assert appended.batch is not None
    leader.on_persisted(appended.batch.number)
    last = leader.core.last_index
    leader.on_message(AppendReply(1, 2, leader.core.term, True, last))
    assert leader.turn(cluster.now).applied
    leader.tell_news()
    leader.turn(cluster.now)
    leader.renew(1, "a")
    leader.on_message(AppendReply(1, 3, leader.core.term, True, last))
    assert leader.turn(cluster.now).news


def test_waiting_questions_time_out_although_all_turns_are_brief() -> None:
    """A sweep is due ten times a second, ticks or not."""
    cluster, _, follower = calm()
    follower.renew(1, "lost")
    follower.turn(cluster.now)
    now = cluster.now
    for _ in range(200):
        now += 0.05
        follower.renew(1, now)
        effects = follower.turn(now)
        if any(ticket == "lost" for ticket, _ in effects.replies):
            return
    raise AssertionError(f"no answer in {now - cluster.now} s")


def test_a_leader_without_its_quorum_answers_no_renewal_however_brief_its_turns() -> None:
    """M06: the contact that a brief turn relies on grows old."""
    cluster, leader, _ = calm()
    assert cluster.renew(1) == LeaseAnswer(1, 10, 10)
    cluster.isolate(1)
    late = cluster.now + ELECTION_SECONDS + 2 * TICK_SECONDS
    now = cluster.now
    answered = 0.0
    while now < late:
        now += TICK_SECONDS / 4
        leader.renew(1, now)
        effects = leader.turn(now)
        if any(isinstance(answer, LeaseAnswer) for _, answer in effects.replies):
            answered = now
    assert cluster.now < answered <= cluster.now + ELECTION_SECONDS
