"""The rows of the table: which load, and how the systems take turns under it.

Every row starts fresh clusters of all systems, writes the keys, and then measures one
system after the other, round by round, so that whatever else the machine does hits all of
them. The clusters that are not measured stay up and idle.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.clusters import Cluster
from bench.generator import Measured, Run, generate

MIB: Final = 1024 * 1024
SETTLE_SECONDS: Final = 0.3
FLUSH_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is measured.

    systems: label -> system; at least two. entry: see Cluster.endpoints. rate_per_second: if
    not 0, the closed loops become open ones. directory: where the data of the clusters goes.
    long_seconds: of the row `long-put`. bulk_keys: of the row `million`. trials: leaders lost
    per system. watched_keys: with a watcher each. live_leases: of the row `leases-idle`.
    """

    systems: Mapping[str, str]
    rounds: int = 3
    seconds: float = 3.0
    warmup_seconds: float = 1.0
    entry: str = "spread"
    rate_per_second: float = 0.0
    keys: int = 10_000
    value_bytes: int = 256
    long_seconds: float = 60.0
    bulk_keys: int = 1_000_000
    bulk_value_bytes: int = 64
    trials: int = 3
    watched_keys: int = 10_000
    live_leases: int = 100_000
    directory: Path | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement of one system: metric -> value, and the latencies in seconds."""

    metrics: dict[str, float]
    latency_seconds: dict[str, float] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)


Samples = dict[str, list[Sample]]  # label -> one per round
Procedure = Callable[["Row", Settings], Samples]


@dataclass(frozen=True, slots=True)
class Row:
    """A row: its name and what is done.

    kind, connections, outstanding: the closed loop; see requests.KINDS, and with watchers
    streaming.KINDS. pairs: what is compared with what, where it is not the two systems.
    """

    name: str
    procedure: Procedure
    kind: str = ""
    connections: int = 0
    outstanding: int = 0
    watchers: int = 0
    pairs: tuple[tuple[str, str], ...] = ()


def say(text: str) -> None:
    """Progress, on stderr."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


@contextmanager
def started(settings: Settings) -> Iterator[dict[str, Cluster]]:
    """Fresh clusters, one per label; all gone at the end."""
    with ExitStack() as stack:
        yield {
            label: stack.enter_context(Cluster(system, settings.directory))
            for label, system in settings.systems.items()
        }


def fill(cluster: Cluster, keys: int, value_bytes: int) -> Measured:
    """Writes every key once, as fast as the cluster takes them."""
    return generate(
        Run(
            cluster.endpoints(20, "spread"),
            cluster.pids,
            outstanding=5,  # more, and etcd refuses some for its apply lag
            keys=keys,
            value_bytes=value_bytes,
            fill=True,
        )
    )


@contextmanager
def full(system: str, settings: Settings) -> Iterator[Cluster]:
    """One cluster with many small keys, some seconds after they were written."""
    with Cluster(system, settings.directory) as cluster:
        fill(cluster, settings.bulk_keys, settings.bulk_value_bytes)
        time.sleep(FLUSH_SECONDS)
        yield cluster


def load(
    cluster: Cluster,
    row: Row,
    settings: Settings,
    seconds: float,
    seed: int,
    endpoints: list[str] | None = None,
) -> Measured:
    """Puts a cluster under the load of a row.

    endpoints: one per connection, where not all nodes are to be asked for theirs first.
    Errors: LoadFailed, ClusterFailed.
    """
    measured = generate(
        Run(
            endpoints or cluster.endpoints(row.connections, settings.entry),
            cluster.pids,
            kind=row.kind,
            keys=settings.keys,
            value_bytes=settings.value_bytes,
            outstanding=row.outstanding,
            rate_per_second=settings.rate_per_second,
            seconds=seconds,
            warmup_seconds=settings.warmup_seconds,
            seed=seed,
            watchers=row.watchers,
        )
    )
    cluster.check()
    return measured


def sample(measured: Measured) -> Sample:
    """The metrics of a run. Per operation means per success.

    rate: successes/s. p50_ms, p99_ms. cpu_us: server CPU per operation, all nodes.
    rss_mib, anon_mib: mean of the nodes. bytes: written to disk per operation, all nodes.
    generator_us: the generator's CPU per operation; generator_share: of one core.
    errors: failed operations.
    """
    successes = max(measured.successes, 1)
    latency = measured.latency_seconds
    nodes = max(len(measured.rss_bytes), 1)
    return Sample(
        {
            "rate": measured.rate,
            "p50_ms": 1e3 * latency.get("50", float("nan")),
            "p99_ms": 1e3 * latency.get("99", float("nan")),
            "cpu_us": 1e6 * measured.server_cpu_seconds / successes,
            "rss_mib": sum(measured.rss_bytes) / nodes / MIB,
            "anon_mib": sum(measured.anon_bytes) / nodes / MIB,
            "bytes": measured.write_bytes / successes,
            "generator_us": 1e6 * measured.generator_cpu_seconds / successes,
            "generator_share": measured.generator_cpu_seconds / measured.seconds,
            "errors": float(measured.failures),
        },
        latency,
        measured.errors,
    )


def summary(one: Sample) -> str:
    """A sample in a line, for the progress."""
    text = " ".join(f"{name}={value:.4g}" for name, value in one.metrics.items())
    return text + (f" {one.errors}" if one.errors else "")


def in_turns(row: Row, settings: Settings, measure: Callable[[Cluster, int], Sample]) -> Samples:
    """Fresh clusters with their keys, measured one after the other, round by round.

    measure: one round of one system, by its cluster and the round's number.
    """
    samples: Samples = {label: [] for label in settings.systems}
    with started(settings) as clusters:
        for cluster in clusters.values():
            fill(cluster, settings.keys, settings.value_bytes)
        for number in range(settings.rounds):
            for label, cluster in clusters.items():
                time.sleep(SETTLE_SECONDS)
                one = measure(cluster, number)
                samples[label].append(one)
                say(f"{row.name} {label}: {summary(one)}")
    return samples


def closed_loop(row: Row, settings: Settings) -> Samples:
    """The procedure of the ordinary rows."""
    return in_turns(
        row,
        settings,
        lambda cluster, number: sample(load(cluster, row, settings, settings.seconds, number)),
    )


def _row(kind: str, connections: int, outstanding: int) -> Row:
    name = f"{kind}-{connections}x{outstanding}"
    return Row(name, closed_loop, kind, connections, outstanding)


LOAD_ROWS: Final = (
    _row("put", 1, 1),
    _row("put", 10, 1),
    _row("put", 10, 10),
    _row("put", 20, 50),
    _row("txn", 10, 10),
    _row("get", 10, 10),
    _row("ser-get", 10, 10),
    _row("range", 10, 1),
    _row("mixed", 10, 10),
)


def select(rows: Sequence[Row], names: str) -> list[Row]:
    """The rows of the comma-separated names, or whose name starts so; all for "".

    Errors: ValueError for a name that no row has.
    """
    if not names:
        return list(rows)
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if not any(row.name.startswith(name) for row in rows):
            known = ", ".join(row.name for row in rows)
            raise ValueError(f"no row {name!r}; there are {known}")
    exact = {row.name for row in rows}.intersection(wanted)
    starts = [name for name in wanted if name not in exact]
    return [row for row in rows if row.name in exact or row.name.startswith(tuple(starts))]
