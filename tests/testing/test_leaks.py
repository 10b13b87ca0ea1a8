"""A cluster leaves nothing behind: no thread, process, file, socket or directory, however it ends.

And a member that ends by itself is never overlooked.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from raftkv.errors import DiskFailure
from raftkv.storage.recovery import DataDirectory
from raftkv.testing import Cluster, MemberDied, StartFailed, scratch
from raftkv.testing.member import Member
from raftkv.testing.ports import HOST, Ports
from raftkv.testing.process_member import ProcessMember
from raftkv.testing.scratch import Scratch
from raftkv.testing.thread_member import ThreadMember
from tests.architecture import ROOT
from tests.testing.calls import put

KINDS = pytest.mark.parametrize("processes", [False, True], ids=["threads", "processes"])


class Footprint:
    """What this process holds: threads, children, descriptors, handlers of the log."""

    def __init__(self) -> None:
        self.threads = {thread.name for thread in threading.enumerate()}
        self.children = {child.pid for child in psutil.Process().children(recursive=True)}
        self.descriptors = len(os.listdir("/proc/self/fd"))
        self.handlers = list(logging.getLogger("raftkv").handlers)
        self.level = logging.getLogger("raftkv").level


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Fails if it does not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def warm() -> None:
    """The first cluster of a process may load what stays (a library's thread): one before all."""
    with Cluster(1):
        pass


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory where a sync costs nothing, if there is any."""
    place = Scratch()
    yield place.path
    place.close()


@pytest.fixture
def nothing_left(warm: None, memory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where directories are made; at the end there is none, and nothing else that was not there."""
    here = memory / "here"
    here.mkdir()
    monkeypatch.setattr(scratch, "root", lambda: here)
    before = Footprint()
    yield here
    assert list(here.iterdir()) == []
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before.descriptors)
    after = Footprint()
    assert after.threads <= before.threads
    assert after.children <= before.children
    assert after.handlers == before.handlers
    assert after.level == before.level


@KINDS
def test_nothing_is_left_after_faults_of_every_kind(nothing_left: Path, processes: bool) -> None:
    with Cluster(3, processes=processes) as cluster:
        cluster.isolate(0)
        cluster.kill(1)
        cluster.restart(1)
        cluster.pause(2)
    assert cluster.members == ()
    cluster.stop()


@KINDS
def test_nothing_is_left_after_a_failed_test(nothing_left: Path, processes: bool) -> None:
    with pytest.raises(ZeroDivisionError), Cluster(1, processes=processes):
        raise ZeroDivisionError


@KINDS
def test_nothing_is_left_after_a_ctrl_c_while_it_starts(
    nothing_left: Path, processes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Member, "wait_serving", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Cluster(3, processes=processes).start()


@KINDS
def test_a_member_that_does_not_come_up_says_why_with_its_log(
    nothing_left: Path, memory: Path, processes: bool
) -> None:
    with Cluster(1, processes=processes, directory=memory / "kept") as cluster:
        cluster.kill(0)
        (cluster.members[0].data_dir / "identity").write_bytes(b"garbage")
        with pytest.raises(StartFailed, match=r"(?s)node0 ended.*identity has 7 bytes"):
            cluster.restart(0)
        cluster.kill(0)


@KINDS
def test_a_start_that_takes_too_long_is_given_up(
    nothing_left: Path, processes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of three do not start, so the third one waits for them."""
    kind = ProcessMember if processes else ThreadMember
    start = kind._start
    monkeypatch.setattr(kind, "_start", lambda member: member.plan.index == 0 and start(member))
    cluster = Cluster(3, processes=processes, start_timeout_seconds=1.5)
    with pytest.raises(StartFailed, match="node0"):
        cluster.start()


@KINDS
def test_a_given_directory_keeps_data_and_logs(
    nothing_left: Path, memory: Path, processes: bool
) -> None:
    directory = memory / "kept"
    with Cluster(1, processes=processes, directory=directory) as cluster:
        put(cluster, 0, b"k", b"v")
    identity = DataDirectory.peek(str(directory / "node0"))
    assert identity is not None
    with pytest.raises(Exception, match="must be empty"):
        Cluster(1, directory=directory).start()


# --- members that end by themselves ---------------------------------------------------


def test_a_process_that_was_killed_by_somebody_else_is_reported(nothing_left: Path) -> None:
    cluster = Cluster(3, processes=True)
    cluster.start()
    member = cluster.members[1]
    assert isinstance(member, ProcessMember)
    os.kill(member.pid, signal.SIGKILL)
    wait_until(lambda: not member.running)
    with pytest.raises(MemberDied, match="node1 ended by itself"):
        cluster.__exit__(None, None, None)


def test_a_thread_whose_disk_failed_is_reported_and_ends_nobody_else(nothing_left: Path) -> None:
    cluster = Cluster(3)
    cluster.start()
    member = cluster.members[0]
    assert isinstance(member, ThreadMember)
    run = member._run
    assert run is not None
    assert run._node is not None
    run._soon(run._node._failed, DiskFailure("the disk is gone"))
    wait_until(lambda: not member.running)
    put(cluster, 1, b"k", b"v")
    with pytest.raises(MemberDied, match=r"(?s)node0 ended.*the disk is gone"):
        cluster.__exit__(None, None, None)


# --- tests that are killed ---------------------------------------------------------------

PROGRAM = """
import sys, time
from pathlib import Path
from raftkv.testing import Cluster, scratch
scratch.root = lambda: Path(sys.argv[1])
cluster = Cluster(1, processes=sys.argv[2] == "processes")
cluster.start()
print(cluster.members[0].pid if cluster.processes else 0, flush=True)
if sys.argv[3] == "wait":
    time.sleep(100)
"""


def program(directory: Path, kind: str, end: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, directory, kind, end],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


@pytest.mark.slow
def test_a_killed_test_run_takes_its_members_along_and_its_files_go_next_time(
    nothing_left: Path,
) -> None:
    with program(nothing_left, "processes", "wait") as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        assert psutil.pid_exists(pid)
        run.kill()
    wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie")
    assert len(list(nothing_left.iterdir())) == 1
    with Cluster(1):
        assert len(list(nothing_left.iterdir())) == 1, "only its own is there"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_a_cluster_that_nobody_stopped_ends_with_the_interpreter(
    nothing_left: Path, kind: str
) -> None:
    with program(nothing_left, kind, "end") as run:
        assert run.wait(60) == 0


# --- ports -----------------------------------------------------------------------------------


def test_a_port_that_was_given_out_is_nobody_elses_until_it_is_given_back() -> None:
    ports = Ports()
    port = ports.take()
    with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
        stranger.bind((HOST, port))
    with socket.create_server((HOST, port)):
        pass  # what asyncio does: SO_REUSEADDR
    ports.close()
    with socket.socket() as stranger:
        stranger.bind((HOST, port))
