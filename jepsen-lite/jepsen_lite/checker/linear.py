"""Linearizability of single keys by search (Wing and Gong 1993, Lowe 2017), key by key.

A store is linearizable only if every key of it is (Herlihy and Wing 1990), so each key is a
register of its own: `raftkv.sim.wgl` searches. This trusts no revision, so it finds what a broken
revision counter would hide from `witness`. All keys share a budget of steps; a search that spends
it leaves the run undecided, which is a failure.

Before the search, what no search is needed for: a value read that nobody wrote, that only a failed
write wrote, or that was written only after the read had ended.

When a key fails, it is cut right behind the first answer that made it impossible (by bisection
over the answers: what was called later is left out, what had no answer yet is unknown). What is
left is shrunk: reads are left out, and writes whose value nobody else names, as long as it stays
impossible. Neither makes a possible history impossible, so what remains is a witness by itself.
"""

from collections.abc import Sequence
from typing import Any, Final

from jepsen_lite.checker.base import Evidence, Verdict
from jepsen_lite.checker.findings import Findings
from jepsen_lite.checker.values import answer, asked, place, seconds
from jepsen_lite.history import Call, History
from raftkv.sim import wgl
from raftkv.sim.wgl import Action, Interval, Read, Swap, Write

STEPS: Final = 20_000_000  # of the whole run
KEY_STEPS: Final = 3_000_000
SHRINKING_STEPS: Final = 2_000_000  # of one key

Registers = dict[str, list[tuple[Interval, Call]]]


class Linearizable:
    """See the module's docstring. steps: list nodes that all searches together may visit."""

    def __init__(self, steps: int = STEPS, key_steps: int = KEY_STEPS) -> None:
        self._steps = steps
        self._key_steps = key_steps

    def check(self, run: Evidence) -> Verdict:
        """Needs nothing but the history."""
        findings = Findings()
        left = self._steps
        unsure: list[str] = []
        registers = registers_of(run.history)
        for key, pairs in registers.items():
            if _impossible_reads(key, pairs, findings):
                continue
            intervals = [interval for interval, _ in pairs]
            budget = min(left, self._key_steps)
            found, spent = _search(intervals, budget)
            left -= spent
            if found is wgl.Verdict.UNDECIDED:
                unsure.append(key)
            elif found is wgl.Verdict.VIOLATION:
                _report(key, pairs, findings)
        for key in unsure:
            text = f"The search over key {key!r} spent its budget; it proves nothing."
            findings.add("undecided", text)
        return findings.verdict(
            bool(unsure),
            keys=len(registers),
            operations=sum(map(len, registers.values())),
            undecided_keys=len(unsure),
        )


def registers_of(history: History) -> Registers:
    """The intervals of every key. What says nothing about now (old or stale reads) is left out."""
    registers: Registers = {}
    for call in history.calls():
        value = answer(call) if call.ok else asked(call)
        if call.failed or value is None or "key" not in value or value.get("end"):
            continue
        action = _action(call.invoke.f, value, call.ok)
        if action is None:
            continue
        end = call.end
        returned = end.index if end is not None and call.ok else None
        interval = Interval(call.invoke.index, returned, action)
        registers.setdefault(value["key"], []).append((interval, call))
    return registers


def _action(f: str, value: dict[str, Any], ok: bool) -> Action | None:
    """What it did to its key; None if that says nothing about one register."""
    if f in ("put", "write") and value.get("value") is not None:
        return Write(_bytes(value["value"])) if value.get("succeeded") is not False else None
    if f == "delete":
        return Write(None)
    if f in ("get", "read"):
        now = ok and not value.get("serializable") and not value.get("at") and "value" in value
        return Read(_bytes(value["value"])) if now else None
    if f == "cas":
        return _swap(value, ok)
    return None


def _swap(value: dict[str, Any], ok: bool) -> Action | None:
    new = _bytes(value["value"])
    if "expected" not in value:  # guarded by a revision: who does not trust these sees a write
        return Write(new) if not ok or value.get("succeeded") else None
    expected = _bytes(value["expected"])
    if not ok:
        return Swap(expected, new, None, None)
    if value.get("succeeded", True):
        return Swap(expected, new, True, None)
    return Swap(expected, new, False, _bytes(value["seen"])) if "seen" in value else None


def _bytes(value: Any) -> bytes | None:
    return None if value is None else str(value).encode()


def _search(intervals: Sequence[Interval], steps: int) -> tuple[wgl.Verdict, int]:
    """What the search finds, and about what it cost: it does not say itself."""
    if steps <= 0:
        return wgl.Verdict.UNDECIDED, 0
    rough = min(steps, 20 * len(intervals) + 1000)
    found = wgl.check_register(intervals, steps=rough)
    if found is not wgl.Verdict.UNDECIDED or rough == steps:
        return found, rough
    return wgl.check_register(intervals, steps=steps), steps


# --- without a search ---------------------------------------------------------------------------


def _seen(action: Action) -> bytes | None:
    """The value that an action says was there; None: no value."""
    if isinstance(action, Read):
        return action.value
    if isinstance(action, Swap) and action.succeeded is not None:
        return action.expected if action.succeeded else action.seen
    return None


def _impossible_reads(key: str, pairs: list[tuple[Interval, Call]], findings: Findings) -> bool:
    """Values that were never written, or only later."""
    written = {
        interval.action.value: interval
        for interval, _ in reversed(pairs)
        if _changes(interval.action)
    }
    calls = {interval.called: call for interval, call in pairs}
    found = False
    for interval, call in pairs:
        seen = _seen(interval.action)
        if seen is None or interval.returned is None:
            continue
        text = f"Key {key!r} had {seen.decode()!r} at {seconds(call.invoke.time_ns)}"
        by = written.get(seen)
        if by is None:
            findings.add(
                "read-of-nothing",
                f"{text}; nobody wrote it, unless in a write that failed.",
                (place(call),),
            )
        elif by.called > interval.returned:
            told = f"{text}, before the write of it was even called."
            findings.add("read-before-write", told, (place(call), place(calls[by.called])))
        else:
            continue
        found = True
    return found


# --- the smallest witness -------------------------------------------------------------------------


def _report(key: str, pairs: list[tuple[Interval, Call]], findings: Findings) -> None:
    by_call = {interval.called: call for interval, call in pairs}
    cut = _cut([interval for interval, _ in pairs])
    small = _shrunk(cut)
    lines = [
        f"{_show(one.action)} by process {by_call[one.called].invoke.process}" for one in small
    ]
    text = (
        f"No order of these operations on key {key!r} explains all of their answers: "
        f"{'; '.join(lines)}."
    )
    ops: list[int] = []
    for one in small:
        ops.append(one.called)
        if one.returned is not None:
            ops.append(one.returned)
    findings.add("not-linearizable", text, ops)


def _show(action: Action) -> str:
    if isinstance(action, Read):
        return f"read of {_text(action.value)}"
    if isinstance(action, Write):
        return f"write of {_text(action.value)}"
    change = f"{_text(action.expected)} to {_text(action.value)}"
    if action.succeeded is None:
        return f"swap of {change} without an answer"
    if action.succeeded:
        return f"swap of {change}"
    return f"failed swap of {change}, which saw {_text(action.seen)}"


def _text(value: bytes | None) -> str:
    return "nothing" if value is None else repr(value.decode())


def _cut(intervals: list[Interval]) -> list[Interval]:
    """Up to the first answer that nothing explains."""
    ends = sorted(one.returned for one in intervals if one.returned is not None)
    low, high = 0, len(ends) - 1  # the cut behind ends[high] is impossible
    while low < high:
        middle = (low + high) // 2
        if _violates(_until(intervals, ends[middle]), KEY_STEPS):
            high = middle
        else:
            low = middle + 1
    return _until(intervals, ends[high])


def _until(intervals: list[Interval], moment: int) -> list[Interval]:
    """What was known at a moment: later calls left out, later answers unknown."""
    found = []
    for one in intervals:
        if one.called > moment:
            continue
        if one.returned is not None and one.returned > moment:
            action = one.action
            if isinstance(action, Read):
                continue
            if isinstance(action, Swap):
                action = Swap(action.expected, action.value, None, None)
            one = Interval(one.called, None, action)
        found.append(one)
    return found


def _violates(intervals: list[Interval], steps: int) -> bool:
    return wgl.check_register(intervals, steps=steps) is wgl.Verdict.VIOLATION


def _shrunk(intervals: list[Interval]) -> list[Interval]:
    """Without what can be left out, in ever smaller pieces (Zeller and Hildebrandt 2002)."""
    left = SHRINKING_STEPS
    kept = list(intervals)
    size = max(len(kept) // 2, 1)
    while True:
        shorter = False
        start = 0
        while start < len(kept) and left > 0:
            piece = kept[start : start + size]
            rest = kept[:start] + kept[start + size :]
            if _may_leave_out(piece, rest):
                steps = 20 * len(rest) + 20_000
                left -= steps // 10
                if _violates(rest, steps):
                    kept, shorter = rest, True
                    continue
            start += size
        if (size == 1 and not shorter) or left <= 0:
            return kept
        size = max(size // 2, 1)


def _may_leave_out(piece: list[Interval], rest: list[Interval]) -> bool:
    """Is a history without the piece possible if the one with it is? Only then may it go."""
    named: set[bytes | None] = set()
    for one in rest:
        action = one.action
        if isinstance(action, Read):
            named.add(action.value)
        elif isinstance(action, Swap):
            named.add(action.seen if action.succeeded is False else action.expected)
    return not any(_changes(one.action) and one.action.value in named for one in piece)


def _changes(action: Action) -> bool:
    return isinstance(action, Write) or (isinstance(action, Swap) and action.succeeded is not False)
