"""Queue, counter and partitioner while leaders die, are cut off and stand still.

A run goes on through all faults; at its end what happened is counted.
"""

import threading
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Final

import pytest

from raftkv.client import ClientError, NotAcquired, Outcome
from raftkv.client.sync import Client
from raftkv.testing import Cluster
from tests.client.recipes.contention import Beside, wait_until
from tests.client.recipes.test_partitioner import NAMES, Floor, running

pytestmark = pytest.mark.slow

WORKERS: Final = 4


@pytest.fixture(scope="module")
def shared() -> Iterator[Cluster]:
    with Cluster(3, processes=True) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared: Cluster) -> Iterator[Cluster]:
    yield shared
    shared.recover()


def kill(cluster: Cluster) -> None:
    """The leader dies and comes back."""
    cluster.restart(cluster.kill_leader(), wait=False)


def isolate(cluster: Cluster) -> None:
    """The leader is cut off from the others and goes on answering its clients."""
    cluster.isolate(cluster.wait_leader())


def pause(cluster: Cluster) -> None:
    """The leader stands still; what was sent to it may arrive late."""
    cluster.pause(cluster.wait_leader())


FAULTS: Final = (kill, isolate, pause)


def through_faults(cluster: Cluster, progress: Callable[[], int], step: int) -> None:
    """One fault after the other, each while the work goes on and until it has gone on behind it."""
    for fault in FAULTS:
        before = progress()
        wait_until(lambda: progress() >= before + step)  # noqa: B023
        fault(cluster)
        before = progress()
        wait_until(lambda: progress() >= before + step, 30)  # noqa: B023
        cluster.recover()


def rotated(cluster: Cluster, first: int) -> str:
    """The cluster's endpoints, beginning with another one for each worker."""
    endpoints = cluster.endpoints
    first %= len(endpoints)
    return ",".join(endpoints[first:] + endpoints[:first])


def client_of(cluster: Cluster, worker: int) -> Client:
    return Client(rotated(cluster, worker), timeout=2.0, keepalive_time=0.5, keepalive_timeout=0.5)


def test_a_counter_has_the_sum_of_the_additions_that_were_acknowledged(cluster: Cluster) -> None:
    """C01, C02: what failed for certain is not in it; what is unknown may be, once."""
    over = threading.Event()
    guard = threading.Lock()
    acknowledged: list[int] = []
    unknown: list[int] = []

    def add(worker: int) -> None:
        with client_of(cluster, worker) as client:
            counter = client.counter("fault/counter")
            while not over.is_set():
                delta = 10 ** (2 * worker)
                try:
                    counter.add(delta, timeout=3.0)
                except ClientError as error:
                    if error.outcome is Outcome.UNKNOWN:
                        with guard:
                            unknown.append(delta)
                else:
                    with guard:
                        acknowledged.append(delta)

    workers = [Beside(lambda n=n: add(n)) for n in range(WORKERS)]  # type: ignore[misc]
    through_faults(cluster, lambda: len(acknowledged), 20)
    over.set()
    for worker in workers:
        worker.result()
    with Client(cluster.endpoint) as client:
        total = client.counter("fault/counter").get()
    # The rest must be a sum of some of the unknown ones.
    rest = total - sum(acknowledged)
    possible = {0}
    for delta in unknown:
        possible |= {so_far + delta for so_far in possible}
    assert rest in possible, (rest, unknown)
    assert len(acknowledged) > 6 * 20


def test_a_queue_loses_no_item_and_each_is_done_once(cluster: Cluster) -> None:
    """C01, C02: by claim and done; what was put for certain is done for certain."""
    over = threading.Event()
    guard = threading.Lock()
    put: list[bytes] = []
    doubtful: set[bytes] = set()
    done: Tally[bytes] = Tally()

    def produce(worker: int) -> None:
        with client_of(cluster, worker) as client:
            queue = client.queue("fault/queue")
            number = 0
            while not over.wait(0.005):
                number += 1
                item = b"%d-%d" % (worker, number)
                try:
                    queue.put(item)
                except ClientError as error:
                    if error.outcome is Outcome.UNKNOWN:
                        with guard:
                            doubtful.add(item)
                else:
                    with guard:
                        put.append(item)

    def consume(worker: int) -> None:
        with client_of(cluster, worker) as client:
            queue = client.queue("fault/queue")
            while True:
                try:
                    claim = queue.claim(timeout=3.0, ttl=3)
                except NotAcquired:
                    if over.is_set():
                        return
                    continue
                except ClientError:
                    continue
                while True:
                    try:
                        claim.done()
                    except ClientError as error:
                        if error.outcome is Outcome.UNKNOWN:
                            continue  # `done` may be called again
                        claim.release()  # not done: somebody else will be
                    else:
                        with guard:
                            done[claim.value] += 1
                    break

    producers = [Beside(lambda n=n: produce(n)) for n in range(2)]  # type: ignore[misc]
    consumers = [Beside(lambda n=n: consume(n)) for n in range(2)]  # type: ignore[misc]
    through_faults(cluster, lambda: sum(done.values()), 30)
    over.set()
    for worker in producers + consumers:
        worker.result(60)
    assert set(put) <= set(done)
    assert set(done) <= set(put) | doubtful
    assert max(done.values()) == 1
    with Client(cluster.endpoint) as client:
        assert client.queue("fault/queue").size() == 0
        assert client.count("_claims/fault/queue") == 0


def test_a_partition_never_has_two_functions(cluster: Cluster) -> None:
    """By the clocks of all, while members come and go and leaders fail."""
    floor = Floor()
    with ExitStack() as stack:
        for number, who in enumerate("abc"):
            endpoints = rotated(cluster, number)
            stack.enter_context(running(endpoints, "fault/", floor, who, ttl=3))
        for fault in FAULTS:
            wait_until(lambda: sorted(floor.sizes().values()) == [2, 3, 3], 40)
            fault(cluster)
            with running(rotated(cluster, 1), "fault/", floor, "d", ttl=3):
                wait_until(lambda: sorted(floor.sizes().values()) == [2, 2, 2, 2], 40)
            cluster.recover()
            floor.check()
        wait_until(lambda: sorted(floor.sizes().values()) == [2, 3, 3], 40)
    floor.check()
    assert all(not each for each in floor.owners().values())
    assert len(NAMES) == len(floor.tokens)
