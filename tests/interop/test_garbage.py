"""Bytes that are no gRPC, on the client port and on the peer port: the server stays up."""

import socket
import ssl
import subprocess
from random import Random

import grpc
import pytest

from raftkv.pb import rpc_pb2, rpc_pb2_grpc
from tests.processes import Server

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\x04\0\0\0\0\0"


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return (
        len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
    )


GARBAGE = {
    "nothing": b"",
    "random": Random(1).randbytes(5000),
    "zeros": b"\0" * 1000,
    "http1": b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n",
    "http1-post": b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
    "half-preface": PREFACE[:10],
    "preface-then-random": PREFACE + SETTINGS + Random(2).randbytes(5000),
    "preface-without-settings": PREFACE + _frame(0x6, 0, 0, b"12345678"),
    "frame-too-large": PREFACE + SETTINGS + b"\xff\xff\xff\0\0\0\0\0\x01",
    "data-on-an-idle-stream": PREFACE + SETTINGS + _frame(0x0, 1, 1, b"x"),
    "bad-hpack": PREFACE + SETTINGS + _frame(0x1, 5, 1, b"\xff\xff\xff\xff\xff\xff"),
    "continuation-alone": PREFACE + SETTINGS + _frame(0x9, 4, 1, b"x"),
    "even-stream": PREFACE + SETTINGS + _frame(0x1, 5, 2, b"\x82"),
    "settings-of-odd-size": PREFACE + _frame(0x4, 0, 0, b"12345"),
    "window-update-of-zero": PREFACE + SETTINGS + _frame(0x8, 0, 0, b"\0\0\0\0"),
    "endless-headers": PREFACE
    + SETTINGS
    + _frame(0x1, 0, 1, b"\x82")
    + _frame(0x9, 0, 1, b"\0" * 16000) * 20,
    "resets": PREFACE
    + SETTINGS
    + b"".join(
        _frame(0x1, 5, stream, b"\x82\x86\x84") + _frame(0x3, 0, stream, b"\0\0\0\x08")
        for stream in range(1, 4001, 2)
    ),
}


def _serves(node: Server) -> bool:
    with grpc.insecure_channel(node.endpoint) as channel:
        request = rpc_pb2.PutRequest(key=b"alive")
        return bool(rpc_pb2_grpc.KVStub(channel).Put(request, timeout=20).header.revision)


def _throw(port: int, data: bytes) -> None:
    """Sends bytes, reads until the server closes or says nothing for a while, and hangs up."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.settimeout(0.1)
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
        except OSError:  # a reset or the silence: both are fine
            return


@pytest.mark.parametrize("side", ["client_port", "peer_port"])
@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_does_no_harm(cluster_node: Server, side: str, name: str) -> None:
    before = cluster_node.pid
    for _ in range(3):
        _throw(getattr(cluster_node, side), GARBAGE[name])
    assert cluster_node.running()
    assert cluster_node.pid == before
    assert _serves(cluster_node)


@pytest.mark.parametrize("side", ["client_port", "peer_port"])
def test_a_tls_handshake_to_a_plain_port_ends_at_once(cluster_node: Server, side: str) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    address = ("127.0.0.1", getattr(cluster_node, side))
    with (
        socket.create_connection(address, timeout=20) as connection,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(connection)
    assert _serves(cluster_node)


@pytest.mark.slow
@pytest.mark.parametrize("side", ["client_port", "peer_port"])
def test_http1_is_answered_or_closed_but_never_left_hanging(
    cluster_node: Server, side: str
) -> None:
    url = f"http://127.0.0.1:{getattr(cluster_node, side)}/nowhere"
    curl = ["curl", "--silent", "--http1.1", "--max-time", "15", url]
    done = subprocess.run(curl, capture_output=True, timeout=30, check=False)
    timed_out = 28
    assert done.returncode != timed_out
    assert _serves(cluster_node)


def test_many_idle_connections_do_no_harm(cluster_node: Server) -> None:
    idle = [
        socket.create_connection(("127.0.0.1", port), timeout=5)
        for port in (cluster_node.client_port, cluster_node.peer_port)
        for _ in range(200)
    ]
    try:
        assert _serves(cluster_node)
    finally:
        for connection in idle:
            connection.close()
