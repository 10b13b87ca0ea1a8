"""A member that joined while another was down, and then lost its directory."""

import shutil
from pathlib import Path

import pytest

from raftkv.errors import CorruptionError
from tests.cli.running import raftctl
from tests.integration.test_faults import put, wait_for
from tests.processes import newcomer, raftkv

FAST = ("--heartbeat-interval=50", "--election-timeout=500")


@pytest.mark.slow
def test_a_wiped_member_is_refused_by_one_that_knows_it_only_from_the_log(tmp_path: Path) -> None:
    """R33: what it has acknowledged to the others is lost, so it must not vote under its old id;
    whichever member it asks first has its incarnation in the member table.
    """
    with raftkv(tmp_path, 3, *FAST) as cluster:
        down = cluster.servers[1]
        down.stop()
        ends = ",".join(one.endpoint for one in cluster.servers if one is not down)
        cluster.servers.sort(key=lambda one: one is not down)  # the newcomer asks it first
        joiner = newcomer(cluster, tmp_path, "joiner")
        url = f"http://127.0.0.1:{joiner.peer_port}"
        base = ["--endpoints", ends, "member"]
        added = raftctl([*base, "add", "joiner", f"--peer-urls={url}", "--learner"])
        assert added.exit_code == 0, added.err
        number = added.out.decode().split()[1]
        joiner.start()
        try:
            wait_for(lambda: raftctl([*base, "promote", number]).exit_code == 0)
            joiner.wait_ready()
            wait_for(lambda: b"joiner" in raftctl([*base, "list"]).out)
            put(joiner, "x")
            joiner.kill()
            shutil.rmtree(tmp_path / "joiner")
            down.start()
            down.wait_ready()
            put(down, "y")
            joiner.start()
            wait_for(lambda: not joiner.running())
            assert joiner.stop() == CorruptionError.exit_code, joiner.log_end()
            assert "raftctl member remove" in joiner.log_end()
        finally:
            joiner.kill()
