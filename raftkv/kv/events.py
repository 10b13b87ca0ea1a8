"""The bytes of watch events, made from stored bytes without protobuf objects.

    Event       := [08 01 if it is a deletion] 12 kv [1A prev_kv]        (mvccpb.Event)
    framed event := 5A length Event                                      (WatchResponse.events)

A stored version is already framed as field 2 (`encoding`), so an event is that plus a head, and a
WatchResponse is its header, the watch id and a join of framed events. Each event is encoded at
most twice, with and without prev_kv, and the bytes are shared by every watcher that gets it.
"""

from typing import Final, NamedTuple

from raftkv.kv.backend import View
from raftkv.kv.encoding import (
    ROW_HEAD_BYTES,
    SMALL_VARINTS,
    SUB_BITS,
    KeyValue,
    decode_kv,
    read_varint,
    revision_row,
    varint,
)
from raftkv.kv.store import load_row, parse_row

_EVENT_TAG: Final = b"\x5a"
_DELETION: Final = b"\x08\x01"
# Tag and length of a framed event, by the event's length: the sizes of nearly all.
_HEADS: Final = [_EVENT_TAG + size for size in SMALL_VARINTS[:4096]]


class Event(NamedTuple):
    """An event as it is read back: what happened to a key."""

    deleted: bool
    kv: KeyValue  # of a deletion only key and mod_revision
    previous: KeyValue | None  # prev_kv, if it was asked for and there was one


def frame_event(framed: bytes, deleted: bool, previous: bytes = b"") -> bytes:
    """A framed event.

    framed: the framed KeyValue. previous: the framed KeyValue that it replaced, empty for none.
    """
    if deleted:
        framed = _DELETION + framed
    if previous:
        framed = b"%b\x1a%b" % (framed, previous[1:])
    size = len(framed)
    return (_HEADS[size] if size < 4096 else _EVENT_TAG + varint(size)) + framed


def decode_event(data: bytes) -> Event:
    """The event in framed bytes that this module made."""
    assert data[:1] == _EVENT_TAG, "not a framed event"
    _, at = read_varint(data, 1)
    deleted = data[at] == 0x08
    if deleted:
        at += 2
    size, start = read_varint(data, at + 1)
    end = start + size
    kv = decode_kv(data[at:end])
    previous = decode_kv(b"\x12" + data[end + 1 :]) if end < len(data) else None
    return Event(deleted, kv, previous)


def stored_previous(view: View, row_id: int, previous_id: int, compacted: int) -> bytes:
    """The framed KeyValue that the key had before the revision of the version `row_id`, empty if
    it did not exist or that revision is compacted (etcd reads prev_kv at mod_revision - 1).

    previous_id: row id of the version replaced, 0 for none. compacted: -1 if nothing ever was.
    Raises CorruptionError if a row is missing that compaction cannot have removed.
    """
    revision = row_id >> SUB_BITS
    if revision <= compacted:
        return b""
    while previous_id >> SUB_BITS == revision:  # the transaction wrote the key twice
        name = revision_row(previous_id)
        previous_id = parse_row(name, load_row(view, previous_id)).previous_id
    return load_row(view, previous_id)[ROW_HEAD_BYTES:] if previous_id else b""
