"""What the numbers say, after known requests."""

import asyncio
import re
from pathlib import Path

from raftkv.raft.types import NOBODY
from tests.server.harness import Client, configs, replica_of, running, until
from tests.server.metrics.conftest import PUTS, Pages
from tests.server.metrics.pages import samples


def call(name: str, method: str, service: str = "KV", **more: str) -> str:
    kind = "bidi_stream" if method == "Watch" else "unary"
    labels = {
        "grpc_method": method,
        "grpc_service": f"etcdserverpb.{service}",
        "grpc_type": kind,
        **more,
    }
    inside = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    return f"grpc_server_{name}{{{inside}}}"


def test_calls_are_counted_by_method_and_code(pages: Pages) -> None:
    for page in (pages.leader, pages.follower):
        seen = samples(page)
        assert seen[call("started_total", "Put")] == PUTS + 1
        assert seen[call("handled_total", "Put", grpc_code="OK")] == PUTS
        assert seen[call("handled_total", "Put", grpc_code="InvalidArgument")] == 1
        assert seen[call("handled_total", "Range", grpc_code="OutOfRange")] == 1
        assert seen[call("msg_received_total", "Put")] == PUTS + 1
        assert seen[call("msg_sent_total", "Put")] == PUTS
        assert seen[call("started_total", "LeaseGrant", "Lease")] == 1
        assert seen[call("handling_seconds_count", "Put")] == PUTS + 1
        assert seen[call("handling_seconds_sum", "Put")] > 0
    assert samples(pages.other)[call("started_total", "Put")] == 0


def test_an_open_watch_is_a_call_that_has_begun_and_not_ended(pages: Pages) -> None:
    """The dashboard's number of active streams is this difference."""
    seen = samples(pages.leader)
    assert seen[call("started_total", "Watch", "Watch")] == 1
    ends = [value for name, value in seen.items() if "handled_total" in name and "Watch" in name]
    assert sum(ends) == 0
    assert seen[call("msg_sent_total", "Watch", "Watch")] == 2, "its creation, another's put"
    assert samples(pages.follower)[call("msg_sent_total", "Watch", "Watch")] == 1
    assert seen["etcd_debugging_mvcc_watcher_total"] == 1
    assert seen["etcd_debugging_mvcc_watch_stream_total"] == 1


def test_every_member_counts_the_operations_that_it_applied(pages: Pages) -> None:
    for page in pages.all():
        seen = samples(page)
        assert seen["etcd_mvcc_put_total"] == 2 * (PUTS + 2)
        assert seen["etcd_mvcc_delete_total"] == 2
        assert seen["etcd_mvcc_txn_total"] == 2
        assert seen["etcd_debugging_mvcc_keys_total"] == PUTS - 1 + 2
        assert seen["etcd_debugging_lease_granted_total"] == 2
        assert seen["raftkv_leases"] == 2


def test_one_member_leads_and_all_know_it(pages: Pages) -> None:
    leads = [samples(page)["etcd_server_is_leader"] for page in pages.all()]
    assert leads == [1, 0, 0]
    for page in pages.all():
        seen = samples(page)
        assert seen["etcd_server_has_leader"] == 1
        assert seen["etcd_server_leader_changes_seen_total"] >= 1
        assert seen["etcd_server_proposals_failed_total"] == 0
        assert seen["etcd_server_proposals_pending"] == 0


def test_syncs_writes_and_proposals_are_in_their_histograms(pages: Pages) -> None:
    for page in (pages.leader, pages.follower):
        seen = samples(page)
        assert seen["etcd_disk_wal_fsync_duration_seconds_count"] > PUTS
        assert seen["etcd_disk_wal_fsync_duration_seconds_sum"] > 0
        assert seen["etcd_disk_wal_write_bytes_total"] > PUTS * 100
        assert seen["etcd_disk_backend_commit_duration_seconds_count"] > 0
        # Every write of its own clients, once: puts, a delete, a transaction, a lease, and the
        # member's own name.
        assert seen["raftkv_proposal_duration_seconds_count"] >= PUTS + 3
        assert seen["raftkv_apply_duration_seconds_count"] > 0


def test_members_count_the_traffic_between_them(pages: Pages) -> None:
    for page in pages.all():
        seen = samples(page)
        peers = [name for name in seen if name.startswith("etcd_network_active_peers")]
        assert len(peers) == 2
        assert [seen[name] for name in peers] == [1, 1]
        for name, value in seen.items():
            if re.match(r"etcd_network_peer_sent_bytes_total", name):
                assert value > 0
    trips = re.compile(r"etcd_network_peer_round_trip_time_seconds_count")
    assert all(value > 0 for name, value in samples(pages.leader).items() if trips.match(name))
    sent = samples(pages.leader)["etcd_network_client_grpc_received_bytes_total"]
    assert sent > PUTS * 100


def test_a_member_that_lost_its_leader_says_so(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(configs(3, tmp_path)) as nodes:
            leader = next(node for node in nodes if replica_of(node).is_leader)
            survivor, other = (node for node in nodes if node is not leader)
            gone = f"{replica_of(leader).member:x}"
            client = await Client.connect(survivor)
            await client.put(b"k", b"v")
            await other.stop()
            await leader.stop()
            await until(lambda: replica_of(survivor).leader == NOBODY)
            assert survivor.exposition is not None
            seen = samples(survivor.exposition.text("")[1].decode())
            assert seen["etcd_server_has_leader"] == 0
            local = f"{replica_of(survivor).member:x}"
            labels = f'{{Local="{local}",Remote="{gone}"}}'
            assert seen["etcd_network_active_peers" + labels] == 0
            assert seen["etcd_network_disconnected_peers_total" + labels] == 1
            client.close()

    asyncio.run(scenario())
