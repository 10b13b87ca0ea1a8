"""When to checkpoint the state and how much of the log to drop behind it.

The state's rows are not synced; only a finished checkpoint makes them trusted, and the log
is what replays the rest after a crash. So the log may be dropped only behind the last
FINISHED checkpoint, and some of it is kept for followers that are a little behind
(`catch_up_entries`), and all of it behind the index of a state transfer that is under way,
or a busy cluster would never catch that follower up.

Members apply the same entries at about the same time. If all of them took their checkpoints
together, nobody's disk would be quick meanwhile; so each has a phase of its own, and a majority
is always at ease.
"""


class Housekeeping:
    """Decides checkpoints and truncations of one member.

    snapshot_count: entries applied between checkpoints (etcd --snapshot-count).
    catch_up_entries: entries kept behind a checkpoint for slow followers.
    phase: entries by which the first checkpoint comes sooner.
    """

    __slots__ = (
        "_checkpoint_running",
        "_due_index",
        "_in_flight",
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

    def sent(self, member: int) -> None:
        """The state transfer to `member` has ended and will not be continued."""
        self._in_flight.pop(member, None)

    def installed(self, index: int) -> None:
        """A received state replaced everything up to `index`; it is already durable."""
        self.checkpoint_index = max(self.checkpoint_index, index)
        self._due_index = max(self._due_index, index + self.snapshot_count)
        self.first_kept = index + 1
