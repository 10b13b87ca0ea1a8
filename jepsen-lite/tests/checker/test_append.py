"""Lists and their cycles (catalogue 3.4): the published anomalies by hand, and random histories."""

import time
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from checker.histories import Script, changed, names, only, serial_run
from jepsen_lite.checker.append import Append
from jepsen_lite.checker.base import Evidence, Verdict
from jepsen_lite.history import History, Op
from jepsen_lite.workload.options import Options


def check(ops: list[Op]) -> Verdict:
    return Append().check(Evidence(History(ops), None, Options()))


def history(text: str) -> Script:
    """Transactions that overlap all, one per line: `ax1 ry1,2`; `!` failed, `?` unknown."""
    script = Script()
    lines = [line.split() for line in text.strip().splitlines()]
    for process, words in enumerate(lines):
        script.invoke(process, "txn", {"txn": [_step(word) for word in words if word not in "!?"]})
    for process, words in enumerate(lines):
        if "!" in words:
            script.fail(process)
        elif "?" in words:
            script.info(process)
        else:
            script.ok(process)
    return script


def _step(word: str) -> list[Any]:
    """`ax1`: append 1 to x. `ry1,2`: read of y was [1, 2]."""
    numbers = [int(one) for one in word[2:].split(",") if one]
    return ["append", word[1], numbers[0]] if word[0] == "a" else ["r", word[1], numbers]


# --- examples as they were published ---------------------------------------------------------

KNOWN = {
    # Write cycle: x says T0 then T1, y says T1 then T0.
    "G0": "ax1 ay1\nax2 ay2\nrx1,2 ry2,1",
    # A failed transaction's element was read.
    "G1a": "ax1 !\nrx1",
    # The middle of another transaction was read.
    "G1b": "ax1 ax2\nrx1\nrx1,2",
    # Circular information flow: each read what the other appended.
    "G1c": "ax1 ry1\nay1 rx1",
    # Read skew: T2 saw T1's x, but not its y (Elle's G-single).
    "G-single": "ax1 ay1\nrx1 ry\nry1",
    # Write skew: neither saw what the other appended (Elle's G2).
    "G2": "rx ay1\nry ax1\nrx1 ry1",
    "incompatible-order": "ax1\nax2\nrx1\nrx2",
    "duplicate-elements": "ax1\nrx1,1",
    "garbage-read": "ax1\nrx1,9",
    "internal": "ax1 rx",
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_published_anomaly_has_its_published_name(name: str) -> None:
    verdict = Append().check(history(KNOWN[name]).evidence())
    assert name in names(verdict), verdict
    assert all(anomaly.text and anomaly.ops for anomaly in verdict.anomalies)


@pytest.mark.parametrize("name", ["G0", "G1a", "G1c", "G-single", "G2"])
def test_it_has_only_that_name(name: str) -> None:
    assert names(Append().check(history(KNOWN[name]).evidence())) == {name}


def test_the_example_from_tidb_in_elles_paper_is_read_skew() -> None:
    """T1 read [2, 1] and appended 4, but T2's 5 stands before it: T1 lost T2's update."""
    script = Script()
    script.call(0, "txn", {"txn": [["append", 34, 2], ["append", 35, 3]]})
    script.call(0, "txn", {"txn": [["append", 34, 1]]})
    t1 = [["r", 34, [2, 1]], ["append", 36, 5], ["append", 34, 4]]
    for process, txn in enumerate((t1, [["append", 34, 5]])):
        script.invoke(process, "txn", {"txn": txn})
    ends = [script.ok(process) for process in (0, 1)]
    script.call(2, "txn", {"txn": [["r", 34, [2, 1, 5, 4]]]})
    verdict = Append().check(script.evidence())
    assert only(verdict, "G-single") == (ends[0], ends[1])
    assert "did not see" in verdict.anomalies[0].text


def test_two_appends_to_the_same_version_are_a_lost_update() -> None:
    """C02: jetcd 0.8.2 retried a guarded transaction whose first attempt had won."""
    verdict = Append().check(history("rx ax1\nrx ax2\nrx1,2").evidence())
    assert "lost-update" in names(verdict)
    lost = next(one for one in verdict.anomalies if one.name == "lost-update")
    assert lost.ops == (3, 4)


def test_what_a_retried_transaction_left_is_called_duplicate_elements() -> None:
    """C02: the first attempt took place, and so did the second."""
    script = history("rx ax1\nrx1,1 ax2")
    assert "duplicate-elements" in names(Append().check(script.evidence()))


def test_a_transaction_that_failed_and_was_read_is_an_aborted_read() -> None:
    """C02: the retry was told that its guard failed, because the first attempt had won."""
    script = Script()
    asked = script.invoke(0, "txn", {"txn": [["append", "x", 1]]})
    told = script.fail(0)
    read = script.call(1, "txn", {"txn": [["r", "x", [1]]]})
    assert only(Append().check(script.evidence()), "G1a") == (asked, told, read)


def test_an_acknowledged_append_that_a_later_read_lacks_breaks_real_time() -> None:
    """R16: a stale read, serializable but not strictly so."""
    script = Script()
    one = script.call(0, "txn", {"txn": [["append", "x", 1]]})
    read = script.call(1, "txn", {"txn": [["r", "x", []]]})
    script.call(2, "txn", {"txn": [["r", "x", [1]]]})
    assert only(Append().check(script.evidence()), "G-single-realtime") == (one, read)


def test_an_acknowledged_append_that_nobody_ever_reads_is_missed() -> None:
    """D03: an acknowledged write that is gone."""
    script = Script()
    script.call(0, "txn", {"txn": [["append", "x", 1]]})
    lost = script.call(0, "txn", {"txn": [["append", "x", 2]]})
    read = script.call(1, "txn", {"txn": [["r", "x", [1]]]})
    assert only(Append().check(script.evidence()), "G-single-realtime") == (lost, read)


def test_a_process_that_does_not_see_its_own_append_has_the_weaker_order_in_its_name() -> None:
    script = Script()
    script.call(0, "txn", {"txn": [["append", "x", 1]]})
    script.call(0, "txn", {"txn": [["r", "x", []]]})
    assert names(Append().check(script.evidence())) == {"G-single-process"}


def test_an_append_that_is_read_before_its_call_breaks_real_time() -> None:
    script = Script()
    script.call(0, "txn", {"txn": [["r", "x", [1]]]})
    script.call(1, "txn", {"txn": [["append", "x", 1]]})
    assert names(Append().check(script.evidence())) == {"G1c-realtime"}


def test_unknown_transactions_may_have_been_done_or_not() -> None:
    script = history("ax1 ?\nax2 ?\nrx1")
    assert Append().check(script.evidence()).passed


def test_overlapping_transactions_may_take_place_in_any_order() -> None:
    assert Append().check(history("ax1\nrx\nrx1").evidence()).passed


# --- random histories ----------------------------------------------------------------------


class Lists:
    """A right store of lists."""

    def __init__(self) -> None:
        self.lists: dict[str, list[int]] = {}

    def act(self, f: str, value: dict[str, Any]) -> dict[str, Any]:
        done: list[list[Any]] = []
        for kind, key, said in value["txn"]:
            if kind == "append":
                self.lists.setdefault(key, []).append(said)
                done.append([kind, key, said])
            else:
                done.append([kind, key, list(self.lists.get(key, []))])
        return {"txn": done}


def ask(random: Random, number: int) -> tuple[str, dict[str, Any]]:
    steps: list[list[Any]] = []
    for place in range(random.randrange(1, 5)):
        key = f"k{number // 100}-{random.randrange(3)}"
        read = random.random() < 0.5
        steps.append(["r", key, None] if read else ["append", key, number * 10 + place])
    return "txn", {"txn": steps}


def a_run(seed: int, count: int = 200) -> list[Op]:
    return serial_run(Random(seed), count, ask, Lists().act, unknown=0.03)


@pytest.mark.parametrize("seed", range(40))
def test_a_right_store_passes_whatever_overlaps(seed: int) -> None:
    verdict = check(a_run(seed))
    assert verdict.passed, verdict
    assert int(verdict.facts["acknowledged"]) > 150


def _reads(ops: list[Op], least: int = 1) -> list[tuple[Op, int]]:
    """Answered transactions of another key's reads only, and the place of a read."""
    return [
        (op, place)
        for op in ops
        if op.type == "ok"
        for place, (kind, key, said) in enumerate(op.value["txn"])
        if kind == "r" and len(said) >= least
    ]


def _read_as(ops: list[Op], op: Op, place: int, seen: list[int]) -> list[Op]:
    steps = [list(step) for step in op.value["txn"]]
    steps[place][2] = seen
    return changed(ops, op.index, value={"txn": steps})


def swapped(random: Random, ops: list[Op]) -> list[Op]:
    op, place = random.choice(_reads(ops, 2))
    seen = list(op.value["txn"][place][2])
    seen[0], seen[1] = seen[1], seen[0]
    return _read_as(ops, op, place, seen)


def forgotten_in_the_middle(random: Random, ops: list[Op]) -> list[Op]:
    op, place = random.choice(_reads(ops, 2))
    return _read_as(ops, op, place, op.value["txn"][place][2][1:])


def doubled(random: Random, ops: list[Op]) -> list[Op]:
    op, place = random.choice(_reads(ops))
    seen = op.value["txn"][place][2]
    return _read_as(ops, op, place, [*seen, seen[-1]])


def invented(random: Random, ops: list[Op]) -> list[Op]:
    op, place = random.choice(_reads(ops))
    return _read_as(ops, op, place, [*op.value["txn"][place][2], -1])


def failed_after_all(random: Random, ops: list[Op]) -> list[Op]:
    """An answered transaction whose element others read was told that it failed."""
    read = {one for op, place in _reads(ops) for one in op.value["txn"][place][2]}
    writers = [
        op
        for op in ops
        if op.type == "ok"
        and any(kind == "append" and said in read for kind, _, said in op.value["txn"])
        and not any(kind == "r" for kind, _, _ in op.value["txn"])
    ]
    return changed(ops, random.choice(writers).index, type="fail")


def stale(random: Random, ops: list[Op]) -> list[Op] | None:
    """A read that lacks an element that had been read by others before it was called."""
    for op, place in random.sample(_reads(ops), len(_reads(ops))):
        steps = op.value["txn"]
        if len(steps) > 1:
            continue
        key, seen = steps[0][1], steps[0][2]
        called = next(i.index for i in reversed(ops[: op.index]) if i.process == op.process)
        known = [
            step[2]
            for one in ops[:called]
            if one.type == "ok"
            for step in one.value["txn"]
            if step[0] == "r" and step[1] == key and step[2]
        ]
        if known:
            longest = max(known, key=len)
            return _read_as(ops, op, place, seen[: random.randrange(len(longest))])
    return None


@pytest.mark.parametrize(
    "breaking", [swapped, forgotten_in_the_middle, doubled, invented, failed_after_all, stale]
)
def test_one_thing_broken_is_found_every_time(
    breaking: Callable[[Random, list[Op]], list[Op] | None],
) -> None:
    """Kill rate: all, of at least 25 of 30."""
    tried = found = 0
    for seed in range(30):
        broken = breaking(Random(seed), a_run(seed))
        if broken is None:
            continue
        tried += 1
        verdict = check(broken)
        found += not verdict.passed
    assert tried >= 25
    assert found == tried


# --- stores of weaker isolation ----------------------------------------------------------------


def an_isolated_run(seed: int, level: str) -> list[Op]:
    """Transactions that read, later write what they read with their appends, and later are told.

    level: "snapshot": reads of one moment, and the first to commit wins; "committed": each read of
    its own moment, writes on what is there then; "nothing": lost updates as well.
    """
    random = Random(seed)
    script = Script()
    lists: dict[str, list[int]] = {}
    busy: dict[int, dict[str, Any]] = {}
    while len(script.ops) < 400:
        process = random.randrange(6)
        if process not in busy:
            _, value = ask(random, len(script.ops))
            if level == "committed":  # so that no read has own appends to see
                value["txn"].sort(key=lambda step: step[0] == "append")
            script.invoke(process, "txn", value)
            snapshot = {key: list(seen) for key, seen in lists.items()}
            busy[process] = {"steps": value["txn"], "snapshot": snapshot, "done": []}
            continue
        txn = busy[process]
        if level == "committed" and len(txn["done"]) < len(txn["steps"]):
            kind, key, said = txn["steps"][len(txn["done"])]
            txn["done"].append([kind, key, list(lists.get(key, ())) if kind == "r" else said])
            continue
        del busy[process]
        if level == "committed":
            done, state, won = txn["done"], lists, True
        else:
            store = Lists()
            store.lists = {key: list(seen) for key, seen in txn["snapshot"].items()}
            done, state = store.act("txn", {"txn": txn["steps"]})["txn"], txn["snapshot"]
            keys = {key for kind, key, _ in done if kind == "append"}
            won = level == "nothing" or all(state.get(k) == lists.get(k) for k in keys)
        if not won:
            script.fail(process)
            continue
        for key in {key for kind, key, _ in done if kind == "append"}:
            appended = [said for kind, name, said in done if kind == "append" and name == key]
            lists[key] = [*state.get(key, []), *appended]
        script.ok(process, txn=done)
    return script.ops


def found_at(level: str) -> dict[str, int]:
    """In how many of 20 runs each anomaly was found."""
    found: dict[str, int] = {}
    for seed in range(20):
        for name in names(check(an_isolated_run(seed, level))):
            found[name] = found.get(name, 0) + 1
    return found


def test_snapshot_isolation_shows_write_skew_and_no_read_skew() -> None:
    """Adya: it forbids G0, G1 and G-single, and allows G2."""
    found = found_at("snapshot")
    assert found["G2"] >= 15
    assert {name for name in found if not name.endswith(("-process", "-realtime"))} == {"G2"}


def test_read_committed_shows_read_skew_and_no_dirty_reads() -> None:
    """Adya: it forbids G0 and G1, and allows G-single."""
    found = found_at("committed")
    assert found["G-single"] >= 15
    assert not {"G0", "G1a", "G1b", "G1c"} & found.keys()


def test_a_store_without_isolation_loses_updates() -> None:
    found = found_at("nothing")
    assert found["lost-update"] >= 15
    assert found["incompatible-order"] >= 10


# --- speed -------------------------------------------------------------------------------------


def many(count: int) -> list[Op]:
    """Transactions of 1 to 4 steps on 5 live keys of at most 64 appends, 10 processes."""
    random = Random(1)
    lists: dict[int, list[int]] = {}
    live = [0, 1, 2, 3, 4]
    ops: list[Op] = []
    waiting: list[tuple[int, dict[str, Any]]] = []
    for number in range(count):
        steps: list[list[Any]] = []
        for place in range(random.randrange(1, 5)):
            slot = random.randrange(5)
            key = live[slot]
            if random.random() < 0.5:
                steps.append(["r", key, list(lists.get(key, ()))])
                continue
            lists.setdefault(key, []).append(number * 4 + place)
            steps.append(["append", key, number * 4 + place])
            if len(lists[key]) == 64:
                live[slot] = max(live) + 1
        ops.append(Op(number % 10, "invoke", "txn", {"txn": steps}, number * 1000, len(ops)))
        waiting.append((number % 10, {"txn": steps}))
        if len(waiting) > 5:
            process, value = waiting.pop(0)
            ops.append(Op(process, "ok", "txn", value, number * 1000 + 1, len(ops)))
    return ops


def test_ten_thousand_transactions_take_a_moment() -> None:
    """At least 100,000 in a second on an idle core; a tenth here, with room for a busy one."""
    ops = many(10_000)
    began = time.process_time()
    verdict = check(ops)
    took_s = time.process_time() - began
    assert verdict.passed
    assert took_s < 1.0
