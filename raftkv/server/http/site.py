"""Which page a path is.

Paths are looked up as Go's ServeMux does: one that is not in its shortest form is redirected to
that, "/v3/" and all below it is the gateway's, a page whose path ends with a slash has all below it
that is no other's, everything unknown is "404 page not found".
"""

import posixpath
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from raftkv.server.http.access import Access
from raftkv.server.http.messages import (
    ANSWERED,
    OF_TEXT,
    Exchange,
    Receiver,
    Request,
    plain_error,
)

if TYPE_CHECKING:
    import asyncio

    from raftkv.server.clients import ClientListener

# Answers, now or later; gives who hears of the client meanwhile, if that is of interest.
Page: TypeAlias = Callable[[Exchange, Request], Receiver | None]

GATEWAY: Final = "/v3/"
_OLD_GATEWAY: Final = "/v3beta/"


class Gateway(Protocol):
    """The pages below "/v3/" and those of other services' methods."""

    def open(self, exchange: Exchange, request: Request) -> Receiver:
        """A request of the gateway begins."""

    def knows(self, path: str) -> bool:
        """Whether a path that is not below "/v3/" is a method's too."""

    def upgrades(self, request: Request) -> bool:
        """Whether a request becomes a WebSocket, if it asks for one in the right form."""

    def upgrade(
        self,
        listener: "ClientListener",
        transport: "asyncio.Transport",
        exchange: Exchange,
        request: Request,
        data: bytes,
    ) -> None:
        """Answers an upgrade; `data` came behind it."""


class Site:
    """All pages of some URLs.

    pages: by path. gateway: None: there is none. access: who may ask; None: anybody, but no
    script of another origin.
    """

    def __init__(
        self, pages: Mapping[str, Page], gateway: Gateway | None, access: Access | None
    ) -> None:
        self._pages = pages
        self._trees = tuple(path for path in pages if path.endswith("/"))
        self._gateway = gateway
        self._access = access

    def open(self, exchange: Exchange, request: Request) -> Receiver:
        """A request begins; answers it, or says who will."""
        path = _modern(request)
        access = self._access
        if access is not None:
            refusal = access.refusal(request)
            if refusal is not None:
                exchange.respond(*plain_error(*refusal))
                return ANSWERED
            exchange.extra = access.fields(request)
            if request.method == b"OPTIONS":
                exchange.respond(200, (), b"")
                return ANSWERED
        gateway = self._gateway
        if gateway is not None and path.startswith(GATEWAY) and _clean(path) == path:
            return gateway.open(exchange, request)
        page = self._pages.get(path)
        if page is not None:
            return page(exchange, request) or ANSWERED
        if _clean(path) != path or (gateway is not None and path == GATEWAY[:-1]):
            _redirect(exchange, request, GATEWAY if path == GATEWAY[:-1] else _clean(path))
        elif gateway is not None and gateway.knows(path):
            return gateway.open(exchange, request)
        else:
            return self._below(path, exchange, request)
        return ANSWERED

    def _below(self, path: str, exchange: Exchange, request: Request) -> Receiver:
        """A path that is no page of its own."""
        for tree in self._trees:
            if path.startswith(tree):
                return self._pages[tree](exchange, request) or ANSWERED
            if path == tree[:-1]:
                _redirect(exchange, request, tree)
                return ANSWERED
        exchange.respond(404, OF_TEXT, b"404 page not found\n")
        return ANSWERED

    def upgrades(self, request: Request) -> bool:
        """Whether a request to change the protocol is one for a WebSocket here."""
        gateway, access = self._gateway, self._access
        if (
            gateway is None
            or access is None
            or request.headers.get(b"upgrade", b"").lower() != b"websocket"
        ):
            return False
        return (
            _modern(request).startswith(GATEWAY)
            and access.refusal(request) is None
            and gateway.upgrades(request)
        )

    def upgrade(
        self,
        listener: "ClientListener",
        transport: "asyncio.Transport",
        exchange: Exchange,
        request: Request,
        data: bytes,
    ) -> None:
        """Answers a request that `upgrades`."""
        assert self._gateway is not None
        assert self._access is not None
        exchange.extra = self._access.fields(request)
        self._gateway.upgrade(listener, transport, exchange, request, data)


def _modern(request: Request) -> str:
    """The path; one below the gateway's old place is moved to the present one."""
    if request.path.startswith(_OLD_GATEWAY):
        request.path = GATEWAY + request.path[len(_OLD_GATEWAY) :]
    return request.path


def _clean(path: str) -> str:
    """The shortest form of a path, with its last slash."""
    if "//" not in path and "/." not in path and path[:1] == "/":
        return path
    clean = posixpath.normpath("/" + path.lstrip("/"))
    return clean + "/" if path.endswith("/") and clean != "/" else clean


def _redirect(exchange: Exchange, request: Request, path: str) -> None:
    target = path + ("?" + request.query if request.query else "")
    location = (b"Location", target.encode("ascii", "replace"))
    if request.method in (b"GET", b"HEAD"):
        body = f'<a href="{target}">Moved Permanently</a>.\n\n'.encode()
        exchange.respond(301, ((b"Content-Type", b"text/html; charset=utf-8"), location), body)
    else:
        exchange.respond(301, (location,), b"")


def only_get(page: Page) -> Page:
    """A page that answers 405 to anything but GET, as etcd's do; to HEAD as well."""

    def answer(exchange: Exchange, request: Request) -> Receiver | None:
        if request.method == b"GET":
            return page(exchange, request)
        status, fields, body = plain_error(405)
        exchange.respond(status, ((b"Allow", b"GET"), *fields), body)
        return None

    return answer
