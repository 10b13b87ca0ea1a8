"""The values that Raft's rules speak of: entries, hard state, configurations.

Words, never mixed: `index` is a place in the Raft log (first entry: 1),
`term` is Raft's logical clock, `number` counts disk batches.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

NOBODY: Final = 0  # "no member": an unknown leader, a vote not given

# Kinds of log entries. Plain ints, because they are compared for every entry.
NORMAL: Final = 0  # payload: a command of the state machine
NOOP: Final = 1  # payload empty: a new leader's first entry (Raft 8, "no-op")
CONFIG: Final = 2  # payload: an encoded Configuration plus context (raft.membership)

ENTRY_KINDS: Final = (NORMAL, NOOP, CONFIG)


class Entry:
    """One log entry. Immutable by convention; a slots class because it is made per put."""

    __slots__ = ("index", "kind", "payload", "term")

    def __init__(self, index: int, term: int, kind: int, payload: bytes) -> None:
        self.index = index
        self.term = term
        self.kind = kind
        self.payload = payload

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Entry)
            and self.index == other.index
            and self.term == other.term
            and self.kind == other.kind
            and self.payload == other.payload
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Entry({self.index}, {self.term}, {self.kind}, {self.payload!r})"


class HardState(NamedTuple):
    """What must be durable before any message that depends on it (Raft fig. 2)."""

    term: int = 0
    vote: int = NOBODY


@dataclass(frozen=True, slots=True)
class Configuration:
    """Who votes and who listens (Raft 6, joint consensus).

    voters: member ids of C_new (or of the only configuration), sorted.
    outgoing: member ids of C_old while joint, else empty. Both majorities decide.
    learners: receive the log, count in no quorum (dissertation 4.2.1).
    learners_next: voters of `outgoing` that become learners when the joint
        configuration is left; they may not be in `learners` while they vote.
    """

    voters: tuple[int, ...] = ()
    outgoing: tuple[int, ...] = ()
    learners: tuple[int, ...] = ()
    learners_next: tuple[int, ...] = ()

    @property
    def joint(self) -> bool:
        """True while C_old,new is in force."""
        return bool(self.outgoing)

    def members(self) -> tuple[int, ...]:
        """Every member id that receives the log, sorted, each once."""
        return tuple(sorted({*self.voters, *self.outgoing, *self.learners, *self.learners_next}))

    def is_voter(self, member: int) -> bool:
        """True if `member` counts in a quorum of this configuration."""
        return member in self.voters or member in self.outgoing


@dataclass(frozen=True, slots=True)
class SnapshotMeta:
    """What a snapshot stands for: every entry up to and including `index`."""

    index: int
    term: int
    configuration: Configuration


@dataclass(frozen=True, slots=True)
class LogBatch:
    """One write to the log, all or nothing, durable when it returns.

    number: counts batches of this process from 1, without holes.
    hard_state: written (both copies of the mark) BEFORE the entries; None: unchanged.
    reset: drop the whole log and start behind this snapshot; None: keep.
    truncate_from: drop entries at this index and above first; 0: none.
    entries: contiguous, appended behind what is left. May be empty.
    """

    number: int
    hard_state: HardState | None
    reset: SnapshotMeta | None
    truncate_from: int
    entries: list[Entry]


@dataclass(frozen=True, slots=True)
class RecoveredLog:
    """What storage found at open; the core starts from it.

    hard_state: the durable term and vote.
    anchor_index, anchor_term: the entry before the first one kept (0, 0: none dropped yet).
    last_index, last_term: the newest entry; the anchor's if the log is empty.
    term_runs: (first index, term) of every run of equal terms after the anchor, ascending,
        so that the term of any index is known without reading the disk.
    configurations: (index, payload) of every CONFIG entry after the anchor, ascending.
    """

    hard_state: HardState
    anchor_index: int
    anchor_term: int
    last_index: int
    last_term: int
    term_runs: list[tuple[int, int]]
    configurations: list[tuple[int, bytes]]
