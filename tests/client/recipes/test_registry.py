"""ServiceRegistry: health, crashes, replacement, lost leases; the layout of etcd's Go package."""

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from raftkv.client import BadRequest, Put, Txn, aio
from raftkv.client.naming import Instance, Replaced, instances
from raftkv.client.results import KeyValue
from raftkv.client.sync import Client
from tests.client.conftest import Served
from tests.client.faces import Faces
from tests.client.gate import Gate
from tests.client.recipes.contention import Beside, lose_answers, wait_until


def addresses(found: tuple[Instance, ...]) -> list[str]:
    return [one.address for one in found]


def test_instances_are_found_while_they_are_registered(
    server: Served, connect: Faces, prefix: str
) -> None:
    client = connect(server.endpoints)
    registry = client.registry(prefix + "s", ttl=5)
    assert registry.discover("web") == ()
    with registry.register("web", "b", "10.0.0.2:80", metadata={"zone": "é", "weight": [1, 2.5]}):
        with registry.register("web", "a", "10.0.0.1:80") as first:
            assert first.is_registered
            found = registry.discover("web")
            assert [(one.name, one.address) for one in found] == [
                ("a", "10.0.0.1:80"),
                ("b", "10.0.0.2:80"),
            ]
            assert found[1].metadata == {"zone": "é", "weight": [1, 2.5]}
            assert registry.discover("web2") == registry.discover("we") == ()
            assert client.txn(first.guard(Txn()).then(Put(prefix + "x", "1"))).succeeded
        assert not first.is_registered
        assert not client.txn(first.guard(Txn()).then(Put(prefix + "x", "late"))).succeeded
        assert addresses(registry.discover("web")) == ["10.0.0.2:80"]
    assert client.count(prefix + "s") == 0


def test_the_layout_is_that_of_the_go_package(server: Served, prefix: str) -> None:
    with Client(server.endpoints) as client:
        registry = client.registry(prefix + "s")
        with registry.register("web", "a", "1.2.3.4:5", metadata="m"):
            stored = client.get(prefix + "s/web/a").value
            assert stored is not None
            assert json.loads(stored) == {"Op": 0, "Addr": "1.2.3.4:5", "Metadata": "m"}
        client.put(prefix + "s/web/go", '{"Op":0,"Addr":"5.6.7.8:9","Metadata":null}')
        assert addresses(registry.discover("web")) == ["5.6.7.8:9"]


@pytest.mark.parametrize(
    "value",
    [b"", b"\xff", b"[]", b"{}", b'{"Addr":5}', b'{"Op":1,"Addr":"a"}', b'"text"', b"nul"],
)
def test_what_is_no_instance_is_left_out(value: bytes) -> None:
    good = KeyValue(b"s/web/a", b'{"Op":0,"Addr":"x"}', 1, 1, 1, 0)
    bad = KeyValue(b"s/web/b", value, 1, 1, 1, 0)
    worse = KeyValue(b"s/web/\xff", good.value, 1, 1, 1, 0)
    assert [one.name for one in instances(b"s/web/", [bad, good, worse])] == ["a"]


def test_bad_input_is_refused_before_anything_is_written(server: Served, prefix: str) -> None:
    with Client(server.endpoints) as client:
        registry = client.registry(prefix + "s")
        unsayable: Any = {"x": object()}
        wrong: list[Callable[[], object]] = [
            lambda: registry.register("web", "", "a"),
            lambda: registry.register("", "a", "a"),
            lambda: registry.register("web", "a", "a", metadata=unsayable),
            lambda: registry.register("web", "a", "a", metadata=float("nan")),
            lambda: registry.register("web", "a", "a", interval=10),
        ]
        for bad in wrong:
            with pytest.raises(BadRequest):
                bad()
        assert client.count(prefix) == 0


def test_an_instance_that_is_not_well_is_not_found(server: Served, prefix: str) -> None:
    well: list[object] = [False]

    def health() -> bool:
        answer = well[-1]
        if isinstance(answer, Exception):
            raise answer
        return bool(answer)

    with Client(server.endpoints) as client:
        registry = client.registry(prefix + "s", ttl=5)
        with registry.register("web", "a", "x", health=health, interval=0.05) as registration:
            assert registry.discover("web") == ()
            assert not registration.is_registered
            for state, count in ((True, 1), (False, 0), (True, 1), (ZeroDivisionError(), 0)):
                well.append(state)
                wait_until(lambda: len(registry.discover("web")) == count)  # noqa: B023
        assert registration.error is None


def test_health_is_awaited_in_the_asynchronous_face(server: Served, prefix: str) -> None:
    import asyncio

    async def scenario() -> None:
        asked = asyncio.Event()

        async def health() -> bool:
            await asyncio.sleep(0)
            asked.set()
            return True

        async with aio.Client(server.endpoints) as client:
            registry = client.registry(prefix + "s", ttl=5)
            async with registry.register("web", "a", "x", health=health, interval=0.05):
                assert len(await registry.discover("web")) == 1
                asked.clear()
                await asyncio.wait_for(asked.wait(), 10)
            assert await registry.discover("web") == ()

    asyncio.run(scenario())


@pytest.mark.slow
def test_a_health_function_that_hangs_keeps_no_registration(server: Served, prefix: str) -> None:
    """C05: the lease is renewed by its answers and by nothing else."""
    hang = threading.Event()
    calls: list[int] = []

    def health() -> bool:
        calls.append(1)
        if len(calls) > 1:
            hang.wait(30)
        return True

    with Client(server.endpoints) as client:
        registry = client.registry(prefix + "s", ttl=2)
        registration = registry.register("web", "a", "x", health=health, interval=0.1)
        assert len(registry.discover("web")) == 1
        wait_until(lambda: registry.discover("web") == ())
        assert not registration.is_registered
        hang.set()
        wait_until(lambda: len(registry.discover("web")) == 1)
        registration.close()
        assert registry.discover("web") == ()


def test_a_registration_outlives_its_lease_and_a_deletion_by_hand(
    server: Served, connect: Faces, prefix: str
) -> None:
    with Client(server.endpoints) as other:
        registry = other.registry(prefix + "s")
        mine = connect(server.endpoints).registry(prefix + "s", ttl=5)
        with mine.register("web", "a", "x", interval=0.05) as registration:
            other.revoke(registry.discover("web")[0].lease)
            wait_until(lambda: len(registry.discover("web")) == 1)
            other.delete(prefix + "s/web/a")
            wait_until(lambda: len(registry.discover("web")) == 1)
            assert registration.is_registered
        assert registry.discover("web") == ()


def test_the_younger_of_two_registrations_stays(
    server: Served, connect: Faces, prefix: str
) -> None:
    """As after a crash and a start, before the old lease has ended."""
    with Client(server.endpoints) as other:
        registry = other.registry(prefix + "s", ttl=5)
        mine = connect(server.endpoints).registry(prefix + "s", ttl=5)
        older = mine.register("web", "a", "old", interval=0.05)
        with registry.register("web", "a", "new", interval=0.05) as younger:
            wait_until(lambda: older.error is not None)
            assert type(older.error).__name__ == Replaced.__name__
            assert not older.is_registered
            older.close()
            assert addresses(registry.discover("web")) == ["new"]
            assert younger.error is None
        assert registry.discover("web") == ()


@pytest.mark.slow
def test_a_dead_instance_goes_with_its_lease(server: Served, prefix: str) -> None:
    with Client(server.endpoints) as client:
        dying = Client(server.endpoints)
        dying.registry(prefix + "s", ttl=2).register("web", "a", "x")
        dying.close()  # nothing is revoked: as if the process had ended
        with client.registry(prefix + "s").watch("web") as found:
            assert addresses(found.value) == ["x"]
            wait_until(lambda: found.value == ())


@pytest.mark.slow
def test_it_is_back_after_an_outage_longer_than_its_lease(
    server: Served, connect: Faces, prefix: str
) -> None:
    with Client(server.endpoints) as other, Gate(server.endpoints) as gate:
        registry = other.registry(prefix + "s")
        client = connect(gate.endpoint, keepalive_time=0.3, keepalive_timeout=0.3, timeout=0.5)
        with client.registry(prefix + "s", ttl=1).register(
            "web", "a", "x", interval=0.1
        ) as registration:
            gate.silence()
            gate.cut()
            wait_until(lambda: registry.discover("web") == ())
            assert not registration.is_registered
            gate.open()
            wait_until(lambda: len(registry.discover("web")) == 1)
        assert registration.error is None
        assert registry.discover("web") == ()


@pytest.mark.parametrize("carry_out", [True, False])
def test_a_lost_answer_to_a_registration_is_found_out(
    server: Served, connect: Faces, prefix: str, carry_out: bool
) -> None:
    """C02"""
    client = connect(server.endpoints)
    registry = client.registry(prefix + "s")
    lose_answers(client, carry_out=carry_out)
    with registry.register("web", "a", "x") as registration:
        assert addresses(registry.discover("web")) == ["x"]
        assert registration.is_registered
    assert registry.discover("web") == ()


def test_a_view_hands_out_everybody_each_time(server: Served, connect: Faces, prefix: str) -> None:
    registry = connect(server.endpoints).registry(prefix + "s")
    with Client(server.endpoints) as other, registry.watch("web") as found:
        assert found.next(5) == ()
        with other.registry(prefix + "s").register("web", "a", "x"):
            assert addresses(found.next(10)) == ["x"]
            waiting = Beside(lambda: found.next(10))
        assert waiting.result() == ()


def test_a_registration_whose_thread_fails_says_so(raftkv_served: Served, prefix: str) -> None:
    """And takes the instance away: nobody would ask for its health any more."""
    with Client(raftkv_served.endpoints) as client:
        registry = client.registry(prefix + "s", ttl=60)
        with registry.register("web", "a", "1.2.3.4:5", interval=0.05) as registration:
            client.get = _no_more_threads  # type: ignore[method-assign]
            wait_until(lambda: registration.error is not None)
            assert "no more threads" in str(registration.error)
            wait_until(lambda: not registration.is_registered)
            del client.get
            wait_until(lambda: not client.count(prefix))


def _no_more_threads(*args: object, **options: object) -> Any:
    raise RuntimeError("no more threads")
