"""`raftctl member replace` on three real members, cut short and repeated; R26, R32, R33."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.running import Outcome, raftctl, wait_for_addresses
from tests.processes import Cluster, Server, newcomer, raftkv

pytestmark = pytest.mark.slow

NOT_STARTED = 1
INTERRUPTED = 5


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("replace")


@pytest.fixture(scope="module")
def cluster(directory: Path) -> Iterator[Cluster]:
    with raftkv(directory, 3) as started:
        wait_for_addresses(started.endpoints)
        yield started


def run(cluster: Cluster, *argv: str, stdin: bytes = b"") -> Outcome:
    return raftctl(["--endpoints", cluster.endpoints, *argv], stdin)


def members(cluster: Cluster) -> dict[str, tuple[str, bool]]:
    """Peer URL and whether it is a learner, by name."""
    lines = run(cluster, "member", "list").out.decode().splitlines()
    rows = [line.split(", ") for line in lines]
    return {row[2]: (row[3], row[5] == "true") for row in rows}


def peer_url(server: Server) -> str:
    return f"http://127.0.0.1:{server.peer_port}"


def test_a_dead_member_is_replaced_step_by_step_however_often_it_is_cut_short(
    cluster: Cluster, directory: Path
) -> None:
    third = cluster.servers[2]
    running = run(cluster, "member", "replace", "raftkv3", "--yes")
    assert running.exit_code == 1
    assert "it is not down" in running.err
    taken = run(cluster, "member", "add", "raftkv3", "--peer-urls=http://127.0.0.1:1")
    assert '"raftkv3" is the name of member' in taken.err
    run(cluster, "put", "before", "1")
    third.kill()
    heir = newcomer(cluster, directory, "raftkv3-2")
    replace = ("member", "replace", "raftkv3", f"--peer-urls={peer_url(heir)}")
    try:
        _leader_has_seen_its_end(cluster, replace)
        _plan_is_printed_and_not_carried_out(cluster, replace)
        _learner_is_added_and_waited_for(cluster, replace, heir)
        heir.start()
        done = run(cluster, *replace, "--yes", "--wait=90s")
        assert done.exit_code == 0, done.err
        assert b"Promoted raftkv3-2" in done.out
        assert b"Removed raftkv3 " in done.out
        found = members(cluster)
        assert set(found) == {"raftkv1", "raftkv2", "raftkv3-2"}
        assert not any(learner for _, learner in found.values())
        local = raftctl(["--endpoints", heir.endpoint, "get", "before", "--print-value-only"])
        assert local.out == b"1\n"
        nothing = run(cluster, *replace, "--yes")
        assert "nothing is left to do" in nothing.err
        _the_same_machine_comes_back_empty(cluster, heir)
    finally:
        heir.kill()
        heir.remove_data()


def _leader_has_seen_its_end(cluster: Cluster, replace: tuple[str, ...]) -> None:
    deadline = time.monotonic() + 60
    while "leader is connected" in run(cluster, *replace, "--dry-run").err:
        assert time.monotonic() < deadline


def _plan_is_printed_and_not_carried_out(cluster: Cluster, replace: tuple[str, ...]) -> None:
    before = members(cluster)
    plan = run(cluster, *replace, "--dry-run")
    assert plan.exit_code == 0
    text = plan.out.decode()
    assert "2 of 3 voters healthy, quorum 2" in text
    steps = [line.split()[1] for line in text.splitlines() if line.startswith("  ")]
    assert steps == ["add", "you", "wait", "remove"]
    assert "last way back" in text
    refused = run(cluster, *replace, stdin=b"n\n")
    assert refused.exit_code == INTERRUPTED
    assert run(cluster, *replace).exit_code == INTERRUPTED  # nobody there to ask
    assert members(cluster) == before


def _learner_is_added_and_waited_for(
    cluster: Cluster, replace: tuple[str, ...], heir: Server
) -> None:
    """It is not started in time. Twice: the second run adds nothing."""
    for _ in range(2):
        begun = run(cluster, *replace, "--yes", "--wait=0s")
        assert begun.exit_code == NOT_STARTED
        assert f"To go on: raftctl member replace raftkv3 --peer-urls={peer_url(heir)}" in begun.err
        assert 'RAFTKV_NAME="raftkv3-2"' in begun.out.decode()
        assert f"raftkv3-2={peer_url(heir)}" in begun.out.decode()
        assert members(cluster)[""] == (peer_url(heir), True)
        assert run(cluster, "put", "meanwhile", "1").exit_code == 0
    assert b"Added" not in begun.out


def _the_same_machine_comes_back_empty(cluster: Cluster, heir: Server) -> None:
    """R33: with its peer URL, so the old member goes first."""
    heir.kill()
    heir.remove_data()
    _leader_has_seen_its_end(cluster, ("member", "replace", "raftkv3-2"))
    ended = run(cluster, "member", "replace", "raftkv3-2", "--yes", "--wait=0s")
    assert ended.exit_code == NOT_STARTED
    assert "gave up waiting for the new node" in ended.err
    heir.start()
    done = run(cluster, "member", "replace", "raftkv3-2", "--yes", "--wait=90s")
    assert done.exit_code == 0, done.err
    assert set(members(cluster)) == {"raftkv1", "raftkv2", "raftkv3-2"}
    assert run(cluster, "put", "after", "1").exit_code == 0
