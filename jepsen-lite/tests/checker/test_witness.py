"""The revision witness (catalogue 3.2): silent about a store that is right, loud about the rest."""

import time
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from checker.histories import Script, Store, changed, names, only, serial_run
from jepsen_lite.checker.base import Evidence, StoreLog, Verdict
from jepsen_lite.checker.witness import Witness
from jepsen_lite.history import History, Op
from jepsen_lite.workload.options import Options


def check(ops: list[Op], log: StoreLog) -> Verdict:
    return Witness().check(Evidence(History(ops), log, Options()))


def ask(random: Random, number: int) -> tuple[str, dict[str, Any]]:
    key = f"k{random.randrange(4)}"
    f = random.choice(("get", "get", "put", "put", "cas", "delete", "range", "txn"))
    if f == "range":
        return f, {"key": "k0", "end": "k9"}
    if f == "cas":
        return f, {"key": key, "expected": random.choice((None, "v1")), "value": f"v{number}"}
    if f == "put":
        return f, {"key": key, "value": f"v{number}"}
    if f == "txn":
        other = f"k{random.randrange(4)}"
        return f, {
            "compares": [[key, "version", ">", random.randrange(3)]],
            "success": [["get", other], ["put", key, f"v{number}"], ["get", key]],
            "failure": [["delete", other], ["range", "k0", "k9"]],
        }
    return f, {"key": key}


class KeyStore(Store):
    """Answers `ask`."""

    def act(self, f: str, value: dict[str, Any]) -> dict[str, Any]:
        key = value.get("key", "")
        if f == "get":
            return self.item(key)
        if f == "put":
            return {"revision": self.put(key, value["value"])}
        if f == "delete":
            deleted = int(key in self.live)
            return {"revision": self.delete(key), "deleted": deleted}
        if f == "range":
            return {"revision": self.revision, "kvs": self.items(), "count": len(self.live)}
        if f == "cas":
            seen = self.item(key)["value"]
            if seen != value["expected"]:
                return {"revision": self.revision, "succeeded": False, "seen": seen}
            return {"revision": self.put(key, value["value"]), "succeeded": True}
        return self.txn(value)

    def items(self) -> list[dict[str, Any]]:
        return [{"key": key, **self.item(key)} for key in sorted(self.live)]

    def txn(self, value: dict[str, Any]) -> dict[str, Any]:
        key, _, _, version = value["compares"][0]
        if key in self.live and self.live[key].version > version:
            before = self.item(value["success"][0][1])
            revision = self.put(key, value["success"][1][2])
            if value["success"][0][1] == key and before["value"] is None:
                before = {"value": None}
            responses: list[Any] = [before, None, self.item(key)]
            return {"revision": revision, "succeeded": True, "responses": responses}
        other = value["failure"][0][1]
        deleted = int(other in self.live)
        revision = self.delete(other)
        responses = [deleted, self.items()]
        return {"revision": revision, "succeeded": False, "responses": responses}


def a_run(seed: int, count: int = 200, unknown: float = 0.05) -> tuple[list[Op], KeyStore]:
    store = KeyStore(seed + 1)
    ops = serial_run(Random(seed), count, ask, store.act, unknown=unknown)
    return ops, store


@pytest.mark.parametrize("seed", range(40))
def test_a_right_store_passes_whatever_overlaps(seed: int) -> None:
    ops, store = a_run(seed)
    verdict = check(ops, store.log())
    assert verdict.passed, verdict
    assert int(verdict.facts["operations checked"]) > 150


# --- known histories --------------------------------------------------------------------


def test_a_read_that_misses_a_write_answered_before_it_is_stale() -> None:
    """Knossos' first example: w1 ok, then read nil. R16, R18."""
    script = Script()
    written = script.call(0, "put", {"key": "x", "value": "1"}, revision=script.store.put("x", "1"))
    asked = script.invoke(1, "get", {"key": "x"})
    answered = script.ok(1, value=None, revision=1)
    verdict = Witness().check(script.evidence())
    assert only(verdict, "stale-read") == (written, asked, answered)


def test_a_write_that_was_acknowledged_and_is_not_in_the_log_is_lost() -> None:
    """D03, R42."""
    script = Script()
    lost = script.call(0, "put", {"key": "x", "value": "1"}, revision=2)
    script.call(0, "put", {"key": "y", "value": "2"}, revision=script.store.put("y", "2"))
    verdict = Witness().check(script.evidence())
    assert names(verdict) == {"lost-write", "write-out-of-order", "shared-revision"}
    assert (lost,) in [anomaly.ops for anomaly in verdict.anomalies]


def test_a_write_that_failed_and_is_in_the_log_is_found() -> None:
    """C02: the aborted read of jetcd 0.8.2, whose client said "failed" of what was done."""
    script = Script()
    asked = script.invoke(0, "put", {"key": "x", "value": "1"})
    script.store.put("x", "1")
    told = script.fail(0)
    script.call(1, "get", {"key": "x"}, **script.store.item("x"))
    assert only(Witness().check(script.evidence()), "failed-write-seen") == (asked, told)


def test_a_write_of_unknown_outcome_may_be_there_or_not() -> None:
    script = Script()
    script.invoke(0, "put", {"key": "x", "value": "1"})
    script.invoke(1, "put", {"key": "x", "value": "2"})
    script.info(0)
    script.info(1)
    script.store.put("x", "2")
    script.call(2, "get", {"key": "x"}, **script.store.item("x"))
    assert Witness().check(script.evidence()).passed


def test_a_write_of_unknown_outcome_cannot_be_older_than_its_call() -> None:
    script = Script()
    script.store.put("x", "1")
    read = script.call(2, "get", {"key": "x"}, **script.store.item("x"))
    asked = script.invoke(0, "put", {"key": "x", "value": "1"})
    script.info(0)
    assert only(Witness().check(script.evidence()), "write-out-of-order") == (read, asked)


def test_a_write_that_was_retried_and_applied_twice_is_found() -> None:
    """C01: a put repeated by the client library undid what came between."""
    script = Script()
    script.invoke(0, "put", {"key": "x", "value": "1"})
    script.store.put("x", "1")
    script.call(1, "put", {"key": "x", "value": "2"}, revision=script.store.put("x", "2"))
    told = script.ok(0, revision=script.store.put("x", "1"))
    assert only(Witness().check(script.evidence()), "applied-twice") == (told,)


def test_a_write_of_unknown_outcome_that_was_applied_twice_is_found() -> None:
    script = Script()
    script.invoke(0, "put", {"key": "x", "value": "1"})
    script.info(0)
    script.store.put("x", "1")
    script.store.put("x", "1")
    assert names(Witness().check(script.evidence())) == {"applied-twice"}


def test_what_nobody_wrote_is_found() -> None:
    script = Script()
    script.call(0, "put", {"key": "x", "value": "1"}, revision=script.store.put("x", "1"))
    script.store.put("x", "ghost")
    assert names(Witness().check(script.evidence())) == {"invented-write"}


def test_what_other_workloads_write_is_not_called_invented() -> None:
    script = Script()
    script.call(0, "acquire", {"lock": "a"}, token=2)
    script.store.put("a/1", "")
    assert Witness().check(script.evidence()).passed


def test_a_write_of_an_operation_that_failed_counts_as_nobodys() -> None:
    """What failed wrote nothing, even if it does not say what it would have written."""
    script = Script()
    script.invoke(0, "add", {"element": 1})
    script.fail(0)
    script.call(1, "read", {}, elements=[])
    script.store.put("s1", "1")
    assert names(Witness().check(script.evidence())) == {"invented-write"}
    script.invoke(2, "add", {"element": 2})
    script.info(2)
    assert Witness().check(script.evidence()).passed


def test_two_writes_with_one_revision_are_found() -> None:
    script = Script()
    revision = script.store.put("x", "1")
    script.invoke(0, "put", {"key": "x", "value": "1"})
    script.invoke(1, "put", {"key": "x", "value": "1"})
    first = script.ok(0, revision=revision)
    second = script.ok(1, revision=revision)
    assert only(Witness().check(script.evidence()), "shared-revision") == (first, second)


def test_a_serializable_read_may_be_old_but_not_wrong() -> None:
    """C11."""
    script = Script()
    script.call(0, "put", {"key": "x", "value": "1"}, revision=script.store.put("x", "1"))
    script.call(0, "put", {"key": "x", "value": "2"}, revision=script.store.put("x", "2"))
    asked = {"key": "x", "serializable": True}
    script.call(1, "get", asked, value="1", revision=2)
    assert Witness().check(script.evidence()).passed
    wrong = script.call(1, "get", asked, value="2", revision=2)
    assert only(Witness().check(script.evidence()), "wrong-read") == (wrong,)


def test_calls_behind_an_operation_are_checked_too() -> None:
    script = Script()
    revision = script.store.put("set", "[1]")
    calls = [
        {"f": "get", "key": "set", "value": None, "revision": 1},
        {"f": "cas", "key": "set", "guard": 0, "value": "[1]", "succeeded": True}
        | {"revision": revision},
    ]
    script.call(0, "add", {"element": 1}, revision=revision, calls=calls)
    assert Witness().check(script.evidence()).passed
    bad = [{"f": "get", "key": "set", "value": "[2]", "revision": revision}]
    wrong = script.call(0, "add", {"element": 2}, revision=revision, calls=bad)
    assert only(Witness().check(script.evidence()), "wrong-read") == (wrong,)


def test_nothing_is_said_about_revisions_whose_history_was_compacted_away() -> None:
    script = Script()
    for number in range(4):
        revision = script.store.put("x", str(number))
        script.call(0, "put", {"key": "x", "value": str(number)}, revision=revision)
    log = script.store.log()
    short = replace(log, events=log.events[2:], compacted_revision=3, revisions=log.revisions[2:])
    verdict = Witness().check(script.evidence(short))
    assert verdict.passed, verdict
    assert verdict.facts["not checkable after compaction"] == 2


def test_without_a_log_nothing_is_called_right() -> None:
    run = Evidence(History([]), None, Options())
    assert not Witness().check(run).passed


# --- one thing broken -------------------------------------------------------------------

Break = Callable[[Random, list[Op], KeyStore], tuple[list[Op], StoreLog] | None]


def _pick(random: Random, ops: list[Op], f: str, **wanted: Any) -> Op | None:
    found = [
        op for op in ops if (op.type == "ok" and op.f == f and wanted.items() <= op.value.items())
    ]
    return random.choice(found) if found else None


def drop_from_log(random: Random, ops: list[Op], store: KeyStore) -> Any:
    op = _pick(random, ops, "put")
    log = store.log()
    if op is None:
        return None
    revision = op.value["revision"]
    return ops, replace(log, events=[e for e in log.events if e.revision != revision])


def other_value_read(random: Random, ops: list[Op], store: KeyStore) -> Any:
    op = _pick(random, ops, "get")
    return op and (changed(ops, op.index, value={"value": "never"}), store.log())


def older_read(random: Random, ops: list[Op], store: KeyStore) -> Any:
    """Right at its revision, but that revision is too old."""
    for op in random.sample(ops, len(ops)):
        if op.type != "ok" or op.f != "get":
            continue
        call = next(i for i in reversed(ops[: op.index]) if i.process == op.process)
        newest = max((o.value["revision"] for o in ops[: call.index] if o.type == "ok"), default=0)
        if newest <= store.first:
            continue
        past = KeyStore(store.first)
        for event in store.events:
            if event.revision >= newest:
                break
            past.events.append(event)
            if event.value is None:
                past.live.pop(event.key, None)
            else:
                past.live[event.key] = event
        past.revision = newest - 1
        return changed(ops, op.index, value=past.item(op.value["key"])), store.log()
    return None


def other_revision(random: Random, ops: list[Op], store: KeyStore) -> Any:
    op = _pick(random, ops, "put")
    if op is None:
        return None
    return changed(ops, op.index, value={"revision": op.value["revision"] + 1}), store.log()


def wrong_version(random: Random, ops: list[Op], store: KeyStore) -> Any:
    found = [op for op in ops if op.type == "ok" and op.f == "get" and op.value["value"]]
    op = random.choice(found) if found else None
    return op and (changed(ops, op.index, value={"version": 99}), store.log())


def cas_lied(random: Random, ops: list[Op], store: KeyStore) -> Any:
    op = _pick(random, ops, "cas", succeeded=False)
    if op is None:
        return None
    return changed(ops, op.index, value={"succeeded": True}), store.log()


def ok_turned_fail(random: Random, ops: list[Op], store: KeyStore) -> Any:
    op = _pick(random, ops, "put")
    return op and (changed(ops, op.index, type="fail"), store.log())


def range_misses_one(random: Random, ops: list[Op], store: KeyStore) -> Any:
    found = [op for op in ops if op.type == "ok" and op.f == "range" and op.value["kvs"]]
    op = random.choice(found) if found else None
    if op is None:
        return None
    return changed(ops, op.index, value={"kvs": op.value["kvs"][1:]}), store.log()


def txn_took_the_other_branch(random: Random, ops: list[Op], store: KeyStore) -> Any:
    op = _pick(random, ops, "txn", succeeded=True)
    if op is None:
        return None
    other = {"succeeded": False, "responses": [0, op.value["responses"]]}
    return changed(ops, op.index, value=other), store.log()


def put_twice(random: Random, ops: list[Op], store: KeyStore) -> Any:
    op = _pick(random, ops, "put")
    if op is None:
        return None
    again = KeyStore(store.first)
    again.revision, again.live = store.revision, dict(store.live)
    again.events = list(store.events)
    again.put(op.value["key"], op.value["value"])
    return ops, again.log()


BREAKS: list[Break] = [
    drop_from_log,
    other_value_read,
    older_read,
    other_revision,
    wrong_version,
    cas_lied,
    ok_turned_fail,
    range_misses_one,
    txn_took_the_other_branch,
    put_twice,
]


@pytest.mark.parametrize("breaking", BREAKS)
def test_one_thing_broken_is_found_every_time(breaking: Break) -> None:
    """Kill rate: 30 of 30 for each kind."""
    tried = found = 0
    for seed in range(30):
        ops, store = a_run(seed)
        broken = breaking(Random(seed), ops, store)
        if broken is None:
            continue
        tried += 1
        verdict = check(*broken)
        found += not verdict.passed
        assert all(anomaly.text for anomaly in verdict.anomalies)
    assert tried >= 25
    assert found == tried


# --- speed ------------------------------------------------------------------------------


def many(count: int) -> tuple[list[Op], StoreLog]:
    """Half reads, half writes of 100 keys by 10 processes, with an overlap of 5."""
    random = Random(1)
    store = Store()
    ops: list[Op] = []
    waiting: list[tuple[int, str, dict[str, Any]]] = []
    for number in range(count):
        process, key = number % 10, f"k{random.randrange(100)}"
        if number % 2:
            f, asked = "get", {"key": key}
        else:
            f, asked = "put", {"key": key, "value": f"v{number}"}
        ops.append(Op(process, "invoke", f, asked, number * 1000, len(ops)))
        answer = store.item(key) if f == "get" else {"revision": store.put(key, asked["value"])}
        waiting.append((process, f, {**asked, **answer}))
        if len(waiting) > 5:
            process, f, value = waiting.pop(0)
            ops.append(Op(process, "ok", f, value, number * 1000 + 1, len(ops)))
    return ops, store.log()


def test_a_hundred_thousand_operations_take_a_moment() -> None:
    """A million in under 5 s; a tenth of it here, with room for a busy machine."""
    ops, log = many(100_000)
    began = time.process_time()
    verdict = check(ops, log)
    took_s = time.process_time() - began
    assert verdict.passed
    assert took_s < 2.0
