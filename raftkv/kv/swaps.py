"""Compare-and-put: the shape of nearly every transaction, without protobuf objects.

    compares, each about one key's version, create or mod revision or value;
    then one plain put (`runs.plain_put`); else nothing, or the read of one key.

This is what Kubernetes' API server, locks and elections send. Protobuf parses such a request in
0.3 us, but its objects for the repeated fields cost 7 us more, before propose and again on every
member. Whatever is of another shape, or encoded otherwise than protobuf libraries do, is left to
`txn` and `Writer.txn`, which also say what a swap means: both ways answer alike, to the byte.
"""

from itertools import islice
from typing import Any, Final

from raftkv.kv.commands import ORIGIN, REQUEST_AT, TXN
from raftkv.kv.encoding import SUB_BITS, framed_value, revision_header, varint
from raftkv.kv.runs import INDEX_MASK, plain_put
from raftkv.kv.store import Record, Store
from raftkv.raft.types import NORMAL, Entry

_KEY, _RESULT, _TARGET, _COMPARED_KEY = 0x0A, 0x08, 0x10, 0x1A  # tags
_COMPARE, _SUCCESS, _FAILURE = 0x0A, 0x12, 0x1A  # tags of a TxnRequest
_PUT, _RANGE = 0x12, 0x0A  # tags of a RequestOp
_UNION_TAGS: Final = (0x20, 0x28, 0x30, 0x3A)  # version, create_revision, mod_revision, value
_CREATE, _MOD, _VALUE = 1, 2, 3  # Compare.CompareTarget
_EQUAL, _GREATER, _LESS, _NOT_EQUAL = range(4)  # Compare.CompareResult
# All in front of the key in a failure branch that reads one key, by the key's size.
_READ_HEADS: Final = [
    bytes((_FAILURE, size + 4, _RANGE, size + 2, _KEY, size)) for size in range(124)
]
# A swap's answer in front of the new revision, by the bytes of that: succeeded, one response, it
# is a put's, which has a header, which has a revision.
_PUT_REPLIES: Final = [
    bytes((0x10, 1, 0x1A, size + 5, _PUT, size + 3, 0x0A, size + 1, 0x18)) for size in range(10)
]
_TXN_COMMAND: Final = bytes((TXN,))
_TOO_LONG: Final = 1 << 62
_NOBODY: Final[Record] = (b"", 0, 0, 0, 0)

Compare = tuple[int, int, bytes, Any]  # target, result, key, the number or value given
# The compares; places of the put, of its value field and behind it; the key to read else, or "".
Swap = tuple[list[Compare], int, int, int, bytes]


def read_swap(data: bytes, at: int) -> Swap | None:
    """The TxnRequest from `at` to the end if it is a swap of good form, else None."""
    try:
        compares = []
        while data[at] == _COMPARE:
            compare, at = _read_compare(data, at + 1)
            if compare is None:
                return None
            compares.append(compare)
        if data[at] != _SUCCESS:
            return None
        size, at = _length(data, at + 1)
        end = at + size
        low = data[at + 1]
        if low < 128:
            well = low == size - 2
            put_at = at + 2
        else:  # two bytes: low - 128 + (high << 7) == size - 3
            well = low + (data[at + 2] << 7) == size + 125
            put_at = at + 3
        if not well or data[at] != _PUT:
            return None
        value_at = plain_put(data, put_at, end)
        if not value_at:
            return None
        if end == len(data):
            return compares, put_at, value_at, end, b""
        # Else it must be the read of one key, and nothing behind it.
        size = len(data) - end - 6
        if not 0 < size < 124 or data[end : end + 6] != _READ_HEADS[size]:
            return None
        return compares, put_at, value_at, end, data[end + 6 :]
    except IndexError:  # the message is cut short
        return None


def _length(data: bytes, at: int) -> tuple[int, int]:
    """The length at `at` and the place behind it. One of three bytes or more is read as a number
    that is longer than any message.
    """
    low = data[at]
    if low < 128:
        return low, at + 1
    high = data[at + 1]
    return (low - 128 + (high << 7) if high < 128 else _TOO_LONG), at + 2


def _read_compare(data: bytes, at: int) -> tuple[Compare | None, int]:
    """The Compare whose length is at `at`, None if it is none of a swap; the place behind it."""
    size = data[at]
    at += 1
    if size > 127:
        size, at = _length(data, at - 1)
    end = at + size
    result = target = 0
    if data[at] == _RESULT:
        result = data[at + 1]
        at += 2
    if data[at] == _TARGET:
        target = data[at + 1]
        at += 2
    key_at = at + 2
    size = data[at + 1]
    if data[at] != _COMPARED_KEY or not 0 < size < 128 or target > _VALUE or result > _NOT_EQUAL:
        return None, at
    at = key_at + size
    key = data[key_at:at]
    if data[at] != _UNION_TAGS[target]:
        return None, at
    given: Any
    if target == _VALUE:
        size, at = _length(data, at + 1)
        given = data[at : at + size]
        at += size
    else:
        given = data[at + 1]
        at += 2
        shift = 0
        while data[at - 1] > 127:
            shift += 7
            if shift > 56:  # a negative number
                return None, at
            given += (data[at] << shift) - (1 << shift)
            at += 1
    return ((target, result, key, given) if at == end else None), at


def _holds(store: Store, compare: Compare) -> bool:
    """Is the compare true? As `txn.holds`."""
    target, result, key, given = compare
    stored: Any
    if target == _VALUE:
        record = store.fetch(key)
        if record is None:
            return False
        stored = framed_value(record[0])
    else:
        record = store.numbers(key) or _NOBODY
        if target == _MOD:
            stored = record[1] >> SUB_BITS
        else:
            stored = record[2] if target == _CREATE else record[3]
    if result == _EQUAL:
        holds = stored == given
    elif result == _GREATER:
        holds = stored > given
    else:
        holds = stored < given if result == _LESS else stored != given
    return bool(holds)


def swap_run(store: Store, entries: list[Entry], first: int) -> list[tuple[int, bytes]]:
    """Apply `entries` from position `first` on as long as each is a swap; the answer of each one:
    the revision behind it and the body.

    Raises what a read of the backend raises; then the store stays half applied.
    """
    answers = []
    try:
        for entry in islice(entries, first, None):
            payload = entry.payload
            if entry.kind != NORMAL or payload[1:2] != _TXN_COMMAND or payload[0] > ORIGIN:
                break
            swap = read_swap(payload, REQUEST_AT[payload[0]])
            if swap is None:
                break
            store.hash ^= entry.index & INDEX_MASK
            body = carry_out(store, payload, swap)
            answers.append((store.close_entry(), body))
    except BaseException:
        store.next_id |= 1  # the applied index does not have the entries before: never flush
        raise
    return answers


def carry_out(store: Store, data: bytes, swap: Swap) -> bytes:
    """Apply a swap; the body of its TxnResponse."""
    store.txns += 1
    compares, at, value_at, end, read_key = swap
    for compare in compares:
        if not _holds(store, compare):
            break
    else:
        tail = b"\x2a" + data[value_at + 1 : end]
        mod = store.put(data[at + 2 : value_at], data[at:value_at], tail)
        return _PUT_REPLIES[len(mod)] + mod
    if not read_key:
        return b""
    record = store.fetch(read_key)
    header = revision_header(store.revision)
    response = header if record is None else b"%b%b\x20\x01" % (header, record[0])
    response = b"\x0a%b%b" % (varint(len(response)), response)
    return b"\x1a%b%b" % (varint(len(response)), response)
