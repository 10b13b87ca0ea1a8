"""The bytes of WatchResponses, besides those on the hot path (`WatchService.lead`).

    WatchResponse := 0A header [10 watch_id] [18 01 created] [20 01 canceled]
                     [28 compact_revision] [32 cancel_reason] [38 01 fragment] (5A event)*

Zero fields are left out. The events come framed from the hub; `kv.fragments` cuts what is too long.
"""

from typing import Final

from raftkv.kv.encoding import bytes_field, varint

WATCH_ID_TAG: Final = b"\x10"
CREATED: Final = b"\x18\x01"
CANCELED: Final = b"\x20\x01"
NO_ID: Final = -1  # of refusals, and of progress that is every watch's
_REASON_TAG: Final = 0x32


def id_field(watch_id: int) -> bytes:
    """The field watch_id; nothing for 0."""
    return WATCH_ID_TAG + varint(watch_id) if watch_id else b""


def reason(text: str) -> bytes:
    """The field cancel_reason."""
    return bytes_field(_REASON_TAG, text.encode())


def compacted(revision: int) -> bytes:
    """Canceled because revisions below `revision` are gone; -1 if none ever was compacted."""
    return CANCELED + b"\x28" + varint(revision)
