"""`raftkv local` with real servers: a cluster comes up, answers, stops, and remembers."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from raftkv.cli.local import LocalNode, plan
from tests.cli.running import raftctl, wait_for_addresses
from tests.processes import consecutive_free_ports

pytestmark = pytest.mark.slow

NODES = 3


def _free_plan(directory: Path) -> tuple[int, list[LocalNode]]:
    """A base with all of the cluster's ports free."""
    base = consecutive_free_ports(2 * NODES)
    return base, plan(NODES, directory, base)


@contextmanager
def local(directory: Path, base: int) -> Iterator["subprocess.Popen[str]"]:
    """A cluster that serves; killed at the end if it still runs."""
    command = [sys.executable, "-m", "raftkv", "local", f"--nodes={NODES}", f"--base={base}"]
    process = subprocess.Popen(
        [*command, f"--data-dir={directory}", "--", "--log-level=warn"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        seen = []
        for line in process.stdout:
            seen.append(line)
            if re.search(r"raftkv \| 3 nodes serve clients", line):
                break
            assert " ended with exit code " not in line, "".join(seen)
        else:
            raise AssertionError("".join(seen))
        yield process
    finally:
        if process.poll() is None:
            process.kill()  # its children end with it
        process.wait()
        process.stdout.close()


def _stop(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    rest = process.stdout.read()
    assert process.wait() == 0, rest
    for node in range(1, NODES + 1):
        assert f"raftkv | node{node} stopped" in rest


def test_what_is_put_on_one_node_is_on_another_and_survives_a_restart(tmp_path: Path) -> None:
    base, nodes = _free_plan(tmp_path)
    with local(tmp_path, base) as cluster:
        first, third = nodes[0].client_address, nodes[2].client_address
        assert raftctl(["--endpoints", first, "put", "greeting", "hello"]).out == b"OK\n"
        assert raftctl(["--endpoints", third, "get", "greeting"]).out == b"greeting\nhello\n"
        wait_for_addresses(third)
        members = raftctl(["--endpoints", third, "member", "list"]).out.decode()
        assert sorted(re.findall(r"node\d", members)) == ["node1", "node2", "node3"]
        _stop(cluster)
    with local(tmp_path, base) as cluster:
        second = nodes[1].client_address
        assert raftctl(["--endpoints", second, "get", "greeting"]).out == b"greeting\nhello\n"
        _stop(cluster)
