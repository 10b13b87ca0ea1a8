"""The member and its part in Raft: `etcd_server_*`."""

from typing import Final

import raftkv
from raftkv.raft.types import NOBODY
from raftkv.server.metrics.source import Source
from raftkv.server.metrics.text import COUNTER, GAUGE, Family, labels

_MINOR: Final = ".".join(raftkv.ETCD_VERSION.split(".")[:2])


def _id(source: Source) -> list[tuple[str, int]]:
    return [(labels(server_id=f"{source.context.member:x}"), 1)]


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
        "Bytes that the store may have; 0: any number.",
        lambda source: source.context.quota_backend_bytes,
    ),
    Family(
        "etcd_server_snapshot_apply_in_progress_total",
        GAUGE,
        "1 while a whole state from another member is being taken in, else 0.",
        lambda source: source.peers.intakes.under_way,
    ),
)
