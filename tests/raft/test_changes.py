"""Configuration changes: Raft 6; dissertation 4.1, 4.2, 4.3. R22-R25, R29-R31 for the core."""

import pytest

from raftkv.raft.membership import encode_change, plain
from raftkv.raft.messages import (
    AppendEntries,
    AppendReply,
    Message,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from raftkv.raft.roles import (
    FOLLOWER,
    BadChange,
    ChangePending,
    ChangeTooEarly,
    NotLeader,
)
from raftkv.raft.types import CONFIG, Configuration, Entry
from tests.raft.cluster import TIMEOUT, Cluster, Stage, every
from tests.raft.test_replication import accept, append, leader


def change_entry(index: int, term: int, configuration: Configuration) -> Entry:
    return Entry(index, term, CONFIG, encode_change(configuration, b""))


def settled_leader() -> Stage:
    stage = leader()
    stage.run()
    stage.take(accept(stage, 2), accept(stage, 3))
    return stage


# --- when a change is taken ------------------------------------------------------------------


def test_only_a_leader_takes_a_change() -> None:
    with pytest.raises(NotLeader):
        Stage().core.change(plain((1, 2)), b"")


def test_no_change_before_the_leader_committed_in_its_own_term() -> None:
    """R22: the bug of single-server changes (raft-dev, 2015-07-10)."""
    stage = leader([1])
    stage.run()
    with pytest.raises(ChangeTooEarly):
        stage.core.change(plain((1, 2, 3, 4)), b"")
    assert stage.core.last_index == 2
    stage.take(accept(stage, 2))
    stage.core.change(plain((1, 2, 3, 4)), b"")


def test_the_schedule_of_the_single_server_bug_ends_without_two_majorities() -> None:
    """R22: four members; one leader adds a fifth, the next removes one, the first returns."""
    cluster = Cluster(4, spare=1)
    first = cluster.elect(1)
    cluster.isolate(1, 5)
    first.change(plain((1, 2, 3, 4, 5)), b"")
    cluster.flow()  # reaches 1 and 5 only
    cluster.tick(2 * TIMEOUT, [2, 3, 4])
    cluster[2].campaign()
    cluster.flow()
    assert cluster[2].is_leader
    cluster[2].change(plain((2, 3, 4)), b"")
    cluster.flow()
    assert cluster[2].configuration == plain((2, 3, 4))
    committed = cluster[2].commit
    cluster.isolate(1, 5, 4)
    cluster.cut -= {(a, b) for a in (1, 4, 5) for b in (1, 4, 5)}
    cluster.tick(4 * TIMEOUT, [1, 4, 5])
    for member in (1, 4, 5):
        assert not (cluster[member].is_leader and cluster[member].term > cluster[2].term)
    assert cluster[2].commit >= committed


def test_a_second_change_waits_for_the_first() -> None:
    """R24."""
    stage = settled_leader()
    stage.core.change(plain((1, 2, 3, 4)), b"")
    with pytest.raises(ChangePending):
        stage.core.change(plain((1, 2, 3, 5)), b"")
    stage.run()
    stage.take(accept(stage, 2), accept(stage, 3))
    stage.core.change(plain((1, 2, 3, 4, 5)), b"")


def test_a_pending_change_of_an_older_leader_blocks_the_new_one_too() -> None:
    """R24."""
    stage = Stage()
    stage.take(AppendEntries(1, 2, 1, 0, 0, [change_entry(1, 1, plain((1, 2, 3, 4)))], 0))
    stage.tick(2 * TIMEOUT)
    for pre in (True, False):
        stage.take(*(VoteReply(1, m, 2, True, pre) for m in (3, 4)))
    assert stage.core.is_leader
    with pytest.raises(ChangeTooEarly):
        stage.core.change(plain((1, 2, 3)), b"")
    stage.take(accept(stage, 3), accept(stage, 4))
    stage.core.change(plain((1, 2, 3)), b"")


@pytest.mark.parametrize(
    "wanted",
    [
        Configuration(()),
        Configuration((3, 2, 1)),
        Configuration((1, 2), learners=(2,)),
        Configuration((1, 2), outgoing=(8, 9)),
        Configuration((0, 1)),
    ],
)
def test_a_contradicting_configuration_is_refused(wanted: Configuration) -> None:
    stage = settled_leader()
    with pytest.raises(BadChange):
        stage.core.change(wanted, b"")
    assert stage.core.last_index == 1


# --- in force from the log on (6) -------------------------------------------------------------


def test_a_member_uses_the_newest_configuration_in_its_log_committed_or_not() -> None:
    """R25."""
    stage = Stage()
    stage.take(AppendEntries(1, 2, 1, 0, 0, [change_entry(1, 1, plain((1, 2, 3, 4)))], 0))
    assert stage.core.commit == 0
    assert stage.core.configuration == plain((1, 2, 3, 4))


def test_truncation_restores_the_configuration_before() -> None:
    stage = Stage()
    changed = [change_entry(1, 1, plain((1, 2))), change_entry(2, 1, plain((1,)))]
    stage.take(AppendEntries(1, 2, 1, 0, 0, changed, 0))
    assert stage.core.configuration == plain((1,))
    stage.take(append(2, 1, 1, [2]))
    assert stage.core.configuration == plain((1, 2))
    stage.take(append(3, 0, 0, [3]))
    assert stage.core.configuration == plain((1, 2, 3))


def test_configurations_of_the_log_are_in_force_again_after_a_restart() -> None:
    stage = Stage()
    stage.take(AppendEntries(1, 2, 1, 0, 0, [change_entry(1, 1, plain((1, 2)))], 0))
    stage.reboot()
    assert stage.core.configuration == plain((1, 2))


def test_a_leader_counts_with_the_new_configuration_as_soon_as_it_appends_it() -> None:
    """R25: one of two members is dead; it can still be removed."""
    cluster = Cluster(2)
    core = cluster.elect(1)
    cluster.tick(2)
    cluster.crash(2)
    index = core.change(plain((1,)), b"")
    cluster.flow()
    assert core.commit == index
    assert cluster.put(b"alone") == core.commit


def test_an_added_member_gets_the_whole_log() -> None:
    cluster = Cluster(3, spare=1)
    core = cluster.elect(1)
    cluster.put(b"a", b"b")
    core.change(plain((1, 2, 3), (4,)), b"")
    cluster.tick(3)
    assert cluster[4].commit == core.commit
    assert [e.payload for e in cluster.applied[4]] == [e.payload for e in cluster.applied[1]]


def test_a_learner_does_not_count() -> None:
    cluster = Cluster(3, spare=1)
    core = cluster.elect(1)
    core.change(plain((1, 2, 3), (4,)), b"")
    cluster.tick(3)
    cluster.isolate(2, 3)
    before = core.commit
    core.propose([b"x"])
    cluster.tick(3)
    assert cluster[4].last_index == core.last_index
    assert core.commit == before


# --- joint consensus (6, 4.3) -------------------------------------------------------------------


def test_a_change_of_one_voter_goes_in_one_step_and_a_larger_one_through_a_joint_one() -> None:
    cluster = Cluster(3, spare=2)
    core = cluster.elect(1)
    core.change(plain((1, 2, 3, 4)), b"one")
    assert core.configuration == plain((1, 2, 3, 4))
    cluster.tick(3)
    core.change(plain((1, 2, 5)), b"many")
    assert core.configuration == Configuration((1, 2, 5), (1, 2, 3, 4))
    cluster.tick(3)
    assert core.configuration == plain((1, 2, 5))
    assert core.commit == core.last_index


def test_a_voter_that_becomes_a_learner_votes_until_the_joint_one_is_left() -> None:
    cluster = Cluster(3, spare=2)
    core = cluster.elect(1)
    core.change(plain((1, 4, 5), (2, 3)), b"")
    assert core.configuration == Configuration((1, 4, 5), (1, 2, 3), (), (2, 3))
    assert core.configuration.is_voter(2)
    cluster.tick(3)
    assert core.configuration == plain((1, 4, 5), (2, 3))


@pytest.mark.parametrize("cut", [(2, 3), (4, 5)])
def test_while_joint_nothing_commits_without_both_majorities(cut: tuple[int, int]) -> None:
    """R23."""
    cluster = Cluster(3, spare=2)
    core = cluster.elect(1)
    cluster.put(b"x")
    before = core.commit
    cluster.isolate(*cut)
    core.change(plain((1, 4, 5)), b"")
    cluster.tick(3)
    assert core.configuration.joint
    assert core.commit == before
    cluster.cut.clear()
    cluster.tick(3)
    assert core.configuration == plain((1, 4, 5))


def test_while_joint_a_candidate_needs_both_majorities() -> None:
    """R23."""
    joint = Configuration((1, 4, 5), outgoing=(1, 2, 3))
    stage = Stage(configuration=joint)
    stage.core.campaign()
    assert sorted(m.to for m in every(stage.run(), VoteRequest)) == [2, 3, 4, 5]
    stage.take(*(VoteReply(1, m, 1, True, True) for m in (4, 5)))
    assert stage.core.term == 0
    stage.take(VoteReply(1, 2, 1, True, True))
    assert stage.core.term == 1


@pytest.mark.parametrize("crashed", [(1,), (1, 2), (1, 4), (1, 2, 4)])
def test_leaving_a_joint_configuration_survives_any_leader_change(crashed: tuple[int, ...]) -> None:
    """R23: the joint entry is committed, its leader crashes before it can leave."""
    cluster = Cluster(3, spare=2)
    core = cluster.elect(1)
    index = core.change(plain((1, 4, 5), (2, 3)), b"")
    cluster.drop = lambda m: (
        isinstance(m, AppendEntries) and any(e.index > index for e in m.entries)
    )
    cluster.flow()
    assert core.commit == index
    for member in crashed:
        cluster.crash(member)
    cluster.drop = lambda _: False
    cluster.tick(4 * TIMEOUT)
    for member in crashed:
        cluster.restart(member)
    cluster.tick(6 * TIMEOUT)
    (now,) = cluster.leaders()
    assert cluster[now].configuration == plain((1, 4, 5), (2, 3))
    assert {cluster[m].commit for m in cluster.stages} == {cluster[now].commit}


def test_a_member_that_is_no_voter_of_an_uncommitted_configuration_can_still_win() -> None:
    """4.2.2: the others may be unable to, because their logs are shorter."""
    cluster = Cluster(2, spare=1)
    core = cluster.elect(1)
    cluster.tick(2)
    core.change(plain((3,)), b"")
    cluster.drop = lambda m: (
        isinstance(m, AppendEntries) and m.to == 3 and any(e.index > 2 for e in m.entries)
    )
    cluster.tick(2)  # joint is committed; 1 and 2 hold the next one, 3 does not
    assert cluster[1].configuration == cluster[2].configuration == plain((3,))
    assert cluster[3].configuration.joint
    cluster.crash(1)
    cluster.restart(1)
    cluster.drop = lambda _: False
    cluster.tick(8 * TIMEOUT)
    assert cluster.leaders() == [3]
    assert cluster[3].configuration == plain((3,))
    assert cluster[3].commit == cluster[3].last_index


# --- removal (4.2.2, 4.2.3) -----------------------------------------------------------------------


def test_a_removed_leader_commits_its_removal_without_counting_itself_and_hands_over() -> None:
    """R30."""
    cluster = Cluster()
    core = cluster.elect(1)
    cluster.tick(2)
    timeouts: list[TimeoutNow] = []

    def watch(message: Message) -> bool:
        if isinstance(message, TimeoutNow):
            timeouts.append(message)
        return isinstance(message, AppendReply) and silent

    silent = True
    cluster.drop = watch
    index = core.change(plain((2, 3)), b"")
    cluster.tick(1, [1])
    assert core.commit < index
    assert core.is_leader
    silent = False
    cluster.tick(4, [1])
    assert core.commit == index
    assert core.role == FOLLOWER
    assert len(timeouts) == 1
    (now,) = cluster.leaders()
    assert now in (2, 3)
    cluster.put(b"goes on")
    core.campaign()
    cluster.tick(5 * TIMEOUT)
    assert core.role == FOLLOWER
    assert cluster.leaders() == [now]


def test_a_removed_follower_learns_of_its_removal() -> None:
    """R31."""
    cluster = Cluster()
    core = cluster.elect(1)
    index = core.change(plain((1, 2)), b"")
    cluster.tick(2)
    assert cluster[3].configuration == plain((1, 2))
    assert cluster[3].commit >= index
    cluster.tick(2 * TIMEOUT)
    assert 3 not in core.progress()
    assert cluster[3].role == FOLLOWER


def test_a_removed_member_that_does_not_know_it_disturbs_nobody() -> None:
    """R31."""
    cluster = Cluster()
    core = cluster.elect(1)
    cluster.isolate(3)
    core.change(plain((1, 2)), b"")
    cluster.tick(4 * TIMEOUT)
    assert 3 not in core.progress()
    cluster.cut.clear()
    cluster.tick(6 * TIMEOUT)
    assert cluster.leaders() == [1]
    assert cluster[1].term == 1
    assert cluster[3].term == 1


def test_a_change_can_be_made_while_a_minority_is_down() -> None:
    """R26: adding a voter with a wrong address leaves the cluster working."""
    cluster = Cluster()
    core = cluster.elect(1)
    index = core.change(plain((1, 2, 3, 9)), b"")
    cluster.tick(2)
    assert core.commit == index
    core.change(plain((1, 2, 3)), b"")
    cluster.tick(2)
    assert core.configuration == plain((1, 2, 3))
    assert core.commit == core.last_index


def test_a_promotion_of_a_lagging_learner_is_visible_in_its_progress() -> None:
    """R27: the caller refuses it by what the core shows."""
    cluster = Cluster(3, spare=1)
    core = cluster.elect(1)
    cluster.isolate(4)
    core.change(plain((1, 2, 3), (4,)), b"")
    for _ in range(20):
        cluster.put(b"x")
    assert core.match_index(4) == 0
    cluster.cut.clear()
    cluster.tick(3)
    assert core.match_index(4) == core.last_index
    assert not core.progress()[4].voter
