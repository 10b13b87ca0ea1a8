"""curl and h2load, two more HTTP/2 implementations (nghttp2 both), against the server."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.wire.serving import Server, serve_in_thread


def tool(name: str) -> str:
    """The path of a program; its absence is a failure, not a reason to skip."""
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is missing: apt-get install nghttp2-client curl")
    return found


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    return (done.stdout + done.stderr).decode()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve_in_thread() as running:
        yield running


def test_curl_gets_a_unary_answer(server: Server, tmp_path: Path) -> None:
    body = tmp_path / "request"
    body.write_bytes(b"\0\0\0\0\5hello")
    answer = tmp_path / "answer"
    out = run(
        *(tool("curl"), "-s", "--http2-prior-knowledge", "-D", "-", "-o", str(answer)),
        *("-H", "content-type: application/grpc", "-H", "te: trailers"),
        *("--data-binary", f"@{body}", f"http://{server.address}/t.T/Echo"),
    )
    assert answer.read_bytes() == b"\0\0\0\0\5hello"
    assert "HTTP/2 200" in out
    assert "grpc-status: 0" in out


def test_curl_without_grpc_headers_gets_415(server: Server) -> None:
    url = f"http://{server.address}/t.T/Echo"
    out = run(tool("curl"), "-s", "--http2-prior-knowledge", "-D", "-", "-d", "x=y", url)
    assert "HTTP/2 415" in out


def test_curl_get_gets_405(server: Server) -> None:
    out = run(tool("curl"), "-s", "--http2-prior-knowledge", "-D", "-", f"http://{server.address}/")
    assert "HTTP/2 405" in out
    assert "allow: POST" in out


def test_curl_with_http1_is_told_what_the_port_speaks(server: Server) -> None:
    out = run(tool("curl"), "-s", "--http1.1", "-D", "-", f"http://{server.address}/version")
    assert "HTTP/1.1 400" in out
    assert "speaks gRPC" in out


def test_h2load_finds_every_answer(server: Server, tmp_path: Path) -> None:
    body = tmp_path / "request"
    body.write_bytes(b"\0\0\0\0\x40" + b"v" * 64)
    out = run(
        *(tool("h2load"), "-n", "20000", "-c", "4", "-m", "50", "-d", str(body)),
        *("-H", "content-type: application/grpc", "-H", "te: trailers"),
        f"http://{server.address}/t.T/Echo",
    )
    assert "20000 succeeded, 0 failed, 0 errored" in out
    assert "status codes: 20000 2xx" in out


def test_h2load_finds_every_answer_through_small_windows(server: Server, tmp_path: Path) -> None:
    body = tmp_path / "request"
    body.write_bytes(b"\0\0\0\x9c\x40" + b"v" * 40000)
    out = run(
        *(tool("h2load"), "-n", "400", "-c", "2", "-m", "20", "-w", "10", "-W", "14"),
        *("-d", str(body), "-H", "content-type: application/grpc", "-H", "te: trailers"),
        f"http://{server.address}/t.T/Echo",
    )
    assert "400 succeeded, 0 failed, 0 errored" in out
