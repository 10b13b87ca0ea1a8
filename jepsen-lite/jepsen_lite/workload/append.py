"""Lists that are appended to: the workload whose order of transactions can be read off.

A key's value is a list in JSON. Elements are unique, so each read shows the order of all writes of
the key before it (Kingsbury and Alvaro, "Elle", 2020).
"""

import json
from typing import Any, ClassVar

from jepsen_lite.checker.base import Checker
from jepsen_lite.workload.judges import judges
from jepsen_lite.workload.transactions import Micro, Transactions


class Append(Transactions):
    """See the module's docstring."""

    name: ClassVar[str] = "append"
    summary: ClassVar[str] = "transactions that read lists and append to them"
    write: ClassVar[str] = "append"

    def fresh(self, number: int) -> int:
        """An element."""
        return number

    def apply(
        self, micros: list[Micro], found: dict[str, Any]
    ) -> tuple[list[Micro], dict[str, str]]:
        """Reads see what the same transaction has appended before them."""
        lists = {name: json.loads(kv["value"]) if kv else [] for name, kv in found.items()}
        done: list[Micro] = []
        changed: dict[str, None] = {}
        for what, name, element in micros:
            if what == "r":
                done.append([what, name, list(lists[name])])
            else:
                lists[name].append(element)
                changed[name] = None
                done.append([what, name, element])
        return done, {name: json.dumps(lists[name], separators=(",", ":")) for name in changed}

    def checkers(self) -> dict[str, Checker]:
        """Cycles of dependencies, and the revision witness."""
        return judges("append", "witness")
