"""What a member counts about leases and watches, by name, for whoever exposes it.

Plain integers that are read where they lie; asking for them costs as much as there are watches
behind. A name that ends in `_total` only grows while the process runs.
"""

from raftkv.kv.alarms import CORRUPT, NOSPACE
from raftkv.server.services.context import Context


def of_services(context: Context) -> dict[str, int]:
    """All of them."""
    return {
        **kv_counters(context),
        **lease_counters(context),
        **watch_counters(context),
        **leader_counters(context),
        **health_counters(context),
    }


def leader_counters(context: Context) -> dict[str, int]:
    """Of leadership at this member.

    slow_disk_handovers_total: that it gave it away because its disk kept clients waiting.
    """
    return {"slow_disk_handovers_total": context.replica.watchdog.handovers}


def health_counters(context: Context) -> dict[str, int]:
    """Of the state's health.

    space_used_bytes: what counts against the quota. alarms_nospace, alarms_corrupt: how many are
    raised. out_of_service: 1 if this member refuses its clients because its own state is wrong.
    """
    replica = context.replica
    machine = replica.machine
    return {
        "space_used_bytes": machine.space.used_bytes,
        "alarms_nospace": len(machine.alarms.raised(NOSPACE)),
        "alarms_corrupt": len(machine.alarms.raised(CORRUPT)),
        "out_of_service": int(replica.caretaker.condemned),
    }


def kv_counters(context: Context) -> dict[str, int]:
    """Of the KV calls that clients made at this member, whoever carried them out."""
    return {
        "puts_total": context.puts,
        "ranges_total": context.ranges,
        "deletes_total": context.deletes,
        "txns_total": context.txns,
    }


def lease_counters(context: Context) -> dict[str, int]:
    """Of the leases in this member's state and, while it leads, of its clock.

    lease_renewals_total: granted by this member as the leader. lease_questions: keepalives and
    remaining times that own clients wait for.
    """
    machine, keepalives = context.replica.machine, context.replica.keepalives
    counts = machine.lease_counts
    return {
        "leases": len(machine.leases),
        "leases_granted_total": counts.granted,
        "leases_revoked_total": counts.revoked,
        "leases_expired_total": counts.expired,
        "lease_renewals_total": keepalives.renewed,
        "lease_questions": len(keepalives),
        "lease_streams": context.renewal_streams,
    }


def watch_counters(context: Context) -> dict[str, int]:
    """Of the watches at this member.

    watchers_slow: that have not got everything yet. watch_stalls_total: how often a watch met a
    stream with too much queued. watch_backlog_revisions: that the watch furthest behind has still
    to get.
    """
    hub = context.driver.watches.watches
    return {
        "watch_streams": context.driver.watches.streams,
        "watchers": hub.count,
        "watchers_slow": hub.behind,
        "watch_events_total": hub.delivered_events,
        "watch_stalls_total": hub.stalls,
        "watch_backlog_revisions": hub.backlog,
    }
