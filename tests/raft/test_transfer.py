"""Leadership transfer (dissertation 3.10, R35)."""

import pytest

from raftkv.raft.membership import plain
from raftkv.raft.messages import AppendEntries, TimeoutNow, VoteRequest
from raftkv.raft.roles import BadTransferTarget, NotLeader, TransferInProgress
from tests.raft.cluster import TIMEOUT, Cluster, Stage, every
from tests.raft.test_replication import accept, leader


def test_leadership_moves_at_once_to_a_target_that_is_up_to_date() -> None:
    cluster = Cluster()
    cluster.elect(1)
    cluster.put(b"x")
    cluster[1].transfer(3)
    cluster.flow()
    assert cluster.leaders() == [3]
    assert cluster[3].term == 2
    assert cluster[1].leader == 3


def test_the_target_is_brought_up_to_date_first() -> None:
    cluster = Cluster()
    cluster.elect(1)
    cluster.drop = lambda m: isinstance(m, AppendEntries) and m.to == 3
    cluster.put(b"a", b"b")
    cluster[1].transfer(3)
    cluster.flow()
    assert cluster.leaders() == [1]
    cluster.drop = lambda _: False
    cluster.tick(4, [1])
    assert cluster.leaders() == [3]


def test_the_target_campaigns_without_waiting_and_without_pre_vote() -> None:
    stage = Stage(term=1)
    stage.core.step(AppendEntries(1, 2, 1, 0, 0, [], 0))
    sent = every(stage.take(TimeoutNow(1, 2, 1)), VoteRequest)
    assert [(m.term, m.pre, m.force) for m in sent] == [(2, False, True)] * 2


def test_no_proposals_and_no_changes_meanwhile() -> None:
    stage = leader()
    stage.run()
    stage.take(accept(stage, 2))
    stage.core.transfer(3)
    with pytest.raises(TransferInProgress):
        stage.core.propose([b"x"])
    with pytest.raises(TransferInProgress):
        stage.core.change(plain((1, 2)), b"")
    assert stage.core.transferee == 3


@pytest.mark.parametrize("fault", ["crashed", "partitioned", "lagging"])
def test_a_transfer_that_does_not_happen_ends_after_an_election_timeout(fault: str) -> None:
    """R35: proposals resume, and there is never a second leader."""
    cluster = Cluster()
    core = cluster.elect(1)
    if fault == "crashed":
        cluster.crash(3)
    elif fault == "partitioned":
        cluster.isolate(3)
    else:
        cluster.drop = lambda m: isinstance(m, AppendEntries) and m.to == 3
    cluster.put(b"behind")
    core.transfer(3)
    for _ in range(TIMEOUT - 1):
        cluster.tick(1)
        with pytest.raises(TransferInProgress):
            core.propose([b"x"])
    cluster.tick(1)
    assert core.transferee == 0
    assert cluster.leaders() == [1]
    index = cluster.put(b"resumed")
    assert core.commit == index


def test_a_lost_order_to_campaign_leaves_the_old_leader_in_place() -> None:
    cluster = Cluster()
    core = cluster.elect(1)
    cluster.drop = lambda m: isinstance(m, TimeoutNow)
    core.transfer(2)
    cluster.tick(TIMEOUT)
    assert cluster.leaders() == [1]
    cluster.put(b"x")


def test_a_late_order_of_an_older_term_is_ignored() -> None:
    stage = Stage(term=3)
    assert every(stage.take(TimeoutNow(1, 2, 2)), VoteRequest) == []


def test_only_a_leader_hands_over_and_only_to_another_voter() -> None:
    with pytest.raises(NotLeader):
        Stage().core.transfer(2)
    stage = leader()
    stage.run()
    for target in (4, 99):
        with pytest.raises(BadTransferTarget):
            stage.core.transfer(target)
    stage.core.transfer(1)  # to itself: nothing to do
    assert stage.core.transferee == 0


def test_a_change_that_removes_the_target_ends_the_transfer() -> None:
    cluster = Cluster(3, spare=1)
    core = cluster.elect(1)
    cluster.tick(1)
    cluster.isolate(3)
    cluster.put(b"x")
    core.transfer(3)
    core.transfer(2)  # the newer wish counts
    cluster.flow()
    assert cluster.leaders() == [2]
