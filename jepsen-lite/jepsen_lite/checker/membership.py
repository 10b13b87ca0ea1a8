"""Who is a member, after members came and went (the nemesis `member`).

* Every member names the same members, by ids, names, URLs and votes; they are those that there
  should be, and no learner is left.
* No id comes back: one that was removed is in no table, and none was given out twice (R34).
* Who was removed has ended by itself, with the exit code that says why, also where it was down when
  it was removed (R31). That holds where the system promises it, and not for a disk that was lost.
* Every kind of change that was begun was done at least once.
"""

from collections import Counter
from typing import Any

from jepsen_lite.checker.base import Evidence, Verdict
from jepsen_lite.checker.findings import Findings


class Membership:
    """See the module's docstring. Looks at `Evidence.final["membership"]`."""

    def check(self, run: Evidence) -> Verdict:
        """Undecided if nobody was asked."""
        findings = Findings()
        told: dict[str, Any] = run.final.get("membership") or {}
        tables: dict[str, list[Any]] = told.get("tables") or {}
        if not tables:
            return findings.verdict(undecided=True, tables=0)
        self._tables(tables, told["current"], findings)
        removed = told["removed"]
        gone = {one["number"] for one in removed}
        for number in sorted(gone & {row[0] for table in tables.values() for row in table}):
            findings.add("removed-is-back", f"The removed member {number} is in a member table.")
        for number, times in sorted(Counter(told["numbers"]).items()):
            if times > 1:
                findings.add("id-twice", f"The member id {number} was given out {times} times.")
        self._ends(removed, told["exit code"], findings)
        begun, done = told["begun"], told["done"]
        for kind in sorted(begun):
            if not done.get(kind):
                findings.add("not-done", f"No change of the kind {kind!r} came to its end.")
        return findings.verdict(
            tables=len(tables),
            changes=sum(done.values()),
            removed=len(removed),
            ids=len(told["numbers"]),
            **{kind.replace("-", "_"): count for kind, count in sorted(done.items())},
        )

    def _tables(self, tables: dict[str, list[Any]], current: list[str], findings: Findings) -> None:
        first_name, first = next(iter(sorted(tables.items())))
        for name, table in sorted(tables.items()):
            if table != first:
                text = f"{name} has the members {table}, {first_name} has {first}."
                findings.add("tables-differ", text)
        numbers = sorted(row[0] for row in first)
        if numbers != sorted(current):
            text = f"The members are {', '.join(numbers)} and should be {', '.join(current)}."
            findings.add("wrong-members", text)
        if learners := [row[1] or row[0] for row in first if row[3]]:
            findings.add("learner-left", f"Without a vote: {', '.join(learners)}.")

    def _ends(self, removed: list[dict[str, Any]], code: int | None, findings: Findings) -> None:
        for one in removed:
            if code is not None and not one["disk lost"] and one["code"] != code:
                ended = "did not end" if one["code"] is None else f"ended with {one['code']}"
                text = f"{one['name']} was removed and {ended}, instead of ending with {code}."
                findings.add("removed-goes-on", text)
