"""Surveys made by hand: a healthy cluster of three on machines of their own, to be spoilt."""

from collections.abc import Iterable
from dataclasses import replace

from raftkv.cli.surveying import Answer, MemberView, Survey
from raftkv.pb import inspect_pb2, rpc_pb2

CLUSTER = 0xC
TERM = 7


def reply_of(member: int, leader: int = 1, members: Iterable[int] = (1, 2, 3)) -> Answer:
    """What a healthy member says."""
    settings = inspect_pb2.Settings(
        heartbeat_interval_ms=100,
        election_timeout_ms=1000,
        snapshot_count=10_000,
        max_request_bytes=1 << 20,
        auto_compaction_seconds=3600,
        listen_client_urls=[f"https://10.0.0.{member}:2379"],
        listen_peer_urls=[f"https://10.0.0.{member}:2380"],
        advertise_client_urls=[f"https://10.0.0.{member}:2379"],
        client_certificates_required=True,
        peer_certificates_required=True,
    )
    peers = [
        inspect_pb2.Peer(id=one, name=f"n{one}", connected=True, round_trip_us=900, voter=True)
        for one in members
        if one != member
    ]
    reply = inspect_pb2.InspectResponse(
        header=rpc_pb2.ResponseHeader(
            cluster_id=CLUSTER, member_id=member, revision=500, raft_term=TERM
        ),
        name=f"n{member}",
        version="1.2.3",
        role="leader" if member == leader else "follower",
        leader=leader,
        last_index=900,
        commit_index=900,
        applied_index=900,
        db_bytes=1 << 20,
        quota_bytes=1 << 31,
        peers=peers,
        log_sync=inspect_pb2.Latency(count=500, p50_us=900, p99_us=4_000, max_us=9_000),
        counters={"puts_total": 1_000, "ranges_total": 50, "watchers": 2, "leases": 3},
        settings=settings,
        uptime_ms=3_600_000,
        disk_free_bytes=50 << 30,
        disk_total_bytes=100 << 30,
    )
    return Answer(f"https://10.0.0.{member}:2379", reply, True, 0.001 * member, 0.001)


def view_of(member: int, answer: Answer | None, problem: str = "") -> MemberView:
    """A member of the list."""
    return MemberView(
        member,
        f"n{member}",
        (f"https://10.0.0.{member}:2380",),
        (f"https://10.0.0.{member}:2379",),
        False,
        answer,
        problem,
    )


def healthy(members: int = 3, at_seconds: float = 100.0) -> Survey:
    """Nothing is wrong with it (if the number of members is odd)."""
    ids = range(1, members + 1)
    views = tuple(view_of(one, reply_of(one, members=ids)) for one in ids)
    return Survey(at_seconds, views, {}, frozenset({CLUSTER}))


def reply_in(survey: Survey, position: int) -> inspect_pb2.InspectResponse:
    """The answer of one member, to be changed in place."""
    answer = survey.members[position].answer
    assert answer is not None
    return answer.reply


def silent(survey: Survey, *positions: int) -> Survey:
    """The same, but these members do not answer."""
    views = [
        view_of(one.id, None, "no answer") if position in positions else one
        for position, one in enumerate(survey.members)
    ]
    return replace(survey, members=tuple(views))


def changed(survey: Survey, position: int, **fields: object) -> Survey:
    """The same with other fields of one member's view."""
    views = list(survey.members)
    views[position] = replace(views[position], **fields)  # type: ignore[arg-type]
    return replace(survey, members=tuple(views))
