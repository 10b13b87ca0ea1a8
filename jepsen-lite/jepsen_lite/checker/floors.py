"""A run that did nothing is green, so every run has floors; under any of them it has failed.

operations      at least `LEAST_PER_SECOND` a second, or a tenth of the rate that was asked for
success         of the calls outside fault windows (and `SETTLE_SECONDS` behind each) at least the
                workload's `least_success`; where faults leave too few, a tenth of all calls
events          the store's log was gathered, and has at least some
faults          every chosen kind struck at least once
recovery        after the faults every member served again
completeness    the history contradicts itself nowhere
substance       every checker of the workload has seen some of what it is to judge (`unseen`)
"""

from collections.abc import Mapping, Sequence
from typing import Final

from jepsen_lite.checker.base import Anomaly, Evidence, Fact, Verdict, Window
from jepsen_lite.history import Call, HistoryError

LEAST_PER_SECOND: Final = 2.0
SHARE_OF_RATE: Final = 0.1
LEAST_SHARE: Final = 0.1
LEAST_EVENTS: Final = 5
LEAST_CALLS: Final = 20
SETTLE_SECONDS: Final = 5.0
_NS: Final = 1_000_000_000


class Floors:
    """See the module's docstring. least_success: share of calls, 0..1."""

    def __init__(self, least_success: float = 0.5) -> None:
        self._least_success = least_success

    def check(self, run: Evidence) -> Verdict:
        """An interrupted run is undecided: it had no time to reach its floors."""
        found: list[Anomaly] = []
        facts: dict[str, Fact] = {}
        calls = run.history.calls()
        if trouble := run.final.get("unrecovered"):  # first: others are what comes of it
            found.append(_under("not-recovered", f"after the faults: {trouble}"))
        self._operations(run, calls, facts, found)
        self._success(run, calls, facts, found)
        if run.log is None or len(run.log.events) < LEAST_EVENTS:
            events = 0 if run.log is None else len(run.log.events)
            found.append(_under("few-events", f"the store's log has {events} events"))
        facts["events of the store"] = 0 if run.log is None else len(run.log.events)
        struck = {window.kind for window in run.windows}
        facts["faults"] = len(run.windows)
        for kind in run.options.nemeses:
            facts[f"faults: {kind}"] = sum(window.kind == kind for window in run.windows)
            if kind not in struck:
                found.append(_under("no-fault", f"the nemesis {kind} never struck"))
        interrupted = bool(run.final.get("interrupted"))
        if interrupted:
            found = [one for one in found if one.name == "not-recovered"]
        try:
            run.history.check_complete()
        except HistoryError as error:
            found.append(_under("incomplete-history", str(error)))
        return Verdict(not found, interrupted, facts, found)

    def _operations(
        self, run: Evidence, calls: list[Call], facts: dict[str, Fact], found: list[Anomaly]
    ) -> None:
        options = run.options
        per_second = min(LEAST_PER_SECOND, options.rate or LEAST_PER_SECOND)
        least = int(options.seconds * max(per_second, options.rate * SHARE_OF_RATE))
        facts["operations"] = len(calls)
        facts["operations: floor"] = least
        if len(calls) < least:
            found.append(_under("few-operations", f"{len(calls)} operations, not {least}"))

    def _success(
        self, run: Evidence, calls: list[Call], facts: dict[str, Fact], found: list[Anomaly]
    ) -> None:
        calm = outside(calls, run.windows)
        counted, least = calm, self._least_success
        if len(calm) < LEAST_CALLS:
            counted, least = calls, min(LEAST_SHARE, self._least_success)
        share = sum(call.ok for call in counted) / max(len(counted), 1)
        facts["calls outside faults"] = len(calm)
        facts["success"] = round(share, 4)
        facts["success: floor"] = least
        if share < least:
            text = f"{share:.0%} of {len(counted)} operations succeeded, not {least:.0%}"
            found.append(_under("little-success", text))


def outside(calls: list[Call], windows: list[Window]) -> list[Call]:
    """The calls that lie outside every fault and its settling. calls: by the time they began."""
    settle_ns = int(SETTLE_SECONDS * _NS)
    spans: list[tuple[int, int]] = []
    for window in sorted(windows, key=lambda one: one.start_ns):
        end_ns = window.end_ns + settle_ns
        if spans and window.start_ns <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], end_ns))
        else:
            spans.append((window.start_ns, end_ns))
    found: list[Call] = []
    place = 0
    for call in calls:
        begun = call.invoke.time_ns
        while place < len(spans) and spans[place][1] < begun:
            place += 1
        ended = begun if call.end is None else call.end.time_ns
        if place == len(spans) or ended < spans[place][0]:
            found.append(call)
    return found


def unseen(
    verdicts: Mapping[str, Verdict], to_be_seen: Mapping[str, Sequence[str]]
) -> list[Anomaly]:
    """What checkers had none of, by what they say that they counted. to_be_seen: by checker.

    A checker that could not count is undecided by itself.
    """
    return [
        _under("nothing-judged", f"the checker {name} saw none of: {fact}")
        for name, facts in to_be_seen.items()
        if name in verdicts and not verdicts[name].undecided
        for fact in facts
        if not verdicts[name].facts.get(fact)
    ]


def _under(name: str, text: str) -> Anomaly:
    return Anomaly(name, f"The run proves too little: {text}.")
