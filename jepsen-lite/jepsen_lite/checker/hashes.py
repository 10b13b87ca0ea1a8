"""Members' hashes of their keys, at the same revision, after every fault was healed.

Different hashes at one revision are the worst that can be: members disagree. Where a member gave no
hash, or none at a revision at which another one did, or one of history that was compacted up to
another revision, nothing was compared, and that is never taken for equal (M20): the run is
undecided. Only where no member lets the run's user ask (etcd: it needs the role root) there is
nothing to decide, and the verdict says so.
"""

from collections import Counter
from typing import Any

from jepsen_lite.checker.base import Evidence, Verdict
from jepsen_lite.checker.findings import Findings


class Hashes:
    """See the module's docstring. Looks at `Evidence.final["members"]`."""

    def check(self, run: Evidence) -> Verdict:
        """Needs the hashes of all members, and of two at least."""
        findings = Findings()
        members: dict[str, dict[str, Any]] = run.final.get("members") or {}
        denied = sum("not_permitted" in final for final in members.values())
        if members and denied == len(members):
            return findings.verdict(members=denied, not_permitted_to_compare=denied)
        comparable: dict[tuple[int, int], dict[str, Any]] = {}
        for member, final in members.items():
            for revision, value in (final.get("hashes") or {}).items():
                known, compacted = value, 0
                if isinstance(value, dict):
                    known, compacted = value.get("hash"), value.get("compact_revision", 0)
                if known is not None:
                    comparable.setdefault((int(revision), compacted), {})[member] = known
        compared: set[str] = set()
        comparisons = 0
        for (revision, _), hashes in sorted(comparable.items()):
            if len(hashes) < 2:
                continue
            compared.update(hashes)
            comparisons += 1
            if len(set(hashes.values())) > 1:
                findings.add("members-differ", _told(revision, hashes))
        alone = sorted(members.keys() - compared)
        undecided = bool(alone) or len(members) < 2
        if len(members) >= 2 and alone:
            text = f"Nothing to compare with: {', '.join(alone)}. That does not mean equal."
            findings.add("not-compared", text)
        elif len(members) < 2 and run.options.members > 1:
            findings.add("not-compared", "There are not two members with hashes to compare.")
        elif run.options.members == 1:
            undecided = False
        return findings.verdict(
            undecided, members=len(members), revisions_compared=comparisons, compared=len(compared)
        )


def _told(revision: int, hashes: dict[str, Any]) -> str:
    """Who is wrong, if a majority agrees (M19)."""
    amounts = Counter(hashes.values())
    most, count = amounts.most_common(1)[0]
    listed = ", ".join(f"{member} {value}" for member, value in sorted(hashes.items()))
    text = f"At revision {revision} members have different hashes: {listed}."
    if 2 * count <= len(hashes):
        return text
    wrong = sorted(member for member, value in hashes.items() if value != most)
    return f"{text} A majority says that it is {', '.join(wrong)}."
