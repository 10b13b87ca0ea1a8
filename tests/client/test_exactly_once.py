"""Writes that are repeated until they are answered, and carried out once."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from raftkv.client import sync
from raftkv.client.errors import (
    AlreadyApplied,
    ClientError,
    ExactlyOnceUnsupported,
    KeyNotFound,
    LeaseNotFound,
    OutcomeUnknown,
    PermissionDenied,
    SessionLost,
    TooManyRequests,
)
from raftkv.client.once import WINDOW, Sequences, Write
from raftkv.client.sync.sessions import OPEN
from raftkv.client.txn import Put, Txn
from raftkv.errors import Outcome
from raftkv.limits import MAX_KEPT_ANSWERS
from raftkv.pb import v1_pb2
from raftkv.testing import Cluster
from tests.client.conftest import Face, Served
from tests.client.gate import Gate


@pytest.fixture
def gate(raftkv_served: Served) -> Iterator[Gate]:
    """A gate to the raftkv node."""
    with Gate(raftkv_served.endpoints) as made:
        yield made


def _soon(function: Any) -> threading.Timer:
    timer = threading.Timer(0.3, function)
    timer.start()
    return timer


def _once(gate: Gate, done: Callable[[sync.Client], bool], then: Callable[[], None]) -> Any:
    """Beside the test: as soon as the server has carried something out. To be joined."""

    def wait() -> None:
        with sync.Client(gate.target) as other:
            while not done(other):
                time.sleep(0.01)
        then()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def _written_twice(key: str) -> Callable[[sync.Client], bool]:
    return lambda other: other.get(key).version == 2


def _cut_and_open(gate: Gate) -> None:
    gate.cut()
    gate.open()


# --- numbers ----------------------------------------------------------------------------
def test_the_window_is_the_servers() -> None:
    assert WINDOW == MAX_KEPT_ANSWERS


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 1000)), max_size=300))
def test_numbers_are_never_used_twice_and_stay_in_the_window(
    steps: list[tuple[bool, int]],
) -> None:
    sequences = Sequences(-5)
    under_way: list[Write] = []
    used: set[int] = set()
    for begins, choice in steps:
        if begins:
            write = sequences.begin()
            if write is None:
                assert max(used) - min(each.sequence for each in under_way) == WINDOW - 1
                continue
            assert write.sequence not in used
            used.add(write.sequence)
            under_way.append(write)
        elif under_way:
            sequences.end(under_way.pop(choice % len(under_way)))
        lowest = min((each.sequence for each in under_way), default=len(used) + 1)
        assert sequences.unanswered == lowest
        for each in under_way:
            told = dict(each.metadata())
            assert told["raftkv-session"] == "-5"
            assert 1 <= int(told["raftkv-unanswered"]) <= int(told["raftkv-sequence"])
            assert int(told["raftkv-sequence"]) - int(told["raftkv-unanswered"]) < WINDOW


# --- one server, bad connections ----------------------------------------------------------
def test_a_write_whose_answer_was_lost_is_repeated_and_carried_out_once(
    gate: Gate, face: Face, prefix: str
) -> None:
    """C01: the safe way to repeat."""

    async def scenario(client: Any) -> None:
        first = await client.put(prefix + "a", "1")
        gate.mute()
        timer = _once(gate, _written_twice(prefix + "a"), lambda: _cut_and_open(gate))
        second = await client.put(prefix + "a", "2", prev_kv=True)
        timer.join()
        assert second.previous.mod_revision == first.revision, "the first attempt's answer"
        assert second.revision == first.revision + 1
        assert (await client.get(prefix + "a")).version == 2

    face.run(scenario, gate.endpoint, exactly_once=True)


def test_without_sessions_the_same_write_ends_unknown(gate: Gate, face: Face, prefix: str) -> None:
    async def scenario(client: Any) -> None:
        await client.put(prefix + "a", "1")
        gate.mute()
        timer = _once(gate, _written_twice(prefix + "a"), lambda: _cut_and_open(gate))
        with pytest.raises(OutcomeUnknown):
            await client.put(prefix + "a", "2")
        timer.join()
        assert (await client.get(prefix + "a")).version == 2

    face.run(scenario, gate.endpoint)


def test_every_kind_of_write_is_carried_out_once_over_cut_connections(
    gate: Gate, raftkv_served: Served, prefix: str
) -> None:
    stop = threading.Event()

    def harass() -> None:
        while not stop.wait(0.05):
            gate.mute()
            stop.wait(0.01)
            _cut_and_open(gate)

    harasser = threading.Thread(target=harass)
    harasser.start()
    rounds = 20
    try:
        with sync.Client(
            f"{gate.endpoint},{raftkv_served.endpoints}", exactly_once=True, timeout=20.0
        ) as client:
            for number in range(rounds):
                client._connection.places.current = 0  # back into the storm
                client.put(prefix + "put", str(number))
                assert client.txn(Txn().then(Put(prefix + "txn")))
                lease = client.grant(60)
                client.put(prefix + "gone", "1", lease=lease)
                client.revoke(lease)
                assert client.put_with_ttl(prefix + "ttl", "1", 60).lease
                client.put(prefix + f"del/{number}", "1")
                assert client.delete(prefix + f"del/{number}").deleted == 1
    finally:
        stop.set()
        harasser.join()
    assert gate.connections > 5, "there was a storm"
    with sync.Client(raftkv_served.endpoints) as client:
        for name in ("put", "txn", "ttl"):
            assert client.get(prefix + name).version == rounds, name
        assert not client.get(prefix + "gone").exists


def test_an_error_is_an_answer_too(gate: Gate, face: Face, prefix: str) -> None:
    """A repetition is told what the write came to, even where it would come out otherwise now."""

    async def scenario(client: Any) -> None:
        calls: list[tuple[type[ClientError], Callable[[], Any]]] = [
            (LeaseNotFound, lambda: client.revoke(4242)),
            (LeaseNotFound, lambda: client.put(prefix + "a", "1", lease=4242)),
            (KeyNotFound, lambda: client.put(prefix + "none", "", ignore_value=True)),
        ]
        for kind, call in calls:
            gate.mute()
            timer = _soon(lambda: _cut_and_open(gate))
            with pytest.raises(kind) as caught:
                await call()
            assert caught.value.outcome is Outcome.DEFINITE
            timer.join()

    face.run(scenario, gate.endpoint, exactly_once=True)


def test_time_that_runs_out_leaves_the_outcome_unknown(gate: Gate, face: Face, prefix: str) -> None:
    async def scenario(client: Any) -> None:
        await client.put(prefix + "a", "1")
        gate.mute()
        started = time.monotonic()
        with pytest.raises(OutcomeUnknown):
            await client.put(prefix + "a", "2", timeout=1.0)
        assert time.monotonic() - started < 15.0, "less than a call without a timeout of its own"
        _cut_and_open(gate)
        await client.put(prefix + "b", "1")
        assert (await client.get(prefix + "a")).version == 2, "it was; and only once"

    face.run(scenario, gate.endpoint, exactly_once=True, timeout=30.0)


def test_a_lost_session_is_replaced_for_a_write_that_was_not_sent_before(
    raftkv_served: Served, face: Face, prefix: str
) -> None:
    async def scenario(client: Any) -> None:
        await client.put(prefix + "a", "1")
        for lease in await client.leases():
            with sync.Client(raftkv_served.endpoints) as other:
                other.revoke(lease)
        await client.put(prefix + "a", "2")
        assert (await client.get(prefix + "a")).version == 2

    face.run(scenario, raftkv_served.endpoints, exactly_once=True)


def test_a_lost_session_leaves_a_write_unknown_that_may_be_done(
    gate: Gate, raftkv_served: Served, face: Face, prefix: str
) -> None:
    def end_sessions() -> None:
        with sync.Client(raftkv_served.endpoints) as other:
            for lease in other.leases():
                other.revoke(lease)
        _cut_and_open(gate)

    async def scenario(client: Any) -> None:
        await client.put(prefix + "a", "1")
        gate.mute()
        timer = _once(gate, _written_twice(prefix + "a"), end_sessions)
        with pytest.raises(OutcomeUnknown) as caught:
            await client.put(prefix + "a", "2")
        assert isinstance(caught.value.reason, SessionLost)
        timer.join()
        await client.put(prefix + "a", "3")
        assert (await client.get(prefix + "a")).version == 3

    face.run(scenario, gate.endpoint, exactly_once=True)


def test_an_answer_too_large_to_keep_is_told_as_carried_out(
    gate: Gate, face: Face, prefix: str
) -> None:
    async def scenario(client: Any) -> None:
        last = await client.put(prefix + "a", b"x" * 100_000)
        gate.mute()

        def gone(other: sync.Client) -> bool:
            return not other.get(prefix + "a").exists

        timer = _once(gate, gone, lambda: _cut_and_open(gate))
        with pytest.raises(AlreadyApplied) as caught:
            await client.delete_prefix(prefix, prev_kv=True)
        timer.join()
        assert caught.value.revision == last.revision + 1
        assert caught.value.outcome is Outcome.UNKNOWN
        assert not (await client.get(prefix + "a")).exists

    face.run(scenario, gate.endpoint, exactly_once=True)


def test_many_writes_under_way_share_a_session(raftkv_served: Served, prefix: str) -> None:
    with sync.Client(raftkv_served.endpoints, exactly_once=True) as client:
        before = len(client.leases())

        def write() -> None:
            for _ in range(20):
                client.put(prefix + "a", "1")

        threads = [threading.Thread(target=write) for _ in range(80)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert client.get(prefix + "a").version == 1600
        assert len(client.leases()) == before + 1
    with sync.Client(raftkv_served.endpoints) as client:
        assert len(client.leases()) == before, "closing ends the session"


def test_a_server_without_sessions_is_refused_clearly(
    etcd_served: Served, face: Face, prefix: str
) -> None:
    async def scenario(client: Any) -> None:
        with pytest.raises(ExactlyOnceUnsupported) as caught:
            await client.put(prefix + "a", "1")
        assert "exactly_once" in str(caught.value)
        assert caught.value.outcome is Outcome.DEFINITE
        assert not (await client.get(prefix + "a")).exists

    face.run(scenario, etcd_served.endpoints, exactly_once=True)


class Failure(grpc.RpcError):  # type: ignore[misc]
    """What grpcio would raise."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__()
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        """See grpc."""
        return self._code

    def details(self) -> str:
        """See grpc."""
        return self._details


class Scripted:
    """A channel that opens a session and then answers as it was told."""

    def __init__(self, failures: list[Failure]) -> None:
        self._failures = failures

    def unary(self, path: str, *_: object) -> Message:
        """See runtime.Channel."""
        if path == OPEN:
            return v1_pb2.OpenSessionResponse(session=5, ttl=60)
        raise self._failures.pop(0)

    def close(self) -> None:
        """Nothing to do."""


BROKEN = Failure(grpc.StatusCode.UNAVAILABLE, "Socket closed")


@pytest.mark.parametrize(
    ("text", "code", "meaning"),
    [
        ("etcdserver: too many requests", grpc.StatusCode.RESOURCE_EXHAUSTED, TooManyRequests),
        ("etcdserver: permission denied", grpc.StatusCode.PERMISSION_DENIED, PermissionDenied),
    ],
)
def test_a_refusal_of_the_repetition_tells_nothing_about_the_first_attempt(
    text: str, code: grpc.StatusCode, meaning: type[ClientError]
) -> None:
    with sync.Client("127.0.0.1:1", exactly_once=True) as client:
        channel: Any = Scripted([BROKEN, Failure(code, text)])
        client._connection._channels[0] = channel
        with pytest.raises(OutcomeUnknown) as caught:
            client.put("a", "1")
        assert isinstance(caught.value.reason, meaning)
        channel._failures[:] = [Failure(code, text)]
        with pytest.raises(meaning) as refused:
            client.put("a", "1")
        assert refused.value.outcome is Outcome.DEFINITE
        gone = Failure(grpc.StatusCode.NOT_FOUND, "etcdserver: requested lease not found")
        channel._failures[:] = [BROKEN, gone]
        with pytest.raises(LeaseNotFound) as answered:
            client.put("a", "1")
        assert answered.value.outcome is Outcome.DEFINITE, "this is what the write came to"
        channel._failures[:] = [BROKEN] * 100
        client._connection._sessions = None  # closing need not end it


# --- a cluster whose leaders die ----------------------------------------------------------
@pytest.mark.slow
def test_each_write_is_carried_out_once_while_leaders_are_killed() -> None:
    """C01: with real kills; every write gets its answer, none is done twice."""
    writers, each = 4, 60
    with Cluster(3, processes=True) as cluster:
        errors: list[Exception] = []
        begun = threading.Barrier(writers + 1)

        def write(number: int) -> None:
            endpoints = cluster.endpoints[number % 3 :] + cluster.endpoints[: number % 3]
            with sync.Client(endpoints, exactly_once=True, timeout=20.0) as client:
                begun.wait()
                for _ in range(each):
                    try:
                        client.put(f"counted/{number}", "x")
                    except Exception as error:  # noqa: BLE001 - shown below
                        errors.append(error)
                    time.sleep(0.02)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
        for thread in threads:
            thread.start()
        begun.wait()
        for _ in range(2):
            time.sleep(0.4)
            killed = cluster.kill_leader()
            time.sleep(0.4)
            cluster.restart(killed)
        for thread in threads:
            thread.join()
        assert not errors
        with sync.Client(cluster.endpoint) as client:
            versions = [client.get(f"counted/{number}").version for number in range(writers)]
        assert versions == [each] * writers
