"""The rows that are more than a closed loop: long writing, a million keys, a lost leader.

Losing the leader is measured in an open loop, because a closed one stops by itself: its
calls wait at nodes that have no leader, and nobody would notice that the cluster takes
writes again. The gap is the longest time between two successful puts of any connection
after the leader was lost. `kill` is SIGKILL: the kernel closes the connections. `freeze` is
SIGSTOP: the connections stay open and silent, as if the host had vanished.
"""

import signal
import time
from collections.abc import Sequence
from typing import Final

from bench.clusters import Cluster, Node
from bench.generator import Generator, Run
from bench.rows import (
    FLUSH_SECONDS,
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

CALM_SECONDS: Final = 1.0
WATCHED_SECONDS: Final = 6.0
FAILOVER_RATE: Final = 400.0
FAILOVER_CONNECTIONS: Final = 6


def long_put(row: Row, settings: Settings) -> Samples:
    """Puts for a minute, so that flushes, compactions and snapshots are in the numbers."""
    samples: Samples = {}
    for label, system in settings.systems.items():
        with Cluster(system, settings.directory) as cluster:
            fill(cluster, settings.keys, settings.value_bytes)
            one = sample(load(cluster, row, settings, settings.long_seconds, 1))
        samples[label] = [one]
        say(f"{row.name} {label}: {summary(one)}")
    return samples


def million(row: Row, settings: Settings) -> Samples:
    """Many small keys: memory per node, and a restart of all nodes up to the first put.

    The nodes are stopped in order (stop_s). restart_s: from the start of the processes.
    """
    samples: Samples = {}
    for label, system in settings.systems.items():
        with Cluster(system, settings.directory) as cluster:
            written = fill(cluster, settings.bulk_keys, settings.bulk_value_bytes)
            time.sleep(FLUSH_SECONDS)
            full = cluster.usage()
            stop_seconds = cluster.stop()
            restart_seconds = cluster.start()
            time.sleep(FLUSH_SECONDS)
            again = cluster.usage()
        one = Sample(
            {
                "rate": written.rate,
                "rss_mib": sum(node.rss_bytes for node in full) / len(full) / MIB,
                "anon_mib": sum(node.anon_bytes for node in full) / len(full) / MIB,
                "stop_s": stop_seconds,
                "restart_s": restart_seconds,
                "restarted_rss_mib": sum(node.rss_bytes for node in again) / len(again) / MIB,
            }
        )
        samples[label] = [one]
        say(f"{row.name} {label}: {summary(one)}")
    return samples


def longest_gap(times: Sequence[float], since: float, until: float) -> float:
    """Seconds: the longest time without a success that ends after `since`.

    times: of the successes, ascending. until: the end of the observation; a gap that is
    still open then counts up to it.
    """
    longest = 0.0
    previous = since
    for moment in times:
        if moment > since:
            longest = max(longest, moment - previous)
        previous = moment
    return max(longest, until - previous)


def _lose(cluster: Cluster, leader: Node, number: signal.Signals, seed: int) -> Sample:
    run = Run(
        cluster.endpoints(FAILOVER_CONNECTIONS, "spread"),
        rate_per_second=FAILOVER_RATE,
        seconds=CALM_SECONDS + WATCHED_SECONDS,
        seed=seed,
        with_times=True,
    )
    with Generator(run) as generator:
        generator.wait_measuring()
        start = time.perf_counter()
        time.sleep(CALM_SECONDS)
        lost_at = time.perf_counter()
        leader.signal(number)
        measured = generator.result()
    gap = longest_gap(measured.success_times, lost_at, start + measured.seconds)
    return Sample(
        {
            "gap_s": gap,
            "rate": measured.rate,
            "errors": float(measured.failures),
            "unanswered": float(measured.unanswered),
        },
        errors=measured.errors,
    )


def _failover(row: Row, settings: Settings, number: signal.Signals) -> Samples:
    samples: Samples = {label: [] for label in settings.systems}
    with started(settings) as clusters:
        for trial in range(settings.trials):
            for label, cluster in clusters.items():
                leader = cluster.leader()
                one = _lose(cluster, leader, number, trial)
                samples[label].append(one)
                say(f"{row.name} {label}: {summary(one)}")
                if number == signal.SIGKILL:
                    leader.wait()
                    leader.start()
                else:
                    leader.signal(signal.SIGCONT)
                cluster.leader()
    return samples


def kill(row: Row, settings: Settings) -> Samples:
    """The leader's process ends without a word."""
    return _failover(row, settings, signal.SIGKILL)


def freeze(row: Row, settings: Settings) -> Samples:
    """The leader falls silent; its connections stay open."""
    return _failover(row, settings, signal.SIGSTOP)


SPECIAL_ROWS: Final = (
    Row("long-put-10x10", long_put, "put", 10, 10),
    Row("million", million),
    Row("failover-kill", kill),
    Row("failover-freeze", freeze),
)
