"""The small pages: /version and /metrics."""

import json
from typing import Protocol

import raftkv
from raftkv.server.http.messages import JSON, Exchange, Request
from raftkv.server.http.site import Page, only_get


class Exposition(Protocol):
    """Who writes the metrics."""

    def text(self, accept: str) -> tuple[str, bytes]:
        """Content type and body, in the format that an Accept header asks for."""


def version_page() -> Page:
    """/version: the version of etcd's API that is spoken, by this member and by all.

    Patroni and others read both as dotted numbers, so nothing else may be in there.
    """
    major, minor, _ = raftkv.ETCD_VERSION.split(".")
    versions = {"etcdserver": raftkv.ETCD_VERSION, "etcdcluster": f"{major}.{minor}.0"}
    body = json.dumps(versions, separators=(",", ":")).encode()

    def answer(exchange: Exchange, request: Request) -> None:
        exchange.respond(200, (JSON,), body)

    return only_get(answer)


def metrics_page(exposition: Exposition) -> Page:
    """/metrics."""

    def answer(exchange: Exchange, request: Request) -> None:
        accept = request.headers.get(b"accept", b"").decode("latin-1")
        content_type, body = exposition.text(accept)
        exchange.respond(200, ((b"Content-Type", content_type.encode()),), body)

    return answer
