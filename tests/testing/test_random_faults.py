"""Faults in a random order, while clients write: a cluster for tests is as safe as any other."""

import threading
import time
from contextlib import suppress
from random import Random

import pytest

from raftkv.testing import Cluster, probe
from tests.testing.calls import get, put

SECONDS = 6.0
ENOUGH = 50  # writes that were acknowledged; with fewer nothing is shown
PATIENCE_SECONDS = 200.0  # in which a busy machine comes to as many
WRITERS = 3
FAULTS = ("kill", "kill all", "pause", "isolate", "cut", "delay", "terminate", "recover")


class Writer(threading.Thread):
    """Puts one key after the other at random members. acknowledged: those that were answered."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        super().__init__(name=f"writer-{number}")
        self.acknowledged: list[bytes] = []
        self.over = threading.Event()
        self._cluster = cluster
        self._random = Random(number)

    def run(self) -> None:
        """Until `over` is set."""
        number = 0
        while not self.over.is_set():
            key = f"{self.name}/{number}".encode()
            number += 1
            with suppress(probe.CallFailed):
                put(self._cluster, self._random.randrange(self._cluster.nodes), key, b"v", 1.0)
                self.acknowledged.append(key)


def strike(cluster: Cluster, fault: str, index: int) -> None:
    """One fault."""
    everyone = range(cluster.nodes)
    if fault == "kill":
        cluster.kill(index)
    elif fault == "kill all":
        for one in everyone:
            cluster.kill(one)
    elif fault == "pause" and cluster.members[index].running:
        cluster.pause(index)
    elif fault == "isolate":
        cluster.isolate(index)
    elif fault == "cut":
        cluster.network.cut([index], [(index + 1) % cluster.nodes])
    elif fault == "delay":
        cluster.network.delay(everyone, everyone, 0.02)
    elif fault == "terminate":
        cluster.terminate(index)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [False, True], ids=["threads", "processes"])
def test_no_acknowledged_write_is_lost(processes: bool) -> None:
    """Whatever happens to members and network, in whatever order."""
    random = Random(7)
    with Cluster(3, processes=processes, flags={"snapshot-count": "40"}) as cluster:
        writers = [Writer(cluster, number) for number in range(WRITERS)]
        for writer in writers:
            writer.start()
        try:
            began = time.monotonic()
            while (passed := time.monotonic() - began) < SECONDS or (
                sum(len(writer.acknowledged) for writer in writers) <= ENOUGH
                and passed < PATIENCE_SECONDS
            ):
                fault = random.choice(FAULTS)
                strike(cluster, fault, random.randrange(3))
                time.sleep(random.uniform(0.0, 0.5))  # how long it lasts is part of the fault
                if fault in ("kill all", "recover") or random.random() < 0.5:
                    cluster.recover()
        finally:
            for writer in writers:
                writer.over.set()
            for writer in writers:
                writer.join()
        cluster.recover()
        acknowledged = [key for writer in writers for key in writer.acknowledged]
        assert len(acknowledged) > ENOUGH
        lost = [key for key in acknowledged if get(cluster, 0, key) != b"v"]
        assert lost == []
