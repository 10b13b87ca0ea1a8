"""A cluster grows and shrinks under etcdctl, and goes on when a node is killed."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import processes
from tests.processes import Cluster, Server

pytestmark = pytest.mark.slow

PATIENCE_SECONDS = 30.0


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


def _status(server: Server) -> dict[str, Any]:
    (entry,) = json.loads(_etcdctl(server.endpoint, "endpoint", "status", "-w", "json"))
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


def test_leadership_moves_where_it_is_told_to(own_cluster: Cluster) -> None:
    leads = {server: _status(server) for server in own_cluster.servers}
    follower = next(s for s, status in leads.items() if status["leader"] != _id(status))
    target = f"{_id(leads[follower]):x}"
    moved = _etcdctl(own_cluster.endpoints, "move-leader", target)
    assert "Leadership transferred" in moved
    status = _status(follower)
    assert status["leader"] == _id(status)


def _id(status: dict[str, Any]) -> int:
    number: int = status["header"]["member_id"]
    return number


def test_the_leader_is_killed_and_comes_back(own_cluster: Cluster) -> None:
    """Nothing that was acknowledged is lost, and the node that comes back has it all."""
    statuses = {server: _status(server) for server in own_cluster.servers}
    leader = next(s for s, status in statuses.items() if status["leader"] == _id(status))
    rest = ",".join(s.endpoint for s in own_cluster.servers if s is not leader)
    for number in range(20):
        _etcdctl(own_cluster.endpoints, "put", f"kept/{number:02}", str(number))
    leader.kill()
    assert _eventually(rest, "put", "kept/while-it-was-away", "1") == "OK\n"
    leader.start()
    leader.wait_ready()
    kept = _etcdctl(leader.endpoint, "get", "--prefix", "kept/", "--print-value-only")
    assert kept.split() == [*map(str, range(20)), "1"]


def test_a_minority_refuses_to_write_and_still_reads_what_it_has(own_cluster: Cluster) -> None:
    alone, *others = own_cluster.servers
    _etcdctl(own_cluster.endpoints, "put", "known", "1")
    assert _etcdctl(alone.endpoint, "get", "known", "--print-value-only") == "1\n"
    for server in others:
        server.kill()
    with pytest.raises(subprocess.CalledProcessError):
        _etcdctl(alone.endpoint, "--command-timeout=3s", "put", "known", "2")
    local = _etcdctl(alone.endpoint, "get", "known", "--consistency=s", "--print-value-only")
    assert local == "1\n"
