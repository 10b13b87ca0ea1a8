"""C15: a store that was put back, or replaced, under watches that go on; against a real etcd."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from raftkv.client import Client, ClusterChanged
from tests.client.faces import Faces
from tests.processes import ETCD, ETCDCTL, Server, free_ports


class Etcd:
    """One etcd on fixed ports, over one data directory or another."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.client_port, self.peer_port = free_ports(2)
        self.endpoint = f"127.0.0.1:{self.client_port}"
        self._peer = f"http://127.0.0.1:{self.peer_port}"

    @contextmanager
    def running(self, data: str, token: str = "one") -> Iterator[None]:
        """Runs it over the directory `data`; `token` makes the cluster's id."""
        client = f"http://{self.endpoint}"
        flags = [
            *("--name", "m", "--data-dir", str(self.directory / data), "--log-level", "warn"),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", self._peer, "--initial-advertise-peer-urls", self._peer),
            *("--initial-cluster", f"m={self._peer}", "--initial-cluster-token", token),
        ]
        server = Server("m", [str(ETCD), *flags], self.directory, self.client_port, self.peer_port)
        server.start()
        try:
            server.wait_ready()
            yield
        finally:
            server.kill()

    def save(self) -> None:
        """Takes a backup."""
        self._etcdctl("--endpoints", self.endpoint, "snapshot", "save", self._backup)

    def restore(self, data: str) -> None:
        """Makes the directory `data` out of the backup."""
        made = ("--name", "m", "--data-dir", str(self.directory / data))
        cluster = ("--initial-cluster", f"m={self._peer}", "--initial-cluster-token", "one")
        peers = ("--initial-advertise-peer-urls", self._peer)
        self._etcdctl("snapshot", "restore", self._backup, *made, *cluster, *peers)

    @property
    def _backup(self) -> str:
        return str(self.directory / "backup")

    def _etcdctl(self, *arguments: str) -> None:
        subprocess.run([str(ETCDCTL), *arguments], check=True, capture_output=True)


@pytest.fixture
def both() -> Iterator[tuple[Faces, Faces]]:
    faces = Faces("sync"), Faces("aio")
    yield faces
    for one in faces:
        one.close()


def test_a_restored_backup_ends_the_watch(tmp_path: Path, both: tuple[Faces, Faces]) -> None:
    """C15: the same cluster id, an older past. What the user knows is void, and is told so."""
    etcd = Etcd(tmp_path)
    watches = [connect(etcd.endpoint).watch("k") for connect in both]
    with etcd.running("before"), Client(etcd.endpoint) as client:
        client.put("k", "in the backup")
        etcd.save()
        for watch in watches:
            watch.open()
        for number in range(10):
            last = client.put("k", str(number)).revision
        for watch in watches:
            while watch.next_revision <= last:
                watch.next(50)
    etcd.restore("after")
    with etcd.running("after"):
        for watch in watches:
            with pytest.raises(ClusterChanged) as caught:
                watch.next(50)
            assert str(last) in str(caught.value)
            with pytest.raises(ClusterChanged):
                watch.next(1)


def test_another_cluster_at_the_same_address_ends_the_watch(
    tmp_path: Path, both: tuple[Faces, Faces]
) -> None:
    """C15: the cluster id is another, although its revisions may have gone further."""
    etcd = Etcd(tmp_path)
    watches = [connect(etcd.endpoint).watch("k") for connect in both]
    with etcd.running("one"):
        for watch in watches:
            watch.open()
    with etcd.running("two", token="two"), Client(etcd.endpoint) as client:
        for number in range(10):
            client.put("k", str(number))
        for watch in watches:
            with pytest.raises(ClusterChanged):
                watch.next(50)


def test_the_same_store_after_a_restart_does_not_end_the_watch(
    tmp_path: Path, both: tuple[Faces, Faces]
) -> None:
    """R42 does not hold for etcd 3.5.1: a single one answers before a write is in its log.

    So a kill may undo the last write, and the next one gets the same revision, which no watch can
    notice. The write behind this one shows that this one is in the log.
    """
    etcd = Etcd(tmp_path)
    watches = [connect(etcd.endpoint).watch("k") for connect in both]
    with etcd.running("one"), Client(etcd.endpoint) as client:
        for watch in watches:
            watch.open()
        client.put("k", "1")
        client.put("behind", "it")
    with etcd.running("one"), Client(etcd.endpoint) as client:
        client.put("k", "2")
        for watch in watches:
            texts: list[str] = []
            while len(texts) < 2:
                texts += [event.text for event in watch.next(50)]
            assert texts == ["1", "2"]
