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

from typing import NamedTuple, TypeAlias

from raftkv.errors import ApiError
from raftkv.kv.machine import Result, StateMachine
from raftkv.kv.store import Change
from raftkv.raft.messages import InstallSnapshot, Message
from raftkv.raft.types import LogBatch, SnapshotMeta
from raftkv.replica.stopwatch import Applied

Ticket: TypeAlias = object  # whatever the driver gave with a request; handed back untouched


class LeaseAnswer(NamedTuple):
    """The leader's clock about a lease.

    ttl_seconds: after a renewal what was granted, 0: there is no such lease. Else the whole seconds
    that are left, -1: there is no such lease. granted_seconds: 0 if there is none.
    """

    lease: int
    ttl_seconds: int
    granted_seconds: int


class Effects:
    """See the module's docstring. No dataclass: one is made per turn, and this is cheaper.

    brief: nothing but `messages` and `replies` (and `more`) can be set.
    snapshots: start sending the whole state to `to`; report by `on_snapshot_sent`.
    installed: the received state has become the current one: make it permanent (the log
        was reset behind it by `batch`, which must be written after the switch of the state).
    discarded: received states that came too late to be of use: their rows can be removed.
    checkpoint: index whose state must be forced into durable tables now, 0: none; report
        by `on_checkpoint`.
    truncate: (index, term): drop log entries up to here; report by `on_truncated`.
    members_changed: the configuration or the member table may name other members.
    applied: entries were applied, and how long that took is in `timing`.
    alarms_changed: the machine's alarms, or whether this member is condemned by one.
    changes: what they wrote, up to the machine's revision, while somebody watches: for
        `Watches.publish`, after `Watches.replaced` if a state was installed.
    news: followers will learn the newest commit index a little later: call `replica.tell_news`
        in a millisecond or two, unless more writes have carried it by then.
    more: there is work for another turn at once.
    """

    __slots__ = (
        "after",
        "after_number",
        "alarms_changed",
        "applied",
        "batch",
        "brief",
        "changes",
        "checkpoint",
        "discarded",
        "installed",
        "members_changed",
        "messages",
        "more",
        "news",
        "reads",
        "replies",
        "role_changed",
        "snapshots",
        "timing",
        "truncate",
    )

    def __init__(self) -> None:
        self.batch: LogBatch | None = None
        self.messages: list[Message] = []
        self.after: list[Message] = []
        self.after_number = 0
        self.replies: list[tuple[Ticket, Result | LeaseAnswer | ApiError]] = []
        self.reads: list[Ticket] = []
        self.snapshots: list[InstallSnapshot] = []
        self.installed: SnapshotMeta | None = None
        self.discarded: list[StateMachine] = []
        self.checkpoint = 0
        self.truncate: tuple[int, int] | None = None
        self.role_changed = False
        self.members_changed = False
        self.applied = False
        self.alarms_changed = False
        self.timing: Applied | None = None
        self.changes: list[Change] = []
        self.news = False
        self.more = False
        self.brief = False
