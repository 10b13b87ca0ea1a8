"""A member that hears nobody, as raftctl meets it."""

import json
import time
from collections.abc import Iterator

import pytest

from raftkv.testing import Cluster, probe
from raftkv.testing.member import Member
from tests.cli.running import raftctl

pytestmark = pytest.mark.slow

LONGER_THAN_THE_SERVER = "--command-timeout=12s"


@pytest.fixture(scope="module")
def trio() -> Iterator[Cluster]:
    """Three members; nothing passes between the first one and the others."""
    with Cluster(3, processes=True) as cluster:
        put = raftctl(["--endpoints", cluster.endpoint, "put", "k", "v"])
        assert put.out == b"OK\n", put.err
        assert raftctl(["--endpoints", cluster.endpoints[0], "get", "k"]).out == b"k\nv\n"
        cluster.isolate(0)
        _wait_until_it_knows_no_leader(cluster.members[0])
        put = raftctl(["--endpoints", cluster.endpoints[1], "put", "k", "w"])
        assert put.out == b"OK\n", put.err
        yield cluster


def _wait_until_it_knows_no_leader(member: Member) -> None:
    deadline = time.monotonic() + 60
    while probe.status(member.address, 5.0).leader:
        assert time.monotonic() < deadline, member.log_end()
        time.sleep(0.02)


def test_a_linearizable_read_moves_on_from_a_member_in_a_minority(trio: Cluster) -> None:
    """C11."""
    read = raftctl(["--endpoints", trio.endpoint, LONGER_THAN_THE_SERVER, "get", "k"])
    assert read.out == b"k\nw\n", read.err


def test_a_serializable_read_in_a_minority_says_of_which_revision_it_is(trio: Cluster) -> None:
    """C11: it may be old, and its revision tells."""
    flags = ["get", "k", "--consistency=s", "-w", "json"]
    old = json.loads(raftctl(["--endpoints", trio.endpoints[0], *flags]).out)
    new = json.loads(raftctl(["--endpoints", trio.endpoints[1], *flags]).out)
    assert old["header"]["revision"] < new["header"]["revision"]
    assert old["kvs"][0]["mod_revision"] == old["header"]["revision"]


def test_a_read_moves_on_within_the_default_time_limit(trio: Cluster) -> None:
    """C11: raftctl's is shorter than the member's own."""
    read = raftctl(["--endpoints", trio.endpoint, "get", "k"])
    assert read.out == b"k\nw\n", read.err


def test_a_write_at_a_member_in_a_minority_alone_ends_without_knowing(trio: Cluster) -> None:
    """C01, C11: the member may still find a leader for it."""
    alone = trio.endpoints[0]
    done = raftctl(["--endpoints", alone, LONGER_THAN_THE_SERVER, "put", "k", "never"])
    assert done.exit_code == 1
    assert "timed out" in done.error_line
    assert raftctl(["--endpoints", trio.endpoints[1], "get", "k"]).out == b"k\nw\n"


def test_a_write_moves_on_from_a_member_that_says_it_knows_no_leader(trio: Cluster) -> None:
    """C01, C11: it says so at once and has not taken the write, which is done once."""
    done = raftctl(["--endpoints", trio.endpoint, "put", "once", "v"])
    assert done.out == b"OK\n", done.err
    shown = raftctl(["--endpoints", trio.endpoints[1], "get", "once", "-w", "json"])
    assert json.loads(shown.out)["kvs"][0]["version"] == 1


def test_a_member_without_a_leader_is_unhealthy(trio: Cluster) -> None:
    """O15."""
    health = raftctl(["--endpoints", trio.endpoint, "endpoint", "health"])
    assert health.exit_code == 1
    lonely, *others = trio.endpoints
    assert f"{lonely} is unhealthy" in health.err
    for other in others:
        assert f"{other} is healthy" in health.out.decode()
