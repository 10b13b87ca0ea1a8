"""Queue, counter, cache and partitioner while leaders die, are cut off and stand still.

A run goes on through all faults; at its end what happened is counted.
"""

import threading
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Final

import pytest

from raftkv.client import (
    Cache,
    ClientError,
    Delete,
    KeyValue,
    NotAcquired,
    Outcome,
    Put,
    Snapshot,
    Subscription,
    Txn,
)
from raftkv.client.sync import Client
from raftkv.testing import Cluster
from tests.client.gate import Gate
from tests.client.recipes.contention import Beside, wait_until
from tests.client.recipes.test_partitioner import NAMES, Floor, running

pytestmark = pytest.mark.slow

WORKERS: Final = 4
BACKLOG: Final = 30  # items that wait, at most


@pytest.fixture(scope="module")
def shared() -> Iterator[Cluster]:
    with Cluster(3, processes=True) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared: Cluster) -> Iterator[Cluster]:
    yield shared
    shared.recover()


@pytest.fixture
def gates(cluster: Cluster) -> Iterator[list[Gate]]:
    """One before each member, for its clients."""
    with ExitStack() as stack:
        yield [stack.enter_context(Gate(endpoint)) for endpoint in cluster.endpoints]


Fault = Callable[[Cluster, list[Gate]], None]


def kill(cluster: Cluster, gates: list[Gate]) -> None:
    """The leader dies and comes back."""
    cluster.restart(cluster.kill_leader(), wait=False)


def isolate(cluster: Cluster, gates: list[Gate]) -> None:
    """The leader is cut off from the others and goes on answering its clients."""
    cluster.isolate(cluster.wait_leader())


def pause(cluster: Cluster, gates: list[Gate]) -> None:
    """The leader stands still; what was sent to it may arrive late."""
    cluster.pause(cluster.wait_leader())


def lose_answers(cluster: Cluster, gates: list[Gate]) -> None:
    """What is asked is carried out, the answer does not come, and the connection breaks."""
    for gate in gates:
        gate.mute()
    threading.Event().wait(0.1)
    for gate in gates:
        gate.cut()
        gate.open()


FAULTS: Final[tuple[Fault, ...]] = (kill, lose_answers, isolate, lose_answers, pause, lose_answers)


def through_faults(
    cluster: Cluster, gates: list[Gate], progress: Callable[[], int], step: int
) -> None:
    """One fault after the other, each while the work goes on and until it has gone on behind it."""
    for fault in FAULTS:
        before = progress()
        wait_until(lambda: progress() >= before + step)  # noqa: B023
        fault(cluster, gates)
        before = progress()
        wait_until(lambda: progress() >= before + step)  # noqa: B023
        cluster.recover()


def rotated(gates: list[Gate], first: int) -> str:
    """The endpoints, beginning with another one for each worker."""
    first %= len(gates)
    return ",".join(gate.endpoint for gate in gates[first:] + gates[:first])


def client_of(gates: list[Gate], worker: int) -> Client:
    return Client(rotated(gates, worker), timeout=2.0, keepalive_time=0.5, keepalive_timeout=0.5)


def test_a_counter_has_the_sum_of_the_additions_that_were_acknowledged(
    cluster: Cluster, gates: list[Gate]
) -> None:
    """C01, C02: what failed for certain is not in it; what is unknown may be, once."""
    over = threading.Event()
    guard = threading.Lock()
    acknowledged: list[int] = []
    unknown: list[int] = []

    def add(worker: int) -> None:
        with client_of(gates, worker) as client:
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
    through_faults(cluster, gates, lambda: len(acknowledged), 20)
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
    assert len(acknowledged) >= 2 * len(FAULTS) * 20


def test_a_queue_loses_no_item_and_each_is_done_once(cluster: Cluster, gates: list[Gate]) -> None:
    """C01, C02: by claim and done; what was put for certain is done for certain."""
    over = threading.Event()
    guard = threading.Lock()
    put: list[bytes] = []
    doubtful: set[bytes] = set()
    done: Tally[bytes] = Tally()

    def produce(worker: int) -> None:
        with client_of(gates, worker) as client:
            queue = client.queue("fault/queue")
            number = 0
            while not over.wait(0.005):
                if len(put) - done.total() > BACKLOG:
                    continue  # a long queue only makes the end long
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
        with client_of(gates, worker) as client:
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
    through_faults(cluster, gates, done.total, 30)
    over.set()
    for worker in producers + consumers:
        worker.result(60)
    assert set(put) <= set(done)
    assert set(done) <= set(put) | doubtful
    assert max(done.values()) == 1
    with Client(cluster.endpoint) as client:
        assert client.queue("fault/queue").size() == 0
        assert client.count("_claims/fault/queue") == 0


def test_a_partition_never_has_two_functions(cluster: Cluster, gates: list[Gate]) -> None:
    """By the clocks of all, while members come and go and leaders fail."""
    floor = Floor()
    with ExitStack() as stack:
        for number, who in enumerate("abc"):
            endpoints = rotated(gates, number)
            stack.enter_context(running(endpoints, "fault/", floor, who, ttl=3))
        for fault in FAULTS:
            wait_until(lambda: sorted(floor.sizes().values()) == [2, 3, 3], 40)
            fault(cluster, gates)
            with running(rotated(gates, 1), "fault/", floor, "d", ttl=3):
                wait_until(lambda: sorted(floor.sizes().values()) == [2, 2, 2, 2], 40)
            cluster.recover()
            floor.check()
        wait_until(lambda: sorted(floor.sizes().values()) == [2, 3, 3], 40)
    floor.check()
    assert all(not each for each in floor.owners().values())
    assert len(NAMES) == len(floor.tokens)


def test_a_cache_and_its_changes_come_to_what_the_store_has(
    cluster: Cluster, gates: list[Gate]
) -> None:
    """C07, C10, C11: and on the way no reader ever sees half of a transaction."""
    over = threading.Event()
    written: list[int] = []
    wrong: list[Snapshot] = []
    follower: dict[bytes, KeyValue] = {}

    def write() -> None:
        with client_of(gates, 0) as client:
            number = 0
            while not over.wait(0.001):
                number += 1
                pair = [Put(f"fault/cache/{side}{number % 7}", str(number)) for side in "ab"]
                gone = [Delete(f"fault/cache/{side}{(number + 3) % 7}") for side in "ab"]
                with suppress(ClientError):
                    written.append(client.txn(Txn().then(*pair, *gone)).revision)

    def read(cache: Cache) -> None:
        while not over.wait(0.001):
            seen = cache.snapshot()
            left = {name[-1:]: kv.value for name, kv in seen.items() if b"/a" in name}
            right = {name[-1:]: kv.value for name, kv in seen.items() if b"/b" in name}
            if left != right or any(kv.mod_revision > seen.revision for kv in seen.values()):
                wrong.append(seen)

    def follow(changes: Subscription) -> None:
        for step in changes:
            for event in step:
                assert event.previous == follower.get(event.key)
                if event.is_put:
                    follower[event.key] = event.kv
                else:
                    del follower[event.key]

    with client_of(gates, 1) as client, client.cache("fault/cache/", check_seconds=0.3) as cache:
        changes = cache.changes()
        beside = [Beside(write), Beside(lambda: read(cache)), Beside(lambda: follow(changes))]
        through_faults(cluster, gates, lambda: len(written), 30)
        over.set()
        for each in beside[:2]:
            each.result()
        last = cache.catch_up(20)
        with Client(cluster.endpoint) as other:
            store = {kv.key: kv for kv in other.get_prefix("fault/cache/", revision=last)}
        assert dict(cache.snapshot().kvs) == store
        wait_until(lambda: follower == store)
        wait_until(lambda: cache.stale_for < 2)
        changes.close()
        beside[2].result()
    assert not wrong
    assert cache.loads == 1
