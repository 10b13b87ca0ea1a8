"""What the state machine costs: microseconds per operation, and memory and load time of many keys.

    python bench/kv_cost.py            operations on a machine over LevelDB
    python bench/kv_cost.py --keys N   N live keys of 64-byte values: RSS and time to open

Each number is the best of several runs of many operations, in CPU time of the thread, so that a
busy machine disturbs little.
"""

import argparse
import gc
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from raftkv.kv import commands
from raftkv.kv.backend import Backend
from raftkv.kv.machine import Bootstrap, MachineSettings, StateMachine
from raftkv.kv.members import Member
from raftkv.pb import rpc_pb2 as pb
from raftkv.raft.types import NORMAL, Configuration, Entry
from raftkv.storage.leveldb import LevelBackend

VALUE = b"v" * 64
BATCH = 1000
WRITE_BUFFER_BYTES = 16 << 20


def open_backend(path: Path) -> LevelBackend:
    """The real thing, at `path`."""
    return LevelBackend(str(path), not path.exists(), WRITE_BUFFER_BYTES)


def open_machine(backend: Backend) -> StateMachine:
    """A machine of one member."""
    return StateMachine(backend, 1, MachineSettings(), Bootstrap(Configuration((1,)), [Member(1)]))


class Load:
    """Applies requests as entries of a log."""

    def __init__(self, machine: StateMachine) -> None:
        self.machine = machine
        self.index = machine.applied_index

    def entries(self, command: int, requests: list[bytes]) -> list[Entry]:
        """Entries as the log delivers them, with an origin as forwarded commands have."""
        made = []
        for request in requests:
            self.index += 1
            payload = commands.encode(command, request, origin=(1, 2, self.index))
            made.append(Entry(self.index, 1, NORMAL, payload))
        return made

    def apply(self, entries: list[Entry]) -> float:
        """Seconds to apply them, without the flush."""
        apply = self.machine.apply
        begin = time.thread_time()
        for entry in entries:
            apply(entry)
        return time.thread_time() - begin


def best(runs: int, once: Callable[[], float]) -> float:
    """The smallest of some measurements."""
    return min(once() for _ in range(runs))


def show(name: str, seconds: float, count: int) -> None:
    """One line of the report."""
    print(f"{name:44s} {seconds / count * 1e6:9.2f} us")


def operations(machine: StateMachine) -> None:
    """Cost of each kind of operation."""
    load = Load(machine)
    flushes: list[float] = []

    def puts(keys: list[bytes]) -> float:
        requests = [pb.PutRequest(key=k, value=VALUE).SerializeToString() for k in keys]
        seconds = load.apply(load.entries(commands.PUT, requests))
        begin = time.thread_time()
        machine.flush()
        flushes.append(time.thread_time() - begin)
        return seconds

    fresh = iter(range(10**9))
    names = [b"key-%06d" % i for i in range(BATCH)]
    new = lambda: puts([b"new-%08d" % next(fresh) for _ in range(BATCH)])  # noqa: E731
    show("put, new key", best(30, new), BATCH)
    show("  flush per put", min(flushes), BATCH)
    flushes.clear()
    show("put, same keys", best(30, lambda: puts(names)), BATCH)
    show("  flush per put", min(flushes), BATCH)

    points = [pb.RangeRequest(key=name).SerializeToString() for name in names]

    def reads(requests: list[bytes]) -> float:
        begin = time.thread_time()
        for request in requests:
            machine.range(request)
        return time.thread_time() - begin

    show("range of one key, cached", best(30, lambda: reads(points)), BATCH)
    hundred = [pb.RangeRequest(key=b"key-0001", range_end=b"key-0002").SerializeToString()] * 20
    show("range of 100 keys, cached", best(30, lambda: reads(hundred)), 20)
    past = [
        pb.RangeRequest(
            key=b"key-0001", range_end=b"key-0002", revision=machine.revision - 50
        ).SerializeToString()
    ] * 20
    show("range of 100 keys, 50 revisions ago", best(10, lambda: reads(past)), 20)
    old = [
        pb.RangeRequest(
            key=b"key-0001", range_end=b"key-0002", revision=machine.revision - 15000
        ).SerializeToString()
    ] * 20
    show("range of 100 keys, 15 versions ago", best(10, lambda: reads(old)), 20)
    counts = [pb.RangeRequest(key=b"\0", range_end=b"\0", count_only=True).SerializeToString()] * 20
    show("count of everything", best(10, lambda: reads(counts)), 20)
    swap = pb.TxnRequest(
        compare=[pb.Compare(key=names[1], target=pb.Compare.VERSION, version=0)],
        success=[pb.RequestOp(request_put=pb.PutRequest(key=names[1], value=VALUE))],
        failure=[
            pb.RequestOp(request_put=pb.PutRequest(key=names[1], value=VALUE)),
            pb.RequestOp(request_range=pb.RangeRequest(key=names[2])),
        ],
    ).SerializeToString()
    txns = lambda: load.apply(load.entries(commands.TXN, [swap] * BATCH))  # noqa: E731
    show("txn, 1 compare, put, range", best(10, txns), BATCH)
    machine.flush()


def many_keys(path: Path, count: int) -> None:
    """Write `count` keys; then, in a process of its own, open them again."""
    backend = open_backend(path)
    load = Load(open_machine(backend))
    begin = time.perf_counter()
    for first in range(0, count, BATCH):
        keys = [b"registry/pods/%010d" % (i * 7919 % count) for i in range(first, first + BATCH)]
        requests = [pb.PutRequest(key=k, value=VALUE).SerializeToString() for k in keys]
        load.apply(load.entries(commands.PUT, requests))
        load.machine.flush()
    seconds = time.perf_counter() - begin
    print(f"{count} keys written in {seconds:.1f} s, {rss_megabytes():.0f} MB RSS")
    backend.sync()


def reopen(path: Path) -> None:
    """Time and memory of opening what `many_keys` wrote."""
    before = rss_megabytes()
    backend = open_backend(path)
    begin = time.perf_counter()
    machine = open_machine(backend)
    seconds = time.perf_counter() - begin
    gc.collect()
    after = rss_megabytes()
    print(
        f"{machine.status().keys} keys opened in {seconds:.2f} s,"
        f" {after:.0f} MB RSS ({before:.0f} before)"
    )


def rss_megabytes() -> float:
    """Resident memory of this process, MB."""
    return float(psutil.Process().memory_info().rss) / 1e6


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=0)
    parser.add_argument("--open", type=Path, help="only open this directory")
    chosen = parser.parse_args()
    if chosen.open:
        reopen(chosen.open)
        return
    directory = Path(tempfile.mkdtemp(prefix="raftkv-kv-cost-"))
    try:
        if chosen.keys:
            many_keys(directory / "state", chosen.keys)
            print(f"now: {sys.executable} {__file__} --open {directory / 'state'}")
        else:
            operations(open_machine(open_backend(directory / "state")))
    finally:
        if not chosen.keys:
            shutil.rmtree(directory)


if __name__ == "__main__":
    main()
