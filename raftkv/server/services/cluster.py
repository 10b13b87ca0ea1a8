"""etcdserverpb.Cluster: MemberList, MemberAdd, MemberRemove, MemberUpdate, MemberPromote.

Changes are only checked for their form here. Whether one may be made is for the leader to say
(`raftkv.replica.changes`), whichever member was asked.
"""

from collections.abc import Iterable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from google.protobuf.message import DecodeError

from raftkv.errors import MEMBER_BAD_URLS, MEMBER_NOT_FOUND, ApiError
from raftkv.kv import commands
from raftkv.kv.machine import Result
from raftkv.kv.members import Member, encode_member
from raftkv.pb import rpc_pb2
from raftkv.replica.changes import MEMBER_ID
from raftkv.server.clients import ClientProtocol
from raftkv.server.rejoining import new_member_id
from raftkv.server.routes import Routes
from raftkv.server.services.context import CANNOT_DECODE, Context
from raftkv.wire.grpc import RequestHead

_Changed = TypeVar("_Changed", rpc_pb2.MemberAddRequest, rpc_pb2.MemberUpdateRequest)


class ClusterService:
    """The Cluster service of one member."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def register(self, routes: Routes) -> None:
        """Adds the service's paths."""
        prefix = b"/etcdserverpb.Cluster/"
        routes.unary[prefix + b"MemberList"] = self.member_list
        routes.unary[prefix + b"MemberAdd"] = self.member_add
        routes.unary[prefix + b"MemberRemove"] = self.member_remove
        routes.unary[prefix + b"MemberUpdate"] = self.member_update
        routes.unary[prefix + b"MemberPromote"] = self.member_promote

    # --- the list -----------------------------------------------------------

    def member_list(
        self, client: ClientProtocol, stream: int, head: RequestHead, message: bytes
    ) -> None:
        """Cluster.MemberList; linearizable if asked for. Its header has no revision."""
        try:
            request = rpc_pb2.MemberListRequest.FromString(message)
        except DecodeError:
            client.fail(stream, CANNOT_DECODE)
            return
        ticket = (self._serve_list, client, stream)
        error = self._context.read(ticket) if request.linearizable else None
        if error is not None:
            client.fail(stream, error)
        elif not request.linearizable:
            self._serve_list(ticket, None)

    def _serve_list(self, ticket: Any, error: ApiError | None) -> None:
        _, client, stream = ticket
        if error is not None:
            client.fail(stream, error)
        else:
            reply = rpc_pb2.MemberListResponse(members=self._members())
            client.reply(stream, self._context.header(0) + reply.SerializeToString())
        client.driver.mark_dirty(client)

    def _members(self) -> list[rpc_pb2.Member]:
        replica = self._context.replica
        learners = replica.machine.configuration.learners
        return [
            rpc_pb2.Member(
                ID=member.id,
                name=member.name,
                peerURLs=member.peer_urls,
                clientURLs=member.client_urls,
                isLearner=member.id in learners,
            )
            for _, member in sorted(replica.machine.members.items())
        ]

    # --- changes ------------------------------------------------------------

    def member_add(
        self, client: ClientProtocol, stream: int, head: RequestHead, message: bytes
    ) -> None:
        """Cluster.MemberAdd, as a voter or a learner."""
        asked = _with_urls(client, stream, rpc_pb2.MemberAddRequest, message)
        if asked is None:
            return
        request, urls = asked
        number = new_member_id(self._context.cluster, urls)
        command = commands.LEARNER_ADD if request.isLearner else commands.MEMBER_ADD
        record = encode_member(Member(number, peer_urls=urls))
        self._change(client, stream, head, command, record, number)

    def member_remove(
        self, client: ClientProtocol, stream: int, head: RequestHead, message: bytes
    ) -> None:
        """Cluster.MemberRemove."""
        self._by_id(client, stream, head, message, rpc_pb2.MemberRemoveRequest)

    def member_update(
        self, client: ClientProtocol, stream: int, head: RequestHead, message: bytes
    ) -> None:
        """Cluster.MemberUpdate: other peer URLs for a member, which the others dial at once."""
        asked = _with_urls(client, stream, rpc_pb2.MemberUpdateRequest, message)
        if asked is None:
            return
        request, urls = asked
        record = encode_member(Member(request.ID, peer_urls=urls))
        self._change(client, stream, head, commands.MEMBER_UPDATE, record, request.ID)

    def member_promote(
        self, client: ClientProtocol, stream: int, head: RequestHead, message: bytes
    ) -> None:
        """Cluster.MemberPromote: a learner becomes a voter once it has caught up."""
        self._by_id(client, stream, head, message, rpc_pb2.MemberPromoteRequest)

    def _by_id(
        self, client: ClientProtocol, stream: int, head: RequestHead, message: bytes, kind: Any
    ) -> None:
        try:
            number = kind.FromString(message).ID
        except DecodeError:
            client.fail(stream, CANNOT_DECODE)
            return
        if number == 0:
            client.fail(stream, MEMBER_NOT_FOUND)
            return
        promote = kind is rpc_pb2.MemberPromoteRequest
        command = commands.MEMBER_PROMOTE if promote else commands.MEMBER_REMOVE
        self._change(client, stream, head, command, MEMBER_ID.pack(number), number)

    def _change(
        self,
        client: ClientProtocol,
        stream: int,
        head: RequestHead,
        command: int,
        request: bytes,
        number: int,
    ) -> None:
        error = self._context.refusal(head)
        if error is not None:
            client.fail(stream, error)
            return
        ticket = (self._changed, client, stream, command, number)
        self._context.replica.change(command, request, ticket)
        self._context.driver.wake()

    def _changed(self, ticket: Any, result: Result | ApiError) -> None:
        _, client, stream, command, number = ticket
        if isinstance(result, ApiError):
            client.fail(stream, result)
        else:
            members = self._members()
            if command in (commands.MEMBER_ADD, commands.LEARNER_ADD):
                added = next((member for member in members if number == member.ID), None)
                reply: Any = rpc_pb2.MemberAddResponse(member=added, members=members)
            elif command == commands.MEMBER_UPDATE:
                reply = rpc_pb2.MemberUpdateResponse(members=members)
            elif command == commands.MEMBER_PROMOTE:
                reply = rpc_pb2.MemberPromoteResponse(members=members)
            else:
                reply = rpc_pb2.MemberRemoveResponse(members=members)
            client.reply(stream, self._context.header(0) + reply.SerializeToString())
        client.driver.mark_dirty(client)


def _with_urls(
    client: ClientProtocol, stream: int, kind: type[_Changed], message: bytes
) -> tuple[_Changed, tuple[str, ...]] | None:
    """A request with peer URLs, and these; None: they made no sense, and the client was told."""
    try:
        request = kind.FromString(message)
    except DecodeError:
        client.fail(stream, CANNOT_DECODE)
        return None
    urls = _peer_urls(request.peerURLs)
    if not urls:
        client.fail(stream, MEMBER_BAD_URLS)
        return None
    return request, urls


def _peer_urls(urls: Iterable[str]) -> tuple[str, ...]:
    """The URLs in order, as etcd keeps them; () if one cannot be a member's, or there is none."""
    given = tuple(sorted(urls))
    return given if all(_is_peer_url(url) for url in given) else ()


def _is_peer_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    return (
        parts.scheme in ("http", "https")
        and bool(parts.hostname)
        and port is not None
        and parts.path in ("", "/")
    )
