"""The bytes of WatchResponses, besides those on the hot path (`WatchService.lead`).

    WatchResponse := 0A header [10 watch_id] [18 01 created] [20 01 canceled]
                     [28 compact_revision] [32 cancel_reason] [38 01 fragment] (5A event)*

Zero fields are left out. The events come framed from the hub.
"""

from collections.abc import Iterator
from typing import Final, TypeAlias

from raftkv.kv.encoding import bytes_field, varint
from raftkv.kv.events import decode_event

WATCH_ID_TAG: Final = b"\x10"
CREATED: Final = b"\x18\x01"
CANCELED: Final = b"\x20\x01"
FRAGMENT: Final = b"\x38\x01"
NO_ID: Final = -1  # of refusals, and of progress that is every watch's
_REASON_TAG: Final = 0x32

# Events of whole revisions, behind the revision up to which all are delivered then.
Part: TypeAlias = tuple[int, list[bytes]]


def id_field(watch_id: int) -> bytes:
    """The field watch_id; nothing for 0."""
    return WATCH_ID_TAG + varint(watch_id) if watch_id else b""


def reason(text: str) -> bytes:
    """The field cancel_reason."""
    return bytes_field(_REASON_TAG, text.encode())


def compacted(revision: int) -> bytes:
    """Canceled because revisions below `revision` are gone; -1 if none ever was compacted."""
    return CANCELED + b"\x28" + varint(revision)


def whole_revisions(events: list[bytes], last: int, max_bytes: int) -> Iterator[Part]:
    """Framed events in parts of up to `max_bytes` that end where a revision ends, so one long
    revision may exceed it. The last part counts as far as the revision `last`.
    """
    part: list[bytes] = []
    size = revision = 0
    for event in events:
        own = decode_event(event).kv.mod_revision
        if size + len(event) > max_bytes and part and own != revision:
            yield revision, part
            part, size = [], 0
        part.append(event)
        size += len(event)
        revision = own
    yield last, part


def fragments(head: bytes, events: list[bytes], max_bytes: int) -> Iterator[bytes]:
    """One response as several below `max_bytes`, all but the last flagged (etcd: sendFragments).

    head: header and watch id. A response of a single event is never cut.
    """
    if len(events) < 2 or len(head) + sum(map(len, events)) < max_bytes:
        yield head + b"".join(events)
        return
    head_bytes = len(head) + len(FRAGMENT)
    part: list[bytes] = []
    size = head_bytes
    for event in events:
        if part and size + len(event) >= max_bytes:
            yield head + FRAGMENT + b"".join(part)
            part, size = [], head_bytes
        part.append(event)
        size += len(event)
    yield head + b"".join(part)
