"""Each method of a test cluster does what it says, with members on threads and as processes."""

import socket
import time
from collections.abc import Iterator

import grpc
import pytest

from raftkv.errors import Code, ConfigError
from raftkv.pb import rpc_pb2
from raftkv.testing import Cluster, NoLeader, probe
from tests.testing.calls import PATIENCE_SECONDS, get, grant, put

KINDS = {"threads": False, "processes": True}
LOST = (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)


@pytest.fixture(scope="module", params=KINDS)
def shared(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with Cluster(3, processes=KINDS[request.param]) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared: Cluster) -> Cluster:
    """Three members of either kind, whole and empty."""
    shared.recover()
    shared.clear()
    return shared


def others(cluster: Cluster, index: int) -> list[int]:
    return [one for one in range(cluster.nodes) if one != index]


def term(cluster: Cluster, index: int) -> int:
    """The term that a member is in."""
    return probe.status(cluster.members[index].address, PATIENCE_SECONDS).raftTerm


def test_a_client_of_any_member_sees_the_same_store(cluster: Cluster) -> None:
    with grpc.insecure_channel(cluster.endpoints[0]) as channel:
        channel.unary_unary(
            "/etcdserverpb.KV/Put",
            request_serializer=rpc_pb2.PutRequest.SerializeToString,
            response_deserializer=rpc_pb2.PutResponse.FromString,
        )(rpc_pb2.PutRequest(key=b"k", value=b"v"), timeout=PATIENCE_SECONDS)
    assert [get(cluster, index, b"k") for index in range(3)] == [b"v"] * 3


def test_endpoints_have_the_forms_that_clients_take(cluster: Cluster) -> None:
    assert cluster.endpoint == ",".join(cluster.endpoints)
    assert cluster.endpoints == [member.endpoint for member in cluster.members]
    assert cluster.endpoints[0] == f"127.0.0.1:{cluster.port}"


def test_a_write_in_the_minority_waits_and_one_in_the_majority_succeeds(cluster: Cluster) -> None:
    alone = cluster.wait_leader()
    cluster.isolate(alone)
    leader = cluster.wait_leader()
    assert leader != alone
    with pytest.raises(probe.CallFailed) as refused:
        put(cluster, alone, b"lost or late", b"v", seconds=0.5)  # its outcome is unknown
    assert refused.value.code in LOST
    for index in others(cluster, alone):
        put(cluster, index, b"k", b"majority %d" % index)
    with pytest.raises(probe.CallFailed):
        get(cluster, alone, b"k", seconds=0.3)
    cluster.heal()
    last = b"majority %d" % others(cluster, alone)[-1]
    assert [get(cluster, index, b"k") for index in range(3)] == [last] * 3


def test_a_partition_takes_sets_and_indices(cluster: Cluster) -> None:
    leader = cluster.wait_leader()
    first, second = others(cluster, leader)
    cluster.partition({first}, second)
    assert cluster.network.is_cut(first, second)
    assert cluster.network.is_cut(second, first)
    assert not cluster.network.is_cut(first, leader)
    put(cluster, first, b"k", b"the leader reaches both")
    assert get(cluster, second, b"k") == b"the leader reaches both"


def test_a_one_way_cut_from_the_leader_deposes_it(cluster: Cluster) -> None:
    leader = cluster.wait_leader()
    cluster.network.cut([leader], others(cluster, leader))
    assert cluster.wait_leader() != leader


def test_a_delay_makes_writes_slower_by_a_round_trip(cluster: Cluster) -> None:
    leader = cluster.wait_leader()
    cluster.network.delay(range(3), range(3), 0.1)
    began = time.monotonic()
    put(cluster, leader, b"k", b"v")
    assert time.monotonic() - began >= 0.19


def test_a_killed_leader_is_replaced_and_comes_back_with_what_it_missed(cluster: Cluster) -> None:
    put(cluster, 0, b"before", b"1")
    killed = cluster.kill_leader()
    assert not cluster.members[killed].running
    assert cluster.wait_leader() != killed
    put(cluster, others(cluster, killed)[0], b"after", b"2")
    cluster.restart(killed)
    assert get(cluster, killed, b"before") == b"1"
    assert get(cluster, killed, b"after") == b"2"


def test_a_killed_member_cuts_its_clients_off(cluster: Cluster) -> None:
    with socket.create_connection(cluster.members[1].address, PATIENCE_SECONDS) as client:
        cluster.kill(1)
        try:
            while client.recv(65536):
                continue
        except ConnectionResetError:
            pass
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(cluster.members[1].address, 5.0)


def test_what_was_acknowledged_survives_that_all_are_killed(cluster: Cluster) -> None:
    for number in range(20):
        put(cluster, number % 3, b"%d" % number, b"v")
    for index in range(3):
        cluster.kill(index)
    cluster.recover()
    assert [get(cluster, 0, b"%d" % number) for number in range(20)] == [b"v"] * 20


def test_a_paused_member_says_nothing_and_answers_when_it_goes_on(cluster: Cluster) -> None:
    put(cluster, 2, b"k", b"v")
    cluster.pause(2)
    cluster.pause(2)  # it is paused
    assert cluster.members[2].paused
    with pytest.raises(probe.CallFailed) as silence:
        probe.status(cluster.members[2].address, 0.3)  # its socket is open, so not UNAVAILABLE
    assert silence.value.code == Code.DEADLINE_EXCEEDED
    with socket.create_connection(cluster.members[2].address, PATIENCE_SECONDS) as client:
        client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(1)
        cluster.resume(2)
        client.settimeout(PATIENCE_SECONDS)
        assert client.recv(1), "what came in during the pause is answered"
    assert get(cluster, 2, b"k") == b"v"


def test_a_paused_leader_is_deposed_and_follows_when_it_comes_back(cluster: Cluster) -> None:
    paused = cluster.wait_leader()
    before = term(cluster, paused)
    cluster.pause(paused)
    leader = cluster.wait_leader()
    assert leader != paused
    put(cluster, leader, b"k", b"v")
    cluster.resume(paused)
    assert get(cluster, paused, b"k") == b"v"
    assert term(cluster, paused) > before


def test_a_paused_member_can_be_killed_and_restarted(cluster: Cluster) -> None:
    cluster.pause(0)
    cluster.kill(0)
    assert not cluster.members[0].running
    cluster.restart(0)
    put(cluster, 0, b"k", b"v")


def test_a_member_that_ends_in_order_hands_leadership_over(cluster: Cluster) -> None:
    leader = cluster.wait_leader()
    cluster.terminate(leader)
    assert not cluster.members[leader].running
    assert cluster.wait_leader() != leader
    cluster.check()  # nobody died who was not told to


def test_no_majority_means_no_leader(cluster: Cluster) -> None:
    leader = cluster.wait_leader()
    for index in others(cluster, leader):
        cluster.isolate(index)
    with pytest.raises(NoLeader):
        cluster.wait_leader(timeout_seconds=0.5)
    cluster.heal()
    cluster.wait_leader()


def test_recover_undoes_every_fault_at_once(cluster: Cluster) -> None:
    cluster.partition(0, [1, 2])
    cluster.pause(1)
    cluster.kill(2)
    cluster.recover()
    for index in range(3):
        put(cluster, index, b"k", b"%d" % index)
        assert get(cluster, index, b"k") == b"%d" % index


def test_clear_takes_keys_and_leases(cluster: Cluster) -> None:
    put(cluster, 0, b"\0", b"the first of all keys")
    put(cluster, 0, b"\xff\xff", b"the last")
    lease = grant(cluster, 1, ttl_seconds=1000)
    cluster.clear()
    assert probe.read(cluster.members[0].address, PATIENCE_SECONDS).kvs == []
    assert grant(cluster, 0, ttl_seconds=1000) != lease
    leases = probe.leases(cluster.members[0].address, PATIENCE_SECONDS)
    assert lease not in leases
    assert len(leases) == 1


def test_wrong_use_is_told(cluster: Cluster) -> None:
    with pytest.raises(ValueError, match="there is no member 3"):
        cluster.kill(3)
    with pytest.raises(ValueError, match="there is no member -1"):
        cluster.isolate(-1)
    with pytest.raises(ValueError, match="started already"):
        cluster.start()
    cluster.kill(1)
    with pytest.raises(ValueError, match="node1 is not running"):
        cluster.pause(1)
    with pytest.raises(ValueError, match="node1 is not running"):
        cluster.resume(1)


@pytest.mark.parametrize("nodes", [1, 3])
def test_the_first_election_waits_for_no_election_timeout(nodes: int) -> None:
    patient = {"election-timeout": "50000", "heartbeat-interval": "200"}
    with Cluster(nodes, flags=patient, start_timeout_seconds=45.0) as cluster:
        put(cluster, 0, b"k", b"v")


def test_a_cluster_of_one_has_no_network() -> None:
    with Cluster(1) as cluster:
        put(cluster, 0, b"k", b"v")
        with pytest.raises(ValueError, match="no network"):
            cluster.isolate(0)


def test_flags_of_the_members_can_be_set_but_not_what_makes_the_cluster() -> None:
    with Cluster(1, flags={"max-txn-ops": "1"}) as cluster:
        operation = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"k"))
        other = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"l"))
        with pytest.raises(probe.CallFailed, match="too many operations"):
            probe.call(
                cluster.members[0].address,
                "/etcdserverpb.KV/Txn",
                rpc_pb2.TxnRequest(success=[operation, other]),
                rpc_pb2.TxnResponse,
                PATIENCE_SECONDS,
            )
    with pytest.raises(ConfigError, match="--name"):
        Cluster(1, flags={"name": "mine"})
    with pytest.raises(ConfigError, match="--peer-cert-file: a test cluster speaks no TLS"):
        Cluster(1, flags={"peer-cert-file": "c.pem"})
    with pytest.raises(ConfigError, match="--heartbeat-interval"):
        Cluster(1, flags={"heartbeat-interval": "often"}).start()
    with pytest.raises(ValueError, match="at least one"):
        Cluster(0)
