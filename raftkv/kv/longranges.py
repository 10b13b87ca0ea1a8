"""Long ranges in slices, at one pinned revision, and RangeStream's chunks.

Revision, view and count are fixed by the first slice; what is found comes from the pointer rows of
the view alone (`ranges.versions_at`), so the live keys are not looked at again. A generator pauses
(yields) after every slice of work.
"""

from collections.abc import Generator
from itertools import islice
from typing import Final

from raftkv.errors import RANGE_STREAM_UNSUPPORTED, ApiError
from raftkv.kv.backend import View
from raftkv.kv.ranges import (
    CORRECTION_ROWS,
    LOAD_UNITS,
    SLICE_UNITS,
    STEP_UNITS,
    Plan,
    body,
    difference,
    touched_slices,
    versions_at,
)
from raftkv.kv.store import Record, Store
from raftkv.pb import rpc_pb2 as pb

LONG_UNITS: Final = 4000  # what takes longer in one go is cut into slices
JOIN_UNITS: Final = 1
MERGE_UNITS: Final = 4
STRIP_UNITS: Final = 5
FIRST_CHUNK_KEYS: Final = 10


def work_units(store: Store, request: pb.RangeRequest) -> int:
    """About how many microseconds `answer` takes."""
    if not request.range_end:
        return LOAD_UNITS
    past = 0 < request.revision < store.revision
    if past and store.revision - request.revision > 64:
        return LONG_UNITS + 1
    if request.count_only and not past:
        return STEP_UNITS
    plan = Plan(request)
    first, last = store.index.bounds(plan.key, plan.range_end)
    picked = last - first
    if plan.fetch and not past:
        picked = min(picked, plan.fetch)
    return picked * LOAD_UNITS


def slices(
    store: Store, plan: Plan, revision: int, view: View, newest: int
) -> Generator[None, None, bytes]:
    """`answer` by pointer rows alone, with a pause (a yield) after every slice of work.

    newest: revision of `view`. The count is known before the first version is read, except where so
    much was written since `revision` that counting on the way costs less, or anything since `view`.
    What needs no sorting is joined slice by slice; else each slice is sorted, and all are merged.
    """
    if not plan.range_end:
        record = store.at_revision(view, plan.key, revision)
        return plan.finish([] if record is None else [record], 0 if record is None else 1)
    known = -1
    if store.revision == newest:
        known = yield from _count_slices(store, plan, revision, view)
    if known >= 0 and plan.request.count_only:
        return plan.finish([], known)
    keys_only = plan.request.keys_only
    load_units = LOAD_UNITS + (STRIP_UNITS if keys_only and plan.joins else 0)
    parts: list[bytes] = []
    runs: list[list[Record]] = []
    records: list[Record] = []
    wanted = -1 if plan.request.count_only else plan.fetch
    count = picked = units = 0
    for version in versions_at(view, plan.key, plan.range_end, revision):
        units += STEP_UNITS
        if version is not None:
            count += 1
            if not wanted or picked < wanted:
                units += load_units
                picked += 1
                records.append(store.record_of(view, *version))
            if known >= 0 and picked == wanted:
                break
        if units >= SLICE_UNITS:
            units = 0
            if plan.joins:
                parts.append(body(records, 0, more=False, keys_only=keys_only))
            else:
                runs.append(plan.run(records))
            records = []
            yield
    else:
        assert known in (-1, count), f"a range counted {known} keys and found {count}"
    count = count if known < 0 else known
    if plan.joins:
        parts.append(body(records, count, more=False, keys_only=keys_only))
        return b"".join(parts)
    runs.append(plan.run(records))
    return (yield from _finish_slices(plan, runs, count))


def _finish_slices(
    plan: Plan, runs: list[list[Record]], count: int
) -> Generator[None, None, bytes]:
    """`Plan.finish` for what was found in stretches that `Plan.run` has prepared."""
    total = sum(map(len, runs))
    more = 0 < plan.limit < total
    left = plan.limit if more else total
    keys_only = plan.request.keys_only
    each = SLICE_UNITS // (JOIN_UNITS + plan.merges * MERGE_UNITS + keys_only * STRIP_UNITS)
    ordered = plan.ordered(runs)
    parts = []
    while left:
        some = list(islice(ordered, min(left, each)))
        left -= len(some)
        parts.append(body(some, 0, more=False, keys_only=keys_only))
        yield
    parts.append(body((), count, more=more))
    return b"".join(parts)


def _count_slices(
    store: Store, plan: Plan, revision: int, view: View
) -> Generator[None, None, int]:
    """How many keys the range has at `revision`; -1 if walking over them all is cheaper."""
    first, last = store.index.bounds(plan.key, plan.range_end)
    newest = store.revision
    count = last - first
    if revision == newest:
        return count
    allowed = 2 * count + CORRECTION_ROWS
    if newest - revision > allowed:
        return -1
    touched = yield from touched_slices(view, plan, revision, newest, allowed)
    return -1 if touched is None else count + difference(touched)


# --- RangeStream ----------------------------------------------------------------
def check_stream(request: pb.RangeRequest) -> ApiError | None:
    """RangeStream offers the default order only, and no filters by revision (etcd 3.7)."""
    plan = Plan(request)
    if plan.filters or request.sort_order or request.sort_target:
        return RANGE_STREAM_UNSUPPORTED
    return None


def chunks(
    store: Store, plan: Plan, revision: int, view: View, chunk_bytes: int
) -> Generator[bytes | None, None, bytes]:
    """Bodies of kvs as they are found (None: a pause); returns the last one, with the count.

    The first has 10 keys, so that a reader has something at once, later ones `chunk_bytes`.
    """
    keys_only, count_only = plan.request.keys_only, plan.request.count_only
    waiting: list[Record] = []
    sent = count = waiting_bytes = units = 0
    for version in versions_at(view, plan.key, plan.range_end, revision):
        units += STEP_UNITS
        if version is not None:
            count += 1
            if not count_only and (plan.limit <= 0 or sent + len(waiting) < plan.limit):
                units += LOAD_UNITS
                record = store.record_of(view, *version)
                full = len(waiting) >= FIRST_CHUNK_KEYS if not sent else waiting_bytes > chunk_bytes
                if full:
                    yield body(waiting, 0, more=False, keys_only=keys_only)
                    sent += len(waiting)
                    waiting, waiting_bytes = [], 0
                waiting.append(record)
                waiting_bytes += len(record[0])
        if units >= SLICE_UNITS:
            units = 0
            yield None
    more = 0 < plan.limit < count and not count_only
    return body(waiting, count, more=more, keys_only=keys_only)
