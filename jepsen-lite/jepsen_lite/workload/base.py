"""A workload: what clients do, and which checkers judge it.

The generator says what to do next (pure, `jepsen_lite.generator`), `invoke` does one operation
with a session, and the checkers of `checkers` look at what came of all of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from jepsen_lite.checker.base import Checker
from jepsen_lite.generator import Generator
from jepsen_lite.history import Op
from jepsen_lite.workload.options import Options

if TYPE_CHECKING:
    from jepsen_lite.session import Session

__all__ = ["ALL_WORLDS", "Options", "Workload"]

ALL_WORLDS = frozenset({"processes", "compose", "attach", "sim"})


class Workload(ABC):
    """One kind of use. Subclasses are registered by name in `jepsen_lite.workload`.

    name: on the command line. reads: the f's of operations that change nothing: whatever goes
    wrong, they end with "fail". worlds: where it can run. needs: {"raftkv"} if etcd lacks
    something that it uses. compacts: it compacts history, so the store's log is followed while the
    run goes on instead of read at its end. least_success: the least share of operations that
    must succeed outside faults, 0..1.
    """

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    reads: ClassVar[frozenset[str]] = frozenset()
    worlds: ClassVar[frozenset[str]] = ALL_WORLDS
    needs: ClassVar[frozenset[str]] = frozenset()
    compacts: ClassVar[bool] = False
    least_success: ClassVar[float] = 0.5

    def __init__(self, options: Options) -> None:
        self.options = options
        self.prefix = options.prefix

    @abstractmethod
    def generator(self) -> Generator:
        """What clients do in the main phase: endless; the run limits its time."""

    def final_generator(self) -> Generator | None:
        """What they do after every fault is healed; it must end by itself. None = nothing."""
        return None

    async def open(self, session: "Session", process: int) -> None:  # noqa: B027
        """Once for every new session, before its first operation. Errors: ClientError."""

    async def close(self, session: "Session", process: int) -> None:  # noqa: B027
        """Once for every session that ends, before it is closed. Errors are ignored."""

    @abstractmethod
    async def invoke(self, session: "Session", op: Op) -> Op:
        """Carries out one operation; returns its completion (`op.done`).

        Errors: ClientError; its outcome decides between "fail" and "info".
        """

    @abstractmethod
    def checkers(self) -> dict[str, Checker]:
        """Who judges the run, by name."""

    def to_be_seen(self) -> dict[str, Sequence[str]]:
        """Facts by checker; where one of them is 0, that checker had nothing to judge."""
        from jepsen_lite.workload.judges import SEEN

        return {name: SEEN[name] for name in self.checkers() if name in SEEN}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.options!r})"


def wrote(revision: int, **fields: Any) -> dict[str, Any]:
    """The value of an operation that was answered at this revision of the store."""
    return {**fields, "revision": revision}
