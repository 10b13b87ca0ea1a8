"""Puts the sites of one member together: one for clients, one for whoever watches the member."""

from collections.abc import Mapping
from typing import Final

from raftkv.config import ServerConfig
from raftkv.server.http.access import Access
from raftkv.server.http.gateway import Gateway
from raftkv.server.http.health import MemberCondition, checks_pages, health_page
from raftkv.server.http.pages import Exposition, metrics_page, version_page
from raftkv.server.http.profiles import profile_pages
from raftkv.server.http.site import Page, Site
from raftkv.server.http.variables import variables_page
from raftkv.server.routes import Routes
from raftkv.server.services.catalogue import service_descriptors
from raftkv.server.services.context import Context
from raftkv.wire.tally import Tally

_NO_TALLIES: Final[Mapping[bytes, Tally]] = {}


class Sites:
    """clients: everything. metrics: health and metrics only, for --listen-metrics-urls.

    condition: to be told when the member stops.
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
        if config.enable_pprof:
            pages.update(profile_pages(context.driver.loop))
        self.clients = Site(pages, gateway, Access(config.cors, config.host_whitelist))
