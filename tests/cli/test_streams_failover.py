"""raftctl watch, lock and elect on a raftkv cluster whose nodes die under them (C08, C09, W02)."""

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import pytest

from raftkv.pb import lock_pb2, lock_pb2_grpc
from tests import processes
from tests.cli.running import Outcome, raftctl
from tests.cli.talking import Running
from tests.processes import Cluster

pytestmark = pytest.mark.xdist_group("raftctl-failover")
_numbers = count()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with processes.raftkv(tmp_path_factory.mktemp("raftkv"), 3) as running:
        yield running


class Ctl:
    """Three nodes; a node can be killed and comes back at the end."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.name = f"f{next(_numbers)}"
        self.killed: list[int] = []

    def run(self, *argv: str, stdin: bytes = b"") -> Outcome:
        done = raftctl(["--endpoints", self.cluster.endpoints, *argv], stdin)
        assert done.exit_code == 0, done
        return done

    def running(self, *argv: str, first: int = 0) -> Running:
        """A raftctl that tries the node `first` before the others."""
        servers = self.cluster.servers
        endpoints = ",".join(one.endpoint for one in servers[first:] + servers[:first])
        return Running("raftctl", ["--endpoints", endpoints, *argv])

    def leader(self) -> int:
        """Which node leads. An election may be under way: every look is a call of its own."""
        while True:
            shown = json.loads(self.run("-w", "json", "endpoint", "status").out)
            for number, one in enumerate(shown):
                if one["Status"]["leader"] == one["Status"]["header"]["member_id"]:
                    return number

    def kill(self, number: int) -> None:
        """Ends a node as a power cut would."""
        self.cluster.servers[number].kill()
        self.killed.append(number)

    def revive(self) -> None:
        """Starts what was killed."""
        for number in self.killed:
            self.cluster.servers[number].start()
        for number in self.killed:
            self.cluster.servers[number].wait_ready()
        self.killed.clear()

    def queue(self) -> list[bytes]:
        return self.run("get", self.name, "--prefix", "--keys-only").out.split()

    def wait_for(self, keys: int) -> None:
        while len(self.queue()) != keys:
            pass  # every look is a call of its own


@pytest.fixture
def ctl(cluster: Cluster) -> Iterator[Ctl]:
    ctl = Ctl(cluster)
    yield ctl
    ctl.revive()


@pytest.mark.parametrize("whose", ["leader", "follower"])
def test_a_watch_goes_on_at_another_node_without_a_gap(ctl: Ctl, whose: str) -> None:
    leader = ctl.leader()
    at = leader if whose == "leader" else (leader + 1) % 3
    with ctl.running("watch", ctl.name, "--prefix", first=at) as watch:
        ctl.run("put", f"{ctl.name}/ready", "0")
        while b"ready" not in watch.out:
            ctl.run("put", f"{ctl.name}/ready", "0")  # until the watch has begun
        for number in range(10):
            ctl.run("put", f"{ctl.name}/k", f"before{number}")
        ctl.kill(at)
        for number in range(10):
            ctl.run("put", f"{ctl.name}/k", f"after{number}")
        watch.wait_for(b"after9\n")
        said = watch.end(signal.SIGINT)
    values = [line.decode() for line in said.out.splitlines() if line.startswith((b"be", b"af"))]
    expected = [f"{when}{number}" for when in ("before", "after") for number in range(10)]
    assert values == expected
    assert said.err == ""


def test_a_place_in_the_queue_outlives_the_node_that_was_asked(ctl: Ctl) -> None:
    holder_at = ctl.leader()
    waiter_at = (holder_at + 1) % 3
    with ctl.running("lock", ctl.name, first=holder_at) as holder:
        holder.wait_for(b"\n\n")
        with ctl.running("lock", ctl.name, "echo", "second", first=waiter_at) as second:
            ctl.wait_for(2)
            with ctl.running("lock", ctl.name, "echo", "third", first=holder_at) as third:
                ctl.wait_for(3)
                ctl.kill(waiter_at)
                assert len(ctl.queue()) == 3
                assert holder.end(signal.SIGTERM).code == 0
                assert second.end().out == b"second\n"
                assert third.end().out == b"third\n"
    assert ctl.queue() == []


def test_etcdctl_raftctl_and_the_servers_own_lock_wait_in_one_queue(ctl: Ctl) -> None:
    """Clients that keep the queue themselves, and calls that wait in a server, at all nodes."""
    with ExitStack() as stack:
        channels = [
            stack.enter_context(grpc.insecure_channel(one.endpoint)) for one in ctl.cluster.servers
        ]
        stubs: list[Any] = [lock_pb2_grpc.LockStub(channel) for channel in channels]
        order: list[str] = []

        def process(tool: str, number: int) -> Running:
            argv = ["--endpoints", ctl.cluster.servers[number].endpoint, "lock", ctl.name]
            return stack.enter_context(Running(tool, argv))

        def service(number: int) -> Any:
            request = lock_pb2.LockRequest(name=ctl.name.encode())
            return stubs[number].Lock.future(request, timeout=90)

        queue: list[Any] = []
        for number in range(6):
            tool = ("etcdctl", "service", "raftctl")[number % 3]
            queue.append(service(number % 2) if tool == "service" else process(tool, number % 3))
            ctl.wait_for(number + 1)
        for number, one in enumerate(queue):
            for later in queue[number + 1 :]:
                assert not (later.out if isinstance(later, Running) else later.done())
            if isinstance(one, Running):
                one.wait_for(b"\n\n")
                assert one.end(signal.SIGINT).code == 0
                order.append(one.tool)
            else:
                key = one.result().key
                stubs[2].Unlock(lock_pb2.UnlockRequest(key=key), timeout=60)
                order.append("service")
        assert len(set(order)) == 3
    assert ctl.queue() == []


def test_a_lock_is_kept_and_released_while_the_leader_changes(ctl: Ctl) -> None:
    at = ctl.leader()
    with ctl.running("lock", ctl.name, "--ttl=15", first=at) as holder:
        holder.wait_for(b"\n\n")
        key = holder.out.split()[0]
        ctl.kill(at)
        assert ctl.queue() == [key]
        assert holder.end(signal.SIGINT).code == 0
    assert ctl.queue() == []


def test_a_listener_goes_on_at_another_node_and_hears_nothing_twice(ctl: Ctl) -> None:
    """C08."""
    at = ctl.leader()
    with (
        ctl.running("elect", ctl.name, "one", first=(at + 1) % 3) as leading,
        ctl.running("elect", "-l", ctl.name, first=at) as listener,
    ):
        listener.wait_for(b"one\n")
        ctl.kill(at)
        with ctl.running("elect", ctl.name, "two", first=(at + 1) % 3) as second:
            ctl.wait_for(2)
            assert leading.end(signal.SIGINT).code == 0
            listener.wait_for(b"two\n")
            assert second.end(signal.SIGINT).code == 0
        said = listener.end(signal.SIGINT)
    assert said.out.splitlines()[1::2] == [b"one", b"two"]
    assert (said.code, said.err) == (0, "")


def test_the_documents_guard_lets_a_holder_write_and_nobody_later(ctl: Ctl, tmp_path: Path) -> None:
    """C03: the transaction of docs/locks.md, with the token that the command is given."""
    token = tmp_path / "token"
    script = 'printf "%s %s" "$ETCD_LOCK_KEY" "$ETCD_LOCK_TOKEN" > ' + str(token)
    script += f"; until [ -e {tmp_path}/go ]; do sleep 0.05; done"

    def guarded(value: str) -> bytes:
        key, revision = token.read_text().split()
        text = f'c("{key}") = "{revision}"\n\nput {ctl.name}result {value}\n\n\n'
        return ctl.run("txn", stdin=text.encode()).out.split()[0]

    with ctl.running("lock", ctl.name, "--", "sh", "-c", script) as holder:
        while not token.exists() or len(token.read_text().split()) != 2:
            pass
        assert guarded("held") == b"SUCCESS"
        (tmp_path / "go").touch()
        assert holder.end().code == 0
    assert guarded("late") == b"FAILURE"
    assert ctl.run("get", ctl.name + "result", "--print-value-only").out == b"held\n"


def test_nothing_to_reach_is_said_in_time() -> None:
    (port,) = processes.free_ports(1)
    base = ["--endpoints", f"127.0.0.1:{port}", "--dial-timeout", "300ms"]
    for argv in (["watch", "k"], ["lock", "k"], ["elect", "k", "v"], ["elect", "-l", "k"]):
        with Running("raftctl", [*base, *argv]) as running:
            said = running.end()
            assert said.code == 1
            assert said.err.startswith("Error: ")
            assert said.out == b""
