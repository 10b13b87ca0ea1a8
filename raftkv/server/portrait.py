"""A request in a log line: its kind, the beginning of its keys, the sizes of its values.

In the form of etcd's own lines (`put:<key:"abc" value_size:7 >`), but for keys, of which only the
first bytes are shown. Values are never shown, nor anything of requests that may hold a secret.
"""

from collections.abc import Callable, Iterable
from typing import Final

from google.protobuf.message import DecodeError

from raftkv.kv import commands
from raftkv.pb import rpc_pb2
from raftkv.raft.types import CONFIG, NORMAL, Entry

KEY_BYTES: Final = 32
_OPERATIONS: Final = 4  # of a transaction's branch


def portrait(entry: Entry) -> str:
    """An entry of the log."""
    if entry.kind != NORMAL:
        return "member-change:<>" if entry.kind == CONFIG else "raft:<>"
    payload = entry.payload
    request = payload[commands.request_at(payload) :]
    describe = _REQUESTS.get(payload[1])
    if describe is None:
        return f"command-{payload[1]}:<size:{len(request)} >"
    try:
        return describe(request)
    except DecodeError:  # an entry that another version wrote
        return f"command-{payload[1]}:<size:{len(request)} >"


def shown_key(key: bytes) -> str:
    """The first bytes of a key, quoted."""
    text = repr(key[:KEY_BYTES])[1:].replace('"', '\\"')
    dots = "..." if len(key) > KEY_BYTES else ""
    return f'"{text[1:-1]}{dots}"'


def _range(key: bytes, range_end: bytes) -> str:
    return f"key:{shown_key(key)} " + (f"range_end:{shown_key(range_end)} " if range_end else "")


def _put(request: rpc_pb2.PutRequest) -> str:
    return f"put:<key:{shown_key(request.key)} value_size:{len(request.value)} >"


def _delete(request: rpc_pb2.DeleteRangeRequest) -> str:
    return f"delete_range:<{_range(request.key, request.range_end)}>"


def _txn(request: rpc_pb2.TxnRequest) -> str:
    compares = " ".join(f"key:{shown_key(one.key)}" for one in request.compare[:_OPERATIONS])
    success, failure = _branch(request.success), _branch(request.failure)
    return f"txn:<compare:<{compares} > success:<{success}> failure:<{failure}> >"


def _branch(operations: Iterable[rpc_pb2.RequestOp]) -> str:
    shown = []
    count = 0
    for operation in operations:
        count += 1
        if count > _OPERATIONS:
            continue
        kind = operation.WhichOneof("request")
        if kind == "request_put":
            shown.append(_put(operation.request_put))
        elif kind == "request_delete_range":
            shown.append(_delete(operation.request_delete_range))
        elif kind == "request_range":
            read = operation.request_range
            shown.append(f"range:<{_range(read.key, read.range_end)}>")
        else:
            shown.append("txn:<...>")
    if count > _OPERATIONS:
        shown.append(f"and {count - _OPERATIONS} more")
    return " ".join(shown)


_REQUESTS: Final[dict[int, Callable[[bytes], str]]] = {
    commands.PUT: lambda request: _put(rpc_pb2.PutRequest.FromString(request)),
    commands.DELETE_RANGE: lambda request: _delete(rpc_pb2.DeleteRangeRequest.FromString(request)),
    commands.TXN: lambda request: _txn(rpc_pb2.TxnRequest.FromString(request)),
    commands.COMPACT: lambda request: (
        f"compaction:<revision:{rpc_pb2.CompactionRequest.FromString(request).revision} >"
    ),
}
