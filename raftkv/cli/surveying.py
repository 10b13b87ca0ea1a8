"""What every member says of itself, asked of all at once.

Members are found through whoever answers (Cluster.MemberList, from its own state, so that it
needs no leader), and each is asked at its client URLs and at the endpoints that were named. A
member that says nothing within the time is a member all the same: it is in the survey with the
reason. Answers come from raftkv.v1.Inspect; a server without it (etcd) is asked for
Maintenance.Status, which has less.

Clocks: a member's wall clock was read some time between the question and its answer here, so its
offset from this machine's clock is known up to half of the time that the call took.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, cast

from raftkv.cli.connection import CallFailed, Connection, short_reason
from raftkv.pb import inspect_pb2, rpc_pb2

if TYPE_CHECKING:
    from google.protobuf.message import Message

INSPECT: Final = "/raftkv.v1.Inspect/Inspect"
MEMBER_LIST: Final = "Cluster/MemberList"
STATUS: Final = "Maintenance/Status"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a member said.

    complete: it came from Inspect; else fields that Status has not are empty.
    clock_offset_seconds: its wall clock minus this machine's, give or take `clock_error_seconds`.
    """

    endpoint: str
    reply: inspect_pb2.InspectResponse
    complete: bool
    clock_offset_seconds: float = 0.0
    clock_error_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class MemberView:
    """One member. answer is None: it did not answer, for this `problem`."""

    id: int
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    is_learner: bool
    answer: Answer | None
    problem: str = ""

    @property
    def label(self) -> str:
        """Its name, or its id before it has one."""
        return self.name or f"{self.id:x}"


@dataclass(frozen=True, slots=True)
class Survey:
    """One look at the whole cluster.

    at_seconds: on the monotonic clock. unreachable: reasons by endpoint, of endpoints that no
    member is known by. clusters: ids of the clusters that answered.
    """

    at_seconds: float
    members: tuple[MemberView, ...]
    unreachable: Mapping[str, str]
    clusters: frozenset[int]

    @property
    def answers(self) -> list[Answer]:
        """Of the members that answered."""
        return [one.answer for one in self.members if one.answer is not None]


@dataclass(slots=True)
class _Round:
    """Answers of one round, by endpoint."""

    replies: dict[str, Answer] = field(default_factory=dict)
    lists: dict[str, rpc_pb2.MemberListResponse] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    without_inspect: list[str] = field(default_factory=list)


class Surveyor:
    """Takes surveys over one connection; remembers where members can be asked.

    timeout_seconds: how long one survey waits for an answer. follows: members that the member
    list names are asked too; else only the connection's endpoints are.
    """

    def __init__(
        self, connection: Connection, timeout_seconds: float, *, follows: bool = True
    ) -> None:
        self._connection = connection
        self._timeout_seconds = timeout_seconds
        self._follows = follows
        self._endpoints = {_address(one): one for one in connection.target.endpoints}
        self._without_inspect: set[str] = set()
        self._members: list[rpc_pb2.Member] = []

    def take(self) -> Survey:
        """Asks everyone. Errors: CtlError for a login or an endpoint that makes no sense."""
        done = _Round()
        asked: set[str] = set()
        while True:
            new = {at: name for at, name in self._endpoints.items() if at not in asked}
            if not new:
                break
            asked |= set(new)
            self._ask(new.values(), done)
            self._note_members(done)
        return self._survey(done)

    def _ask(self, endpoints: Iterable[str], done: _Round) -> None:
        named = list(endpoints)
        calls: list[tuple[str, str, Message, type[Any]]] = []
        for name in named:
            listing = rpc_pb2.MemberListRequest()  # not linearizable: also without a leader
            calls.append((name, MEMBER_LIST, listing, rpc_pb2.MemberListResponse))
            calls.append((name, *self._question(name)))
        self._gather(calls, done)
        late, done.without_inspect = done.without_inspect, []
        self._without_inspect.update(late)
        if late:
            self._gather([(name, *self._question(name)) for name in late], done)

    def _question(self, endpoint: str) -> tuple[str, "Message", type[Any]]:
        if endpoint in self._without_inspect:
            return STATUS, rpc_pb2.StatusRequest(), rpc_pb2.StatusResponse
        return INSPECT, inspect_pb2.InspectRequest(), inspect_pb2.InspectResponse

    def _gather(self, calls: list[tuple[str, str, "Message", type[Any]]], done: _Round) -> None:
        ended: SimpleQueue[tuple[str, Any, int, int]] = SimpleQueue()
        begun = 0
        for endpoint, method, request, reply in calls:
            began_ns = time.time_ns()
            try:
                call = self._connection.begin(
                    endpoint, method, request, reply, self._timeout_seconds
                )
            except CallFailed as error:  # no certificate to pin, with --insecure-skip-tls-verify
                done.reasons[endpoint] = error.text
                continue
            begun += 1
            call.add_done_callback(
                lambda call, endpoint=endpoint, began_ns=began_ns: ended.put(
                    (endpoint, call, began_ns, time.time_ns())
                )
            )
        for _ in range(begun):
            try:  # a second more than the calls' own deadline
                endpoint, call, began_ns, ended_ns = ended.get(timeout=self._timeout_seconds + 1)
            except Empty:
                return
            _file(done, endpoint, call, began_ns, ended_ns)

    def _note_members(self, done: _Round) -> None:
        """Keeps the newest member list and where its members can be asked."""
        if not done.lists:
            return
        newest = max(
            done.lists.values(), key=lambda one: (one.header.raft_term, one.header.revision)
        )
        self._members = list(newest.members)
        for member in self._members if self._follows else ():
            for url in member.clientURLs:
                self._endpoints.setdefault(_address(url), url)

    def _survey(self, done: _Round) -> Survey:
        by_member: dict[int, Answer] = {}
        for answer in done.replies.values():
            by_member.setdefault(answer.reply.header.member_id, answer)
        members = [_view(member, by_member, done.reasons) for member in self._members]
        listed = {member.id for member in members}
        members += [  # answered, but the list came from someone who does not know it
            _stranger(answer) for member, answer in by_member.items() if member not in listed
        ]
        known = {_address(url) for member in members for url in member.client_urls}
        return Survey(
            at_seconds=time.monotonic(),
            members=tuple(sorted(members, key=lambda one: (one.name, one.id))),
            unreachable={
                endpoint: reason
                for endpoint, reason in done.reasons.items()
                if _address(endpoint) not in known and endpoint not in done.replies
            },
            clusters=frozenset(one.reply.header.cluster_id for one in done.replies.values()),
        )


def _address(endpoint: str) -> str:
    return endpoint.rpartition("://")[2].rstrip("/")


def _file(done: _Round, endpoint: str, call: Any, began_ns: int, ended_ns: int) -> None:
    import grpc

    try:
        reply = call.result()
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNIMPLEMENTED:
            done.without_inspect.append(endpoint)
        else:
            done.reasons[endpoint] = short_reason(cast(Any, error))
        return
    if isinstance(reply, rpc_pb2.MemberListResponse):
        done.lists[endpoint] = reply
    elif isinstance(reply, rpc_pb2.StatusResponse):
        done.replies[endpoint] = Answer(endpoint, _from_status(reply), complete=False)
    else:
        middle_ns = (began_ns + ended_ns) // 2
        done.replies[endpoint] = Answer(
            endpoint,
            reply,
            True,
            (reply.wall_clock_ns - middle_ns) / 1e9,
            (ended_ns - began_ns) / 2e9,
        )


def _from_status(status: rpc_pb2.StatusResponse) -> inspect_pb2.InspectResponse:
    leads = status.leader == status.header.member_id
    return inspect_pb2.InspectResponse(
        header=status.header,
        version=status.version,
        role="learner" if status.isLearner else "leader" if leads else "follower",
        leader=status.leader,
        last_index=status.raftIndex,
        commit_index=status.raftIndex,
        applied_index=status.raftAppliedIndex,
        db_bytes=status.dbSize,
        db_in_use_bytes=status.dbSizeInUse,
    )


def _view(
    member: rpc_pb2.Member, by_member: Mapping[int, Answer], reasons: Mapping[str, str]
) -> MemberView:
    answer = by_member.get(member.ID)
    by_address = {_address(endpoint): reason for endpoint, reason in reasons.items()}
    why = [by_address[_address(url)] for url in member.clientURLs if _address(url) in by_address]
    problem = ""
    if answer is None:
        problem = why[0] if why else "no answer" if member.clientURLs else "never started"
    return MemberView(
        member.ID,
        member.name,
        tuple(member.peerURLs),
        tuple(member.clientURLs),
        member.isLearner,
        answer,
        problem,
    )


def _stranger(answer: Answer) -> MemberView:
    reply = answer.reply
    return MemberView(
        reply.header.member_id,
        reply.name,
        (),
        (answer.endpoint,),
        reply.role == "learner",
        answer,
    )
