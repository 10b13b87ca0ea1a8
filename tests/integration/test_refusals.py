"""What a real server refuses before it costs anything: oversized requests and browsers."""

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest

from raftkv import limits
from raftkv.pb import rpc_pb2, rpc_pb2_grpc
from tests.processes import Server, raftkv

pytestmark = pytest.mark.slow

UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    # What a leader does by itself would be in the log too.
    quiet = ("--state-check-interval=0", "--quota-backend-bytes=-1")
    with raftkv(tmp_path_factory.mktemp("refusals"), 1, *quiet) as cluster:
        yield cluster.servers[0]


def log_and_store(server: Server) -> tuple[int, int]:
    """(last index of the log, revision)."""
    with grpc.insecure_channel(server.endpoint) as channel:
        stub = rpc_pb2_grpc.MaintenanceStub(channel)
        status = stub.Status(rpc_pb2.StatusRequest(), timeout=10)
        return status.raftIndex, status.header.revision


# --- O02: too large -------------------------------------------------------------------------


def put_of(value_bytes: int) -> rpc_pb2.RequestOp:
    return rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"k", value=b"x" * value_bytes))


def puts(count: int) -> list[rpc_pb2.RequestOp]:
    return [
        rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"k%d" % one)) for one in range(count)
    ]


def nested(depth: int) -> rpc_pb2.TxnRequest:
    """A put at the bottom of `depth` transactions."""
    request = rpc_pb2.TxnRequest(success=[put_of(1)])
    for _ in range(depth - 1):
        request = rpc_pb2.TxnRequest(success=[rpc_pb2.RequestOp(request_txn=request)])
    return request


TOO_LARGE = (grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: request is too large")
TOO_MANY = (grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: too many operations in txn request")
LARGE = {
    "value": (put_of(limits.MAX_REQUEST_BYTES).request_put, TOO_LARGE),
    "value-with-key": (put_of(limits.MAX_REQUEST_BYTES - 10).request_put, TOO_LARGE),
    "values-of-a-txn": (rpc_pb2.TxnRequest(success=[put_of(limits.MAX_REQUEST_BYTES)]), TOO_LARGE),
    "129-operations": (rpc_pb2.TxnRequest(success=puts(129)), TOO_MANY),
    "129-in-the-other-branch": (rpc_pb2.TxnRequest(failure=puts(129)), TOO_MANY),
    "129-compares": (
        rpc_pb2.TxnRequest(
            compare=[rpc_pb2.Compare(key=b"k%d" % one) for one in range(129)], success=puts(1)
        ),
        TOO_MANY,
    ),
    "129-nested": (
        rpc_pb2.TxnRequest(
            success=[
                *puts(1),
                rpc_pb2.RequestOp(request_txn=rpc_pb2.TxnRequest(success=puts(129)[1:])),
            ]
        ),
        TOO_MANY,
    ),
    "deep": (nested(limits.MAX_TXN_DEPTH + 1), TOO_MANY),
}


@pytest.mark.parametrize("case", LARGE)
def test_what_is_beyond_a_limit_is_refused_before_the_log(server: Server, case: str) -> None:
    """O02."""
    request, expected = LARGE[case]
    before = log_and_store(server)
    with grpc.insecure_channel(server.endpoint, UNLIMITED) as channel:
        stub = rpc_pb2_grpc.KVStub(channel)
        call = stub.Put if isinstance(request, rpc_pb2.PutRequest) else stub.Txn
        with pytest.raises(grpc.RpcError) as caught:
            call(request, timeout=10)
        assert (caught.value.code(), caught.value.details()) == expected
        assert log_and_store(server) == before
        allowed = rpc_pb2.TxnRequest(success=puts(128))  # the same server, just below
        assert stub.Txn(allowed, timeout=10).succeeded
        stub.Put(put_of(limits.MAX_REQUEST_BYTES - 100).request_put, timeout=10)
    assert log_and_store(server)[0] == before[0] + 2


def test_a_message_of_100_mib_costs_no_memory(server: Server) -> None:
    """O02: it is refused at its length, not when it is there."""
    before = log_and_store(server)
    resident = psutil.Process(server.pid).memory_info().rss
    message = put_of(100 * limits.MIB).request_put
    for _ in range(3):
        with (
            grpc.insecure_channel(server.endpoint, UNLIMITED) as channel,
            pytest.raises(grpc.RpcError) as caught,
        ):
            rpc_pb2_grpc.KVStub(channel).Put(message, timeout=20)
        code = caught.value.code()
        assert code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
        if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
            assert "larger than max" in caught.value.details()
    assert log_and_store(server) == before
    assert psutil.Process(server.pid).memory_info().rss < resident + 20 * limits.MIB


# --- X15: browsers --------------------------------------------------------------------------

HOSTS = ["evil.example", "127.0.0.1", "localhost"]
GRPC_PUT = rpc_pb2.PutRequest(key=b"browser", value=b"was here").SerializeToString()
FRAME = b"\0" + len(GRPC_PUT).to_bytes(4, "big") + GRPC_PUT
ALLOW = b"access-control-allow"


def http1(port: int, host: str, request: bytes) -> bytes:
    """All that comes back for a request until the server closes."""
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.settimeout(10)
        connection.sendall(request.replace(b"HOST", host.encode()))
        connection.shutdown(socket.SHUT_WR)  # nothing more will be asked
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


ORIGIN = b"Origin: http://evil.example\r\n"
BROWSER = {
    "gateway": b"POST /v3/kv/put HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n"
    + ORIGIN
    + b"Content-Type: text/plain\r\nContent-Length: 37\r\n\r\n"
    b'{"key":"YnJvd3Nlcg==","value":"eA=="}',
    "old-api": b"PUT /v2/keys/browser?value=x HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n"
    + ORIGIN
    + b"Content-Length: 0\r\n\r\n",
    "preflight": b"OPTIONS /etcdserverpb.KV/Put HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n"
    + ORIGIN
    + b"Access-Control-Request-Method: POST\r\n"
    b"Access-Control-Request-Headers: content-type\r\n\r\n",
    "websocket": b"GET /v3/watch HTTP/1.1\r\nHost: HOST\r\nConnection: Upgrade\r\n"
    + ORIGIN
    + b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
}
NAVIGATION = {
    "page": b"GET / HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n"
    b"Referer: http://evil.example/\r\n\r\n",
    "upgrade": b"GET / HTTP/1.1\r\nHost: HOST\r\nConnection: close, Upgrade, HTTP2-Settings\r\n"
    b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
}


@pytest.mark.parametrize("case", BROWSER)
def test_a_script_of_a_foreign_page_reaches_nothing(server: Server, case: str) -> None:
    """X15: whatever name it has given this address. On the peer port HTTP/1 is not spoken."""
    before = log_and_store(server)
    for host in HOSTS:
        answer = http1(server.client_port, host, BROWSER[case])
        assert answer.startswith(b"HTTP/1.1 403"), answer
        assert ALLOW not in answer.lower()
        assert http1(server.peer_port, host, BROWSER[case]).startswith(b"HTTP/1.1 400")
    assert log_and_store(server) == before


def test_a_page_under_a_name_that_was_made_to_resolve_to_us_reaches_nothing(server: Server) -> None:
    """X15: DNS rebinding; the page is same-origin, and its browser says from where."""
    before = log_and_store(server)
    answer = http1(server.client_port, "evil.example", BROWSER["gateway"])
    assert answer.startswith(b"HTTP/1.1 403"), answer
    assert log_and_store(server) == before


@pytest.mark.parametrize("case", NAVIGATION)
def test_there_is_no_page_to_look_at(server: Server, case: str) -> None:
    """X15: nor another protocol to go on with."""
    for host in HOSTS:
        answer = http1(server.client_port, host, NAVIGATION[case])
        assert answer.startswith(b"HTTP/1.1 404"), answer
        assert ALLOW not in answer.lower()
        assert http1(server.peer_port, host, NAVIGATION[case]).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    ("method", "content_type"),
    [
        *[("POST", kind) for kind in ("text/plain", "application/x-www-form-urlencoded")],
        *[("POST", kind) for kind in ("multipart/form-data; boundary=x", "application/json", "")],
        *[("OPTIONS", "application/grpc"), ("GET", "application/grpc")],
    ],
)
def test_a_request_that_a_page_may_send_unasked_is_no_call(
    server: Server, tmp_path: Path, method: str, content_type: str
) -> None:
    """X15: a page may send any bytes over HTTP/2, but not with gRPC's content type unless it was
    allowed to in the answer to its OPTIONS.
    """
    before = log_and_store(server)
    body = tmp_path / "body"
    body.write_bytes(FRAME)
    done = subprocess.run(
        [
            *("curl", "--silent", "--include", "--http2-prior-knowledge", "--max-time", "10"),
            *("-X", method, "-H", f"content-type:{content_type}", "-H", "te: trailers"),
            *("-H", "origin: http://evil.example", "--data-binary", f"@{body}"),
            f"http://{server.endpoint}/etcdserverpb.KV/Put",
        ],
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert not done.stdout.startswith(b"HTTP/2 200"), done.stdout
    assert ALLOW not in done.stdout.lower()
    assert log_and_store(server) == before
