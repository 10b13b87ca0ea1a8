"""The validators of watches: a right stream passes, each kind of broken one is caught by name."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from raftkv.kv.encoding import KeyValue
from raftkv.kv.events import Event
from raftkv.sim.validators import (
    VALIDATORS,
    Asked,
    Cancelled,
    Created,
    History,
    Progress,
    Received,
    Response,
    WatchRecord,
    joined,
    validate,
)
from tests.kv.watching import Town, compact, delete, put, txn

ASKED = Asked(b"a", b"c", 2, prev_kv=True)


def written(key: bytes, create: int, mod: int, version: int, value: bytes = b"v") -> Event:
    return Event(False, KeyValue(key, create, mod, version, value, 0), None)


def deleted(key: bytes, mod: int) -> Event:
    return Event(True, KeyValue(key, 0, mod, 0, b"", 0), None)


EVENTS = [
    written(b"a", 2, 2, 1),
    written(b"a", 2, 3, 2, b"w"),
    written(b"x", 4, 4, 1),
    written(b"a", 2, 5, 3),  # one transaction
    written(b"b", 5, 5, 1),
    deleted(b"a", 6),
    written(b"a", 7, 7, 1),
    written(b"x", 4, 8, 2),
]
HISTORY = History(EVENTS, [3])
E = [event for event in HISTORY.events if event.kv.key != b"x"]  # 2, 3, 5, 5, 6, 7


def right() -> list[Received]:
    """What a watch of [a, c) from 2 gets."""
    return [
        Created(6),
        Response((E[0],)),
        Response((E[1], E[2], E[3])),
        Progress(5),
        Response((E[4],)),
        Progress(6),
        Response((E[5],)),
        Progress(8),
        Progress(8),
    ]


def findings(
    received: list[Received],
    asked: Asked = ASKED,
    history: History = HISTORY,
    *,
    complete: bool = False,
) -> set[str]:
    record = WatchRecord("one", asked, received)
    return {one.validator for one in validate([record], history, complete=complete).findings}


def test_a_right_stream_passes_and_is_counted() -> None:
    record = WatchRecord("one", ASKED, [*right(), Cancelled()], cancel_asked=True)
    verdict = validate([record], HISTORY)
    assert verdict.findings == []
    assert (verdict.watches, verdict.responses, verdict.events) == (1, 4, 6)
    assert (verdict.bookmarks, verdict.cancels) == (4, 1)
    assert findings(right(), complete=True) == set()


Break = Callable[[list[Received]], None]


def _swap(received: list[Received], at: int, *new: Received) -> None:
    received[at : at + 1] = new


def _foreign(received: list[Received]) -> None:
    _swap(received, 7, Response((HISTORY.events[-1],)))


def _falling(received: list[Received]) -> None:
    _swap(received, 2, Response((E[2], E[3], E[1])))


def _twice(received: list[Received]) -> None:
    _swap(received, 6, Response((E[5], E[5])))


def _split(received: list[Received]) -> None:
    _swap(received, 2, Response((E[1], E[2])), Response((E[3],)))


def _bookmark_ahead(received: list[Received]) -> None:
    _swap(received, 3, Progress(6))


def _bookmark_behind(received: list[Received]) -> None:
    _swap(received, 5, Progress(5), Progress(5))
    _swap(received, 8, Progress(6))


def _bookmark_falls(received: list[Received]) -> None:
    received.append(Progress(7))


def _late_start(received: list[Received]) -> None:
    del received[1]


def _hole(received: list[Received]) -> None:
    del received[4]


def _hole_before_a_bookmark(received: list[Received]) -> None:
    del received[6]


def _wrong_order_within_a_revision(received: list[Received]) -> None:
    _swap(received, 2, Response((E[1], E[3], E[2])))


def _wrong_previous(received: list[Received]) -> None:
    _swap(received, 4, Response((E[4]._replace(previous=E[1].kv),)))


def _no_previous(received: list[Received]) -> None:
    _swap(received, 4, Response((E[4]._replace(previous=None),)))


def _wrong_create_revision(received: list[Received]) -> None:
    kv = E[5].kv._replace(create_revision=2)
    _swap(received, 6, Response((E[5]._replace(kv=kv),)))


def _wrong_version(received: list[Received]) -> None:
    _swap(received, 6, Response((E[5]._replace(kv=E[5].kv._replace(version=4)),)))


def _wrong_lease(received: list[Received]) -> None:
    _swap(received, 6, Response((E[5]._replace(kv=E[5].kv._replace(lease=9)),)))


def _value_in_a_deletion(received: list[Received]) -> None:
    _swap(received, 4, Response((E[4]._replace(kv=E[4].kv._replace(value=b"v")),)))


def _after_cancel(received: list[Received]) -> None:
    received.insert(6, Cancelled(0, "some reason"))


def _no_reason(received: list[Received]) -> None:
    received.append(Cancelled())


def _never_compacted(received: list[Received]) -> None:
    received.append(Cancelled(11))


def _needlessly_cancelled(received: list[Received]) -> None:
    received.append(Cancelled(3))


def _created_late(received: list[Received]) -> None:
    received.insert(2, received.pop(0))


def _created_twice(received: list[Received]) -> None:
    received.append(Created(8))


def _stray_fragment(received: list[Received]) -> None:
    _swap(received, 1, Response((E[0],), fragment=True))


@pytest.mark.parametrize(
    ("break_it", "catcher"),
    [
        (_foreign, "filter"),
        (_falling, "ordered"),
        (_twice, "unique"),
        (_split, "atomic"),
        (_stray_fragment, "atomic"),
        (_bookmark_ahead, "bookmarkable"),
        (_bookmark_behind, "bookmarkable"),
        (_bookmark_falls, "bookmarkable"),
        (_late_start, "resumable"),
        (_hole, "reliable"),
        (_hole_before_a_bookmark, "reliable"),
        (_wrong_order_within_a_revision, "reliable"),
        (_wrong_previous, "prev_kv"),
        (_no_previous, "prev_kv"),
        (_wrong_create_revision, "is_create"),
        (_wrong_version, "is_create"),
        (_wrong_lease, "is_create"),
        (_value_in_a_deletion, "is_create"),
        (_after_cancel, "closed"),
        (_no_reason, "closed"),
        (_never_compacted, "closed"),
        (_needlessly_cancelled, "closed"),
        (_created_late, "closed"),
        (_created_twice, "closed"),
    ],
)
def test_a_broken_stream_is_caught(break_it: Break, catcher: str) -> None:
    received = right()
    break_it(received)
    assert catcher in findings(received)


def test_some_faults_are_noticed_by_one_validator_alone() -> None:
    """These validators are not superfluous: without them, some broken stream would pass."""
    asked = replace(ASKED, prev_kv=False)
    plain = [event._replace(previous=None) for event in E]
    alone = {
        "atomic": _broken(_split),
        "bookmarkable": _broken(_bookmark_falls),
        "prev_kv": _broken(_wrong_previous),
        "is_create": _broken(_wrong_version),
        "closed": _broken(_no_reason),
    }
    for name, received in alone.items():
        assert findings(received) == {name}
    assert findings([Created(6), Response((plain[1],))], asked) == {"resumable", "reliable"}
    assert findings([Created(6), Progress(8)], asked) == {"reliable"}


def _broken(break_it: Break) -> list[Received]:
    received = right()
    break_it(received)
    return received


@pytest.mark.parametrize("kind", ["no_put", "no_delete"])
def test_filtered_kinds_are_neither_missed_nor_allowed(kind: str) -> None:
    asked = replace(ASKED, no_put=kind == "no_put", no_delete=kind == "no_delete")
    wanted = tuple(event for event in E if event.deleted == (kind == "no_put"))
    revisions = sorted({event.kv.mod_revision for event in wanted})
    batches = [
        Response(tuple(event for event in wanted if event.kv.mod_revision == revision))
        for revision in revisions
    ]
    assert findings([Created(8), *batches, Progress(8)], asked) == set()
    assert "filter" in findings(right(), asked)


def test_nothing_may_come_before_a_start_in_the_future() -> None:
    """W07"""
    asked = replace(ASKED, start_revision=6)
    assert findings([Created(2), Response((E[4],)), Progress(6)], asked) == set()
    assert findings([Created(2), Progress(5)], asked) == {"bookmarkable"}
    assert "filter" in findings([Created(2), Response((E[3],))], asked)


def test_a_start_from_now_is_behind_the_revision_of_created() -> None:
    asked = replace(ASKED, start_revision=0)
    assert findings([Created(5), Response((E[4],))], asked) == set()
    assert findings([Created(4), Response((E[4],))], asked) == {"resumable", "reliable"}
    assert findings([Created(5), Progress(5), Progress(6)], asked) == {"reliable"}


def test_fragments_of_one_revision_follow_each_other() -> None:
    """W08"""
    asked = replace(ASKED, start_revision=5, fragment=True)
    parts = [Response((E[2],), fragment=True), Response((E[3],))]
    assert findings([Created(5), *parts], asked) == set()
    assert findings([Created(5), parts[0], Progress(5), parts[1]], asked) >= {"atomic"}
    flagless = [Response((E[2],)), Response((E[3],))]
    assert findings([Created(5), *flagless], asked) == {"atomic"}


def test_prev_kv_may_be_absent_only_where_compacted_and_only_if_asked_for() -> None:
    """W09"""
    bare: list[Received] = [
        Created(6),
        Response((E[0],)),
        Response((E[1]._replace(previous=None),)),
    ]
    assert findings(list(bare)) == set()  # 3 is compacted
    assert findings(list(bare), history=History(EVENTS, [2])) == {"prev_kv"}
    assert findings(right(), replace(ASKED, prev_kv=False)) == {"prev_kv"}


def test_a_watch_that_falls_behind_compaction_may_be_cancelled() -> None:
    """W06"""
    assert findings([Created(6), Cancelled(3)]) == set()
    assert findings([Created(6), Response((E[0],)), Cancelled(3)]) == {"closed"}
    asked = replace(ASKED, start_revision=-1)
    assert findings([Created(6), Cancelled(3)], asked) == set()


def test_a_watch_that_stays_behind_is_not_complete() -> None:
    received = right()[:5]
    assert findings(received) == set()
    assert findings(received, complete=True) == {"complete"}
    assert findings([*received, Cancelled(0, "gone")], complete=True) == set()


def test_resumed_watches_are_checked_as_one() -> None:
    """W01"""
    first = WatchRecord("one", ASKED, right()[:4])
    again = WatchRecord("one", replace(ASKED, start_revision=6), [Created(7), *right()[4:]])
    assert validate([joined([first, again])], HISTORY, complete=True).findings == []
    gap = WatchRecord("one", replace(ASKED, start_revision=7), [Created(7), *right()[6:]])
    assert validate([gap], HISTORY).findings == []
    assert {one.validator for one in validate([joined([first, gap])], HISTORY).findings} == {
        "reliable"
    }
    double = WatchRecord("one", ASKED, right())
    caught = {one.validator for one in validate([joined([first, double])], HISTORY).findings}
    assert caught >= {"unique", "ordered", "reliable"}


def test_a_history_knows_the_version_before_each_revision() -> None:
    previous = {event.kv.mod_revision: event.previous for event in E if event.kv.key == b"a"}
    versions = {revision: kv and kv.version for revision, kv in previous.items()}
    assert versions == {2: None, 3: 1, 5: 2, 6: 3, 7: None}


def test_the_hub_of_watches_passes() -> None:
    """What the hub delivers, over compactions, full sinks and late starts, has no findings."""
    random = Random(7)
    town, twin = Town(), Town()
    whole = twin.watch(b"\0", b"\0")
    keys = [b"a", b"b", b"c", b"d"]
    watchers, compactions = [], []
    created = {}
    for _ in range(300):
        requests = [put(random.choice(keys), b"%d" % random.randrange(99)) for _ in range(2)]
        if not random.randrange(3):
            requests.append(delete(b"b", b"d"))  # type: ignore[arg-type]
        if not random.randrange(3):
            requests.append(txn(put(b"a"), put(b"c"), delete(b"d")))  # type: ignore[arg-type]
        twin.turn(*requests)
        town.turn(*requests)
        if not random.randrange(40):
            compactions.append(town.revision - random.randrange(8))
            if compactions[-1] > max(compactions[:-1], default=0):
                twin.turn(compact(compactions[-1]))
                town.turn(compact(compactions[-1]))
            else:
                compactions.pop()
        town.sink.closed = not random.randrange(20)
        town.hub.catch_up()
        start = random.choice([0, 0, max(town.revision - 5, 1), town.revision + 3])
        watcher = town.watch(
            random.choice(keys), random.choice([b"", b"\0"]), start, prev_kv=random.random() < 0.5
        )
        watchers.append(watcher)
        created[watcher] = town.revision
    town.sink.closed = False
    town.settle()
    records = []
    for number, watcher in enumerate(watchers):
        asked = Asked(watcher.key, watcher.end, watcher.start_revision, watcher.prev_kv)
        record = WatchRecord(str(number), asked, [Created(created[watcher])])
        for delivery in town.sink.deliveries.get(watcher, ()):
            record.received.append(Response(tuple(delivery.events)))
        if watcher in town.sink.cancels:
            record.received.append(Cancelled(town.sink.cancels[watcher]))
        elif town.hub.seen(watcher):
            record.received.append(Progress(town.hub.seen(watcher)))
        records.append(record)
    history = History(twin.sink.events(whole), compactions)
    verdict = validate(records, history, complete=True)
    assert verdict.findings == []
    assert verdict.events > 10_000
    assert verdict.cancels > 5
    assert verdict.bookmarks > 50
    assert set(VALIDATORS) >= {"filter", "ordered", "unique", "atomic", "bookmarkable"}
