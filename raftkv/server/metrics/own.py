"""Our own: `raftkv_*`, for what etcd has no name."""

from collections.abc import Callable, Iterator
from typing import Final

import raftkv
from raftkv.kv.alarms import CORRUPT, NOSPACE
from raftkv.server import counters
from raftkv.server.metrics.source import Source
from raftkv.server.metrics.text import (
    COUNTER,
    GAUGE,
    HISTOGRAM,
    Family,
    head,
    labels,
    sample,
)

_ALARMS: Final = {NOSPACE: "NOSPACE", CORRUPT: "CORRUPT"}


def _alarms(source: Source) -> list[tuple[str, int]]:
    """Those that are raised, and 0 for each kind that is not."""
    raised = source.machine.alarms.raised()
    kinds = {kind for kind, _ in raised}
    quiet = [
        (labels(alarm=name, member=""), 0) for kind, name in _ALARMS.items() if kind not in kinds
    ]
    return quiet + [
        (labels(alarm=_ALARMS.get(kind, str(kind)), member=f"{member:x}"), 1)
        for kind, member in raised
    ]


FAMILIES: Final[tuple[Family[Source], ...]] = (
    Family(
        "raftkv_build_info",
        GAUGE,
        "The version of raftkv, as a label.",
        lambda _: [(labels(version=raftkv.__version__), 1)],
    ),
    Family(
        "raftkv_raft_term",
        GAUGE,
        "The term that this member is in.",
        lambda source: source.replica.core.term,
    ),
    Family(
        "raftkv_apply_lag_entries",
        GAUGE,
        "Entries that are committed and not applied here.",
        lambda source: source.replica.core.commit - source.machine.applied_index,
    ),
    Family(
        "raftkv_log_entries",
        GAUGE,
        "Entries that the Raft log holds.",
        lambda source: source.replica.core.last_index - source.replica.core.log.first_index + 1,
    ),
    Family(
        "raftkv_writes_throttled",
        GAUGE,
        "1 while writes are taken in slowly, until the state's tables are merged, else 0.",
        lambda source: source.replica.writes.throttle.stalling,
    ),
    Family(
        "raftkv_client_connections",
        GAUGE,
        "Connections of clients.",
        lambda source: len(source.clients),
    ),
    Family(
        "raftkv_client_calls",
        GAUGE,
        "Calls and requests of clients that have no end yet.",
        lambda source: source.clients.open_calls,
    ),
    Family(
        "raftkv_alarm",
        GAUGE,
        "1 for every alarm that is raised in the cluster, 0 for kinds of which there is none.",
        _alarms,
    ),
    Family(
        "raftkv_space_used_bytes",
        GAUGE,
        "What counts for the quota, in bytes.",
        lambda source: source.machine.space.used_bytes,
    ),
    Family(
        "raftkv_apply_duration_seconds",
        HISTOGRAM,
        "How long a turn took to apply what was committed, in seconds.",
        lambda source: source.driver.timings.apply_seconds,
    ),
    Family(
        "raftkv_proposal_duration_seconds",
        HISTOGRAM,
        "From when writes of this member's clients were taken until they were applied, in seconds.",
        lambda source: source.driver.timings.proposal_seconds,
    ),
    Family(
        "raftkv_slow_fsync_total",
        COUNTER,
        "How often the log's disk took longer than a second.",
        lambda source: source.driver.timings.slow_syncs,
    ),
    Family(
        "raftkv_turns_total",
        COUNTER,
        "Turns of the replica.",
        lambda source: source.driver.turns,
    ),
)

# What `counters` has and no family of etcd's says.
_COUNTERS: Final[dict[Callable[..., dict[str, int]], dict[str, str]]] = {
    counters.lease_counters: {
        "leases": "Leases that exist.",
        "lease_questions": "Keepalives and questions about leases that have no answer yet.",
        "lease_streams": "LeaseKeepAlive calls that are open.",
    },
    counters.watch_counters: {
        "watch_stalls_total": "How often a watch met a stream with too much queued.",
        "watch_backlog_revisions": "Revisions that the watch furthest behind has still to get.",
    },
}


def render_counters(source: Source) -> Iterator[str]:
    """The families of `server.counters`."""
    for read, wanted in _COUNTERS.items():
        found = read(source.context)
        for name, text in wanted.items():
            full = f"raftkv_{name}"
            kind = COUNTER if name.endswith("_total") else GAUGE
            yield head(full, kind, text) + sample(full, "", found[name])
