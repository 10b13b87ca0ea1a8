"""What etcd answers to calls of Cluster and Maintenance, as far as raftkv has them.

An etcd that is asked for several changes of members within some milliseconds stops answering
them, so the test that changes any has a server of its own and takes its time.
"""

import time

import pytest
from google.protobuf.message import Message

from raftkv.pb import rpc_pb2
from tests.conformance.store import COMPACTED, FUTURE, Store

BAD_URLS = ("INVALID_ARGUMENT", "etcdserver: given member URLs are invalid")
NO_MEMBER = ("NOT_FOUND", "etcdserver: member not found")
NOT_A_LEARNER = ("FAILED_PRECONDITION", "etcdserver: can only promote a learner member")
BAD_TRANSFEREE = ("FAILED_PRECONDITION", "etcdserver: bad leader transferee")
NOT_LEADER = ("FAILED_PRECONDITION", "etcdserver: not leader")

TAKEN = ("FAILED_PRECONDITION", "etcdserver: Peer URLs already exists")
TOO_MANY_LEARNERS = ("FAILED_PRECONDITION", "etcdserver: too many learner members in cluster")
NOT_IN_SYNC = (
    "FAILED_PRECONDITION",
    "etcdserver: can only promote a learner member which is in sync with leader",
)
NOT_ENOUGH_STARTED = (
    "UNKNOWN",
    "etcdserver: re-configuration failed due to not enough started members",
)

NOBODY = 4711
NOWHERE = ["http://127.0.0.1:1", "http://127.0.0.1:2"]
PUBLISH_SECONDS = 60.0


def _status(store: Store) -> rpc_pb2.StatusResponse:
    return store.call(rpc_pb2.StatusRequest(), rpc_pb2.StatusResponse)


def _members_with_urls(store: Store, linearizable: bool) -> rpc_pb2.MemberListResponse:
    """The list, once every member has told its client URLs, which is soon after it serves."""
    request = rpc_pb2.MemberListRequest(linearizable=linearizable)
    deadline = time.monotonic() + PUBLISH_SECONDS
    while True:
        answer = store.call(request, rpc_pb2.MemberListResponse)
        if all(member.clientURLs for member in answer.members) or time.monotonic() > deadline:
            return answer


@pytest.mark.parametrize("linearizable", [False, True])
def test_the_member_list_has_no_revision_in_its_header(store: Store, linearizable: bool) -> None:
    answer = _members_with_urls(store, linearizable)
    assert min(answer.header.cluster_id, answer.header.member_id, answer.header.raft_term) > 0
    assert answer.header.revision == 0
    assert answer.header.member_id in {member.ID for member in answer.members}
    for member in answer.members:
        assert member.name
        assert (len(member.peerURLs), len(member.clientURLs)) == (1, 1)
        assert not member.isLearner


@pytest.mark.parametrize("urls", [[], [""], ["nonsense"], ["127.0.0.1:2380"], ["http://"]])
def test_a_member_needs_good_urls(store: Store, urls: list[str]) -> None:
    assert store.fails(rpc_pb2.MemberAddRequest(peerURLs=urls)) == BAD_URLS


def _listed(store: Store) -> list[rpc_pb2.Member]:
    """The members, half a second after the last change: what comes sooner etcd never answers."""
    time.sleep(0.5)
    request = rpc_pb2.MemberListRequest(linearizable=True)
    return list(store.call(request, rpc_pb2.MemberListResponse).members)


def _refusal(store: Store, request: Message) -> tuple[str, str]:
    """The status of a change that is refused; asked again if etcd has not answered."""
    for _ in range(3):
        refusal = store.fails(request)
        if refusal[0] != "DEADLINE_EXCEEDED":
            break
    return refusal


@pytest.mark.slow
def test_changes_of_members_and_their_refusals(fresh_store: Store) -> None:
    """R24, R26, R27, R32: on a cluster of one, one change after the other."""
    store = fresh_store
    (own,) = _members_with_urls(store, linearizable=True).members
    remove_own = rpc_pb2.MemberRemoveRequest(ID=own.ID)
    assert _refusal(store, remove_own) == NOT_ENOUGH_STARTED
    for nobody in (
        rpc_pb2.MemberUpdateRequest(ID=NOBODY, peerURLs=NOWHERE),
        rpc_pb2.MemberRemoveRequest(ID=NOBODY),
        rpc_pb2.MemberPromoteRequest(ID=NOBODY),
    ):
        assert _refusal(store, nobody) == NO_MEMBER
        assert len(_listed(store)) == 1
    assert _refusal(store, rpc_pb2.MemberPromoteRequest(ID=own.ID)) == NOT_A_LEARNER
    assert len(_listed(store)) == 1
    for is_learner in (False, True):
        taken = rpc_pb2.MemberAddRequest(peerURLs=own.peerURLs, isLearner=is_learner)
        assert _refusal(store, taken) == TAKEN
        assert len(_listed(store)) == 1
    same = rpc_pb2.MemberUpdateRequest(ID=own.ID, peerURLs=own.peerURLs)
    updated = store.call(same, rpc_pb2.MemberUpdateResponse)
    assert [member.peerURLs for member in updated.members] == [own.peerURLs]
    assert [member.clientURLs for member in updated.members] == [own.clientURLs]
    assert updated.header.revision == 0
    assert len(_listed(store)) == 1
    added = store.call(
        rpc_pb2.MemberAddRequest(peerURLs=reversed(NOWHERE), isLearner=True),
        rpc_pb2.MemberAddResponse,
    )
    learner = added.member
    assert (list(learner.peerURLs), learner.isLearner, learner.name) == (NOWHERE, True, "")
    assert {member.ID for member in added.members} == {own.ID, learner.ID}
    assert len(_listed(store)) == 2
    assert _refusal(store, rpc_pb2.MemberPromoteRequest(ID=learner.ID)) == NOT_IN_SYNC
    another = rpc_pb2.MemberAddRequest(peerURLs=["http://127.0.0.1:3"], isLearner=True)
    assert _refusal(store, another) == TOO_MANY_LEARNERS
    assert len(_listed(store)) == 2
    move = rpc_pb2.MemberUpdateRequest(ID=learner.ID, peerURLs=own.peerURLs)
    assert _refusal(store, move) == TAKEN
    assert len(_listed(store)) == 2
    remove = rpc_pb2.MemberRemoveRequest(ID=learner.ID)
    left = store.call(remove, rpc_pb2.MemberRemoveResponse)
    assert [member.ID for member in left.members] == [own.ID]
    assert len(_listed(store)) == 1
    assert _refusal(store, remove) == NO_MEMBER
    assert store.put("still").header.revision > 1


def test_a_status(store: Store) -> None:
    revision = store.put("a").header.revision
    status = _status(store)
    assert status.header.revision >= revision
    assert min(status.leader, status.raftIndex, status.raftAppliedIndex, status.dbSize) > 0
    assert status.raftAppliedIndex <= status.raftIndex
    assert status.raftTerm == status.header.raft_term
    assert status.dbSizeInUse <= status.dbSize
    assert (list(status.errors), status.isLearner) == ([], False)


def test_moving_the_leader_to_nobody_or_to_itself(fresh_store: Store) -> None:
    for target in (0, NOBODY):
        assert fresh_store.fails(rpc_pb2.MoveLeaderRequest(targetID=target)) == BAD_TRANSFEREE
    own = _status(fresh_store).header.member_id
    fresh_store.call(rpc_pb2.MoveLeaderRequest(targetID=own), rpc_pb2.MoveLeaderResponse)


def test_only_the_leader_moves_leadership(store: Store) -> None:
    status = _status(store)
    if status.leader == status.header.member_id:
        request = rpc_pb2.MoveLeaderRequest(targetID=status.leader)
        store.call(request, rpc_pb2.MoveLeaderResponse)
    else:
        request = rpc_pb2.MoveLeaderRequest(targetID=status.header.member_id)
        assert store.fails(request) == NOT_LEADER


def test_a_hash_of_the_keys(store: Store) -> None:
    def hash_at(revision: int) -> rpc_pb2.HashKVResponse:
        return store.call(rpc_pb2.HashKVRequest(revision=revision), rpc_pb2.HashKVResponse)

    first = store.put("a", b"1").header.revision
    before = hash_at(0)
    assert hash_at(first).hash == before.hash
    last = store.put("a", b"2").header.revision
    assert hash_at(first).hash == before.hash
    assert hash_at(0).hash != before.hash
    assert store.fails(rpc_pb2.HashKVRequest(revision=last + 1)) == FUTURE
    store.compact(last)
    assert hash_at(0).compact_revision == last
    assert store.fails(rpc_pb2.HashKVRequest(revision=first)) == COMPACTED
