"""How long one call of a recipe may still wait. Pure but for the clock."""

import math
from collections.abc import Callable
from typing import Final

from raftkv.client.errors import NotAcquired
from raftkv.client.lifetime import now

LEAST_SECONDS: Final = 0.001  # a request without any time could not even be refused


def _never() -> bool:
    return False


class Patience:
    """The time that is left of a timeout. timeout: seconds; None = for ever.

    is_cancelled: asked whether the wait is to end before its time.
    """

    __slots__ = ("_end", "_is_cancelled", "_timeout")

    def __init__(self, timeout: float | None, is_cancelled: Callable[[], bool] = _never) -> None:
        if timeout == math.inf:
            timeout = None
        self._timeout = timeout
        self._end = math.inf if timeout is None else now() + timeout
        self._is_cancelled = is_cancelled

    @property
    def is_endless(self) -> bool:
        """Whether it has no end of its own."""
        return self._timeout is None

    @property
    def left(self) -> float:
        """Seconds; infinite for ever, 0 when it is over."""
        return max(self._end - now(), 0.0)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left."""
        return now() >= self._end or self._is_cancelled()

    def call_timeout(self) -> float | None:
        """What to give one request: what is left, or None for the client's default."""
        return None if self._timeout is None else max(self.left, LEAST_SECONDS)

    def over(self, what: str) -> NotAcquired:
        """The error to raise when it is over. what: was wanted."""
        if self._is_cancelled():
            return NotAcquired(f"the wait for {what} was called off")
        if not self._timeout:
            return NotAcquired(f"{what} is not free")
        return NotAcquired(f"{what} was not to be had in {self._timeout:g} s")
