"""What a checker is given, and what it says.

A checker sees the evidence of a whole run and gives a verdict: valid, not valid with the smallest
witnesses of what is wrong, or undecided (it ran out of its budget), which counts as a failure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from jepsen_lite.history import History
from jepsen_lite.workload.options import Options

Fact = int | float | str


@dataclass(frozen=True, slots=True)
class Anomaly:
    """Something that must not be.

    name: as in the literature where it has one ("G-single", "stale-read"). text: one or two
    sentences for people. ops: indices in the history, of the smallest witness.
    """

    name: str
    text: str
    ops: tuple[int, ...] = ()


@dataclass(slots=True)
class Verdict:
    """What a checker found.

    valid: nothing is wrong. undecided: it could not be decided within the budget: a failure as
    well. facts: what was counted ("events checked": 81345). anomalies: what is wrong.
    """

    valid: bool
    undecided: bool = False
    facts: dict[str, Fact] = field(default_factory=dict)
    anomalies: list[Anomaly] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether the run may be called correct by this checker."""
        return self.valid and not self.undecided


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One change that the store made, as its own watch tells it.

    value: None = the key was deleted. version, create_revision: the key's, 0 when deleted.
    lease: id of the lease that the key is attached to; 0 = none.
    """

    revision: int
    key: str
    value: str | None
    version: int
    create_revision: int
    lease: int = 0


@dataclass(slots=True)
class StoreLog:
    """Everything that the store did under the run's prefix, in order.

    revisions: those that changed something, each once, growing. events: sorted by revision, in
    the order of the watch. first_revision: the store's when the run began; last_revision: when
    the evidence was gathered; between them nothing is missing.
    compacted_revision: history up to it could not be read any more when the evidence was
    gathered; 0 = all was there.
    """

    revisions: list[int] = field(default_factory=list)
    events: list[LogEvent] = field(default_factory=list)
    first_revision: int = 0
    last_revision: int = 0
    compacted_revision: int = 0


@dataclass(frozen=True, slots=True)
class Window:
    """One fault, from its beginning to its end.

    kind: of the nemesis ("partition"). start_ns, end_ns: nanoseconds since the run began.
    detail: what was done, for people.
    """

    kind: str
    start_ns: int
    end_ns: int
    detail: str = ""


@dataclass(slots=True)
class Evidence:
    """Everything that checkers may look at.

    history: what clients and the nemesis did. log: what the store did; None if it could not be
    read. final: {"members": {endpoint: {"revision", "hashes": {revision: hash}, "status"}}}.
    member_logs: member -> its log file. windows: faults. options: of the run.
    """

    history: History
    log: StoreLog | None
    options: Options
    final: dict[str, Any] = field(default_factory=dict)
    member_logs: Mapping[str, Path] = field(default_factory=dict)
    windows: list[Window] = field(default_factory=list)


class Checker(Protocol):
    """Judges one promise."""

    def check(self, run: Evidence) -> Verdict:
        """Looks at the whole run."""
        ...
