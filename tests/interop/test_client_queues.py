"""Everybody's clients wait in one lock queue and in one election, and nobody is skipped.

etcdctl, python-etcd3, aetcd and both faces of raftkv.client, against a raftkv cluster (each at
another member) and against etcd. The foreign Python clients need pip to be installed, each in an
environment of its own, which pytest's cache keeps; without pip these tests are skipped and say so.
"""

import itertools
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from bench import foreign
from raftkv.client import Client
from tests import processes
from tests.architecture import ROOT
from tests.interop.test_etcdctl_streams import Running
from tests.processes import Cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

MEMBER: Final = Path(__file__).with_name("queue_member.py")
QUEUE: Final = ("etcdctl", "etcd3", "client", "aetcd", "client.aio", "etcdctl", "client")
KINDS: Final = {"lock": "lock", "election": "elect"}
STEP_SECONDS: Final = 60.0
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def interpreters(request: pytest.FixtureRequest) -> dict[str, str]:
    """Library -> Python that has it."""
    cache = request.config.cache
    assert cache is not None
    place = cache.mkdir("foreign-clients")
    found = {"client": sys.executable, "client.aio": sys.executable}
    for name in foreign.REQUIREMENTS:
        try:
            found[name] = str(foreign.environment(name, place))
        except foreign.ForeignClientMissing as error:
            pytest.skip(f"pip cannot install other people's clients here: {error}")
    return found


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with processes.etcd(tmp_path_factory.mktemp("etcd-queues")) as running:
        yield running


@pytest.fixture(params=["raftkv", "etcd"])
def served(request: pytest.FixtureRequest) -> Cluster:
    """Each kind of server in turn."""
    found: Cluster = request.getfixturevalue("cluster" if request.param == "raftkv" else "etcd")
    return found


class Member:
    """Somebody in the queue: a process that prints its key once it holds."""

    def __init__(self, running: Running, library: str) -> None:
        self.client = library
        self.running = running

    def held(self) -> str:
        """Waits until it holds; returns its key."""
        return self.running.lines(1)[0]

    def release(self) -> None:
        """Gives its place up and waits until it has."""
        if self.client == "etcdctl":
            self.running.interrupt()
        else:
            self.running.say("enough")
            assert self.running.lines(1) == ["released"]


@contextmanager
def started(command: list[str], library: str) -> Iterator[Member]:
    running = Running(command)
    try:
        yield Member(running, library)
    finally:
        running.close()


Enter = Callable[[str, int], Member]


@contextmanager
def entrance(
    served: Cluster, interpreters: dict[str, str], kind: str, name: str
) -> Iterator[Enter]:
    """A function that lets a library enter the queue, the n-th one at another member each."""
    with ExitStack() as stack:

        def enter(library: str, number: int) -> Member:
            endpoint = served.servers[number % len(served.servers)].endpoint
            value = f"{number}-{library}"
            if library == "etcdctl":
                words = [name] if kind == "lock" else [name, value]
                command = [str(processes.ETCDCTL), "--endpoints", endpoint, KINDS[kind], *words]
            else:
                python = [interpreters[library], "-P", str(MEMBER)]
                if library.startswith("client"):
                    python = ["env", f"PYTHONPATH={ROOT}", *python]
                command = [*python, library, endpoint, kind, name, value]
            return stack.enter_context(started(command, library))

        yield enter


def wait_for_keys(client: Client, name: str, count: int, since: int) -> list[str]:
    """Waits until so many stand in the queue; returns their keys in the queue's order."""
    with client.watch(f"{name}/", prefix=True, start_revision=since) as watch:
        while client.count(f"{name}/") != count:
            watch.next(timeout=STEP_SECONDS)
    return [key.decode() for key in queue_of(client, name)]


def queue_of(client: Client, name: str) -> list[bytes]:
    """The keys of the queue in its order."""
    found = sorted(client.get_prefix(f"{name}/"), key=lambda kv: kv.create_revision)
    return [kv.key for kv in found]


@pytest.mark.parametrize("kind", KINDS)
def test_all_clients_wait_in_one_queue_in_the_order_of_their_coming(
    served: Cluster, interpreters: dict[str, str], kind: str
) -> None:
    """Who holds is always the oldest; the others have printed nothing when their turn comes."""
    name = f"queues/{kind}-{next(_numbers)}"
    with (
        Client(served.endpoints) as client,
        entrance(served, interpreters, kind, name) as enter,
    ):
        since = client.get("none").revision + 1
        members: list[Member] = []
        queue: list[str] = []
        for number, library in enumerate(QUEUE):
            members.append(enter(library, number))
            queue_now = wait_for_keys(client, name, number + 1, since)
            assert queue_now[:number] == queue, f"{library} did not go to the end"
            queue = queue_now
        tokens = []
        for place, member in enumerate(members):
            assert member.held() == queue[place], member.client
            assert [key.decode() for key in queue_of(client, name)] == queue[place:]
            tokens.append(client.get(queue[place]).create_revision)
            member.release()
        assert tokens == sorted(set(tokens))
        assert client.count(f"{name}/") == 0


@pytest.mark.parametrize("kind", KINDS)
def test_who_leaves_the_middle_of_a_mixed_queue_lets_nobody_in_too_early(
    served: Cluster, interpreters: dict[str, str], kind: str
) -> None:
    """An etcdctl in the middle is interrupted: those behind it go on to wait for the holder."""
    name = f"queues/{kind}-{next(_numbers)}"
    with (
        Client(served.endpoints) as client,
        entrance(served, interpreters, kind, name) as enter,
    ):
        since = client.get("none").revision + 1
        holder = enter("etcd3", 0)
        first = holder.held()
        leaver = enter("etcdctl", 1)
        wait_for_keys(client, name, 2, since)
        ours = enter("client", 2)
        queue = wait_for_keys(client, name, 3, since)
        theirs = enter("aetcd", 3)
        queue = wait_for_keys(client, name, 4, since)
        assert queue[0] == first

        leaver.running.interrupt()
        assert wait_for_keys(client, name, 3, since) == [queue[0], queue[2], queue[3]]
        holder.release()
        assert ours.held() == queue[2]
        assert queue_of(client, name) == [key.encode() for key in queue[2:]]
        ours.release()
        assert theirs.held() == queue[3]
        theirs.release()


def test_raftkvs_client_observes_whoever_leads(
    served: Cluster, interpreters: dict[str, str]
) -> None:
    name = f"queues/observed-{next(_numbers)}"
    libraries = ("etcdctl", "aetcd", "client", "etcd3")
    with (
        Client(served.endpoints) as client,
        entrance(served, interpreters, "election", name) as enter,
        client.election(name).observe() as leaders,
    ):
        for number, library in enumerate(libraries):
            member = enter(library, number)
            key = member.held()
            leader = leaders.next(timeout=STEP_SECONDS)
            assert leader.key.decode() == key
            assert leader.text == f"{number}-{library}"
            member.release()


def test_the_lock_of_python_etcd3_is_another_lock(
    served: Cluster, interpreters: dict[str, str]
) -> None:
    """Both hold: python-etcd3's is one key below /locks/, which the guide for movers says."""
    name = f"queues-{next(_numbers)}"
    host, _, port = served.servers[0].endpoint.rpartition(":")
    code = (
        f"import etcd3; c = etcd3.client({host!r}, {port}); lock = c.lock({name!r}, ttl=30);"
        "print(lock.acquire(timeout=5), flush=True); input(); lock.release(); print('released')"
    )
    with (
        Client(served.endpoints) as client,
        client.lock(f"/locks/{name}") as holding,
        started([interpreters["etcd3"], "-c", code], "etcd3") as other,
    ):
        assert other.held() == "True"
        assert client.get(f"/locks/{name}").exists
        assert holding.is_held
        other.release()
    assert re.fullmatch(rf"/locks/{name}/[0-9a-f]+", holding.key.decode())
