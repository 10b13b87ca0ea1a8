"""Unique ids: no two answers have the same one."""

from typing import Any

from jepsen_lite.checker.base import Evidence, Verdict
from jepsen_lite.checker.findings import Findings
from jepsen_lite.checker.values import answer, of_kind, place


class Unique:
    """f: "generate", answered with an id."""

    def check(self, run: Evidence) -> Verdict:
        """Needs nothing but the history."""
        findings = Findings()
        first: dict[Any, int] = {}
        asked = answered = 0
        for call in of_kind(run.history.calls(), "generate"):
            asked += 1
            value = answer(call)
            if value is None:
                continue
            answered += 1
            one = value["id"]
            other = first.setdefault(one, place(call))
            if other != place(call):
                text = f"The id {one!r} was given out twice."
                findings.add("duplicate-id", text, (other, place(call)))
        return findings.verdict(asked=asked, acknowledged=answered)
