"""The calls of every method, as gRPC's servers count them (`grpc_server_*`).

A `Tally` per method and all its lines, also those that are zero, so that rates exist before the
first call, as in etcd. With 17 codes per method that is most of a scrape; so the lines of a method
are kept, and made anew only when its counts have changed.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from raftkv.histogram import Histogram
from raftkv.server.metrics.text import COUNTER, HISTOGRAM, head, histogram, labels, sample
from raftkv.wire.tally import CODES, Tally

# As Go's gRPC writes them.
CODE_NAMES: Final = (
    *("OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound"),
    *("AlreadyExists", "PermissionDenied", "ResourceExhausted", "FailedPrecondition", "Aborted"),
    *("OutOfRange", "Unimplemented", "Internal", "Unavailable", "DataLoss", "Unauthenticated"),
)
assert len(CODE_NAMES) == CODES
HANDLING_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

STARTED: Final = "grpc_server_started_total"
HANDLED: Final = "grpc_server_handled_total"
RECEIVED: Final = "grpc_server_msg_received_total"
SENT: Final = "grpc_server_msg_sent_total"
HANDLING: Final = "grpc_server_handling_seconds"

_HELP: Final = {
    STARTED: "Calls that have begun.",
    HANDLED: "Calls that have ended, by their status.",
    RECEIVED: "Messages that calls have brought.",
    SENT: "Messages that calls were answered with.",
}


def method_type(method: MethodDescriptor) -> str:
    """What gRPC calls the kind of a method."""
    if method.client_streaming:
        return "bidi_stream" if method.server_streaming else "client_stream"
    return "server_stream" if method.server_streaming else "unary"


class _Method:
    """One method and its lines by family."""

    def __init__(self, method: MethodDescriptor, extensive: bool) -> None:
        service = method.containing_service.full_name
        self.path = f"/{service}/{method.name}".encode()
        self.tally = Tally(Histogram(HANDLING_SECONDS) if extensive else None)
        names = {"grpc_service": service, "grpc_type": method_type(method)}
        self._labels = labels(grpc_method=method.name, **names)
        self._codes = [
            labels(grpc_code=code, grpc_method=method.name, **names) for code in CODE_NAMES
        ]
        self._counts: tuple[int, ...] = ()
        self._lines: dict[str, str] = {}

    def lines(self) -> dict[str, str]:
        """By family, as the counts are now."""
        tally = self.tally
        ended = list(tally.ended)
        ended[0] += tally.answered
        counts = (
            tally.started + tally.quick,
            tally.received + tally.quick,
            tally.sent + tally.answered,
            *ended,
        )
        if counts != self._counts:
            self._counts = counts
            self._lines = {
                STARTED: sample(STARTED, self._labels, counts[0]),
                RECEIVED: sample(RECEIVED, self._labels, counts[1]),
                SENT: sample(SENT, self._labels, counts[2]),
                HANDLED: "".join(map(_handled, self._codes, ended)),
            }
            if tally.seconds is not None:
                self._lines[HANDLING] = histogram(HANDLING, self._labels, tally.seconds)
        return self._lines


def _handled(label_text: str, count: int) -> str:
    return f"{HANDLED}{{{label_text}}} {count}\n"


class Methods:
    """All methods of these services. extensive: how long calls take is measured too."""

    def __init__(self, services: Sequence[ServiceDescriptor], *, extensive: bool = False) -> None:
        self.extensive = extensive
        self._methods = [
            _Method(method, extensive) for service in services for method in service.methods
        ]
        self.tallies: Mapping[bytes, Tally] = {one.path: one.tally for one in self._methods}

    def render(self) -> Iterator[str]:
        """Their families."""
        lines = [method.lines() for method in self._methods]
        for name, text in _HELP.items():
            yield head(name, COUNTER, text)
            yield from (one[name] for one in lines)
        if self.extensive:
            yield head(HANDLING, HISTOGRAM, "How long calls took, in seconds.")
            yield from (one[HANDLING] for one in lines)
