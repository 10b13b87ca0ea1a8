"""The real etcdctl against every node of a raftkv cluster."""

import json

import pytest

from tests.interop.conftest import Etcdctl
from tests.processes import Cluster, Server

pytestmark = pytest.mark.slow


def test_put_get_del(etcdctl: Etcdctl) -> None:
    assert etcdctl("put", "greeting", "hello").stdout == "OK\n"
    assert etcdctl("get", "greeting").stdout == "greeting\nhello\n"
    assert etcdctl("put", "--prev-kv", "greeting", "bye").stdout == "OK\ngreeting\nhello\n"
    assert etcdctl("del", "--prev-kv", "greeting").stdout == "1\ngreeting\nbye\n"
    assert etcdctl("get", "greeting").stdout == ""
    assert etcdctl("del", "greeting").stdout == "0\n"


def test_ranges(etcdctl: Etcdctl) -> None:
    etcdctl("del", "--prefix", "r/")
    for name in "cab":
        etcdctl("put", f"r/{name}", name)
    keys = etcdctl("get", "--prefix", "--keys-only", "r/").stdout.split()
    assert keys == ["r/a", "r/b", "r/c"]
    assert etcdctl("get", "r/b", "r/d", "--print-value-only").stdout == "b\nc\n"
    newest_first = etcdctl(
        "get", "--prefix", "r/", "--sort-by=MODIFY", "--order=DESCEND", "--print-value-only"
    )
    assert newest_first.stdout == "b\na\nc\n"
    limited = etcdctl("get", "--prefix", "r/", "--limit=1", "--consistency=s", "-w", "json")
    answer = json.loads(limited.stdout)
    assert (answer["count"], answer["more"], len(answer["kvs"])) == (3, True, 1)


def test_reading_a_past_revision_and_compaction(etcdctl: Etcdctl) -> None:
    etcdctl("put", "past", "1")
    first = json.loads(etcdctl("get", "past", "-w", "json").stdout)["header"]["revision"]
    etcdctl("put", "past", "2")
    etcdctl("put", "past", "3")
    assert etcdctl("get", "past", f"--rev={first}", "--print-value-only").stdout == "1\n"
    done = etcdctl("compaction", str(first + 1))
    assert done.stdout == f"compacted revision {first + 1}\n"
    compacted = etcdctl("get", "past", f"--rev={first}", fails=True)
    assert "required revision has been compacted" in compacted.stderr
    again = etcdctl("compaction", str(first), fails=True)
    assert "required revision has been compacted" in again.stderr


def test_txn(etcdctl: Etcdctl) -> None:
    etcdctl("put", "balance", "10")
    script = 'value("balance") = "10"\n\nput balance 9\nget balance\n\nget balance\n\n'
    assert etcdctl("txn", stdin=script).stdout == "SUCCESS\n\nOK\n\nbalance\n9\n"
    assert etcdctl("txn", stdin=script).stdout == "FAILURE\n\nbalance\n9\n"


def test_a_mistake_shows_etcds_own_text(etcdctl: Etcdctl) -> None:
    failed = etcdctl("put", "--lease=4711", "key", "value", fails=True)
    assert "requested lease not found" in failed.stderr


def test_member_list(etcdctl: Etcdctl, cluster: Cluster) -> None:
    members = json.loads(etcdctl("member", "list", "-w", "json").stdout)["members"]
    assert {(m["name"], m["peerURLs"][0], m["clientURLs"][0]) for m in members} == {
        (s.name, f"http://127.0.0.1:{s.peer_port}", f"http://{s.endpoint}") for s in cluster.servers
    }


def test_endpoint_status(etcdctl: Etcdctl, node: Server) -> None:
    (entry,) = json.loads(etcdctl("endpoint", "status", "-w", "json").stdout)
    status = entry["Status"]
    assert entry["Endpoint"] == node.endpoint
    assert status["version"].startswith("3.6.")
    assert min(status["leader"], status["raftIndex"], status["raftTerm"], status["dbSize"]) > 0
    assert status["raftAppliedIndex"] <= status["raftIndex"]


def test_endpoint_status_of_the_cluster_names_one_leader(etcdctl: Etcdctl) -> None:
    entries = json.loads(etcdctl("endpoint", "status", "--cluster", "-w", "json").stdout)
    statuses = [entry["Status"] for entry in entries]
    assert len(statuses) == 3
    assert len({status["leader"] for status in statuses}) == 1
    assert len({status["header"]["member_id"] for status in statuses}) == 3
    assert statuses[0]["leader"] in {status["header"]["member_id"] for status in statuses}


def test_endpoint_health(etcdctl: Etcdctl, node: Server) -> None:
    (entry,) = json.loads(etcdctl("endpoint", "health", "-w", "json").stdout)
    assert (entry["endpoint"], entry["health"]) == (node.endpoint, True)


def test_endpoint_hashkv_is_the_same_on_all_nodes(etcdctl: Etcdctl) -> None:
    etcdctl("put", "hashed", "1")
    entries = json.loads(etcdctl("endpoint", "hashkv", "--cluster", "-w", "json").stdout)
    hashes = {
        (entry["HashKV"]["hash"], entry["HashKV"].get("compact_revision", 0)) for entry in entries
    }
    assert (len(entries), len(hashes)) == (3, 1)
