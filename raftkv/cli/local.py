"""`raftkv local`: a cluster of `raftkv serve` processes on this machine.

Ports are those of etcd's own example (2379 and 2380, 22379 and 22380, ...), or
one after the other from --base. All of them are tried before anything starts.
"""

import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from raftkv.cli.ports import holder_of
from raftkv.errors import ConfigError, RaftkvError

HOST: Final = "127.0.0.1"
CLIENT_PORT: Final = 2379
PEER_PORT: Final = 2380
PORT_STEP: Final = 10_000  # between the second node and the third; the first starts one lower
TOKEN: Final = "raftkv-local"
HIGHEST_PORT: Final = 65_535
CHECK_SECONDS: Final = 1.0  # one try whether a node serves


class PortTaken(RaftkvError):
    """A port that the cluster needs is in use."""


@dataclass(frozen=True, slots=True)
class LocalNode:
    """One server of the cluster: name, ports on HOST, data directory."""

    name: str
    client_port: int
    peer_port: int
    data_dir: Path

    @property
    def client_address(self) -> str:
        """host:port for clients."""
        return f"{HOST}:{self.client_port}"


def plan(count: int, data_dir: Path, base: int | None) -> list[LocalNode]:
    """The nodes of a cluster. Errors: ConfigError when the ports do not suffice."""
    nodes = []
    for number in range(1, count + 1):
        if base is not None:
            client, peer = base + 2 * (number - 1), base + 2 * (number - 1) + 1
        else:
            offset = PORT_STEP * number if number > 1 else 0
            client, peer = CLIENT_PORT + offset, PEER_PORT + offset
        name = f"node{number}"
        nodes.append(LocalNode(name, client, peer, data_dir / name))
    if nodes[-1].peer_port > HIGHEST_PORT:
        raise ConfigError(f"--nodes: {count} nodes need a port above {HIGHEST_PORT}; set --base")
    return nodes


def serve_flags(node: LocalNode, nodes: Sequence[LocalNode]) -> list[str]:
    """What `raftkv serve` is told for one node."""
    client = f"http://{HOST}:{node.client_port}"
    peer = f"http://{HOST}:{node.peer_port}"
    cluster = ",".join(f"{one.name}=http://{HOST}:{one.peer_port}" for one in nodes)
    settings = {
        "name": node.name,
        "data-dir": str(node.data_dir),
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": cluster,
        "initial-cluster-token": TOKEN,
        "log-format": "console",
    }
    return [f"--{flag}={text}" for flag, text in settings.items()]


def check_ports(nodes: Sequence[LocalNode]) -> None:
    """Try every port. Errors: PortTaken naming a taken one and who holds it."""
    for node in nodes:
        for port in (node.client_port, node.peer_port):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((HOST, port))
                    probe.listen(1)
                except OSError as error:
                    raise PortTaken(_port_text(node, port, error)) from None


def _port_text(node: LocalNode, port: int, error: OSError) -> str:
    holder = holder_of(port)
    who = f"by {holder}; stop it" if holder else f"({error.strerror}); free it"
    return f"port {port} of {node.name} is taken {who} or choose other ports with --base"


def run_cluster(count: int, data_dir: Path, base: int | None, flags: Sequence[str]) -> int:
    """Run the cluster in the foreground; the exit code. Errors: ConfigError, PortTaken, OSError."""
    from raftkv.cli.supervisor import Child, Supervisor

    nodes = plan(count, data_dir, base)
    check_ports(nodes)
    data_dir.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "raftkv", "serve"]
    children = [Child(node.name, [*command, *serve_flags(node, nodes), *flags]) for node in nodes]
    supervisor = Supervisor(children, sys.stdout, colours=sys.stdout.isatty())
    supervisor.when_serving(lambda quit_: all_serve(nodes, quit_), banner(nodes))
    return supervisor.run()


def banner(nodes: Sequence[LocalNode]) -> str:
    """What is printed when the cluster serves."""
    endpoints = ",".join(node.client_address for node in nodes)
    word = "node serves" if len(nodes) == 1 else "nodes serve"
    return (
        f"{len(nodes)} {word} clients at {endpoints}. Try, in another terminal:\n"
        f"  raftctl --endpoints {endpoints} put greeting hello\n"
        f"  etcdctl --endpoints {endpoints} get greeting\n"
        "Ctrl-C stops the cluster; the data stays."
    )


def all_serve(nodes: Sequence[LocalNode], quit_: threading.Event) -> bool:
    """Wait until every node answers a linearizable read; False once `quit_` is set."""
    from raftkv.cli.connection import CallFailed, Target, connected
    from raftkv.pb import rpc_pb2

    request = rpc_pb2.RangeRequest(key=b"health")
    for node in nodes:
        target = Target(
            (node.client_address,),
            command_timeout_seconds=CHECK_SECONDS,
            dial_timeout_seconds=CHECK_SECONDS,
        )
        with connected(target) as connection:
            while not quit_.is_set():
                try:
                    connection.read("KV/Range", request, rpc_pb2.RangeResponse)
                    break
                except CallFailed:
                    quit_.wait(CHECK_SECONDS / 10)
    return not quit_.is_set()
