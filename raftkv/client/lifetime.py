"""How long a lease surely lives, told by this process's own clock alone.

A server counts a lease's time to live from a moment when it handles a request: the grant or a
renewal. That moment lies somewhere between sending the request and receiving its answer, so
counting from the moment of SENDING is safe, however slow the network was:

    deadline = (clock when the last request that was answered was sent) + TTL - margin

The margin pays for two clocks that do not run alike. A crystal is off by less than 0.01 %, a
clock that is being slewed by 0.05 %; 1 % leaves room for virtual machines whose clocks are
corrected more roughly. The constant pays for what passes between asking "is it alive?" and the
first instruction that trusts the answer: a switch of threads or two. A tenth of the TTL bounds
it, so that short leases keep most of their time. No margin can pay for a process that stops
between the question and the act: this is what fencing tokens are for.

The clock is CLOCK_BOOTTIME where there is one. It goes on while the machine sleeps, as the
server's does; CLOCK_MONOTONIC stands still, and a lease would seem alive after a night in a bag.
Wall time is never used: it jumps.

`alive` compares numbers and nothing else, so it is right whatever hangs: the thread that renews,
the user's event loop, the network, or all of the process for a while.
"""

import time
from typing import Final

RATE_ERROR: Final = 0.01  # of the TTL
PAUSE_SECONDS: Final = 0.1
PAUSE_SHARE: Final = 0.1  # of the TTL, where that is less

if hasattr(time, "CLOCK_BOOTTIME"):
    _CLOCK: Final = time.CLOCK_BOOTTIME

    def now() -> float:
        """Seconds of a clock that never jumps and counts the time a machine sleeps."""
        return time.clock_gettime(_CLOCK)
else:  # pragma: no cover - macOS's own counts sleep as well; elsewhere it is the best there is

    def now() -> float:
        """Seconds of a clock that never jumps."""
        return time.monotonic()


def margin(ttl: float) -> float:
    """What is taken off a TTL of so many seconds, in seconds."""
    return RATE_ERROR * ttl + min(PAUSE_SECONDS, PAUSE_SHARE * ttl)


class Lifetime:
    """The deadline of one lease. Read from any thread; written by one at a time.

    ttl: as the last answer gave it, in seconds. deadline: on the clock of `now`.
    """

    __slots__ = ("_over", "deadline", "ttl")

    def __init__(self, ttl: float, sent: float) -> None:
        """A lease granted for `ttl` seconds by a request that was sent at `sent`, by `now`."""
        self._over = False
        self.ttl: float = ttl
        self.deadline: float = sent + ttl - margin(ttl)

    @property
    def alive(self) -> bool:
        """Whether no server can have ended it by its clock, as far as this one can tell."""
        return not self._over and now() < self.deadline

    @property
    def remaining(self) -> float:
        """Seconds that are surely left; 0 when there are none."""
        return 0.0 if self._over else max(self.deadline - now(), 0.0)

    def renew(self, ttl: float, sent: float) -> bool:
        """A renewal sent at `sent` was answered with `ttl` seconds; returns whether that counts.

        It does not when the deadline has passed meanwhile: what was told to be over stays over,
        for somebody may have acted on it. A late answer never takes time away.
        """
        if not self.alive:
            self.end()
            return False
        self.ttl = ttl
        self.deadline = max(self.deadline, sent + ttl - margin(ttl))
        return True

    def end(self) -> None:
        """It is over: revoked, expired, or nobody keeps it any more."""
        self._over = True
