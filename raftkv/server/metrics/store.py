"""The store: keys, revisions, operations, watches, leases, sizes."""

from typing import Final

from raftkv.server.metrics.source import Source
from raftkv.server.metrics.text import COUNTER, GAUGE, Family

FAMILIES: Final[tuple[Family[Source], ...]] = (
    Family(
        "etcd_mvcc_put_total",
        COUNTER,
        "Puts applied here, those of transactions too.",
        lambda source: source.machine.store.puts,
    ),
    Family(
        "etcd_mvcc_delete_total",
        COUNTER,
        "DeleteRanges applied here, those of transactions too.",
        lambda source: source.machine.store.deletes,
    ),
    Family(
        "etcd_mvcc_txn_total",
        COUNTER,
        "Transactions that were applied here.",
        lambda source: source.machine.store.txns,
    ),
    Family(
        "etcd_mvcc_range_total",
        COUNTER,
        "Ranges that clients asked this member for.",
        lambda source: source.context.ranges,
    ),
    Family(
        "etcd_debugging_mvcc_range_total",
        COUNTER,
        "As etcd_mvcc_range_total; an older name.",
        lambda source: source.context.ranges,
    ),
    Family(
        "etcd_mvcc_db_total_size_in_bytes",
        GAUGE,
        "Bytes of the state on disk.",
        lambda source: source.machine.status().db_size,
    ),
    Family(
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        GAUGE,
        "Bytes of rows that are not compacted away.",
        lambda source: source.machine.status().db_size_in_use,
    ),
    Family(
        "etcd_debugging_mvcc_keys_total",
        GAUGE,
        "Keys that exist.",
        lambda source: len(source.machine.store.live),
    ),
    Family(
        "etcd_debugging_mvcc_current_revision",
        GAUGE,
        "The store's revision.",
        lambda source: source.machine.revision,
    ),
    Family(
        "etcd_debugging_mvcc_compact_revision",
        GAUGE,
        "The newest revision that was compacted; -1: none ever was.",
        lambda source: source.machine.store.compacted,
    ),
    Family(
        "etcd_debugging_mvcc_watch_stream_total",
        GAUGE,
        "Watch calls that are open.",
        lambda source: source.driver.watches.streams,
    ),
    Family(
        "etcd_debugging_mvcc_watcher_total",
        GAUGE,
        "Watches.",
        lambda source: source.driver.watches.watches.count,
    ),
    Family(
        "etcd_debugging_mvcc_slow_watcher_total",
        GAUGE,
        "Watches that have not got everything yet.",
        lambda source: source.driver.watches.watches.behind,
    ),
    Family(
        "etcd_debugging_mvcc_events_total",
        COUNTER,
        "Events that watches were sent.",
        lambda source: source.driver.watches.watches.delivered_events,
    ),
    Family(
        "etcd_debugging_lease_granted_total",
        COUNTER,
        "Leases granted.",
        lambda source: source.machine.lease_counts.granted,
    ),
    Family(
        "etcd_debugging_lease_revoked_total",
        COUNTER,
        "Leases revoked.",
        lambda source: source.machine.lease_counts.revoked,
    ),
    Family(
        "etcd_debugging_lease_renewed_total",
        COUNTER,
        "Renewals that this member has granted as the leader.",
        lambda source: source.replica.keepalives.renewed,
    ),
    Family(
        "etcd_debugging_server_lease_expired_total",
        COUNTER,
        "Leases that have expired.",
        lambda source: source.machine.lease_counts.expired,
    ),
)
