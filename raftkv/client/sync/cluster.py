# Made by scripts/generate_sync.py from raftkv/client/aio: edit that.
"""The verbs of the cluster: members, status, alarms, leadership."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from raftkv.client.errors import BadSettings, TimedOut, Unavailable
from raftkv.client.results import Alarm, AlarmType, Header, Member, Members, Status
from raftkv.client.sync.connection import Connection
from raftkv.pb import rpc_pb2

CLUSTER: Final = "/etcdserverpb.Cluster/"
MAINTENANCE: Final = "/etcdserverpb.Maintenance/"


class ClusterVerbs:
    """What concerns the servers themselves. Part of `Client`.

    In every method `timeout` is in seconds, None = the client's own, and every error is a
    ClientError.
    """

    _connection: Connection

    def members(self, *, linearizable: bool = True, timeout: float | None = None) -> Members:
        """The members (etcd Cluster.MemberList).

        linearizable: ask a quorum. timeout: seconds, None = the client's. Errors: Unavailable,
        TimedOut.
        """
        answer = self._connection.call(
            CLUSTER + "MemberList",
            rpc_pb2.MemberListRequest(linearizable=linearizable),
            rpc_pb2.MemberListResponse,
            write=False,
            leading=linearizable,
            timeout=timeout,
        )
        return _members(answer)

    def member_add(
        self,
        peer_urls: Sequence[str],
        *,
        is_learner: bool = False,
        timeout: float | None = None,
    ) -> tuple[Member, Members]:
        """Adds a member: (the new one, all) (etcd Cluster.MemberAdd).

        peer_urls: where the others reach it. is_learner: without a vote, until
        `member_promote`. timeout: seconds, None = the client's.
        Errors: MemberExists, NotReady, OutcomeUnknown.
        """
        answer = self._connection.call(
            CLUSTER + "MemberAdd",
            rpc_pb2.MemberAddRequest(peerURLs=peer_urls, isLearner=is_learner),
            rpc_pb2.MemberAddResponse,
            write=True,
            timeout=timeout,
        )
        return Member.read(answer.member), _members(answer)

    def member_remove(self, member_id: int, *, timeout: float | None = None) -> Members:
        """Removes a member: those that are left (etcd Cluster.MemberRemove).

        member_id: as `members` tells it. timeout: seconds, None = the client's.
        Errors: MemberNotFound, NotReady, OutcomeUnknown.
        """
        answer = self._connection.call(
            CLUSTER + "MemberRemove",
            rpc_pb2.MemberRemoveRequest(ID=member_id),
            rpc_pb2.MemberRemoveResponse,
            write=True,
            timeout=timeout,
        )
        return _members(answer)

    def member_update(
        self, member_id: int, peer_urls: Sequence[str], *, timeout: float | None = None
    ) -> Members:
        """Gives a member other peer URLs (etcd Cluster.MemberUpdate).

        member_id, timeout: as `member_remove`. peer_urls: all of them.
        Errors: MemberNotFound, MemberExists, OutcomeUnknown.
        """
        answer = self._connection.call(
            CLUSTER + "MemberUpdate",
            rpc_pb2.MemberUpdateRequest(ID=member_id, peerURLs=peer_urls),
            rpc_pb2.MemberUpdateResponse,
            write=True,
            timeout=timeout,
        )
        return _members(answer)

    def member_promote(self, member_id: int, *, timeout: float | None = None) -> Members:
        """Gives a learner its vote (etcd Cluster.MemberPromote).

        member_id, timeout: as `member_remove`.
        Errors: NotReady while it lags too far behind, MemberNotFound, OutcomeUnknown.
        """
        answer = self._connection.call(
            CLUSTER + "MemberPromote",
            rpc_pb2.MemberPromoteRequest(ID=member_id),
            rpc_pb2.MemberPromoteResponse,
            write=True,
            timeout=timeout,
        )
        return _members(answer)

    def status(self, endpoint: str | None = None, *, timeout: float | None = None) -> Status:
        """One member's view (etcd Maintenance.Status).

        endpoint: one of the client's, as it was written there; None = whoever is asked first.
        timeout: seconds, None = the client's. Errors: BadSettings for another endpoint,
        Unavailable, TimedOut.
        """
        answer = self._connection.call(
            MAINTENANCE + "Status",
            rpc_pb2.StatusRequest(),
            rpc_pb2.StatusResponse,
            write=False,
            leading=False,
            timeout=timeout,
            place=None if endpoint is None else self._place(endpoint),
        )
        return Status.read(answer)

    def alarms(self, *, timeout: float | None = None) -> tuple[Alarm, ...]:
        """The alarms that are on (etcd Maintenance.Alarm).

        timeout: seconds, None = the client's. Errors: Unavailable, TimedOut.
        """
        return self._alarm(rpc_pb2.AlarmRequest(), False, timeout)

    def disarm(
        self, alarm: Alarm | None = None, *, timeout: float | None = None
    ) -> tuple[Alarm, ...]:
        """Turns one alarm off, or all; returns those that were (etcd Maintenance.Alarm).

        timeout: seconds for each alarm, None = the client's. Errors: OutcomeUnknown, ...
        """
        if alarm is not None:
            return self._disarm(alarm, timeout)
        gone: list[Alarm] = []
        for each in self.alarms(timeout=timeout):
            gone += self._disarm(each, timeout)
        return tuple(gone)

    def _disarm(self, alarm: Alarm, timeout: float | None) -> tuple[Alarm, ...]:
        request = rpc_pb2.AlarmRequest(
            action=rpc_pb2.AlarmRequest.DEACTIVATE, memberID=alarm.member_id
        )
        request.alarm = rpc_pb2.AlarmType.Value(alarm.type.name)
        return self._alarm(request, True, timeout)

    def _alarm(
        self, request: rpc_pb2.AlarmRequest, write: bool, timeout: float | None
    ) -> tuple[Alarm, ...]:
        answer = self._connection.call(
            MAINTENANCE + "Alarm", request, rpc_pb2.AlarmResponse, write=write, timeout=timeout
        )
        return tuple(
            Alarm(each.memberID, AlarmType(each.alarm)) for each in answer.alarms if each.alarm
        )

    def move_leader(self, member_id: int, *, timeout: float | None = None) -> Header:
        """Hands leadership to another member (etcd Maintenance.MoveLeader).

        The leader itself is asked, so it must be among the endpoints. member_id: of the next
        leader. timeout: seconds for each member that is asked, None = the client's.
        Errors: NotLeader if it is not, NotReady if the target cannot lead.
        """
        place = self._leading_place(timeout)
        answer = self._connection.call(
            MAINTENANCE + "MoveLeader",
            rpc_pb2.MoveLeaderRequest(targetID=member_id),
            rpc_pb2.MoveLeaderResponse,
            write=True,
            timeout=timeout,
            place=place,
        )
        return Header.read(answer.header)

    def _leading_place(self, timeout: float | None) -> int:
        """Where the leader is asked; the endpoint that is asked first if that is not known."""
        order = self._connection.places.order(0.0)
        for place in order:
            with suppress(Unavailable, TimedOut):
                status = self._connection.call(
                    MAINTENANCE + "Status",
                    rpc_pb2.StatusRequest(),
                    rpc_pb2.StatusResponse,
                    write=False,
                    leading=False,
                    timeout=timeout,
                    place=place,
                )
                if status.leader == status.header.member_id:
                    return place
        return order[0]

    def _place(self, endpoint: str) -> int:
        for place, each in enumerate(self._connection.settings.endpoints):
            if endpoint in (each.text, each.address):
                return place
        raise BadSettings(f"{endpoint} is no endpoint of this client")


def _members(
    answer: rpc_pb2.MemberListResponse
    | rpc_pb2.MemberAddResponse
    | rpc_pb2.MemberRemoveResponse
    | rpc_pb2.MemberUpdateResponse
    | rpc_pb2.MemberPromoteResponse,
) -> Members:
    members = tuple(Member.read(member) for member in answer.members)
    return Members(Header.read(answer.header), members)
