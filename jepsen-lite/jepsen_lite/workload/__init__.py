"""Workloads by name."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from jepsen_lite import registry

if TYPE_CHECKING:
    from jepsen_lite.workload.base import Workload

WORKLOADS: Final[Mapping[str, str]] = {
    "append": "jepsen_lite.workload.append:Append",
    "bank": "jepsen_lite.workload.bank:Bank",
    "cache": "jepsen_lite.workload.cache:CacheWorkload",
    "compaction": "jepsen_lite.workload.compaction:Compaction",
    "counter": "jepsen_lite.workload.counter:Counter",
    "election": "jepsen_lite.workload.election:Election",
    "lease": "jepsen_lite.workload.leases:Leases",
    "lock": "jepsen_lite.workload.locks:Lock",
    "lock-unfenced": "jepsen_lite.workload.locks:LockUnfenced",
    "queue": "jepsen_lite.workload.queue:Queue",
    "register": "jepsen_lite.workload.register:Register",
    "set": "jepsen_lite.workload.sets:Set",
    "unique": "jepsen_lite.workload.unique:Unique",
    "watch": "jepsen_lite.workload.watch:Watch",
    "wr": "jepsen_lite.workload.wr:WriteRead",
}


def workload_class(name: str) -> "type[Workload]":
    """The class of this name. Errors: UnknownName."""
    found: type[Workload] = registry.find("workload", WORKLOADS, name)
    return found
