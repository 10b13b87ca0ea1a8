"""The clients' own encoding of etcd's messages agrees with protobuf."""

import pytest

from raftkv.pb import kv_pb2, rpc_pb2
from raftkv.sim.etcd import decode_response, encode_message, encode_request, identity_of
from raftkv.sim.operations import (
    Compact,
    Compacted,
    Compare,
    Delete,
    Deleted,
    Found,
    Get,
    KeyValue,
    Put,
    PutDone,
    Request,
    Txn,
    TxnDone,
)

TXN = Txn(
    (Compare(b"a", value=b"x"), Compare(b"b"), Compare(b"c", mod_revision=300)),
    (Put(b"a", b"y"), Delete(b"d", b"e")),
    (Get(b"a", b"z"),),
)
REQUESTS: list[tuple[Request, object]] = [
    (Put(b"key", b"value"), rpc_pb2.PutRequest(key=b"key", value=b"value")),
    (Put(b"key", b"v" * 300), rpc_pb2.PutRequest(key=b"key", value=b"v" * 300)),
    (Get(b"key"), rpc_pb2.RangeRequest(key=b"key")),
    (
        Get(b"a", b"b", revision=1 << 40, serializable=True),
        rpc_pb2.RangeRequest(key=b"a", range_end=b"b", revision=1 << 40, serializable=True),
    ),
    (Delete(b"a", b"b"), rpc_pb2.DeleteRangeRequest(key=b"a", range_end=b"b")),
    (Compact(77), rpc_pb2.CompactionRequest(revision=77)),
    (
        TXN,
        rpc_pb2.TxnRequest(
            compare=[
                rpc_pb2.Compare(target=rpc_pb2.Compare.VALUE, key=b"a", value=b"x"),
                rpc_pb2.Compare(target=rpc_pb2.Compare.MOD, key=b"b", mod_revision=0),
                rpc_pb2.Compare(target=rpc_pb2.Compare.MOD, key=b"c", mod_revision=300),
            ],
            success=[
                rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"a", value=b"y")),
                rpc_pb2.RequestOp(
                    request_delete_range=rpc_pb2.DeleteRangeRequest(key=b"d", range_end=b"e")
                ),
            ],
            failure=[
                rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=b"a", range_end=b"z"))
            ],
        ),
    ),
]


@pytest.mark.parametrize(("request_", "message"), REQUESTS)
def test_request_is_what_protobuf_reads(request_: Request, message: object) -> None:
    assert type(message).FromString(encode_message(request_)) == message  # type: ignore[attr-defined]


def test_identity_is_carried_in_a_field_that_receivers_skip() -> None:
    data = encode_request(Put(b"k", b"v"), 123456)
    parsed = rpc_pb2.PutRequest.FromString(data)
    assert (parsed.key, parsed.value) == (b"k", b"v")
    assert identity_of(b"envelope" + data) == 123456
    assert identity_of(encode_message(Put(b"k", b"v" * 20))) is None


STORED = kv_pb2.KeyValue(
    key=b"k", value=b"v", create_revision=3, mod_revision=900, version=2, lease=5
)
KEY = KeyValue(b"k", b"v", 3, 900, 2, 5)
HEADER = rpc_pb2.ResponseHeader(cluster_id=1 << 63, member_id=7, revision=9, raft_term=2)


def test_answers_are_read_as_protobuf_wrote_them() -> None:
    ranged = rpc_pb2.RangeResponse(header=HEADER, kvs=[STORED], more=True, count=8)
    assert decode_response(Get(b"k"), ranged.SerializeToString()) == Found((KEY,), 8, True)
    deleted = rpc_pb2.DeleteRangeResponse(header=HEADER, deleted=4)
    assert decode_response(Delete(b"k"), deleted.SerializeToString()) == Deleted(4)
    assert decode_response(Put(b"k", b"v"), b"") == PutDone()
    assert decode_response(Compact(1), b"") == Compacted()
    txn = rpc_pb2.TxnResponse(
        header=HEADER,
        succeeded=True,
        responses=[
            rpc_pb2.ResponseOp(response_put=rpc_pb2.PutResponse()),
            rpc_pb2.ResponseOp(response_delete_range=deleted),
            rpc_pb2.ResponseOp(response_range=ranged),
        ],
    )
    assert decode_response(TXN, txn.SerializeToString()) == TxnDone(
        True, (PutDone(), Deleted(4), Found((KEY,), 8, True))
    )


def test_damaged_answer_is_an_error() -> None:
    with pytest.raises((ValueError, IndexError)):
        decode_response(Get(b"k"), b"\x12\x50short")
