"""The links between members: `raftkv.testing`'s network of proxies, with lossy links besides.

Loss on a link that carries TCP is not missing bytes: what was lost is sent again after the
sender's timeout, and everything behind it waits. So a share of the chunks of a lossy flow, drawn
at random, is late by `RESEND_SECONDS`, and holds up what follows.
"""

from collections.abc import Iterable
from random import Random
from typing import Final

from raftkv.testing.flows import Flow
from raftkv.testing.proxy import Network, Node

RESEND_SECONDS: Final = 0.2  # the kernel's own least


class LossyFlow(Flow):
    """A flow whose chunks meet losses. share: of them, 0..1."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._fixed_seconds = 0.0
        self.share = 0.0
        super().__init__()

    @property
    def latency_seconds(self) -> float:
        """Of the next chunk."""
        if self.share and self._random.random() < self.share:
            return self._fixed_seconds + RESEND_SECONDS
        return self._fixed_seconds

    @latency_seconds.setter
    def latency_seconds(self, seconds: float) -> None:
        self._fixed_seconds = seconds

    def lose(self, share: float) -> None:
        """From now on this share of the chunks is late."""
        self.share = share


class Links(Network):
    """A `target.base.NetworkFaults` between the proxies of members."""

    def __init__(self, seed: int) -> None:
        self._random = Random(f"{seed}/links")
        super().__init__()

    def _flow(self, source: Node | None, target: Node | None) -> Flow:
        if source is None or target is None:
            return Flow()
        flow = self._flows.get((source, target))
        if flow is None:
            flow = self._flows[source, target] = LossyFlow(self._random)
        return flow

    def loss(self, sources: Iterable[Node], targets: Iterable[Node], share: float) -> None:
        """This share of what is sent from `sources` to `targets` is lost and sent again; 0..1."""
        pairs = [(one, other) for one in sources for other in targets if one != other]
        self._do(self._lose(pairs, share))

    async def _lose(self, pairs: list[tuple[Node, Node]], share: float) -> None:
        for pair in pairs:
            flow = self._flow(*pair)
            if isinstance(flow, LossyFlow):
                flow.lose(share)

    async def _heal(self) -> None:
        for flow in self._flows.values():
            if isinstance(flow, LossyFlow):
                flow.lose(0.0)
        await super()._heal()
