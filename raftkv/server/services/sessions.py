"""raftkv.v1.Sessions: OpenSession, for clients that want to repeat writes (`once`, `kv.sessions`).

A session is a lease that its entry marks as one, with a TTL like LeaseGrant's. Everything else
about it is the Lease service's.
"""

from typing import Any

from google.protobuf.message import DecodeError

from raftkv.errors import (
    LEASE_EXISTS,
    LEASE_TTL_TOO_LARGE,
    SESSION_TTL_NOT_POSITIVE,
    ApiError,
)
from raftkv.kv import commands
from raftkv.kv.leases import grant_request
from raftkv.kv.machine import Result
from raftkv.limits import MAX_LEASE_TTL_SECONDS
from raftkv.pb import v1_pb2
from raftkv.server.clients import ClientProtocol
from raftkv.server.routes import Routes
from raftkv.server.services.context import CANNOT_DECODE, Context
from raftkv.server.services.lease import choose_id, minimum_ttl_seconds
from raftkv.wire.grpc import RequestHead


class SessionsService:
    """raftkv.v1.Sessions of one member."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._minimum = minimum_ttl_seconds(
            context.replica.settings.core.election_timeout_ticks, context.driver.tick_seconds
        )

    def register(self, routes: Routes) -> None:
        """Adds the service's paths."""
        routes.unary[b"/raftkv.v1.Sessions/OpenSession"] = self.open

    def open(self, client: ClientProtocol, stream: int, head: RequestHead, message: bytes) -> None:
        """Sessions.OpenSession."""
        try:
            request = v1_pb2.OpenSessionRequest.FromString(message)
        except DecodeError:
            client.fail(stream, CANNOT_DECODE)
            return
        error = self._context.refusal(head)
        if error is None and request.ttl <= 0:
            error = SESSION_TTL_NOT_POSITIVE
        if error is None and request.ttl > MAX_LEASE_TTL_SECONDS:
            error = LEASE_TTL_TOO_LARGE
        if error is not None:
            client.fail(stream, error)
            return
        self._propose(client, stream, max(request.ttl, self._minimum) * 1000)

    def _propose(self, client: ClientProtocol, stream: int, ttl_ms: int) -> None:
        request = grant_request(choose_id(self._context), ttl_ms)
        ticket = (self._answer, client, stream, ttl_ms)
        error = self._context.propose(commands.SESSION_OPEN, request, ticket)
        if error is not None:
            self._answer(ticket, error)

    def _answer(self, ticket: Any, result: Result | ApiError) -> None:
        client, stream, ttl_ms = ticket[1:]
        if type(result) is Result:
            client.reply(stream, self._context.header(result.revision) + result.body)
        elif result is LEASE_EXISTS:  # nothing was done: choose another id
            self._propose(client, stream, ttl_ms)
            self._context.driver.wake()
        else:
            client.fail(stream, result)
        client.driver.mark_dirty(client)
