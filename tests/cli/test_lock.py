"""raftctl lock and elect say and do what etcdctl's do, and both stand in the same queues."""

import re
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen

import pytest

from raftkv.cli.exits import CtlError
from raftkv.cli.queueing import become_first
from raftkv.pb import rpc_pb2
from tests.cli.running import Outcome, etcdctl
from tests.cli.talking import TOOLS, Running, Said, both
from tests.processes import etcd

pytestmark = pytest.mark.xdist_group("etcdctl-streams")
_numbers = count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with etcd(tmp_path_factory.mktemp("etcd"), "--unsafe-no-fsync") as cluster:
        yield cluster.endpoints


class Ctl:
    """One etcd, a name of this test's own, and looks by etcdctl."""

    def __init__(self, server: str) -> None:
        self.base = ["--endpoints", server]
        self.name = f"q{next(_numbers):03d}"

    def run(self, *argv: str) -> Outcome:
        return etcdctl([*self.base, *argv])

    def queue(self) -> list[bytes]:
        return self.run("get", self.name, "--prefix", "--keys-only").out.split()

    def wait_for(self, keys: int) -> None:
        while len(self.queue()) != keys:
            pass  # every look is a process of its own

    def wait_for_watchers(self, watchers: int) -> None:
        """Until so many watches are open: one for each tool that waits for a key to go.

        A signal that comes earlier may cross the answer to the tool's put, and etcdctl leaves
        its key behind then.
        """
        while f"\netcd_debugging_mvcc_watcher_total {watchers}\n".encode() not in self._metrics():
            pass  # every look is a call of its own

    def _metrics(self) -> bytes:
        with urlopen(f"http://{self.base[1]}/metrics", timeout=60) as answer:
            found: bytes = answer.read()
            return found

    def revoke(self, key: bytes) -> None:
        lease = key.rpartition(b"/")[2].decode()
        assert self.run("lease", "revoke", lease).exit_code == 0

    def running(self, tool: str, *argv: str) -> Running:
        return Running(tool, [*self.base, *argv])


@pytest.fixture
def ctl(server: str) -> Ctl:
    return Ctl(server)


# --- lock -----------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [(), ("a", "--ttl", "x")])
def test_lock_refuses_bad_arguments(ctl: Ctl, argv: tuple[str, ...]) -> None:
    said = []
    for tool in TOOLS:
        with ctl.running(tool, "lock", *argv) as running:
            done = running.end()
            said.append((done.code, done.err.splitlines()[0]))
    assert said[0] == said[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_lock_is_held_until_a_signal(ctl: Ctl, number: signal.Signals) -> None:
    def act(tool: str) -> Said:
        with ctl.running(tool, "lock", ctl.name) as running:
            running.wait_for(b"\n\n")
            assert len(ctl.queue()) == 1
            return running.end(number)

    said = both(act)
    assert (said.code, said.out) == (0, b"%b/LEASE\n\n" % ctl.name.encode())
    assert ctl.queue() == []


@pytest.mark.parametrize("name", ["json", "fields", "table"])
def test_a_lock_in_other_formats(ctl: Ctl, name: str) -> None:
    out = []
    for tool in TOOLS:
        with ctl.running(tool, "-w", name, "lock", ctl.name + tool) as running:
            if name == "table":
                said = running.end()
            else:
                running.wait_for(b"ount")
                running.wait_for(b"}\n" if name == "json" else b'"Count" : 1\n')
                said = running.end(signal.SIGINT)
        words = said.out.replace(b",", b"\n").split(b"\n")
        out.append((said.code, said.err, [word.partition(b":")[0] for word in words]))
    assert out[0] == out[1]


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("true",), 0),
        (("sh", "-c", "echo out; echo err >&2; cat; exit 7"), 7),
        (("nosuchcommand",), 1),
        (("/no/such",), 1),
        (("sh", "-c", "kill -9 $$"), 255),
    ],
)
def test_a_command_runs_under_the_lock_and_gives_its_exit_code(
    ctl: Ctl, command: tuple[str, ...], code: int
) -> None:
    def act(tool: str) -> Said:
        with ctl.running(tool, "lock", ctl.name, "--", *command) as running:
            return running.end()

    assert both(act).code == code
    assert ctl.queue() == []


def test_the_command_knows_its_key_and_its_fencing_token(ctl: Ctl) -> None:
    """C03: the token is the create revision of the key, also for who had to wait."""
    with ctl.running("raftctl", "lock", ctl.name) as holder:
        holder.wait_for(b"\n\n")
        script = "env | grep ^ETCD_LOCK | sort; read line < /dev/null; sleep 0"
        with ctl.running("raftctl", "lock", ctl.name, "--", "sh", "-c", script) as waiter:
            ctl.wait_for(2)
            key = ctl.queue()[1] if ctl.queue()[0] in holder.out else ctl.queue()[0]
            fields = ctl.run("get", key.decode(), "-w", "fields").out
            token = fields.partition(b'"CreateRevision" : ')[2].split()[0]
            assert holder.end(signal.SIGINT).code == 0
            said = waiter.end()
    found = dict(line.split(b"=", 1) for line in said.out.splitlines())
    assert found[b"ETCD_LOCK_KEY"] == key
    assert found[b"ETCD_LOCK_TOKEN"] == token
    assert int(found[b"ETCD_LOCK_REV"]) > int(token)


def test_a_signal_lets_the_command_end_and_then_releases(ctl: Ctl, tmp_path: Path) -> None:
    def act(tool: str) -> Said:
        go = tmp_path / tool
        script = f"echo start; until [ -e {go} ]; do sleep 0.05; done; echo end"
        with ctl.running(tool, "lock", ctl.name, "--", "sh", "-c", script) as running:
            running.wait_for(b"start\n")
            running.process.send_signal(signal.SIGINT)
            running.process.send_signal(signal.SIGTERM)
            assert len(ctl.queue()) == 1, "still held"
            go.touch()
            return running.end()

    assert both(act).code == 0
    assert ctl.queue() == []


def test_a_waiter_that_is_interrupted_leaves_the_queue(ctl: Ctl) -> None:
    """C09."""
    with ctl.running("etcdctl", "lock", ctl.name) as holder:
        holder.wait_for(b"\n\n")

        def act(tool: str) -> Said:
            ctl.wait_for_watchers(0)
            with ctl.running(tool, "lock", ctl.name) as running:
                ctl.wait_for_watchers(1)
                assert len(ctl.queue()) == 2
                said = running.end(signal.SIGINT)
            ctl.wait_for(1)
            return said

        said = both(act)
        assert (said.code, said.err) == (1, "Error: context canceled\n")


def test_a_waiter_whose_lease_dies_gets_an_error(ctl: Ctl) -> None:
    """C04."""

    def act(tool: str) -> Said:
        with ctl.running("etcdctl", "lock", ctl.name) as holder:
            holder.wait_for(b"\n\n")
            with ctl.running(tool, "lock", ctl.name, "--ttl=60", "echo", "locked") as waiter:
                ctl.wait_for(2)
                (key,) = (one for one in ctl.queue() if one not in holder.out)
                ctl.revoke(key)
                assert holder.end(signal.SIGINT).code == 0
                return waiter.end()

    said = both(act)
    assert (said.code, said.out, said.err) == (1, b"", "Error: mutex: session is expired\n")


def test_a_holder_whose_lease_dies_is_told(ctl: Ctl) -> None:
    def act(tool: str) -> Said:
        with ctl.running(tool, "lock", ctl.name, "--ttl=6") as holder:
            holder.wait_for(b"\n\n")
            ctl.revoke(ctl.queue()[0])
            return holder.end()

    said = both(act)
    assert (said.code, said.err) == (1, "Error: session expired\n")


def test_etcdctl_and_raftctl_wait_in_one_queue(ctl: Ctl) -> None:
    tools = ["etcdctl", "raftctl", "raftctl", "etcdctl"]
    running = []
    try:
        for number, tool in enumerate(tools, 1):
            running.append(ctl.running(tool, "lock", ctl.name))
            ctl.wait_for(number)
        for number, one in enumerate(running):
            one.wait_for(b"\n\n")
            assert not any(later.out for later in running[number + 1 :])
            assert one.end(signal.SIGTERM).code == 0
    finally:
        for one in running:
            one.__exit__()


def test_a_lock_is_kept_for_longer_than_its_ttl(ctl: Ctl) -> None:
    """Renewed while the command runs."""
    argv = ["lock", ctl.name, "--ttl=5", "--", "sleep", "7"]
    with ctl.running("raftctl", *argv) as holder:
        ctl.wait_for(1)
        with ctl.running("etcdctl", "lock", ctl.name, "--", "echo", "mine") as waiter:
            assert holder.end().code == 0
            assert waiter.end().out == b"mine\n"
        assert holder.out == b""


class _Emptied:
    """A connection to a server whose queue is empty as soon as a key was put into it."""

    def write(self, *_: object) -> rpc_pb2.TxnResponse:
        return rpc_pb2.TxnResponse(succeeded=True)

    def read(self, *_: object) -> rpc_pb2.RangeResponse:
        return rpc_pb2.RangeResponse()


def test_a_lease_that_ends_before_the_first_look_gives_no_lock() -> None:
    """C04: nobody is before a key that is gone."""
    lease: Any = SimpleNamespace(id=7)
    connection: Any = _Emptied()
    with pytest.raises(CtlError, match="lost"):
        become_first(connection, lease, b"name", b"", "lost")


# --- elect ------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [(), ("a",), ("a", "b", "c"), ("-l", "a", "b")])
def test_elect_refuses_bad_arguments(ctl: Ctl, argv: tuple[str, ...]) -> None:
    def act(tool: str) -> Said:
        with ctl.running(tool, "elect", *argv) as running:
            return running.end()

    assert both(act).code == 128


def test_leaders_and_listeners(ctl: Ctl) -> None:
    def act(tool: str) -> Said:
        with (
            ctl.running(tool, "elect", ctl.name, "one") as first,
            ctl.running(tool, "elect", "-l", ctl.name) as listener,
        ):
            first.wait_for(b"one\n")
            listener.wait_for(b"one\n")
            with ctl.running(tool, "elect", ctl.name, "two") as second:
                ctl.wait_for(2)
                assert first.end(signal.SIGINT) == Said(0, first.out, "")
                second.wait_for(b"two\n")
                assert second.end(signal.SIGTERM) == Said(0, second.out, "")
            listener.wait_for(b"two\n")
            said = listener.end(signal.SIGINT)
            assert said.out == first.out + second.out
            return said

    assert both(act).code == 0
    assert ctl.queue() == []


@pytest.mark.parametrize("name", ["json", "fields", "protobuf"])
def test_two_listeners_print_the_same(ctl: Ctl, name: str) -> None:
    with ctl.running("etcdctl", "elect", ctl.name, "value-of-the-leader") as leader:
        leader.wait_for(b"value-of-the-leader\n")
        said = []
        for tool in TOOLS:
            with ctl.running(tool, "-w", name, "elect", "-l", ctl.name) as listener:
                listener.wait_for(ctl.name.encode() if name == "protobuf" else b"\n")
                if name == "fields":
                    listener.wait_for(b'"Count" : 0\n')
                done = listener.end(signal.SIGINT)
                said.append((done.code, done.err, without_revision(name, done.out)))
    assert said[0] == said[1]


def without_revision(name: str, out: bytes) -> bytes:
    """Without the header's revision: leases of other tests end meanwhile."""
    if name == "protobuf":
        reply = rpc_pb2.RangeResponse.FromString(out)
        assert reply.header.revision > 0
        reply.header.revision = 0
        return reply.SerializeToString()
    return re.sub(rb'("[Rr]evision" ?: ?)[0-9]+', rb"\1N", out)


def test_a_candidate_that_is_interrupted_leaves_the_queue(ctl: Ctl) -> None:
    """C09."""
    with ctl.running("etcdctl", "elect", ctl.name, "one") as leader:
        leader.wait_for(b"one\n")

        def act(tool: str) -> Said:
            ctl.wait_for_watchers(0)
            with ctl.running(tool, "elect", ctl.name, "two") as running:
                ctl.wait_for_watchers(1)
                assert len(ctl.queue()) == 2
                said = running.end(signal.SIGTERM)
            ctl.wait_for(1)
            return said

        assert both(act).code == 1
