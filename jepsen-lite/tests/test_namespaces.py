"""Members in namespaces of the kernel: what is made, cut, and left behind by whom.

What needs the right to make namespaces is skipped where there is none, with the kernel's reason.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from jepsen_lite.planning import BadPlan, nemeses_for
from jepsen_lite.target import netns
from jepsen_lite.target.base import TargetError
from jepsen_lite.target.namespaces import Namespaced
from jepsen_lite.target.netns import Kernel
from jepsen_lite.target.processes import Processes
from jepsen_lite.target.routes import Routes
from jepsen_lite.target.systems import Etcd, EtcdNames
from jepsen_lite.target.wiring import LINK_ABILITIES, LOOPBACK, Spot

HERE = Path(__file__).resolve().parent.parent
REFUSAL = netns.refusal(Kernel())
permitted = pytest.mark.skipif(bool(REFUSAL), reason=f"namespaces cannot be made: {REFUSAL}")
SERVE = (
    "import socket; s = socket.create_server((%r, %d)); print('up', flush=True)\n"
    "while True: s.accept()[0].sendall(b'hello')"
)
CALL = (
    "import socket; s = socket.create_connection((%r, %d), timeout=%g); s.settimeout(%g)\n"
    "print(s.recv(9).decode())"
)
SILENCE_SECONDS = 0.5  # nothing is proved by its shortness: a cut lasts
CALL_SECONDS = 30.0


class FakeKernel(Kernel):
    """Remembers commands. fails: the word in a command that it refuses."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.done: list[str] = []

    def do(self, *words: str, lines: Sequence[str] = ()) -> str:
        for line in lines or [""]:
            text = " ".join([*words, line]).strip()
            self.done.append(text)
            if self.fails and self.fails in text:
                raise TargetError(f"{text}: Specified qdisc kind is unknown.")
        return ""


# --- links ------------------------------------------------------------------------------------


def test_a_cut_is_a_rule_of_the_router_for_one_direction_and_is_made_once() -> None:
    kernel = FakeKernel()
    routes = Routes(kernel, "hub", ["10.0.0.1", "10.0.0.2", "10.0.0.3"])
    routes.cut([0], [0, 1])
    routes.cut([0], [1])
    rule = "pref 100 from 10.0.0.1 to 10.0.0.2 blackhole"
    assert kernel.done == [f"ip -n hub -batch - rule add {rule}"]
    routes.partition([2], [1])
    assert [line[len("ip -n hub -batch - ") :] for line in kernel.done[1:]] == [
        "rule add pref 100 from 10.0.0.3 to 10.0.0.2 blackhole",
        "rule add pref 100 from 10.0.0.2 to 10.0.0.3 blackhole",
    ]
    kernel.done.clear()
    routes.heal()
    routes.heal()
    assert len(kernel.done) == 3
    assert kernel.done[0] == f"ip -n hub -batch - rule del {rule}"


def test_slow_and_lossy_links_are_the_emulator_s_on_the_way_to_the_member() -> None:
    kernel = FakeKernel()
    routes = Routes(kernel, "hub", ["10.0.0.1", "10.0.0.2", "10.0.0.3"])
    routes.delay([0, 2], [1], 0.05)
    kernel.done.clear()
    routes.loss([2], [1], 0.1)
    assert kernel.done[0] == "tc -n hub qdisc del dev member1 root"
    root, *pairs = [line.removeprefix("tc -n hub -batch - ") for line in kernel.done[1:]]
    assert root == "qdisc add dev member1 root handle 1: prio bands 16 priomap" + " 0" * 16
    assert pairs == [
        "filter add dev member1 parent 1: protocol ip prio 1 u32 match ip src 10.0.0.1/32 "
        "flowid 1:2",
        "qdisc add dev member1 parent 1:2 netem delay 50ms loss 0%",
        "filter add dev member1 parent 1: protocol ip prio 3 u32 match ip src 10.0.0.3/32 "
        "flowid 1:4",
        "qdisc add dev member1 parent 1:4 netem delay 50ms loss 10%",
    ]
    kernel.done.clear()
    routes.heal()
    assert kernel.done == ["tc -n hub qdisc del dev member1 root"]


# --- where it cannot be ---------------------------------------------------------------------


def test_who_may_not_is_told_why_and_what_works_without_root(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    offer = "without root, --network proxies"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(TargetError, match=f"it needs root, which you are not; {offer}"):
        Namespaced(FakeKernel())
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(TargetError, match=rf"no program ip \(of iproute2\); {offer}"):
        Namespaced(FakeKernel())
    monkeypatch.setattr(shutil, "which", lambda name: f"/sbin/{name}")
    with pytest.raises(TargetError, match=f"netns add .*unknown.; {offer}"):
        Namespaced(FakeKernel(fails="netns add"))


def test_a_kernel_without_emulator_cuts_links_and_says_who_can_slow_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: f"/sbin/{name}")
    assert Namespaced(FakeKernel()).abilities == LINK_ABILITIES - {LOOPBACK}
    wiring = Namespaced(FakeKernel(fails="netem"))
    target = Processes(Etcd(), 3, tmp_path, wiring=wiring)
    assert [one.name for one in nemeses_for(["partition"], target, Random(1))] == ["partition"]
    with pytest.raises(BadPlan, match=r"does not emulate networks \(.*unknown.*--network proxies"):
        nemeses_for(["loss"], target, Random(1))
    with pytest.raises(BadPlan, match=r"needs loopback.*partition and flap break the links"):
        nemeses_for(["iptables"], target, Random(1))
    with pytest.raises(TargetError, match="do not meet on the loopback"):
        target.peer_ports(0)


# --- real ones ------------------------------------------------------------------------------


def made_by(stem: str) -> list[str]:
    return [name for name in netns.namespaces(Kernel()) if name.startswith(stem)]


class Listening:
    """Two members that say hello to whoever dials their peer port."""

    def __init__(self, wiring: Namespaced) -> None:
        self.wiring = wiring
        self.spots = wiring.spots(2)
        wiring.open(self.spots, EtcdNames([]))
        self._servers = [self._server(index, spot) for index, spot in enumerate(self.spots)]

    def _server(self, index: int, spot: Spot) -> "subprocess.Popen[str]":
        words = self.wiring.within(index)
        text = SERVE % (spot.host, spot.peer_port)
        server = subprocess.Popen(
            [*words, sys.executable, "-S", "-c", text], stdout=subprocess.PIPE, text=True
        )
        assert server.stdout is not None
        assert server.stdout.readline() == "up\n"
        return server

    def hears(self, caller: int, seconds: float) -> bool:
        """Whether a call of the other member is answered in time."""
        spot = self.spots[1 - caller]
        words = self.wiring.within(caller)
        text = CALL % (spot.host, spot.peer_port, seconds, seconds)
        done = subprocess.run(
            [*words, sys.executable, "-S", "-c", text],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0 or "timed out" in done.stderr, done.stderr
        return done.stdout == "hello\n"

    def close(self) -> None:
        """Ends them."""
        for server in self._servers:
            server.kill()
            server.wait()
            assert server.stdout is not None
            server.stdout.close()


@pytest.fixture
def listening() -> Iterator[Listening]:
    wiring = Namespaced()
    try:
        found = Listening(wiring)
        try:
            yield found
        finally:
            found.close()
    finally:
        closing = wiring.close()
        with pytest.raises(StopIteration):
            closing.send(None)
    assert made_by(netns.own_stem()) == []
    assert not Path(f"/sys/class/net/{netns.host_device(os.getpid())}").exists()


@permitted
def test_members_and_clients_reach_each_other_until_a_link_is_cut(listening: Listening) -> None:
    """R07: one way is enough to be deaf; the others know nothing of it."""
    network = listening.wiring.network()
    assert listening.hears(0, CALL_SECONDS)
    for cut in ([0], [1]):
        network.cut(cut, [1 - cut[0]])
        assert not listening.hears(0, SILENCE_SECONDS)  # a handshake needs both ways
        address = (listening.spots[1].host, listening.spots[1].peer_port)
        with socket.create_connection(address, CALL_SECONDS) as client:
            assert client.recv(9) == b"hello"
        network.heal()
    assert listening.hears(0, CALL_SECONDS)
    assert listening.hears(1, CALL_SECONDS)


@permitted
def test_what_a_dead_runner_left_is_removed_when_the_next_one_begins() -> None:
    """A runner that was killed by force; and one that lives is left alone."""
    program = (
        "from jepsen_lite.target.namespaces import Namespaced\n"
        "from jepsen_lite.target.netns import own_stem\n"
        "wiring = Namespaced(); wiring.open(wiring.spots(1), None)\n"
        "print(own_stem(), flush=True); input()"
    )
    runner = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}"},
    )
    assert runner.stdin is not None
    assert runner.stdout is not None
    try:
        stem = runner.stdout.readline().strip()
        assert len(made_by(stem)) == 2, stem
        Namespaced()
        assert len(made_by(stem)) == 2
    finally:
        runner.kill()
        runner.wait()
        runner.stdin.close()
        runner.stdout.close()
    assert len(made_by(stem)) == 2
    Namespaced()
    assert made_by(stem) == []
    assert not Path(f"/sys/class/net/{netns.host_device(runner.pid)}").exists()


# --- whole runs -----------------------------------------------------------------------------


def jepsen(*words: str, root: Path) -> "subprocess.Popen[str]":
    command = (sys.executable, HERE.name, "run", "--network", "namespaces", "-w", "register")
    return subprocess.Popen(
        [*command, *words, "--store", str(root)],
        cwd=HERE.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def the_run(root: Path) -> dict[str, Any]:
    (path,) = root.iterdir()
    found: dict[str, Any] = json.loads((path / "run.json").read_text())
    return found


@permitted
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_register_lives_through_partitions_that_the_kernel_makes(tmp_path: Path) -> None:
    """R05 to R10, with packets that vanish instead of proxies that hold them."""
    words = ("-n", "partition", "--time", "5", "--seed", "5")
    process = jepsen(*words, root=tmp_path)
    told, _ = process.communicate(timeout=220)
    assert process.returncode == 0, told
    run = the_run(tmp_path)
    assert run["options"]["network"] == "namespaces"
    floors = run["verdicts"]["floors"]["facts"]
    assert floors["faults: partition"] > 0
    assert run["verdicts"]["hashes"]["facts"]["compared"] == 3
    assert made_by(f"jepsen-{process.pid}-") == []


@permitted
@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_run_that_is_interrupted_while_links_are_cut_heals_and_leaves_no_namespace(
    tmp_path: Path,
) -> None:
    """By Ctrl-C; with etcd, whose members know nothing of all this."""
    process = jepsen("--system", "etcd", "-n", "partition", "--time", "600", root=tmp_path)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("running"):
                break
        deadline = time.monotonic() + 100
        while not any(map(_is_cut, tmp_path.glob("*/history.jsonl"))):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        told = process.stdout.read()
        assert process.wait(120) == 130, told
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert "the cluster is healed" in told
    run = the_run(tmp_path)
    assert len(run["final"]["members"]) == 3
    assert run["verdicts"]["witness"]["valid"]
    assert run["verdicts"]["linear"]["valid"]
    assert made_by(f"jepsen-{process.pid}-") == []


def _is_cut(history: Path) -> bool:
    return re.search(r'"info",\s*"f":\s*"start-partition"|"cut":', history.read_text()) is not None
