"""Linearizable registers by search: Knossos' examples, random histories, smallest witnesses."""

from random import Random
from typing import Any

import pytest

from checker.histories import Script, changed, names, only, serial_run
from jepsen_lite.checker.base import Evidence, Verdict
from jepsen_lite.checker.linear import Linearizable
from jepsen_lite.history import History, Op
from jepsen_lite.workload.options import Options


def check(ops: list[Op], **budget: int) -> Verdict:
    return Linearizable(**budget).check(Evidence(History(ops), None, Options()))


def write(script: Script, process: int, value: str) -> int:
    return script.call(process, "write", {"key": "x", "value": value})


def read(script: Script, process: int, value: str | None) -> int:
    return script.call(process, "read", {"key": "x"}, value=value)


# --- examples as they were published ---------------------------------------------------------


def test_a_read_after_a_write_that_does_not_see_it_is_stale() -> None:
    """Knossos: write 1, then read nil."""
    script = Script()
    one = write(script, 0, "1")
    two = read(script, 1, None)
    assert only(check(script.ops), "not-linearizable") == (one - 1, one, two - 1, two)


def test_a_value_that_comes_back_after_it_was_overwritten_is_stale() -> None:
    """Knossos: w1, w2, r2, r1. Neither w1 nor r2 can be left out, or it would be possible."""
    script = Script()
    write(script, 0, "1")
    write(script, 0, "2")
    read(script, 1, "2")
    read(script, 1, "1")
    witness = only(check(script.ops), "not-linearizable")
    assert len(witness) == 6


def test_a_write_that_is_never_seen_while_others_read_around_it_was_lost() -> None:
    """Knossos: w1, w2 ok, r1 for ever."""
    script = Script()
    write(script, 0, "1")
    lost = write(script, 1, "2")
    for _ in range(20):
        read(script, 0, "1")
    witness = only(check(script.ops), "not-linearizable")
    assert lost in witness
    assert len(witness) == 6


def test_two_swaps_from_the_same_value_cannot_both_succeed() -> None:
    """Knossos: cas 0 1 and cas 0 2 both ok. C02."""
    script = Script()
    write(script, 0, "0")
    asked = {"key": "x", "expected": "0"}
    script.invoke(0, "cas", {**asked, "value": "1"})
    script.invoke(1, "cas", {**asked, "value": "2"})
    one = script.ok(0, succeeded=True)
    two = script.ok(1, succeeded=True)
    witness = only(check(script.ops), "not-linearizable")
    assert {one, two} <= set(witness)


def test_concurrent_reads_may_see_either_value_but_not_in_opposite_orders() -> None:
    """Knossos: both reads overlap the write; a new value followed by the old one is impossible."""
    script = Script()
    write(script, 2, "1")
    script.invoke(0, "write", {"key": "x", "value": "2"})
    read(script, 1, "1")
    read(script, 1, "2")
    assert check(script.ops).passed
    read(script, 1, "1")
    assert names(check(script.ops)) == {"not-linearizable"}


def test_a_write_of_unknown_outcome_may_take_place_long_after_its_call() -> None:
    script = Script()
    script.invoke(0, "write", {"key": "x", "value": "1"})
    script.info(0)
    read(script, 1, None)
    read(script, 1, None)
    read(script, 1, "1")
    assert check(script.ops).passed
    read(script, 1, None)
    assert names(check(script.ops)) == {"not-linearizable"}


def test_a_value_that_nobody_wrote_is_found_without_a_search() -> None:
    script = Script()
    write(script, 0, "1")
    wrong = read(script, 1, "7")
    assert only(check(script.ops, steps=0), "read-of-nothing") == (wrong,)


def test_a_value_of_a_write_that_failed_is_found() -> None:
    """C02."""
    script = Script()
    script.invoke(0, "write", {"key": "x", "value": "1"})
    script.fail(0)
    wrong = read(script, 1, "1")
    assert only(check(script.ops), "read-of-nothing") == (wrong,)


def test_a_value_that_is_read_before_its_write_was_called_is_found() -> None:
    script = Script()
    early = read(script, 1, "1")
    late = write(script, 0, "1")
    assert only(check(script.ops), "read-before-write") == (early, late)


def test_keys_are_independent_of_each_other() -> None:
    script = Script()
    script.call(0, "put", {"key": "x", "value": "1"})
    script.call(0, "get", {"key": "y"}, value=None)
    assert check(script.ops).passed


def test_a_stale_read_that_says_so_is_no_anomaly() -> None:
    """C11."""
    script = Script()
    write(script, 0, "1")
    script.call(1, "read", {"key": "x", "serializable": True}, value=None)
    assert check(script.ops).passed


def test_a_search_that_spends_its_budget_is_a_failure() -> None:
    """And says so: nothing was proved."""
    script = Script()
    for process in range(12):
        script.invoke(process, "write", {"key": "x", "value": str(process)})
    for process in range(12):
        script.ok(process)
    for process in range(12):
        script.invoke(process, "read", {"key": "x"})
    for process in range(12):
        script.ok(process, value=str(process))
    verdict = check(script.ops, key_steps=500)
    assert verdict.undecided
    assert not verdict.passed
    assert names(verdict) == {"undecided"}


# --- random histories ----------------------------------------------------------------------


class Registers:
    """A right store."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def act(self, f: str, value: dict[str, Any]) -> dict[str, Any]:
        key = value["key"]
        seen = self.values.get(key)
        if f == "read":
            return {"value": seen}
        if f == "cas" and seen != value["expected"]:
            return {"succeeded": False, "seen": seen}
        self.values[key] = value["value"]
        return {"succeeded": True} if f == "cas" else {}


def ask(random: Random, number: int) -> tuple[str, dict[str, Any]]:
    key = f"k{number // 100}-{random.randrange(2)}"
    f = random.choice(("read", "read", "write", "cas"))
    if f == "read":
        return f, {"key": key}
    if f == "cas":
        near = random.choice((None, str(max(number - random.randrange(1, 6), 0))))
        return f, {"key": key, "expected": near, "value": str(number)}
    return f, {"key": key, "value": str(number)}


def a_run(seed: int, count: int = 300) -> list[Op]:
    return serial_run(Random(seed), count, ask, Registers().act, unknown=0.03)


@pytest.mark.parametrize("seed", range(20))
def test_a_right_store_passes_whatever_overlaps(seed: int) -> None:
    verdict = check(a_run(seed))
    assert verdict.passed, verdict
    assert int(verdict.facts["operations"]) > 200


def test_a_read_that_is_too_old_is_found_every_time_and_its_witness_is_small() -> None:
    """A read answered with a value that others knew to be overwritten. Kill rate: all of 30."""
    small = 0
    for seed in range(30):
        random = Random(seed)
        ops = a_run(seed, 200)
        broken = _too_old(random, ops)
        verdict = check(broken)
        assert not verdict.passed, seed
        assert verdict.anomalies[0].name == "not-linearizable"
        small += len(verdict.anomalies[0].ops) <= 12
    assert small >= 25


def _too_old(random: Random, ops: list[Op]) -> list[Op]:
    """w(a) answered, then w(b) called and answered, then a read of b: now it reads a."""
    for op in random.sample(ops, len(ops)):
        if op.type != "ok" or op.f != "read":
            continue
        key = op.value["key"]
        called = next(i.index for i in reversed(ops[: op.index]) if i.process == op.process)
        writes = [
            one
            for one in ops[:called]
            if one.type == "ok" and one.f == "write" and one.value["key"] == key
        ]
        for newer in reversed(writes):
            begun = next(
                i.index for i in reversed(ops[: newer.index]) if i.process == newer.process
            )
            older = [one for one in writes if one.index < begun]
            if older:
                return changed(ops, op.index, value={"value": older[0].value["value"]})
    raise AssertionError("no such read")
