"""Puts the sites of one member together: one for clients, one for whoever watches the member."""

from collections.abc import Mapping
from typing import Final

from raftkv.config import ServerConfig
from raftkv.server.http.access import Access
from raftkv.server.http.gateway import Gateway
from raftkv.server.http.health import MemberCondition, checks_pages, health_page
from raftkv.server.http.pages import Exposition, metrics_page, version_page
from raftkv.server.http.profiles import ProfilePages
from raftkv.server.http.site import Page, Site
from raftkv.server.http.variables import variables_page
from raftkv.server.routes import Routes
from raftkv.server.services.catalogue import service_descriptors
from raftkv.server.services.context import Context
from raftkv.wire.tally import Tally

_NO_TALLIES: Final[Mapping[bytes, Tally]] = {}


class Sites:
    """clients: everything. metrics: health and metrics only, for --listen-metrics-urls.

    condition: what health checks are told.
    """

    def __init__(
        self,
        config: ServerConfig,
        context: Context,
        routes: Routes,
        max_message_bytes: int,
        exposition: Exposition | None = None,
        tallies: Mapping[bytes, Tally] = _NO_TALLIES,
    ) -> None:
        self.condition = MemberCondition(context)
        watched: dict[str, Page] = {
            "/health": health_page(self.condition),
            **checks_pages(self.condition),
        }
        if exposition is not None:
            watched["/metrics"] = metrics_page(exposition)
        self.metrics = Site(watched, None, None)
        gateway = None
        if config.enable_grpc_gateway:
            services = service_descriptors()
            gateway = Gateway(context.driver, routes, services, max_message_bytes, tallies)
        pages = {
            **watched,
            "/version": version_page(),
            "/debug/vars": variables_page(context.replica),
        }
        self._profiles: ProfilePages | None = None
        if config.enable_pprof:
            self._profiles = ProfilePages(context.driver.loop)
            pages.update(self._profiles.pages)
        self.clients = Site(pages, gateway, Access(config.cors, config.host_whitelist))

    def stopping(self) -> None:
        """The member is about to end."""
        self.condition.stopping()
        if self._profiles is not None:
            self._profiles.stopping()
