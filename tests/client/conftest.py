"""Servers to be clients of, and both faces of the library behind one way of calling them."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

import pytest

from raftkv.client import aio, sync
from tests import processes

_numbers: Final = itertools.count(1)

Scenario = Callable[[Any], Awaitable[object]]


@dataclass(frozen=True)
class Served:
    """A running server or cluster. kind: "raftkv" or "etcd"."""

    kind: str
    endpoints: str

    @property
    def is_etcd(self) -> bool:
        """Whether it is the original."""
        return self.kind == "etcd"


@pytest.fixture(scope="session")
def raftkv_served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One raftkv node for all tests."""
    with processes.raftkv(tmp_path_factory.mktemp("raftkv")) as cluster:
        yield Served("raftkv", cluster.endpoints)


@pytest.fixture(scope="session")
def etcd_served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One etcd for all tests."""
    with processes.etcd(tmp_path_factory.mktemp("etcd"), "--unsafe-no-fsync") as cluster:
        yield Served("etcd", cluster.endpoints)


@pytest.fixture(params=["raftkv", "etcd"])
def server(request: pytest.FixtureRequest) -> Served:
    """Each kind of server in turn. Tests share it: keep to `prefix`."""
    served: Served = request.getfixturevalue(f"{request.param}_served")
    return served


@pytest.fixture
def prefix() -> str:
    """What this test's keys begin with."""
    return f"test-{next(_numbers)}/"


class Face(Protocol):
    """One of the two faces, to be driven by a scenario: an `async def` that takes a client."""

    def run(self, scenario: Scenario, endpoints: str, **options: Any) -> None:
        """Runs a scenario with a client that is closed afterwards."""


class AioFace:
    """raftkv.client.aio, in an event loop of its own."""

    def run(self, scenario: Scenario, endpoints: str, **options: Any) -> None:
        """See Face."""

        async def whole() -> None:
            async with aio.Client(endpoints, **options) as client:
                await scenario(client)

        asyncio.run(whole())


class SyncFace:
    """raftkv.client, whose methods the scenario can await all the same."""

    def run(self, scenario: Scenario, endpoints: str, **options: Any) -> None:
        """See Face."""
        with sync.Client(endpoints, **options) as client:
            asyncio.run(_whole(scenario, Awaited(client)))


async def _whole(scenario: Scenario, client: "Awaited") -> None:
    await scenario(client)


class Awaited:
    """Gives a synchronous object's methods as coroutines; iterators as asynchronous ones."""

    def __init__(self, wrapped: Any) -> None:
        self._wrapped = wrapped

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._wrapped, name)
        if not callable(attribute):
            return attribute
        if name == "iterate":
            return lambda *args, **options: _each(attribute(*args, **options))

        async def call(*args: Any, **options: Any) -> Any:
            return attribute(*args, **options)

        return call


async def _each(items: Iterator[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item


@pytest.fixture(params=[AioFace, SyncFace], ids=["aio", "sync"])
def face(request: pytest.FixtureRequest) -> Face:
    """Each face in turn."""
    made: Face = request.param()
    return made
