"""A follower's rules: its timer, and what a leader's messages do to the log (Raft 5.3, 7).

The functions run in whatever role the message found us in: `stepping` has already made
us a follower of its sender.
"""

from typing import TYPE_CHECKING

from raftkv.errors import CorruptionError, ProtocolError
from raftkv.raft.messages import (
    AppendEntries,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    InstallSnapshot,
)
from raftkv.raft.roles import FOLLOWER
from raftkv.raft.types import NOBODY, Entry
from raftkv.raft.voting import may_campaign

if TYPE_CHECKING:
    from raftkv.raft.core import Core


class Follower:
    """Role state of a follower or learner; what it knows lives in the core."""

    role = FOLLOWER

    def __init__(self, core: "Core") -> None:
        self.core = core

    def tick(self) -> None:
        """Silence of a whole random timeout: campaign if we vote (Raft 5.2)."""
        core = self.core
        if core.reads.expire(core.now, core.settings.election_timeout_ticks):
            core.dirty = True
        core.election_elapsed += 1
        if core.election_elapsed >= core.election_timeout:
            if may_campaign(core):
                core.start_campaign()
            else:
                core.set_leader(NOBODY)
                core.reset_election_timer()


def append_entries(core: "Core", message: AppendEntries) -> None:
    """Check consistency, drop what conflicts, append what is new, learn the commit index."""
    log = core.log
    previous, entries = message.previous_index, message.entries
    if entries and (
        entries[0].index != previous + 1 or entries[-1].index != previous + len(entries)
    ):
        raise ProtocolError(f"append behind {previous} starts at {entries[0].index}")
    if previous < core.commit:
        # Committed entries are the leader's too, whatever this old message starts with.
        skipped = core.commit - previous
        if len(entries) >= skipped and entries[skipped - 1].term != log.term_at(core.commit):
            raise CorruptionError(
                f"leader {message.sender} has entry {core.commit} of term "
                f"{entries[skipped - 1].term}, committed here was one of term "
                f"{log.term_at(core.commit)}: a member forgot what it had acknowledged"
            )
        entries = entries[skipped:]
        if not entries:
            _acknowledge(core, message, core.commit)
            return
        previous = core.commit
    elif not log.matches(previous, message.previous_term):
        hint_index, hint_term = log.newest_not_above(previous, message.previous_term)
        core.answer(
            AppendReply(
                message.sender,
                core.member,
                core.term,
                False,
                previous,
                hint_index,
                hint_term,
                message.read_round,
            )
        )
        return
    last = previous + len(entries)
    if entries:
        if previous == log.last_index:
            core.append(entries)
        else:
            _append_new(core, entries)
    core.commit_to(min(message.commit, last))
    _acknowledge(core, message, last)


def _append_new(core: "Core", entries: list[Entry]) -> None:
    """Skip what the log has already; truncate only at a real conflict (Raft 5.3, R13)."""
    log = core.log
    for position, entry in enumerate(entries):
        if entry.index > log.last_index:
            core.append(entries[position:])
            return
        if log.term_at(entry.index) != entry.term:
            truncate(core, entry.index)
            core.append(entries[position:])
            return


def truncate(core: "Core", first: int) -> None:
    """Drop uncommitted entries from `first` on, and the configurations among them."""
    assert first > core.commit, "committed entries are never dropped"
    core.log.truncate(first)
    core.history.truncate(first)


def _acknowledge(core: "Core", message: AppendEntries, index: int) -> None:
    core.send_after(
        AppendReply(
            message.sender, core.member, core.term, True, index, read_round=message.read_round
        )
    )


def heartbeat(core: "Core", message: Heartbeat) -> None:
    """The leader lives; everything up to its commit was acknowledged by us before.

    Raises: CorruptionError if we do not have it any more (R15).
    """
    if message.commit > core.log.last_index:
        raise CorruptionError(
            f"leader {message.sender} says that this member acknowledged entry "
            f"{message.commit}, but its log ends at {core.log.last_index}: data was lost; "
            "remove the member and add it again with an empty directory"
        )
    core.commit_to(message.commit)
    if message.read_round:
        core.answer(HeartbeatReply(message.sender, core.member, core.term, message.read_round))


def install_snapshot(core: "Core", message: InstallSnapshot) -> None:
    """The whole state arrived (Raft 7, fig. 13); older than ours, or known: nothing to replace."""
    snapshot = message.snapshot
    if snapshot.index > core.commit:
        if core.log.matches(snapshot.index, snapshot.term):
            core.commit_to(snapshot.index)
        else:
            core.install(snapshot)
    core.send_after(AppendReply(message.sender, core.member, core.term, True, core.commit))
