"""The store at every revision, from its own log: per key two arrays, revisions and events.

What the store held at a revision is found by bisection. Where the beginning of the log was
compacted away before it could be read, a key without an event so far is UNKNOWN, not absent.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Any, Final

from jepsen_lite.checker.base import LogEvent, StoreLog

UNKNOWN: Final = LogEvent(-1, "", None, 0, 0)  # the log does not say
FROM_KEY: Final = "\0"  # as a range's end: no end


class Replay:
    """See the module's docstring.

    keys: key -> (revisions, events), both in order. last_revision: of the log. floor: below it
    and at it the log says nothing; 0: it says everything.
    """

    def __init__(self, log: StoreLog) -> None:
        self.log = log
        self.last_revision = log.last_revision
        compacted = log.compacted_revision
        self.floor = compacted if compacted > log.first_revision else 0
        self.keys: dict[str, tuple[list[int], list[LogEvent]]] = {}
        keys = self.keys
        for event in log.events:
            arrays = keys.get(event.key)
            if arrays is None:
                keys[event.key] = ([event.revision], [event])
            else:
                arrays[0].append(event.revision)
                arrays[1].append(event)
        self._names: list[str] | None = None

    def at(self, key: str, revision: int) -> LogEvent | None:
        """The version of a key at a revision: None if there is no such key, or UNKNOWN."""
        arrays = self.keys.get(key)
        place = bisect_right(arrays[0], revision) if arrays else 0
        if not arrays or not place:
            return UNKNOWN if self.floor else None
        event = arrays[1][place - 1]
        return None if event.value is None else event

    def on(self, key: str, revision: int) -> LogEvent | None:
        """The last event of a key in exactly this revision."""
        arrays = self.keys.get(key)
        if arrays is None:
            return None
        place = bisect_right(arrays[0], revision)
        return arrays[1][place - 1] if place and arrays[0][place - 1] == revision else None

    def names(self, key: str, end: str = "") -> list[str]:
        """The keys of a range that ever were. end: "" = one key, FROM_KEY = no end."""
        if not end:
            return [key]
        if self._names is None:
            self._names = sorted(self.keys)
        names = self._names
        last = len(names) if end == FROM_KEY else bisect_left(names, end)
        return names[bisect_left(names, key) : last]

    def within(self, key: str, end: str, revision: int) -> list[LogEvent] | None:
        """The keys of a range at a revision, in order; None if the log does not say."""
        if self.floor and revision <= self.floor:
            return None
        found = [self.at(name, revision) for name in self.names(key, end)]
        if any(event is UNKNOWN for event in found):
            return None
        return [event for event in found if event is not None]

    def faults(self) -> Iterator[tuple[str, int]]:
        """What contradicts itself in the log: a sentence, and the revision."""
        revision = 0
        for event in self.log.events:
            if event.revision < revision:
                yield f"the log tells revision {event.revision} after {revision}", revision
            revision = event.revision
        for key, (_, events) in self.keys.items():
            before: LogEvent | None = UNKNOWN if self.floor else None
            for event in events:
                if before is not UNKNOWN:
                    fault = _fault(before, event)
                    if fault:
                        yield f"{key!r}: {fault}", event.revision
                before = None if event.value is None else event


def _fault(before: LogEvent | None, event: LogEvent) -> str:
    """How an event cannot follow the version before it; "" if it can."""
    if event.value is None:
        return "" if before else f"revision {event.revision} deletes a key that is not there"
    version = before.version + 1 if before else 1
    created = before.create_revision if before else event.revision
    if event.version == version and event.create_revision == created:
        return ""
    return (
        f"revision {event.revision} has version {event.version} and create_revision "
        f"{event.create_revision}, after what was before they must be {version} and {created}"
    )


def difference(said: dict[str, Any] | None, event: LogEvent | None) -> str:
    """How an answer about a key differs from the log; "" if it does not.

    said: an object with "value" (null: no key) and perhaps mod_revision, version,
    create_revision and lease.
    """
    value = said.get("value") if said else None
    if event is None:
        return "" if value is None else f"{value!r} instead of no key"
    if said is None or value is None:
        return f"no key instead of {event.value!r}"
    if value != event.value:
        return f"{value!r} instead of {event.value!r}"
    for name, real in (
        ("mod_revision", event.revision),
        ("version", event.version),
        ("create_revision", event.create_revision),
        ("lease", event.lease),
    ):
        if name in said and said[name] is not None and said[name] != real:
            return f"{name} {said[name]} instead of {real}"
    return ""
