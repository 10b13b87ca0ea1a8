"""Traffic with clients and with the other members."""

from collections.abc import Callable
from typing import Final

from raftkv.histogram import Histogram
from raftkv.raft import describe
from raftkv.server.metrics.source import Source
from raftkv.server.metrics.text import COUNTER, GAUGE, HISTOGRAM, Family, Value, labels
from raftkv.server.traffic import PeerTraffic


def _of_peers(
    label: str, what: Callable[[PeerTraffic], int | Histogram], *, strangers: bool = False
) -> Callable[[Source], Value]:
    """A value per member. strangers: one for whoever did not say who it is, too, as member 0."""

    def read(source: Source) -> Value:
        return [
            (labels(**{label: f"{member:x}"}), what(traffic))
            for member, traffic in sorted(source.peers.traffic.items())
            if member or strangers
        ]

    return read


def _active(source: Source) -> Value:
    local = f"{source.context.member:x}"
    return [
        (labels(Local=local, Remote=f"{member:x}"), link.ready)
        for member, link in sorted(source.peers.links.items())
    ]


def _losses(source: Source) -> Value:
    local = f"{source.context.member:x}"
    return [
        (labels(Local=local, Remote=f"{member:x}"), traffic.losses)
        for member, traffic in sorted(source.peers.traffic.items())
        if member
    ]


def _behind(source: Source) -> Value:
    core = source.replica.core
    return [
        (labels(To=f"{member:x}"), core.last_index - seen.match)
        for member, seen in describe.followers(core).items()
    ]


FAMILIES: Final[tuple[Family[Source], ...]] = (
    Family(
        "etcd_network_client_grpc_received_bytes_total",
        COUNTER,
        "Bytes that gRPC's clients have sent, frames included.",
        lambda source: source.clients.traffic.received_bytes,
    ),
    Family(
        "etcd_network_client_grpc_sent_bytes_total",
        COUNTER,
        "Bytes that gRPC's clients were sent, frames included.",
        lambda source: source.clients.traffic.sent_bytes,
    ),
    Family(
        "etcd_network_known_peers",
        GAUGE,
        "1 for every other member of the cluster.",
        lambda source: [
            (labels(Local=f"{source.context.member:x}", Remote=f"{member:x}"), 1)
            for member in sorted(source.peers.links)
        ],
    ),
    Family(
        "etcd_network_active_peers",
        GAUGE,
        "1 for every other member that this one is connected to, else 0.",
        _active,
    ),
    Family(
        "etcd_network_disconnected_peers_total",
        COUNTER,
        "How often the connection to another member was lost.",
        _losses,
    ),
    Family(
        "etcd_network_peer_sent_bytes_total",
        COUNTER,
        "Bytes sent to another member.",
        _of_peers("To", lambda traffic: traffic.sent_bytes),
    ),
    Family(
        "etcd_network_peer_received_bytes_total",
        COUNTER,
        "Bytes that another member has sent; 0: before it said who it is.",
        _of_peers("From", lambda traffic: traffic.received_bytes, strangers=True),
    ),
    Family(
        "etcd_network_peer_sent_failures_total",
        COUNTER,
        "Messages to another member that were dropped: no connection, or too much queued.",
        _of_peers("To", lambda traffic: traffic.dropped_messages),
    ),
    Family(
        "etcd_network_peer_received_failures_total",
        COUNTER,
        "Calls on the peer port that were refused; 0: of whoever did not say who it is.",
        _of_peers("From", lambda traffic: traffic.refused_streams, strangers=True),
    ),
    Family(
        "etcd_network_peer_round_trip_time_seconds",
        HISTOGRAM,
        "Round trips to another member, in seconds; measured every 2 s.",
        _of_peers("To", lambda traffic: traffic.round_trips),
    ),
    Family(
        "raftkv_peer_lag_entries",
        GAUGE,
        "On the leader: entries of its log that another member is not known to have.",
        _behind,
    ),
)
