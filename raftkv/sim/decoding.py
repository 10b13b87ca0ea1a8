"""Events read back from the bytes of responses, each distinct one once.

All members, streams and slices make the same bytes of an event, so nearly every event that arrives
is one that was decoded before. Sharing the object makes the run cheap, and lets `sim.proofs` know
events by identity.
"""

from raftkv.kv.audience import Batch
from raftkv.kv.encoding import read_varint
from raftkv.kv.events import Event, decode_event


class Decoder:
    """See the module's docstring. One for a whole run."""

    def __init__(self) -> None:
        self._events: dict[bytes, Event] = {}
        self._batch: Batch | None = None
        self._decoded: tuple[Event, ...] = ()

    def event(self, framed: bytes) -> Event:
        """A framed event (`kv.events`)."""
        found = self._events.get(framed)
        if found is None:
            found = self._events[framed] = decode_event(framed)
        return found

    def batch(self, events: Batch) -> tuple[Event, ...]:
        """All events of a batch. Watchers that asked for the same are given the same batch, one
        after the other.
        """
        if events is not self._batch:
            self._batch, self._decoded = events, tuple(map(self.event, events))
        return self._decoded

    def body(self, data: bytes) -> tuple[Event, ...]:
        """Framed events, one behind the other."""
        events = []
        at = 0
        while at < len(data):
            size, start = read_varint(data, at + 1)
            events.append(self.event(data[at : start + size]))
            at = start + size
        return tuple(events)
