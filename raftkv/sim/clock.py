"""The monotonic clock of one simulated member: it may run fast, slow, or leap forward."""

from raftkv.sim.world import SECOND, World


class NodeClock:
    """Seconds since the member's machine began."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._since = (0, 0.0, 1.0)  # (world time us, own seconds then, rate from then on)

    @property
    def rate(self) -> float:
        """Own seconds per true second."""
        return self._since[2]

    @rate.setter
    def rate(self, rate: float) -> None:
        self._since = (self._world.now_us, self.now(), rate)

    def now(self) -> float:
        """The time in seconds."""
        since_us, own, rate = self._since
        return own + (self._world.now_us - since_us) / SECOND * rate

    def leap(self, seconds: float) -> None:
        """Leap forward, as if the machine had slept without knowing (R20)."""
        self._since = (self._world.now_us, self.now() + seconds, self.rate)
