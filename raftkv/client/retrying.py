"""What follows from a failed attempt: another endpoint, a pause, or the end. Pure.

One call is a `Trial`: rounds over the endpoints until one answers or the time is over.

* What surely was not carried out goes on to the next endpoint: no connection came about, or the
  server said that it cannot serve now (no leader, learner, leader changed).
* A call that may be repeated (a read; a write of an exactly-once session) goes on after every
  kind of unavailability, and leaves a silent endpoint after a share of its time: half of what is
  left but no more than 1.5 s, and at least a quarter, so that long reads with long timeouts are
  not cut short. The last endpoint of a round gets all that is left.
* A write whose outcome is unknown ends the call at once: whoever repeats it could do it twice.
* When no endpoint can be reached at all, the rounds end after the dial timeout; when one was
  reached but cannot serve yet (an election), at the call's own deadline.
"""

import math
from typing import Final

from raftkv.client.endpoints import Places
from raftkv.client.errors import (
    BadRequest,
    ClientError,
    Misused,
    NotConnected,
    OutcomeUnknown,
    SessionLost,
    TimedOut,
    Unavailable,
)
from raftkv.errors import Code

FIRST_PAUSE_SECONDS: Final = 0.05
LONGEST_PAUSE_SECONDS: Final = 0.4
SHARE_SECONDS: Final = 1.5
LEAST_SECONDS: Final = 0.001
LONGEST_SECONDS: Final = 1e8  # more than three years; gRPC takes longer ones for none at all


def longest(seconds: float) -> float:
    """What stands for a timeout of so many seconds that are too many. Errors: BadRequest."""
    if math.isnan(seconds):
        raise BadRequest("a timeout that is no number", code=Code.INVALID_ARGUMENT)
    return LONGEST_SECONDS


def share(left: float, *, others: bool) -> float:
    """Seconds for an attempt, of those that are left. others: somebody else may be asked."""
    left = max(left, LEAST_SECONDS)
    return max(min(left / 2, SHARE_SECONDS), left / 4) if others else left


class Trial:
    """One call over as many attempts as it needs.

    place: whom to ask now; `first` at the beginning. alone: nobody but the first is asked.
    repeatable: the call may be carried out more than once. started, timeout, dial_timeout:
    seconds, by any one clock that only grows.
    """

    __slots__ = (
        "_alone",
        "_deadline",
        "_dial_deadline",
        "_last",
        "_pause",
        "_places",
        "_reasons",
        "_repeatable",
        "_round",
        "place",
    )

    def __init__(
        self,
        places: Places,
        first: int,
        *,
        alone: bool,
        repeatable: bool,
        started: float,
        timeout: float,
        dial_timeout: float,
    ) -> None:
        self._places = places
        self._alone = alone
        self._repeatable = repeatable
        self._deadline = started + timeout
        self._dial_deadline = started + min(timeout, dial_timeout)
        self._round = [] if alone else [p for p in places.order(started) if p != first]
        self._pause = FIRST_PAUSE_SECONDS
        self._reasons: dict[str, str] = {}
        self._last: ClientError | None = None  # of an endpoint that was reached
        self.place: int = first

    def share(self, now: float) -> float:
        """Seconds that the present attempt may take."""
        return share(self._deadline - now, others=self._repeatable and bool(self._round))

    def left(self, now: float) -> float:
        """Seconds until the call's deadline; may be negative."""
        return self._deadline - now

    def failed(self, error: ClientError, now: float) -> float:
        """The present attempt ended so. Returns how many seconds to pause; then ask `place`.

        Errors: the one that ends the call.
        """
        reason = error.reason if isinstance(error, OutcomeUnknown) else error
        if isinstance(reason, Unavailable | TimedOut):
            self._places.failed(self.place, now)
        if not self._goes_on(error, reason):
            raise error
        if isinstance(reason, NotConnected):
            self._reasons[error.endpoint] = reason.text
        else:
            self._last = error
        if self._round:
            if now >= self._deadline:
                raise self._final()
            self.place = self._round.pop(0)
            return 0.0
        pause, self._pause = self._pause, min(self._pause * 2, LONGEST_PAUSE_SECONDS)
        if now + pause >= (self._dial_deadline if self._last is None else self._deadline):
            raise self._final()
        if not self._alone:
            self._round = self._places.order(now)
            self.place = self._round.pop(0)
        return pause

    def answered(self) -> None:
        """The present attempt brought an answer."""
        self._places.answered(self.place)

    def _goes_on(self, error: ClientError, reason: ClientError) -> bool:
        if isinstance(error, OutcomeUnknown):
            return self._repeatable and not isinstance(reason, SessionLost | Misused)
        return isinstance(reason, Unavailable | TimedOut)

    def _final(self) -> ClientError:
        if self._last is not None:
            return self._last
        listed = ", ".join(f"{endpoint}: {text}" for endpoint, text in self._reasons.items())
        return NotConnected(f"no endpoint could be reached ({listed})", code=Code.UNAVAILABLE)
