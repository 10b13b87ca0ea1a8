"""Was a watch served rightly? Validators of one watch against the history of the store.

They know nothing of a server: a `WatchRecord` says what was asked and what arrived, in order, and
`History` what really happened (from a full watch, or from the applied log). Each validator is a
function of both that yields a line for everything wrong:

* filter: events only of the keys, kinds and revisions asked for;
* ordered: revisions never fall; unique: one event per key and revision;
* atomic: a revision is never split, except over responses flagged as fragments;
* bookmarkable: no event at or below a bookmark after it; bookmarks never fall, never lag behind the
  events before them, never come before the start;
* resumable: the first event is the first that matches from the start on;
* reliable: what arrived is exactly the history from the start to the last revision seen, where a
  bookmark counts as seen;
* prev_kv: the version before the revision, or nothing if that was compacted or not asked for;
* is_create: every field of a KeyValue is that of the history;
* closed: `created` first, once; nothing after a cancel; a cancel says why, and a compacted revision
  was compacted and is greater than the next one needed.

A watch resumed after a disconnection is several records; `joined` makes one of them.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from raftkv.kv.events import Event
from raftkv.sim.proofs import Proofs
from raftkv.sim.watch_records import (
    Asked,
    Cancelled,
    Created,
    History,
    Progress,
    Received,
    Response,
    WatchRecord,
    joined,
)

__all__ = [
    "VALIDATORS",
    "Asked",
    "Cancelled",
    "Created",
    "History",
    "Progress",
    "Received",
    "Response",
    "WatchRecord",
    "joined",
    "validate",
]

_SHOWN: Final = 3  # findings of one validator about one watch that are worth reading


Validator: TypeAlias = Callable[[WatchRecord, History], Iterator[str]]


def _show(event: Event) -> str:
    kind = "deletion" if event.deleted else "put"
    return f"{kind} of {event.kv.key!r} at {event.kv.mod_revision}"


def check_filter(record: WatchRecord, history: History) -> Iterator[str]:
    """Only what was asked for."""
    for event in record.events():
        if not record.asked.wants(event):
            yield f"{_show(event)} was not asked for"
        elif event.kv.mod_revision < record.start:
            yield f"{_show(event)} is before the start {record.start}"


def check_ordered(record: WatchRecord, history: History) -> Iterator[str]:
    """Revisions never fall."""
    last = 0
    for event in record.events():
        if event.kv.mod_revision < last:
            yield f"{_show(event)} after revision {last}"
        last = max(last, event.kv.mod_revision)


def check_unique(record: WatchRecord, history: History) -> Iterator[str]:
    """One event per key and revision."""
    met: dict[tuple[bytes, int], None] = {}
    for event in record.events():
        name = (event.kv.key, event.kv.mod_revision)
        if name in met:
            yield f"{_show(event)} came twice"
        met[name] = None


def check_atomic(record: WatchRecord, history: History) -> Iterator[str]:
    """A revision travels in one response, or in fragments that follow each other."""
    last = 0
    open_fragment = False
    for one in record.received:
        if not isinstance(one, Response):
            if open_fragment and not isinstance(one, Cancelled):
                yield f"{one} between two fragments"
            continue
        if one.fragment and not record.asked.fragment:
            yield "a fragment that was not asked for"
        if not one.events:
            yield "a response without events"
            continue
        first = one.events[0].kv.mod_revision
        if first == last and not open_fragment:
            yield f"revision {first} is split over two responses"
        last = one.events[-1].kv.mod_revision
        open_fragment = one.fragment


def check_bookmarkable(record: WatchRecord, history: History) -> Iterator[str]:
    """A bookmark means that everything up to it has come."""
    bookmark = last = 0
    for one in record.received:
        if isinstance(one, Progress):
            if one.revision < bookmark:
                yield f"bookmark {one.revision} after bookmark {bookmark}"
            if one.revision < last:
                yield f"bookmark {one.revision} after an event of revision {last}"
            if one.revision < record.asked.start_revision:
                yield f"bookmark {one.revision} before the start {record.asked.start_revision}"
            bookmark = max(bookmark, one.revision)
        elif isinstance(one, Response):
            for event in one.events:
                if event.kv.mod_revision <= bookmark:
                    yield f"{_show(event)} after bookmark {bookmark}"
                last = max(last, event.kv.mod_revision)


def check_resumable(record: WatchRecord, history: History) -> Iterator[str]:
    """Nothing is missing at the start."""
    first = next(record.events(), None)
    if first is None:
        return
    expected = next(history.matching(record.asked, record.start, record.seen()), None)
    if expected is None:
        yield f"begins with {_show(first)}, but nothing happened"
    elif _name(first) != _name(expected):
        yield f"begins with {_show(first)} instead of {_show(expected)}"


def _name(event: Event) -> tuple[bytes, int, bool]:
    return event.kv.key, event.kv.mod_revision, event.deleted


def check_reliable(record: WatchRecord, history: History) -> Iterator[str]:
    """From the start to the last revision seen: all, once, in order."""
    yield from _compare(record, history, record.seen())


def check_complete(record: WatchRecord, history: History) -> Iterator[str]:
    """Reliable up to the end of history: for a watch that lived and had time to catch up."""
    yield from _compare(record, history, history.revisions[-1] if history.revisions else 0)


def _compare(record: WatchRecord, history: History, last: int) -> Iterator[str]:
    start = record.start
    if not start or not last:
        return
    expected = history.matching(record.asked, start, last)
    for event in record.events():
        wanted = next(expected, None)
        if wanted is None:
            yield f"{_show(event)} is one too many"
            return
        if _name(event) != _name(wanted):
            yield f"{_show(event)} instead of {_show(wanted)}"
            return
    missing = next(expected, None)
    if missing is not None:
        yield f"{_show(missing)} is missing, though revision {last} was reached"


def check_prev_kv(record: WatchRecord, history: History) -> Iterator[str]:
    """Right, or absent because compacted; never given unasked."""
    for one in record.responses():
        gone = history.compacted if one.compacted is None else one.compacted
        for event in one.events:
            if not record.asked.prev_kv:
                if event.previous is not None:
                    yield f"{_show(event)} has a prev_kv that was not asked for"
                continue
            if event.previous is None and event.kv.mod_revision <= gone:
                continue
            found = history.find(event.kv.key, event.kv.mod_revision)
            if found and all(event.previous != real.previous for real in found):
                yield f"{_show(event)} has the prev_kv {event.previous}, not {found[0].previous}"


def check_is_create(record: WatchRecord, history: History) -> Iterator[str]:
    """Create revision, version, value and lease are those that were written."""
    for event in record.events():
        found = history.find(event.kv.key, event.kv.mod_revision)
        if not any(one.deleted == event.deleted and one.kv == event.kv for one in found):
            yield f"{_show(event)} says {event.kv}, history {[one.kv for one in found]}"


def check_closed(record: WatchRecord, history: History) -> Iterator[str]:
    """`created` first and once, nothing after a cancel, and a cancel says why."""
    over = False
    needed = record.start
    for number, one in enumerate(record.received):
        if isinstance(one, Created) != (number == 0):
            yield f"{type(one).__name__} is number {number + 1} of what came"
        if over:
            yield f"{type(one).__name__} after the cancel"
        if isinstance(one, Response) and one.events:
            needed = max(needed, one.events[-1].kv.mod_revision + 1)
        elif isinstance(one, Progress):
            needed = max(needed, one.revision + 1)
        elif isinstance(one, Cancelled):
            over = True
            compacted = one.compact_revision
            if record.asked.start_revision < 0:
                continue  # etcd refuses these with a compacted revision of 0 and below, too
            if not compacted:
                if not one.reason and not record.cancel_asked:
                    yield "cancelled without a reason"
            elif compacted not in history.compactions:
                yield f"cancelled for {compacted}, which was never compacted"
            elif compacted <= needed:
                yield f"cancelled for {compacted}, but needs only {needed} and later"


VALIDATORS: Final[dict[str, Validator]] = {
    "filter": check_filter,
    "ordered": check_ordered,
    "unique": check_unique,
    "atomic": check_atomic,
    "bookmarkable": check_bookmarkable,
    "resumable": check_resumable,
    "reliable": check_reliable,
    "prev_kv": check_prev_kv,
    "is_create": check_is_create,
    "closed": check_closed,
}


# Validators of events and bookmarks, whose silence `Proofs` may show at once.
PROVED: Final = tuple(name for name in VALIDATORS if name not in ("atomic", "closed"))


class Finding(NamedTuple):
    """One thing wrong with one watch."""

    validator: str
    watch: str
    text: str


@dataclass(slots=True)
class Verdict:
    """What was found, and how much was looked at: a run without events proves nothing.

    checked: by validator, how much it has judged: events; responses (atomic); bookmarks
        (bookmarkable); watches that got an event (resumable), or that had to reach the end
        (complete); all that came (closed).
    proved: events of watches that were judged by a quick proof.
    """

    findings: list[Finding] = field(default_factory=list)
    watches: int = 0
    responses: int = 0
    events: int = 0
    bookmarks: int = 0
    cancels: int = 0
    proved: int = 0
    checked: Counter[str] = field(default_factory=Counter)


def validate(
    records: Iterable[WatchRecord],
    history: History,
    *,
    complete: bool = False,
    proofs: Proofs | None = None,
) -> Verdict:
    """All validators over all records.

    complete: watches that were not cancelled must have reached the end of history.
    proofs: of this history, if there are any already.
    """
    verdict = Verdict()
    proofs = proofs or Proofs(history)
    for record in records:
        kinds = Counter(map(type, record.received))
        events = sum([len(one.events) for one in record.received if type(one) is Response])
        checks = dict(VALIDATORS)
        if complete and not kinds[Cancelled]:
            checks["complete"] = check_complete
        _count(verdict, kinds, events, checks)
        if proofs.hold(record, complete="complete" in checks):
            verdict.proved += events
            checks = {name: checks[name] for name in checks if name not in (*PROVED, "complete")}
        for name, check in checks.items():
            for count, text in enumerate(check(record, history)):
                if count == _SHOWN:
                    break
                verdict.findings.append(Finding(name, record.name, text))
    return verdict


def _count(
    verdict: Verdict, kinds: Counter[type], events: int, checks: dict[str, Validator]
) -> None:
    verdict.watches += 1
    verdict.responses += kinds[Response]
    verdict.bookmarks += kinds[Progress]
    verdict.cancels += kinds[Cancelled]
    verdict.events += events
    amounts = {
        "atomic": kinds[Response],
        "bookmarkable": kinds[Progress],
        "resumable": int(events > 0),
        "closed": kinds.total(),
        "complete": 1,
    }
    for name in checks:
        verdict.checked[name] += amounts.get(name, events)
