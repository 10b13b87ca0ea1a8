"""`raftctl top` and `doctor` against three real members, one of them paused or gone."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.cli.running import Outcome, raftctl, wait_for_addresses
from tests.processes import Cluster, Server, etcd, raftkv

pytestmark = pytest.mark.slow

TERMINAL_SECONDS = 90.0
LOOK_SECONDS = 0.1


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with raftkv(tmp_path_factory.mktemp("operating"), 3) as started:
        wait_for_addresses(started.endpoints)
        yield started


@contextmanager
def paused(server: Server) -> Iterator[None]:
    """The process stands still; connections to it come about, and nothing answers."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def run(endpoints: str, *argv: str) -> Outcome:
    return raftctl(["--endpoints", endpoints, *argv])


def rows(outcome: Outcome) -> dict[str, dict[str, object]]:
    return {row["name"]: row for row in json.loads(outcome.out)["members"]}


def test_top_shows_every_member_from_one_endpoint(cluster: Cluster) -> None:
    (first, *_) = cluster.servers
    outcome = run(first.endpoint, "top", "--once", "--interval=300ms")
    assert outcome.exit_code == 0
    heading, *lines = outcome.out.decode().splitlines()
    assert heading.split()[:3] == ["NAME", "ROLE", "TERM"]
    assert [line.split()[0] for line in lines[:3]] == ["raftkv1", "raftkv2", "raftkv3"]
    roles = sorted(line.split()[1] for line in lines[:3])
    assert roles == ["follower", "follower", "leader"]
    assert lines[3].startswith("3 members; leader raftkv")
    assert b"\x1b" not in outcome.out


def test_top_counts_the_puts_and_gets_of_each_member(cluster: Cluster) -> None:
    load = cluster.servers[1].endpoint
    script = (
        "import sys; from raftkv.cli import ctl\n"
        f"flags = ['--endpoints', '{load}']\n"
        "while True:\n"
        "    ctl.run([*flags, 'put', 'k', 'v']); ctl.run([*flags, 'get', 'k'])\n"
    )
    busy = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    try:
        assert busy.stdout is not None
        busy.stdout.readline()  # the first put is there
        found = rows(run(cluster.endpoints, "top", "--once", "-w", "json", "--interval=4s"))
    finally:
        busy.kill()
        busy.communicate()
    for name in ("puts_per_second", "gets_per_second"):
        assert found["raftkv2"][name], name
        assert not found["raftkv1"][name], name
    assert all(row["log_sync_p99_us"] for row in found.values())
    assert all(isinstance(row["lag_entries"], int) for row in found.values())


def test_a_paused_member_keeps_its_row_and_costs_no_long_wait(cluster: Cluster) -> None:
    with paused(cluster.servers[2]):
        began = time.monotonic()
        outcome = run(cluster.endpoints, "top", "--once", "-w", "json", "--interval=200ms")
        assert time.monotonic() - began < 10
    assert outcome.exit_code == 0
    found = rows(outcome)
    assert found["raftkv3"]["problem"] == "no answer"
    assert found["raftkv1"]["problem"] == found["raftkv2"]["problem"] == ""


def test_top_of_nobody_is_an_error_and_still_a_table(cluster: Cluster) -> None:
    outcome = run("127.0.0.1:1", "top", "--once")
    assert outcome.exit_code == 2
    assert b"127.0.0.1:1 unreachable: connection refused" in outcome.out
    assert "no member answered" in outcome.err


def test_a_member_whose_certificate_cannot_be_fetched_is_a_row_not_the_end(
    cluster: Cluster,
) -> None:
    """--insecure-skip-tls-verify asks for the certificate before any call."""
    mixed = f"https://127.0.0.1:1,http://{cluster.servers[0].endpoint}"
    flags = ("--insecure-skip-tls-verify", "--interval=100ms", "-w", "json")
    outcome = run(mixed, "top", "--once", *flags)
    assert outcome.exit_code == 0
    assert set(rows(outcome)) == {"raftkv1", "raftkv2", "raftkv3"}
    found = run(mixed, "doctor", "--insecure-skip-tls-verify", "-w", "json")
    assert ("warning", "reach") in checks(found)


def checks(outcome: Outcome) -> set[tuple[str, str]]:
    return {(one["severity"], one["check"]) for one in json.loads(outcome.out)["findings"]}


def test_doctor_finds_no_fault_in_a_healthy_cluster(cluster: Cluster) -> None:
    deadline = time.monotonic() + 60  # a member that was paused finds its way back meanwhile
    while True:
        outcome = run(cluster.servers[0].endpoint, "doctor", "-w", "json")
        findings = json.loads(outcome.out)["findings"]
        graver = [
            one
            for one in findings
            # how fast the disk is, and how busy, is the machine's affair
            if one["severity"] != "note"
            and one["check"] != "disk"
            and "round trip" not in one["text"]
        ]
        if not graver:
            break
        assert time.monotonic() < deadline, graver
    assert ("note", "settings") in checks(outcome)
    tree = json.loads(outcome.out)
    assert (tree["members"], tree["answered"]) == (3, 3)


def test_doctor_says_what_a_paused_member_means(cluster: Cluster) -> None:
    with paused(cluster.servers[2]):
        outcome = run(cluster.servers[0].endpoint, "doctor")
    text = outcome.out.decode()
    assert outcome.exit_code in (1, 2)  # 2: the paused one led, and no other does yet
    assert "WARNING [reach] member raftkv3 cannot be reached" in text
    assert "WARNING [quorum] 2 of 3 voters answer: the loss of one more" in text
    assert "2 of 3 members answered" in text


def test_doctor_of_nobody_is_critical() -> None:
    outcome = run("127.0.0.1:1", "doctor", "-w", "json")
    assert outcome.exit_code == 2
    assert checks(outcome) == {("critical", "reach")}


def test_members_started_differently_are_found(tmp_path_factory: pytest.TempPathFactory) -> None:
    cluster = raftkv(tmp_path_factory.mktemp("mixed"), 2)
    cluster.servers[1]._command += ["--election-timeout=2000", "--heartbeat-interval=200"]
    with cluster:
        wait_for_addresses(cluster.endpoints)
        outcome = run(cluster.endpoints, "doctor", "-w", "json")
    assert outcome.exit_code in (1, 2)  # 2: the disk is far too slow
    texts = [one["text"] for one in json.loads(outcome.out)["findings"]]
    assert any("--election-timeout" in text and "2000: raftkv2" in text for text in texts)
    assert any("--heartbeat-interval" in text for text in texts)
    assert any("2 voters survive the loss of 0" in text for text in texts)


def test_top_and_doctor_do_with_what_etcd_says(tmp_path_factory: pytest.TempPathFactory) -> None:
    with etcd(tmp_path_factory.mktemp("etcd")) as cluster:
        shown = run(cluster.endpoints, "top", "--once", "-w", "json", "--interval=100ms")
        found = run(cluster.endpoints, "doctor", "-w", "json")
    (row,) = rows(shown).values()
    assert row["role"] == "leader"
    assert row["puts_per_second"] is row["log_sync_p99_us"] is None
    assert found.exit_code == 0
    assert checks(found) == {("note", "quorum")}


# --- on a terminal ---------------------------------------------------------------


class Terminal:
    """raftctl on a terminal of 80 columns."""

    def __init__(self, *argv: str, **environment: str) -> None:
        self._ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 80))
        self.before = termios.tcgetattr(theirs)
        code = "import sys; from raftkv.cli import ctl; sys.exit(ctl.run(sys.argv[1:]))"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, *argv],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24", **environment},
            start_new_session=True,
        )
        self._theirs = theirs
        self.text = ""

    def until(self, pattern: str, times: int = 1) -> None:
        """Reads until the pattern has come so often."""
        self._read_until(lambda: len(re.findall(pattern, self.text)) >= times, pattern)

    def _read_until(self, true: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + TERMINAL_SECONDS
        while not true():
            if time.monotonic() > deadline:
                self._process.kill()
                self._process.wait()
                raise AssertionError(f"{what}: not after {self.text!r}")
            if select.select([self._ours], [], [], LOOK_SECONDS)[0]:
                self.text += os.read(self._ours, 65_536).decode("utf-8", "replace")

    def press(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def end(self) -> tuple[int, list[object]]:
        """(exit code, the terminal's settings then)."""
        try:
            # Read meanwhile: a terminal that is full stops who writes to it.
            self._read_until(lambda: self._process.poll() is not None, "its end")
            code = self._process.wait()
            after = termios.tcgetattr(self._theirs)
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._theirs)
        while select.select([self._ours], [], [], 0)[0]:
            try:
                self.text += os.read(self._ours, 65_536).decode("utf-8", "replace")
            except OSError:  # all of it has been read
                break
        os.close(self._ours)
        return code, after


@pytest.mark.parametrize("way", ["q", "interrupt"])
def test_top_draws_in_place_and_gives_the_terminal_back(cluster: Cluster, way: str) -> None:
    terminal = Terminal("--endpoints", cluster.endpoints, "top", "--interval=200ms")
    terminal.until(r"raftkv3[\s\S]*q quits[\s\S]*raftkv3")
    terminal.press(b"\x1b[A")  # an arrow is no wish to leave
    drawn = terminal.text.count("q quits")
    terminal.until("q quits", times=drawn + 2)
    if way == "q":
        terminal.press(b"q")
    else:
        terminal.interrupt()
    code, after = terminal.end()
    assert code == 0
    assert after == terminal.before
    assert "\x1b[?1049h" in terminal.text  # a screen of its own,
    assert "\x1b[?1049l" in terminal.text  # left at the end
    assert "Traceback" not in terminal.text
    screens = terminal.text.replace("\x1b[H", "\n")  # each is drawn from the upper left corner
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screens)
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 80


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_colours_are_for_terminals_whose_owner_wants_them(
    cluster: Cluster, no_color: str, coloured: bool
) -> None:
    terminal = Terminal("--endpoints", cluster.endpoints, "doctor", NO_COLOR=no_color)
    terminal.until(r"members answered")
    code, _ = terminal.end()
    assert code in (0, 1, 2)  # what it finds is the machine's affair
    assert ("\x1b[3" in terminal.text) == coloured


def test_a_bar_is_drawn_on_a_terminal(cluster: Cluster) -> None:
    argv = ("check", "perf", "--duration=1s", "--prefix=/bar/")
    terminal = Terminal("--endpoints", cluster.endpoints, *argv)
    terminal.until(r"(PASS|FAIL)\s*$")
    terminal.end()
    assert "checking" in terminal.text
