"""raftctl put --ttl: a key with a lease of its own, and what servers without it are told."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raftkv.pb import v1_pb2
from tests.cli.running import Outcome, etcdctl, raftctl
from tests.processes import etcd, raftkv


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with raftkv(tmp_path_factory.mktemp("ttl")) as cluster:
        yield cluster.endpoints


def run(endpoint: str, *argv: str, stdin: bytes = b"") -> Outcome:
    return raftctl(["--endpoints", endpoint, *argv], stdin)


def gone(endpoint: str, key: str, seconds: float) -> float:
    """When the key went, on the monotonic clock."""
    deadline = time.monotonic() + seconds
    while run(endpoint, "get", key).out:
        assert time.monotonic() < deadline, "it stays"
        time.sleep(0.05)
    return time.monotonic()


def test_a_key_with_a_ttl_goes_by_itself(endpoint: str) -> None:
    began = time.monotonic()
    put = run(endpoint, "put", "short", "v", "--ttl", "700ms")
    assert put.exit_code == 0, put.err
    assert re.fullmatch(rb"OK\nlease [0-9a-f]{16}\n", put.out)
    assert gone(endpoint, "short", 60) - began >= 0.7
    deleted = json.loads(run(endpoint, "-w", "json", "get", "short").out)["header"]["revision"]
    assert run(endpoint, "get", "short", f"--rev={deleted - 1}").out == b"short\nv\n"


def test_its_lease_is_printed_and_can_be_looked_at_and_revoked(endpoint: str) -> None:
    put = run(endpoint, "put", "--ttl=1m30s", "k", stdin=b"from standard input")
    lease = put.out.split()[-1].decode()
    shown = etcdctl(["--endpoints", endpoint, "lease", "timetolive", lease, "--keys"])
    assert re.fullmatch(
        rb"lease %b granted with TTL\(90s\), remaining\(8\ds\), attached keys\(\[k\]\)\n"
        % lease.encode(),
        shown.out,
    )
    again = run(endpoint, "put", "k", "next", "--ttl", "1h", "--prev-kv")
    assert again.out.split(b"\n")[2:] == [b"k", b"from standard input", b""]
    second = again.out.split()[2].decode()
    assert run(endpoint, "lease", "revoke", second).exit_code == 0
    assert run(endpoint, "get", "k").out == b""


def test_each_format_names_the_lease(endpoint: str) -> None:
    words = ("put", "formats", "v", "--ttl", "60s", "--prev-kv")
    first = json.loads(run(endpoint, "-w", "json", *words).out)
    assert first["lease"] > 0
    assert first["header"]["revision"] > 0
    fields = run(endpoint, "-w", "fields", *words).out.decode()
    assert re.search(r'^"Lease" : [0-9]+$', fields, re.MULTILINE)
    assert '"PrevKey" : "formats"' in fields
    whole = v1_pb2.PutWithTTLResponse.FromString(run(endpoint, "-w", "protobuf", *words).out)
    assert whole.lease
    assert whole.prev_kv.key == b"formats"
    assert run(endpoint, "-w", "table", *words).exit_code == 4


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (("--ttl", "5"), "not a duration"),
        (("--ttl", "0s"), "must be a millisecond at least"),
        (("--ttl=-5s",), "must be a millisecond at least"),
        (("--ttl", "9999999999999h"), "is too long"),
        (("--ttl", "5s", "--lease", "7b"), "leave out `--lease`"),
        (("--ttl", "5s", "--ignore-lease"), "leave out `--lease`"),
    ],
)
def test_a_ttl_that_makes_no_sense_is_refused(
    endpoint: str, argv: tuple[str, ...], text: str
) -> None:
    refused = run(endpoint, "put", "k", "v", *argv)
    assert refused.exit_code != 0
    assert text in refused.err
    assert refused.out == b""


def test_the_server_refuses_a_ttl_that_is_too_large(endpoint: str) -> None:
    refused = run(endpoint, "put", "k", "v", "--ttl", "3000000h")
    assert refused.exit_code == 1
    assert "too large lease TTL" in refused.err


def test_a_ttl_within_a_transaction_is_refused(endpoint: str) -> None:
    refused = run(endpoint, "txn", stdin=b"\nput k v --ttl 5s\n\n\n")
    assert refused.exit_code == 128
    assert "in a transaction cannot have `--ttl`" in refused.err


def test_a_server_without_it_is_told_apart(tmp_path: Path) -> None:
    """etcd answers that it does not know the service; nothing is put."""
    with etcd(tmp_path) as cluster:
        refused = run(cluster.endpoints, "put", "k", "v", "--ttl", "5s")
        assert refused.exit_code == 4
        assert "no puts with a TTL of their own" in refused.err
        assert "lease grant" in refused.err
        assert run(cluster.endpoints, "get", "k").out == b""


def test_the_help_says_what_a_ttl_is() -> None:
    told = " ".join(raftctl(["put", "--help"]).out.decode().split())
    assert "--ttl DURATION Delete the key after this time, as 30s or 1m30s" in told
    assert "For raftkv servers." in told
