"""The virtual network: one directed link between every two members.

A link carries frames (encoded peer messages: the real bytes). Each frame draws its
own fate: lost, once or twice delivered, late. Without `reorder` frames of a link keep
their order, as on a TCP stream; with it a frame may overtake. A cut link loses what is
sent while it is cut and what is on its way (a broken connection).

All times are virtual microseconds, all probabilities 0..1.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from raftkv.sim.world import MILLISECOND, SECOND, World


@dataclass(frozen=True, slots=True)
class Weather:
    """How links treat frames.

    latency_us: shortest time on the way; jitter_us: mean of the exponential extra.
    loss, duplicate, reorder: chance per frame. spike: chance of an extra delay,
    uniform up to spike_us.
    """

    latency_us: int = 300
    jitter_us: int = 200
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    spike: float = 0.0
    spike_us: int = 0

    def rates(self) -> str:
        """The chances as text, for the trace."""
        return (
            f"loss={self.loss:.2f} duplicate={self.duplicate:.2f} reorder={self.reorder:.2f} "
            f"spike={self.spike:.2f}/{self.spike_us}us"
        )


FAIR: Final = Weather()
ROUGH: Final = Weather(loss=0.10, duplicate=0.10, reorder=0.30, spike=0.02, spike_us=SECOND)
STORM: Final = Weather(loss=0.30, duplicate=0.50, reorder=0.50, spike=0.05, spike_us=5 * SECOND)


class Link:
    """One direction between two members. cuts: how many faults hold it cut."""

    __slots__ = ("busy_until_us", "cuts", "epoch", "receiver", "sender", "weather")

    def __init__(self, sender: int, receiver: int, weather: Weather) -> None:
        self.sender = sender
        self.receiver = receiver
        self.weather = weather
        self.cuts = 0
        self.epoch = 0  # counts cuts; a frame of an older epoch is lost
        self.busy_until_us = 0  # delivery of the newest frame sent in order


class Network:
    """All links. deliver(receiver, sender, frame): where frames arrive. fair: the weather without
    faults.

    counts: what happened to frames, by word (sent, lost, cut, duplicated, delayed,
    reordered).
    """

    def __init__(
        self, world: World, deliver: Callable[[int, int, bytes], None], fair: Weather = FAIR
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.links: dict[tuple[int, int], Link] = {}
        self.fair = self.weather = fair
        self._world = world
        self._deliver = deliver
        self._random: Random = world.stream("network")

    def add(self, member: int, others: Iterable[int]) -> None:
        """Links in both directions between `member` and each of `others`."""
        for other in others:
            for ends in ((member, other), (other, member)):
                if ends not in self.links:
                    self.links[ends] = Link(*ends, self.weather)

    def send(self, sender: int, receiver: int, frame: bytes, *, stream: bool = False) -> None:
        """Put a frame on the link. Its fate is drawn now.

        stream: a piece of a byte stream: it comes once and in order, or the link was cut.
        """
        link = self.links.get((sender, receiver))
        self.counts["sent"] += 1
        if link is None or link.cuts:
            self.counts["cut"] += 1
            return
        weather = link.weather
        draw = self._random.random
        if stream:
            self._carry(link, replace(weather, reorder=0.0), frame)
            return
        if weather.loss and draw() < weather.loss:
            self.counts["lost"] += 1
            return
        self._carry(link, weather, frame)
        if weather.duplicate and draw() < weather.duplicate:
            self.counts["duplicated"] += 1
            self._carry(link, weather, frame)

    def _carry(self, link: Link, weather: Weather, frame: bytes) -> None:
        draw = self._random
        delay_us = weather.latency_us + int(draw.expovariate(1.0) * weather.jitter_us)
        if weather.spike and draw.random() < weather.spike:
            self.counts["delayed"] += 1
            delay_us += int(draw.random() * weather.spike_us)
        arrival_us = self._world.now_us + delay_us
        if weather.reorder and draw.random() < weather.reorder:
            self.counts["reordered"] += 1
        else:
            arrival_us = max(arrival_us, link.busy_until_us)
            link.busy_until_us = arrival_us
        self._world.at(arrival_us, self._arrive, link, link.epoch, frame)

    def _arrive(self, link: Link, epoch: int, frame: bytes) -> None:
        if link.cuts or link.epoch != epoch:
            self.counts["cut"] += 1
            return
        self._deliver(link.receiver, link.sender, frame)

    # --- faults -----------------------------------------------------------------

    def cut(self, sender: int, receiver: int) -> None:
        """Cut one direction. Cuts add up; each needs its `mend`."""
        link = self.links[sender, receiver]
        link.cuts += 1
        link.epoch += 1
        link.busy_until_us = 0

    def mend(self, sender: int, receiver: int) -> None:
        """Undo one `cut`."""
        link = self.links[sender, receiver]
        link.cuts = max(0, link.cuts - 1)

    def connected(self, sender: int, receiver: int) -> bool:
        """True if frames can pass in this direction."""
        link = self.links.get((sender, receiver))
        return link is not None and not link.cuts

    def set_weather(self, weather: Weather, *, member: int | None = None) -> None:
        """Change every link, or only those of `member` in both directions."""
        if member is None:
            self.weather = weather
        for link in self.links.values():
            if member is None or member in (link.sender, link.receiver):
                link.weather = weather
                link.busy_until_us = 0

    def heal(self) -> None:
        """No cut, fair weather. What is on its way stays on its way."""
        for link in self.links.values():
            link.cuts = 0
        self.set_weather(self.fair)


def milder(weather: Weather, factor: float) -> Weather:
    """`weather` with all chances multiplied by `factor`."""
    return replace(
        weather,
        loss=weather.loss * factor,
        duplicate=weather.duplicate * factor,
        reorder=weather.reorder * factor,
        spike=weather.spike * factor,
    )


SLOW_LINK: Final = Weather(latency_us=40 * MILLISECOND, jitter_us=20 * MILLISECOND)
