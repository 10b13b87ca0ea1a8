"""raftkv.v1.Inspect: three real members, asked one by one."""

import time
from collections.abc import Iterator

import grpc
import pytest

from raftkv.pb import inspect_pb2, inspect_pb2_grpc, rpc_pb2, rpc_pb2_grpc
from tests import processes

PUTS = 20


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[processes.Cluster]:
    with processes.raftkv(tmp_path_factory.mktemp("inspect"), 3) as started:
        yield started


def inspect(endpoint: str) -> inspect_pb2.InspectResponse:
    with grpc.insecure_channel(endpoint) as channel:
        answer = inspect_pb2_grpc.InspectStub(channel).Inspect(
            inspect_pb2.InspectRequest(), timeout=60
        )
        assert isinstance(answer, inspect_pb2.InspectResponse)
        return answer


def put(endpoint: str, count: int) -> None:
    with grpc.insecure_channel(endpoint) as channel:
        kv = rpc_pb2_grpc.KVStub(channel)
        for number in range(count):
            kv.Put(rpc_pb2.PutRequest(key=b"k", value=b"%d" % number), timeout=60)


def all_of(cluster: processes.Cluster) -> list[inspect_pb2.InspectResponse]:
    return [inspect(server.endpoint) for server in cluster.servers]


@pytest.mark.slow
def test_every_member_tells_what_it_knows(cluster: processes.Cluster) -> None:
    put(cluster.servers[0].endpoint, PUTS)
    deadline = time.monotonic() + 60
    while not _caught_up(found := all_of(cluster)):
        assert time.monotonic() < deadline, found
    (leader,) = [one for one in found if one.role == "leader"]
    assert {one.leader for one in found} == {leader.header.member_id}
    assert sorted(one.name for one in found) == sorted(server.name for server in cluster.servers)
    for one in found:
        assert one.first_index <= one.applied_index <= one.commit_index <= one.last_index
        # A follower that is behind may get several entries in a batch.
        assert one.log_sync.count > (PUTS / 2 if one is leader else 2)
        assert 0 < one.log_sync.p50_us <= one.log_sync.p99_us <= one.log_sync.max_us
        assert len(one.peers) == 2
        assert all(peer.connected and peer.voter and peer.name for peer in one.peers)
        assert one.settings.election_timeout_ms == 1000
        assert one.settings.heartbeat_interval_ms == 100
        assert 0 < one.disk_free_bytes <= one.disk_total_bytes
        assert abs(one.wall_clock_ns - time.time_ns()) < 5e9
        assert one.counters["client_connections"] >= 1
    assert all(peer.state == "replicate" and peer.active for peer in leader.peers)


def _caught_up(found: list[inspect_pb2.InspectResponse]) -> bool:
    """Whether one leads and knows that the others have all that it has."""
    leaders = [one for one in found if one.role == "leader"]
    return len(leaders) == 1 and all(
        peer.match_index == leaders[0].last_index for peer in leaders[0].peers
    )


@pytest.mark.slow
def test_round_trips_between_members_are_measured(cluster: processes.Cluster) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        peers = [peer for one in all_of(cluster) for peer in one.peers]
        if all(peer.round_trip_us for peer in peers):
            break
        time.sleep(0.2)
    assert all(0 < peer.round_trip_us < 5_000_000 for peer in peers)


@pytest.mark.slow
def test_a_member_answers_without_a_leader_and_names_the_lost_links(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with processes.raftkv(tmp_path_factory.mktemp("minority"), 3) as cluster:
        for server in cluster.servers[1:]:
            server.kill()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            left = inspect(cluster.servers[0].endpoint)
            if not left.leader and not any(peer.connected for peer in left.peers):
                break
            time.sleep(0.1)
        assert left.leader == 0
        assert not any(peer.connected or peer.round_trip_us for peer in left.peers)
        assert left.role in ("follower", "candidate", "pre-candidate")
