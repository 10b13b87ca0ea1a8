"""The rows of watches and leases.

`watch-fanout-N`: events of one key delivered to N watchers on 10 streams; p50 and p99 run from
a put's request to its event. `watch-keys`: what a watcher per key costs those who write these
keys, and what an idle one costs in memory. `watch-catch-up`: the whole history to one watcher;
p50, p99 and the longest are those of puts to the same node meanwhile. `keepalive`: renewals.
`lease-pair`: a grant and a revoke. `leases-idle`: CPU of the busiest node while many leases
live that nobody renews.
"""

import time
from typing import Final

from bench.clusters import Cluster
from bench.generator import Generator, Run, generate
from bench.rows import (
    MIB,
    Row,
    Sample,
    Samples,
    Settings,
    fill,
    load,
    sample,
    say,
    started,
    summary,
)

STREAMS: Final = 10
PUT_CONNECTIONS: Final = 10
PUTS_UNDER_WAY: Final = 10
HOLD_SECONDS: Final = 600.0
SETTLE_SECONDS: Final = 1.0
CATCH_UP_SECONDS: Final = 30.0
IDLE_SECONDS: Final = 15.0
EVENT_VALUE_BYTES: Final = 64


def streams(row: Row, settings: Settings) -> Samples:
    """Rounds of a run of `bench.streaming`, or of pairs of unary calls."""
    samples: Samples = {label: [] for label in settings.systems}
    with started(settings) as clusters:
        for number in range(settings.rounds):
            for label, cluster in clusters.items():
                time.sleep(SETTLE_SECONDS)
                one = sample(load(cluster, row, settings, settings.seconds, number))
                samples[label].append(one)
                say(f"{row.name} {label}: {summary(one)}")
    return samples


def pairs(row: Row, settings: Settings) -> Samples:
    """Grants and revokes; a pair is one operation."""
    counted = streams(row, settings)
    for taken in counted.values():
        for one in taken:
            one.metrics["rate"] /= 2
            for metric in ("cpu_us", "bytes", "generator_us"):
                one.metrics[metric] *= 2
    return counted


def _held(cluster: Cluster, settings: Settings) -> Generator:
    return Generator(
        Run(
            cluster.endpoints(STREAMS, settings.entry),
            kind="watch-hold",
            watchers=settings.watched_keys,
            seconds=HOLD_SECONDS,
            warmup_seconds=SETTLE_SECONDS,
        )
    )


def watched_keys(row: Row, settings: Settings) -> Samples:
    """The rate of puts with a watcher on each key next to the rate without any.

    kept: the rate with watchers as a part of the rate without. watcher_kib: growth of
    RSS per watcher, all nodes together.
    """
    samples: Samples = {label: [] for label in settings.systems}
    with started(settings) as clusters:
        for cluster in clusters.values():
            fill(cluster, settings.watched_keys, settings.value_bytes)
        for number in range(settings.rounds):
            for label, cluster in clusters.items():
                one = _watched(cluster, row, settings, number)
                samples[label].append(one)
                say(f"{row.name} {label}: {summary(one)}")
    return samples


def _watched(cluster: Cluster, row: Row, settings: Settings, seed: int) -> Sample:
    bare = load(cluster, row, settings, settings.seconds, seed)
    time.sleep(SETTLE_SECONDS)
    before = sum(node.rss_bytes for node in cluster.usage())
    with _held(cluster, settings) as watchers:
        watchers.wait_measuring()
        grown = sum(node.rss_bytes for node in cluster.usage()) - before
        one = sample(load(cluster, row, settings, settings.seconds, seed))
    one.metrics["kept"] = one.metrics["rate"] / bare.rate
    one.metrics["watcher_kib"] = grown / settings.watched_keys / 1024
    return one


def catch_up(row: Row, settings: Settings) -> Samples:
    """Events since revision 1 to one watcher: all of them, or as many as come in 30 s."""
    samples: Samples = {}
    for label, system in settings.systems.items():
        with Cluster(system, settings.directory) as cluster:
            fill(cluster, settings.bulk_keys, settings.bulk_value_bytes)
            samples[label] = []
            for number in range(settings.rounds):
                measured = generate(
                    Run(
                        cluster.endpoints(1, "leader"),
                        cluster.pids,
                        kind=row.kind,
                        keys=settings.bulk_keys,
                        seconds=CATCH_UP_SECONDS,
                        value_bytes=EVENT_VALUE_BYTES,
                        warmup_seconds=settings.warmup_seconds,
                        seed=number,
                    )
                )
                one = sample(measured)
                events = max(measured.delivered, 1)
                one.metrics["rate"] = measured.delivered / measured.seconds
                one.metrics["longest_ms"] = 1e3 * measured.latency_seconds.get("100", float("nan"))
                one.metrics["cpu_us"] = 1e6 * measured.server_cpu_seconds / events
                one.metrics["generator_us"] = 1e6 * measured.generator_cpu_seconds / events
                del one.metrics["bytes"]
                samples[label].append(one)
                say(f"{row.name} {label}: {summary(one)}")
    return samples


def idle_leases(row: Row, settings: Settings) -> Samples:
    """CPU while leases of 60 s live: of the busiest node, as a part of a core.

    idle_share: before there was any lease. rate: of the grants.
    """
    samples: Samples = {}
    for label, system in settings.systems.items():
        with Cluster(system, settings.directory) as cluster:
            time.sleep(SETTLE_SECONDS)
            nothing = _busiest_share(cluster, IDLE_SECONDS / 3)
            before = [node.rss_bytes for node in cluster.usage()]
            granted = generate(
                Run(
                    cluster.endpoints(2 * STREAMS, "spread"),
                    cluster.pids,
                    kind="lease",
                    outstanding=5,
                    keys=settings.live_leases,
                    fill=True,
                )
            )
            share = _busiest_share(cluster, IDLE_SECONDS)
            grown = sum(node.rss_bytes for node in cluster.usage()) - sum(before)
        one = Sample(
            {
                "rate": granted.rate,
                "cpu_share": share,
                "idle_share": nothing,
                "rss_mib": grown / len(before) / MIB,
            }
        )
        samples[label] = [one]
        say(f"{row.name} {label}: {summary(one)}")
    return samples


def _busiest_share(cluster: Cluster, seconds: float) -> float:
    before = [node.cpu_seconds for node in cluster.usage()]
    start = time.perf_counter()
    time.sleep(seconds)
    after = [node.cpu_seconds for node in cluster.usage()]
    elapsed = time.perf_counter() - start
    return max(b - a for a, b in zip(before, after, strict=True)) / elapsed


STREAM_ROWS: Final = (
    Row("watch-fanout-100", streams, "watch-fanout", STREAMS, 1, 100),
    Row("watch-fanout-1000", streams, "watch-fanout", STREAMS, 4, 1000),
    Row("watch-keys", watched_keys, "put", PUT_CONNECTIONS, PUTS_UNDER_WAY),
    Row("watch-catch-up", catch_up, "watch-catch-up", 1, 1),
    Row("keepalive-10x1", streams, "keepalive", STREAMS, 1),
    Row("keepalive-10x10", streams, "keepalive", STREAMS, 10),
    Row("lease-pair-10x10", pairs, "lease-pair", STREAMS, 10),
    Row("leases-idle", idle_leases),
)
