"""curl and h2load, two clients that share no code with gRPC's."""

import re
import subprocess
from pathlib import Path

import pytest

from raftkv.pb import rpc_pb2
from tests.processes import Server

pytestmark = pytest.mark.slow

HEADERS = ("-H", "content-type: application/grpc", "-H", "te: trailers")


def _framed(message: bytes) -> bytes:
    """A gRPC message: flag byte, length, bytes."""
    return b"\0" + len(message).to_bytes(4, "big") + message


@pytest.fixture
def range_request(tmp_path: Path) -> Path:
    path = tmp_path / "range"
    path.write_bytes(_framed(rpc_pb2.RangeRequest(key=b"curl").SerializeToString()))
    return path


def test_curl_gets_a_grpc_answer(node: Server, tmp_path: Path, range_request: Path) -> None:
    head, body = tmp_path / "head", tmp_path / "body"
    subprocess.run(
        [
            *("curl", "--silent", "--show-error", "--max-time", "20", "--http2-prior-knowledge"),
            *HEADERS,
            *("--data-binary", f"@{range_request}", "--dump-header", head, "--output", body),
            f"http://{node.endpoint}/etcdserverpb.KV/Range",
        ],
        check=True,
        timeout=30,
    )
    lines = head.read_text().lower().splitlines()
    assert lines[0].startswith("http/2 200")
    assert "content-type: application/grpc" in lines
    assert "grpc-status: 0" in lines
    flag, length = body.read_bytes()[0], int.from_bytes(body.read_bytes()[1:5], "big")
    message = body.read_bytes()[5:]
    assert (flag, length) == (0, len(message))
    assert rpc_pb2.RangeResponse.FromString(message).header.revision > 0


def test_h2load_gets_an_answer_to_every_request(node: Server, range_request: Path) -> None:
    done = subprocess.run(
        [
            *("h2load", "-n", "4000", "-c", "8", "-m", "32"),
            *HEADERS,
            *("-d", range_request, f"http://{node.endpoint}/etcdserverpb.KV/Range"),
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    counts = re.search(r"requests: .* (\d+) succeeded, (\d+) failed, (\d+) errored", done.stdout)
    assert counts is not None, done.stdout
    assert counts.groups() == ("4000", "0", "0")
