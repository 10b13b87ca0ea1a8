"""A counter: every read is between what was surely added and what may have been (`bounds`).

If nothing is ever subtracted, a read that is called after another one was answered must not see
less.
"""

from jepsen_lite.checker.base import Evidence, Verdict
from jepsen_lite.checker.bounds import Bounds
from jepsen_lite.checker.findings import Findings
from jepsen_lite.checker.values import answer, asked, of_kind, place
from jepsen_lite.history import Call


class Counter:
    """See the module's docstring. f: "add" with a delta and "read" with a total."""

    def __init__(self, initial: int = 0) -> None:
        self._initial = initial

    def check(self, run: Evidence) -> Verdict:
        """Needs nothing but the history."""
        findings = Findings()
        calls = run.history.calls()
        bounds = Bounds(self._initial)
        adds = list(of_kind(calls, "add"))
        for call in adds:
            bounds.add(call, asked(call)["delta"])
        reads = [
            (call, value["total"])
            for call in of_kind(calls, "read")
            if (value := answer(call)) is not None and not value.get("serializable")
        ]
        for call, total in reads:
            low, high = bounds.at(call)
            if not low <= total <= high:
                text = (
                    f"A read saw {total}; by what was answered before it and called until then it "
                    f"must be {low}" + (f" to {high}." if high > low else ".")
                )
                findings.add("out-of-bounds", text, (call.invoke.index, place(call)))
        if all(asked(call)["delta"] >= 0 for call in adds):
            _backwards(reads, findings)
        return findings.verdict(
            adds=len(adds), acknowledged=sum(call.ok for call in adds), reads=len(reads)
        )


def _backwards(reads: list[tuple[Call, int]], findings: Findings) -> None:
    """Reads that see less than one that was answered before they were called."""
    by_end = sorted(reads, key=lambda read: place(read[0]))
    upto = 0
    most: tuple[Call, int] | None = None
    for call, total in reads:
        while upto < len(by_end) and place(by_end[upto][0]) < call.invoke.index:
            if most is None or by_end[upto][1] > most[1]:
                most = by_end[upto]
            upto += 1
        if most is not None and total < most[1]:
            text = f"A read saw {total}, but {most[1]} had been read before it was called."
            findings.add("went-back", text, (place(most[0]), call.invoke.index, place(call)))
