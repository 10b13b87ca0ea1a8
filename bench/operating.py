"""The rows of what operators do while a cluster is under load: read metrics, add a member.

`metrics`: every node's /metrics is read ten times a second while puts run. `scrape_p50_ms` and
`scrape_max_ms` are of the whole answers, connection included.

`member-add`: a million keys, puts measured alone, and then while a fourth member joins as a
learner, catches up and is promoted. `kept` is the share of the puts' rate that is left until then,
`joined_s` the time from the request to the promotion, `elections` by how much the term grew. All
members share one machine and one disk, so the new one takes from the others what it needs itself.
"""

import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from bench.beside import Beside
from bench.clusters import Cluster
from bench.rows import Row, Sample, Samples, Settings, full, in_turns, load, say, summary

SCRAPE_PAUSE_SECONDS: Final = 0.1
SCRAPE_SECONDS: Final = 30.0


def _scrape(endpoint: str) -> float:
    start = time.perf_counter()
    with urllib.request.urlopen(f"http://{endpoint}/metrics", timeout=SCRAPE_SECONDS) as answer:
        if b"etcd_server_has_leader" not in answer.read():
            raise ValueError(f"{endpoint} answered without metrics")
    return time.perf_counter() - start


def _scrape_all(cluster: Cluster, took: list[float]) -> float:
    each = [_scrape(node.endpoint) for node in cluster.nodes]
    took.extend(each)
    return max(each)


def metrics(row: Row, settings: Settings) -> Samples:
    """Metrics read under load, the systems in turns."""
    return in_turns(row, settings, lambda cluster, number: _scraped(cluster, row, settings, number))


def _scraped(cluster: Cluster, row: Row, settings: Settings, number: int) -> Sample:
    took: list[float] = []
    with Beside(lambda: _scrape_all(cluster, took), SCRAPE_PAUSE_SECONDS):
        measured = load(cluster, row, settings, settings.seconds, number)
    took.sort()
    return Sample(
        {
            "rate": measured.rate,
            "scrape_p50_ms": 1e3 * took[len(took) // 2],
            "scrape_max_ms": 1e3 * took[-1],
            "scrapes": float(len(took)),
            "errors": float(measured.failures),
        },
        measured.latency_seconds,
        measured.errors,
    )


def member_add(row: Row, settings: Settings) -> Samples:
    """A fourth member under load, one system after the other."""
    samples: Samples = {}
    for label, system in settings.systems.items():
        with full(system, settings) as cluster:
            samples[label] = [_joined(cluster, row, settings)]
        say(f"{row.name} {label}: {summary(samples[label][0])}")
    return samples


def _joined(cluster: Cluster, row: Row, settings: Settings) -> Sample:
    alone = load(cluster, row, settings, settings.seconds, 0)
    before = cluster.term()
    endpoints = cluster.endpoints(row.connections, settings.entry)
    loads = []
    with ThreadPoolExecutor(1) as pool:
        joining = pool.submit(cluster.promote, *cluster.add_learner())
        while not joining.done():  # only the main thread may time a load
            loads.append(load(cluster, row, settings, settings.seconds, 1, endpoints))
    rate = sum(one.rate for one in loads) / len(loads)
    return Sample(
        {
            "rate": rate,
            "kept": rate / alone.rate,
            "joined_s": joining.result(),
            "elections": float(cluster.term() - before),
            "errors": float(sum(one.failures for one in loads)),
        }
    )


OPERATING_ROWS: Final = (
    Row("metrics", metrics, "put", 10, 10),
    Row("member-add", member_add, "put", 10, 10),
)
