"""Sets, queues, counters, banks and unique ids: known histories, and random ones with a fault."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from checker.histories import Script, changed, names, only, serial_run
from jepsen_lite.checker.bank import Bank
from jepsen_lite.checker.base import Evidence, Verdict
from jepsen_lite.checker.counter import Counter
from jepsen_lite.checker.queues import Queue
from jepsen_lite.checker.sets import Set
from jepsen_lite.checker.unique import Unique
from jepsen_lite.history import History, Op
from jepsen_lite.workload.options import Options


def evidence(ops: list[Op]) -> Evidence:
    return Evidence(History(ops), None, Options())


# --- sets ------------------------------------------------------------------------------------


def add(script: Script, element: int) -> int:
    return script.call(0, "add", {"element": element})


def read(script: Script, *elements: int) -> int:
    return script.call(1, "read", {}, elements=list(elements))


def test_an_acknowledged_element_that_the_last_read_lacks_is_lost() -> None:
    """D03, R42: Jepsen's set test of many systems."""
    script = Script()
    one = add(script, 1)
    add(script, 2)
    last = read(script, 2)
    assert only(Set().check(script.evidence()), "lost") == (one, last - 1, last)


def test_an_element_that_a_read_lacks_and_a_later_one_has_makes_the_first_one_stale() -> None:
    script = Script()
    one = add(script, 1)
    early = read(script)
    late = read(script, 1)
    assert only(Set().check(script.evidence()), "stale-read") == (one, early - 1, early, late)


def test_an_element_that_was_read_once_must_stay() -> None:
    """Even if its add was never answered."""
    script = Script()
    script.invoke(0, "add", {"element": 1})
    script.info(0)
    shown = read(script, 1)
    last = read(script)
    assert only(Set().check(script.evidence()), "lost") == (shown, last - 1, last)


def test_elements_of_nobody_of_the_failed_and_of_the_future_are_unexpected() -> None:
    script = Script()
    script.invoke(0, "add", {"element": 1})
    script.fail(0)
    read(script, 1)
    read(script, 7)
    read(script, 2)
    add(script, 2)
    verdict = Set().check(script.evidence())
    assert [one.name for one in verdict.anomalies if one.name == "unexpected"] == ["unexpected"] * 3


def test_an_element_twice_in_a_read_is_duplicated() -> None:
    script = Script()
    add(script, 1)
    twice = read(script, 1, 1)
    assert only(Set().check(script.evidence()), "duplicated") == (twice,)


def test_a_read_that_overlaps_an_add_may_miss_it() -> None:
    script = Script()
    script.invoke(1, "read", {})
    add(script, 1)
    script.ok(1, elements=[])
    assert Set().check(script.evidence()).passed


class Elements:
    """A right set."""

    def __init__(self) -> None:
        self.elements: list[int] = []

    def act(self, f: str, value: dict[str, Any]) -> dict[str, Any]:
        if f == "read":
            return {"elements": list(self.elements)}
        self.elements.append(value["element"])
        return {}


def ask_set(random: Random, number: int) -> tuple[str, dict[str, Any]]:
    return ("read", {}) if random.random() < 0.2 else ("add", {"element": number})


def _kept(random: Random, ops: list[Op]) -> tuple[Op, list[int]]:
    """An answered read, and its elements that were known when it was called."""
    reads = [op for op in ops if op.type == "ok" and op.f == "read" and op.index > 100]
    op = random.choice(reads)
    called = next(i.index for i in reversed(ops[: op.index]) if i.process == op.process)
    known = {one.value["element"] for one in ops[:called] if one.type == "ok" and one.f == "add"}
    return op, sorted(known & set(op.value["elements"]))


def set_loses(random: Random, ops: list[Op]) -> list[Op]:
    op, known = _kept(random, ops)
    gone = random.choice(known)
    kept = [one for one in op.value["elements"] if one != gone]
    return changed(ops, op.index, value={"elements": kept})


def set_doubles(random: Random, ops: list[Op]) -> list[Op]:
    op, known = _kept(random, ops)
    return changed(ops, op.index, value={"elements": [*op.value["elements"], known[0]]})


def set_invents(random: Random, ops: list[Op]) -> list[Op]:
    op, _ = _kept(random, ops)
    return changed(ops, op.index, value={"elements": [*op.value["elements"], -1]})


@pytest.mark.parametrize("breaking", [set_loses, set_doubles, set_invents])
def test_one_thing_broken_in_a_set_is_found_every_time(
    breaking: Callable[[Random, list[Op]], list[Op]],
) -> None:
    """Kill rate: 30 of 30."""
    found = 0
    for seed in range(30):
        ops = serial_run(Random(seed), 200, ask_set, Elements().act, unknown=0.03)
        right = Set().check(evidence(ops))
        assert right.passed, right
        found += not Set().check(evidence(breaking(Random(seed), ops))).passed
    assert found == 30


# --- queues ----------------------------------------------------------------------------------


def enqueue(script: Script, element: int) -> int:
    return script.call(0, "enqueue", {"element": element})


def dequeue(script: Script, element: int | None) -> int:
    return script.call(1, "dequeue", {}, element=element)


def test_an_element_that_never_comes_out_though_the_queue_got_empty_is_lost() -> None:
    """Jepsen's total-queue of RabbitMQ."""
    script = Script()
    lost = enqueue(script, 1)
    enqueue(script, 2)
    dequeue(script, 2)
    empty = dequeue(script, None)
    assert only(Queue().check(script.evidence()), "lost") == (lost, empty - 1, empty)


def test_an_element_that_comes_out_twice_is_duplicated() -> None:
    script = Script()
    enqueue(script, 1)
    one, two = dequeue(script, 1), dequeue(script, 1)
    assert only(Queue().check(script.evidence()), "duplicated") == (one, two)


def test_a_dequeue_without_an_answer_may_have_taken_one_element_but_not_two() -> None:
    script = Script()
    enqueue(script, 1)
    script.invoke(2, "dequeue", {})
    script.info(2)
    dequeue(script, None)
    verdict = Queue().check(script.evidence())
    assert verdict.passed
    assert verdict.facts["perhaps taken by those"] == 1
    enqueue(script, 2)
    dequeue(script, None)
    assert names(Queue().check(script.evidence())) == {"lost"}


def test_what_never_went_in_or_failed_to_is_unexpected() -> None:
    script = Script()
    script.invoke(0, "enqueue", {"element": 1})
    script.fail(0)
    dequeue(script, 1)
    dequeue(script, 9)
    dequeue(script, 3)
    enqueue(script, 3)
    verdict = Queue().check(script.evidence())
    assert [one.name for one in verdict.anomalies] == ["unexpected"] * 3


def test_what_went_in_first_comes_out_first_if_that_was_promised() -> None:
    script = Script()
    enqueue(script, 1)
    enqueue(script, 2)
    dequeue(script, 2)
    dequeue(script, 1)
    assert Queue().check(script.evidence()).passed
    assert names(Queue(fifo=True).check(script.evidence())) == {"out-of-order"}


def test_only_a_drain_that_finds_nothing_shows_that_nothing_is_left() -> None:
    script = Script()
    lost = enqueue(script, 1)
    enqueue(script, 2)
    script.call(0, "drain", {}, elements=[2])
    assert Queue(fifo=True).check(script.evidence()).passed
    last = script.call(0, "drain", {}, elements=[])
    assert only(Queue().check(script.evidence()), "lost") == (lost, last - 1, last)


class Items:
    """A right queue."""

    def __init__(self) -> None:
        self.items: list[int] = []

    def act(self, f: str, value: dict[str, Any]) -> dict[str, Any]:
        if f == "enqueue":
            self.items.append(value["element"])
            return {}
        return {"element": self.items.pop(0) if self.items else None}


def ask_queue(random: Random, number: int) -> tuple[str, dict[str, Any]]:
    return ("enqueue", {"element": number}) if random.random() < 0.45 else ("dequeue", {})


def test_a_right_queue_passes_and_one_that_repeats_or_forgets_does_not() -> None:
    """Kill rate: 30 of 30 for both."""
    for seed in range(30):
        ops = serial_run(Random(seed), 200, ask_queue, Items().act)
        for process in range(2):  # that it is empty at the end
            ops.append(Op(process, "invoke", "drain", {}, ops[-1].time_ns, len(ops)))
            ops.append(Op(process, "ok", "drain", {"elements": []}, ops[-1].time_ns, len(ops)))
        taken = [op for op in ops if op.type == "ok" and op.f == "dequeue" and op.value["element"]]
        queue = Queue(fifo=True)
        left = [op.value["element"] for op in ops if op.f == "enqueue" and op.type == "ok"]
        missing = sorted(set(left) - {op.value["element"] for op in taken} - {0})
        ops = changed(ops, len(ops) - 3, value={"elements": missing})
        right = queue.check(evidence(ops))
        assert right.passed, right
        one, two = Random(seed).sample(taken, 2)
        repeats = changed(ops, one.index, value={"element": two.value["element"]})
        assert "duplicated" in names(queue.check(evidence(repeats)))
        forgets = changed(ops, one.index, value={"element": None})
        assert "lost" in names(queue.check(evidence(forgets)))


# --- counters --------------------------------------------------------------------------------


def test_a_counter_has_what_was_surely_added() -> None:
    script = Script()
    script.call(0, "add", {"delta": 5})
    low = script.call(1, "read", {}, total=4)
    assert only(Counter().check(script.evidence()), "out-of-bounds") == (low - 1, low)


def test_a_counter_may_have_what_was_perhaps_added_and_no_more() -> None:
    script = Script()
    script.invoke(0, "add", {"delta": 5})
    script.info(0)
    script.invoke(2, "add", {"delta": -2})
    script.call(1, "read", {}, total=5)
    script.call(1, "read", {}, total=-2)
    assert Counter().check(script.evidence()).passed
    script.call(1, "read", {}, total=6)
    assert names(Counter().check(script.evidence())) == {"out-of-bounds"}


def test_a_failed_addition_does_not_count() -> None:
    script = Script()
    script.invoke(0, "add", {"delta": 5})
    script.fail(0)
    script.call(1, "read", {}, total=5)
    assert names(Counter().check(script.evidence())) == {"out-of-bounds"}


def test_a_counter_that_only_grows_never_goes_back() -> None:
    script = Script()
    script.invoke(0, "add", {"delta": 1})
    one = script.call(1, "read", {}, total=1)
    two = script.call(2, "read", {}, total=0)
    assert only(Counter().check(script.evidence()), "went-back") == (one, two - 1, two)


def test_a_right_counter_passes_and_a_total_off_by_its_last_additions_does_not() -> None:
    for seed in range(30):
        random, total = Random(seed), [0]

        def act(f: str, value: dict[str, Any], total: list[int] = total) -> dict[str, Any]:
            total[0] += value.get("delta", 0)
            return {"total": total[0]} if f == "read" else {}

        def ask(random: Random, number: int) -> tuple[str, dict[str, Any]]:
            choice = random.random() < 0.5
            return ("read", {}) if choice else ("add", {"delta": random.choice((-1, 2, 3))})

        ops = serial_run(random, 200, ask, act, unknown=0.02)
        assert Counter().check(evidence(ops)).passed
        reads = [op for op in ops if op.type == "ok" and op.f == "read"]
        op = random.choice(reads)
        off = changed(ops, op.index, value={"total": op.value["total"] + 60})
        assert not Counter().check(evidence(off)).passed


# --- banks -----------------------------------------------------------------------------------


def test_money_that_is_seen_on_its_way_is_a_wrong_total() -> None:
    """Read skew, as Jepsen's bank test of Galera found it."""
    script = Script()
    script.invoke(0, "transfer", {"from": "a", "to": "b", "amount": 5})
    seen = script.call(1, "read", {}, accounts={"a": 5, "b": 10})
    assert only(Bank({"a": 10, "b": 10}).check(script.evidence()), "wrong-total") == (seen,)


def test_a_balance_below_zero_and_a_missing_account_are_found() -> None:
    script = Script()
    script.call(1, "read", {}, accounts={"a": -5, "b": 25})
    script.call(1, "read", {}, accounts={"b": 20})
    verdict = Bank({"a": 10, "b": 10}).check(script.evidence())
    assert names(verdict) == {"negative-balance", "wrong-accounts"}


def test_a_transfer_that_was_answered_and_is_not_seen_is_lost() -> None:
    script = Script()
    script.call(0, "transfer", {"from": "a", "to": "b", "amount": 5}, succeeded=True)
    script.call(1, "read", {}, accounts={"a": 10, "b": 10})
    verdict = Bank({"a": 10, "b": 10}).check(script.evidence())
    assert names(verdict) == {"lost-or-repeated-transfer"}


def test_two_reads_of_one_revision_agree() -> None:
    script = Script()
    script.invoke(0, "transfer", {"from": "a", "to": "b", "amount": 5})
    one = script.call(1, "read", {}, accounts={"a": 10, "b": 10}, revision=4)
    two = script.call(1, "read", {}, accounts={"a": 5, "b": 15}, revision=4)
    verdict = Bank({"a": 10, "b": 10}).check(script.evidence())
    assert only(verdict, "unrepeatable-read") == (one, two)


def test_the_opening_transaction_says_what_there_was() -> None:
    script = Script()
    puts = [["put", "a", "10"], ["put", "b", "10"]]
    script.call(0, "open", {}, calls=[{"f": "txn", "success": puts, "revision": 2}])
    script.call(1, "read", {}, accounts={"a": 10, "b": 10})
    assert Bank().check(script.evidence()).passed
    script.call(1, "read", {}, accounts={"a": 9, "b": 10})
    assert names(Bank().check(script.evidence())) == {"wrong-total"}


class Accounts:
    """A right bank."""

    def __init__(self) -> None:
        self.accounts = dict.fromkeys("abcd", 100)

    def act(self, f: str, value: dict[str, Any]) -> dict[str, Any]:
        if f == "read":
            return {"accounts": dict(self.accounts)}
        if self.accounts[value["from"]] < value["amount"]:
            return {"succeeded": False}
        self.accounts[value["from"]] -= value["amount"]
        self.accounts[value["to"]] += value["amount"]
        return {"succeeded": True}


def ask_bank(random: Random, number: int) -> tuple[str, dict[str, Any]]:
    if random.random() < 0.4:
        return "read", {}
    source, target = random.sample("abcd", 2)
    return "transfer", {"from": source, "to": target, "amount": random.randrange(1, 9)}


def bank_skews(random: Random, op: Op) -> dict[str, int]:
    """One account as it was before or after."""
    accounts = dict(op.value["accounts"])
    accounts[random.choice("abcd")] += random.choice((-3, 4))
    return accounts


def bank_repeats(random: Random, op: Op) -> dict[str, int]:
    """A transfer that nobody asked for: more than what is under way."""
    accounts = dict(op.value["accounts"])
    accounts["a"] -= 60
    accounts["b"] += 60
    return accounts


@pytest.mark.parametrize("breaking", [bank_skews, bank_repeats])
def test_one_thing_broken_in_a_bank_is_found_every_time(
    breaking: Callable[[Random, Op], dict[str, int]],
) -> None:
    """Kill rate: 30 of 30."""
    found = 0
    checker = Bank(dict.fromkeys("abcd", 100))
    for seed in range(30):
        random = Random(seed)
        ops = serial_run(random, 200, ask_bank, Accounts().act, unknown=0.02)
        right = checker.check(evidence(ops))
        assert right.passed, right
        op = random.choice([op for op in ops if op.type == "ok" and op.f == "read"])
        broken = changed(ops, op.index, value={"accounts": breaking(random, op)})
        found += not checker.check(evidence(broken)).passed
    assert found == 30


# --- unique ids ------------------------------------------------------------------------------


def test_an_id_that_was_given_out_twice_is_found() -> None:
    script = Script()
    one = script.call(0, "generate", {}, id=7)
    script.call(0, "generate", {}, id=8)
    two = script.call(1, "generate", {}, id=7)
    assert only(Unique().check(script.evidence()), "duplicate-id") == (one, two)


def test_ids_that_nobody_was_told_do_not_matter() -> None:
    script = Script()
    script.invoke(0, "generate", {})
    script.info(0)
    script.call(1, "generate", {}, id=7)
    verdict: Verdict = Unique().check(script.evidence())
    assert verdict.passed
    assert verdict.facts == {"asked": 2, "acknowledged": 1}
