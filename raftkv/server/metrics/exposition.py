"""The page that Prometheus scrapes."""

import time
from typing import Final

from raftkv.config import ServerConfig
from raftkv.server.clients import ClientListener
from raftkv.server.metrics import disk, member, network, own, store
from raftkv.server.metrics.methods import Methods
from raftkv.server.metrics.process import Process
from raftkv.server.metrics.source import Source
from raftkv.server.metrics.text import CONTENT_TYPE, Family, render
from raftkv.server.peers import Peers
from raftkv.server.services.catalogue import service_descriptors
from raftkv.server.services.context import Context

FAMILIES: Final[tuple[Family[Source], ...]] = (
    *member.FAMILIES,
    *store.FAMILIES,
    *disk.FAMILIES,
    *network.FAMILIES,
    *own.FAMILIES,
)


class Exposition:
    """All metrics of one member."""

    def __init__(self, source: Source, methods: Methods) -> None:
        self._source = source
        self._methods = methods
        self._process = Process()

    def text(self, accept: str) -> tuple[str, bytes]:
        """Content type and body. accept: what the scraper would like; it gets the text format."""
        parts = [render(family, self._source) for family in FAMILIES]
        parts.extend(own.render_counters(self._source))
        parts.extend(self._methods.render())
        parts.extend(self._process.render())
        return CONTENT_TYPE, "".join(parts).encode()


def measure(
    config: ServerConfig, context: Context, peers: Peers, clients: ClientListener
) -> Exposition:
    """Has the calls of a member's clients counted, before the first one; its metrics."""
    methods = Methods(service_descriptors(), extensive=config.metrics == "extensive")
    list(methods.render())  # now, because the first time is the long one
    clients.tallies = methods.tallies
    if methods.extensive:
        clients.clock = time.perf_counter
    return Exposition(Source(config, context, peers, clients), methods)
