"""The disk: syncs of the Raft log, writes of the state, free space."""

import os
from typing import Final, cast

from raftkv.histogram import Histogram
from raftkv.server.metrics.source import Source
from raftkv.server.metrics.text import GAUGE, HISTOGRAM, Family
from raftkv.storage.backend import StateBackend


def _write_seconds(source: Source) -> Histogram:
    return cast(StateBackend, source.machine.backend).write_seconds


def _free(source: Source) -> list[tuple[str, int]]:
    return [("", found.f_bavail * found.f_frsize) for found in _file_system(source)]


def _total(source: Source) -> list[tuple[str, int]]:
    return [("", found.f_blocks * found.f_frsize) for found in _file_system(source)]


def _file_system(source: Source) -> list[os.statvfs_result]:
    try:
        return [os.statvfs(source.config.data_dir)]
    except OSError:
        return []  # nothing is known, so nothing is said


FAMILIES: Final[tuple[Family[Source], ...]] = (
    Family(
        "etcd_disk_wal_fsync_duration_seconds",
        HISTOGRAM,
        "How long it took to write and sync what the Raft log had collected, in seconds.",
        lambda source: source.driver.disk.sync_seconds,
    ),
    Family(
        "etcd_disk_backend_commit_duration_seconds",
        HISTOGRAM,
        "How long it took to hand applied rows to the state's LevelDB, in seconds.",
        _write_seconds,
    ),
    Family(
        "etcd_disk_wal_write_bytes_total",
        GAUGE,
        "About how many bytes were written to the Raft log.",
        lambda source: source.driver.directory.log.written_bytes,
    ),
    Family(
        "etcd_disk_defrag_inflight",
        GAUGE,
        "1 while the state's tables are merged on demand, else 0.",
        lambda source: source.driver.timings.defragmenting,
    ),
    Family(
        "etcd_disk_backend_defrag_duration_seconds",
        HISTOGRAM,
        "How long it took to merge the state's tables on demand, in seconds.",
        lambda source: source.driver.timings.defragment_seconds,
    ),
    Family(
        "etcd_disk_backend_snapshot_duration_seconds",
        HISTOGRAM,
        "How long it took to send snapshots, in seconds.",
        lambda source: source.driver.timings.snapshot_seconds,
    ),
    Family("raftkv_disk_free_bytes", GAUGE, "Free bytes where the data directory lies.", _free),
    Family("raftkv_disk_size_bytes", GAUGE, "All bytes where the data directory lies.", _total),
)
