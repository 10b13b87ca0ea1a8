"""raftctl over several endpoints: it moves on when that is safe, and never writes twice (C10)."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from raftkv.pb import kv_pb2, rpc_pb2
from tests.cli.running import raftctl
from tests.processes import free_ports

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
UNKNOWN_OUTCOME = "it may or may not have been carried out"


class FakeServer:
    """Answers KV calls, or refuses the first of them with one status; counts the calls."""

    def __init__(
        self, code: grpc.StatusCode | None = None, text: str = "", refusals: int = sys.maxsize
    ) -> None:
        self.calls: list[str] = []
        self.metadata: list[dict[str, Any]] = []
        self._status = (code, text)
        self._refusals = refusals
        self._pool = ThreadPoolExecutor(2)
        self._server = grpc.server(self._pool, options=[("grpc.so_reuseport", 0)])
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                self._answer(name, reply),
                request_deserializer=bytes,
                response_serializer=lambda message: message.SerializeToString(),
            )
            for name, reply in (
                ("Put", rpc_pb2.PutResponse()),
                ("Range", rpc_pb2.RangeResponse(kvs=[kv_pb2.KeyValue(key=b"k", value=b"v")])),
                ("Txn", rpc_pb2.TxnResponse(succeeded=True)),
            )
        }
        members = grpc.unary_unary_rpc_method_handler(
            self._list_members,
            request_deserializer=bytes,
            response_serializer=lambda message: message.SerializeToString(),
        )
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler("etcdserverpb.KV", handlers),
                grpc.method_handlers_generic_handler(
                    "etcdserverpb.Cluster", {"MemberList": members}
                ),
            )
        )
        self.endpoint = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def _answer(self, name: str, reply: Any) -> Any:
        def answer(request: bytes, context: grpc.ServicerContext) -> Any:
            self.calls.append(name)
            self.metadata.append(dict(context.invocation_metadata()))
            code, text = self._status
            if code is not None and len(self.calls) <= self._refusals:
                context.abort(code, text)
            return reply

        return answer

    def _list_members(self, request: bytes, context: object) -> rpc_pb2.MemberListResponse:
        """This server, and one that starts after three questions, behind the same address."""
        self.calls.append("MemberList")
        starting = rpc_pb2.Member(ID=0xB)
        if self.calls.count("MemberList") > 3:
            starting.clientURLs.append(f"http://{self.endpoint}")
        own = rpc_pb2.Member(ID=0xA, clientURLs=[f"http://{self.endpoint}"])
        return rpc_pb2.MemberListResponse(members=[own, starting])

    def close(self) -> None:
        self._server.stop(None).wait()
        self._pool.shutdown()


@contextmanager
def serving(*servers: FakeServer) -> Iterator[str]:
    """The servers' endpoints as a flag's value; closes them."""
    try:
        yield ",".join(server.endpoint for server in servers)
    finally:
        for server in servers:
            server.close()


@contextmanager
def breaking(after: bytes) -> Iterator[str]:
    """An endpoint that closes each connection once it has received `after`."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                received = b""
                connection.sendall(b"\0\0\0\4\0\0\0\0\0")  # an empty SETTINGS frame
                while after not in received:
                    chunk = connection.recv(65536)
                    if not chunk:
                        break
                    received += chunk

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@contextmanager
def silent() -> Iterator[str]:
    """An endpoint that takes connections and says nothing, like a black hole behind a NAT."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def _closed_endpoint() -> str:
    return f"127.0.0.1:{free_ports(1)[0]}"


@pytest.mark.parametrize("argv", [["put", "k", "v"], ["get", "k"]])
def test_a_call_goes_to_the_next_endpoint_when_one_refuses_connections(argv: list[str]) -> None:
    server = FakeServer()
    with serving(server) as good:
        done = raftctl(["--endpoints", f"{_closed_endpoint()},{good}", *argv])
    assert done.exit_code == 0
    assert len(server.calls) == 1
    assert done.err == ""


@pytest.mark.parametrize("argv", [["put", "k", "v"], ["get", "k"]])
def test_a_call_goes_to_the_next_endpoint_when_one_never_answers_the_handshake(
    argv: list[str],
) -> None:
    server = FakeServer()
    with serving(server) as good, silent() as bad:
        endpoints = f"{bad},{good}"
        done = raftctl(["--endpoints", endpoints, "--dial-timeout", "2s", *argv])
    assert done.exit_code == 0, done.err
    assert len(server.calls) == 1


def test_a_write_is_not_repeated_when_its_server_becomes_unavailable() -> None:
    first, second = FakeServer(UNAVAILABLE, "etcdserver: request timed out"), FakeServer()
    with serving(first, second) as endpoints:
        done = raftctl(["--endpoints", endpoints, "put", "k", "v"])
    assert (len(first.calls), len(second.calls)) == (1, 0)
    assert done.exit_code == 1
    assert done.err == "Error: etcdserver: request timed out\n"


def test_a_write_is_not_repeated_when_its_connection_breaks() -> None:
    server = FakeServer()
    with serving(server) as good, breaking(after=b"secret-key") as bad:
        done = raftctl(["--endpoints", f"{bad},{good}", "put", "secret-key", "v"])
    assert server.calls == []
    assert done.exit_code == 1
    assert UNKNOWN_OUTCOME in done.error_line
    assert bad in done.error_line


def test_a_read_is_repeated_when_its_connection_breaks() -> None:
    server = FakeServer()
    with serving(server) as good, breaking(after=b"secret-key") as bad:
        done = raftctl(["--endpoints", f"{bad},{good}", "get", "secret-key"])
    assert server.calls == ["Range"]
    assert done.out == b"k\nv\n"


def test_a_read_is_repeated_once_per_endpoint_and_then_fails_with_the_last_text() -> None:
    servers = [FakeServer(UNAVAILABLE, f"etcdserver: no {word}") for word in ("leader", "news")]
    with serving(*servers) as endpoints:
        done = raftctl(["--endpoints", endpoints, "get", "k"])
    assert [len(server.calls) for server in servers] == [1, 1]
    assert done.err == "Error: etcdserver: no news\n"
    assert done.exit_code == 1


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (UNAVAILABLE, "etcdserver: no leader"),
        (grpc.StatusCode.FAILED_PRECONDITION, "etcdserver: rpc not supported for learner"),
    ],
)
def test_a_write_moves_on_when_the_server_says_that_it_did_nothing(
    code: grpc.StatusCode, text: str
) -> None:
    first, second = FakeServer(code, text), FakeServer()
    with serving(first, second) as endpoints:
        done = raftctl(["--endpoints", endpoints, "put", "k", "v"])
    assert (len(first.calls), len(second.calls)) == (1, 1)
    assert done.out == b"OK\n"


def test_a_refused_request_is_not_taken_elsewhere() -> None:
    first = FakeServer(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: key is not provided")
    second = FakeServer()
    with serving(first, second) as endpoints:
        done = raftctl(["--endpoints", endpoints, "get", "k"])
    assert second.calls == []
    assert done.err == "Error: etcdserver: key is not provided\n"


def test_a_txn_that_only_reads_may_be_repeated_and_one_that_writes_may_not() -> None:
    for operation, repeated in ((b"get k", 1), (b"put k v", 0)):
        server = FakeServer()
        with serving(server) as good, breaking(after=b"etcdserverpb") as bad:
            argv = ["--endpoints", f"{bad},{good}", "txn"]
            raftctl(argv, b"\n" + operation + b"\n\n\n")
        assert len(server.calls) == repeated


def test_a_deadline_ends_the_command_and_a_write_says_that_its_outcome_is_unknown() -> None:
    with breaking(after=b"never") as bad:
        base = ["--endpoints", bad, "--command-timeout", "200ms"]
        started = time.monotonic()
        read, write = raftctl([*base, "get", "k"]), raftctl([*base, "put", "k", "v"])
        assert time.monotonic() - started < 9, "less than two commands have by themselves"
    assert read.err == "Error: context deadline exceeded\n"
    assert write.err.startswith("Error: context deadline exceeded")
    assert UNKNOWN_OUTCOME in write.err
    assert read.exit_code == write.exit_code == 1


def test_an_unreachable_cluster_is_one_line_that_names_each_endpoint() -> None:
    first, second = _closed_endpoint(), _closed_endpoint()
    done = raftctl(["--endpoints", f"{first},{second}", "--dial-timeout", "1s", "put", "k", "v"])
    assert done.exit_code == 1
    assert done.err == (
        "Error: context deadline exceeded: no endpoint could be reached "
        f"({first}: connection refused, {second}: connection refused)\n"
    )


def test_a_command_waits_for_a_server_that_is_just_starting() -> None:
    endpoint = _closed_endpoint()
    pool = ThreadPoolExecutor(2)
    server = grpc.server(pool)
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: b"")
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("etcdserverpb.KV", {"Put": handler}),)
    )
    server.add_insecure_port(endpoint)
    late = threading.Timer(0.3, server.start)
    late.start()
    try:
        done = raftctl(["--endpoints", endpoint, "--dial-timeout", "10s", "put", "k", "v"])
    finally:
        late.join()
        server.stop(None).wait()
        pool.shutdown()
    assert done.out == b"OK\n", done.err


def test_grpc_writes_nothing_of_its_own_on_standard_error() -> None:
    command = [sys.executable, "-c", "from raftkv.cli.ctl import main; main()"]
    flags = ["--endpoints", _closed_endpoint(), "--dial-timeout=100ms", "get", "k"]
    done = subprocess.run(
        [*command, *flags], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("Error: context deadline exceeded")


@pytest.mark.parametrize("endpoint", ["ftp://127.0.0.1:1", "unix:///tmp/x"])
def test_an_endpoint_of_another_kind_is_refused(endpoint: str) -> None:
    done = raftctl(["--endpoints", endpoint, "get", "k"])
    assert done.exit_code == 128
    assert done.error_line.startswith(f"Error: endpoint {endpoint}: use host:port")


def test_endpoint_commands_show_the_others_when_one_is_down() -> None:
    good, bad = FakeServer(), _closed_endpoint()
    flags = ["--dial-timeout=1s", "--command-timeout=10s"]
    with serving(good) as endpoint:
        done = raftctl(["--endpoints", f"{bad},{endpoint}", *flags, "endpoint", "health"])
    assert done.exit_code == 1
    assert f"{bad} is unhealthy: failed to commit proposal: context deadline" in done.err
    assert done.err.endswith("Error: unhealthy cluster\n")


def test_health_with_wait_asks_again_until_all_are_healthy() -> None:
    starting, ready = (
        FakeServer(UNAVAILABLE, "etcdserver: request timed out", refusals=2),
        FakeServer(),
    )
    with serving(starting, ready) as endpoints:
        done = raftctl(["--endpoints", endpoints, "endpoint", "health", "--wait=60s"])
    assert done.exit_code == 0, done.err
    lines = done.out.decode().splitlines()
    assert [line.split(" is ")[0] for line in lines] == endpoints.split(",")
    assert starting.calls == ["Range"] * 3


def test_health_with_wait_ends_with_what_it_found_last() -> None:
    server = FakeServer(UNAVAILABLE, "etcdserver: request timed out")
    with serving(server) as endpoint:
        done = raftctl(["--endpoints", endpoint, "endpoint", "health", "--wait=3s"])
    assert done.exit_code == 1
    assert done.err.count(f"{endpoint} is unhealthy") == 1
    assert done.err.endswith("Error: unhealthy cluster\n")
    assert len(server.calls) > 1


def test_health_with_wait_waits_for_a_member_list_too() -> None:
    flags = ["--dial-timeout=50ms", "--command-timeout=1s"]
    argv = ["--endpoints", _closed_endpoint(), *flags, "endpoint", "health", "--cluster"]
    done = raftctl([*argv, "--wait=300ms"])
    assert done.exit_code == 1
    assert done.error_line.startswith("Error: failed to fetch endpoints from etcd cluster member")


def test_health_of_a_cluster_waits_for_members_that_have_never_started() -> None:
    server = FakeServer()
    with serving(server) as endpoint:
        health = ["--endpoints", endpoint, "endpoint", "health", "--cluster"]
        assert raftctl(health).exit_code == 0  # as etcdctl, which overlooks them
        early = raftctl([*health, "--wait=1ns"])
        assert early.exit_code == 1
        assert early.error_line == "Error: unhealthy cluster: not started yet: b"
        done = raftctl([*health, "--wait=60s"])
    assert done.exit_code == 0, done.err
    assert server.calls.count("MemberList") > 3
