"""When to checkpoint the state and how much of the log to drop behind it.

The state's rows are not synced; only a finished checkpoint makes them trusted, and the log
is what replays the rest after a crash. So the log may be dropped only behind the last
FINISHED checkpoint, and some of it is kept for followers that are a little behind
(`catch_up_entries`), and all of it behind the index of a state transfer that is under way.

While a long transfer runs, a busy leader takes several checkpoints. So when a member has got its
state, what it needs next lies far behind the newest one, and dropping that would cost it another
transfer, and another, for ever. Its log is kept until it has caught up with the checkpoint, or says
nothing for a while, or lacks more than `FOLLOWED_CHECKPOINTS` checkpoints' worth.

Members apply the same entries at about the same time. If all of them took their checkpoints
together, nobody's disk would be quick meanwhile; so each has a phase of its own, and a majority
is always at ease.
"""

from typing import Final

from raftkv.raft import describe
from raftkv.raft.core import Core

FOLLOWED_CHECKPOINTS: Final = 20
SILENT_TICKS: Final = 100


class Housekeeping:
    """Decides checkpoints and truncations of one member.

    snapshot_count: entries applied between checkpoints (etcd --snapshot-count).
    catch_up_entries: entries kept behind a checkpoint for slow followers.
    phase: entries by which the first checkpoint comes sooner.
    """

    __slots__ = (
        "_checkpoint_running",
        "_due_index",
        "_followed",
        "_in_flight",
        "_silent_ticks",
        "_truncate_running",
        "catch_up_entries",
        "checkpoint_index",
        "first_kept",
        "snapshot_count",
    )

    def __init__(
        self,
        snapshot_count: int,
        catch_up_entries: int,
        checkpoint_index: int,
        anchor_index: int,
        phase: int = 0,
    ) -> None:
        self.snapshot_count = snapshot_count
        self.catch_up_entries = catch_up_entries
        self.checkpoint_index = checkpoint_index
        self.first_kept = anchor_index + 1
        self._due_index = checkpoint_index + snapshot_count - phase
        self._checkpoint_running = False
        self._truncate_running = False
        self._in_flight: dict[int, int] = {}  # member -> index of the state being sent
        self._followed: dict[int, int] = {}  # member that got a state -> what it has by now
        self._silent_ticks: dict[int, int] = {}  # of these: since when they have not answered

    def checkpoint_due(self, applied_index: int) -> bool:
        """True once per checkpoint that should start now."""
        if self._checkpoint_running or applied_index < self._due_index:
            return False
        self._checkpoint_running = True
        self._due_index = applied_index + self.snapshot_count
        return True

    def checkpointed(self, index: int) -> None:
        """A checkpoint that holds at least `index` has finished."""
        self._checkpoint_running = False
        self.checkpoint_index = max(self.checkpoint_index, index)

    def truncation_due(self) -> int:
        """The index up to which the log should be dropped now; 0 for none."""
        least = self.first_kept + self.catch_up_entries // 2  # or it is not worth the work
        index = self.checkpoint_index - self.catch_up_entries
        if self._truncate_running or index < least:
            return 0
        if self._in_flight:
            index = min(index, min(self._in_flight.values()) - self.catch_up_entries)
        if self._followed:
            index = min(index, *self._followed.values())
        if index < least:
            return 0
        self._truncate_running = True
        return index

    def truncated(self, index: int) -> None:
        """The log no longer holds entries up to `index`."""
        self._truncate_running = False
        # A state that was installed meanwhile has moved the log's start further.
        self.first_kept = max(self.first_kept, index + 1)

    def sending(self, member: int, index: int) -> None:
        """A state transfer at `index` to `member` has started, or goes on: one that broke and
        may be continued has kept its own, lower index.
        """
        self._in_flight[member] = min(index, self._in_flight.get(member, index))

    def sent(self, member: int, index: int = 0) -> None:
        """The state transfer to `member` has ended and will not be continued. index: of the state
        if the member has it now, 0 if not.
        """
        self._in_flight.pop(member, None)
        if index:
            self._followed[member] = index
            self._silent_ticks[member] = 0

    def tick(self, core: Core) -> None:
        """The log stays for members that have just got a state, as long as `core` leads."""
        if not self._followed:
            return
        answering = describe.answering(core)
        for member in list(self._followed):
            if core.is_leader:
                self.follow(member, core.match_index(member), answers=member in answering)
            else:
                self.unfollow(member)

    def follow(self, member: int, match: int, *, answers: bool) -> None:
        """A tick has passed. match: up to which index a followed member has the log. answers:
        whether it was heard lately.
        """
        self._followed[member] = max(match, self._followed[member])
        self._silent_ticks[member] = 0 if answers else self._silent_ticks[member] + 1
        lacks = self.checkpoint_index - self._followed[member]
        if (
            lacks <= self.catch_up_entries
            or lacks > FOLLOWED_CHECKPOINTS * self.snapshot_count
            or self._silent_ticks[member] > SILENT_TICKS
        ):
            self.unfollow(member)

    def unfollow(self, member: int) -> None:
        """Nothing is kept for a member any more."""
        self._followed.pop(member, None)
        self._silent_ticks.pop(member, None)

    def installed(self, index: int) -> None:
        """A received state replaced everything up to `index`; it is already durable."""
        self.checkpoint_index = max(self.checkpoint_index, index)
        self._due_index = max(self._due_index, index + self.snapshot_count)
        self.first_kept = index + 1
