"""The client's side of etcd's messages: requests to bytes, answers from bytes.

Protobuf (proto3) by hand, only the fields that `sim.operations` knows, so that a
mistake in the server's own encoder cannot cancel itself out here. Field numbers are
those of etcd's rpc.proto and kv.proto.

Every command carries its operation's identity in a field that no etcd message has
(number 9999, fixed64), always last. Receivers skip unknown fields, the log keeps the
bytes, and so a committed entry names the operation that it is, whatever became of the
client:

    command := etcd message | tag 3 bytes | identity u64 little-endian
"""

from collections.abc import Iterator
from typing import Final

from raftkv.kv import commands
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
    PutWithTTL,
    Request,
    Response,
    Txn,
    TxnDone,
)

_VARINT: Final = 0
_FIXED64: Final = 1
_BYTES: Final = 2
_FIXED32: Final = 5


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(value) if value else b""


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | _BYTES) + _varint(len(value)) + value


def _filled(field: int, value: bytes) -> bytes:
    return _bytes(field, value) if value else b""


IDENTITY_TAG: Final = _varint(9999 << 3 | _FIXED64)
_IDENTITY_BYTES: Final = len(IDENTITY_TAG) + 8

COMMANDS: Final = {
    Put: commands.PUT,
    PutWithTTL: commands.PUT_WITH_TTL,
    Delete: commands.DELETE_RANGE,
    Txn: commands.TXN,
    Compact: commands.COMPACT,
}

# Compare.CompareTarget
_TARGET_MOD: Final = 2
_TARGET_VALUE: Final = 3


def encode_request(request: Request, identity: int) -> bytes:
    """The request's message, with the identity of its operation at the end."""
    return encode_message(request) + IDENTITY_TAG + identity.to_bytes(8, "little")


def identity_of(payload: bytes) -> int | None:
    """The operation that a log entry's payload carries; None if it is no client's."""
    if payload[-_IDENTITY_BYTES:-8] != IDENTITY_TAG:
        return None
    return int.from_bytes(payload[-8:], "little")


def encode_message(request: Request) -> bytes:
    """The request's message as any etcd client would send it."""
    if isinstance(request, Put):
        lease = _number(3, request.lease)
        return _filled(1, request.key) + _filled(2, request.value) + lease
    if isinstance(request, PutWithTTL):  # an entry of its own form (`kv.leases`)
        numbers = request.lease.to_bytes(8, "big") + request.ttl_ms.to_bytes(8, "big")
        return numbers + _filled(1, request.key) + _filled(2, request.value)
    if isinstance(request, Get):
        return (
            _filled(1, request.key)
            + _filled(2, request.end)
            + _number(4, request.revision)
            + _number(7, int(request.serializable))
        )
    if isinstance(request, Delete):
        return _filled(1, request.key) + _filled(2, request.end)
    if isinstance(request, Compact):
        return _number(1, request.revision)
    parts = [_bytes(1, _compare(compare)) for compare in request.compares]
    parts += [_bytes(2, _operation(part)) for part in request.success]
    parts += [_bytes(3, _operation(part)) for part in request.failure]
    return b"".join(parts)


def _compare(compare: Compare) -> bytes:
    if compare.value is not None:
        return (
            _number(2, _TARGET_VALUE) + _bytes(3, compare.key) + _bytes(7, compare.value)
        )  # result 0: EQUAL
    mod_revision = _varint(6 << 3 | _VARINT) + _varint(compare.mod_revision)
    return _number(2, _TARGET_MOD) + _bytes(3, compare.key) + mod_revision


def _operation(part: Put | Get | Delete) -> bytes:
    field = 1 if isinstance(part, Get) else 2 if isinstance(part, Put) else 3
    return _bytes(field, encode_message(part))


# --- answers ------------------------------------------------------------------


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    byte = data[at]
    if byte < 0x80:
        return byte, at + 1
    value, shift = byte & 0x7F, 7
    while True:
        at += 1
        byte = data[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at + 1
        shift += 7


def _fields(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(field, varint value, bytes value) of every field of a message."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _read_varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _read_varint(data, at)
            yield tag >> 3, value, b""
        elif kind == _BYTES:
            length, at = _read_varint(data, at)
            if at + length > end:
                raise ValueError("a field reaches behind the end of its message")
            yield tag >> 3, 0, data[at : at + length]
            at += length
        elif kind == _FIXED64:
            at += 8
        elif kind == _FIXED32:
            at += 4
        else:
            raise ValueError(f"field {tag >> 3} has wire type {kind}")


def decode_response(request: Request, body: bytes) -> Response:
    """What `body` (an answer's message, with or without its header) says.

    Raises ValueError or IndexError for bytes that are no such message.
    """
    if isinstance(request, Get):
        return _found(body)
    if isinstance(request, Put | PutWithTTL):
        return PutDone()
    if isinstance(request, Delete):
        return _deleted(body)
    if isinstance(request, Compact):
        return Compacted()
    succeeded = False
    responses: list[PutDone | Found | Deleted] = []
    for field, number, content in _fields(body):
        if field == 2:
            succeeded = bool(number)
        elif field == 3:
            responses.append(_part_answer(content))
    return TxnDone(succeeded, tuple(responses))


def _part_answer(data: bytes) -> PutDone | Found | Deleted:
    for field, _, content in _fields(data):
        if field == 1:
            return _found(content)
        if field == 2:
            return PutDone()
        if field == 3:
            return _deleted(content)
    raise ValueError("an empty ResponseOp")


def _deleted(data: bytes) -> Deleted:
    for field, number, _ in _fields(data):
        if field == 2:
            return Deleted(number)
    return Deleted(0)


def _found(data: bytes) -> Found:
    keys: list[KeyValue] = []
    more, total = False, 0
    for field, number, content in _fields(data):
        if field == 2:
            keys.append(_key_value(content))
        elif field == 3:
            more = bool(number)
        elif field == 4:
            total = number
    return Found(tuple(keys), total, more)


def _key_value(data: bytes) -> KeyValue:
    key = value = b""
    created = modified = version = lease = 0
    for field, number, content in _fields(data):
        if field == 1:
            key = content
        elif field == 2:
            created = number
        elif field == 3:
            modified = number
        elif field == 4:
            version = number
        elif field == 5:
            value = content
        elif field == 6:
            lease = number
    return KeyValue(key, value, created, modified, version, lease)
