"""What one turn of a replica asks its driver to do.

The order of execution is that of `raftkv.raft.ready`:

 1. `messages` go at once, before any disk work of this turn.
 2. `batch` goes to the disk; when it is durable: `replica.on_persisted(number)`.
 3. `after` goes when batch `after_number` is durable (at once if it already is).
 4. `replies` are answers to tickets: a `Result` (about leases a `LeaseAnswer`), or the `ApiError`
    to give instead.
 5. `reads` are tickets whose linearizable read may be served from the state as it is now,
    before the next turn.
 6. The rest starts longer work, whose end is told to the replica by a method of the same name.
"""

from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from raftkv.errors import ApiError
from raftkv.kv.machine import Result, StateMachine
from raftkv.kv.store import Change
from raftkv.raft.messages import InstallSnapshot, Message
from raftkv.raft.types import LogBatch, SnapshotMeta

Ticket: TypeAlias = object  # whatever the driver gave with a request; handed back untouched


class LeaseAnswer(NamedTuple):
    """The leader's clock about a lease.

    ttl_seconds: after a renewal what was granted, 0: there is no such lease. Else the whole seconds
    that are left, -1: there is no such lease. granted_seconds: 0 if there is none.
    """

    lease: int
    ttl_seconds: int
    granted_seconds: int


@dataclass(slots=True)
class Effects:
    """See the module's docstring.

    snapshots: start sending the whole state to `to`; report by `on_snapshot_sent`.
    installed: the received state has become the current one: make it permanent (the log
        was reset behind it by `batch`, which must be written after the switch of the state).
    discarded: received states that came too late to be of use: their rows can be removed.
    checkpoint: index whose state must be forced into durable tables now, 0: none; report
        by `on_checkpoint`.
    truncate: (index, term): drop log entries up to here; report by `on_truncated`.
    members_changed: the configuration or the member table may name other members.
    applied: entries were applied.
    changes: what they wrote, up to the machine's revision, while somebody watches: for
        `Watches.publish`, after `Watches.replaced` if a state was installed.
    news: followers will learn the newest commit index a little later: call `replica.tell_news`
        in a millisecond or two, unless more writes have carried it by then.
    more: there is work for another turn at once.
    """

    batch: LogBatch | None = None
    messages: list[Message] = field(default_factory=list)
    after: list[Message] = field(default_factory=list)
    after_number: int = 0
    replies: list[tuple[Ticket, Result | LeaseAnswer | ApiError]] = field(default_factory=list)
    reads: list[Ticket] = field(default_factory=list)
    snapshots: list[InstallSnapshot] = field(default_factory=list)
    installed: SnapshotMeta | None = None
    discarded: list[StateMachine] = field(default_factory=list)
    checkpoint: int = 0
    truncate: tuple[int, int] | None = None
    role_changed: bool = False
    members_changed: bool = False
    applied: bool = False
    changes: list[Change] = field(default_factory=list)
    news: bool = False
    more: bool = False
