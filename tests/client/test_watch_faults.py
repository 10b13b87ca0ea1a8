"""Watches over dying, paused, cut off and silent servers: no event lost, repeated or reordered."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from raftkv.client import Client, ClientError, Compacted, TimedOut, Watch
from raftkv.testing import Cluster
from raftkv.testing.proxy import Network
from tests.client.faces import Faces
from tests.processes import etcd, free_ports

Seen = list[tuple[int, bytes, bytes]]


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    with Cluster(3, processes=True) as cluster:
        yield cluster


@pytest.fixture
def cluster(running: Cluster) -> Iterator[Cluster]:
    yield running
    running.recover()


@pytest.fixture
def both() -> Iterator[tuple[Faces, Faces]]:
    """Makers of synchronous and of asynchronous clients."""
    faces = Faces("sync"), Faces("aio")
    yield faces
    for one in faces:
        one.close()


class Veil:
    """A proxy in front of each endpoint, for clients. endpoints: the proxies'."""

    def __init__(self, endpoints: list[str]) -> None:
        self.network = Network()
        ports = free_ports(len(endpoints))
        self.endpoints = [f"127.0.0.1:{port}" for port in ports]
        for node, (port, endpoint) in enumerate(zip(ports, endpoints, strict=True)):
            target = int(endpoint.rpartition(":")[2])
            self.network.add(node, port, target, lambda first: "client")

    def black_hole(self, *nodes: int) -> None:
        """These endpoints fall silent: nothing is refused or reset."""
        self.network.partition(["client"], nodes)


@pytest.fixture
def veil(cluster: Cluster) -> Iterator[Veil]:
    made = Veil(cluster.endpoints)
    yield made
    made.network.close()


class Writer:
    """Writes numbers until it is stopped, whatever happens; knows which were acknowledged."""

    def __init__(self, endpoints: str, prefix: str) -> None:
        self.acknowledged = 0
        self._endpoints = endpoints
        self._prefix = prefix
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        with Client(self._endpoints, timeout=2.0) as client:
            while not self._over.wait(0.002):
                number += 1
                try:
                    client.put(f"{self._prefix}{number % 3}", str(number))
                except ClientError:
                    continue
                self.acknowledged += 1

    def wait(self, more: int) -> None:
        """Waits until so many more writes were acknowledged."""
        wait_until(lambda goal=self.acknowledged + more: self.acknowledged >= goal)  # type: ignore[misc]

    def stop(self) -> None:
        self._over.set()
        self._thread.join(30)
        assert not self._thread.is_alive()


class Reader:
    """Reads a watch in a thread of its own."""

    def __init__(self, watch: Any) -> None:
        self.watch = watch
        self.seen: Seen = []
        self.error: ClientError | None = None
        self.latest = time.monotonic()
        watch.open()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for batch in self.watch:
                self.seen += [(event.revision, event.key, event.value) for event in batch]
                self.latest = time.monotonic()
        except ClientError as error:
            self.error = error

    def stop(self) -> None:
        self.watch.close()
        self._thread.join(30)
        assert not self._thread.is_alive()


def wait_until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    give_up = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < give_up, "did not come about"
        threading.Event().wait(0.01)


def rotated(endpoints: list[str], first: int) -> str:
    return ",".join(endpoints[first:] + endpoints[:first])


def history(cluster: Cluster, prefix: str, first: int, last: int) -> Seen:
    """What really happened, replayed by a watch that nothing disturbs."""
    with (
        Client(cluster.endpoint, timeout=60, dial_timeout=60) as client,
        client.watch(prefix, prefix=True, start_revision=first) as watch,
    ):
        return replayed(watch, last)


def replayed(watch: Watch, last: int) -> Seen:
    """What a watch brings up to a revision."""
    seen: Seen = []
    while not seen or seen[-1][0] < last:
        seen += [(event.revision, event.key, event.value) for event in watch.next(60)]
    return seen


Fault = Callable[[Cluster, Veil], object]


def kill_leader(cluster: Cluster, veil: Veil) -> None:
    cluster.restart(cluster.kill_leader(), wait=False)


def pause(cluster: Cluster, veil: Veil) -> None:
    """SIGSTOP: its kernel still acknowledges every byte."""
    cluster.pause(cluster.wait_leader())


def isolate(cluster: Cluster, veil: Veil) -> None:
    """C11: the member lives and answers, but knows no leader."""
    cluster.isolate((cluster.wait_leader() + 1) % 3)


def black_hole(cluster: Cluster, veil: Veil) -> None:
    """C10: no reset, no refusal, just nothing."""
    veil.black_hole(0)


def restart_all(cluster: Cluster, veil: Veil | None = None) -> None:
    for index in range(3):
        cluster.kill(index)
    for index in range(3):
        cluster.restart(index, wait=False)


@pytest.mark.parametrize("fault", [kill_leader, pause, isolate, black_hole, restart_all])
def test_a_watch_goes_on_without_a_gap(
    fault: Fault, cluster: Cluster, veil: Veil, both: tuple[Faces, Faces]
) -> None:
    """C06, C10, C11: three watches of each face, one per endpoint, while something breaks."""
    prefix = f"gap-{fault.__name__}/"
    writer = Writer(cluster.endpoint, prefix)
    readers = [
        Reader(
            connect(
                rotated(veil.endpoints, first), keepalive_time=0.5, keepalive_timeout=0.5
            ).watch(prefix, prefix=True)
        )
        for connect in both
        for first in range(3)
    ]
    writer.wait(20)
    first = max(reader.watch.next_revision for reader in readers)
    fault(cluster, veil)
    began = time.monotonic()
    writer.wait(50)
    writer.stop()
    with Client(cluster.endpoint) as client:
        last = max(kv.mod_revision for kv in client.get_prefix(prefix))
    wait_until(lambda: all(reader.seen and reader.seen[-1][0] == last for reader in readers))
    assert time.monotonic() - began < 80
    expected = history(cluster, prefix, 1, last)
    for reader in readers:
        assert reader.error is None
        assert reader.seen == expected[-len(reader.seen) :]
        assert reader.seen[0][0] <= first
        reader.stop()
    assert len(expected) >= 70


@pytest.mark.slow
def test_watches_and_leases_survive_every_member_of_a_real_etcd(
    tmp_path: Path, both: tuple[Faces, Faces]
) -> None:
    """C06: three members are killed or stopped in turn, the leader among them."""
    with etcd(tmp_path, nodes=3) as cluster:
        writer = Writer(cluster.endpoints, "etcd/")
        clients = [
            connect(cluster.endpoints, keepalive_time=0.5, keepalive_timeout=0.5)
            for connect in both
        ]
        leases = [client.lease(5, timeout=15) for client in clients]
        readers = [Reader(client.watch("etcd/", prefix=True)) for client in clients]
        first = max(reader.watch.next_revision for reader in readers)
        for number, server in enumerate(cluster.servers):
            writer.wait(30)
            if number == 1:
                os.kill(server.pid, signal.SIGSTOP)
                writer.wait(30)
                os.kill(server.pid, signal.SIGCONT)
            else:
                server.kill()
                writer.wait(30)
                server.start()
                server.wait_ready()
        writer.stop()
        assert all(lease.alive for lease in leases)
        with Client(cluster.endpoints, timeout=15) as client:
            last = max(kv.mod_revision for kv in client.get_prefix("etcd/"))
            with client.watch("etcd/", prefix=True, start_revision=first) as watch:
                expected = replayed(watch, last)
        wait_until(lambda: all(one.seen and one.seen[-1][0] >= last for one in readers))
        for reader in readers:
            assert reader.seen[-len(expected) :] == expected
            assert reader.error is None
            reader.stop()
        assert len(expected) >= 150


def test_a_silent_endpoint_is_left_in_bounded_time(
    cluster: Cluster, veil: Veil, both: tuple[Faces, Faces]
) -> None:
    """C10: within keepalive_time + keepalive_timeout, although nobody else talks to it."""
    for connect in both:
        with connect(rotated(veil.endpoints, 1), keepalive_time=0.5, keepalive_timeout=0.5).watch(
            "silent"
        ) as watch:
            assert watch._place == 0
            veil.black_hole(1)
            began = time.monotonic()
            with Client(cluster.endpoint) as client:
                client.put("silent", "x")
            assert watch.next(60).events[0].text == "x"
            assert time.monotonic() - began < 15, "1 s on a machine that is not busy"
            assert watch._place == 1
        veil.network.heal()


def test_no_busy_loop_while_every_endpoint_is_down(
    cluster: Cluster, both: tuple[Faces, Faces]
) -> None:
    """It goes on when they come back, and has used little of the processor meanwhile."""
    watches = [connect(cluster.endpoint).watch("down") for connect in both]
    for watch in watches:
        watch.open()
    for index in range(3):
        cluster.kill(index)
    before = time.process_time()
    for watch in watches:
        with pytest.raises(TimedOut):
            watch.next(1.5)
    assert time.process_time() - before < 1.5
    cluster.recover()
    with Client(cluster.endpoint) as client:
        client.put("down", "up again")
    for watch in watches:
        assert watch.next(60).events[0].text == "up again"


def test_a_compaction_while_it_was_away_is_told_apart(
    cluster: Cluster, both: tuple[Faces, Faces]
) -> None:
    """What it missed is gone for good: it must not go on as if nothing had happened."""
    watches = [connect(cluster.endpoint).watch("away") for connect in both]
    for watch in watches:
        watch.open()
    restart_all(cluster)
    cluster.recover()
    with Client(cluster.endpoint) as client:
        for number in range(5):
            revision = client.put("away", str(number)).revision
        client.compact(revision)
    for endpoint in cluster.endpoints:
        with Client(endpoint) as client:
            client.get("away")  # linearizable: the member has applied the compaction
    for watch in watches:
        with pytest.raises(Compacted) as caught:
            watch.next(60)
        assert caught.value.compact_revision == revision


@pytest.mark.parametrize("name", ["sync", "aio"])
def test_a_slow_reader_costs_bounded_memory(cluster: Cluster, name: str) -> None:
    """100 MB are written; the watch has read none of it, and then gets all of it in order."""
    value = os.urandom(1 << 20)
    with ExitStack() as stack:
        faces = Faces(name)
        stack.callback(faces.close)
        client = stack.enter_context(Client(cluster.endpoint))
        watch = faces(cluster.endpoint).watch(f"slow-{name}")
        watch.open()
        client.put(f"slow-{name}", value)
        before = psutil.Process().memory_info().rss
        for number in range(100):
            client.put(f"slow-{name}", b"%d " % number + value)
        grown = psutil.Process().memory_info().rss - before
        assert grown < 60 << 20
        numbers: list[bytes] = []
        while len(numbers) < 101:
            numbers += [event.value[:4].split(b" ")[0] for event in watch.next(60)]
        assert numbers[1:] == [b"%d" % number for number in range(100)]
        watch.close()
