"""Foreign programs that know nothing but the JSON gateway: etcd3gw, and Patroni's etcd3 store."""

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Server

pytestmark = pytest.mark.slow


# --- etcd3gw --------------------------------------------------------------------


@pytest.fixture
def gateway(cluster_node: Server) -> Any:
    """etcd3gw's client of one node."""
    etcd3gw = pytest.importorskip("etcd3gw")
    return etcd3gw.client(host="127.0.0.1", port=cluster_node.client_port, timeout=60)


def test_etcd3gw_reads_writes_and_compares(gateway: Any) -> None:
    assert gateway.status()["version"]
    assert gateway.put("gw/a", "1")
    assert gateway.put(b"gw/\xff", b"\x00\xff")
    assert gateway.get("gw/a") == [b"1"]
    assert [value for value, _ in gateway.get_prefix("gw/")] == [b"1", b"\x00\xff"]
    assert gateway.create("gw/new", "first")
    assert not gateway.create("gw/new", "second")
    assert gateway.replace("gw/new", "first", "third")
    assert not gateway.replace("gw/new", "first", "fourth")
    assert gateway.get("gw/new", metadata=True)[0][0] == b"third"
    assert gateway.delete("gw/new")
    assert not gateway.delete("gw/new")
    assert gateway.delete_prefix("gw/")
    assert gateway.get_prefix("gw/") == []
    assert len(gateway.members()) == 3


def test_etcd3gw_keeps_leases_and_locks(gateway: Any) -> None:
    lease = gateway.lease(ttl=60)
    assert 0 < lease.ttl() <= 60
    gateway.put("gw/leased", "x", lease=lease)
    assert lease.keys() == [b"gw/leased"]
    assert 0 < lease.refresh() <= 60
    assert lease.revoke()
    assert gateway.get("gw/leased") == []
    with gateway.lock("gw-lock", ttl=60) as lock:
        assert lock.is_acquired()
        other = gateway.lock("gw-lock", ttl=60)
        assert not other.acquire()
    assert not lock.is_acquired()


def test_etcd3gw_watches(gateway: Any) -> None:
    events, cancel = gateway.watch_prefix("gw/watched/")
    for number in range(3):
        gateway.put(f"gw/watched/{number}", str(number))
    gateway.delete("gw/watched/0")
    seen = list(itertools.islice(events, 4))
    cancel()
    assert [event["kv"]["key"] for event in seen] == [
        b"gw/watched/0",
        b"gw/watched/1",
        b"gw/watched/2",
        b"gw/watched/0",
    ]
    assert seen[-1]["type"] == "DELETE"


# --- Patroni --------------------------------------------------------------------


def test_patroni_elects_a_leader_keeps_it_and_fails_over(cluster_node: Server) -> None:
    """All that its daemons ask of a store, by its own code (`patroni_play`)."""
    for name in ("patroni", "psycopg", "dns"):
        pytest.importorskip(name)
    subprocess.run(
        [sys.executable, "-m", "tests.interop.patroni_play", cluster_node.endpoint],
        check=True,
        timeout=120,
        cwd=Path(__file__).parents[2],
    )
