"""The rows of client libraries: what a worker does, and what is made of its answers."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from bench import foreign
from bench.clients import CLIENT_ROWS, HISTORY_PREFIX, LIBRARIES, Worker, round_of
from bench.generator import LoadFailed
from bench.report import findings, text
from bench.rows import Sample
from bench.targets import Verdict
from raftkv.client import Client
from tests import processes

UNARY = {"kind": "put", "seconds": 0.3, "keys": 2, "value_bytes": 10}


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with processes.raftkv(tmp_path_factory.mktemp("libraries")) as cluster:
        yield cluster.servers[0].endpoint


@pytest.fixture
def python(library: str, request: pytest.FixtureRequest) -> Path:
    """An interpreter that has the library."""
    if library not in foreign.REQUIREMENTS:
        return Path(sys.executable)
    cache = request.config.cache
    assert cache is not None
    try:
        return foreign.environment(library, cache.mkdir("foreign-clients"))
    except foreign.ForeignClientMissing as error:
        pytest.skip(f"pip cannot install other people's clients here: {error}")


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("library", LIBRARIES)
def test_every_library_does_what_it_is_told(library: str, python: Path, endpoint: str) -> None:
    with Client(endpoint) as client:
        worker = Worker(library, python, endpoint)
        try:
            worker.run(UNARY)  # the first one connects
            before = client.get("bench/k/000001").version
            done = worker.run(UNARY)
            assert done["operations"] >= 2
            assert done["seconds"] >= 0.3
            assert 0 < done["p50_seconds"] < done["seconds"]
            assert client.get("bench/k/000001").version > before
            put = client.get("bench/k/000001").version
            worker.run(UNARY | {"kind": "get"})
            assert client.get("bench/k/000001").version == put
            worker.run(UNARY | {"kind": "txn"})
            assert client.get("bench/k/000001").version > put
            revision = client.get("bench/k/000001").revision
            assert client.count("bench/k/") == 2
            watched = worker.run(
                {"kind": "watch", "prefix": HISTORY_PREFIX, "revision": 2, "events": 4}
            )
            assert watched["operations"] == 4
            assert client.get("bench/k/000001").revision == revision, "a watch writes nothing"
        finally:
            worker.close()


@pytest.mark.slow
def test_a_worker_without_a_server_fails_the_row() -> None:
    port = processes.consecutive_free_ports(1)
    worker = Worker("stub", Path(sys.executable), f"127.0.0.1:{port}")
    try:
        with pytest.raises(LoadFailed, match="stub"):
            worker.run(UNARY)
    finally:
        worker.close()


class ScriptedWorker:
    """Answers from a list."""

    def __init__(self, library: str, seconds: list[float]) -> None:
        self.name = library
        self._seconds = iter(seconds)

    def run(self, order: object) -> dict[str, float]:
        wall = next(self._seconds)
        return {
            "operations": 100,
            "seconds": wall,
            "cpu_seconds": wall / 2,
            "p50_seconds": wall / 100,
        }


def test_a_round_is_each_librarys_best_slice_and_what_it_adds_to_the_stub() -> None:
    workers = [ScriptedWorker("stub", [1.0, 0.2]), ScriptedWorker("client", [0.25, 4.0])]
    taken = round_of(cast("list[Worker]", workers), {"kind": "put"}, 2, 1)
    assert taken["stub"].metrics["rate"] == pytest.approx(500)
    assert taken["client"].metrics["rate"] == pytest.approx(400)
    assert taken["client"].metrics["added_us"] == pytest.approx(500)
    assert taken["client"].metrics["added_cpu_us"] == pytest.approx(250)
    assert "added_us" not in taken["stub"].metrics


def test_libraries_are_judged_beside_each_other_whatever_the_systems_are() -> None:
    results = {
        "client-put": {
            "stub": [Sample({"rate": 2000.0, "p50_ms": 0.5})],
            "client": [Sample({"rate": 1500.0, "p50_ms": 0.6, "added_us": 49.0})],
            "etcd3": [Sample({"rate": 1600.0, "p50_ms": 0.6})],
        }
    }
    found = {
        (one.target.metric, one.target.label): one.verdict
        for one in findings(results, "raftkv", "raftkv-2")
    }
    assert found == {
        ("rate", "client"): Verdict.NOT_MET,
        ("rate", "client.aio"): Verdict.NOT_MEASURED,
        ("added_us", "client"): Verdict.MET,
    }
    printed = text(results, "raftkv", "etcd", {})
    assert "client/etcd3" in printed
    assert "raftkv/etcd" not in printed


def test_every_row_of_libraries_says_what_is_compared() -> None:
    assert all(row.pairs for row in CLIENT_ROWS)


def test_a_client_that_cannot_be_installed_is_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise subprocess.CalledProcessError(1, "pip", stderr="noise\nno matching distribution")

    monkeypatch.setattr(subprocess, "run", failing)
    with pytest.raises(foreign.ForeignClientMissing, match=r"aetcd==1.0.0.*no matching"):
        foreign.environment("aetcd", tmp_path)
