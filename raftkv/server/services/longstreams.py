"""Streams that live long: ended when the cluster has lost its leader, or this member stops.

A client that says `hasleader` wants to be told when its member is cut off, so that it can go to
another. Such a stream ends with "no leader" when three looks in a row, an election timeout apart,
found none (etcd's interceptor does the same): one election alone ends no stream.

A stream without an end of its own would hold up a member that stops until it is cut. It is told
instead, as soon as the leadership is handed over.
"""

import asyncio
from typing import Final, Protocol

from raftkv.errors import NO_LEADER, STOPPED, ApiError
from raftkv.raft.types import NOBODY
from raftkv.server.driver import Driver
from raftkv.wire.grpc import RequestHead

LOOKS: Final = 3  # without a leader


class LongStream(Protocol):
    """A streaming call that may be open for days."""

    def abandon(self, error: ApiError) -> None:
        """End the call with this error, at once."""


class LongStreams:
    """Every long stream of one member.

    driver: tells the leader and the time.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._open: dict[LongStream, bool] = {}  # whether it needs a leader
        self._demanding = 0
        self._looks = 0
        self._timer: asyncio.TimerHandle | None = None
        self._draining = False

    def __len__(self) -> int:
        return len(self._open)

    def add(self, stream: LongStream, head: RequestHead) -> None:
        """A stream begins. To be removed when it ends, however it ends."""
        demanding = b"hasleader" in head.metadata
        self._open[stream] = demanding
        self._demanding += demanding
        if self._draining:  # it came while others were told
            self._driver.loop.call_soon(self._abandon, [stream], STOPPED)
        elif demanding and self._timer is None:
            self._looks = 0
            self._look_later()

    def remove(self, stream: LongStream) -> None:
        """A stream has ended; may be said twice."""
        self._demanding -= self._open.pop(stream, False)

    def end(self, error: ApiError) -> None:
        """Ends every stream with `error`."""
        self._abandon(list(self._open), error)

    def drain(self) -> None:
        """This member stops: ends every stream."""
        self._draining = True
        self._abandon(list(self._open), STOPPED)

    def _look_later(self) -> None:
        seconds = self._driver.replica.settings.election_timeout_seconds
        self._timer = self._driver.loop.call_later(seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        if not self._demanding:
            return
        self._looks = self._looks + 1 if self._driver.replica.leader == NOBODY else 0
        if self._looks >= LOOKS:
            self._abandon([one for one, demanding in self._open.items() if demanding], NO_LEADER)
        else:
            self._look_later()

    def _abandon(self, streams: list[LongStream], error: ApiError) -> None:
        for stream in streams:
            self.remove(stream)
            stream.abandon(error)
