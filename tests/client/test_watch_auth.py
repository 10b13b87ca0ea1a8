"""Watches of a client with a name and a password; etcd has users, raftkv has none yet."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from raftkv.client import Client
from raftkv.client.errors import AuthenticationFailed, PermissionDenied
from tests.client.faces import Faces
from tests.processes import ETCDCTL, Server, etcd

COMMANDS = (
    "user add root:secret",
    "role add root",
    "user grant-role root root",
    "user add reader:pass",
    "role add reads",
    "role grant-permission reads --prefix=true read open/",
    "user grant-role reader reads",
    "auth enable",
)


@pytest.fixture
def both() -> Iterator[tuple[Faces, Faces]]:
    faces = Faces("sync"), Faces("aio")
    yield faces
    for one in faces:
        one.close()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Server]:
    """An etcd where `reader` may read below open/."""
    with etcd(tmp_path) as cluster:
        for command in COMMANDS:
            _etcdctl(cluster.servers[0], *command.split())
        yield cluster.servers[0]


def _etcdctl(server: Server, *arguments: str) -> None:
    subprocess.run(
        [str(ETCDCTL), "--endpoints", server.endpoint, *arguments], check=True, capture_output=True
    )


def test_watches_need_permission_and_survive_a_token_that_was_forgotten(
    guarded: Server, both: tuple[Faces, Faces]
) -> None:
    """C13: the server restarts and knows no token any more; a new login is made, once."""
    login = {"user": "reader", "password": "pass"}
    clients = [connect(guarded.endpoint, **login) for connect in both]
    watches = [client.watch("open/", prefix=True) for client in clients]
    for watch in watches:
        watch.open()
    for client in clients:
        with pytest.raises(PermissionDenied):
            client.watch("closed").next(60)
    guarded.kill()
    guarded.start()
    with Client(
        guarded.endpoint, user="root", password="secret", timeout=60, dial_timeout=60
    ) as root:
        root.put("open/k", "v")
    for watch in watches:
        assert watch.next(60).events[0].text == "v"


def test_a_wrong_password_ends_a_watch_before_it_begins(
    guarded: Server, both: tuple[Faces, Faces]
) -> None:
    for connect in both:
        watch = connect(guarded.endpoint, user="reader", password="wrong").watch("open/")
        with pytest.raises(AuthenticationFailed):
            watch.open()
