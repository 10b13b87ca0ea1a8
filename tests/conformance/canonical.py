"""Makes two servers' answers comparable, and nothing else.

Three header fields name the server or its election and are replaced by whether they are
set: cluster_id, member_id, raft_term. And etcd sorts with an unstable algorithm, so where
more than six pairs are sorted by something else than the key, pairs that tie are put in key
order; of the last tie of a page cut off by `limit` only the sorted field is kept, because
which of its pairs made it onto the page is arbitrary too. Of the time that a lease has left only
the sign is kept, because time passes; its keys, which come in no order, are put in order.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

from google.protobuf.message import Message

from raftkv.pb import kv_pb2, rpc_pb2

STABLE_SORT_LENGTH: Final = 6

_SORTED_FIELD: Final = {
    rpc_pb2.RangeRequest.VERSION: "version",
    rpc_pb2.RangeRequest.CREATE: "create_revision",
    rpc_pb2.RangeRequest.MOD: "mod_revision",
    rpc_pb2.RangeRequest.VALUE: "value",
}


def canonical(request: Message, answer: Message) -> Message:
    """A copy of `answer` that equals the copy of any other correct answer to `request`."""
    copy = type(answer)()
    copy.CopyFrom(answer)
    _headers(copy)
    if isinstance(request, rpc_pb2.RangeRequest) and isinstance(copy, rpc_pb2.RangeResponse):
        _ties(request, copy)
    elif isinstance(request, rpc_pb2.TxnRequest) and isinstance(copy, rpc_pb2.TxnResponse):
        _txn_ties(request, copy)
    elif isinstance(copy, rpc_pb2.LeaseTimeToLiveResponse):
        copy.TTL = max(min(copy.TTL, 1), -1)
        copy.keys[:] = sorted(copy.keys)
    return copy


def _headers(message: Message) -> None:
    if isinstance(message, rpc_pb2.ResponseHeader):
        message.cluster_id = min(message.cluster_id, 1)
        message.member_id = min(message.member_id, 1)
        message.raft_term = min(message.raft_term, 1)
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else (value,):
                _headers(part)


def _txn_ties(request: rpc_pb2.TxnRequest, answer: rpc_pb2.TxnResponse) -> None:
    branch = request.success if answer.succeeded else request.failure
    for asked, got in zip(branch, answer.responses, strict=False):
        if got.HasField("response_range"):
            _ties(asked.request_range, got.response_range)
        elif got.HasField("response_txn"):
            _txn_ties(asked.request_txn, got.response_txn)


def _ties(request: rpc_pb2.RangeRequest, answer: rpc_pb2.RangeResponse) -> None:
    field = _SORTED_FIELD.get(request.sort_target)
    if field is None or answer.count <= STABLE_SORT_LENGTH:
        return
    groups: list[list[kv_pb2.KeyValue]] = [
        sorted(group, key=lambda kv: kv.key)
        for _, group in groupby(answer.kvs, key=lambda kv: _value(kv, field))
    ]
    if answer.more and groups:
        groups[-1] = _only(groups[-1], field)
    del answer.kvs[:]
    for group in groups:
        answer.kvs.extend(group)


def _value(kv: kv_pb2.KeyValue, field: str) -> Any:
    return getattr(kv, field)


def _only(group: Sequence[kv_pb2.KeyValue], field: str) -> list[kv_pb2.KeyValue]:
    return [kv_pb2.KeyValue(**{field: _value(kv, field)}) for kv in group]
