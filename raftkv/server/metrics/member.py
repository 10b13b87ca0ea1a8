"""The member and its part in Raft: `etcd_server_*`."""

from typing import Final

import raftkv
from raftkv.raft.types import NOBODY
from raftkv.server.metrics.source import Source
from raftkv.server.metrics.text import COUNTER, GAUGE, Family, labels

_PROMOTE: Final = b"/etcdserverpb.Cluster/MemberPromote"
_UNLIMITED: Final = 2**63 - 1
_MINOR: Final = ".".join(raftkv.ETCD_VERSION.split(".")[:2])


def _id(source: Source) -> list[tuple[str, int]]:
    return [(labels(server_id=f"{source.context.member:x}"), 1)]


def _promotions(source: Source) -> tuple[int, int]:
    """(came about, refused)."""
    tally = source.clients.tallies[_PROMOTE]
    return tally.answered + tally.ended[0], sum(tally.ended[1:])


FAMILIES: Final[tuple[Family[Source], ...]] = (
    Family(
        "etcd_server_has_leader",
        GAUGE,
        "1 if this member knows a leader, else 0.",
        lambda source: source.replica.leader != NOBODY,
    ),
    Family(
        "etcd_server_is_leader",
        GAUGE,
        "1 if this member leads, else 0.",
        lambda source: source.replica.is_leader,
    ),
    Family(
        "etcd_server_is_learner",
        GAUGE,
        "1 if this member has no vote, else 0.",
        lambda source: source.replica.is_learner,
    ),
    Family(
        "etcd_server_leader_changes_seen_total",
        COUNTER,
        "How often this member has learned of another leader.",
        lambda source: source.leader_changes,
    ),
    Family("etcd_server_id", GAUGE, "The member's id in hexadecimal, as a label.", _id),
    Family(
        "etcd_server_version",
        GAUGE,
        "The etcd release whose behaviour is offered, as a label.",
        lambda _: [(labels(server_version=raftkv.ETCD_VERSION), 1)],
    ),
    Family(
        "etcd_cluster_version",
        GAUGE,
        "The etcd version that the whole cluster speaks, as a label.",
        lambda _: [(labels(cluster_version=_MINOR), 1)],
    ),
    Family(
        "etcd_server_proposals_committed_total",
        GAUGE,
        "Index of the newest entry that is known to be committed.",
        lambda source: source.replica.core.commit,
    ),
    Family(
        "etcd_server_proposals_applied_total",
        GAUGE,
        "Index of the newest entry that is applied here.",
        lambda source: source.machine.applied_index,
    ),
    Family(
        "etcd_server_proposals_pending",
        GAUGE,
        "Writes of this member's clients that have no answer yet.",
        lambda source: len(source.replica.writes),
    ),
    Family(
        "etcd_server_quota_backend_bytes",
        GAUGE,
        "Bytes that the store may have; 2^63-1: any number, so that no share of it is large.",
        lambda source: source.context.quota_backend_bytes or _UNLIMITED,
    ),
    Family(
        "etcd_server_snapshot_apply_in_progress_total",
        GAUGE,
        "1 while a whole state from another member is being taken in, else 0.",
        lambda source: source.peers.intakes.under_way,
    ),
    Family(
        "etcd_server_proposals_failed_total",
        COUNTER,
        "Writes of this member's clients that ended without an answer.",
        lambda source: source.replica.writes.failed,
    ),
    Family(
        "etcd_server_read_indexes_failed_total",
        COUNTER,
        "Linearizable reads that ended without an answer.",
        lambda source: source.replica.reading.failed,
    ),
    Family(
        "etcd_server_slow_read_indexes_total",
        COUNTER,
        "How often linearizable reads waited for the leader's word for more than 0.5 s.",
        lambda source: source.driver.timings.slow_reads,
    ),
    Family(
        "etcd_server_slow_apply_total",
        COUNTER,
        "How often applying took longer than --warning-apply-duration.",
        lambda source: source.driver.timings.slow_applies,
    ),
    Family(
        "etcd_server_heartbeat_send_failures_total",
        COUNTER,
        "Heartbeats that this member, leading, has sent a whole interval late.",
        lambda source: source.driver.timings.late_beats,
    ),
    Family(
        "etcd_server_learner_promote_successes",
        COUNTER,
        "Promotions of learners that this member was asked for and that came about.",
        lambda source: _promotions(source)[0],
    ),
    Family(
        "etcd_server_learner_promote_failures",
        COUNTER,
        "Promotions of learners that this member was asked for and that were refused.",
        lambda source: _promotions(source)[1],
    ),
    Family(
        "etcd_server_health_success",
        COUNTER,
        "How often /health has said true.",
        lambda source: source.context.health_successes,
    ),
    Family(
        "etcd_server_health_failures",
        COUNTER,
        "How often /health has said false.",
        lambda source: source.context.health_failures,
    ),
)
