"""What etcd answers to calls of Cluster and Maintenance, as far as raftkv has them.

An etcd that is asked for several changes of members within some milliseconds stops answering
them, so each of these tests has a server of its own.
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

NOBODY = 4711
PUBLISH_SECONDS = 10.0


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


@pytest.mark.parametrize(
    "request_",
    [rpc_pb2.MemberRemoveRequest(ID=NOBODY), rpc_pb2.MemberPromoteRequest(ID=NOBODY)],
    ids=["remove", "promote"],
)
def test_an_unknown_member(fresh_store: Store, request_: Message) -> None:
    assert fresh_store.fails(request_) == NO_MEMBER


def test_a_voter_cannot_be_promoted(fresh_store: Store) -> None:
    own = _status(fresh_store).header.member_id
    assert fresh_store.fails(rpc_pb2.MemberPromoteRequest(ID=own)) == NOT_A_LEARNER


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
