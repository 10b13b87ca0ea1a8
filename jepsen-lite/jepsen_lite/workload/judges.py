"""The checkers that workloads name, imported when a run is judged."""

from collections.abc import Mapping
from typing import Final

from jepsen_lite import registry
from jepsen_lite.checker.base import Checker

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


def judges(*names: str) -> dict[str, Checker]:
    """A checker of each name. Errors: UnknownName."""
    return {name: registry.find("checker", JUDGES, name)() for name in names}
