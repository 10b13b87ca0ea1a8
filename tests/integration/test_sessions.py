"""Writes repeated in sessions while leaders are killed: each is carried out exactly once (C01).

Several clients put keys of their own and one that they share: every put makes the key's version one
higher, so a version says how many puts were carried out. What is not answered in a short time is
asked again, of the next member, until it is.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from raftkv.pb import rpc_pb2, rpc_pb2_grpc, v1_pb2, v1_pb2_grpc
from tests.processes import Cluster, Server, etcd, raftkv

TIMING: Final = ("--heartbeat-interval=50", "--election-timeout=500", "--snapshot-count=100")
CLIENTS: Final = 4
KILLS: Final = 2
SHARED: Final = b"shared"
PATIENCE_SECONDS: Final = 0.15
GIVE_UP_SECONDS: Final = 30.0


class Client:
    """One client with a session. repeated: attempts beyond each write's first."""

    def __init__(self, number: int, servers: list[Server]) -> None:
        options = [("grpc.max_reconnect_backoff_ms", 100), ("grpc.min_reconnect_backoff_ms", 50)]
        self.channels = [grpc.insecure_channel(one.endpoint, options) for one in servers]
        self._kv: list[Any] = [rpc_pb2_grpc.KVStub(channel) for channel in self.channels]
        self.key = b"own/%d" % number
        self.repeated = 0
        self.answers: list[Any] = []
        self.problems: list[str] = []
        self._at = number
        opening: Any = v1_pb2_grpc.SessionsStub(self.channels[0])
        answer = opening.OpenSession(v1_pb2.OpenSessionRequest(ttl=60), timeout=20)
        self._session: int = answer.session

    def run(self, stop: threading.Event) -> None:
        """Writes until told to stop, one after the other."""
        sequence = 0
        while not stop.is_set():
            sequence += 1
            try:
                self.answers.append(self._put(sequence))
            except (grpc.RpcError, TimeoutError) as error:
                self.problems.append(f"sequence {sequence}: {error}")
                return

    def _put(self, sequence: int) -> Any:
        """One transaction, asked until it is answered."""
        request = rpc_pb2.TxnRequest()
        for key in (self.key, SHARED):
            request.success.add().request_put.CopyFrom(rpc_pb2.PutRequest(key=key, value=b"v"))
        metadata = (
            ("raftkv-session", str(self._session)),
            ("raftkv-sequence", str(sequence)),
            ("raftkv-unanswered", str(sequence)),
        )
        deadline = time.monotonic() + GIVE_UP_SECONDS
        attempts = 0
        while time.monotonic() < deadline:
            self._at += 1
            attempts += 1
            kv = self._kv[self._at % len(self._kv)]
            try:
                answer = kv.Txn(request, timeout=PATIENCE_SECONDS, metadata=metadata)
            except grpc.RpcError as error:
                if error.code() not in (
                    grpc.StatusCode.UNAVAILABLE,
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                    grpc.StatusCode.CANCELLED,
                ):
                    raise
                time.sleep(0.02)
                continue
            self.repeated += attempts - 1
            return answer
        raise TimeoutError(f"no answer in {GIVE_UP_SECONDS} s")

    def close(self) -> None:
        """Closes the connections."""
        for channel in self.channels:
            channel.close()


@contextmanager
def writing(clients: list[Client]) -> Iterator[None]:
    """They write meanwhile."""
    stop = threading.Event()
    threads = [threading.Thread(target=client.run, args=(stop,)) for client in clients]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def leader_of(servers: list[Server]) -> Server:
    """The member that leads; waits until one does."""
    while True:
        for server in servers:
            if not server.running():
                continue
            with suppress(grpc.RpcError), grpc.insecure_channel(server.endpoint) as channel:
                maintenance: Any = rpc_pb2_grpc.MaintenanceStub(channel)
                status = maintenance.Status(rpc_pb2.StatusRequest(), timeout=1)
                if status.leader == status.header.member_id:
                    return server
        time.sleep(0.05)


def versions(cluster: Cluster, clients: list[Client]) -> list[list[int]]:
    """At every member: the versions of all clients' keys and of the shared one."""
    found = []
    for server in cluster.servers:
        with grpc.insecure_channel(server.endpoint) as channel:
            kv: Any = rpc_pb2_grpc.KVStub(channel)
            found.append(
                [
                    kv.Range(rpc_pb2.RangeRequest(key=key), timeout=20).kvs[0].version
                    for key in [*(client.key for client in clients), SHARED]
                ]
            )
    return found


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_every_write_is_carried_out_once_while_leaders_are_killed(tmp_path: Path) -> None:
    """C01: the clients of a killed leader repeat at members that may have the first attempt."""
    with raftkv(tmp_path, 3, *TIMING) as cluster:
        clients = [Client(number, cluster.servers) for number in range(CLIENTS)]
        try:
            with writing(clients):
                for _ in range(KILLS):
                    time.sleep(1.0)
                    victim = leader_of(cluster.servers)
                    victim.kill()
                    leader_of(cluster.servers)
                    time.sleep(0.5)
                    victim.start()
                    victim.wait_ready()
            assert [client.problems for client in clients] == [[]] * CLIENTS
            done = [len(client.answers) for client in clients]
            assert min(done) > 20
            assert sum(client.repeated for client in clients) > 0
            assert versions(cluster, clients) == [[*done, sum(done)]] * 3
            for client in clients:
                revisions = [answer.header.revision for answer in client.answers]
                assert revisions == sorted(set(revisions))
        finally:
            for client in clients:
                client.close()


@pytest.mark.slow
def test_etcd_has_no_sessions(tmp_path: Path) -> None:
    """That is how a client learns that it must not repeat its writes there."""
    with etcd(tmp_path) as cluster, grpc.insecure_channel(cluster.servers[0].endpoint) as channel:
        opening: Any = v1_pb2_grpc.SessionsStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            opening.OpenSession(v1_pb2.OpenSessionRequest(ttl=60), timeout=20)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
