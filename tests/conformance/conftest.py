"""Servers for the conformance tests: a real etcd, one raftkv node, and a follower of three.

A test that takes `store` runs against each of them: what it says is first of all true of etcd.
The servers are shared by the whole session; a test that takes `fresh_store` has its own.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest

from raftkv import testing
from raftkv.pb import rpc_pb2
from raftkv.testing import Cluster
from tests import processes
from tests.conformance.store import Store
from tests.conformance.streams import WatchStream, skip_unless_offered
from tests.conformance.target import Target
from tests.processes import StartFailed

Open = Callable[[], WatchStream]

# The smallest TTL of a lease follows from the election timeout.
LIKE_ETCD = {"heartbeat-interval": "100", "election-timeout": "1000"}
SUBJECTS = ("etcd", "raftkv", "raftkv-follower")
_numbers = count()


class Subjects:
    """Starts each server when it is first asked for."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self._targets: dict[str, Target] = {}
        self._failures: dict[str, Exception] = {}

    def target(self, name: str) -> Target:
        if name in self._failures:
            raise self._failures[name]
        if name not in self._targets:
            try:
                self._targets[name] = self.start(name, self._directory / name, self._stack)
            except (StartFailed, testing.StartFailed) as failure:
                self._failures[name] = failure
                raise
        return self._targets[name]

    @staticmethod
    def start(name: str, directory: Path, stack: ExitStack) -> Target:
        if name == "etcd":
            etcd = stack.enter_context(processes.etcd(directory, "--unsafe-no-fsync"))
            endpoints = [server.endpoint for server in etcd.servers]
        else:
            nodes = 3 if "follower" in name else 1
            cluster = Cluster(nodes, processes=True, flags=LIKE_ETCD)
            endpoints = stack.enter_context(cluster).endpoints
        targets = [stack.enter_context(Target(endpoint)) for endpoint in endpoints]
        return targets[0] if len(targets) == 1 else next(t for t in targets if not _leads(t))


def _leads(target: Target) -> bool:
    status = target.call(rpc_pb2.StatusRequest()).message
    assert isinstance(status, rpc_pb2.StatusResponse)
    return status.leader == status.header.member_id


@pytest.fixture(scope="session")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subjects]:
    with ExitStack() as stack:
        yield Subjects(tmp_path_factory.mktemp("conformance"), stack)


@pytest.fixture(params=SUBJECTS)
def store(request: pytest.FixtureRequest, subjects: Subjects) -> Store:
    """A server of each kind, shared, and a prefix of this test's own."""
    return Store(subjects.target(request.param), b"%06d/" % next(_numbers))


@pytest.fixture(params=SUBJECTS[:2])
def fresh_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A server that nobody has written to."""
    with ExitStack() as stack:
        yield Store(Subjects.start(request.param, tmp_path, stack), b"k/")


@pytest.fixture
def etcd_and_raftkv(tmp_path: Path) -> Iterator[Callable[[int], tuple[Target, list[Target]]]]:
    """A function: number of raftkv nodes -> (a fresh etcd, the nodes of a fresh raftkv)."""
    with ExitStack() as stack:

        def start(nodes: int) -> tuple[Target, list[Target]]:
            judge = stack.enter_context(processes.etcd(tmp_path / "etcd", "--unsafe-no-fsync"))
            subject = stack.enter_context(processes.raftkv(tmp_path / "raftkv", nodes))
            targets = [
                stack.enter_context(Target(server.endpoint))
                for server in (*judge.servers, *subject.servers)
            ]
            return targets[0], targets[1:]

        yield start


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as open_things:
        yield open_things


def opener(target: Target, stack: ExitStack) -> Open:
    """A function that opens watch streams of a server that has them."""
    skip_unless_offered(target, "Watch.Watch")

    def start() -> WatchStream:
        stream = WatchStream(target)
        stack.callback(stream.close)
        return stream

    return start


@pytest.fixture
def open_stream(store: Store, stack: ExitStack) -> Open:
    return opener(store.target, stack)


@pytest.fixture
def stream(open_stream: Open) -> WatchStream:
    return open_stream()
