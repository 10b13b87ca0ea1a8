"""etcdserverpb.Lease: LeaseGrant, LeaseRevoke, LeaseTimeToLive, LeaseLeases (and `keepalive`).

Grants and revokes are writes like any other. What is left of a lease only the leader's clock knows:
`Replica.time_to_live` asks it from any member.

Two answers are fresher than etcd's: the keys of a lease and the list of leases come behind a read
index, so that whoever has seen a lease or a put acknowledged anywhere finds it here. The list is
ordered by the ends of leases where the clock is, on the leader. Elsewhere, where etcd has no order
at all, it is by their grants, so alike on all other members; a long one is made in slices, like
other long reads. A lease that a put with a TTL made (`extras`) is one like any other in all
of these: its keys name it, so it can be looked at, renewed and revoked.
"""

import random
from collections.abc import Generator, Iterator
from functools import partial
from heapq import merge
from typing import Any, Final

from google.protobuf.message import DecodeError

from raftkv.errors import LEASE_EXISTS, LEASE_TTL_TOO_LARGE, ApiError
from raftkv.kv import commands
from raftkv.kv.encoding import bytes_field, varint
from raftkv.kv.leases import grant_request, revoke_request
from raftkv.kv.machine import Result
from raftkv.limits import MAX_LEASE_TTL_SECONDS
from raftkv.pb import rpc_pb2
from raftkv.replica.effects import LeaseAnswer
from raftkv.server.clients import ClientProtocol
from raftkv.server.routes import Routes
from raftkv.server.services.context import CANNOT_DECODE, Context
from raftkv.server.services.keepalive import KeepAlives
from raftkv.server.services.once import propose_once
from raftkv.server.slices import LongRead
from raftkv.wire.grpc import RequestHead

SLICE_LEASES: Final = 1000  # of a list: about 2 ms
_KEY_TAG: Final = 0x2A  # LeaseTimeToLiveResponse.keys
_STATUS_TAG: Final = 0x12  # LeaseLeasesResponse.leases

_choose = random.SystemRandom()


def minimum_ttl_seconds(election_timeout_ticks: int, tick_seconds: float) -> int:
    """The shortest TTL that a lease may have: one and a half election timeouts, rounded up.

    Source: etcd server/etcdserver/server.go, minTTL: whole ticks, then whole seconds.
    """
    milliseconds = 3 * election_timeout_ticks // 2 * round(tick_seconds * 1000)
    return -(-milliseconds // 1000)


def choose_id(context: Context) -> int:
    """An id for a lease whose client left the choice to the server: positive, 63 bits, not in use
    as far as this member knows. If it is in use after all the grant says so: choose again.
    """
    leases = context.replica.machine.leases
    while True:
        lease = _choose.getrandbits(63)
        if lease and lease not in leases:
            return lease


class LeaseService:
    """The Lease service of one member."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._minimum = minimum_ttl_seconds(
            context.replica.settings.core.election_timeout_ticks, context.driver.tick_seconds
        )
        self._keepalives = KeepAlives(context)

    def register(self, routes: Routes) -> None:
        """Adds the service's paths."""
        routes.unary[b"/etcdserverpb.Lease/LeaseGrant"] = self.grant
        routes.unary[b"/etcdserverpb.Lease/LeaseRevoke"] = self.revoke
        routes.unary[b"/etcdserverpb.Lease/LeaseTimeToLive"] = self.time_to_live
        routes.unary[b"/etcdserverpb.Lease/LeaseLeases"] = self.leases
        routes.streams[b"/etcdserverpb.Lease/LeaseKeepAlive"] = self._keepalives.open
        routes.session_paths.update(
            (b"/etcdserverpb.Lease/LeaseGrant", b"/etcdserverpb.Lease/LeaseRevoke")
        )

    # --- writes -------------------------------------------------------------

    def grant(self, client: ClientProtocol, stream: int, head: RequestHead, message: bytes) -> None:
        """Lease.LeaseGrant."""
        try:
            request = rpc_pb2.LeaseGrantRequest.FromString(message)
        except DecodeError:
            client.fail(stream, CANNOT_DECODE)
            return
        error = self._context.refusal(head)
        if error is None and request.TTL > MAX_LEASE_TTL_SECONDS:
            error = LEASE_TTL_TOO_LARGE
        if error is not None:
            client.fail(stream, error)
            return
        ttl_ms = max(request.TTL, self._minimum) * 1000
        if request.ID:
            granted = grant_request(request.ID, ttl_ms)
            ticket = (self._answer, client, stream)
            error = propose_once(self._context, head, commands.LEASE_GRANT, granted, ticket)
            if error is not None:
                client.fail(stream, error)
        else:
            self._draw((self._drawn, client, stream, ttl_ms, head))

    def _draw(self, ticket: tuple[Any, ...]) -> None:
        """Proposes a grant whose id is chosen here."""
        granted = grant_request(choose_id(self._context), ticket[3])
        command = commands.LEASE_GRANT_DRAWN
        error = propose_once(self._context, ticket[4], command, granted, ticket)
        if error is not None:
            self._answer(ticket, error)

    def _drawn(self, ticket: Any, result: Result | ApiError) -> None:
        """The answer to that."""
        if result is LEASE_EXISTS:  # nothing was done: choose another id
            self._draw(ticket)
            self._context.driver.wake()
        else:
            self._answer(ticket, result)

    def revoke(
        self, client: ClientProtocol, stream: int, head: RequestHead, message: bytes
    ) -> None:
        """Lease.LeaseRevoke."""
        try:
            request = rpc_pb2.LeaseRevokeRequest.FromString(message)
        except DecodeError:
            client.fail(stream, CANNOT_DECODE)
            return
        error = self._context.refusal(head)
        if error is None:
            ticket = (self._answer, client, stream)
            revoked = revoke_request(request.ID)
            error = propose_once(self._context, head, commands.LEASE_REVOKE, revoked, ticket)
        if error is not None:
            client.fail(stream, error)

    def _answer(self, ticket: Any, result: Result | ApiError) -> None:
        client = ticket[1]
        if type(result) is Result:
            client.reply(ticket[2], self._context.header(result[0]) + result[1])
        else:
            client.fail(ticket[2], result)
        if not client.dirty:
            client.driver.mark_dirty(client)

    # --- reads --------------------------------------------------------------

    def time_to_live(
        self, client: ClientProtocol, stream: int, head: RequestHead, message: bytes
    ) -> None:
        """Lease.LeaseTimeToLive: a linearizable read of this member's state, and the clock's word.

        So the answer is as new as the question, with or without the keys.
        """
        context = self._context
        try:
            request = rpc_pb2.LeaseTimeToLiveRequest.FromString(message)
        except DecodeError:
            client.fail(stream, CANNOT_DECODE)
            return
        error = context.refusal(head)
        if error is None:
            error = context.read((self._confirmed, client, stream, request.ID, request.keys))
        if error is not None:
            client.fail(stream, error)

    def _confirmed(self, ticket: Any, error: ApiError | None) -> None:
        """This member's state is as new as the question: now the clock's part."""
        client, stream, lease, keys = ticket[1:]
        if error is None:
            error = self._context.replica.time_to_live(lease, (self._left, client, stream, keys))
            self._context.driver.wake()
        if error is not None:
            self._answer(ticket, self._keepalives.error(error))

    def _left(self, ticket: Any, result: LeaseAnswer | ApiError) -> None:
        """What the clock says. ticket[3]: with the keys."""
        if type(result) is not LeaseAnswer:
            assert isinstance(result, ApiError)
            self._answer(ticket, self._keepalives.error(result))
            return
        machine = self._context.replica.machine
        parts = [
            field + varint(value)
            for field, value in zip((b"\x10", b"\x18", b"\x20"), result, strict=True)
            if value
        ]
        if ticket[3] and result.ttl_seconds >= 0:
            parts += [bytes_field(_KEY_TAG, key) for key in machine.lease_keys(result.lease)]
        self._answer(ticket, Result(machine.revision, b"".join(parts)))

    def leases(
        self, client: ClientProtocol, stream: int, head: RequestHead, message: bytes
    ) -> None:
        """Lease.LeaseLeases."""
        error = self._context.refusal(head)
        if error is None:
            error = self._context.read((self._list, client, stream))
        if error is not None:
            client.fail(stream, error)

    def _list(self, ticket: Any, error: ApiError | None) -> None:
        context = self._context
        if error is None and len(context.replica.machine.leases) >= SLICE_LEASES:
            done = partial(self._listed, ticket)
            read = LongRead(ticket[1], ticket[2], self._list_steps, done)
            error = context.driver.slices.add(read)
            if error is None:
                return
        if error is not None:
            self._answer(ticket, error)
            return
        try:
            next(self._list_steps())
        except StopIteration as end:  # so short a list takes one step
            self._listed(ticket, end.value)

    def _listed(self, ticket: Any, body: bytes | ApiError) -> None:
        """A list, or why there is none."""
        revision = self._context.replica.machine.revision
        self._answer(ticket, Result(revision, body) if isinstance(body, bytes) else body)

    def _list_steps(self) -> Generator[None, None, bytes]:
        """The body of a list of what there is now; leases that end meanwhile are left out."""
        keepalives = self._context.replica.keepalives
        leases = self._context.replica.machine.leases
        names = list(leases.by_id)
        slices: list[list[tuple[float, int, int]]] = []
        for first in range(0, len(names), SLICE_LEASES):
            if first:
                yield
            some = [
                (keepalives.expiry(lease), first + place, lease.id)
                for place, name in enumerate(names[first : first + SLICE_LEASES])
                if (lease := leases.get(name)) is not None
            ]
            some.sort(reverse=True)
            slices.append(some)
        parts: list[bytes] = []
        fields: list[bytes] = []
        for _, _, lease_id in merge(*map(_taken_from, slices)):
            fields.append(bytes_field(_STATUS_TAG, b"\x08" + varint(lease_id)))
            if len(fields) == SLICE_LEASES:
                parts.append(b"".join(fields))
                fields = []
                yield
        return b"".join([*parts, *fields])


def _taken_from(some: list[tuple[float, int, int]]) -> Iterator[tuple[float, int, int]]:
    """The items from the last to the first, given back one by one: to give back all of a long
    list at once would take long.
    """
    while some:
        yield some.pop()
