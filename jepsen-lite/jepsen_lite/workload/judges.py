"""The checkers that workloads name, imported when a run is judged."""

from collections.abc import Mapping, Sequence
from typing import Final

from jepsen_lite import registry
from jepsen_lite.checker.base import Anomaly, Checker, Evidence, Verdict

REFUSED: Final = "ClusterChanged"
JUDGES: Final[Mapping[str, str]] = {
    "append": "jepsen_lite.checker.append:Append",
    "bank": "jepsen_lite.checker.bank:Bank",
    "cache": "jepsen_lite.checker.cache:Cache",
    "counter": "jepsen_lite.checker.counter:Counter",
    "election": "jepsen_lite.checker.elections:Election",
    "lease": "jepsen_lite.checker.leases:Lease",
    "linear": "jepsen_lite.checker.linear:Linearizable",
    "lock": "jepsen_lite.checker.locks:Lock",
    "queue": "jepsen_lite.checker.queues:Queue",
    "set": "jepsen_lite.checker.sets:Set",
    "unique": "jepsen_lite.checker.unique:Unique",
    "watch": "jepsen_lite.checker.watch:Watch",
    "witness": "jepsen_lite.checker.witness:Witness",
    "wr": "jepsen_lite.checker.wr:WriteRead",
}

#: Facts of each checker that a run which proves something has at least one of.
SEEN: Final[Mapping[str, Sequence[str]]] = {
    "append": ("reads", "edges"),
    "bank": ("acknowledged", "reads"),
    "cache": ("keys compared",),
    "counter": ("acknowledged", "reads"),
    "election": ("terms", "observations"),
    "lease": ("lower bounds checked", "upper bounds checked"),
    "linear": ("operations",),
    "lock": ("acquisitions", "writes"),
    "queue": ("came out",),
    "refused": ("compactions",),
    "set": ("acknowledged", "reads"),
    "unique": ("acknowledged",),
    "watch": ("watches", "events checked", "bookmarks"),
    "witness": ("operations checked",),
    "wr": ("reads",),
}


def judges(*names: str) -> dict[str, Checker]:
    """A checker of each name, and that of what the client refused. Errors: UnknownName."""
    found: dict[str, Checker] = {name: registry.find("checker", JUDGES, name)() for name in names}
    return {**found, "one-past": OnePast()}


class OnePast:
    """Whether a client was answered from an older past, or by another cluster.

    The client library compares what each answer says with those before it and gives an error
    instead of such an answer. So a stale read would not be seen as a read: it is seen here.
    """

    def check(self, run: Evidence) -> Verdict:
        """Needs nothing but the history."""
        wrong = [
            Anomaly("older-past", f"{op.f} of process {op.process}: {op.error}", (op.index,))
            for op in run.history.client_ops()
            if op.error.startswith(REFUSED)
        ]
        return Verdict(not wrong, facts={"answers refused": len(wrong)}, anomalies=wrong[:10])
