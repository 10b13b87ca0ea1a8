"""The pytest plugin, seen from a project that uses it: pytest runs inside the test."""

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

# Inner runs forget what they were the first to import. A second copy of asyncio does not get on
# with the C code of the first one, so all of it is imported before.
import raftkv.testing.cluster
import raftkv.testing.thread_member  # noqa: F401
from tests.architecture import ROOT

pytest_plugins = ["pytester"]

INSTALLED = any(point.value == "raftkv.testing.plugin" for point in entry_points(group="pytest11"))
PLUGIN = () if INSTALLED else ("-p", "raftkv.testing.plugin")

PUT_AND_COUNT = """
    from raftkv.pb import rpc_pb2
    from raftkv.testing import probe

    def put(cluster, key):
        request = rpc_pb2.PutRequest(key=key, value=b"v")
        path, kind = "/etcdserverpb.KV/Put", rpc_pb2.PutResponse
        probe.call(cluster.members[0].address, path, request, kind, 30.0)

    def keys(cluster):
        return len(probe.read(cluster.members[0].address, 30.0).kvs)
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> "Run":
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Run(pytester)


class Run:
    """Runs pytest on a test file in an empty project."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester

    def ini(self, text: str) -> None:
        """The project's pytest.ini, below its [pytest]."""
        self.pytester.makeini("[pytest]\n" + text)

    def __call__(self, code: str, *arguments: str) -> pytest.RunResult:
        """In this process, with the helpers of PUT_AND_COUNT."""
        self.pytester.makeconftest("")
        self.pytester.makepyfile(
            helpers=PUT_AND_COUNT, test_project="from helpers import *\n" + code
        )
        return self.pytester.runpytest_inprocess(
            *PLUGIN, "-p", "no:xdist", "-p", "no:timeout", *arguments
        )


def test_the_server_is_one_for_the_session_and_empty_for_each_test(run: Run) -> None:
    result = run(
        """
ports = set()

def test_one(raftkv_server):
    ports.add(raftkv_server.port)
    put(raftkv_server, b"k")
    assert keys(raftkv_server) == 1

def test_two(raftkv_server):
    ports.add(raftkv_server.port)
    assert keys(raftkv_server) == 0
    assert len(ports) == 1

def test_a_test_may_kill_it(raftkv_server):
    raftkv_server.kill(0)

def test_and_the_next_one_finds_it_well(raftkv_server):
    put(raftkv_server, b"k")
    raftkv_server.pause(0)

def test_paused_or_not(raftkv_server):
    put(raftkv_server, b"k")
"""
    )
    result.assert_outcomes(passed=5)


def test_the_cluster_is_new_for_each_test_and_its_leader_can_be_killed(run: Run) -> None:
    result = run(
        """
endpoints = []

def test_one(raftkv_cluster):
    endpoints.append(raftkv_cluster.endpoint)
    assert len(raftkv_cluster.endpoints) == 3
    killed = raftkv_cluster.kill_leader()
    assert raftkv_cluster.wait_leader() != killed

def test_two(raftkv_cluster):
    assert raftkv_cluster.endpoint not in endpoints
    put(raftkv_cluster, b"k")
"""
    )
    result.assert_outcomes(passed=2)


def test_a_marker_says_what_the_cluster_is_like(run: Run) -> None:
    result = run(
        """
import pytest

@pytest.mark.raftkv(nodes=1, processes=True, flags={"max-txn-ops": "7"})
def test_one(raftkv_cluster):
    assert raftkv_cluster.nodes == 1
    assert raftkv_cluster.processes
    assert raftkv_cluster.members[0].plan.flags["max-txn-ops"] == "7"

@pytest.mark.raftkv(node=2)
def test_two(raftkv_cluster):
    pass
""",
        "--strict-markers",
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*pytest.mark.raftkv takes nodes, processes, flags by name*"])


def test_ini_options_say_what_clusters_are_like_and_how_long_they_live(run: Run) -> None:
    run.ini(
        "raftkv_nodes = 2\nraftkv_cluster_scope = module\n"
        "raftkv_flags =\n    max-txn-ops=9\n    --election-timeout=300\n"
    )
    result = run(
        """
import pytest

endpoints = []

def test_one(raftkv_cluster):
    endpoints.append(raftkv_cluster.endpoint)
    assert raftkv_cluster.nodes == 2
    assert raftkv_cluster.members[1].plan.flags["max-txn-ops"] == "9"
    assert raftkv_cluster.members[1].plan.flags["election-timeout"] == "300"
    put(raftkv_cluster, b"k")
    raftkv_cluster.isolate(0)
    raftkv_cluster.kill(1)

def test_two(raftkv_cluster):
    assert [raftkv_cluster.endpoint] == endpoints
    assert keys(raftkv_cluster) == 0

@pytest.mark.raftkv(nodes=3)
def test_three(raftkv_cluster):
    pass
"""
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*needs a cluster of its own*raftkv_cluster_scope*"])


@pytest.mark.parametrize(
    ("ini", "told"),
    [
        ("raftkv_nodes = some", "*raftkv_nodes: 'some' is no number*"),
        ("raftkv_flags = verbose", "*raftkv_flags: 'verbose' is not name=text*"),
        ("raftkv_cluster_scope = eternal", "*raftkv_cluster_scope: 'eternal' is none of*"),
    ],
)
def test_a_wrong_ini_option_is_told(run: Run, ini: str, told: str) -> None:
    run.ini(ini)
    result = run("def test_one(raftkv_cluster): pass")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([told])


def test_a_member_that_dies_fails_the_test_that_met_it(run: Run) -> None:
    result = run(
        """
from raftkv.errors import DiskFailure

def test_one(raftkv_server):
    run = raftkv_server.members[0]._run
    run._soon(run._node._failed, DiskFailure("the disk is gone"))
    run.thread.join(60)
"""
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*MemberDied: node0 ended by itself*", "*the disk is gone*"])


def test_nothing_of_the_server_is_imported_before_a_fixture_is_used() -> None:
    code = (
        "import sys, raftkv.testing, raftkv.testing.plugin;"
        "print([m for m in sys.modules if m.partition('.')[0] in ('grpc', 'google', 'uvloop')"
        " or m.startswith(('raftkv.server', 'raftkv.cli', 'raftkv.pb', 'raftkv.testing.c'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_workers_of_xdist_have_servers_of_their_own(run: Run) -> None:
    run.pytester.makepyfile(
        helpers=PUT_AND_COUNT,
        test_project="""
import pytest
from helpers import *

@pytest.mark.parametrize("turn", range(4))
def test_it(raftkv_server, turn, worker_id):
    with open(f"port-{worker_id}-{raftkv_server.port}", "w"):
        assert keys(raftkv_server) == 0
        put(raftkv_server, b"k")
""",
    )
    result = run.pytester.runpytest_subprocess(*PLUGIN, "-n", "2", "--dist", "each")
    result.assert_outcomes(passed=8)
    ports = {path.name for path in run.pytester.path.glob("port-*")}
    assert len(ports) == 2
