"""How much of a watch's events goes into one WatchResponse (etcd API, Watch).

A batch of very many bytes becomes several responses that end where a revision ends. A watch that
asked for fragments gets a revision that is too long for one response in several as well, all but
the last of them flagged.

    WatchResponse := head [38 01 fragment] (5A event)*          head: header and watch id
"""

from collections.abc import Iterator
from typing import Final, TypeAlias

from raftkv.kv.events import decode_event

FRAGMENT: Final = b"\x38\x01"

# Events of whole revisions, behind the revision up to which all are delivered then.
Part: TypeAlias = tuple[int, list[bytes]]


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
