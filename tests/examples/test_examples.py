"""The examples do what they say, as processes against a real cluster of processes."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final

import pytest

from raftkv.client import Client, Put, Txn
from raftkv.testing import Cluster
from tests.architecture import ROOT

pytestmark = pytest.mark.slow

EXAMPLES: Final = ROOT / "examples"
PATIENCE_SECONDS: Final = 60.0


class Program:
    """A running example; its lines come as it prints them."""

    def __init__(self, name: str, arguments: tuple[str, ...]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, EXAMPLES / name, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        )
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def line(self) -> str:
        """The next line. Errors: AssertionError when it has ended or says nothing."""
        try:
            line = self._lines.get(timeout=PATIENCE_SECONDS)
        except Empty:
            raise AssertionError("nothing was printed") from None
        assert line is not None, "the example has ended"
        return line

    def until(self, pattern: str) -> list[str]:
        """Lines up to the first that matches."""
        found = [self.line()]
        while not re.fullmatch(pattern, found[-1]):
            found.append(self.line())
        return found

    def wait(self) -> int:
        """The exit status."""
        return self.process.wait(PATIENCE_SECONDS)

    def close(self) -> None:
        """Ends it by force if it still runs."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[Cluster]:
    with Cluster(3, processes=True) as running:
        yield running


@pytest.fixture
def cluster(shared: Cluster) -> Cluster:
    """The cluster, whole and empty."""
    shared.recover()
    shared.clear()
    return shared


Start = Callable[..., Program]


@pytest.fixture
def start(cluster: Cluster) -> Iterator[Start]:
    """Starts an example with the cluster's endpoints."""
    with ExitStack() as stack:

        def begin(name: str, *arguments: str) -> Program:
            program = Program(name, (*arguments, "--endpoints", cluster.endpoint))
            stack.callback(program.close)
            return program

        yield begin


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short_and_says_how_to_start_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 100
    assert f"python examples/{path.name} " in text
    done = subprocess.run(
        [sys.executable, path, "--help"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--endpoints" in done.stdout


def test_the_cron_job_goes_on_through_a_lost_server_and_a_lost_host(
    cluster: Cluster, start: Start
) -> None:
    """Runs are numbered without a gap; the second host goes on where the first one was killed."""
    common = ("--every", "0.05", "--ttl", "8")  # outlives an election on a busy machine
    first = start("leader_cron.py", "--name", "host-a", *common)
    first.until("host-a: run 2")
    second = start("leader_cron.py", "--name", "host-b", *common)

    cluster.kill_leader()
    number = int(client_read(cluster, "cron/last-run"))
    runs = numbers(first.until(f"host-a: run {number + 5}"))
    assert all(later - earlier in (0, 1) for earlier, later in pairwise(runs))

    first.process.kill()
    first.wait()
    assert second.line() == "host-b: leads"
    run = re.fullmatch(r"host-b: run (\d+)", second.line())
    assert run is not None
    assert int(run[1]) >= number + 5
    second.until(f"host-b: run {int(run[1]) + 2}")
    second.process.send_signal(signal.SIGTERM)
    assert second.until("host-b: ended")
    assert second.wait() == 0


def numbers(lines: list[str]) -> list[int]:
    """The numbers of the runs; one whose outcome was unknown may come twice."""
    return [int(line.rpartition(" ")[2]) for line in lines if ": run " in line]


def client_read(cluster: Cluster, key: str) -> str:
    with Client(cluster.endpoint, timeout=20) as client:
        text = client.get(key).text
    assert text is not None
    return text


def test_settings_follow_the_store_and_change_in_one_step(cluster: Cluster, start: Start) -> None:
    with Client(cluster.endpoint) as client:
        client.put("config/limit", "3")
        program = start("config_reload.py")
        assert program.line() == "Config(colour='grey', limit=3)"
        client.txn(Txn().then(Put("config/colour", "blue"), Put("config/limit", "4")))
        assert program.line() == "Config(colour='blue', limit=4)"
        client.put("config/limit", "many")
        assert program.line() == "Config(colour='blue', limit=10)"
        client.put("config/stop", "1")
        assert program.wait() == 0


def test_processes_write_to_a_file_one_at_a_time(
    cluster: Cluster, start: Start, tmp_path: Path
) -> None:
    """Each line says how long the file was before it: only who was alone can be right."""
    path = tmp_path / "shared"
    programs = [start("locked_file.py", "--file", str(path), "--lines", "5") for _ in range(4)]
    assert [program.wait() for program in programs] == [0] * 4
    lines = path.read_text().splitlines(keepends=True)
    assert len(lines) == 20
    length = 0
    for line in lines:
        assert line.endswith(f" at {length}\n")
        length += len(line)


def test_a_writer_with_an_old_token_is_refused(
    cluster: Cluster, start: Start, tmp_path: Path
) -> None:
    """C03: what a paused holder does when it wakes up behind its successor."""
    path = tmp_path / "shared"
    (tmp_path / "shared.token").write_text(str(2**60))
    program = start("locked_file.py", "--file", str(path), "--lines", "1")
    assert program.wait() == 1
    assert "has written already" in program.line()
    assert not path.exists()


def test_clients_find_the_instances_that_are_there(cluster: Cluster, start: Start) -> None:
    first = start("discovery.py", "serve", "--instance", "a")
    second = start("discovery.py", "serve", "--instance", "b")
    assert first.line().startswith("a serves at ")
    assert second.line().startswith("b serves at ")
    asking = start("discovery.py", "ask", "--times", "4")
    assert {asking.line() for _ in range(4)} == {"a", "b"}
    assert asking.wait() == 0

    first.process.send_signal(signal.SIGTERM)
    assert first.wait() == 0
    asking = start("discovery.py", "ask", "--times", "3")
    assert [asking.line() for _ in range(3)] == ["b"] * 3
    assert asking.wait() == 0
