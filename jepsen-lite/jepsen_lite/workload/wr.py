"""Transactions that read and write registers, every value written once only.

The store's revisions tell the order of a key's versions, so dependencies between transactions are
known and need not be guessed.
"""

from typing import Any, ClassVar

from jepsen_lite.checker.base import Checker
from jepsen_lite.workload.judges import judges
from jepsen_lite.workload.transactions import Micro, Transactions


class WriteRead(Transactions):
    """See the module's docstring."""

    name: ClassVar[str] = "wr"
    summary: ClassVar[str] = "transactions that read and write several keys"
    write: ClassVar[str] = "w"

    def fresh(self, number: int) -> str:
        """A value."""
        return f"v{number}"

    def apply(
        self, micros: list[Micro], found: dict[str, Any]
    ) -> tuple[list[Micro], dict[str, str]]:
        """Reads see what the same transaction has written before them."""
        values: dict[str, Any] = {name: kv["value"] if kv else None for name, kv in found.items()}
        done: list[Micro] = []
        writes: dict[str, str] = {}
        for what, name, value in micros:
            if what == "w":
                values[name] = writes[name] = value
            done.append([what, name, values[name]])
        return done, writes

    def told(self, micros: list[Micro], found: dict[str, Any]) -> dict[str, Any]:
        """Which version of each key was read."""
        names = {name for what, name, _ in micros if what == "r"}
        versions = {
            name: kv["mod_revision"] if kv else 0 for name, kv in found.items() if name in names
        }
        return {"versions": versions}

    def checkers(self) -> dict[str, Checker]:
        """Cycles of dependencies, and the revision witness."""
        return judges("wr", "witness")
