"""What the disk costs: microseconds per row and per synced write, and how fast things are read.

    python bench/storage_cost.py [--payload 256] [--seconds 1.0] [--directory DIR]

Every figure is the median of several rounds. "encode" is what the event loop pays per entry for
`RaftLog.enqueue`, "sync" what the disk thread waits for in `RaftLog.flush`.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable

from raftkv.raft.types import NORMAL, Entry, LogBatch
from raftkv.storage.memory import MemoryDataDirectory, MemoryDisk
from raftkv.storage.recovery import DataDirectory

CLUSTER, MEMBER = 1, 1
ROUNDS = 5


def log_writes(directory: DataDirectory, size: int, payload: bytes, seconds: float) -> list[float]:
    """Microseconds per row: to encode, to sync, for a batch of `size` rows."""
    log = directory.log
    number = 0
    encoding: list[float] = []
    syncing: list[float] = []
    for _ in range(ROUNDS):
        encode = sync = 0.0
        rows = 0
        until = time.perf_counter() + seconds / ROUNDS
        while time.perf_counter() < until:
            first = log.last_index + 1
            entries = [Entry(index, 1, NORMAL, payload) for index in range(first, first + size)]
            number += 1
            batch = LogBatch(number, None, None, 0, entries)
            started = time.perf_counter()
            log.enqueue(batch)
            between = time.perf_counter()
            log.flush()
            encode += between - started
            sync += time.perf_counter() - between
            rows += size
        encoding.append(encode / rows * 1e6)
        syncing.append(sync / rows * 1e6)
    return [statistics.median(encoding), statistics.median(syncing)]


def per_call(work: Callable[[], int]) -> float:
    """Median microseconds per unit of `work`, which returns how many units it did."""
    found = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        units = work()
        found.append((time.perf_counter() - started) / units * 1e6)
    return statistics.median(found)


def report_log(path: str, payload: bytes, seconds: float) -> None:
    print(f"Raft log, payload {len(payload)} bytes      encode us/row   sync us/row   us/write")
    for size in (1, 10, 100):
        directory = DataDirectory.open(f"{path}/log{size}", CLUSTER, MEMBER)
        encode, sync = log_writes(directory, size, payload, seconds)
        print(f"  batch of {size:<4}                      {encode:10.2f} {sync:13.2f}", end="")
        print(f" {sync * size:12.1f}")
        count = min(directory.log.last_index, 20_000)
        read = per_call(lambda d=directory, n=count: len(d.log.entries(1, n, 1 << 40)))
        directory.close()
        started = time.perf_counter()
        again = DataDirectory.open(f"{path}/log{size}", CLUSTER, MEMBER)
        opening = time.perf_counter() - started
        rows = again.log.last_index
        print(f"    read {read:.2f} us/entry; opened with {rows} entries in {opening:.2f} s")
        again.close()


def report_memory(payload: bytes, seconds: float) -> None:
    directory = MemoryDataDirectory.open(MemoryDisk(), CLUSTER, MEMBER, incarnation=1)
    encode, sync = log_writes(directory, 10, payload, seconds)
    print(f"  in memory, batch of 10              {encode:10.2f} {sync:13.2f}")


def report_state(path: str, payload: bytes) -> None:
    directory = DataDirectory.open(f"{path}/state", CLUSTER, MEMBER)
    state = directory.state
    written = 0

    def write(size: int) -> int:
        nonlocal written
        for _ in range(20_000 // size):
            rows = [(b"%012d" % (written + i), payload) for i in range(size)]
            state.write([*rows])
            written += size
        return 20_000

    print("State rows                            us/row")
    for size in (1, 10, 100):
        print(f"  unsynced write of {size:<4}            {per_call(lambda n=size: write(n)):9.2f}")
    started = time.perf_counter()
    state.sync()
    print(f"  checkpoint of the rest: {(time.perf_counter() - started) * 1e3:.1f} ms")
    print(f"  checkpoint of nothing:  {per_call(lambda: state.sync() or 1) / 1e3:.2f} ms")
    scan = per_call(lambda: sum(1 for _ in state.scan(b"", b"\xff")))
    view = state.view()
    middle = b"%012d" % (written // 2)
    seek = per_call(lambda: sum(1 for _ in range(2000) if view.seek(middle)))
    get = per_call(lambda: sum(1 for _ in range(2000) if state.get(middle)))
    view.close()
    print(f"  scan {scan:.2f} us/row; seek {seek:.2f} us; get {get:.2f} us (hot)")
    mark = per_call(lambda: directory._mark.update() or 1)
    print(f"Mark: both copies written and synced in {mark:.0f} us")
    directory.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--payload", type=int, default=256, help="bytes per entry and row")
    parser.add_argument("--seconds", type=float, default=1.0, help="per measured batch size")
    parser.add_argument("--directory", default=None, help="where to write; default: temporary")
    options = parser.parse_args()
    payload = bytes(range(256)) * (options.payload // 256 + 1)
    payload = payload[: options.payload]
    with tempfile.TemporaryDirectory(dir=options.directory) as path:
        report_log(path, payload, options.seconds)
        report_memory(payload, options.seconds)
        report_state(path, payload)


if __name__ == "__main__":
    main()
