"""Every workload against a real member, of raftkv and of etcd, without faults."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping

import pytest

from jepsen_lite.checker.base import Verdict
from jepsen_lite.history import History
from jepsen_lite.workload import WORKLOADS, compaction, locks
from raftkv.client.aio import Client
from tests import processes
from workload.evidence import hearing
from workload.running import judged, run, workload_of

FAST = ("append", "bank", "counter", "queue", "register", "set", "unique", "wr")
SLOW = tuple(sorted(set(WORKLOADS) - set(FAST)))
_NUMBERS = itertools.count(1)
KINDS = {
    "append": {"txn"},
    "bank": {"open", "read", "transfer"},
    "cache": {"cache", "put", "delete", "txn"},
    "compaction": {"watch", "put", "delete", "txn", "get", "range", "compact"},
    "counter": {"add", "read"},
    "election": {"campaign", "resign", "observe"},
    "lease": {"grant", "put", "get", "keepalive"},
    "lock": {"acquire", "write", "release"},
    "lock-unfenced": {"acquire", "write", "release"},
    "queue": {"enqueue", "dequeue", "drain"},
    "register": {"read", "write", "cas"},
    "set": {"add", "read"},
    "unique": {"generate"},
    "watch": {"watch", "put", "delete", "txn"},
    "wr": {"txn"},
}
LAST: Mapping[str, set[str]] = {"queue": {"drain"}}  # in the second phase only


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One raftkv."""
    with processes.raftkv(tmp_path_factory.mktemp("raftkv")) as cluster:
        yield cluster.endpoints


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One etcd."""
    with processes.etcd(tmp_path_factory.mktemp("etcd"), "--unsafe-no-fsync") as cluster:
        yield cluster.endpoints


async def _driven(
    name: str, endpoint: str, seconds: float, extra: dict[str, str]
) -> tuple[History, dict[str, Verdict]]:
    workload = workload_of(name, prefix=f"test-{next(_NUMBERS)}/", concurrency=6, extra=extra)

    async def session() -> Client:
        return Client(endpoint, timeout=4.0)

    async with Client(endpoint) as client, hearing(client, workload.prefix) as heard:
        history = await run(
            workload, session, seconds=seconds, kinds=KINDS[name] - LAST.get(name, set())
        )
        log = await heard.complete()
    return history, judged(workload, history, log)


def drive(name: str, endpoint: str, seconds: float, **extra: str) -> dict[str, Verdict]:
    """Runs it; every kind of operation must have succeeded, most must have, none be unknown."""
    history, verdicts = asyncio.run(_driven(name, endpoint, seconds, extra))
    ended = Counter(call.end.type for call in history.calls() if call.end is not None)
    done = {call.invoke.f for call in history.calls() if call.ok}
    assert done >= KINDS[name], (done, [op.error for op in history if op.error][:5])
    assert ended["info"] == 0, [op for op in history if op.type == "info"][:5]
    assert ended["ok"] >= 4 * ended["fail"], [op.error for op in history if op.error][:5]
    return verdicts


@pytest.fixture
def often_compacted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compactions come within seconds even where little is written in a second."""
    monkeypatch.setattr(compaction, "KEPT", 150)
    monkeypatch.setattr(compaction, "READ_BACK", 200)
    monkeypatch.setattr(compaction, "COMPACTIONS", 0.03)


def assert_passed(verdicts: dict[str, Verdict]) -> None:
    for checker, verdict in verdicts.items():
        assert verdict.passed, (checker, verdict.facts, verdict.anomalies[:3])


@pytest.mark.parametrize("name", FAST)
def test_a_member_of_raftkv_passes(name: str, member: str) -> None:
    assert_passed(drive(name, member, 0.7))


@pytest.mark.slow
@pytest.mark.parametrize("name", [one for one in SLOW if one != "lock-unfenced"])
def test_a_member_of_raftkv_passes_what_takes_longer(
    name: str, member: str, often_compacted: None
) -> None:
    assert_passed(drive(name, member, 5.0))


@pytest.mark.slow
@pytest.mark.parametrize("name", [one for one in WORKLOADS if one != "lock-unfenced"])
def test_etcd_passes(name: str, etcd: str, often_compacted: None) -> None:
    """But for requests for progress, which 3.5.1 answers ahead of events that are to come."""
    assert_passed(drive(name, etcd, 1.0 if name in FAST else 5.0, progress="off"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["raftkv", "etcd"])
def test_locks_without_fencing_are_found_unsafe_and_with_it_they_are_safe(
    kind: str, member: str, etcd: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C03: no lock service can keep a stopped holder from writing late; a token can."""
    monkeypatch.setattr(locks, "STALLED", 0.5)
    endpoint = member if kind == "raftkv" else etcd
    verdicts = drive("lock-unfenced", endpoint, 6.0)
    assert verdicts["witness"].passed
    assert not verdicts["lock"].valid
    assert verdicts["lock"].anomalies[0].ops
    assert_passed(drive("lock", endpoint, 6.0))
