"""Every workload of plain calls against a store in memory, right, unreliable and wrong."""

import asyncio
import json
from random import Random

import pytest

from jepsen_lite.history import History, parsed
from jepsen_lite.workload import steps
from workload.running import judged, run, workload_of
from workload.store import MemorySession, MemoryStore

PLAIN = ("append", "bank", "counter", "queue", "register", "set", "unique", "wr")
KINDS = {
    "append": {"txn"},
    "bank": {"open", "read", "transfer"},
    "counter": {"add", "read"},
    "queue": {"enqueue", "dequeue", "drain"},
    "register": {"read", "write", "cas"},
    "set": {"add", "read"},
    "unique": {"generate"},
    "wr": {"txn"},
}


def history_of(name: str, store: MemoryStore, operations: int = 500, seed: int = 3) -> History:
    async def session() -> MemorySession:
        return MemorySession(store)

    return asyncio.run(run(workload_of(name), session, operations=operations, seed=seed))


@pytest.mark.parametrize("name", PLAIN)
def test_every_kind_of_operation_succeeds_and_is_found_right(name: str) -> None:
    store = MemoryStore()
    history = history_of(name, store)
    done = [call.invoke.f for call in history.calls() if call.ok]
    assert set(done) == KINDS[name]
    assert len(done) > 300
    assert not [call for call in history.calls() if call.unknown]
    for checker, verdict in judged(workload_of(name), history, store.evidence()).items():
        assert verdict.passed, (checker, verdict)


@pytest.mark.parametrize("name", PLAIN)
def test_lost_answers_are_no_anomaly(name: str) -> None:
    store = MemoryStore(Random(5), lost=0.06)
    history = history_of(name, store)
    assert [call for call in history.calls() if call.unknown]
    for checker, verdict in judged(workload_of(name), history, store.evidence()).items():
        assert verdict.passed, (checker, verdict)


@pytest.mark.parametrize("name", PLAIN)
def test_a_write_that_is_acknowledged_and_forgotten_is_found(name: str) -> None:
    store = MemoryStore(Random(6), forgotten=0.03)
    verdicts = judged(workload_of(name), history_of(name, store), store.evidence())
    assert not verdicts["witness"].valid
    assert verdicts["witness"].anomalies[0].ops


@pytest.mark.parametrize("name", ["append", "bank", "counter", "register", "set", "wr"])
def test_a_read_of_the_past_is_found(name: str) -> None:
    for seed in range(6):
        store = MemoryStore(Random(seed), stale=0.2)
        history = history_of(name, store, operations=300)
        verdicts = judged(workload_of(name), history, store.evidence())
        if not all(verdict.valid for verdict in verdicts.values()):
            return
    raise AssertionError("no reader of the past was found")


@pytest.mark.parametrize("name", PLAIN)
def test_values_are_json_and_completions_say_what_was_asked(name: str) -> None:
    history = history_of(name, MemoryStore(Random(8), lost=0.03), operations=200)
    for op in history:
        assert parsed(op.line()) == op
    for call in history.calls():
        if call.ok and call.end is not None:
            assert call.end.value["revision"] >= 1
            if "txn" not in call.invoke.value:
                asked = {key: call.end.value.get(key) for key in call.invoke.value}
                assert asked == call.invoke.value


@pytest.mark.parametrize("name", PLAIN)
def test_the_same_seed_asks_for_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "FIRST_PAUSE_SECONDS", 0.0)

    def asked() -> list[str]:
        history = history_of(name, MemoryStore(), operations=150)
        return [json.dumps([op.process, op.f, op.value]) for op in history if op.type == "invoke"]

    assert asked() == asked()


def test_no_value_is_written_twice() -> None:
    for name in ("register", "wr", "unique", "set", "queue"):
        store = MemoryStore()
        history_of(name, store, operations=200)
        values = [event.value for event in store.log.events if event.value is not None]
        assert len(values) == len(set(values)) > 40, name


def test_keys_are_left_for_fresh_ones() -> None:
    store = MemoryStore()
    history_of("register", store, operations=3000)
    by_key: dict[str, int] = {}
    for event in store.log.events:
        by_key[event.key] = by_key.get(event.key, 0) + 1
    assert len(by_key) > 6
    assert max(by_key.values()) < 400


def test_the_queue_is_drained() -> None:
    store = MemoryStore()
    history = history_of("queue", store)
    assert not store.states[-1]
    last = history[len(history) - 1]
    assert last.f == "drain"
    put = {call.invoke.value["element"] for call in history.calls() if call.invoke.f == "enqueue"}
    out: list[int] = []
    for call in history.calls():
        if call.ok and call.end is not None and call.invoke.f != "enqueue":
            value = call.end.value
            taken = value["elements"] if "elements" in value else [value["element"]]
            out += [element for element in taken if element is not None]
    assert sorted(out) == sorted(put)


def test_half_of_the_swaps_succeed_at_least() -> None:
    history = history_of("register", MemoryStore(), operations=1000)
    swaps = [
        call.end.value["succeeded"]
        for call in history.calls()
        if call.ok and call.end is not None and call.invoke.f == "cas"
    ]
    assert sum(swaps) > len(swaps) * 0.3


def test_a_bank_keeps_its_total() -> None:
    store = MemoryStore(lost=0.05)
    history_of("bank", store)
    accounts = [int(kv.value) for kv in store.states[-1].values()]
    assert sum(accounts) == 300
    assert min(accounts) >= 0
