"""Quick proofs that no validator has anything to say about a watch.

`sim.validators` say what is wrong with a record, event by event. Nearly always nothing is, and
that can be shown with a few operations on whole lists: if what arrived is, place by place, the part
of history that the watch was to get, and each event's content is that of its place, then the
validators of events are silent. Bookmarks are then compared with the first and the last event of
the responses around them.

A proof never errs in this direction: where `hold` is True, all validators are silent that look at
events or bookmarks (tests/sim/test_proofs.py). Where it is False nothing is said, and they judge.

Events are known by identity: who decodes the bytes of an event once and shares the object saves
nearly all of the work. The event of each identity is kept, so that it stays what it was.
"""

from bisect import bisect_left, bisect_right
from itertools import chain
from typing import Final, TypeAlias

from raftkv.kv.events import Event
from raftkv.sim.watch_records import Asked, History, Progress, Response, WatchRecord

# What is true of an event besides its place.
_RIGHT: Final = 1  # as history has it
_PREVIOUS_RIGHT: Final = 2  # for who asked for prev_kv
_PREVIOUS_ABSENT: Final = 4
_UNKNOWN: Final = -1  # place of an event that history does not have

Places: TypeAlias = tuple[list[int], list[int]]  # places in history, and their revisions


class Proofs:
    """See the module's docstring. history: of all records that are asked about."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._place: dict[tuple[bytes, int], int] = {}
        for number, event in enumerate(history.events):
            self._place[event.kv.key, event.kv.mod_revision] = number
        # A history with a key twice in a revision is beyond what can be said quickly.
        self._usable = len(self._place) == len(history.events)
        self._wanted: dict[tuple[bytes, bytes, bool, bool], Places] = {}
        self._events: list[Event] = []
        self._places: dict[int, int] = {}  # id of an event -> its place
        self._truths: dict[int, int] = {}

    def hold(self, record: WatchRecord, *, complete: bool) -> bool:
        """True only if these validators find nothing. complete: up to the end of history."""
        start = record.start
        return (
            self._usable
            and start > 0
            and self._events_hold(record, start, complete)
            and _bookmarks_hold(record)
        )

    def _events_hold(self, record: WatchRecord, start: int, complete: bool) -> bool:
        """What arrived is what history has from the start to the last revision seen."""
        asked = record.asked
        responses = record.responses()
        events = list(chain.from_iterable([one.events for one in responses]))
        last = max([one.revision for one in record.received if type(one) is Progress], default=0)
        if events:
            last = max(last, events[-1].kv.mod_revision)
        if complete and self._history.revisions:
            last = max(last, self._history.revisions[-1])
        wanted, revisions = self._matching(asked)
        first = bisect_left(revisions, start)
        end = max(bisect_right(revisions, last), first)
        if len(events) != end - first:
            return False
        names = list(map(id, events))
        try:
            places = [self._places[name] for name in names]
        except KeyError:
            self._learn(events)
            places = [self._places[name] for name in names]
        if places != wanted[first:end]:
            return False
        truths = set(map(self._truths.__getitem__, names))
        if not all(truth & _RIGHT for truth in truths):
            return False
        needed = _PREVIOUS_RIGHT if asked.prev_kv else _PREVIOUS_ABSENT
        if all(truth & needed for truth in truths):
            return True
        return asked.prev_kv and all(map(self._previous_hold, responses))

    def _previous_hold(self, response: Response) -> bool:
        """What prev_kv of a response is absent was compacted."""
        gone = self._history.compacted if response.compacted is None else response.compacted
        truths = self._truths
        for event in response.events:
            truth = truths[id(event)]
            if not truth & _PREVIOUS_RIGHT and (
                not truth & _PREVIOUS_ABSENT or event.kv.mod_revision > gone
            ):
                return False
        return True

    def _matching(self, asked: Asked) -> Places:
        name = (asked.key, asked.end, asked.no_put, asked.no_delete)
        found = self._wanted.get(name)
        if found is None:
            events, wants = self._history.events, asked.wants
            places = [place for place, event in enumerate(events) if wants(event)]
            revisions = [events[place].kv.mod_revision for place in places]
            found = self._wanted[name] = (places, revisions)
        return found

    def _learn(self, events: list[Event]) -> None:
        for event in events:
            if id(event) in self._places:
                continue
            self._events.append(event)  # nobody else may get its identity
            kv = event.kv
            place = self._place.get((kv.key, kv.mod_revision), _UNKNOWN)
            truth = 0
            if place != _UNKNOWN:
                real = self._history.events[place]
                if real.kv == kv and real.deleted == event.deleted:
                    truth |= _RIGHT
                if event.previous is None:
                    truth |= _PREVIOUS_ABSENT
                if event.previous == real.previous:
                    truth |= _PREVIOUS_RIGHT
            self._places[id(event)] = place
            self._truths[id(event)] = truth


def _bookmarks_hold(record: WatchRecord) -> bool:
    """`check_bookmarkable` of a record whose events are in order."""
    floor = record.asked.start_revision  # no later bookmark may be below this
    bookmark = 0
    for one in record.received:
        if type(one) is Response:
            if one.events:
                if one.events[0].kv.mod_revision <= bookmark:
                    return False
                floor = max(floor, one.events[-1].kv.mod_revision)
        elif type(one) is Progress:
            if one.revision < floor:
                return False
            bookmark = floor = one.revision
    return True
