"""Runs of plain puts: what nearly every log consists of, applied in one loop.

The result is what `Writer.put` and `Store.put` leave entry by entry, to the byte. A loop of its own
pays because every member goes through it for every write: no calls per entry, and the counters of
the store are local until the end.
"""

from itertools import islice
from typing import Final
from zlib import crc32

from raftkv.kv.commands import ORIGIN, PUT, REQUEST_AT
from raftkv.kv.encoding import (
    FRAME_HEADS,
    ID_BYTES,
    ID_MAX,
    LOW_GROUPS,
    REVISION_ROW_TAG,
    ROW_HEAD_BYTES,
    SMALL_VARINTS,
    SUB_BITS,
    frame,
    varint,
)
from raftkv.kv.store import RECORD_OVERHEAD_BYTES, REVISION_ROW_BYTES, Change, Store
from raftkv.raft.types import NORMAL, Entry

_KEY_TAG: Final = 0x0A
_VALUE_TAG: Final = 0x12
_PUT_COMMAND: Final = bytes((PUT,))
INDEX_MASK: Final = (1 << 32) - 1
_ENTRY: Final = 1 << SUB_BITS  # between the row ids of two entries
_SHORT: Final = 1 << 14
_LONG: Final = 1 << 28


def plain_put(payload: bytes, at: int, size: int) -> int:
    """Place of the value field, if the request from `at` up to `size` is only a key of 1-127 bytes
    and a value of 1-16383 bytes in the canonical encoding, as nearly every client sends it; else 0.
    """
    if size < at + 6 or payload[at] != _KEY_TAG:
        return 0
    key_bytes = payload[at + 1]
    place = at + 2 + key_bytes
    left = size - place  # the value field's bytes
    if not 0 < key_bytes < 128 or left < 3 or payload[place] != _VALUE_TAG:
        return 0
    low = payload[place + 1]
    if low < 128:
        return place if low == left - 2 else 0
    # The length takes two bytes: low - 128 + (high << 7) == left - 3.
    well = 130 < left < 16387 and low + (payload[place + 2] << 7) == left + 125
    return place if well else 0


def put_run(store: Store, entries: list[Entry], first: int) -> list[tuple[int, bytes]]:
    """Apply `entries` from position `first` on as long as each is a `plain_put`; their answers: the
    revision and the body.

    Raises what a read of the backend raises; then the store stays half applied. `Store.put` says
    why the rows are made as they are.
    """
    cache, live, changes = store.cache, store.live, store.changes
    cached, pend, join = cache.get, store.pending.append, b"".join
    low, small = LOW_GROUPS, SMALL_VARINTS
    state, row_id, revision = store.hash, store.next_id, store.next_id >> SUB_BITS
    cached_bytes, written_bytes = store.cached_bytes, store.written_bytes
    # Revisions up to the last one here are two items of the tables: no call of `varint`.
    medium = revision >= _SHORT and revision + len(entries) < _LONG
    store.next_id += 1  # half applied until the end: nothing is flushed after an exception
    for entry in islice(entries, first, None):
        payload = entry.payload
        if entry.kind != NORMAL or payload[1:2] != _PUT_COMMAND or payload[0] > ORIGIN:
            break
        at = REQUEST_AT[payload[0]]
        place = plain_put(payload, at, len(payload))
        if not place:
            break
        key = payload[at + 2 : place]
        old = cached(key)
        if old is None:
            cached_bytes += RECORD_OVERHEAD_BYTES
            old = store.evicted(key)
        else:
            cached_bytes -= len(old[0])
        mod = low[revision & 16383] + small[revision >> 14] if medium else varint(revision)
        if old is None:
            old_id, born, create, version = 0, revision, mod, 1
            live[key] = 0
            store.index.add(key)
        else:
            _, old_id, born, version, lease = old  # born: create revision
            version += 1
            quick = medium and born >= _SHORT
            create = low[born & 16383] + small[born >> 14] if quick else varint(born)
            if lease:
                store.detach(key, lease)
        times = small[version] if version < _SHORT else varint(version)
        head, value = payload[at:place], payload[place + 1 :]
        kv = join((head, b"\x10", create, b"\x18", mod, b"\x20", times, b"\x2a", value))
        framed = FRAME_HEADS[len(kv)] + kv if len(kv) < 4096 else frame(kv)
        cache[key] = (framed, row_id, born, version, 0)
        row = (old_id << 8).to_bytes(ROW_HEAD_BYTES, "big") + framed
        escaped = key.replace(b"\0", b"\0\xff") if 0 in key else key
        pointer = b"k" + escaped + (ID_MAX - row_id).to_bytes(ID_BYTES + 2, "big")
        pend(((REVISION_ROW_TAG + row_id).to_bytes(REVISION_ROW_BYTES, "big"), row))
        pend((pointer, b""))
        cached_bytes += len(framed)
        written_bytes += len(pointer) + len(row) + REVISION_ROW_BYTES
        state = crc32(kv, state ^ (entry.index & INDEX_MASK))
        if changes is not None:
            replaced = old[0] if old is not None else b""
            changes.append(Change(row_id, key, False, framed, old_id, replaced))
        revision += 1
        row_id += _ENTRY
    store.hash, store.next_id = state, row_id
    store.cached_bytes, store.written_bytes = cached_bytes, written_bytes
    answers = [(number, b"") for number in range(store.revision + 1, revision)]
    store.revision = revision - 1
    store.puts += len(answers)
    return answers
