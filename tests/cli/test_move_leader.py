"""`raftctl move-leader` on three real etcds."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.running import etcdctl, raftctl
from tests.processes import ETCD, Cluster, Server, free_ports

pytestmark = pytest.mark.slow


def _three_etcds(directory: Path) -> Cluster:
    ports = free_ports(6)
    peers = [f"http://127.0.0.1:{port}" for port in ports[3:]]
    cluster = ",".join(f"e{number}={peer}" for number, peer in enumerate(peers))
    servers = []
    for number, peer in enumerate(peers):
        client = f"http://127.0.0.1:{ports[number]}"
        command = [
            *(str(ETCD), "--log-level=error", "--unsafe-no-fsync", f"--name=e{number}"),
            *("--heartbeat-interval=300", "--election-timeout=3000"),  # nobody else is to lead
            f"--data-dir={directory / str(number)}",
            *(f"--listen-client-urls={client}", f"--advertise-client-urls={client}"),
            *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"),
            f"--initial-cluster={cluster}",
        ]
        servers.append(Server(f"e{number}", command, directory, ports[number], ports[3 + number]))
    return Cluster(servers)


@pytest.fixture
def endpoints(tmp_path: Path) -> Iterator[str]:
    with _three_etcds(tmp_path) as cluster:
        yield cluster.endpoints


def _status(endpoints: str) -> dict[str, tuple[str, bool]]:
    """Member id -> (endpoint, is leader)."""
    lines = raftctl(["--endpoints", endpoints, "endpoint", "status"]).out.decode().splitlines()
    rows = [line.split(", ") for line in lines]
    return {row[1]: (row[0], row[4] == "true") for row in rows}


def test_the_leader_moves_where_it_is_told_and_only_the_leader_can_move(endpoints: str) -> None:
    before = _status(endpoints)
    assert len(before) == 3
    (old,) = [member for member, (_, leads) in before.items() if leads]
    new, third = sorted(member for member, (_, leads) in before.items() if not leads)

    followers = ",".join(before[member][0] for member in (new, third))
    for program in (raftctl, etcdctl):
        refused = program(["--endpoints", followers, "move-leader", new])
        assert refused.exit_code == 128
        listed = followers.replace(",", " ")
        assert refused.error_line == f"Error: no leader endpoint given at [{listed}]"

    for program, source, target in ((raftctl, old, new), (etcdctl, new, old)):
        moved = program(["--endpoints", endpoints, "move-leader", target])
        expected = f"Leadership transferred from {source} to {target}\n"
        assert (moved.exit_code, moved.out.decode()) == (0, expected)
        assert _status(endpoints)[target][1]


def test_status_and_hashes_come_in_the_order_of_the_endpoints(endpoints: str) -> None:
    for backwards in (False, True):
        listed = ",".join(sorted(endpoints.split(","), reverse=backwards))
        for command in ("status", "hashkv"):
            shown = raftctl(["--endpoints", listed, "endpoint", command]).out.decode()
            assert re.findall(r"^[^,]+", shown, re.MULTILINE) == listed.split(",")
