"""The virtual world: one clock, one heap of events, one seed.

Time is an integer count of virtual microseconds, so that adding many small steps
never depends on rounding. Events run in the order of (time, sequence), where the
sequence is the order of scheduling; nothing else decides. Randomness comes in
named streams, each seeded by (seed, name): a new user of randomness in one place
does not shift the numbers that another place draws.

Every event that matters is fed to `record`: it goes into a running hash (the
trace hash, equal for equal seeds in any process) and into a short ring of the
newest events, which is what a failing run prints.
"""

from collections import deque
from collections.abc import Callable
from hashlib import blake2b
from heapq import heappop, heappush
from random import Random
from typing import Any, Final

SECOND: Final = 1_000_000  # virtual microseconds
MILLISECOND: Final = 1_000
RING_EVENTS: Final = 400  # newest events kept for a readable trace


class Timer:
    """A scheduled event that may be cancelled."""

    __slots__ = ("arguments", "callback")

    def __init__(self, callback: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self.callback: Callable[..., None] | None = callback
        self.arguments = arguments

    def cancel(self) -> None:
        """The event will not happen. Harmless when it already did."""
        self.callback = None
        self.arguments = ()


class World:
    """Clock, events, randomness and the trace of one simulated run.

    seed: any integer; equal seeds give equal runs.
    verbose: print every recorded event as it happens.
    """

    def __init__(self, seed: int, *, echo: Callable[[str], None] | None = None) -> None:
        self.seed = seed
        self.now_us = 0
        self.events = 0
        self.ring: deque[tuple[int, str, tuple[Any, ...]]] = deque(maxlen=RING_EVENTS)
        self.describers: dict[str, Callable[..., str]] = {}  # facts of an event as text
        self._heap: list[tuple[int, int, Timer]] = []
        self._sequence = 0
        self._hash = blake2b(digest_size=16)
        self._echo = echo

    @property
    def seconds(self) -> float:
        """The virtual time in seconds."""
        return self.now_us / SECOND

    def stream(self, name: str) -> Random:
        """A random stream of its own for `name`."""
        return Random(f"{self.seed}/{name}")

    def after(self, delay_us: int, callback: Callable[..., None], *arguments: Any) -> Timer:
        """Call `callback(*arguments)` in `delay_us` microseconds (0: after what is due now)."""
        assert delay_us >= 0
        timer = Timer(callback, arguments)
        self._sequence += 1
        heappush(self._heap, (self.now_us + delay_us, self._sequence, timer))
        return timer

    def at(self, time_us: int, callback: Callable[..., None], *arguments: Any) -> Timer:
        """Call `callback(*arguments)` at `time_us`, or now if that is past."""
        return self.after(max(0, time_us - self.now_us), callback, *arguments)

    def step(self) -> bool:
        """Run the next event. False when there is none."""
        heap = self._heap
        while heap:
            time_us, _, timer = heappop(heap)
            callback = timer.callback
            if callback is None:
                continue
            self.now_us = time_us
            self.events += 1
            callback(*timer.arguments)
            return True
        return False

    def run_until(self, time_us: int) -> None:
        """Run every event up to and including `time_us`; the clock ends there."""
        heap = self._heap
        while heap and heap[0][0] <= time_us:
            self.step()
        self.now_us = max(self.now_us, time_us)

    def run_while(self, condition: Callable[[], bool], limit_us: int) -> bool:
        """Run events while `condition()` holds, at most until `limit_us`.

        Returns True if the condition ended, False if the time did.
        """
        heap = self._heap
        while condition():
            if not heap or heap[0][0] > limit_us:
                self.now_us = max(self.now_us, limit_us)
                return not condition()
            self.step()
        return True

    def record(self, what: str, *facts: Any) -> None:
        """Put an event into the trace. Facts: ints, strings, bytes, tuples of these."""
        rest = facts
        if facts and type(facts[-1]) is bytes:  # frames: not through repr, which is slow
            rest = (*facts[:-1], len(facts[-1]))
            self._hash.update(facts[-1])
        self._hash.update(repr((self.now_us, what, rest)).encode())
        self.ring.append((self.now_us, what, facts))
        if self._echo is not None:
            self._echo(self._describe(self.now_us, what, facts))

    def trace_hash(self) -> str:
        """The hash of everything recorded so far, in hexadecimal."""
        return self._hash.hexdigest()

    def newest_events(self, count: int = RING_EVENTS) -> list[str]:
        """The last `count` recorded events as readable lines."""
        return [self._describe(*event) for event in list(self.ring)[-count:]]

    def _describe(self, time_us: int, what: str, facts: tuple[Any, ...]) -> str:
        describer = self.describers.get(what)
        words = describer(*facts) if describer else " ".join(map(_describe_fact, facts))
        return f"{time_us / SECOND:12.6f} {what} {words}"


def _describe_fact(fact: Any) -> str:
    if isinstance(fact, bytes):
        return f"<{len(fact)} bytes>" if len(fact) > 40 else repr(fact)
    return str(fact)
