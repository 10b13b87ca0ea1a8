"""`raftkv local` keeps an eye on its children: output, deaths, Ctrl-C, and nothing left behind.

The supervisor runs in a process of its own, with small scripts as children.
"""

import json
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raftkv.cli import server
from raftkv.cli.local import LocalNode, PortTaken, banner, check_ports, plan, serve_flags
from raftkv.cli.ports import holder_of
from raftkv.errors import ConfigError
from tests.processes import free_ports

CHILD = """
import os, signal, sys
mode = sys.argv[1]
def bye(*_):
    print("bye", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN if mode == "stubborn" else bye)
print("ready", os.getpid(), flush=True)
if mode == "dies":
    print("disk on fire", file=sys.stderr, flush=True)
    os._exit(12)
if mode == "ends":
    os.write(1, b"no line end")
    os._exit(0)
if mode == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if mode == "talks":
    try:
        while True:
            print("and on", flush=True)
    except OSError:
        pass
while True:
    signal.pause()
"""
PARENT = """
import json, sys
from raftkv.cli.supervisor import Child, Supervisor
modes, colours, banner = json.loads(sys.argv[1])
children = [
    Child(f"n{number}", [sys.executable, "-c", sys.argv[2], mode])
    for number, mode in enumerate(modes, 1)
]
supervisor = Supervisor(children, sys.stdout, colours)
if banner:
    supervisor.when_serving(lambda quit_: True, banner)
sys.exit(supervisor.run())
"""


class Running:
    """A supervisor process whose output is read line by line."""

    def __init__(self, *modes: str, colours: bool = False, banner: str = "") -> None:
        settings = json.dumps([modes, colours, banner])
        self.process = subprocess.Popen(
            [sys.executable, "-c", PARENT, settings, CHILD],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []

    def read_until(self, pattern: str) -> str:
        """Read lines up to one that matches; that line. Fails at the end of the output."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if re.search(pattern, line):
                return self.lines[-1]
        raise AssertionError(f"never saw {pattern!r} in {self.lines}")

    def ready(self, *names: str) -> dict[str, int]:
        """Wait until these children are ready; the pid of each."""
        pids: dict[str, int] = {}
        while set(pids) != set(names):
            found = re.search(r"(n\d+) +\| ready (\d+)", self.read_until(r"\| ready"))
            assert found is not None
            pids[found[1]] = int(found[2])
        return pids

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def finish(self) -> int:
        """Read the rest; the exit code."""
        assert self.process.stdout is not None
        self.lines += self.process.stdout.read().splitlines()
        return self.process.wait()

    def close(self) -> None:
        assert self.process.stdout is not None
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()


Start = Callable[..., Running]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[Running] = []

    def run(*modes: str, colours: bool = False, banner: str = "") -> Running:
        started.append(Running(*modes, colours=colours, banner=banner))
        return started[-1]

    yield run
    for one in started:
        one.close()


def wait_for_end(pid: int, seconds: float = 20.0) -> bool:
    """True once the process (not a child of ours) has ended; False if it outlives the wait."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            return bool(selector.select(seconds))
    finally:
        os.close(descriptor)


def test_lines_carry_the_name_of_the_node_they_come_from(start: Start) -> None:
    running = start("ends", "ends")
    assert running.finish() == 0
    assert "n1     | no line end" in running.lines
    assert "n2     | no line end" in running.lines
    assert running.lines[-1].startswith("raftkv | n")
    assert running.lines[-1].endswith("ended with exit code 0; all have ended")


def test_labels_are_coloured_only_when_asked_for(start: Start) -> None:
    running = start("ends", colours=True)
    running.finish()
    assert any(line.startswith("\x1b[36mn1     |\x1b[0m ready") for line in running.lines)


def test_a_childs_death_is_told_with_code_and_reason_and_the_others_go_on(start: Start) -> None:
    running = start("polite", "dies", "polite")
    told = running.read_until("exit code")
    assert told == (
        "raftkv | n2 ended with exit code 12: a disk write failed "
        "(its last line: disk on fire); 2 of 3 go on"
    )
    while sum("ready" in line for line in running.lines) < 3:
        running.read_until("ready")
    running.signal(signal.SIGINT)
    assert running.finish() == 0
    assert sum("ready" in line for line in running.lines) == 3, "none was started again"


def test_a_child_killed_from_outside_is_told_with_the_signal(start: Start) -> None:
    running = start("killed")
    assert "exit code -9: killed by SIGKILL" in running.read_until("exit code")
    assert running.finish() == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_every_child_in_order_and_exits_with_0(
    start: Start, number: signal.Signals
) -> None:
    running = start("polite", "polite", "polite")
    pids = running.ready("n1", "n2", "n3")
    running.signal(number)
    assert running.finish() == 0
    assert sum("| bye" in line for line in running.lines) == 3
    assert "raftkv | stopping; Ctrl-C again kills" in running.lines
    assert all(wait_for_end(pid, 0.0) for pid in pids.values())


def test_a_second_ctrl_c_kills_what_does_not_stop(start: Start) -> None:
    running = start("stubborn", "polite")
    pids = running.ready("n1", "n2")
    running.signal(signal.SIGINT)
    running.read_until("n2 stopped")
    running.signal(signal.SIGINT)
    assert running.finish() == 0
    assert "raftkv | killing" in running.lines
    assert wait_for_end(pids["n1"], 0.0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux")
def test_children_end_with_a_parent_that_vanishes(start: Start) -> None:
    running = start("polite", "polite")
    pids = running.ready("n1", "n2")
    running.process.kill()
    assert all(wait_for_end(pid) for pid in pids.values())


def test_children_do_not_get_the_terminals_ctrl_c(start: Start) -> None:
    running = start("polite")
    (pid,) = running.ready("n1").values()
    assert os.getpgid(pid) != os.getpgid(running.process.pid)
    running.signal(signal.SIGINT)
    assert running.finish() == 0


def test_a_reader_that_goes_away_stops_the_cluster(start: Start) -> None:
    running = start("talks")
    (pid,) = running.ready("n1").values()
    assert running.process.stdout is not None
    running.process.stdout.close()
    assert wait_for_end(pid)
    assert running.process.wait() == 0


def test_the_banner_appears_once_the_cluster_serves(start: Start) -> None:
    running = start("polite", banner="it serves\nask it")
    running.read_until("raftkv | it serves")
    running.read_until("raftkv | ask it")
    running.signal(signal.SIGINT)
    assert running.finish() == 0


# --- the plan of a cluster --------------------------------------------------------


def test_ports_are_those_of_etcds_example_unless_a_base_is_given() -> None:
    nodes = plan(3, Path("d"), None)
    assert [node.client_port for node in nodes] == [2379, 22379, 32379]
    assert [node.peer_port for node in nodes] == [2380, 22380, 32380]
    assert [node.name for node in nodes] == ["node1", "node2", "node3"]
    assert [str(node.data_dir) for node in nodes] == ["d/node1", "d/node2", "d/node3"]
    nodes = plan(2, Path("d"), 5000)
    assert [(node.client_port, node.peer_port) for node in nodes] == [(5000, 5001), (5002, 5003)]


@pytest.mark.parametrize(("count", "base"), [(7, None), (3, 65_531)])
def test_a_plan_beyond_the_last_port_is_refused(count: int, base: int | None) -> None:
    with pytest.raises(ConfigError, match="need a port above 65535; set --base"):
        plan(count, Path("d"), base)


def test_every_node_is_told_of_the_whole_cluster() -> None:
    from raftkv.cli.flags import build
    from raftkv.config import check_bootstrap

    nodes = plan(3, Path("d"), 5000)
    configs = [
        build(dict(flag.removeprefix("--").split("=", 1) for flag in serve_flags(node, nodes)))
        for node in nodes
    ]
    for config in configs:
        check_bootstrap(config)
    assert len({config.cluster_id for config in configs}) == 1
    assert len({config.member_id for config in configs}) == 3


def test_the_banner_names_every_endpoint_in_commands_to_try() -> None:
    text = banner(plan(2, Path("d"), 5000))
    assert "raftctl --endpoints 127.0.0.1:5000,127.0.0.1:5002 put" in text
    assert "etcdctl --endpoints" in text


def test_a_taken_port_is_one_line_naming_port_and_holder_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "cluster"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        argv = ["local", "--nodes=1", f"--data-dir={directory}", f"--base={port}"]
        assert server.run(argv) == 1
    name = Path("/proc/self/comm").read_text().strip()
    assert capsys.readouterr().err == (
        f"Error: port {port} of node1 is taken by process {os.getpid()} ({name}); "
        "stop it or choose other ports with --base\n"
    )
    assert not directory.exists()


def test_a_taken_peer_port_of_a_later_node_is_found_too() -> None:
    free = free_ports(3)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        nodes = [
            LocalNode("node1", free[0], free[1], Path("a")),
            LocalNode("node2", free[2], port, Path("b")),
        ]
        with pytest.raises(PortTaken, match=f"port {port} of node2"):
            check_ports(nodes)
    check_ports(nodes)


def test_the_holder_of_a_free_port_is_nobody() -> None:
    assert holder_of(free_ports(1)[0]) == ""
