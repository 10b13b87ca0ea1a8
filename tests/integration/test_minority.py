"""A member that hears nobody, as raftctl meets it."""

import json
import time
from collections.abc import Iterator

import pytest

from tests.cli.running import raftctl
from tests.processes import Cluster, Server, free_ports, raftkv

pytestmark = pytest.mark.slow

LONGER_THAN_THE_SERVER = "--command-timeout=12s"


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three members; the first one listens where the others do not look for it."""
    flags = ("--heartbeat-interval=50", "--election-timeout=500")
    with raftkv(tmp_path_factory.mktemp("minority"), 3, *flags) as cluster:
        put = raftctl(["--endpoints", cluster.endpoints, "put", "k", "v"])
        assert put.out == b"OK\n", put.err
        alone = cluster.servers[0]
        assert raftctl(["--endpoints", alone.endpoint, "get", "k"]).out == b"k\nv\n"
        alone.stop()
        place = alone._command.index("--listen-peer-urls") + 1
        alone._command[place] = f"http://127.0.0.1:{free_ports(1)[0]}"
        alone.start()
        _wait_until_it_serves(alone)
        put = raftctl(["--endpoints", cluster.servers[1].endpoint, "put", "k", "w"])
        assert put.out == b"OK\n", put.err
        yield cluster


def _wait_until_it_serves(server: Server) -> None:
    deadline = time.monotonic() + 20
    while raftctl(["--endpoints", server.endpoint, "get", "k", "--consistency=s"]).exit_code:
        assert time.monotonic() < deadline, server.log_end()


def test_a_linearizable_read_moves_on_from_a_member_in_a_minority(trio: Cluster) -> None:
    """C11."""
    read = raftctl(["--endpoints", trio.endpoints, LONGER_THAN_THE_SERVER, "get", "k"])
    assert read.out == b"k\nw\n", read.err


def test_a_serializable_read_in_a_minority_says_of_which_revision_it_is(trio: Cluster) -> None:
    """C11: it may be old, and its revision tells."""
    flags = ["get", "k", "--consistency=s", "-w", "json"]
    old = json.loads(raftctl(["--endpoints", trio.servers[0].endpoint, *flags]).out)
    new = json.loads(raftctl(["--endpoints", trio.servers[1].endpoint, *flags]).out)
    assert old["header"]["revision"] < new["header"]["revision"]
    assert old["kvs"][0]["mod_revision"] == old["header"]["revision"]


def test_a_read_moves_on_within_the_default_time_limit(trio: Cluster) -> None:
    """C11: raftctl's is shorter than the member's own."""
    read = raftctl(["--endpoints", trio.endpoints, "get", "k"])
    assert read.out == b"k\nw\n", read.err


def test_a_write_at_a_member_in_a_minority_alone_ends_without_knowing(trio: Cluster) -> None:
    """C01, C11: the member may still find a leader for it."""
    alone = trio.servers[0].endpoint
    done = raftctl(["--endpoints", alone, LONGER_THAN_THE_SERVER, "put", "k", "never"])
    assert done.exit_code == 1
    assert "timed out" in done.error_line
    assert raftctl(["--endpoints", trio.servers[1].endpoint, "get", "k"]).out == b"k\nw\n"


def test_a_write_moves_on_from_a_member_that_says_it_knows_no_leader(trio: Cluster) -> None:
    """C01, C11: it says so at once and has not taken the write, which is done once."""
    done = raftctl(["--endpoints", trio.endpoints, "put", "once", "v"])
    assert done.out == b"OK\n", done.err
    shown = raftctl(["--endpoints", trio.servers[1].endpoint, "get", "once", "-w", "json"])
    assert json.loads(shown.out)["kvs"][0]["version"] == 1


def test_a_member_without_a_leader_is_unhealthy(trio: Cluster) -> None:
    """O15."""
    health = raftctl(["--endpoints", trio.endpoints, "endpoint", "health"])
    assert health.exit_code == 1
    lonely, *others = (server.endpoint for server in trio.servers)
    assert f"{lonely} is unhealthy" in health.err
    for other in others:
        assert f"{other} is healthy" in health.out.decode()
