"""What a turn of the Raft core asks its driver to do, and in which order.

The order is data: a driver executes `Ready` like this and needs no other rule.

 1. `installed` (if any): the received state replaces the local one (already complete on
    disk); the log is reset to an anchor at its index as part of the batch.
 2. Hand `batch` to the disk. Batches are written in the order of their numbers, and
    batch n+1 only after batch n is synced. When n is synced: `core.persisted(n)`.
 3. Send `messages` at once, before the disk answers (dissertation 10.2.1: a leader
    sends entries to followers in parallel with its own write).
 4. Send `after[i]` when batch `after_number` is synced. `after_number` is this batch's number,
    or the newest number handed out before if there is no batch; 0 or already synced: at once.
 5. Apply `committed` in order.
 6. Give up the reads of `lost_reads`, then answer those of `reads`.
"""

from dataclasses import dataclass, field

from raftkv.raft.messages import Message
from raftkv.raft.types import Entry, LogBatch, SnapshotMeta


@dataclass(frozen=True, slots=True)
class ReadState:
    """A confirmed read: requests up to `number` may be served once `index` is applied."""

    number: int
    index: int


@dataclass(slots=True)
class Ready:
    """See the module's docstring for the order of execution.

    role_changed: leader, term or role differ from the last Ready.
    regressed: members that a leader has now seen to have lost entries which they acknowledged:
        their directory is damaged or was replaced; they count no more in this term.
    lost_reads: numbers of reads that were given up (leader or term changed): the caller
        asks again or fails them; never serve them.
    """

    batch: LogBatch | None = None
    messages: list[Message] = field(default_factory=list)
    after: list[Message] = field(default_factory=list)
    after_number: int = 0
    committed: list[Entry] = field(default_factory=list)
    reads: list[ReadState] = field(default_factory=list)
    lost_reads: list[int] = field(default_factory=list)
    installed: SnapshotMeta | None = None
    role_changed: bool = False
    regressed: list[int] = field(default_factory=list)
