"""What every result is: a value that cannot be changed, compared and stored as one."""

import copy
import pickle
from typing import Any

import pytest

from raftkv.client.keys import Namespace
from raftkv.client.results import (
    DeleteResult,
    Event,
    EventType,
    GetResult,
    Header,
    KeyValue,
    PutResult,
    RangeResult,
    TxnResult,
    WatchBatch,
)
from raftkv.pb import kv_pb2, rpc_pb2

HEADER = Header(cluster_id=1, member_id=2, revision=30, raft_term=4)
KV = KeyValue(b"k", b"v", create_revision=10, mod_revision=20, version=3, lease=7)
ON_WIRE = kv_pb2.KeyValue(
    key=b"app/k", value=b"v", create_revision=10, mod_revision=20, version=3, lease=7
)
HEADER_ON_WIRE = rpc_pb2.ResponseHeader(cluster_id=1, member_id=2, revision=30, raft_term=4)
INSIDE = Namespace(b"app/")

VALUES = [
    HEADER,
    KV,
    GetResult(HEADER, KV),
    RangeResult(HEADER, (KV,), 1, False),
    PutResult(HEADER, KV),
    DeleteResult(HEADER, 1, (KV,)),
    TxnResult(HEADER, True, (PutResult(HEADER),)),
    Event(EventType.PUT, KV, None),
    WatchBatch(HEADER, (Event(EventType.DELETE, KV, KV),)),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_result_cannot_be_changed_but_copied_and_stored(value: Any) -> None:
    for name in (*type(value).__annotations__, "anything"):
        with pytest.raises((AttributeError, TypeError)):
            setattr(value, name, None)
    for other in (copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert other == value
        assert type(other) is type(value)
        assert hash(other) == hash(value)
    assert repr(value).startswith(f"{type(value).__name__}(")


def test_pairs_are_told_by_their_names() -> None:
    told = "key=b'k', value=b'v', create_revision=10, mod_revision=20, version=3, lease=7"
    assert repr(KV) == f"KeyValue({told})"


def test_a_result_is_read_without_the_namespace() -> None:
    answer = rpc_pb2.RangeResponse(header=HEADER_ON_WIRE, kvs=[ON_WIRE], count=1)
    assert GetResult.read(answer, INSIDE, False) == GetResult(HEADER, KV)
    assert RangeResult.read(answer, INSIDE, HEADER) == RangeResult(HEADER, (KV,), 1, False)
    nothing = rpc_pb2.RangeResponse(header=HEADER_ON_WIRE)
    assert GetResult.read(nothing, INSIDE, True) == GetResult(HEADER, None, may_be_stale=True)
    event = kv_pb2.Event(type=kv_pb2.Event.DELETE, kv=ON_WIRE, prev_kv=ON_WIRE)
    assert Event.read(event, INSIDE) == Event(EventType.DELETE, KV, KV)
