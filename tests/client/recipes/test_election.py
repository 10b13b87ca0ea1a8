"""Elections of both faces on both servers: terms, proclaiming, observing, loss, others' queues."""

import asyncio
import subprocess
import threading
import time
from functools import partial
from typing import Any

import grpc
import pytest

from raftkv.client import (
    Client,
    LeaseLost,
    NotAcquired,
    NotHeld,
    Put,
    Txn,
    aio,
)
from raftkv.pb import election_pb2, election_pb2_grpc, rpc_pb2, rpc_pb2_grpc
from tests.client.conftest import Served
from tests.client.faces import Faces
from tests.client.gate import Gate
from tests.client.recipes.contention import Beside, bare, lose_answers, queue_length, wait_until
from tests.processes import ETCDCTL


def test_candidates_lead_one_after_the_other(server: Served, connect: Faces, prefix: str) -> None:
    client = connect(server.endpoints)
    election = client.election(prefix + "e")
    assert election.leader() is None
    with election.campaign("host-a") as term:
        assert term.is_leader
        assert term.value == b"host-a"
        assert election.leader().text == "host-a"
        second = Beside(lambda: client.election(prefix + "e").campaign("host-b"))
        wait_until(lambda: queue_length(client, prefix) == 2)
        assert [kv.text for kv in election.candidates()] == ["host-a", "host-b"]
        with pytest.raises(NotAcquired):
            election.campaign("host-c", blocking=False)
        with pytest.raises(NotAcquired):
            election.campaign("host-c", timeout=0.2)
        assert term.confirm()
    assert not term.is_leader
    later = second.result()
    assert later.fencing_token > term.fencing_token
    assert election.leader().text == "host-b"
    later.resign()
    assert election.leader() is None


def test_the_loop_of_the_first_example_ends_when_leadership_does(
    server: Served, connect: Faces, prefix: str
) -> None:
    client = connect(server.endpoints)
    rounds = 0
    with client.election(prefix + "e", ttl=2).campaign("host-a") as term:
        while term.is_leader:
            rounds += 1
            client.revoke(term.lease.id)
            assert term.lost.wait(20)
    assert rounds == 1  # and leaving the context raised nothing


def test_a_leader_proclaims_until_it_is_none(server: Served, connect: Faces, prefix: str) -> None:
    client = connect(server.endpoints)
    election = client.election(prefix + "e")
    term = election.campaign("one")
    term.proclaim("two")
    assert term.value == b"two"
    leader = election.leader()
    assert leader.text == "two"
    assert leader.create_revision == term.fencing_token
    assert leader.lease == term.lease.id
    client.delete(term.key)  # no clock tells this
    assert term.is_leader
    assert not term.confirm()
    with pytest.raises(NotHeld):
        term.proclaim("three")
    assert term.value == b"two"
    term.resign()
    with pytest.raises(NotHeld):
        term.proclaim("four")


@pytest.mark.parametrize("carry_out", [True, False])
def test_a_lost_answer_to_a_proclamation_is_found_out(
    server: Served, connect: Faces, prefix: str, carry_out: bool
) -> None:
    """C02."""
    client = connect(server.endpoints)
    with client.election(prefix + "e").campaign("one") as term:
        losing = lose_answers(client, carry_out=carry_out)
        term.proclaim("two")
        assert losing.lost == 1
        assert client.get(term.key).version == 2
        term.proclaim("three")
        assert client.get(term.key).text == "three"
        assert client.get(term.key).version == 3


def test_a_deposed_leader_writes_nothing_through_its_guard(
    server: Served, connect: Faces, prefix: str
) -> None:
    """C03."""
    client = connect(server.endpoints)
    election = client.election(prefix + "e")
    late = election.campaign("one")
    client.revoke(late.lease.id)
    with election.campaign("two") as term:
        assert client.txn(term.guard(Txn()).then(Put(prefix + "v", "new"))).succeeded
        assert not client.txn(late.guard(Txn()).then(Put(prefix + "v", "late"))).succeeded
        with pytest.raises((NotHeld, LeaseLost)):
            late.proclaim("late")
    assert client.get(prefix + "v").text == "new"


def test_loss_is_told_while_the_event_loop_is_blocked(server: Served, prefix: str) -> None:
    """C05: by a thread of its own, and `is_leader` needs nothing but the clock."""
    told: list[float] = []

    async def scenario() -> None:
        async with aio.Client(server.endpoints) as client, aio.Client(server.endpoints) as other:
            term = await client.election(prefix + "e", ttl=2).campaign("host-a")
            term.on_loss(lambda: told.append(time.monotonic()))
            await other.revoke(term.lease.id)
            end = time.monotonic() + 15
            while time.monotonic() < end and term.is_leader:
                time.sleep(0.01)  # nothing of this loop runs
            assert not term.is_leader
            while not told and time.monotonic() < end:
                time.sleep(0.01)
            assert told
            await term.resign()

    asyncio.run(scenario())


def test_a_leader_keeps_its_lease_while_the_event_loop_is_blocked(
    server: Served, prefix: str
) -> None:
    """C05."""

    async def scenario() -> None:
        async with (
            aio.Client(server.endpoints) as client,
            client.election(prefix + "e", ttl=4).campaign("host-a") as term,
        ):
            time.sleep(5)
            assert term.is_leader
            assert await term.confirm()

    asyncio.run(scenario())


def test_loss_is_told_in_time_with_the_network_dead_and_the_loop_blocked(
    server: Served, prefix: str
) -> None:
    """C05, C07: before anybody else can lead."""
    told = threading.Event()
    gate = Gate(server.endpoints)

    def next_leader() -> float:
        with Client(server.endpoints) as client:
            client.election(prefix + "e").campaign("next", timeout=40).resign()
            return time.monotonic()

    async def scenario() -> None:
        async with aio.Client(gate.endpoint) as client:
            term = await client.election(prefix + "e", ttl=2).campaign("host-a")
            term.on_loss(told.set)
            gate.silence()
            elected = Beside(next_leader)
            end = time.monotonic() + 20
            while term.is_leader and time.monotonic() < end:
                time.sleep(0.001)  # nothing of this loop runs
            lost = time.monotonic()
            assert told.wait(5)
            assert time.monotonic() < elected.result()
            assert lost < end
            gate.open()
            await term.resign()

    try:
        asyncio.run(scenario())
    finally:
        gate.close()


# --- giving up ------------------------------------------------------------------------------
def test_a_cancelled_candidate_leaves_no_ghost(server: Served, prefix: str) -> None:
    """C09."""

    async def scenario() -> None:
        async with aio.Client(server.endpoints) as client:
            election = client.election(prefix + "e")
            async with election.campaign("one"):
                leases = set(await client.leases())
                task = asyncio.create_task(_campaign(election))
                while await client.count(prefix) < 2:
                    await asyncio.sleep(0.01)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert [kv.text for kv in await election.candidates()] == ["one"]
                assert set(await client.leases()) <= leases

    async def _campaign(election: Any) -> None:
        await election.campaign("two")

    asyncio.run(scenario())


def test_a_candidate_whose_lease_ends_gets_an_error(
    server: Served, connect: Faces, prefix: str
) -> None:
    """C04."""
    client = connect(server.endpoints)
    election = client.election(prefix + "e")
    term = election.campaign("one")
    waiting = Beside(lambda: election.campaign("two", timeout=40))
    wait_until(lambda: queue_length(client, prefix) == 2)
    client.revoke(election.candidates()[1].lease)
    term.resign()
    with pytest.raises(LeaseLost):
        waiting.result()
    assert election.leader() is None


def test_an_election_with_a_given_lease_leaves_the_lease(
    server: Served, connect: Faces, prefix: str
) -> None:
    client = connect(server.endpoints)
    lease = client.lease(20)
    with client.election(prefix + "e", lease=bare(lease)).campaign("one") as term:
        term.proclaim("two")
        assert client.get(term.key).kv.lease == lease.id
    assert lease.alive
    assert queue_length(client, prefix) == 0
    lease.revoke()


# --- observing ------------------------------------------------------------------------------
def test_an_observer_sees_the_present_leader_and_each_change(
    server: Served, connect: Faces, prefix: str
) -> None:
    client = connect(server.endpoints)
    election = client.election(prefix + "e")
    with election.observe() as observation:
        with pytest.raises(TimeoutError):
            observation.next(timeout=0.2)
        term = election.campaign("one")
        assert observation.next(30).text == "one"
        term.proclaim("two")
        assert observation.next(30).text == "two"
        waiting = Beside(lambda: election.campaign("three"))
        wait_until(lambda: queue_length(client, prefix) == 2)
        with pytest.raises(TimeoutError):
            observation.next(timeout=0.2)
        term.resign()
        assert observation.next(30).text == "three"
        waiting.result().resign()
        later = election.campaign("four")
        assert observation.next(30).text == "four"
        later.resign()


def test_an_observer_is_an_iterator(server: Served, connect: Faces, prefix: str) -> None:
    client = connect(server.endpoints)
    election = client.election(prefix + "e")
    seen = []
    with election.campaign("one") as term:
        observation = election.observe()
        for leader in observation:
            seen.append(leader.text)
            if len(seen) == 3:
                break
            term.proclaim(f"again {len(seen)}")
        observation.close()
    assert seen == ["one", "again 1", "again 2"]


def test_an_observer_survives_a_compaction_and_never_goes_back(
    server: Served, connect: Faces, prefix: str
) -> None:
    """C08: what it missed is gone, and the present is not."""
    client = connect(server.endpoints)
    election = client.election(prefix + "e")
    with election.observe() as observation:
        term = election.campaign("one")
        first = observation.next(30)
        for number in range(5):
            term.proclaim(f"value {number}")
        term.resign()
        with election.campaign("two"):
            client.compact(client.get(prefix).revision)
            seen = [first]
            while seen[-1].text != "two":
                seen.append(observation.next(30))
            orders = [(kv.create_revision, kv.mod_revision) for kv in seen]
            assert orders == sorted(set(orders))


@pytest.mark.parametrize("outage", ["silence", "cut"])
def test_an_observer_that_was_cut_off_goes_on_with_the_present(
    server: Served, connect: Faces, prefix: str, outage: str
) -> None:
    """C08: leaders came and went meanwhile, and their history is compacted."""
    gate = Gate(server.endpoints)
    try:
        client = connect(gate.endpoint)
        with Client(server.endpoints) as other:
            election = other.election(prefix + "e")
            term = election.campaign("one")
            with client.election(prefix + "e").observe() as observation:
                assert observation.next(30).text == "one"
                gate.silence()
                term.proclaim("one again")
                term.resign()
                election.campaign("two").resign()
                last = election.campaign("three")
                other.compact(other.get(prefix).revision)
                if outage == "cut":
                    gate.cut()
                gate.open()
                seen = [observation.next(60)]
                while seen[-1].text != "three":
                    seen.append(observation.next(60))
                tokens = [kv.create_revision for kv in seen]
                assert tokens == sorted(tokens)
                last.proclaim("three again")
                assert observation.next(60).text == "three again"
            last.resign()
        connect.close_clients()
    finally:
        gate.close()


# --- one queue with others --------------------------------------------------------------------
def test_etcdctl_waits_for_us_and_we_for_etcdctl(
    server: Served, connect: Faces, prefix: str
) -> None:
    client = connect(server.endpoints)
    election = client.election(prefix + "e")
    with election.campaign("ours") as term:
        other = subprocess.Popen(
            [ETCDCTL, "--endpoints", server.endpoints, "elect", prefix + "e", "theirs"],
            stdout=subprocess.PIPE,
        )
        wait_until(lambda: queue_length(client, prefix) == 2)
        waiting = Beside(lambda: election.campaign("ours again"))
        wait_until(lambda: queue_length(client, prefix) == 3)
    wait_until(lambda: queue_length(client, prefix) == 2)
    theirs = election.leader()
    assert theirs.text == "theirs"
    assert not waiting.is_done
    other.kill()  # asked to end, it does not always resign
    other.communicate(timeout=60)
    client.revoke(theirs.lease)
    later = waiting.result()
    assert later.fencing_token > term.fencing_token
    later.resign()


def test_the_election_service_waits_for_us_and_we_for_it(
    server: Served, connect: Faces, prefix: str
) -> None:
    client = connect(server.endpoints)
    election = client.election(prefix + "e")
    name = (prefix + "e").encode()
    with grpc.insecure_channel(server.endpoints.split(",")[0]) as channel:
        service = election_pb2_grpc.ElectionStub(channel)
        leases = rpc_pb2_grpc.LeaseStub(channel)
        lease = leases.LeaseGrant(rpc_pb2.LeaseGrantRequest(TTL=60)).ID
        with election.campaign("ours") as term:
            answer = service.Leader(election_pb2.LeaderRequest(name=name))
            assert (answer.kv.value, answer.kv.key) == (b"ours", term.key)
            proof = election_pb2.LeaderKey(
                name=name, key=term.key, rev=term.fencing_token, lease=term.lease.id
            )
            service.Proclaim(election_pb2.ProclaimRequest(leader=proof, value=b"for us"))
            assert election.leader().text == "for us"
            term.proclaim("ours again")  # although somebody else has written the key
            asked = service.Campaign.future(
                election_pb2.CampaignRequest(name=name, lease=lease, value=b"theirs")
            )
            wait_until(lambda: queue_length(client, prefix) == 2)
            assert not asked.done()
        won = asked.result(timeout=60).leader
        assert election.leader().text == "theirs"
        waiting = Beside(lambda: election.campaign("ours"))
        wait_until(lambda: queue_length(client, prefix) == 2)
        service.Resign(election_pb2.ResignRequest(leader=won))
        waiting.result().resign()
        leases.LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=lease))


def test_many_candidates_of_many_threads_each_lead_once(
    server: Served, connect: Faces, prefix: str
) -> None:
    """Guarded writes of one term lie before those of the next, by revision."""
    client = connect(server.endpoints)
    terms: list[tuple[int, list[int]]] = []
    note = threading.Lock()

    def lead(number: int) -> None:
        with client.election(prefix + "e").campaign(f"host-{number}") as term:
            guarded = term.guard(Txn()).then(Put(prefix + "v", str(number)))
            revisions = [client.txn(guarded).revision for _ in range(3)]
            with note:
                terms.append((term.fencing_token, revisions))

    candidates = [Beside(partial(lead, number)) for number in range(6)]
    for candidate in candidates:
        candidate.result()
    terms.sort()
    written = [revision for _, revisions in terms for revision in revisions]
    assert written == sorted(written)
    assert len(written) == 18
