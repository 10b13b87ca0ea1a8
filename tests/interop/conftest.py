"""One three-node raftkv cluster for the whole session, which the tests leave running."""

import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests import processes
from tests.processes import Cluster

Completed = subprocess.CompletedProcess[str]
Etcdctl = Callable[..., Completed]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with processes.raftkv(tmp_path_factory.mktemp("interop"), 3) as running:
        yield running


@pytest.fixture(params=[0, 1, 2], ids=["node1", "node2", "node3"])
def node(request: pytest.FixtureRequest, cluster: Cluster) -> processes.Server:
    """Each node of the cluster in turn."""
    server: processes.Server = cluster.servers[request.param]
    return server


@pytest.fixture
def cluster_node(cluster: Cluster) -> processes.Server:
    """One node of the cluster."""
    return cluster.servers[0]


@pytest.fixture
def etcdctl(node: processes.Server) -> Etcdctl:
    """Runs the real etcdctl against one node: arguments in, completed process out."""

    def run(
        *arguments: str, stdin: str = "", fails: bool = False
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(processes.ETCDCTL), "--endpoints", node.endpoint, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode != 0) is fails, (done.args, done.stdout, done.stderr)
        return done

    return run
