"""Which endpoint is asked next. Pure: the time comes in as an argument.

A client stays with the endpoint that answers. One that fails is sick for a while: half a second
after its first failure in a row, doubling to ten seconds. The others come in the given order,
behind the present one, and the sick ones last, the longest known first: they are asked only
when no healthy one has answered. Any answer makes an endpoint healthy.

Places may be used by several threads: each change is one assignment, and what two of them
decide at the same time is at worst an attempt too many.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from raftkv.client.settings import Endpoint

FIRST_SICK_SECONDS: Final = 0.5
LONGEST_SICK_SECONDS: Final = 10.0


class Places:
    """The endpoints as numbers from 0 to count - 1, in the user's order."""

    __slots__ = ("_failures", "_sick_until", "count", "current")

    def __init__(self, count: int) -> None:
        assert count > 0
        self.count: int = count
        self.current: int = 0
        self._failures = [0] * count
        self._sick_until = [0.0] * count

    def order(self, now: float) -> list[int]:
        """All places, the one to ask first in front."""
        current = self.current
        ring = [(current + step) % self.count for step in range(self.count)]
        healthy = [place for place in ring if self.is_healthy(place, now)]
        sick = [place for place in ring if not self.is_healthy(place, now)]
        return healthy + sorted(sick, key=self._sick_until.__getitem__)

    def is_healthy(self, place: int, now: float) -> bool:
        """Whether it has not failed lately."""
        return self._sick_until[place] <= now

    def failed(self, place: int, now: float) -> None:
        """It gave no useful answer: others go first for a while."""
        self._failures[place] += 1
        doubled = FIRST_SICK_SECONDS * 2.0 ** min(self._failures[place] - 1, 10)
        self._sick_until[place] = now + min(doubled, LONGEST_SICK_SECONDS)
        if place == self.current and self.count > 1:
            self.current = self.order(now)[0]

    def prefer(self, place: int) -> None:
        """Ask it first from now on."""
        self.current = place

    def answered(self, place: int) -> None:
        """It gave an answer after others had failed: stay with it."""
        self._failures[place] = 0
        self._sick_until[place] = 0.0
        self.current = place


def place_of(endpoints: Sequence[Endpoint], client_urls: Iterable[str]) -> int | None:
    """Which of the endpoints a member listens on, going by the URLs that it tells.

    None if it is none of them, or they are written differently (another name of the host).
    """
    addresses = {url.partition("://")[2].rstrip("/") for url in client_urls}
    for place, endpoint in enumerate(endpoints):
        if endpoint.address in addresses:
            return place
    return None
