"""What clients saw of watches, and what really happened: the two sides that `validators` compare.

A `WatchRecord` says what was asked and what arrived, in order; a `History` is made of a full watch
or of the applied log. Neither knows anything of a server.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from raftkv.kv.encoding import KeyValue
from raftkv.kv.events import Event
from raftkv.kv.watchindex import in_range


@dataclass(frozen=True, slots=True)
class Asked:
    """A WatchCreateRequest; key and end as `watchindex.normal_range` gives them."""

    key: bytes
    end: bytes = b""
    start_revision: int = 0
    prev_kv: bool = False
    no_put: bool = False
    no_delete: bool = False
    fragment: bool = False

    def wants(self, event: Event) -> bool:
        """Does the event match, whatever its revision?"""
        filtered = self.no_delete if event.deleted else self.no_put
        return not filtered and in_range(event.kv.key, self.key, self.end)


class Created(NamedTuple):
    """The first response; revision: of its header."""

    revision: int


class Response(NamedTuple):
    """Events; fragment: the same revision goes on in the next response.

    compacted: up to which revision prev_kv may be gone, as the member was when it sent this; None:
    not known.
    """

    events: tuple[Event, ...]
    fragment: bool = False
    compacted: int | None = None


class Progress(NamedTuple):
    """A bookmark for this watch."""

    revision: int


class Cancelled(NamedTuple):
    """The last response. compact_revision: 0 if that was not the reason."""

    compact_revision: int = 0
    reason: str = ""


Received: TypeAlias = Created | Response | Progress | Cancelled


@dataclass(slots=True)
class WatchRecord:
    """One watch as its client saw it. cancel_asked: the client wanted it to end."""

    name: str
    asked: Asked
    received: list[Received] = field(default_factory=list)
    cancel_asked: bool = False

    @property
    def start(self) -> int:
        """The first revision that it must be told of; 0: not known, it was never created."""
        if self.asked.start_revision:
            return max(self.asked.start_revision, 1)
        created = (one.revision for one in self.received if isinstance(one, Created))
        return next(created, -1) + 1

    def responses(self) -> list[Response]:
        """All with events."""
        return [one for one in self.received if type(one) is Response]

    def events(self) -> Iterator[Event]:
        """All events in the order of their arrival."""
        for one in self.responses():
            yield from one.events

    def seen(self) -> int:
        """The greatest revision that an event or a bookmark told of; 0 for none."""
        seen = 0
        for one in self.received:
            if isinstance(one, Response) and one.events:
                seen = max(seen, *(event.kv.mod_revision for event in one.events))
            elif isinstance(one, Progress):
                seen = max(seen, one.revision)
        return seen


def joined(records: list[WatchRecord]) -> WatchRecord:
    """A watch and its resumptions, each asked for from behind the last revision seen, as one."""
    first = records[0]
    whole = WatchRecord(first.name, first.asked, [], records[-1].cancel_asked)
    for number, record in enumerate(records):
        kept = record.received
        if number:
            kept = [one for one in kept if not isinstance(one, Created)]
        whole.received += kept
    return whole


class History:
    """Everything that was ever written, in order; prev_kv as it was right after the write.

    events: without prev_kv. compactions: every compacted revision there ever was.
    """

    def __init__(self, events: Iterable[Event], compactions: Iterable[int] = ()) -> None:
        self.events: list[Event] = []
        self.revisions: list[int] = []
        self.compactions = sorted(compactions)
        self.compacted = self.compactions[-1] if self.compactions else -1
        self._of_key: dict[bytes, list[int]] = {}
        live: dict[bytes, KeyValue] = {}
        before: dict[bytes, KeyValue | None] = {}  # at the beginning of the revision
        revision = 0
        for event in events:
            kv = event.kv
            assert kv.mod_revision >= revision, "the history is out of order"
            if kv.mod_revision > revision:
                revision, before = kv.mod_revision, {}
            previous = before.setdefault(kv.key, live.get(kv.key))
            if kv.create_revision == revision:
                previous = None
            self._of_key.setdefault(kv.key, []).append(len(self.events))
            self.events.append(Event(event.deleted, kv, previous))
            self.revisions.append(revision)
            if event.deleted:
                live.pop(kv.key, None)
            else:
                live[kv.key] = kv

    def matching(self, asked: Asked, first: int, last: int) -> Iterator[Event]:
        """What a watch must get of the revisions `first` to `last`."""
        begin = bisect_left(self.revisions, first)
        end = bisect_right(self.revisions, last)
        places: Iterable[int] = range(begin, end)
        if not asked.end:
            of_key = self._of_key.get(asked.key, [])
            places = of_key[bisect_left(of_key, begin) : bisect_left(of_key, end)]
        for place in places:
            event = self.events[place]
            if asked.wants(event):
                yield event

    def find(self, key: bytes, revision: int) -> list[Event]:
        """The events of one key in one revision."""
        places = self._of_key.get(key, [])
        at = bisect_left(places, revision, key=self.revisions.__getitem__)
        found = []
        while at < len(places) and self.revisions[places[at]] == revision:
            found.append(self.events[places[at]])
            at += 1
        return found
