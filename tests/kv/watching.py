"""A machine with a hub of watches, sinks that write down what they get, and what they should get.

`Town.turn` does what a server does with one turn: some entries, then one `publish`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message

from raftkv.errors import ApiError
from raftkv.kv.events import Event, decode_event
from raftkv.kv.machine import StateMachine
from raftkv.kv.watches import Batch, Watcher, Watches, normal_range
from raftkv.pb import rpc_pb2 as pb
from tests.kv.adapter import Driver, machine

Put, Delete, Compact = pb.PutRequest, pb.DeleteRangeRequest, pb.CompactionRequest


@dataclass
class Delivery:
    """One call of `deliver`."""

    first: int
    last: int
    events: list[Event]


@dataclass(eq=False)
class Recorder:
    """A sink that remembers everything. closed: it takes nothing more for now."""

    closed: bool = False
    deliveries: dict[Watcher, list[Delivery]] = field(default_factory=dict)
    batches: list[Batch] = field(default_factory=list)
    cancels: dict[Watcher, int] = field(default_factory=dict)

    def deliver(self, watcher: Watcher, first: int, last: int, events: Batch) -> None:
        assert not self.closed, "a full sink was given something"
        assert watcher not in self.cancels, "an event after the cancel"
        assert events, "an empty delivery"
        got = [decode_event(event) for event in events]
        assert got[0].kv.mod_revision == first
        assert got[-1].kv.mod_revision <= last
        self.deliveries.setdefault(watcher, []).append(Delivery(first, last, got))
        self.batches.append(events)

    def full(self) -> bool:
        return self.closed

    def cancelled(self, watcher: Watcher, compact_revision: int) -> None:
        assert watcher not in self.cancels, "cancelled twice"
        self.cancels[watcher] = compact_revision

    def events(self, watcher: Watcher) -> list[Event]:
        """All events of a watcher in the order of their arrival."""
        return [event for one in self.deliveries.get(watcher, ()) for event in one.events]

    def short(self, watcher: Watcher) -> list[tuple[bytes, int, bool]]:
        """Key, revision and whether it was a deletion, of each event."""
        return [
            (event.kv.key, event.kv.mod_revision, event.deleted) for event in self.events(watcher)
        ]


class Town:
    """A machine and its hub."""

    def __init__(self, subject: StateMachine | None = None, published: int = 1500) -> None:
        self.driver = Driver(subject or machine())
        self.hub = Watches(self.driver.machine, published)
        self.sink = Recorder()

    @property
    def revision(self) -> int:
        return self.driver.machine.revision

    def apply(self, requests: Sequence[Message]) -> None:
        """Entries without a `publish`."""
        for request in requests:
            outcome = self.driver.submit(request)
            assert not isinstance(outcome, ApiError), outcome

    def publish(self) -> None:
        """With all slices that it takes."""
        self.begin_to_publish()
        while self.hub.unfinished:
            self.hub.go_on()

    def begin_to_publish(self) -> None:
        """Its first slice, or none if there is another publication under way."""
        self.hub.publish(self.driver.machine.take_changes(), self.revision)

    def turn(self, *requests: Message) -> None:
        self.apply(requests)
        self.publish()

    def settle(self, units: int = 1000) -> None:
        """Slices until nothing is left to do."""
        for _ in range(10_000):
            if not self.hub.catch_up(units):
                return
        raise AssertionError("catching up does not end")

    def watch(self, key: bytes, end: bytes = b"", start: int = 0, **options: Any) -> Watcher:
        sink = options.pop("sink", self.sink)
        chosen = normal_range(key, end)
        assert chosen is not None
        watcher = Watcher(sink, 0, *chosen, start, **options)
        self.hub.add(watcher)
        return watcher


def put(key: bytes, value: bytes = b"v", lease: int = 0) -> pb.PutRequest:
    return Put(key=key, value=value, lease=lease)


def delete(key: bytes, end: bytes = b"") -> pb.DeleteRangeRequest:
    return Delete(key=key, range_end=end)


def compact(revision: int) -> pb.CompactionRequest:
    return Compact(revision=revision)


def txn(*requests: pb.PutRequest | pb.DeleteRangeRequest) -> pb.TxnRequest:
    ops = [
        pb.RequestOp(request_put=one)
        if isinstance(one, Put)
        else pb.RequestOp(request_delete_range=one)
        for one in requests
    ]
    return pb.TxnRequest(success=ops)
