"""raftkv.v1.KV: PutWithTTL, a key that goes away by itself.

One entry of the log makes the lease and the key (`kv.leases`, PUT_WITH_TTL), so a client that dies
between two calls leaves neither a lease without a key nor a key without a lease. The TTL is in
milliseconds and may be shorter than etcd's minimum: who needs renewals of such a lease in time
grants one by the Lease service instead. etcd's API rounds a TTL up to whole seconds.
"""

from typing import Any

from google.protobuf.message import DecodeError

from raftkv.errors import (
    EMPTY_KEY,
    LEASE_EXISTS,
    LEASE_TTL_TOO_LARGE,
    REQUEST_TOO_LARGE,
    TTL_NOT_POSITIVE,
    ApiError,
)
from raftkv.kv import commands
from raftkv.kv.encoding import bytes_field
from raftkv.kv.leases import put_with_ttl_request
from raftkv.kv.machine import Result
from raftkv.limits import MAX_LEASE_TTL_SECONDS
from raftkv.pb import v1_pb2
from raftkv.server.clients import ClientProtocol
from raftkv.server.routes import Routes
from raftkv.server.services.context import CANNOT_DECODE, ENVELOPE_BYTES, Context
from raftkv.server.services.lease import choose_id
from raftkv.server.services.once import propose_once
from raftkv.wire.grpc import RequestHead

_PREV_KV = b"\x20\x01"  # PutRequest.prev_kv = true


class ExtrasService:
    """raftkv.v1.KV of one member."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def register(self, routes: Routes) -> None:
        """Adds the service's paths."""
        routes.unary[b"/raftkv.v1.KV/PutWithTTL"] = self.put_with_ttl
        routes.session_paths.add(b"/raftkv.v1.KV/PutWithTTL")

    def put_with_ttl(
        self, client: ClientProtocol, stream: int, head: RequestHead, message: bytes
    ) -> None:
        """KV.PutWithTTL."""
        context = self._context
        try:
            request = v1_pb2.PutWithTTLRequest.FromString(message)
        except DecodeError:
            client.fail(stream, CANNOT_DECODE)
            return
        error = context.refusal(head) or _validate(request)
        if error is None and len(message) + ENVELOPE_BYTES > context.max_request_bytes:
            error = REQUEST_TOO_LARGE
        if error is not None:
            client.fail(stream, error)
            return
        put = bytes_field(0x0A, request.key) + bytes_field(0x12, request.value)
        if request.prev_kv:
            put += _PREV_KV
        self._propose(client, stream, head, request.ttl_ms, put)

    def _propose(
        self, client: ClientProtocol, stream: int, head: RequestHead, ttl_ms: int, put: bytes
    ) -> None:
        whole = put_with_ttl_request(choose_id(self._context), ttl_ms, put)
        ticket = (self._answer, client, stream, head, ttl_ms, put)
        error = propose_once(self._context, head, commands.PUT_WITH_TTL, whole, ticket)
        if error is not None:
            self._answer(ticket, error)

    def _answer(self, ticket: Any, result: Result | ApiError) -> None:
        client, stream = ticket[1:3]
        if type(result) is Result:
            client.reply(stream, self._context.header(result.revision) + result.body)
        elif result is LEASE_EXISTS:  # nothing was done: choose another id
            self._propose(client, stream, *ticket[3:])
            self._context.driver.wake()
        else:
            client.fail(stream, result)
        client.driver.mark_dirty(client)


def _validate(request: v1_pb2.PutWithTTLRequest) -> ApiError | None:
    """The form of a request; None if it is well."""
    if not request.key:
        return EMPTY_KEY
    if request.ttl_ms <= 0:
        return TTL_NOT_POSITIVE
    if request.ttl_ms > MAX_LEASE_TTL_SECONDS * 1000:
        return LEASE_TTL_TOO_LARGE
    return None
