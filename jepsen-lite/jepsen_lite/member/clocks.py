"""A member's clocks, which may jump and run at a rate of their own.

The monotonic clock is that of the event loop: Raft's ticks, elections, leases, deadlines and
timers all follow it. It never goes back, so it can jump forward only; slowed down it lags. The
wall clock may do anything; the server only shows it. Jumps need no other process and no rights.

A timer under way keeps the length that it had when it was set; the next one has another. Raft's
tick is the longest timer that matters, so a jump or a rate shows within one tick.
"""

import asyncio
import time
from collections.abc import Callable
from contextvars import Context
from typing import Final, NamedTuple, TypeVarTuple

import uvloop

_Ts = TypeVarTuple("_Ts")

MONOTONIC: Final = "monotonic"
WALL: Final = "wall"
LEAST_RATE: Final = 0.1
MOST_RATE: Final = 10.0


class _Line(NamedTuple):
    """A clock as a straight line: it shows `shown` when the true one shows `true`."""

    true: float
    shown: float
    rate: float

    def at(self, true: float) -> float:
        return self.shown + (true - self.true) * self.rate


class SkewedClock:
    """One clock: the true one, bent. Seconds.

    true: the clock that is right. backward: whether it may be set back. Any thread may read and
    any thread may bend it: a line is replaced as a whole.
    """

    def __init__(self, true: Callable[[], float], *, backward: bool) -> None:
        self._true = true
        self._backward = backward
        now = true()
        self._line = _Line(now, now, 1.0)

    def now(self) -> float:
        """What it shows."""
        return self._line.at(self._true())

    def shown(self, true: float) -> float:
        """What it shows when the true clock shows `true`."""
        return self._line.at(true)

    @property
    def rate(self) -> float:
        """Seconds that it counts in a true second."""
        return self._line.rate

    @property
    def offset(self) -> float:
        """How far it is ahead of the true clock, in seconds."""
        true = self._true()
        return self._line.at(true) - true

    def jump(self, seconds: float) -> None:
        """Sets it forward, or back if it may. Errors: ValueError."""
        if seconds < 0 and not self._backward:
            raise ValueError("a monotonic clock never goes back: jump forward, or slow it down")
        true = self._true()
        line = self._line
        self._line = _Line(true, line.at(true) + seconds, line.rate)

    def run_at(self, rate: float) -> None:
        """Lets it count `rate` seconds in a true second. Errors: ValueError."""
        if not LEAST_RATE <= rate <= MOST_RATE:
            raise ValueError(f"a clock's rate must be from {LEAST_RATE} to {MOST_RATE}")
        true = self._true()
        self._line = _Line(true, self._line.at(true), rate)

    def heal(self) -> None:
        """Lets it run as the true one does; one that may be set back shows the same as well."""
        true = self._true()
        self._line = _Line(true, true if self._backward else self._line.at(true), 1.0)


class Clocks:
    """Both clocks of a member."""

    def __init__(self) -> None:
        self.monotonic = SkewedClock(time.monotonic, backward=False)
        self.wall = SkewedClock(time.time, backward=True)

    def named(self, which: str) -> SkewedClock:
        """The clock of this name. Errors: ValueError."""
        if which == MONOTONIC:
            return self.monotonic
        if which == WALL:
            return self.wall
        raise ValueError(f"there is no clock {which!r}: there are {MONOTONIC} and {WALL}")

    def heal(self) -> None:
        """Both run rightly again. May be repeated."""
        self.monotonic.heal()
        self.wall.heal()

    def wall_clock_ns(self) -> int:
        """Nanoseconds since 1970, as the wall clock shows them."""
        return int(self.wall.now() * 1e9)

    def new_loop(self) -> uvloop.Loop:
        """An event loop that lives by the monotonic clock."""
        return SkewedLoop(self.monotonic)


class SkewedLoop(uvloop.Loop):
    """An event loop whose time is a skewed clock's; `call_at` and sleeps follow it."""

    def __init__(self, clock: SkewedClock) -> None:
        super().__init__()
        self._clock = clock
        self._latest = 0.0

    def time(self) -> float:
        """Seconds of the skewed clock; never less than before."""
        now = self._clock.shown(super().time())
        if now > self._latest:
            self._latest = now
        return self._latest

    def call_later(
        self,
        delay: float,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """As of every event loop. delay: seconds of the skewed clock."""
        return super().call_later(delay / self._clock.rate, callback, *args, context=context)
