"""What the load sends is what it says."""

import pytest

from bench import requests
from raftkv.pb import rpc_pb2


def taken(kind: str, count: int = 500) -> list[requests.Operation]:
    pool = requests.endless(kind, keys=1000, value_bytes=256, seed=3)
    return [next(pool) for _ in range(count)]


def test_puts_have_values_of_the_given_size_that_do_not_compress() -> None:
    values = [rpc_pb2.PutRequest.FromString(one.message).value for one in taken("put")]
    assert {len(value) for value in values} == {256}
    assert len(set(values)) == len(values)


def test_reads_are_linearizable_unless_they_say_otherwise() -> None:
    assert not any(rpc_pb2.RangeRequest.FromString(o.message).serializable for o in taken("get"))
    assert all(rpc_pb2.RangeRequest.FromString(o.message).serializable for o in taken("ser-get"))


def test_ranges_stay_within_the_keys_that_exist() -> None:
    for one in taken("range"):
        request = rpc_pb2.RangeRequest.FromString(one.message)
        assert request.range_end <= requests.key(1000)
        assert int(request.range_end[6:]) - int(request.key[6:]) == requests.RANGE_KEYS


def test_a_txn_is_a_success_only_if_its_put_ran() -> None:
    header = rpc_pb2.ResponseHeader(
        cluster_id=2**64 - 1, member_id=2**64 - 1, revision=2**63 - 1, raft_term=2**64 - 1
    )
    put = rpc_pb2.PutResponse(header=rpc_pb2.ResponseHeader(revision=2))
    responses = [rpc_pb2.ResponseOp(response_put=put)]
    ran = rpc_pb2.TxnResponse(header=header, succeeded=True, responses=responses)
    other = rpc_pb2.TxnResponse(header=header, responses=responses)
    nothing = rpc_pb2.TxnResponse(header=header)
    for one in taken("txn", 10):
        assert one.proof in ran.SerializeToString()
        assert one.proof not in other.SerializeToString()
        assert one.proof not in nothing.SerializeToString()


def test_a_mix_has_four_reads_for_every_write() -> None:
    paths = [one.path for one in taken("mixed", 5000)]
    assert paths.count(requests.RANGE) / len(paths) == pytest.approx(0.8, abs=0.03)
    assert set(paths) == {requests.RANGE, requests.PUT}


def test_the_same_seed_gives_the_same_load() -> None:
    assert taken("put") == taken("put")
