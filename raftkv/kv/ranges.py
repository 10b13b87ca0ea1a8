"""Range with every option (etcd API, RangeRequest), at the current revision or a past one.

Three ways to find the versions that a range sees:

* now: rank in the key index, records from the cache or by row id;
* shortly before now: the live keys, corrected by the rows written since (each row names the
  version it replaced, so no search is needed);
* any revision: a walk over the pointer rows, newest version first within a key; a key with many
  versions is skipped by one seek instead of stepping over them.

Only the last works on a `View` alone, so it also serves long ranges in slices (`longranges`).

etcd's order of work is part of the answer: filters drop versions after they are counted, sorting
comes before the limit, but without filters and with order NONE only limit + 1 keys are fetched.
"""

from collections.abc import Generator, Iterable, Iterator
from heapq import merge
from itertools import chain
from typing import Final

from raftkv.errors import COMPACTED, FUTURE_REVISION, ApiError
from raftkv.kv.backend import View
from raftkv.kv.encoding import (
    DELETE_ROW,
    DELETION_MARK,
    ID_BYTES,
    ID_MAX,
    KEY_ROWS,
    decode_kv,
    encode_kv,
    framed_value,
    key_row_start,
    parse_key_row,
    revision_row,
    varint,
)
from raftkv.kv.index import FROM_KEY
from raftkv.kv.metering import Meter
from raftkv.kv.store import Record, Store, load_record, row_key
from raftkv.pb import rpc_pb2 as pb

_KEY, _VERSION, _CREATE, _MOD, _VALUE = range(5)  # RangeRequest.SortTarget
_NONE, _ASCEND, _DESCEND = range(3)  # RangeRequest.SortOrder
ANY_ORDER: Final = -1  # an order etcd does not know: everything is fetched, nothing sorted
SKIP_VERSIONS: Final = 8  # stale versions of one key to step over before seeking past them
CACHED_RANGE_KEYS: Final = 256
CORRECTION_ROWS: Final = 400  # rows read at most to correct the live keys for a past revision

# Units of work, about a microsecond each: how long work is cut into slices without a clock.
STEP_UNITS: Final = 2
TOUCH_UNITS: Final = 4
LOAD_UNITS: Final = 12
SLICE_UNITS: Final = 2500

Found = tuple[list[Record], int]  # versions in key order (maybe cut), count before the cut


def check_revision(store: Store, wanted: int) -> ApiError | None:
    """May this revision be read? 0 and below mean the current one."""
    if wanted > store.revision:
        return FUTURE_REVISION
    if 0 < wanted < store.compacted:
        return COMPACTED
    return None


def check_txn_revision(newest: int, compacted: int, wanted: int) -> ApiError | None:
    """`check_revision` for a range in a transaction: etcd takes only 0 for the current revision
    there, and a negative one for a revision below the compacted one (-1 until the first).
    """
    if wanted > newest:
        return FUTURE_REVISION
    return COMPACTED if wanted and wanted < compacted else None


def body(records: Iterable[Record], count: int, *, more: bool, keys_only: bool = False) -> bytes:
    """A RangeResponse without its header."""
    if keys_only:
        parts = [_without_value(record[0]) for record in records]
    else:
        parts = [record[0] for record in records]
    if more:
        parts.append(b"\x18\x01")
    if count:
        parts.append(b"\x20" + varint(count))
    return b"".join(parts)


def _without_value(framed: bytes) -> bytes:
    kv = decode_kv(framed)
    return encode_kv(kv._replace(value=b""))


class Plan:
    """A range request, read once: what to fetch and what to do with it."""

    __slots__ = ("fetch", "filters", "key", "limit", "order", "range_end", "request", "target")

    def __init__(self, request: pb.RangeRequest) -> None:
        self.request = request
        self.key = request.key
        self.range_end = request.range_end
        self.limit = request.limit
        self.filters = bool(
            request.min_mod_revision
            or request.max_mod_revision
            or request.min_create_revision
            or request.max_create_revision
        )
        order: int = request.sort_order
        self.target: int = request.sort_target
        # fetch: how many versions are needed, 0 for all; one more than the limit shows `more`.
        self.fetch = self.limit + 1 if self.limit > 0 and order == _NONE and not self.filters else 0
        if order == _NONE and self.target != _KEY:
            order = _ASCEND
        self.order = order if order in (_NONE, _ASCEND, _DESCEND) else ANY_ORDER

    def finish(self, records: list[Record], count: int) -> bytes:
        """Filter, sort, cut; `records` are in key order and complete up to `fetch`."""
        request = self.request
        if request.count_only:
            return body((), count, more=False)
        if self.filters:
            records = self._filtered(records)
        if self.order in (_ASCEND, _DESCEND):
            records = self._sorted(records)
        more = 0 < self.limit < len(records)
        if more:
            del records[self.limit :]
        return body(records, count, more=more, keys_only=request.keys_only)

    def run(self, records: list[Record]) -> list[Record]:
        """A stretch of what was found, filtered, and sorted in itself."""
        if self.filters:
            records = self._filtered(records)
        return self._sorted(records) if self.merges else records

    @property
    def merges(self) -> bool:
        """Is another order than that of the keys wanted?"""
        return self.order in (_ASCEND, _DESCEND) and self.target != _KEY

    @property
    def joins(self) -> bool:
        """Is everything that is found answered, in the order in which it is found?"""
        return self.order not in (_ASCEND, _DESCEND) and not self.filters and self.limit <= 0

    def ordered(self, runs: list[list[Record]]) -> Iterator[Record]:
        """The whole of all `run`s, which follow each other in key order, in the wanted order."""
        descending = self.order == _DESCEND
        if self.merges:
            return merge(*runs, key=_SORT_KEYS[self.target], reverse=descending)
        return chain.from_iterable(map(reversed, reversed(runs)) if descending else runs)

    def _filtered(self, records: list[Record]) -> list[Record]:
        request = self.request
        limits = (
            (request.max_mod_revision, False, True),
            (request.min_mod_revision, True, True),
            (request.max_create_revision, False, False),
            (request.min_create_revision, True, False),
        )
        for bound, is_minimum, on_mod in limits:
            if bound:
                records = [
                    record
                    for record in records
                    if _keeps(record[1] >> 32 if on_mod else record[2], bound, is_minimum)
                ]
        return records

    def _sorted(self, records: list[Record]) -> list[Record]:
        descending = self.order == _DESCEND
        if self.target == _KEY:
            return records[::-1] if descending else records
        return sorted(records, key=_SORT_KEYS[self.target], reverse=descending)


def _keeps(revision: int, bound: int, is_minimum: bool) -> bool:
    return revision >= bound if is_minimum else revision <= bound


_SORT_KEYS = {
    _VERSION: lambda record: record[3],
    _CREATE: lambda record: record[2],
    _MOD: lambda record: record[1] >> 32,
    _VALUE: lambda record: framed_value(record[0]),
}


def answer(store: Store, request: pb.RangeRequest, view: View) -> bytes:
    """The body for a request whose revision passed `check_revision`, in one go.

    view: used for past revisions only; has every version up to the entry that is being applied.
    """
    if not request.range_end:
        key = request.key
        size = len(key)
        if size < 128 and request.ByteSize() == size + 2:  # nothing but the key is set
            record = store.fetch(key)
            return b"" if record is None else record[0] + b"\x20\x01"
    plan = Plan(request)
    wanted = request.revision
    writing = store.writing()
    found: Found | None
    if wanted <= 0 or (wanted == store.revision and not writing):
        found = find_now(store, plan)
    else:
        found = None if writing else find_corrected(store, plan, wanted, view)
        if found is None:
            found = find_walking(store, plan, wanted, view)
    return plan.finish(*found)


def find_now(store: Store, plan: Plan) -> Found:
    """The newest versions, this entry's own writes included."""
    key, range_end = plan.key, plan.range_end
    if not range_end:
        record = store.fetch(key)
        return ([], 0) if record is None else ([record], 1)
    first, last = store.index.bounds(key, range_end)
    count = last - first
    if plan.request.count_only or not count:
        return [], count
    if plan.fetch and plan.fetch < count:
        last = first + plan.fetch
    # Few keys will be asked for again, many would push everything else out of the cache.
    keep = last - first <= CACHED_RANGE_KEYS
    return store.records(store.index.slice(first, last), keep=keep), count


def find_corrected(store: Store, plan: Plan, revision: int, view: View) -> Found | None:
    """The versions at a past revision by way of the live ones; None if too much changed since."""
    key = plan.key
    if not plan.range_end:
        record = store.at_revision(view, key, revision)
        return ([], 0) if record is None else ([record], 1)
    first, last = store.index.bounds(key, plan.range_end)
    allowed = min(CORRECTION_ROWS, 2 * (last - first) + 16)
    if store.revision - revision > allowed:
        return None
    touched = _finished(touched_slices(view, plan, revision, store.revision, allowed))
    if touched is None:
        return None
    then = sorted((name, row_id) for name, (row_id, _) in touched.items() if row_id)
    count = last - first + difference(touched)
    if plan.request.count_only:
        return [], count
    records = []
    for name, row_id in _merged(store.index.slice(first, last), touched, then):
        records.append(load_record(view, row_id) if row_id else store.known(name))
        if len(records) == plan.fetch:
            break
    return records, count


# Keys written since a revision: the row id each had then (0: none), and whether it exists now.
Touched = dict[bytes, tuple[int, bool]]


def touched_slices(
    view: View, plan: Plan, revision: int, newest: int, limit: int
) -> Generator[None, None, Touched | None]:
    """The keys of a range that were written after `revision`, up to and with `newest`.

    Pauses after every slice of work. None if more than `limit` rows would have to be read.
    """
    key, range_end = plan.key, plan.range_end
    found: Touched = {}
    start, stop = revision_row((revision + 1) << 32), revision_row((newest + 1) << 32)
    for rows, (_, row) in enumerate(view.scan(start, stop), 1):
        if rows > limit:
            return None
        name = row_key(row)
        if name >= key and (range_end == FROM_KEY or name < range_end):
            known = found.get(name)
            then = int.from_bytes(row[:ID_BYTES], "big") if known is None else known[0]
            found[name] = then, row[ID_BYTES] != DELETE_ROW
        if rows % (SLICE_UNITS // TOUCH_UNITS) == 0:
            yield
    return found


def difference(touched: Touched) -> int:
    """How many more of these keys existed then than do now."""
    return sum(bool(then) - exists for then, exists in touched.values())


def _finished(steps: Generator[None, None, Touched | None]) -> Touched | None:
    """The result of slices that are so few that nobody needs to pause."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            found: Touched | None = stop.value
            return found


def _merged(
    live: Iterator[bytes], touched: "Touched", then: list[tuple[bytes, int]]
) -> Iterator[tuple[bytes, int]]:
    """Untouched live keys (row id 0) and the old versions of touched keys, in key order."""
    at = 0
    for name in live:
        while at < len(then) and then[at][0] < name:
            yield then[at]
            at += 1
        if name not in touched:
            yield name, 0
    yield from then[at:]


def find_walking(store: Store, plan: Plan, revision: int, view: View) -> Found:
    """The versions at any revision, by the pointer rows alone."""
    records: list[Record] = []
    count = 0
    for found in versions_at(view, plan.key, plan.range_end, revision):
        if found is None:
            continue
        count += 1
        if not plan.request.count_only and (not plan.fetch or len(records) < plan.fetch):
            records.append(store.record_of(view, *found))
    return records, count


def versions_at(
    view: View, key: bytes, range_end: bytes, revision: int, meter: Meter | None = None
) -> Iterator[tuple[bytes, int] | None]:
    """(key, row id) of every version that a range sees at `revision`, in key order.

    None for every row that was read in vain, so that a caller can count the work. meter: is told
    of the rows that all members have; its Exceeded goes through.
    """
    start = key_row_start(key)
    if not range_end:
        stop = key_row_start(key + b"\0")
    else:
        stop = KEY_ROWS[1] if range_end == FROM_KEY else key_row_start(range_end)
    oldest_newer = (ID_MAX - (((revision + 1) << 32) - 1)).to_bytes(ID_BYTES, "big")
    again = True
    while again and start < stop:
        again = False
        current = b""
        decided = False
        stale = 0
        for row, mark in view.scan(start, stop):
            name = row[:-ID_BYTES]
            if name != current:
                current, decided, stale = name, False, 0
            newer = row[-ID_BYTES:] < oldest_newer
            if decided or newer:
                if newer and meter is not None:
                    meter.keys(1)
                stale += 1
                if stale > SKIP_VERSIONS:
                    # Behind every version of this key, or right at the one that is visible.
                    start = name[:-1] + b"\x01" if decided else name + oldest_newer
                    again = True
                    break
                yield None
                continue
            decided, stale = True, 0
            if meter is not None:
                meter.row(row, deletion=mark == DELETION_MARK)
            yield None if mark == DELETION_MARK else parse_key_row(row)


def read_metered(store: Store, plan: Plan, view: View, meter: Meter) -> Found:
    """What `answer` would find before the first write of an entry, while `meter` allows it.

    The same is metered on every member, whatever it has cached or compacted. Raises Exceeded.
    """
    key, range_end, wanted = plan.key, plan.range_end, plan.request.revision
    records: list[Record] = []
    if wanted <= 0 or wanted == store.revision:
        if not range_end:
            keys, count = iter([key] if key in store.live else []), int(key in store.live)
        else:
            first, last = store.index.bounds(key, range_end)
            count = last - first
            if plan.fetch and plan.fetch < count:
                last = first + plan.fetch
            keys = store.index.slice(first, first if plan.request.count_only else last)
            meter.keys(0 if plan.request.count_only else last - first)
        meter.keys(1)
        keep = count <= CACHED_RANGE_KEYS
        for name in keys:
            record = store.fetch(name) if keep else store.known(name)
            assert record is not None, "the index has a key that does not exist"
            meter.record(record[0])
            records.append(record)
        return records, count
    count = 0
    for found in versions_at(view, key, range_end, wanted, meter):
        if found is None:
            continue
        count += 1
        if not plan.request.count_only and (not plan.fetch or len(records) < plan.fetch):
            record = store.record_of(view, *found)
            meter.record(record[0])
            records.append(record)
    return records, count
