"""Anomalies while they are found: the first few of each name are kept, all are counted."""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from jepsen_lite.checker.base import Anomaly, Fact, Verdict

KEPT: Final = 10  # of one name; who has seen ten has seen the pattern


class Findings:
    """Collects what is wrong. kept: how many anomalies of one name go into the verdict."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self.anomalies: list[Anomaly] = []
        self.counts: Counter[str] = Counter()

    def add(self, name: str, text: str, ops: Iterable[int] = ()) -> None:
        """One more. ops: history indices of the smallest witness, in any order."""
        self.counts[name] += 1
        if self.counts[name] <= self._kept:
            witness = tuple(sorted({op for op in ops if op >= 0}))
            self.anomalies.append(Anomaly(name, text, witness))

    def verdict(self, undecided: bool = False, **facts: Fact) -> Verdict:
        """What was found; facts: with "_" for every space of their names."""
        told: dict[str, Fact] = {name.replace("_", " "): fact for name, fact in facts.items()}
        for name, count in self.counts.items():
            if count > self._kept:
                told[f"{name}, all"] = count
        return Verdict(not self.counts, undecided, told, self.anomalies)
