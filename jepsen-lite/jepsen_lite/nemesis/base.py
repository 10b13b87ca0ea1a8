"""A nemesis: one kind of fault, as operations of the process NEMESIS.

Its generator says when faults begin and end; `invoke` makes them on the target and says what it
really did. What it did must be undone by `heal`, whatever happened in between.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from random import Random
from typing import Any, ClassVar

from jepsen_lite.generator import Generator
from jepsen_lite.history import Op
from jepsen_lite.target.base import Target


class Nemesis(ABC):
    """One kind of fault. Subclasses are registered by name in `jepsen_lite.nemesis`.

    name: on the command line. fs: the f's of the operations that it handles; those that begin a
    fault begin with "start-", those that end it with "stop-" (a fault without an end, as a
    leadership transfer, has a name of its own). needs: what the target must be able to do.
    """

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    fs: ClassVar[frozenset[str]] = frozenset()
    needs: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def generator(self, random: Random) -> Generator:
        """Faults without end: start, sleep, stop, sleep. random: to choose the seed of each."""

    def final(self) -> list[Mapping[str, Any]]:
        """The operations that end what may still last, in order."""
        return [{"f": f} for f in sorted(self.fs) if f.startswith("stop-")]

    async def setup(self, target: Target) -> None:
        """Before anything else, once the target runs. Errors: TargetError."""
        self.target = target

    @abstractmethod
    async def invoke(self, op: Op) -> Op:
        """Begins or ends a fault. Returns its completion, `op.done("info", what was done)`.

        What could not be done (no leader to isolate) is "info" as well, with the value "nothing"
        or {"nothing": why}: it does not count as a fault that struck.
        """

    @abstractmethod
    async def heal(self) -> None:
        """Undoes everything. May be called at any time and again."""

    async def evidence(self) -> Mapping[str, Any]:
        """What checkers are to know of it, behind the recovery: by its name in `final`.

        Errors: TargetError.
        """
        return {}
