"""A cluster grows and shrinks under etcdctl, and goes on when a node is killed."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raftkv import testing
from tests import processes
from tests.processes import Cluster

pytestmark = pytest.mark.slow

OF_PROCESSES = pytest.mark.raftkv(processes=True)

PATIENCE_SECONDS = 60.0


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three nodes that this test may break."""
    with processes.raftkv(tmp_path, 3) as running:
        yield running


def _etcdctl(endpoints: str, *arguments: str) -> str:
    return subprocess.run(
        [str(processes.ETCDCTL), "--endpoints", endpoints, *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout


def _members(endpoints: str) -> dict[str, Any]:
    answer = json.loads(_etcdctl(endpoints, "member", "list", "-w", "json"))
    return {member.get("name", ""): member for member in answer["members"]}


def _eventually(endpoints: str, *arguments: str) -> str:
    """Repeats a command until it succeeds, for it has to wait for a newcomer to catch up."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return _etcdctl(endpoints, *arguments)
        except subprocess.CalledProcessError as error:
            if time.monotonic() > deadline:
                raise AssertionError((error.args, error.stdout, error.stderr)) from error


def _named_member(endpoints: str, name: str) -> Any:
    """A member, once it has told its name, which is soon after it serves."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while name not in (members := _members(endpoints)):
        assert time.monotonic() < deadline, members
    return members[name]


def _status(endpoint: str) -> dict[str, Any]:
    (entry,) = json.loads(_etcdctl(endpoint, "endpoint", "status", "-w", "json"))
    status: dict[str, Any] = entry["Status"]
    return status


def test_a_learner_joins_catches_up_is_promoted_and_leaves(
    own_cluster: Cluster, tmp_path: Path
) -> None:
    ends = own_cluster.endpoints
    for number in range(20):
        _etcdctl(ends, "put", f"before/{number}", "x")
    newcomer = processes.newcomer(own_cluster, tmp_path, "raftkv4")
    peer_url = f"http://127.0.0.1:{newcomer.peer_port}"
    added = _eventually(ends, "member", "add", "raftkv4", f"--peer-urls={peer_url}", "--learner")
    assert "added to cluster" in added
    member = f"{_members(ends)['']['ID']:x}"
    newcomer.start()
    try:
        promoted = _eventually(ends, "member", "promote", member)
        assert "promoted in cluster" in promoted
        newcomer.wait_ready()
        held = _etcdctl(newcomer.endpoint, "get", "--prefix", "before/", "--keys-only")
        assert len(held.split()) == 20
        joined = _named_member(newcomer.endpoint, "raftkv4")
        assert (f"{joined['ID']:x}", joined.get("isLearner", False)) == (member, False)
        removed = _eventually(ends, "member", "remove", member)
        assert "removed from cluster" in removed
        assert set(_members(ends)) == {"raftkv1", "raftkv2", "raftkv3"}
        assert _etcdctl(ends, "put", "after", "x") == "OK\n"
    finally:
        newcomer.kill()


@OF_PROCESSES
def test_leadership_moves_where_it_is_told_to(raftkv_cluster: testing.Cluster) -> None:
    target = (raftkv_cluster.wait_leader() + 1) % 3
    follower = _status(raftkv_cluster.endpoints[target])
    moved = _etcdctl(raftkv_cluster.endpoint, "move-leader", f"{_id(follower):x}")
    assert "Leadership transferred" in moved
    status = _status(raftkv_cluster.endpoints[target])
    assert status["leader"] == _id(status)


def _id(status: dict[str, Any]) -> int:
    number: int = status["header"]["member_id"]
    return number


@OF_PROCESSES
def test_the_leader_is_killed_and_comes_back(raftkv_cluster: testing.Cluster) -> None:
    """Nothing that was acknowledged is lost, and the node that comes back has it all."""
    for number in range(20):
        _etcdctl(raftkv_cluster.endpoint, "put", f"kept/{number:02}", str(number))
    leader = raftkv_cluster.kill_leader()
    rest = [end for end in raftkv_cluster.endpoints if end != raftkv_cluster.endpoints[leader]]
    assert _eventually(",".join(rest), "put", "kept/while-it-was-away", "1") == "OK\n"
    raftkv_cluster.restart(leader)
    back = raftkv_cluster.endpoints[leader]
    kept = _eventually(back, "get", "--prefix", "kept/", "--print-value-only")
    assert kept.split() == [*map(str, range(20)), "1"]


@OF_PROCESSES
def test_a_minority_refuses_to_write_and_still_reads_what_it_has(
    raftkv_cluster: testing.Cluster,
) -> None:
    alone = raftkv_cluster.endpoints[0]
    _etcdctl(raftkv_cluster.endpoint, "put", "known", "1")
    assert _etcdctl(alone, "get", "known", "--print-value-only") == "1\n"
    raftkv_cluster.isolate(0)
    with pytest.raises(subprocess.CalledProcessError):
        _etcdctl(alone, "--command-timeout=3s", "put", "known", "2")
    local = _etcdctl(alone, "get", "known", "--consistency=s", "--print-value-only")
    assert local == "1\n"
