"""Registers in transactions (catalogue 3.4): published anomalies by hand, and random histories."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from checker.histories import Script, changed, names, only, serial_run
from jepsen_lite.checker.base import Evidence, Verdict
from jepsen_lite.checker.wr import WriteRead
from jepsen_lite.history import History, Op
from jepsen_lite.workload.options import Options


def check(ops: list[Op]) -> Verdict:
    return WriteRead().check(Evidence(History(ops), None, Options()))


def history(text: str) -> Script:
    """Transactions that overlap all, one per line: `wx1 ry- @5`; `!` failed, `@` its revision."""
    script = Script()
    lines = [line.split() for line in text.strip().splitlines()]
    for process, words in enumerate(lines):
        steps = [_step(word) for word in words if word[0] in "wr"]
        script.invoke(process, "txn", {"txn": steps})
    for process, words in enumerate(lines):
        revisions = [int(word[1:]) for word in words if word[0] == "@"]
        if "!" in words:
            script.fail(process)
        else:
            script.ok(process, **({"revision": revisions[0]} if revisions else {}))
    return script


def _step(word: str) -> list[Any]:
    return [word[0], word[1], None if word[2:] == "-" else word[2:]]


KNOWN = {
    "G1a": "wx1 !\nrx1",
    "G1b": "wx1 wx2 @2\nrx1",
    "G1c": "wx1 ry1\nwy1 rx1",
    # Read skew: T1 saw the old x and the new y.
    "G-single": "wx1 wy1 @2\nwx2 wy2 @3\nrx1 ry2",
    # Write skew: each read what the other overwrote.
    "G2": "rx- wy1 @2\nry- wx1 @3",
    "lost-update": "rx- wx1 @2\nrx- wx2 @3",
    "garbage-read": "rx7",
    "internal": "wx1 rx2",
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_published_anomaly_has_its_published_name(name: str) -> None:
    verdict = WriteRead().check(history(KNOWN[name]).evidence())
    assert name in names(verdict), verdict
    assert all(anomaly.text and anomaly.ops for anomaly in verdict.anomalies)


@pytest.mark.parametrize("name", ["G1a", "G1c", "G-single", "G2"])
def test_it_has_only_that_name(name: str) -> None:
    assert names(WriteRead().check(history(KNOWN[name]).evidence())) == {name}


def test_a_write_cycle_shows_in_the_order_of_revisions() -> None:
    """G0 needs revisions that contradict each other: one transaction with two of them."""
    script = history("wx1 wy1\nwx2 wy2\nrx1\nrx2\nry1\nry2")
    value = {"versions": {"x": 2}}
    ops = changed(script.ops, 8, value=value)
    ops = changed(ops, 9, value={"versions": {"x": 3}})
    ops = changed(ops, 10, value={"versions": {"y": 3}})
    ops = changed(ops, 11, value={"versions": {"y": 2}})
    assert "G0" in names(check(ops))


def test_a_read_of_what_was_overwritten_before_its_call_breaks_real_time() -> None:
    """R18: a stale read."""
    script = Script()
    script.call(0, "txn", {"txn": [["w", "x", "1"]]}, revision=2)
    two = script.call(0, "txn", {"txn": [["w", "x", "2"]]}, revision=3)
    read = script.call(1, "txn", {"txn": [["r", "x", "1"]]})
    assert only(check(script.ops), "G-single-realtime") == (two, read)


class Registers:
    """A right store."""

    def __init__(self) -> None:
        self.values: dict[str, tuple[str, int]] = {}
        self.revision = 1

    def act(self, f: str, value: dict[str, Any]) -> dict[str, Any]:
        self.revision += any(step[0] == "w" for step in value["txn"])
        done = []
        versions = {}
        for kind, key, said in value["txn"]:
            if kind == "w":
                self.values[key] = (said, self.revision)
                done.append([kind, key, said])
                continue
            there = self.values.get(key)
            done.append([kind, key, there and there[0]])
            if there and there[1] < self.revision:
                versions[key] = there[1]
        return {"txn": done, "revision": self.revision, "versions": versions}


def ask(random: Random, number: int) -> tuple[str, dict[str, Any]]:
    steps: list[list[Any]] = []
    for place in range(random.randrange(1, 5)):
        key = f"k{random.randrange(4)}"
        read = random.random() < 0.5
        steps.append(["r", key, None] if read else ["w", key, f"{number}.{place}"])
    return "txn", {"txn": steps}


def a_run(seed: int) -> list[Op]:
    return serial_run(Random(seed), 200, ask, Registers().act, unknown=0.03)


@pytest.mark.parametrize("seed", range(30))
def test_a_right_store_passes_whatever_overlaps(seed: int) -> None:
    verdict = check(a_run(seed))
    assert verdict.passed, verdict
    assert int(verdict.facts["versions of known order"]) > 100


def _single_reads(ops: list[Op]) -> list[Op]:
    return [
        op
        for op in ops
        if op.type == "ok" and len(op.value["txn"]) == 1 and op.value["txn"][0][0] == "r"
    ]


def stale(random: Random, ops: list[Op]) -> list[Op] | None:
    """A read that was called after two writes of its key were answered reads the first one."""
    for op in _single_reads(ops):
        key = op.value["txn"][0][1]
        called = next(i.index for i in reversed(ops[: op.index]) if i.process == op.process)
        final = {
            one.value["revision"]: {k: v for kind, k, v in one.value["txn"] if kind == "w"}
            for one in ops[:called]
            if one.type == "ok"
        }
        written = [by[key] for _, by in sorted(final.items()) if key in by]
        if len(written) >= 2:
            value = {"txn": [["r", key, random.choice(written[:-1])]], "versions": {}}
            return changed(ops, op.index, value=value)
    return None


def invented(random: Random, ops: list[Op]) -> list[Op] | None:
    op = random.choice(_single_reads(ops))
    return changed(ops, op.index, value={"txn": [["r", op.value["txn"][0][1], "never"]]})


@pytest.mark.parametrize("breaking", [stale, invented])
def test_one_thing_broken_is_found_every_time(
    breaking: Callable[[Random, list[Op]], list[Op] | None],
) -> None:
    tried = found = 0
    for seed in range(30):
        broken = breaking(Random(seed), a_run(seed))
        if broken is None:
            continue
        tried += 1
        found += not check(broken).passed
    assert tried >= 25
    assert found == tried
