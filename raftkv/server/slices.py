"""Long work in slices: one queue per member, so that all of it together never holds up the loop.

A long read, RangeStream, HashKV and the removal of compacted history are each a `Piece`, which does
a slice of at most a few milliseconds when it is told to. Between two turns of the event loop the
queue gives out about one slice, not one per piece, and then rests half as long as the slice took if
the loop has had anything else to do. So long work takes two thirds of a busy loop and all of an
idle one, however many ask for it.

    waiting   new; the oldest begins when there is room. It holds nothing but the request.
    active    begun, at most a few: they take turns, a slice each. Each holds its rows and answers.
    stalled   begun, and its client does not take what was sent

More than a bound of them are refused. A piece that nobody waits for any more is dropped, at the
latest when its turn comes.
"""

from collections import deque
from collections.abc import Callable, Generator
from enum import Enum
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Protocol

from raftkv import limits
from raftkv.errors import LEADER_CHANGED, TOO_MANY_REQUESTS, ApiError

if TYPE_CHECKING:
    import asyncio

    from raftkv.server.clients import ClientProtocol


REST: Final = 0.5  # of the time worked


class Progress(Enum):
    """What a slice has left to do."""

    MORE = "more"
    STALLED = "stalled"  # nothing until `Slices.resume`
    DONE = "done"


class Piece(Protocol):
    """Long work."""

    def wanted(self) -> bool:
        """False if nobody waits for it any more."""

    def step(self) -> Progress:
        """The next slice. Whatever it raises ends the process."""

    def drop(self, error: ApiError | None) -> None:
        """The end before the end: let go of everything. error: for whoever waits."""


class Slices:
    """See the module's docstring.

    turns: how many turns the replica has had: tells whether the loop is busy.
    failed: takes what a slice raised. timed: takes the durations of long reads that are done.
    """

    def __init__(
        self,
        loop: "asyncio.AbstractEventLoop",
        turns: Callable[[], int],
        failed: Callable[[Exception], None],
    ) -> None:
        self._loop = loop
        self._turns = turns
        self._failed = failed
        self._waiting: deque[Piece] = deque()
        self._active: deque[Piece] = deque()
        self._stalled: dict[Piece, None] = {}
        self._scheduled = False
        self._seen_turns = 0
        self._stopped = False
        self.timed: Callable[[float, float], None] = lambda waited, took: None

    def __len__(self) -> int:
        return len(self._waiting) + len(self._active) + len(self._stalled)

    def add(self, piece: Piece) -> ApiError | None:
        """Takes new work in; TOO_MANY_REQUESTS if there is too much of it."""
        if len(self) >= limits.MAX_LONG_READS:
            self._sweep()
            if len(self) >= limits.MAX_LONG_READS:
                return TOO_MANY_REQUESTS
        self._waiting.append(piece)
        self._schedule(0.0)
        return None

    def resume(self, piece: Piece) -> None:
        """Work that has stalled, or that may not be refused, gets turns."""
        self._stalled.pop(piece, None)
        self._active.append(piece)
        self._schedule(0.0)

    def cancel(self, piece: Piece) -> None:
        """Nobody waits for stalled work any more. Other work shows that by `wanted`."""
        if piece in self._stalled:
            del self._stalled[piece]
            piece.drop(None)

    def state_replaced(self) -> None:
        """The rows that begun work reads are going to be closed."""
        begun = [*self._active, *self._stalled]
        self._active.clear()
        self._stalled.clear()
        for piece in begun:
            piece.drop(LEADER_CHANGED)

    def stop(self, error: ApiError) -> None:
        """Drops everything with this error; nothing is worked on any more."""
        self._stopped = True
        for piece in (*self._waiting, *self._active, *self._stalled):
            piece.drop(error)
        self._waiting.clear()
        self._active.clear()
        self._stalled.clear()

    def _sweep(self) -> None:
        kept: deque[Piece] = deque()
        for piece in self._waiting:
            if piece.wanted():
                kept.append(piece)
            else:
                piece.drop(None)
        self._waiting = kept

    def _schedule(self, rest_seconds: float) -> None:
        if self._scheduled or self._stopped:
            return
        self._scheduled = True
        if rest_seconds:
            self._loop.call_later(rest_seconds, self._run)
        else:
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        self._scheduled = False
        busy = self._turns() != self._seen_turns
        started = perf_counter()
        took = 0.0
        try:
            # A slice may take as long as the rest of the time, so only short ones are followed.
            while took < limits.SLICE_SECONDS / 2 and self._next():
                took = perf_counter() - started
        except Exception as error:  # noqa: BLE001
            self._failed(error)
            return
        self._seen_turns = self._turns()
        if self._active or self._waiting:
            self._schedule(REST * took if busy else 0.0)

    def _next(self) -> bool:
        """One slice of whoever's turn it is; False if there is nobody."""
        active, waiting = self._active, self._waiting
        while waiting and len(active) < limits.MAX_SLICED_AT_ONCE:
            active.append(waiting.popleft())
        if not active:
            return False
        piece = active.popleft()
        if not piece.wanted():
            piece.drop(None)
            return True
        progress = piece.step()
        if progress is Progress.MORE:
            active.append(piece)
        elif progress is Progress.STALLED:
            self._stalled[piece] = None
        elif isinstance(piece, LongRead):
            self.timed(*piece.durations())
        return True


class LongRead:
    """A unary call that a generator answers.

    begin: makes the generator when its turn has come. done: takes what it returns, or an error.
    """

    def __init__(
        self,
        client: "ClientProtocol",
        stream: int,
        begin: Callable[[], Generator[None, None, Any]],
        done: Callable[[Any], None],
    ) -> None:
        self._client = client
        self._stream = stream
        self._begin = begin
        self._done = done
        self._steps: Generator[None, None, Any] | None = None
        self._came = perf_counter()
        self._began = 0.0

    def wanted(self) -> bool:
        """See Piece."""
        return self._client.connection.is_open(self._stream)

    def step(self) -> Progress:
        """See Piece."""
        if self._steps is None:
            self._began = perf_counter()
            self._steps = self._begin()
        try:
            next(self._steps)
        except StopIteration as end:
            self._done(end.value)
            return Progress.DONE
        return Progress.MORE

    def durations(self) -> tuple[float, float]:
        """When it is done: how long it waited for its turn, and how long it took, in seconds."""
        return self._began - self._came, perf_counter() - self._began

    def drop(self, error: ApiError | None) -> None:
        """See Piece."""
        if self._steps is not None:
            self._steps.close()
        if error is not None and self.wanted():
            self._done(error)
