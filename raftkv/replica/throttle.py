"""A leader takes writes in slowly while its state's backend cannot keep up.

LevelDB merges the tables of level 0 in the background. When they become many it first delays
and then stops whoever writes, and that is the thread that also sends heartbeats. The driver
says some times a second whether it is about to do so. From then on new writes are appended at
`limits.STALLED_INTAKE_BYTES_PER_SECOND`: a rate, not a stop, so that clients see slower writes
and no errors, and low enough that merging overtakes it. What does not fit waits where writes
wait anyway. Reads, elections and membership changes are not slowed down.
"""

from raftkv import limits


class Throttle:
    """How much may be appended now. Bytes are those of the entries' payloads."""

    __slots__ = ("_allowance_bytes", "_since", "stalling")

    def __init__(self) -> None:
        self.stalling = False  # what the driver said last
        self._allowance_bytes = 0.0
        self._since = 0.0

    def refill(self, now: float) -> None:
        """Time has passed while it stalled. now: seconds of the driver's clock."""
        rate = limits.STALLED_INTAKE_BYTES_PER_SECOND
        grown = self._allowance_bytes + (now - self._since) * rate
        self._allowance_bytes = min(grown, rate / 4)  # no burst after quiet seconds
        self._since = now

    def admits(self) -> bool:
        """Whether one more write, however large, may be appended now."""
        return not self.stalling or self._allowance_bytes > 0

    def took(self, size_bytes: int) -> None:
        """So much was appended. More than was allowed is a debt that later writes wait for."""
        if self.stalling:
            self._allowance_bytes -= size_bytes
