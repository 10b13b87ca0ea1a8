"""What is asked of raftkv, as data, and whether a measurement meets it."""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from bench.gateway import GATEWAY_ROWS
from bench.rows import LOAD_ROWS


class Verdict(Enum):
    """Outcome of a comparison; the value is what the table shows."""

    AIM_MET = "met, aim too"
    MET = "met"
    NOT_MET = "NOT MET"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Target:
    """One demand on a metric of a row.

    must, aim: bounds. higher_is_better: at least the bound is asked for, else less than it.
    relative: the bounds are for label / base, else for the label's value itself, in `unit`.
    label, base: what is judged, and beside what.
    """

    row: str
    metric: str
    must: float
    aim: float | None = None
    higher_is_better: bool = False
    relative: bool = True
    unit: str = " s"
    label: str = "raftkv"
    base: str = "etcd"

    def judge(self, value: float | None) -> Verdict:
        """The verdict on a measured ratio (or value)."""
        if value is None or value != value:  # NaN
            return Verdict.NOT_MEASURED
        if not self._meets(value, self.must):
            return Verdict.NOT_MET
        if self.aim is not None and self._meets(value, self.aim):
            return Verdict.AIM_MET
        return Verdict.MET

    def _meets(self, value: float, bound: float) -> bool:
        return value >= bound if self.higher_is_better else value < bound


def _rate(row: str, must: float, aim: float) -> Target:
    return Target(row, "rate", must, aim, higher_is_better=True)


def _library(row: str, label: str, base: str) -> Target:
    """A client library is at least as fast as another."""
    return Target(row, "rate", 1.0, 1.2, higher_is_better=True, label=label, base=base)


def _alone(row: str, metric: str, must: float, unit: str, label: str) -> Target:
    return Target(row, metric, must, relative=False, unit=unit, label=label)


CLIENT_CALLS: Final = ("client-put", "client-get", "client-txn")

TARGETS: Final = (
    _rate("put-1x1", 1.0, 1.2),
    _rate("put-10x1", 1.3, 1.6),
    _rate("put-10x10", 1.7, 2.2),
    _rate("put-20x50", 1.1, 1.5),
    _rate("txn-10x10", 1.6, 2.0),
    _rate("get-10x10", 1.5, 2.0),
    _rate("ser-get-10x10", 1.5, 2.0),
    _rate("range-10x1", 1.0, 1.5),
    *(Target(row.name, "p99_ms", 1.0) for row in LOAD_ROWS),
    *(_rate(row.name, 1.0, 1.5) for row in GATEWAY_ROWS),
    _rate("watch-fanout-100", 2.0, 3.0),
    _rate("watch-fanout-1000", 1.0, 1.3),
    Target("watch-fanout-100", "p99_ms", 1.0),
    Target("watch-fanout-1000", "p99_ms", 1.0),
    Target("watch-keys", "kept", 0.9, higher_is_better=True, relative=False, unit=""),
    Target("watch-keys", "watcher_kib", 2.0, relative=False, unit=" KiB"),
    _rate("watch-catch-up", 1.0, 1.5),
    _rate("keepalive-10x1", 1.5, 2.0),
    _rate("keepalive-10x10", 1.0, 1.5),
    _rate("lease-pair-10x10", 2.0, 2.5),
    Target("leases-idle", "cpu_share", 0.1, relative=False, unit=" core"),
    Target("put-10x10", "cpu_us", 0.6, 0.5),
    Target("put-10x10", "bytes", 1.0),
    Target("long-put-10x10", "bytes", 2.0),
    Target("million", "rss_mib", 0.7),
    Target("million", "restart_s", 1.0),
    Target("snapshot", "idle_s", 1.0, 0.7),
    Target("snapshot", "kept", 0.8, higher_is_better=True, relative=False, unit=""),
    Target("metrics", "scrape_max_ms", 50.0, relative=False, unit=" ms"),
    Target("member-add", "kept", 0.8, higher_is_better=True, relative=False, unit=""),
    Target("member-add", "elections", 1.0, relative=False, unit=""),
    Target("failover-kill", "gap_s", 0.5, 0.3, relative=False),
    *(_library(row, "client", "etcd3") for row in (*CLIENT_CALLS, "client-watch")),
    *(_library(row, "client.aio", "aetcd") for row in (*CLIENT_CALLS, "client-watch")),
    _alone("client-put", "added_us", 50.0, " us", "client"),
    *(
        _alone("client-import", "import_ms", 150.0, " ms", face)
        for face in ("client", "client.aio")
    ),
)
