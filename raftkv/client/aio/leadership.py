"""Goes to the leader first, where that is cheap to know (`Client(prefer_leader=True)`).

A write through another member costs one more hop. Who leads is asked when the client starts,
when an endpoint had to be left, and when an answer tells of a new term: one Status and one
MemberList, both of them what a member knows by itself. Whatever goes wrong with that only means
that calls go where they would go anyway.
"""

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from raftkv.client.endpoints import place_of
from raftkv.client.errors import ClientError
from raftkv.pb import rpc_pb2

if TYPE_CHECKING:
    from raftkv.client.aio.connection import Connection

ASK_SECONDS: Final = 0.5


class Leadership:
    """What one client knows about who leads. stale: it should be asked again."""

    def __init__(self, connection: "Connection") -> None:
        self.stale: bool = True
        self._connection = connection
        self._term = 0

    def note(self, raft_term: int) -> None:
        """The term that an answer told of."""
        if raft_term > self._term:
            self.stale = self.stale or self._term > 0
            self._term = raft_term

    async def seek(self) -> None:
        """Asks who leads, and lets calls go there first."""
        self.stale = False
        with suppress(ClientError):
            status = await self._connection.call(
                "/etcdserverpb.Maintenance/Status",
                rpc_pb2.StatusRequest(),
                rpc_pb2.StatusResponse,
                write=False,
                leading=False,
                timeout=ASK_SECONDS,
            )
            listed = await self._connection.call(
                "/etcdserverpb.Cluster/MemberList",
                rpc_pb2.MemberListRequest(linearizable=False),
                rpc_pb2.MemberListResponse,
                write=False,
                leading=False,
                timeout=ASK_SECONDS,
            )
            leader = status.leader
            for member in listed.members:
                if leader == member.ID:
                    place = place_of(self._connection.settings.endpoints, member.clientURLs)
                    if place is not None:
                        self._connection.places.prefer(place)
