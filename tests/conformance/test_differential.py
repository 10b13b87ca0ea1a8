"""The same random requests to etcd and to raftkv get the same answers.

More of them than here: `python -m tests.conformance`.
"""

from collections.abc import Callable
from random import Random

import pytest
from google.protobuf.message import Message

from raftkv.pb import kv_pb2, rpc_pb2
from tests.conformance import store as facts
from tests.conformance.canonical import canonical
from tests.conformance.differential import Differential, Report, is_serializable
from tests.conformance.generate import Requests
from tests.conformance.streams import skip_unless_offered
from tests.conformance.target import Target

Start = Callable[[int], tuple[Target, list[Target]]]

# A run that meets none of these has gone blind.
MISTAKES = {
    ("PutRequest", *facts.NO_KEY),
    ("PutRequest", *facts.KEY_NOT_FOUND),
    ("PutRequest", *facts.NO_LEASE),
    ("PutRequest", *facts.VALUE_PROVIDED),
    ("RangeRequest", *facts.NO_KEY),
    ("RangeRequest", *facts.FUTURE),
    ("RangeRequest", *facts.COMPACTED),
    ("TxnRequest", *facts.DUPLICATE_KEY),
    ("TxnRequest", *facts.KEY_NOT_FOUND),
    ("TxnRequest", *facts.FUTURE),
    ("CompactionRequest", *facts.FUTURE),
    ("CompactionRequest", *facts.COMPACTED),
}
ANSWERED = {
    (name, "OK", "")
    for name in (
        "PutRequest",
        "RangeRequest",
        "DeleteRangeRequest",
        "TxnRequest",
        "CompactionRequest",
    )
}


@pytest.mark.slow
def test_one_node_answers_as_etcd_does(etcd_and_raftkv: Start) -> None:
    report = _run(etcd_and_raftkv, nodes=1, seed=1, count=3000)
    assert set(report.outcomes) >= ANSWERED | MISTAKES


@pytest.mark.slow
def test_each_of_three_nodes_answers_as_etcd_does(etcd_and_raftkv: Start) -> None:
    report = _run(etcd_and_raftkv, nodes=3, seed=2, count=1600)
    assert set(report.outcomes) >= ANSWERED


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 3])
def test_leases_and_their_keys_are_as_in_etcd(etcd_and_raftkv: Start, nodes: int) -> None:
    """M11, M12: whichever node is asked."""
    judge, subjects = etcd_and_raftkv(nodes)
    skip_unless_offered(subjects[0], "Lease.LeaseLeases")
    report = Differential(judge, subjects, seed=3, leases=True).run(1000)
    requests = ("LeaseGrantRequest", "LeaseRevokeRequest", "LeaseTimeToLiveRequest")
    answered = {(name, "OK", "") for name in requests}
    assert set(report.outcomes) >= ANSWERED | answered | {("LeaseRevokeRequest", *facts.NO_LEASE)}


def _run(start: Start, nodes: int, seed: int, count: int) -> Report:
    judge, subjects = start(nodes)
    return Differential(judge, subjects, seed).run(count)


# --- the instrument itself ------------------------------------------------------


def test_a_seed_always_gives_the_same_requests() -> None:
    def first(seed: int) -> list[bytes]:
        requests = Requests(Random(seed))
        return [requests.next().SerializeToString() for _ in range(200)]

    assert first(5) == first(5)
    assert first(5) != first(6)


def _answer(*kvs: tuple[bytes, bytes], more: bool = False) -> rpc_pb2.RangeResponse:
    return rpc_pb2.RangeResponse(
        header=rpc_pb2.ResponseHeader(cluster_id=5, member_id=6, revision=7, raft_term=8),
        kvs=[kv_pb2.KeyValue(key=key, value=value) for key, value in kvs],
        count=len(kvs) + more,
        more=more,
    )


def _change(answer: rpc_pb2.RangeResponse, **fields: object) -> rpc_pb2.RangeResponse:
    changed = rpc_pb2.RangeResponse()
    changed.CopyFrom(answer)
    for name, value in fields.items():
        setattr(changed.header if hasattr(changed.header, name) else changed, name, value)
    return changed


def test_of_the_time_that_a_lease_has_left_only_the_sign_counts() -> None:
    request: Message = rpc_pb2.LeaseTimeToLiveRequest(ID=1, keys=True)

    def answer(ttl: int, *keys: bytes) -> Message:
        found = rpc_pb2.LeaseTimeToLiveResponse(ID=1, TTL=ttl, grantedTTL=9, keys=keys)
        return canonical(request, found)

    assert answer(5, b"a", b"b") == answer(8, b"b", b"a")
    for other in (answer(0, b"a"), answer(-1, b"a"), answer(5), answer(5, b"b")):
        assert answer(5, b"a") != other


def test_only_the_names_of_server_and_election_are_left_out_of_the_comparison() -> None:
    request: Message = rpc_pb2.RangeRequest(key=b"a")
    answer = _answer((b"a", b"1"))
    same = _change(answer, cluster_id=50, member_id=60, raft_term=80)
    assert canonical(request, answer) == canonical(request, same)
    for field in ("cluster_id", "member_id", "raft_term", "revision", "count"):
        other = _change(answer, **{field: 0})
        assert canonical(request, answer) != canonical(request, other)


def test_ties_of_a_long_sort_may_come_in_any_order_but_sorted_values_may_not() -> None:
    request = rpc_pb2.RangeRequest(key=b"a", sort_target=rpc_pb2.RangeRequest.VALUE)
    pairs = [(b"a", b"1"), (b"b", b"1"), *((b"c%d" % i, b"2") for i in range(6))]
    swapped = [pairs[1], pairs[0], *pairs[2:]]
    assert canonical(request, _answer(*pairs)) == canonical(request, _answer(*swapped))
    for wrong in ([*pairs[2:], *pairs[:2]], pairs[1:], [(b"x", b"1"), *pairs[1:]]):
        assert canonical(request, _answer(*pairs)) != canonical(request, _answer(*wrong))
    short = pairs[:3]
    reordered = [short[1], short[0], short[2]]
    assert canonical(request, _answer(*short)) != canonical(request, _answer(*reordered))


def test_of_a_tie_that_the_limit_cuts_only_the_sorted_value_counts() -> None:
    request = rpc_pb2.RangeRequest(key=b"a", sort_target=rpc_pb2.RangeRequest.VALUE, limit=7)
    head = [(b"h%d" % i, b"%d" % i) for i in range(6)]
    one, other = ([*head, (key, b"9")] for key in (b"x", b"y"))
    assert canonical(request, _answer(*one, more=True)) == canonical(
        request, _answer(*other, more=True)
    )
    assert canonical(request, _answer(*one)) != canonical(request, _answer(*other))


def test_what_any_node_may_answer_alone() -> None:
    local = rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=b"a", serializable=True))
    linear = rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=b"a"))
    put = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"a"))
    assert is_serializable(rpc_pb2.TxnRequest(success=[local], failure=[local]))
    assert not is_serializable(rpc_pb2.TxnRequest(success=[local], failure=[linear]))
    assert not is_serializable(rpc_pb2.TxnRequest(success=[put]))
    assert not is_serializable(rpc_pb2.PutRequest(key=b"a"))
