"""Locks and elections: whose turn it was, by the log, and what clients were told of it."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from checker.histories import Script, Store, changed, names, only
from jepsen_lite.checker.base import Evidence, StoreLog
from jepsen_lite.checker.elections import Election
from jepsen_lite.checker.locks import Lock
from jepsen_lite.checker.witness import Witness
from jepsen_lite.history import History, Op
from jepsen_lite.workload.options import Options


def acquire(script: Script, process: int) -> tuple[int, int]:
    """The key is put and its turn claimed at once; returns token and index."""
    key = f"l/{process}"
    token = script.store.put(key, "")
    index = script.call(process, "acquire", {"lock": "l"}, token=token, key=key, revision=token)
    return token, index


def release(script: Script, process: int, token: int) -> int:
    script.invoke(process, "release", {"lock": "l", "token": token})
    script.store.delete(f"l/{process}")
    return script.ok(process)


def write(script: Script, process: int, token: int, value: str, done: bool = True) -> int:
    asked = {"lock": "l", "token": token, "key": "guarded", "value": value}
    script.invoke(process, "write", asked)
    revision = script.store.put("guarded", value) if done else script.store.revision
    return script.ok(process, revision=revision, succeeded=done)


# --- locks ---------------------------------------------------------------------------------


def test_holders_one_after_the_other_are_right() -> None:
    script = Script()
    for process in (0, 1, 0):
        token, _ = acquire(script, process)
        write(script, process, token, f"{token}")
        release(script, process, token)
    for fencing in (True, False):
        verdict = Lock(fencing).check(script.evidence())
        assert verdict.passed, verdict
    assert verdict.facts["acquisitions"] == 3
    assert Witness().check(script.evidence()).passed


def two_holders(late_write_succeeds: bool) -> Script:
    """Jepsen's etcd 3.4.3: the first holder is stopped, its lease ends, the second one holds, and
    the first one wakes and writes."""
    script = Script()
    first, _ = acquire(script, 0)
    write(script, 0, first, "a")
    script.store.delete("l/0")  # its lease ran out while it was stopped
    second, _ = acquire(script, 1)
    write(script, 1, second, "b")
    write(script, 0, first, "c", done=late_write_succeeds)
    release(script, 1, second)
    return script


def test_two_holders_at_once_are_found_where_there_is_no_fencing() -> None:
    """Etcd 3.4.3: locks are fundamentally unsafe. C03."""
    script = two_holders(late_write_succeeds=True)
    verdict = Lock(fencing=False).check(script.evidence())
    assert names(verdict) == {"two-holders", "late-write", "old-token-write"}
    both = next(one for one in verdict.anomalies if one.name == "two-holders")
    assert both.ops == (1, 5, 9)
    assert "process 0" in both.text
    assert "process 1" in both.text


def test_a_late_write_that_was_refused_by_its_token_is_right_with_fencing() -> None:
    """C03: the belief overlaps, the writes do not."""
    verdict = Lock(fencing=True).check(two_holders(late_write_succeeds=False).evidence())
    assert verdict.passed
    assert verdict.facts["writes refused by token"] == 1


def test_a_late_write_that_succeeded_in_spite_of_fencing_is_found() -> None:
    """C03: no guard in the lock's write."""
    verdict = Lock(fencing=True).check(two_holders(late_write_succeeds=True).evidence())
    assert names(verdict) == {"late-write", "old-token-write"}


def test_the_workloads_name_says_whether_there_is_fencing() -> None:
    run = two_holders(late_write_succeeds=False).evidence()
    unfenced = replace(run, options=Options(workload="lock-unfenced"))
    run.options = Options(workload="lock")
    assert Lock().check(run).passed or names(Lock().check(run)) == set()
    late = two_holders(late_write_succeeds=True).evidence()
    late.options = unfenced.options
    assert "two-holders" in names(Lock().check(late))


def test_an_acquire_that_was_answered_though_its_key_never_had_its_turn_is_found() -> None:
    """C04: the lease died in the queue, and acquire did not look again."""
    script = Script()
    first, _ = acquire(script, 0)
    token = script.store.put("l/1", "")
    script.invoke(1, "acquire", {"lock": "l"})
    script.store.delete("l/1")
    release(script, 0, first)
    wrong = script.ok(1, token=token)
    assert only(Lock(True).check(script.evidence()), "never-its-turn") == (wrong,)


def test_an_acquire_that_was_answered_while_someone_was_in_front_is_found() -> None:
    script = Script()
    first, _ = acquire(script, 0)
    _, early = acquire(script, 1)
    write(script, 0, first, "a")
    release(script, 0, first)
    verdict = Lock(True).check(script.evidence())
    assert only(verdict, "too-early") == (early,)


def test_an_acquire_whose_key_is_not_in_the_log_is_found() -> None:
    script = Script()
    wrong = script.call(0, "acquire", {"lock": "l"}, token=7)
    assert only(Lock(True).check(script.evidence()), "not-in-log") == (wrong,)


def test_a_token_that_does_not_grow_is_found() -> None:
    script = Script()
    first, one = acquire(script, 0)
    release(script, 0, first)
    two = script.call(1, "acquire", {"lock": "l"}, token=first)
    verdict = Lock(True).check(script.evidence())
    assert names(verdict) == {"same-token"}
    assert verdict.anomalies[0].ops == (one, two)


def a_lock_run(seed: int) -> tuple[list[Op], Store]:
    """Processes that queue, hold, write once and release, each step at its own random moment."""
    random, script = Random(seed), Script()
    store = script.store
    queue: list[tuple[int, int]] = []  # process, token
    state = dict.fromkeys(range(5), "idle")
    token: dict[int, int] = {}
    written: dict[int, int] = {}
    while len(script.ops) < 200:
        process = random.randrange(5)
        now = state[process]
        if now == "idle":
            script.invoke(process, "acquire", {"lock": "l"})
        elif now == "acquire":
            token[process] = store.put(f"l/{process}.{len(script.ops)}", "")
            queue.append((process, token[process]))
        elif now == "queued":
            if queue[0][0] != process:
                continue
            script.ok(process, token=token[process])
        elif now == "holds":
            asked = {"lock": "l", "token": token[process], "key": "guarded"}
            script.invoke(process, "write", {**asked, "value": f"v{len(script.ops)}"})
        elif now == "write":
            written[process] = store.put("guarded", f"v{process}.{len(script.ops)}")
        elif now == "written":
            script.ok(process, revision=written[process], succeeded=True)
        elif now == "wrote":
            script.invoke(process, "release", {"lock": "l", "token": token[process]})
        elif now == "release":
            queue.pop(0)
            store.delete(*[key for key in store.live if key.startswith(f"l/{process}.")])
        else:
            script.ok(process)
        state[process] = STEPS[now]
    return script.ops, store


STEPS = {
    "idle": "acquire",
    "acquire": "queued",
    "queued": "holds",
    "holds": "write",
    "write": "written",
    "written": "wrote",
    "wrote": "release",
    "release": "released",
    "released": "idle",
}


def lock_check(ops: list[Op], log: StoreLog, fencing: bool = True) -> set[str]:
    return names(Lock(fencing).check(Evidence(History(ops), log, Options())))


def _pick(random: Random, ops: list[Op], f: str) -> Op:
    return random.choice([op for op in ops if op.type == "ok" and op.f == f])


def write_of_another_turn(random: Random, ops: list[Op]) -> list[Op]:
    op, other = _pick(random, ops, "write"), _pick(random, ops, "write")
    if op is other:
        return write_of_another_turn(random, ops)
    return changed(ops, op.index, value={"revision": other.value["revision"]})


def token_of_another_turn(random: Random, ops: list[Op]) -> list[Op]:
    op, other = _pick(random, ops, "acquire"), _pick(random, ops, "acquire")
    if op is other:
        return token_of_another_turn(random, ops)
    return changed(ops, op.index, value={"token": other.value["token"]})


def token_of_nobody(random: Random, ops: list[Op]) -> list[Op]:
    op = _pick(random, ops, "acquire")
    return changed(ops, op.index, value={"token": op.value["token"] + 1})


@pytest.mark.parametrize(
    "breaking", [write_of_another_turn, token_of_another_turn, token_of_nobody]
)
def test_one_thing_broken_in_a_lock_is_found_every_time(
    breaking: Callable[[Random, list[Op]], list[Op]],
) -> None:
    """Kill rate: 30 of 30."""
    found = 0
    for seed in range(30):
        ops, store = a_lock_run(seed)
        assert lock_check(ops, store.log()) == set()
        found += bool(lock_check(breaking(Random(seed), ops), store.log()))
    assert found == 30


# --- elections -----------------------------------------------------------------------------


def campaign(script: Script, process: int, value: str = "me") -> tuple[int, int]:
    key = f"e/{process}"
    token = script.store.put(key, value)
    asked = {"election": "e", "value": value}
    return token, script.call(process, "campaign", asked, token=token, key=key)


def observe(script: Script, process: int, *seen: tuple[int, int, str]) -> int:
    told = [{"token": token, "revision": r, "value": value} for token, r, value in seen]
    return script.call(process, "observe", {"election": "e"}, seen=told)


def test_leaders_one_after_the_other_are_right() -> None:
    script = Script()
    first, _ = campaign(script, 0, "a")
    script.invoke(2, "observe", {"election": "e"})
    second = script.store.put("e/1", "b")
    script.store.delete("e/0")
    script.call(1, "campaign", {"election": "e"}, token=second, key="e/1")
    revision = script.store.put("e/1", "b2")
    leaders = [(first, first, "a"), (second, second, "b"), (second, revision, "b2")]
    script.ok(2, seen=[{"token": t, "revision": r, "value": v} for t, r, v in leaders])
    verdict = Election().check(script.evidence())
    assert verdict.passed, verdict
    assert verdict.facts["leaders seen"] == 3


def test_a_leader_who_was_told_so_while_another_one_led_is_found() -> None:
    script = Script()
    campaign(script, 0)
    _, wrong = campaign(script, 1)
    assert only(Election().check(script.evidence()), "not-its-turn") == (wrong,)


def test_an_observer_that_sees_an_older_leader_after_a_newer_one_is_found() -> None:
    """C08."""
    script = Script()
    first, _ = campaign(script, 0, "a")
    script.store.delete("e/0")
    second, _ = campaign(script, 1, "b")
    wrong = observe(script, 2, (second, second, "b"), (first, first, "a"))
    assert only(Election().check(script.evidence()), "older-leader") == (wrong,)


def test_an_observer_that_begins_with_a_leader_older_than_what_was_seen_is_found() -> None:
    """C08."""
    script = Script()
    first, _ = campaign(script, 0, "a")
    script.store.delete("e/0")
    second = script.store.put("e/1", "b")
    before = observe(script, 2, (second, second, "b"))
    wrong = observe(script, 3, (first, first, "a"))
    witness = only(Election().check(script.evidence()), "older-leader")
    assert witness == (before, wrong - 1, wrong)


def test_an_observer_that_begins_with_a_leader_older_than_who_was_told_to_lead_is_found() -> None:
    """C08."""
    script = Script()
    first, _ = campaign(script, 0, "a")
    script.store.delete("e/0")
    _, before = campaign(script, 1, "b")
    wrong = observe(script, 3, (first, first, "a"))
    witness = only(Election().check(script.evidence()), "older-leader")
    assert witness == (before, wrong - 1, wrong)


def test_an_observer_that_sees_who_never_led_or_never_said_so_is_found() -> None:
    script = Script()
    first, _ = campaign(script, 0, "a")
    second = script.store.put("e/1", "b")
    script.store.delete("e/1")
    observe(script, 2, (first, first, "other"), (second, second, "b"))
    verdict = Election().check(script.evidence())
    assert names(verdict) == {"wrong-value", "no-such-leader"}


def test_terms_in_sequence_have_growing_tokens() -> None:
    script = Script()
    first, _ = campaign(script, 0)
    script.store.delete("e/0")
    campaign(script, 1)
    script.store.delete("e/1")
    script.call(2, "campaign", {"election": "e"}, token=first)
    assert "token-fell" in names(Election().check(script.evidence()))


@pytest.mark.parametrize("checker", [Lock(), Election()])
def test_without_a_log_nothing_is_called_right(checker: Lock | Election) -> None:
    run = Evidence(History([]), None, Options())
    assert not checker.check(run).passed
