"""The names, types, labels and buckets that etcd's dashboards and alerts go by."""

import re
from pathlib import Path

import pytest

from tests.server.metrics.conftest import Pages
from tests.server.metrics.pages import Seen, families

_GRPC = ("grpc_method", "grpc_service", "grpc_type")
_DISK = tuple(f"{0.001 * 2**power:g}" for power in range(14))
_TRIP = tuple(f"{0.0001 * 2**power:.10g}" for power in range(16))
_CALL = ("0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10")

# What the alerts and the dashboard of the etcd mixin ask for, as etcd 3.5.1 has it.
MIXIN = {
    "etcd_disk_backend_commit_duration_seconds": ("histogram", (), _DISK),
    "etcd_disk_wal_fsync_duration_seconds": ("histogram", (), _DISK),
    "etcd_mvcc_db_total_size_in_bytes": ("gauge", (), ()),
    "etcd_mvcc_db_total_size_in_use_in_bytes": ("gauge", (), ()),
    "etcd_network_client_grpc_received_bytes_total": ("counter", (), ()),
    "etcd_network_client_grpc_sent_bytes_total": ("counter", (), ()),
    "etcd_network_peer_received_bytes_total": ("counter", ("From",), ()),
    "etcd_network_peer_round_trip_time_seconds": ("histogram", ("To",), _TRIP),
    "etcd_network_peer_sent_bytes_total": ("counter", ("To",), ()),
    "etcd_network_peer_sent_failures_total": ("counter", ("To",), ()),
    "etcd_server_has_leader": ("gauge", (), ()),
    "etcd_server_leader_changes_seen_total": ("counter", (), ()),
    "etcd_server_proposals_applied_total": ("gauge", (), ()),
    "etcd_server_proposals_committed_total": ("gauge", (), ()),
    "etcd_server_proposals_failed_total": ("counter", (), ()),
    "etcd_server_proposals_pending": ("gauge", (), ()),
    "etcd_server_quota_backend_bytes": ("gauge", (), ()),
    "grpc_server_handled_total": ("counter", ("grpc_code", *_GRPC), ()),
    "grpc_server_handling_seconds": ("histogram", _GRPC, _CALL),
    "grpc_server_started_total": ("counter", _GRPC, ()),
    "process_resident_memory_bytes": ("gauge", (), ()),
}
# Go's own; and what only a proxy of etcd has.
NOT_OURS = ("go_", "promhttp_")
DOCUMENT = Path(__file__).parents[3] / "docs" / "metrics.md"


def left_out() -> dict[str, str]:
    """etcd's metrics that raftkv has not, with the reason, as the document says."""
    text = DOCUMENT.read_text(encoding="utf-8")
    section = text.split("## What etcd has and raftkv has not", 1)[1].split("\n## ", 1)[0]
    found = {}
    for names, reason in re.findall(r"^\| (`.*`) \| (.+) \|$", section, re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", names):
            found[name] = reason
    return found


@pytest.mark.parametrize("name", sorted(MIXIN))
def test_what_the_mixin_asks_for_is_as_in_etcd(name: str, pages: Pages) -> None:
    kind, labels, buckets = MIXIN[name]
    bounds = (*buckets, "+Inf") if buckets else ()
    for page in pages.all():
        assert families(page)[name] == Seen(kind, frozenset(labels), bounds)


def test_every_metric_of_a_real_etcd_is_here_or_in_the_list_of_those_left_out(
    pages: Pages, etcd_page: str
) -> None:
    ours, etcd = families(pages.leader), families(etcd_page)
    missing = {name for name in etcd if name not in ours and not name.startswith(NOT_OURS)}
    assert missing == set(left_out()) & set(etcd), "the document's table is not what is missing"
    assert not set(left_out()) & set(ours), "the document says that these are missing"


def test_types_labels_and_buckets_are_those_of_a_real_etcd(pages: Pages, etcd_page: str) -> None:
    ours, etcd = families(pages.leader), families(etcd_page)
    common = [name for name in etcd if name in ours]
    assert len(common) > 50
    differences = {
        name: (ours[name], etcd[name])
        for name in common
        if ours[name].kind != etcd[name].kind
        or ours[name].buckets != etcd[name].buckets
        or (etcd[name].labels and ours[name].labels != etcd[name].labels)
    }
    assert differences == {}


def test_every_method_of_a_real_etcd_has_its_lines_with_every_code(
    pages: Pages, etcd_page: str
) -> None:
    pattern = re.compile(r"^(grpc_server_(?:handled|started|msg_\w+)_total\{.*\}) ", re.MULTILINE)

    def lines(page: str) -> set[frozenset[str]]:
        return {frozenset(re.split(r"[{},]", found)) for found in pattern.findall(page)}

    assert lines(etcd_page) - lines(pages.leader) == set()


def test_all_own_names_are_well_formed(pages: Pages) -> None:
    """As `promtool check metrics` would have it; etcd's own names break its rules."""
    for name, seen in families(pages.leader).items():
        if name.startswith("raftkv_"):
            assert (seen.kind == "counter") == name.endswith("_total")
            assert re.fullmatch(r"raftkv(_[a-z0-9]+)+", name)
            if seen.kind == "histogram":
                assert name.endswith("_seconds")


def test_the_document_names_every_own_metric(pages: Pages) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    own = [name for name in families(pages.leader) if name.startswith("raftkv_")]
    assert [name for name in own if f"`{name}`" not in text] == []
    named = set(re.findall(r"`(raftkv_[a-z0-9_]+)`", text))
    assert named - set(own) == set()
