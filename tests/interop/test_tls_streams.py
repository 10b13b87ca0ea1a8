"""Watches over TLS: three real members with TLS at both ports, and etcdctl and grpcio."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from raftkv.pb import kv_pb2, rpc_pb2, rpc_pb2_grpc
from tests.interop.test_etcdctl_streams import Running
from tests.processes import ETCDCTL, RAFTKV, START_SECONDS, Server, free_ports
from tests.server.certificates import Authority

pytestmark = pytest.mark.slow

EVENTS = 200


class Secure:
    """A cluster whose clients must show a certificate of its own authority."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.authority = Authority(directory / "ca")
        ports = free_ports(6)
        names = [f"tls{number}" for number in range(3)]
        peers = dict(zip(names, ports[3:], strict=True))
        cluster = ",".join(f"{name}=https://127.0.0.1:{port}" for name, port in peers.items())
        self.servers = [
            self._server(directory, name, client, peers[name], cluster)
            for name, client in zip(names, ports[:3], strict=True)
        ]
        for server in self.servers:
            server.start()
            stack.callback(server.stop)
        for server in self.servers:
            self._wait_ready(server)

    def _server(
        self, directory: Path, name: str, client_port: int, peer_port: int, cluster: str
    ) -> Server:
        client, peer = f"https://127.0.0.1:{client_port}", f"https://127.0.0.1:{peer_port}"
        cert, key = self.authority.certificate(name)
        files = ("--cert-file", cert, "--key-file", key, "--trusted-ca-file", self.authority.ca)
        peer_files = [f"--peer-{word[2:]}" if isinstance(word, str) else word for word in files]
        words = [
            *("--name", name, "--data-dir", directory / name, "--initial-cluster", cluster),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *(*files, "--client-cert-auth", *peer_files, "--peer-client-cert-auth"),
        ]
        command = [*RAFTKV, *(str(word) for word in words)]
        return Server(name, command, directory, client_port, peer_port)

    def _wait_ready(self, server: Server) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self.run(server, "get", "k").returncode:
            assert server.running(), server.log_end()
            assert time.monotonic() < deadline, server.log_end()
            time.sleep(0.2)

    def command(self, server: Server, *words: str) -> list[str]:
        """An etcdctl command line for one member."""
        cert, key = self.authority.certificate("client")
        flags = f"--cacert={self.authority.ca}", f"--cert={cert}", f"--key={key}"
        return [str(ETCDCTL), f"--endpoints=https://{server.endpoint}", *flags, *words]

    def run(self, server: Server, *words: str) -> "subprocess.CompletedProcess[str]":
        """Runs etcdctl."""
        command = self.command(server, *words)
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    def channel(self, server: Server) -> grpc.Channel:
        """A grpcio channel."""
        cert, key = self.authority.certificate("client")
        parts = (self.authority.ca.read_bytes(), key.read_bytes(), cert.read_bytes())
        return grpc.secure_channel(server.endpoint, grpc.ssl_channel_credentials(*parts))

    def leader(self) -> Server:
        """Who leads."""
        for server in self.servers:
            with self.channel(server) as channel:
                status = rpc_pb2_grpc.MaintenanceStub(channel).Status(
                    rpc_pb2.StatusRequest(), timeout=10
                )
                if status.leader == status.header.member_id:
                    return server
        raise AssertionError("nobody leads")


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[Secure]:
    with ExitStack() as stack:
        yield Secure(tmp_path, stack)


def watch(channel: grpc.Channel, start_revision: int = 0) -> "Iterator[rpc_pb2.WatchResponse]":
    """A watch of all keys with k/; its first response was read."""
    create = rpc_pb2.WatchCreateRequest(key=b"k/", range_end=b"k0", start_revision=start_revision)
    opened = iter([rpc_pb2.WatchRequest(create_request=create)])
    responses: Iterator[rpc_pb2.WatchResponse] = rpc_pb2_grpc.WatchStub(channel).Watch(
        opened, timeout=60
    )
    assert next(responses).created
    return responses


def events(responses: "Iterator[rpc_pb2.WatchResponse]", count: int) -> list[kv_pb2.Event]:
    """The next so many events."""
    found: list[kv_pb2.Event] = []
    while len(found) < count:
        found += next(responses).events
    return found


def test_watches_over_tls_get_every_event_through_a_change_of_the_leader(secure: Secure) -> None:
    """grpcio and etcdctl, live and from history, at a member that stays; values larger than a TLS
    record among them.
    """
    leader = secure.leader()
    stays, other = (server for server in secure.servers if server is not leader)
    values = [
        b"%d" % number + b"v" * (50_000 if number % 20 == 0 else 0) for number in range(EVENTS)
    ]
    ctl = Running(secure.command(stays, "watch", "--rev=1", "--prefix", "k/"))
    with secure.channel(stays) as channel:
        try:
            live = watch(channel)
            kv = rpc_pb2_grpc.KVStub(channel)
            wanted = []
            for number, value in enumerate(values):
                if number == EVENTS // 2:
                    leader.kill()
                key = b"k/%03d" % (number % 7)
                put = kv.Put(rpc_pb2.PutRequest(key=key, value=value), timeout=30)
                wanted.append((key, value, put.header.revision))
            for responses in (live, watch(channel, start_revision=wanted[0][2])):
                got = [
                    (one.kv.key, one.kv.value, one.kv.mod_revision)
                    for one in events(responses, EVENTS)
                ]
                assert got == wanted
            lines = ctl.lines(3 * EVENTS)
            assert lines[::3] == ["PUT"] * EVENTS
            assert lines[1::3] == [key.decode() for key, _, _ in wanted]
            assert lines[2::3] == [value.decode() for value in values]
        finally:
            ctl.close()
    with secure.channel(other) as channel:
        history = watch(channel, start_revision=wanted[0][2])
        assert [one.kv.mod_revision for one in events(history, EVENTS)] == [
            at for _, _, at in wanted
        ]


def test_a_watcher_without_a_certificate_gets_nothing(secure: Secure) -> None:
    credentials = grpc.ssl_channel_credentials(secure.authority.ca.read_bytes())
    with grpc.secure_channel(secure.servers[0].endpoint, credentials) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            watch(channel)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    bare = [str(ETCDCTL), f"--endpoints=http://{secure.servers[0].endpoint}", "watch", "k"]
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(bare, capture_output=True, timeout=2, check=False)
    ends = secure.run(secure.servers[0], "get", "k/", "--prefix")
    assert ends.returncode == 0, ends.stderr
