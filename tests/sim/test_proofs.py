"""Quick proofs about watches: never against the validators, and enough for whatever is right."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from raftkv.kv.encoding import KeyValue
from raftkv.kv.events import Event
from raftkv.sim.proofs import Proofs
from raftkv.sim.validators import PROVED, VALIDATORS, check_complete, validate
from raftkv.sim.watch_records import (
    Asked,
    Cancelled,
    Created,
    History,
    Progress,
    Received,
    Response,
    WatchRecord,
)

KEYS = [b"a", b"b", b"c", b"d"]
RANGES = [(b"a", b""), (b"c", b""), (b"b", b"d"), (b"b", b"\0"), (b"\0", b"\0"), (b"x", b"")]


def make_history(random: Random, revisions: int = 40) -> History:
    """Puts, deletions and transactions on a few keys, with compactions."""
    events = []
    live: dict[bytes, KeyValue] = {}
    for revision in range(2, 2 + revisions):
        for key in sorted(random.sample(KEYS, random.choice((1, 1, 3)))):
            old = live.pop(key, None)
            if old is not None and random.random() < 0.3:
                events.append(Event(True, KeyValue(key, 0, revision, 0, b"", 0), None))
                continue
            created, version = (old.create_revision, old.version) if old else (revision, 0)
            value = b"%d" % random.randrange(3)
            live[key] = KeyValue(key, created, revision, version + 1, value, 0)
            events.append(Event(False, live[key], None))
    return History(events, sorted(random.sample(range(1, revisions), 3)))


def make_record(random: Random, history: History) -> WatchRecord:
    """A watch that was served rightly, over the whole of history."""
    key, end = random.choice(RANGES)
    kind = random.random()
    start = random.choice((0, 1, random.randrange(1, 45)))
    asked = Asked(key, end, start, random.random() < 0.5, kind < 0.2, kind > 0.8, True)
    created = random.randrange(1, 42)
    record = WatchRecord("one", asked, [Created(created)])
    compacted = random.choice((None, *history.compactions))
    gone = history.compacted if compacted is None else compacted
    open_events: list[Event] = []
    for revision in range(record.start, 42):
        for event in history.matching(asked, revision, revision):
            absent = not asked.prev_kv or (revision <= gone and random.random() < 0.5)
            open_events.append(event._replace(previous=None) if absent else event)
        if open_events and random.random() < 0.6:
            record.received.append(Response(tuple(open_events), False, compacted))
            open_events = []
        if not open_events and random.random() < 0.2:
            record.received.append(Progress(revision))
    if open_events:
        record.received.append(Response(tuple(open_events), False, compacted))
    return record


def silent(record: WatchRecord, history: History, *, complete: bool) -> bool:
    """Do the validators that a proof stands for find nothing?"""
    checks = [VALIDATORS[name] for name in PROVED]
    if complete:
        checks.append(check_complete)
    return all(next(check(record, history), None) is None for check in checks)


def _drop(random: Random, received: list[Received]) -> None:
    del received[random.randrange(len(received))]


def _repeat(random: Random, received: list[Received]) -> None:
    at = random.randrange(len(received))
    received.insert(at, received[at])


def _exchange(random: Random, received: list[Received]) -> None:
    at = random.randrange(len(received) - 1)
    received[at], received[at + 1] = received[at + 1], received[at]


def _bookmark(random: Random, received: list[Received]) -> None:
    received.insert(random.randrange(1, len(received) + 1), Progress(random.randrange(1, 44)))


def _in_a_response(random: Random, received: list[Received]) -> None:
    places = [at for at, one in enumerate(received) if isinstance(one, Response)]
    at = random.choice(places)
    response = received[at]
    assert isinstance(response, Response)
    events = list(response.events)
    spot = random.randrange(len(events))
    event = events[spot]
    kind = random.randrange(7)
    if kind == 0:
        events.insert(spot, event)
    elif kind == 1:
        random.shuffle(events)
    elif kind == 2:
        events[spot] = event._replace(previous=random.choice((None, event.kv)))
    elif kind == 3:
        events[spot] = event._replace(deleted=not event.deleted)
    elif kind == 4:
        events[spot] = event._replace(kv=event.kv._replace(version=event.kv.version + 1))
    elif kind == 5:
        events[spot] = event._replace(kv=event.kv._replace(key=random.choice(KEYS)))
    elif len(events) > 1:
        del events[spot]
    compacted = random.choice((response.compacted, 0, None, 30))
    received[at] = Response(tuple(events), response.fragment, compacted)


BREAKS: list[Callable[[Random, list[Received]], None]] = [
    _drop,
    _repeat,
    _exchange,
    _bookmark,
    _in_a_response,
    _in_a_response,
    _in_a_response,
]


def test_whatever_is_right_is_proved() -> None:
    random = Random(1)
    proved = 0
    for _ in range(20):
        history = make_history(random)
        proofs = Proofs(history)
        for _ in range(20):
            record = make_record(random, history)
            assert silent(record, history, complete=True)
            assert proofs.hold(record, complete=True) == proofs.hold(record, complete=False)
            proved += proofs.hold(record, complete=True)
            assert not validate([record], history, complete=True, proofs=proofs).findings
    assert proved == 400


def test_nothing_is_proved_that_a_validator_objects_to() -> None:
    random = Random(2)
    counts = {True: 0, False: 0}
    for _ in range(60):
        history = make_history(random)
        proofs = Proofs(history)
        for _ in range(60):
            record = make_record(random, history)
            if not record.responses():
                continue
            for _ in range(random.choice((1, 1, 2))):
                if len(record.received) > 1 and record.responses():
                    random.choice(BREAKS)(random, record.received)
            if random.random() < 0.2:
                record.asked = replace(record.asked, no_put=True, no_delete=False)
            for complete in (False, True):
                quiet = silent(record, history, complete=complete)
                counts[quiet] += 1
                if proofs.hold(record, complete=complete):
                    assert quiet, record
    assert counts[False] > 2000  # else nothing was shown
    assert counts[True] > 500


def test_history_with_a_key_twice_in_a_revision_is_left_to_the_validators() -> None:
    one = Event(False, KeyValue(b"a", 2, 2, 1, b"v", 0), None)
    two = Event(False, KeyValue(b"a", 2, 2, 2, b"w", 0), None)
    record = WatchRecord("one", Asked(b"a", b"", 2), [Created(2), Response((one,))])
    assert Proofs(History([one])).hold(record, complete=True)
    assert not Proofs(History([one, two])).hold(record, complete=True)


def test_watch_that_was_never_created_is_left_to_the_validators() -> None:
    history = make_history(Random(3))
    assert not Proofs(history).hold(WatchRecord("one", Asked(b"a")), complete=False)


@pytest.mark.parametrize("break_it", [_drop, _in_a_response])
def test_broken_watch_gets_the_same_findings_with_and_without_proofs(
    break_it: Callable[[Random, list[Received]], None],
) -> None:
    random = Random(4)
    history = make_history(random)
    shared = Proofs(history)
    found = 0
    for _ in range(200):
        record = make_record(random, history)
        if not record.responses():
            continue
        break_it(random, record.received)
        verdict = validate([record], history, complete=True, proofs=shared)
        names = [name for name in VALIDATORS if any(VALIDATORS[name](record, history))]
        if any(check_complete(record, history)):
            names.append("complete")
        assert {one.validator for one in verdict.findings} == set(names)
        found += bool(names)
    assert found > 50


def test_what_is_checked_is_counted_by_validator() -> None:
    random = Random(5)
    history = make_history(random)
    records = [make_record(random, history) for _ in range(30)]
    records[0].received.append(Cancelled(0, "some reason"))
    verdict = validate(records, history, complete=True)
    events = sum(len(one.events) for record in records for one in record.responses())
    assert verdict.events == verdict.proved == events > 0
    for name in ("filter", "ordered", "unique", "reliable", "prev_kv", "is_create"):
        assert verdict.checked[name] == events
    assert verdict.checked["atomic"] == verdict.responses
    assert verdict.checked["bookmarkable"] == verdict.bookmarks > 0
    assert verdict.checked["closed"] == sum(len(record.received) for record in records)
    assert verdict.checked["complete"] == 29
    assert verdict.checked["resumable"] == sum(1 for one in records if one.responses())
