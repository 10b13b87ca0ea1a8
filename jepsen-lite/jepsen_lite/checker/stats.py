"""How many, how fast, and when nothing worked. It judges nothing: every verdict is valid.

By f: how many were called, answered, refused and of unknown outcome; latencies of the answered ones
in milliseconds. Unavailability: the times between two answers in which nothing was answered for
longer than `quiet_s`, though something had been called.
"""

from collections import Counter
from typing import Final

from jepsen_lite.checker.base import Evidence, Fact, Verdict
from jepsen_lite.checker.values import seconds
from jepsen_lite.history import Call

QUIET_S: Final = 1.0
PERCENTS: Final = (50, 95, 99)


class Stats:
    """See the module's docstring. quiet_s: seconds without an answer that are worth telling."""

    def __init__(self, quiet_s: float = QUIET_S) -> None:
        self._quiet_ns = int(quiet_s * 1e9)

    def check(self, run: Evidence) -> Verdict:
        """Needs nothing but the history."""
        calls = run.history.calls()
        facts: dict[str, Fact] = {"operations": len(calls)}
        outcomes = Counter(_outcome(call) for call in calls)
        for name in ("ok", "fail", "info"):
            facts[name] = outcomes[name]
        if calls:
            facts["share answered"] = round(outcomes["ok"] / len(calls), 4)
            last_ns = max(op.time_ns for op in run.history.client_ops())
            took_s = max((last_ns - calls[0].invoke.time_ns) / 1e9, 1e-9)
            facts["seconds"] = round(took_s, 3)
            facts["operations per second"] = round(len(calls) / took_s, 1)
        for f in sorted({call.invoke.f for call in calls}):
            facts.update(_of_kind(f, [call for call in calls if call.invoke.f == f]))
        quiet = unavailable(calls, self._quiet_ns)
        facts["unavailable windows"] = len(quiet)
        facts["unavailable seconds"] = round(sum(end - begin for begin, end in quiet) / 1e9, 3)
        if quiet:
            begin, end = max(quiet, key=lambda one: one[1] - one[0])
            facts["longest without an answer"] = f"{seconds(end - begin)} from {seconds(begin)}"
        return Verdict(True, facts=facts)


def _outcome(call: Call) -> str:
    return call.end.type if call.end is not None else "info"


def latencies_ns(calls: list[Call]) -> list[int]:
    """Of the answered ones, sorted."""
    return sorted(
        call.end.time_ns - call.invoke.time_ns
        for call in calls
        if call.end is not None and call.end.type == "ok"
    )


def percentile(ordered: list[int], percent: float) -> int:
    """The smallest value that so many percent are not above. ordered: not empty."""
    return ordered[max(0, -int(-len(ordered) * percent // 100) - 1)]


def _of_kind(f: str, calls: list[Call]) -> dict[str, Fact]:
    outcomes = Counter(_outcome(call) for call in calls)
    told = " ".join(f"{name} {outcomes[name]}" for name in ("ok", "fail", "info"))
    facts: dict[str, Fact] = {f: told}
    ordered = latencies_ns(calls)
    if ordered:
        for percent in PERCENTS:
            facts[f"{f} p{percent} ms"] = round(percentile(ordered, percent) / 1e6, 3)
        facts[f"{f} max ms"] = round(ordered[-1] / 1e6, 3)
    return facts


def unavailable(calls: list[Call], quiet_ns: int) -> list[tuple[int, int]]:
    """Windows in nanoseconds since the run began.

    One begins with the first call after an answer (or with the run) and ends with the next answer;
    calls that are never answered lead up to the end of the run.
    """
    events = [(call.invoke.time_ns, 0) for call in calls]
    events += [(call.end.time_ns, 1) for call in calls if call.end and call.end.type == "ok"]
    events.sort()
    found = []
    waiting_since = -1
    for time_ns, is_answer in events:
        if not is_answer:
            waiting_since = time_ns if waiting_since < 0 else waiting_since
            continue
        if waiting_since >= 0 and time_ns - waiting_since > quiet_ns:
            found.append((waiting_since, time_ns))
        waiting_since = -1
    if waiting_since >= 0 and events[-1][0] - waiting_since > quiet_ns:
        found.append((waiting_since, events[-1][0]))
    return found
