"""A member on a thread ends as a process does: `kill` leaves on disk what a crash leaves."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from raftkv.kv.machine import StateMachine
from raftkv.storage.recovery import DataDirectory
from raftkv.testing import Cluster
from raftkv.testing.scratch import Scratch
from tests.testing.calls import get, put

WRITES = 50


def on_disk(path: Path) -> tuple[int, int]:
    """The newest index in the log, and the newest one applied to the state's tables."""
    identity = DataDirectory.peek(str(path))
    assert identity is not None
    directory = DataDirectory.open(str(path), identity.cluster, identity.member)
    try:
        machine = StateMachine(directory.state, identity.cluster)
        return directory.recovered.last_index, machine.applied_index
    finally:
        directory.close(checkpoint=False)


@pytest.fixture
def place() -> Iterator[Path]:
    scratch = Scratch()
    yield scratch.path
    scratch.close()


@pytest.mark.parametrize("processes", [False, True], ids=["threads", "processes"])
def test_a_kill_takes_no_checkpoint_and_an_ordered_end_takes_one(
    place: Path, processes: bool
) -> None:
    with Cluster(1, processes=processes, directory=place / "kept") as cluster:
        for number in range(WRITES):
            put(cluster, 0, b"%d" % number, b"v")
        cluster.kill(0)
        last, applied = on_disk(cluster.members[0].data_dir)
        assert last > WRITES, "what was acknowledged is in the log"
        assert applied < 10, "the state's rows were in memory"
        cluster.restart(0)
        assert get(cluster, 0, b"%d" % (WRITES - 1)) == b"v"
        cluster.terminate(0)
        last, applied = on_disk(cluster.members[0].data_dir)
        assert applied == last
