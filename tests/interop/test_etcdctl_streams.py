"""The real etcdctl's watch, lease, lock and elect, against etcd and every node of a raftkv cluster.

What etcdctl prints is first of all true of etcd. A node that does not offer the service yet,
by its own answer, is skipped.
"""

import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from queue import Empty, SimpleQueue

import pytest

from tests import processes
from tests.conformance.streams import skip_unless_offered
from tests.conformance.target import Target
from tests.processes import Cluster, Server

pytestmark = pytest.mark.slow

PATIENCE_SECONDS = 60.0
POLL_SECONDS = 0.05
_numbers = count()


class Running:
    """An etcdctl that runs on; its lines come as it prints them."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def lines(self, number: int) -> list[str]:
        """The next so many lines. Errors: AssertionError when it ends before."""
        found: list[str] = []
        for _ in range(number):
            line = self._lines.get(timeout=PATIENCE_SECONDS)
            assert line is not None, found
            found.append(line)
        return found

    def line_within(self, seconds: float) -> str | None:
        """The next line; None if none comes in time, or none at all any more."""
        with suppress(Empty):
            return self._lines.get(timeout=seconds)
        return None

    def say(self, text: str) -> None:
        """Writes a line to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()

    def interrupt(self) -> int:
        """Ends it as Ctrl-C would; returns its status."""
        self._process.send_signal(signal.SIGINT)
        return self.wait()

    def wait(self) -> int:
        """Returns the exit status."""
        return self._process.wait(PATIENCE_SECONDS)

    def close(self) -> None:
        """Ends it by force if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join(PATIENCE_SECONDS)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


class Ctl:
    """etcdctl against one server, and a prefix of the test's own."""

    def __init__(self, server: Server, stack: ExitStack) -> None:
        self.prefix = f"s{next(_numbers):04}/"
        self.target = stack.enter_context(Target(server.endpoint))
        self._command = [str(processes.ETCDCTL), "--endpoints", server.endpoint]

    def run(self, *arguments: str) -> str:
        """The output of a command that must succeed."""
        done = subprocess.run(
            [*self._command, *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout

    def fail(self, *arguments: str) -> str:
        """What a command that must fail says."""
        done = subprocess.run(
            [*self._command, *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode != 0, (arguments, done.stdout)
        return done.stderr

    @contextmanager
    def running(self, *arguments: str) -> Iterator[Running]:
        """A command that goes on."""
        started = Running([*self._command, *arguments])
        try:
            yield started
        finally:
            started.close()

    def revision(self) -> int:
        found = re.search(r'"revision":(\d+)', self.run("get", "none", "-w", "json"))
        assert found is not None
        return int(found[1])

    def grant(self, seconds: int = 600) -> str:
        """The id of a new lease, in hex."""
        said = self.run("lease", "grant", str(seconds))
        found = re.fullmatch(r"lease ([0-9a-f]{16}) granted with TTL\((\d+)s\)\n", said)
        assert found is not None, said
        assert int(found[2]) == seconds
        return found[1]

    def wait_for_keys(self, prefix: str, number: int) -> list[str]:
        """The keys below a prefix, once there are so many."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            keys = self.run("get", "--prefix", "--keys-only", prefix).split()
            if len(keys) == number:
                return keys
            assert time.monotonic() < deadline, keys
            time.sleep(POLL_SECONDS)


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with processes.etcd(tmp_path_factory.mktemp("etcd"), "--unsafe-no-fsync") as running:
        yield running.servers[0]


@pytest.fixture(params=["etcd", "node1", "node2", "node3"])
def ctl(request: pytest.FixtureRequest, etcd: Server) -> Iterator[Ctl]:
    """etcdctl against etcd, and against each node."""
    server = etcd
    if request.param != "etcd":
        cluster: Cluster = request.getfixturevalue("cluster")
        server = cluster.servers[int(request.param[-1]) - 1]
    with ExitStack() as stack:
        yield Ctl(server, stack)


# --- watch ------------------------------------------------------------------------


def test_watch_prints_events(ctl: Ctl) -> None:
    skip_unless_offered(ctl.target, "Watch.Watch")
    start = str(ctl.revision() + 1)
    with ctl.running("watch", "--prefix", "--prev-kv", f"--rev={start}", ctl.prefix) as watch:
        ctl.run("put", ctl.prefix + "a", "1")
        assert watch.lines(3) == ["PUT", ctl.prefix + "a", "1"]
        ctl.run("put", ctl.prefix + "a", "2")
        key = ctl.prefix + "a"
        assert watch.lines(5) == ["PUT", key, "1", key, "2"]
        ctl.run("del", key)
        assert watch.lines(5) == ["DELETE", key, "2", key, ""]


def test_watch_from_the_past_gives_history(ctl: Ctl) -> None:
    skip_unless_offered(ctl.target, "Watch.Watch")
    start = str(ctl.revision() + 1)
    for number in range(5):
        ctl.run("put", ctl.prefix + "k", str(number))
    with ctl.running("watch", f"--rev={start}", ctl.prefix + "k") as watch:
        assert watch.lines(15)[2::3] == [str(number) for number in range(5)]


def test_watch_of_what_is_compacted_ends_and_says_why(ctl: Ctl) -> None:
    skip_unless_offered(ctl.target, "Watch.Watch")
    first = ctl.revision() + 1
    for number in range(3):
        ctl.run("put", ctl.prefix + "k", str(number))
    ctl.run("compaction", str(first + 2))
    said = ctl.fail("watch", f"--rev={first}", ctl.prefix + "k")
    assert "watch was canceled (etcdserver: mvcc: required revision has been compacted)" in said


def test_watch_interactively_with_progress(ctl: Ctl) -> None:
    skip_unless_offered(ctl.target, "Watch.Watch")
    with ctl.running("watch", "-i") as watch:
        watch.say(f"watch {ctl.prefix}a")
        watch.say(f"watch {ctl.prefix}b")
        start = time.monotonic()
        seen: str | None = None
        while (
            seen is None
        ):  # etcd 3.5 leaves one unanswered that comes before the watches are synced
            assert time.monotonic() < start + PATIENCE_SECONDS
            watch.say("progress")
            seen = watch.line_within(1.0)
        assert re.fullmatch(r"progress notify: \d+", seen)


def test_watch_runs_a_command_per_event(ctl: Ctl) -> None:
    skip_unless_offered(ctl.target, "Watch.Watch")
    start = str(ctl.revision() + 1)
    key = ctl.prefix + "k"
    with ctl.running(
        "watch", f"--rev={start}", key, "--", "sh", "-c", "echo got $ETCD_WATCH_VALUE"
    ) as watch:
        ctl.run("put", key, "1")
        assert watch.lines(4) == ["PUT", key, "1", 'got "1"']


# --- lease ------------------------------------------------------------------------


def test_lease_grant_timetolive_list_revoke(ctl: Ctl) -> None:
    skip_unless_offered(ctl.target, "Lease.LeaseLeases")
    lease = ctl.grant()
    ctl.run("put", f"--lease={lease}", ctl.prefix + "a", "1")
    said = ctl.run("lease", "timetolive", lease, "--keys")
    pattern = (
        rf"lease {lease} granted with TTL\(600s\), remaining\(59\ds\), attached keys\(\[(.*)\]\)\n"
    )
    found = re.fullmatch(pattern, said)
    assert found is not None, said
    assert found[1] == ctl.prefix + "a"
    assert lease in ctl.run("lease", "list").split()
    assert ctl.run("lease", "revoke", lease) == f"lease {lease} revoked\n"
    assert ctl.run("get", ctl.prefix + "a") == ""
    assert ctl.run("lease", "timetolive", lease) == f"lease {lease} already expired\n"
    assert "requested lease not found" in ctl.fail("lease", "revoke", lease)


def test_lease_keep_alive(ctl: Ctl) -> None:
    skip_unless_offered(ctl.target, "Lease.LeaseLeases")
    lease = ctl.grant(60)
    said = ctl.run("lease", "keep-alive", "--once", lease)
    assert said == f"lease {lease} keepalived with TTL(60)\n"
    ctl.run("lease", "revoke", lease)
    gone = ctl.run("lease", "keep-alive", lease)
    assert gone == f"lease {lease} expired or revoked.\n"


# --- lock -------------------------------------------------------------------------


def test_lock_runs_a_command_and_releases(ctl: Ctl) -> None:
    skip_unless_offered(ctl.target, "Watch.Watch")
    skip_unless_offered(ctl.target, "Lease.LeaseLeases")
    name = ctl.prefix + "lock"
    shown = dict(line.partition("=")[::2] for line in ctl.run("lock", name, "env").splitlines())
    assert re.fullmatch(rf"{name}/[0-9a-f]+", shown["ETCD_LOCK_KEY"])
    assert int(shown["ETCD_LOCK_REV"]) > 0
    assert ctl.run("get", "--prefix", "--keys-only", name) == ""


def test_locks_are_held_one_after_the_other(ctl: Ctl) -> None:
    """W17: the second waits until the first is interrupted."""
    skip_unless_offered(ctl.target, "Watch.Watch")
    skip_unless_offered(ctl.target, "Lease.LeaseLeases")
    name = ctl.prefix + "lock"
    with ctl.running("lock", name) as first:
        (held,) = first.lines(1)
        with ctl.running("lock", name) as second:
            assert held in ctl.wait_for_keys(name, 2)
            assert first.interrupt() == 0
            (then,) = second.lines(1)
            assert then != held
            assert ctl.wait_for_keys(name, 1) == [then]
            assert second.interrupt() == 0
    assert ctl.wait_for_keys(name, 0) == []


# --- elect ------------------------------------------------------------------------


def test_elect_and_listen(ctl: Ctl) -> None:
    skip_unless_offered(ctl.target, "Watch.Watch")
    skip_unless_offered(ctl.target, "Lease.LeaseLeases")
    name = ctl.prefix + "office"
    with ctl.running("elect", name, "one") as first:
        key, value = first.lines(2)
        assert value == "one"
        with ctl.running("elect", "-l", name) as listener:
            assert listener.lines(2) == [key, "one"]
            with ctl.running("elect", name, "two") as second:
                ctl.wait_for_keys(name, 2)
                assert first.interrupt() == 0
                then, value = second.lines(2)
                assert value == "two"
                assert listener.lines(2) == [then, "two"]
