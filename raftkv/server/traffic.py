"""Bytes and failures between this member and others: plain numbers of the event loop's thread."""

from typing import Final

from raftkv.histogram import Histogram, exponential

ROUND_TRIP_SECONDS: Final = exponential(0.0001, 2, 16)


class ClientTraffic:
    """With all clients together, HTTP/2's frames included, TLS not."""

    __slots__ = ("received_bytes", "sent_bytes")

    def __init__(self) -> None:
        self.received_bytes = self.sent_bytes = 0


class PeerTraffic:
    """With one other member, over all connections since the start.

    sent_bytes: on connections that this member opened. received_bytes: on those that the other
    one opened. dropped_messages: were to be sent while there was no connection, or too much was
    queued. refused_streams: calls of it that were refused. losses: how often the connection to it
    was lost. round_trips: in seconds.
    """

    __slots__ = (
        "dropped_messages",
        "losses",
        "received_bytes",
        "refused_streams",
        "round_trips",
        "sent_bytes",
    )

    def __init__(self) -> None:
        self.sent_bytes = self.received_bytes = 0
        self.dropped_messages = self.refused_streams = self.losses = 0
        self.round_trips = Histogram(ROUND_TRIP_SECONDS)
