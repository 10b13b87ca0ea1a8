"""Endpoints that fail: they are left within a bounded time, and no write is made twice."""

import asyncio
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from raftkv.client import aio, sync
from raftkv.client.errors import (
    ClientClosed,
    ClusterChanged,
    NotConnected,
    OutcomeUnknown,
    TimedOut,
    WrongLoop,
)
from raftkv.errors import Outcome
from raftkv.pb import rpc_pb2
from tests import processes
from tests.client.conftest import Face, Served
from tests.client.gate import Gate
from tests.processes import free_ports

CALL_SECONDS = 60.0
FAILOVER_SECONDS = 20.0  # C10's two seconds on a machine that is not busy; less than a call has


@pytest.fixture
def gate(raftkv_served: Served) -> Iterator[Gate]:
    """A gate to the raftkv node."""
    with Gate(raftkv_served.endpoints) as made:
        yield made


def _nobody() -> str:
    return f"127.0.0.1:{free_ports(1)[0]}"


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """So far."""
        return time.monotonic() - self._started


# --- endpoints that are down --------------------------------------------------------------
def test_a_dead_endpoint_is_passed_over_at_once(server: Served, face: Face, prefix: str) -> None:
    """C10: endpoint down."""

    async def scenario(client: Any) -> None:
        watch = Stopwatch()
        put = await client.put(prefix + "a", "1")
        assert (await client.get(prefix + "a")).mod_revision == put.revision
        assert watch.seconds < FAILOVER_SECONDS
        assert client._connection.places.current == 2
        for _ in range(20):
            await client.put(prefix + "a", "1")
        assert watch.seconds < FAILOVER_SECONDS, "the working endpoint is kept"

    endpoints = f"{_nobody()},{_nobody()},{server.endpoints}"
    face.run(scenario, endpoints, timeout=CALL_SECONDS, dial_timeout=30.0)


def test_a_black_hole_is_left_at_connect_time(
    raftkv_served: Served, gate: Gate, face: Face, prefix: str
) -> None:
    """C10: a host that accepts and says nothing; a write is not sent, so it goes on elsewhere."""
    gate.silence()

    async def scenario(client: Any) -> None:
        watch = Stopwatch()
        await client.put(prefix + "a", "1")
        assert watch.seconds < 1.0 + FAILOVER_SECONDS
        assert client._connection.places.current == 1
        assert (await client.get(prefix + "a")).text == "1"

    endpoints = f"{gate.endpoint},{raftkv_served.endpoints}"
    face.run(scenario, endpoints, dial_timeout=1.0, timeout=CALL_SECONDS)


def test_a_read_leaves_a_connection_that_fell_silent(
    raftkv_served: Served, gate: Gate, face: Face, prefix: str
) -> None:
    """C10: a black hole (no RST) under an open connection."""

    async def scenario(client: Any) -> None:
        await client.put(prefix + "a", "1")
        gate.silence()
        watch = Stopwatch()
        assert (await client.get(prefix + "a")).text == "1"
        assert watch.seconds < FAILOVER_SECONDS
        assert client._connection.places.current == 1
        await client.put(prefix + "a", "2")  # into silence it would be unknown

    face.run(scenario, f"{gate.endpoint},{raftkv_served.endpoints}", timeout=CALL_SECONDS)


def test_a_write_into_silence_is_unknown_and_the_next_goes_elsewhere(
    raftkv_served: Served, gate: Gate, face: Face, prefix: str
) -> None:
    """C01, C10: it is not repeated; the endpoint is left all the same."""

    async def scenario(client: Any) -> None:
        await client.put(prefix + "a", "1")
        gate.silence()
        watch = Stopwatch()
        with pytest.raises(OutcomeUnknown) as caught:
            await client.put(prefix + "a", "2", timeout=1.0)
        assert caught.value.outcome is Outcome.UNKNOWN
        assert caught.value.endpoint == gate.endpoint
        assert 0.9 < watch.seconds < FAILOVER_SECONDS
        assert client._connection.places.current == 1
        await client.put(prefix + "b", "1")  # into silence it would be unknown

    face.run(scenario, f"{gate.endpoint},{raftkv_served.endpoints}")
    gate.open()


def test_a_probe_closes_a_silent_connection(server: Served, face: Face, prefix: str) -> None:
    """C10: a write with a long deadline does not hang until then: pings find the black hole."""

    async def scenario(client: Any) -> None:
        await client.put(prefix + "a", "1")
        hole.silence()
        watch = Stopwatch()
        with pytest.raises(OutcomeUnknown):
            await client.put(prefix + "a", "2", timeout=30.0)
        assert watch.seconds < 15.0

    with Gate(server.endpoints) as hole:
        options = {"keepalive_time": 1.0, "keepalive_timeout": 1.0}
        face.run(scenario, hole.endpoint, **options)


def test_a_broken_connection_makes_a_write_unknown_and_a_read_go_on(
    raftkv_served: Served, gate: Gate, face: Face, prefix: str
) -> None:
    """C01: the connection broke with the request under way."""

    async def scenario(client: Any) -> None:
        await client.put(prefix + "a", "1")
        gate.silence()
        timer = threading.Timer(0.3, gate.cut)
        timer.start()
        watch = Stopwatch()
        with pytest.raises(OutcomeUnknown) as caught:
            await client.put(prefix + "a", "2")
        assert "check before you repeat it" in str(caught.value)
        assert watch.seconds < 15.0
        timer.join()
        gate.open()
        assert (await client.get(prefix + "a")).exists

    face.run(scenario, gate.endpoint, timeout=30.0, keepalive_time=30.0)


def test_a_read_survives_a_server_that_comes_back(
    raftkv_served: Served, gate: Gate, face: Face, prefix: str
) -> None:
    async def scenario(client: Any) -> None:
        await client.put(prefix + "a", "1")
        target, gate.target = gate.target, _nobody()
        gate.cut()
        timer = threading.Timer(0.7, lambda: setattr(gate, "target", target))
        timer.start()
        watch = Stopwatch()
        assert (await client.get(prefix + "a")).text == "1"
        assert watch.seconds < FAILOVER_SECONDS
        timer.join()

    face.run(scenario, gate.endpoint, timeout=CALL_SECONDS)


def test_half_the_endpoints_dead_costs_no_call_its_answer(
    raftkv_served: Served, face: Face, prefix: str
) -> None:
    async def scenario(client: Any) -> None:
        for number in range(50):
            await client.put(prefix + str(number), "1")
        assert await client.count(prefix) == 50

    alive = raftkv_served.endpoints
    with Gate(alive) as other:
        face.run(scenario, f"{_nobody()},{alive},{_nobody()},{other.endpoint}")


# --- clusters that change under the client --------------------------------------------------
def test_another_cluster_behind_an_endpoint_is_told_once(
    raftkv_served: Served, etcd_served: Served, gate: Gate, face: Face, prefix: str
) -> None:
    """C15: an answer of another cluster is an error, not a value."""

    async def scenario(client: Any) -> None:
        await client.put(prefix + "a", "1")
        gate.target = etcd_served.endpoints
        gate.cut()
        with pytest.raises(ClusterChanged) as caught:
            await client.get(prefix + "a")
        assert caught.value.outcome is Outcome.DEFINITE
        assert not (await client.get(prefix + "a")).exists, "from now on it is this cluster"
        gate.target = raftkv_served.endpoints
        gate.cut()
        with pytest.raises((ClusterChanged, OutcomeUnknown)) as either:
            await client.delete(prefix + "a")
        if isinstance(either.value, OutcomeUnknown):  # the cut came only now
            with pytest.raises(ClusterChanged) as either:
                await client.delete(prefix + "a")
        assert either.value.outcome is Outcome.UNKNOWN, "it was carried out there"

    face.run(scenario, gate.endpoint)


# --- the end of a client ------------------------------------------------------------------
def test_a_closed_client_says_so(raftkv_served: Served, face: Face) -> None:
    async def scenario(client: Any) -> None:
        await client.get("a")
        await client.close()
        with pytest.raises(ClientClosed):
            await client.get("a")
        with pytest.raises(ClientClosed):
            await client.put("a", "1")
        await client.close()

    face.run(scenario, raftkv_served.endpoints)


def test_closing_ends_the_calls_that_wait(gate: Gate) -> None:
    met: list[BaseException] = []
    client = sync.Client(gate.endpoint, timeout=60.0, keepalive_time=60.0)
    client.put("a", "1")
    gate.silence()

    def wait() -> None:
        try:
            client.put("a", "2")
        except ClientClosed as error:
            met.append(error)
        except OutcomeUnknown as error:
            met.append(error.reason)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.2)
    watch = Stopwatch()
    client.close()
    thread.join(60.0)
    assert watch.seconds < 15.0
    assert [type(error) for error in met] == [ClientClosed]


def test_closing_an_asynchronous_client_cancels_no_task_that_waits_for_it(gate: Gate) -> None:
    """C14: a call ends with an error that says what happened; only its caller cancels a task."""

    async def scenario() -> None:
        client = aio.Client(gate.endpoint)
        await client.put("a", "1")
        gate.silence()
        calls = [client.get("a"), client.put("a", "2"), client.get("a")]
        tasks = [asyncio.ensure_future(call) for call in calls]
        await asyncio.wait(tasks, timeout=0.2)
        tasks[2].cancel()
        await client.close()
        await asyncio.wait(tasks)
        assert isinstance(tasks[0].exception(), ClientClosed)
        unknown = tasks[1].exception()
        assert isinstance(unknown, OutcomeUnknown)
        assert isinstance(unknown.reason, ClientClosed)
        assert tasks[2].cancelled()

    asyncio.run(scenario())


def test_a_cancelled_call_leaves_the_client_usable(gate: Gate, prefix: str) -> None:
    """C14: the caller gives up in mid-flight."""

    async def scenario() -> None:
        async with aio.Client(gate.endpoint) as client:
            await client.put(prefix + "a", "1")
            gate.silence()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await client.put(prefix + "a", "2")
            gate.open()
            assert (await client.get(prefix + "a")).exists

    asyncio.run(scenario())


def test_many_cancelled_calls_leave_nothing(raftkv_served: Served, prefix: str) -> None:
    """C14: given up at every moment of a call."""

    async def scenario() -> None:
        async with aio.Client(raftkv_served.endpoints) as client:
            await client.put(prefix + "a", "1")
            before = len(asyncio.all_tasks())
            for number in range(500):
                task = asyncio.ensure_future(client.put(prefix + "a", "2"))
                for _ in range(number % 20):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
            await client.get(prefix + "a")
            while len(asyncio.all_tasks()) > before:  # until the last ones have noticed
                await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(scenario(), 60.0))


def test_threads_may_share_a_client_from_its_first_call_on(
    raftkv_served: Served, prefix: str
) -> None:
    for _ in range(5):
        with sync.Client(raftkv_served.endpoints) as client:
            begun = threading.Barrier(16)
            errors: list[Exception] = []

            def use(
                client: sync.Client = client,
                begun: threading.Barrier = begun,
                errors: list[Exception] = errors,
            ) -> None:
                begun.wait()
                try:
                    client.put(prefix + "a", "1")
                except Exception as error:  # noqa: BLE001 - shown below
                    errors.append(error)

            threads = [threading.Thread(target=use) for _ in range(16)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert not errors
            assert len(client._connection._channels) == 1


def test_an_asynchronous_client_belongs_to_one_loop(raftkv_served: Served) -> None:
    client = aio.Client(raftkv_served.endpoints)

    async def use() -> None:
        await client.get("a")

    asyncio.run(use())
    with pytest.raises(WrongLoop):
        asyncio.run(use())
    asyncio.run(client.close())


def _new_threads(before: set[threading.Thread]) -> list[str]:
    return [each.name for each in threading.enumerate() if each not in before]


def test_clients_leave_no_thread_behind(raftkv_served: Served) -> None:
    before = set(threading.enumerate())
    for _ in range(50):
        with sync.Client(f"{_nobody()},{raftkv_served.endpoints}") as client:
            client.get("a")
            with client.lease(5):
                client.get("a")
    deadline = time.monotonic() + CALL_SECONDS
    while _new_threads(before) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _new_threads(before)


def test_asynchronous_clients_leave_no_task_behind(raftkv_served: Served) -> None:
    async def scenario() -> None:
        for _ in range(20):
            async with aio.Client(raftkv_served.endpoints) as client:
                await client.get("a")
                async with client.lease(5):
                    await client.get("a")
        left = [each for each in asyncio.all_tasks() if each is not asyncio.current_task()]
        names = [each.get_coro().__qualname__ for each in left]  # type: ignore[union-attr]
        assert not [name for name in names if "raftkv" in name]
        await asyncio.sleep(0)

    asyncio.run(scenario())


# --- what is handed through to grpcio ---------------------------------------------------
class Counter(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """Counts the calls it sees."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        """See grpc."""
        self.seen.append(details.method)
        return continuation(details, request)


class AioCounter(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """Counts the calls it sees."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        """See grpc."""
        method = details.method
        self.seen.append(method if isinstance(method, str) else method.decode())
        return await continuation(details, request)


def test_interceptors_see_every_call(raftkv_served: Served) -> None:
    counter, twin = Counter(), AioCounter()
    with sync.Client(raftkv_served.endpoints, interceptors=[counter]) as client:
        client.get("a")

    async def scenario() -> None:
        async with aio.Client(raftkv_served.endpoints, interceptors=[twin]) as client:
            await client.get("a")

    asyncio.run(scenario())
    assert counter.seen == twin.seen == ["/etcdserverpb.KV/Range"]


def test_channel_options_are_handed_through(raftkv_served: Served, prefix: str) -> None:
    options = [("grpc.max_receive_message_length", 100)]
    with sync.Client(raftkv_served.endpoints, channel_options=options) as client:
        client.put(prefix + "a", b"x" * 1000)
        with pytest.raises(Exception, match="larger than max"):
            client.get(prefix + "a")


def test_nobody_there_is_one_clear_error_in_time(face: Face) -> None:
    first, second = _nobody(), _nobody()

    async def scenario(client: Any) -> None:
        for call in (client.get("a"), client.put("a", "1")):
            watch = Stopwatch()
            with pytest.raises(NotConnected) as caught:
                await call
            assert watch.seconds < FAILOVER_SECONDS
            assert caught.value.outcome is Outcome.DEFINITE
            assert f"{first}: connection refused" in caught.value.text
            assert f"{second}: connection refused" in caught.value.text

    async def hurried(client: Any) -> None:
        watch = Stopwatch()
        with pytest.raises((NotConnected, TimedOut)):
            await client.get("a", timeout=0.3)
        assert watch.seconds < 15.0

    face.run(scenario, f"{first},{second}", dial_timeout=0.5, timeout=CALL_SECONDS)
    face.run(hurried, f"{first},{second}", dial_timeout=30.0, timeout=60.0)


# --- restored clusters --------------------------------------------------------------------
@pytest.mark.slow
def test_a_store_restored_to_an_older_state_is_told(
    tmp_path: Path, face: Face, prefix: str
) -> None:
    """C15: the same cluster id, a lower revision: a copy of the data from before."""
    first = processes.etcd(tmp_path / "first")
    with first, sync.Client(first.endpoints) as client:
        for _ in range(5):
            client.put(prefix + "a", "old")
        server = first.servers[0]
        server.stop()
        shutil.copytree(tmp_path / "first" / "etcd1", tmp_path / "copy")
        server.start()
        server.wait_ready()

        async def scenario(client: Any) -> None:
            for _ in range(20):
                last = await client.put(prefix + "a", "new")
            server.stop()
            shutil.rmtree(tmp_path / "first" / "etcd1")
            shutil.copytree(tmp_path / "copy", tmp_path / "first" / "etcd1")
            server.start()
            with pytest.raises(ClusterChanged) as caught:
                await client.get(prefix + "a", timeout=20.0)
            assert str(last.revision) in caught.value.text
            got = await client.get(prefix + "a")
            assert got.text == "old", "told once; from now on it is this state"
            assert got.revision < last.revision

        face.run(scenario, first.endpoints, dial_timeout=20.0)


def test_a_lagging_member_is_no_older_cluster(raftkv_served: Served) -> None:
    """Only linearizable answers are compared, with what was known when they were asked for."""
    with sync.Client(raftkv_served.endpoints) as client:
        connection = client._connection
        client.get("a")
        known = connection.cluster_id
        header = rpc_pb2.ResponseHeader(cluster_id=known, revision=5)
        connection.revision = 9
        connection.note(header, 9, linearizable=False)
        connection.note(header, 4, linearizable=True)
        assert connection.revision == 9
        with pytest.raises(ClusterChanged):
            connection.note(header, 9, linearizable=True)
        assert connection.revision == 5
        connection.note(header, 5, linearizable=True)


# --- names ----------------------------------------------------------------------------------
class NameServer:
    """Answers every question for an IPv4 address with `address`, and any other with nothing."""

    def __init__(self) -> None:
        self.address = "127.0.0.1"
        self.asked = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.endpoint = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            question, client = self._socket.recvfrom(2048)
            if question == b"end":
                return
            end = question.index(b"\0", 12) + 5
            is_address = question[end - 4 : end - 2] == b"\0\1"
            self.asked += is_address
            counts = b"\0\1" + (b"\0\1" if is_address else b"\0\0") + b"\0\0\0\0"
            answer = question[:2] + b"\x81\x80" + counts + question[12:end]
            if is_address:
                answer += b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(self.address)
            self._socket.sendto(answer, client)

    def close(self) -> None:
        """Ends it."""
        self._socket.sendto(b"end", self._socket.getsockname())
        self._thread.join(5.0)
        self._socket.close()


def test_names_are_looked_up_again_at_each_attempt(
    raftkv_served: Served, face: Face, prefix: str
) -> None:
    """A server that moved to another address is found without a new client."""
    names = NameServer()
    first = Gate(raftkv_served.endpoints, "127.0.0.2")
    port = int(first.endpoint.rpartition(":")[2])
    names.address = "127.0.0.2"

    async def scenario(client: Any) -> None:
        await client.put(prefix + "a", "1")
        first.close()
        names.address = "127.0.0.3"
        with Gate(raftkv_served.endpoints, "127.0.0.3", port) as second:
            started = time.monotonic()
            assert (await client.get(prefix + "a")).text == "1"
            assert time.monotonic() - started < FAILOVER_SECONDS
            assert second.connections == 1

    try:
        face.run(scenario, f"dns://{names.endpoint}/kv.test:{port}", timeout=CALL_SECONDS)
    finally:
        first.close()
        names.close()
    assert names.asked >= 2
