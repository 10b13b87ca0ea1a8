"""Leases that the library keeps, of both faces on both servers."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from raftkv.client import (
    BadRequest,
    Client,
    ClientClosed,
    LeaseExists,
    LeaseLost,
    LeaseTtlTooLarge,
    NotConnected,
    OutcomeUnknown,
    aio,
)
from raftkv.client.lifetime import now
from raftkv.testing import Cluster
from raftkv.testing.proxy import Network
from tests.client.conftest import Served
from tests.client.faces import Faces
from tests.processes import free_ports


@pytest.fixture(params=["sync", "aio"])
def connect(request: pytest.FixtureRequest) -> Iterator[Faces]:
    faces = Faces(request.param)
    yield faces
    faces.close()


@pytest.fixture(params=["raftkv-sync", "etcd-aio"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Served, Faces]]:
    """Both servers and both faces in two rounds, for what takes seconds."""
    kind, _, name = request.param.partition("-")
    faces = Faces(name)
    yield request.getfixturevalue(f"{kind}_served"), faces
    faces.close()


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    with Cluster(3, processes=True) as cluster:
        yield cluster


@pytest.fixture
def cluster(running: Cluster) -> Iterator[Cluster]:
    yield running
    running.recover()


class Veil:
    """A proxy for clients in front of one endpoint."""

    def __init__(self, endpoint: str) -> None:
        self.network = Network()
        port = free_ports(1)[0]
        self.endpoint = f"127.0.0.1:{port}"
        self.network.add("server", port, int(endpoint.rpartition(":")[2]), lambda first: "client")

    def black_hole(self) -> None:
        """Nothing passes, nothing is refused or reset."""
        self.network.partition(["client"], ["server"])

    def swallow_answers(self) -> None:
        """Requests arrive, what is answered does not."""
        self.network.cut(["server"], ["client"])


@pytest.fixture
def veiled() -> Iterator[Callable[[str], Veil]]:
    with ExitStack() as stack:

        def made(endpoint: str) -> Veil:
            veil = Veil(endpoint)
            stack.callback(veil.network.close)
            return veil

        yield made


class Times:
    """When a key was seen to go, and when a loss was told, by `now`; 0 = not yet.

    late: for how long this process got no turn, at most, in seconds.
    """

    def __init__(self, direct: Client, key: str) -> None:
        self.deleted = self.told = self.late = 0.0
        direct.add_watch_callback(key, self._note_deletion, no_put=True)
        threading.Thread(target=self._measure, daemon=True).start()

    def _measure(self) -> None:
        while not self.deleted:
            began = now()
            threading.Event().wait(0.01)
            self.late = max(self.late, now() - began)

    def note_loss(self) -> None:
        self.told = now()

    def _note_deletion(self, batch: object) -> None:
        self.deleted = now()

    def check(self, deadline: float) -> None:
        """The deadline was before the end, and told in time; or late by a busy machine's fault."""
        wait_until(lambda: bool(self.told and self.deleted))
        assert deadline <= self.told < max(self.deleted, deadline + 0.4 + 3 * self.late)
        assert deadline < self.deleted


def wait_until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    give_up = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < give_up, "did not come about"
        threading.Event().wait(0.01)


def stays_so(true: Callable[[], bool], seconds: float) -> None:
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        assert true()
        threading.Event().wait(0.02)


@pytest.mark.slow
def test_a_lease_lives_while_it_is_held_and_its_keys_go_at_the_end(
    pair: tuple[Served, Faces], prefix: str
) -> None:
    server, connect = pair
    client = connect(server.endpoints)
    with client.lease(4) as lease:
        assert lease.ttl == 4
        client.put(prefix + "k", "v", lease=lease.id)
        stays_so(lambda: bool(lease.alive), 4.5)
        assert client.get(prefix + "k").kv.lease == lease.id
    assert not lease.alive
    assert lease.remaining == 0.0
    assert lease.lost.is_set()
    assert not client.get(prefix + "k").exists
    assert not client.time_to_live(lease.id).exists


@pytest.mark.slow
def test_a_lease_that_is_not_kept_runs_out_and_tells_so_before(
    pair: tuple[Served, Faces], prefix: str
) -> None:
    server, connect = pair
    client = connect(server.endpoints)
    lease = client.lease(2, keep_alive=False)
    client.put(prefix + "k", "v", lease=lease.id)
    with Client(server.endpoints) as direct:
        times = Times(direct, prefix + "k")
        lease.on_loss(times.note_loss)
        assert lease.lost.wait(60)
        assert not lease.alive
        times.check(lease.deadline)
    assert "clock" in lease.reason
    with pytest.raises(LeaseLost):
        lease.check()
    with pytest.raises(LeaseLost):
        lease.refresh()


@pytest.mark.slow
def test_a_detached_lease_is_left_to_run_out(pair: tuple[Served, Faces], prefix: str) -> None:
    server, connect = pair
    client = connect(server.endpoints)
    with client.lease(4) as lease:
        client.put(prefix + "k", "v", lease=lease.id)
        lease.detach()
    assert lease.alive
    assert client.get(prefix + "k").exists
    assert lease.lost.wait(60)
    wait_until(lambda: not client.get(prefix + "k").exists)


def test_refreshing_renews_at_once(server: Served, connect: Faces) -> None:
    client = connect(server.endpoints)
    lease = client.lease(60, keep_alive=False)
    before = lease.deadline
    threading.Event().wait(0.2)
    assert 55 < lease.refresh() <= 60
    assert lease.deadline > before + 0.1
    lease.revoke()
    with pytest.raises(LeaseLost, match="revoked"):
        lease.refresh()


def test_revoking_is_no_loss_and_may_be_done_twice(
    server: Served, connect: Faces, prefix: str
) -> None:
    client = connect(server.endpoints)
    lease = client.lease(60)
    client.put(prefix + "k", "v", lease=lease.id)
    told: list[int] = []
    lease.on_loss(lambda: told.append(1))
    lease.revoke()
    assert not lease.alive
    assert lease.lost.is_set()
    assert not client.get(prefix + "k").exists
    lease.revoke()
    assert told == []


def test_a_lease_that_somebody_else_revokes_is_lost_at_the_next_renewal(
    server: Served, connect: Faces
) -> None:
    client = connect(server.endpoints)
    lease = client.lease(3)
    client.revoke(lease.id)
    told = threading.Event()
    lease.on_loss(told.set)
    assert told.wait(60)
    assert not lease.alive
    assert "the server has ended" in lease.reason


def test_an_id_can_be_chosen_once(server: Served, connect: Faces, prefix: str) -> None:
    client = connect(server.endpoints)
    chosen = 7_000_000 + int(prefix[5:-1])
    lease = client.lease(60, id=chosen)
    assert lease.id == chosen
    with pytest.raises(LeaseExists):
        client.lease(60, id=chosen)
    assert lease.alive
    lease.revoke()


def test_a_ttl_that_cannot_be_is_one_clear_error(server: Served, connect: Faces) -> None:
    client = connect(server.endpoints)
    for ttl in (0, -1, float("inf"), float("nan")):
        with pytest.raises(BadRequest):
            client.lease(ttl)
    with pytest.raises(LeaseTtlTooLarge):
        client.lease(9_000_000_001)


def test_no_server_is_one_clear_error_in_time(connect: Faces) -> None:
    client = connect(f"127.0.0.1:{free_ports(1)[0]}", timeout=60.0, dial_timeout=0.5)
    began = time.monotonic()
    with pytest.raises(NotConnected):
        client.lease(10)
    assert time.monotonic() - began < 15


def test_closing_the_client_loses_its_leases_and_leaves_no_thread(
    server: Served, connect: Faces
) -> None:
    before = set(threading.enumerate())
    client = connect(server.endpoints)
    lease = client.lease(60)
    told = threading.Event()
    lease.on_loss(told.set)
    began = time.monotonic()
    client.close()
    assert time.monotonic() - began < 15, "no renewal is waited for"
    assert told.wait(60)
    assert not lease.alive
    assert lease.lost.is_set()
    with pytest.raises(ClientClosed):
        lease.refresh()
    wait_until(lambda: not [t for t in set(threading.enumerate()) - before if "raftkv" in t.name])


def test_a_grant_whose_answer_is_lost_is_looked_up(
    pair: tuple[Served, Faces], veiled: Callable[[str], Veil], prefix: str
) -> None:
    """C02: the lease was granted, the answer never came; another endpoint knows."""
    server, connect = pair
    veil = veiled(server.endpoints)
    client = connect(f"{veil.endpoint},{server.endpoints}", timeout=1.5)
    client.get(prefix)
    veil.swallow_answers()
    began = now()
    lease = client.lease(30)
    assert lease.alive
    assert lease.deadline <= began + 30, "counted from the first sending"
    assert client.time_to_live(lease.id).granted_ttl == 30
    lease.revoke()


def test_a_grant_that_cannot_be_looked_up_is_unknown(
    pair: tuple[Served, Faces], veiled: Callable[[str], Veil], prefix: str
) -> None:
    """C01: nothing is granted a second time; what may have been granted runs out."""
    server, connect = pair
    veil = veiled(server.endpoints)
    client = connect(veil.endpoint, timeout=0.4)
    client.get(prefix, timeout=5)
    veil.black_hole()
    with pytest.raises(OutcomeUnknown):
        client.lease(2)


# --- whatever hangs -----------------------------------------------------------------------
@pytest.mark.slow
def test_a_blocked_event_loop_costs_no_lease(server: Served, prefix: str) -> None:
    """C05: the loop is blocked for longer than the TTL, three times over its renewal."""

    async def scenario() -> None:
        async with aio.Client(server.endpoints) as client, client.lease(4) as lease:
            await client.put(prefix + "k", "v", lease=lease.id)
            time.sleep(4.3)
            assert lease.alive
            assert lease.remaining > 0
            assert not lease.lost.is_set()
            assert (await client.get(prefix + "k")).exists

    asyncio.run(scenario())


@pytest.mark.slow
def test_a_blocked_event_loop_hears_of_a_loss_before_the_lease_is_over(
    server: Served, veiled: Callable[[str], Veil], prefix: str
) -> None:
    """C05 and C07: network dead and loop blocked; told, and not alive, while the key is there."""
    veil = veiled(server.endpoints)

    async def scenario(times: Times) -> None:
        async with aio.Client(veil.endpoint, timeout=0.3) as client:
            lease = await client.lease(2)
            await client.put(prefix + "k", "v", lease=lease.id, timeout=5)
            lease.on_loss(times.note_loss)
            veil.black_hole()
            give_up = now() + 15
            while lease.alive and now() < give_up:
                time.sleep(0.001)  # no other task gets a turn
            assert now() < lease.deadline + 2
            while not times.told and now() < give_up:
                time.sleep(0.001)
            assert lease.lost.is_set()
            assert await lease.lost.wait(15)
            await asyncio.to_thread(times.check, lease.deadline)

    with Client(server.endpoints) as direct:
        asyncio.run(scenario(Times(direct, prefix + "k")))


@pytest.mark.slow
def test_a_dead_network_is_told_while_the_server_still_has_the_key(
    pair: tuple[Served, Faces], veiled: Callable[[str], Veil], prefix: str
) -> None:
    """C07: nothing can be sent or received, and nothing says so."""
    server, connect = pair
    veil = veiled(server.endpoints)
    with Client(server.endpoints) as direct:
        times = Times(direct, prefix + "k")
        client = connect(veil.endpoint)
        lease = client.lease(2)
        client.put(prefix + "k", "v", lease=lease.id)
        lease.on_loss(times.note_loss)
        veil.black_hole()
        assert lease.lost.wait(60)
        assert not lease.alive
        times.check(lease.deadline)


@pytest.mark.slow
def test_an_outage_shorter_than_the_ttl_loses_nothing(
    pair: tuple[Served, Faces], veiled: Callable[[str], Veil], prefix: str
) -> None:
    """C06: half of the TTL without network, several times."""
    server, connect = pair
    veil = veiled(server.endpoints)
    client = connect(veil.endpoint)
    with client.lease(5) as lease:
        client.put(prefix + "k", "v", lease=lease.id)
        for _ in range(2):
            wait_until(lambda: lease.remaining > 4.2)
            veil.black_hole()
            stays_so(lambda: bool(lease.alive), 2.5)
            veil.network.heal()
        wait_until(lambda: lease.remaining > 4.2)
        assert client.get(prefix + "k").exists
        assert not lease.lost.is_set()


def _holds_over(fault: Callable[[Cluster], object], cluster: Cluster, connect: Faces) -> None:
    first = cluster.wait_leader()
    endpoints = ",".join(cluster.endpoints[first:] + cluster.endpoints[:first])
    client: Any = connect(endpoints)
    with client.lease(5) as lease:
        client.put("held", "v", lease=lease.id)
        fault(cluster)
        stays_so(lambda: bool(lease.alive), 5.5)
        assert client.get("held", timeout=20).exists
    wait_until(lambda: not client.get("held").exists)


@pytest.mark.slow
def test_a_killed_leader_costs_no_lease(cluster: Cluster, connect: Faces) -> None:
    """C06: the endpoint that was asked is the leader, and is gone."""
    _holds_over(lambda cluster: cluster.kill_leader(), cluster, connect)


@pytest.mark.slow
def test_a_paused_leader_costs_no_lease(cluster: Cluster, connect: Faces) -> None:
    """C06: it is stopped; its kernel goes on to acknowledge what is sent to it."""
    _holds_over(lambda cluster: cluster.pause(cluster.wait_leader()), cluster, connect)


def test_a_cancelled_task_leaves_its_context_and_no_lease(server: Served, prefix: str) -> None:
    """C09: cancelled in the middle of the block, and again while it cleans up."""

    async def scenario() -> None:
        async with aio.Client(server.endpoints) as client:
            entered = asyncio.Event()
            ids: list[int] = []

            async def hold() -> None:
                async with client.lease(60) as lease:
                    ids.append(lease.id)
                    await client.put(prefix + "k", "v", lease=lease.id)
                    entered.set()
                    await asyncio.sleep(60)

            task = asyncio.create_task(hold())
            await entered.wait()
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not (await client.get(prefix + "k")).exists
            assert not (await client.time_to_live(ids[0])).exists

    asyncio.run(scenario())


@pytest.mark.slow
def test_waiting_for_the_loss_in_a_loop_wakes(server: Served) -> None:
    """The event is set by the keeper's thread; the loop that waits for it is woken."""

    async def scenario() -> None:
        async with aio.Client(server.endpoints) as client:
            lease = await client.lease(2, keep_alive=False)
            assert not await lease.lost.wait(0.1)
            assert await lease.lost.wait(15)
            assert not lease.alive

    asyncio.run(scenario())
