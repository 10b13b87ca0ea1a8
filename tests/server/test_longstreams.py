"""When long streams are ended: three looks without a leader, and a member that stops."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from raftkv.errors import NO_LEADER, STOPPED, ApiError
from raftkv.raft.types import NOBODY
from raftkv.server.services.longstreams import LongStreams
from raftkv.wire.grpc import RequestHead

DEMANDING = RequestHead(b"/x", {b"hasleader": b"true"})
PATIENT = RequestHead(b"/x", {})


class World:
    """A loop whose time passes by `look`, and a replica whose leader comes and goes."""

    def __init__(self) -> None:
        self.timers: list[Callable[[], None]] = []
        self.soon: list[tuple[Any, ...]] = []
        settings = SimpleNamespace(election_timeout_seconds=1.0)
        self.replica = SimpleNamespace(leader=7, settings=settings)
        driver = SimpleNamespace(replica=self.replica, loop=self)
        self.streams = LongStreams(cast(Any, driver))

    def call_later(self, seconds: float, work: Callable[[], None]) -> object:
        assert seconds == 1.0
        self.timers.append(work)
        return object()

    def call_soon(self, *work: Any) -> None:
        self.soon.append(work)

    def look(self, leader: int) -> None:
        """An election timeout later."""
        self.replica.leader = leader
        (timer,) = self.timers
        self.timers.clear()
        timer()


class Stream:
    def __init__(self) -> None:
        self.errors: list[ApiError] = []

    def abandon(self, error: ApiError) -> None:
        self.errors.append(error)


def test_three_looks_in_a_row_without_a_leader_end_who_demands_one() -> None:
    world, demanding, patient = World(), Stream(), Stream()
    world.streams.add(demanding, DEMANDING)
    world.streams.add(patient, PATIENT)
    for leader in (NOBODY, NOBODY, 7, NOBODY, NOBODY):
        world.look(leader)
        assert not demanding.errors, "an election ends no stream"
    world.look(NOBODY)
    assert demanding.errors == [NO_LEADER]
    assert not patient.errors
    assert len(world.streams) == 1


def test_nobody_looks_while_nobody_demands_a_leader() -> None:
    world, first, second = World(), Stream(), Stream()
    world.streams.add(Stream(), PATIENT)
    assert not world.timers
    world.streams.add(first, DEMANDING)
    world.look(NOBODY)
    world.look(NOBODY)
    world.streams.remove(first)
    world.streams.remove(first)
    world.look(NOBODY)
    assert not world.timers
    assert not first.errors
    world.streams.add(second, DEMANDING)
    world.look(NOBODY)
    assert not second.errors, "looks from before it came do not count"


def test_a_member_that_stops_ends_all_streams_and_those_that_still_come() -> None:
    world, streams, late = World(), [Stream(), Stream()], Stream()
    for stream, head in zip(streams, (DEMANDING, PATIENT), strict=True):
        world.streams.add(stream, head)
    world.streams.drain()
    assert [stream.errors for stream in streams] == [[STOPPED], [STOPPED]]
    world.streams.add(late, PATIENT)
    for work, *arguments in world.soon:
        work(*arguments)
    assert late.errors == [STOPPED]
    assert not len(world.streams)
