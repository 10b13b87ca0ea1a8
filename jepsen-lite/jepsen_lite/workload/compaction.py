"""Compactions beside reads of the past, watches from the past, and writes.

A read of an old revision is answered in full or refused as compacted, a watch from an old one is
served in full or cancelled with the compacted revision; nothing in between.
"""

from typing import ClassVar, Final

from jepsen_lite.checker.base import Anomaly, Checker, Evidence, Fact, Verdict
from jepsen_lite.generator import Context, Generator, Wish, each_process, reserve
from jepsen_lite.workload.calls import end_of
from jepsen_lite.workload.churn import KEYS, CaughtUp, Churn
from jepsen_lite.workload.judges import judges
from jepsen_lite.workload.steps import latest_revision, learning

COMPACTIONS: Final = 0.01  # part of the operations that are no watches
OLD_READS: Final = 0.4
READ_BACK: Final = 400  # revisions behind the newest that are read, at most
SPREAD: Final = 50  # of the revisions that are compacted at the same moment
KEPT: Final = 300  # revisions that no compaction takes, so that who follows can follow
SLOWER: Final = (
    5  # a simulated cluster is asked less often: it compacts so much oftener, and nearer
)


class Compaction(Churn):
    """See the module's docstring."""

    name: ClassVar[str] = "compaction"
    summary: ClassVar[str] = "compactions beside old reads, watches and writes"

    compacts: ClassVar[bool] = True
    oldest: ClassVar[int] = READ_BACK

    def generator(self) -> Generator:
        """A third of the processes watch; the others write, read the past and compact it."""
        watchers = max(1, self.options.concurrency // 3)
        rest = learning(self._next, latest_revision, 0)
        return reserve(watchers, each_process(self.watches()), rest)

    def final_generator(self) -> Generator:
        """A watch that must reach the present."""
        return self.last_watches()

    def _next(self, number: int, latest: int, context: Context) -> Wish:
        random = context.random
        lot = random.random()
        scale = SLOWER if self.options.world == "sim" else 1
        compactions = COMPACTIONS * scale
        if lot < compactions:
            at = latest - (KEPT + int(random.random() * SPREAD)) // scale
        else:
            at = latest - int(random.random() * READ_BACK) // scale
        if at <= 1 or lot >= compactions + OLD_READS:
            return self.write(number, latest, context)
        if lot < compactions:
            return {"f": "compact", "value": {"at": at}}
        if random.random() < 0.5:
            key = self.key(int(random.random() * KEYS))
            return {"f": "get", "value": {"key": key, "at": at}}
        first = f"{self.prefix}k"
        return {"f": "range", "value": {"key": first, "end": end_of(first), "at": at}}

    def checkers(self) -> dict[str, Checker]:
        """All promises of watches, and the revision witness, which knows of old reads."""
        return {**judges("watch", "witness"), "caught-up": CaughtUp(), "refused": Refused()}


class Refused:
    """Whether only what was compacted was refused as compacted."""

    def check(self, run: Evidence) -> Verdict:
        """Needs nothing but the history; every compaction counts from its call on."""
        wrong: list[Anomaly] = []
        compacted = refused = compactions = 0
        at: dict[int, int] = {}
        for op in run.history.client_ops():
            value = op.value if isinstance(op.value, dict) else {}
            if op.type == "invoke" and op.f == "compact":
                compacted = max(compacted, value["at"])
            compactions += op.type == "ok" and op.f == "compact"
            if op.type == "invoke":
                at[op.process] = value.get("at", 0)
            elif op.type == "fail" and op.error.startswith("Compacted"):
                refused += 1
                asked = at[op.process]
                if asked > compacted or (asked == compacted and op.f != "compact"):
                    text = f"{op.f} at revision {asked} was refused, {compacted} was compacted."
                    wrong.append(Anomaly("wrongly-refused", text, (op.index,)))
        facts: dict[str, Fact] = {"compactions": compactions, "refused as compacted": refused}
        return Verdict(not wrong, facts=facts, anomalies=wrong[:10])
