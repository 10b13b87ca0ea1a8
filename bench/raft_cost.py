"""What the consensus core costs per entry: three members in memory, no disk, no network.

    python -m bench.raft_cost [--entries N]

Each turn proposes one batch on the leader and runs all three cores until it is applied
everywhere. Printed: microseconds per entry on the leader and on one follower, for batches
of 1, 16 and 64 entries. Ratios matter more than values.
"""

import argparse
import gc
from collections import deque
from random import Random
from time import perf_counter

from raftkv.raft.core import Core, CoreSettings
from raftkv.raft.messages import Message
from raftkv.raft.types import Configuration, Entry, HardState, RecoveredLog, SnapshotMeta

PAYLOAD = b"p" * 128
SLICES = 40  # the quickest one counts: other work on the machine only slows


class NoDisk:
    """Everything read here is in memory."""

    def entries(self, first: int, last: int, max_bytes: int) -> list[Entry]:
        """Never asked."""
        raise AssertionError("read below the cache")


class Cluster:
    """Three cores whose batches are durable at once; the time of each is counted."""

    def __init__(self) -> None:
        configuration = Configuration((1, 2, 3))
        empty = RecoveredLog(HardState(), 0, 0, 0, 0, [], [])
        meta = SnapshotMeta(0, 0, configuration)
        self.cores = {
            member: Core(CoreSettings(member), empty, NoDisk(), meta, Random(member))
            for member in configuration.voters
        }
        self.seconds = dict.fromkeys(self.cores, 0.0)
        self.messages = 0
        self.queue: deque[Message] = deque()
        leader = self.cores[1]
        leader.campaign()
        self.flow()
        assert leader.is_leader

    def flow(self) -> None:
        """Turns and deliveries until nothing moves."""
        queue = self.queue
        while True:
            moved = False
            for member, core in self.cores.items():
                if not core.has_ready():
                    continue
                moved = True
                began = perf_counter()
                ready = core.ready()
                if ready.batch is not None:
                    core.persisted(ready.batch.number)
                if ready.committed:
                    core.applied_to(ready.committed[-1].index)
                self.seconds[member] += perf_counter() - began
                queue.extend(ready.messages)
                queue.extend(ready.after)
            self.messages += len(queue)
            while queue:
                message = queue.popleft()
                core = self.cores[message.to]
                began = perf_counter()
                core.step(message)
                self.seconds[message.to] += perf_counter() - began
            if not moved:
                return


def measure(batch: int, entries: int) -> tuple[float, float, float]:
    """Microseconds per entry of the quickest slice: leader, one follower; messages per batch."""
    cluster = Cluster()
    leader = cluster.cores[1]
    cluster.messages = 0
    payloads = [PAYLOAD] * batch
    turns = max(1, entries // batch // SLICES)
    leaders, followers = [], []
    for _ in range(SLICES):
        cluster.seconds = seconds = dict.fromkeys(cluster.cores, 0.0)
        for _ in range(turns):
            began = perf_counter()
            leader.propose(payloads)
            seconds[1] += perf_counter() - began
            cluster.flow()
        leaders.append(seconds[1] / turns / batch * 1e6)
        followers.append((seconds[2] + seconds[3]) / 2 / turns / batch * 1e6)
    assert leader.commit == SLICES * turns * batch + 1
    return min(leaders), min(followers), cluster.messages / turns / SLICES


def main() -> None:
    """Print one line per batch size."""
    parser = argparse.ArgumentParser(description="cost of the consensus core per entry")
    parser.add_argument("--entries", type=int, default=64_000)
    entries = parser.parse_args().entries
    gc.freeze()
    print("batch   leader us/entry   follower us/entry   messages/batch")
    for batch in (1, 16, 64):
        leader, follower, messages = measure(batch, entries)
        print(f"{batch:5}   {leader:15.2f}   {follower:17.2f}   {messages:14.1f}")


if __name__ == "__main__":
    main()
