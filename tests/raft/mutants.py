"""Known-wrong cores: each breaks one rule of Raft, and the storm must notice.

A mutant is a function that patches the core's modules through pytest's monkeypatch.
Beside it stands the storm that provokes it: options of `World`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from raftkv.raft import core as core_module
from raftkv.raft import follower, leader, stepping, voting
from raftkv.raft.core import Core
from raftkv.raft.follower import truncate
from raftkv.raft.leader import Leader
from raftkv.raft.log import Log
from raftkv.raft.messages import AppendEntries, Heartbeat, Message, ReadIndexReply, VoteReply
from raftkv.raft.quorum import majority_value
from raftkv.raft.reads import Reads
from raftkv.raft.types import NOBODY, Configuration, Entry, HardState, LogBatch
from tests.raft.world import Faults

Patch = pytest.MonkeyPatch


def forget_vote(patch: Patch) -> None:
    """The vote is not written (R03)."""
    take = Log.take_batch

    def wrong(self: Log, number: int, hard_state: HardState | None) -> LogBatch:
        return take(self, number, hard_state and HardState(hard_state.term, NOBODY))

    patch.setattr(Log, "take_batch", wrong)


def forget_term(patch: Patch) -> None:
    """The term is not written unless the member votes in it (R04)."""
    take = Log.take_batch

    def wrong(self: Log, number: int, hard_state: HardState | None) -> LogBatch:
        known = getattr(self, "written", HardState())
        if hard_state is not None and hard_state.vote == NOBODY:
            hard_state = known
        elif hard_state is not None:
            self.written = hard_state  # type: ignore[attr-defined]
        return take(self, number, hard_state)

    patch.setattr(Log, "take_batch", wrong)


def vote_before_durable(patch: Patch) -> None:
    """Votes leave before they are durable (R03)."""
    right = Core.send_after

    def wrong(self: Core, message: Message) -> None:
        if isinstance(message, VoteReply) and message.to != self.member:
            self.send(message)
        else:
            right(self, message)

    patch.setattr(Core, "send_after", wrong)


def acknowledge_before_durable(patch: Patch) -> None:
    """Followers acknowledge entries that only memory holds."""
    right = Core.send_after

    def wrong(self: Core, message: Message) -> None:
        if isinstance(message, VoteReply) or message.to == self.member:
            right(self, message)
        else:
            self.send(message)

    patch.setattr(Core, "send_after", wrong)


def count_own_log_before_durable(patch: Patch) -> None:
    """The leader counts its own entries as soon as memory holds them (R42)."""
    right = Leader._append

    def wrong(self: Leader, payloads: list[bytes], kind: int) -> int:
        index = right(self, payloads, kind)
        self.progress[self.core.member].match = self.core.last_index
        self._advance_commit()
        return index

    patch.setattr(Leader, "_append", wrong)


def commit_old_terms_by_counting(patch: Patch) -> None:
    """Entries of older terms commit by counting (R01, Raft 5.4.2)."""
    right = Leader._advance_commit

    def wrong(self: Leader) -> None:
        self.first_index = 0
        right(self)

    patch.setattr(Leader, "_advance_commit", wrong)


def vote_for_any_log(patch: Patch) -> None:
    """Votes do not compare logs (Raft 5.4.1)."""
    patch.setattr(Log, "is_up_to_date", lambda *_: True)


def vote_twice(patch: Patch) -> None:
    """A second candidate of the term gets the vote, too."""
    right = voting.vote_request

    def wrong(core: Core, message: Any) -> None:
        if not message.pre:
            core.vote = NOBODY
        right(core, message)

    patch.setattr(voting, "vote_request", wrong)


def truncate_on_stale_append(patch: Patch) -> None:
    """A shorter append cuts off what follows it (R13)."""
    right = follower.append_entries

    def wrong(core: Core, message: AppendEntries) -> None:
        last = message.previous_index + len(message.entries)
        if core.commit < last < core.last_index and core.log.matches(
            message.previous_index, message.previous_term
        ):
            truncate(core, last + 1)
        right(core, message)

    patch.setattr(follower, "append_entries", wrong)


def no_consistency_check(patch: Patch) -> None:
    """Appends are taken although the entry before them differs (Raft 5.3)."""
    right = follower.append_entries

    def wrong(core: Core, message: AppendEntries) -> None:
        if core.log.anchor_index <= message.previous_index <= core.last_index:
            message.previous_term = core.log.term_at(message.previous_index)
        right(core, message)

    patch.setattr(follower, "append_entries", wrong)


def keep_conflicting_entries(patch: Patch) -> None:
    """Entries that conflict with the leader's stay (Raft 5.3)."""

    def wrong(core: Core, entries: list[Entry]) -> None:
        fresh = [entry for entry in entries if entry.index > core.last_index]
        if fresh and fresh[0].term >= core.log.last_term:
            core.append(fresh)

    patch.setattr(follower, "_append_new", wrong)


def commit_beyond_verified(patch: Patch) -> None:
    """A follower commits what the leader committed, verified or not (fig. 2)."""
    right = follower.append_entries

    def wrong(core: Core, message: AppendEntries) -> None:
        right(core, message)
        if core.log.matches(message.previous_index, message.previous_term):
            core.commit_to(min(message.commit, core.last_index))

    patch.setattr(follower, "append_entries", wrong)


def heartbeat_commit_unbounded(patch: Patch) -> None:
    """Heartbeats carry the leader's commit instead of what the follower acknowledged."""
    right = Core.send

    def wrong(self: Core, message: Message) -> None:
        if isinstance(message, Heartbeat):
            message.commit = self.commit
        right(self, message)

    patch.setattr(Core, "send", wrong)


def claims_survive_truncation(patch: Patch) -> None:
    """A batch's durability vouches for entries that replaced its own (R14)."""
    right = Log.truncate

    def wrong(self: Log, first: int) -> None:
        claims = [list(claim) for claim in self._claims]
        right(self, first)
        for claim, old in zip(self._claims, claims, strict=True):
            claim[1] = old[1]

    def persisted(self: Log, number: int) -> bool:
        before = self.stable_index
        while self._claims and self._claims[0][0] <= number:
            claimed = self._claims.popleft()[1]
            self.stable_index = max(self.stable_index, min(claimed, self.last_index))
        return self.stable_index > before

    patch.setattr(Log, "truncate", wrong)
    patch.setattr(Log, "persisted", persisted)


def join_round_in_flight(patch: Patch) -> None:
    """Reads join the round that is already on its way."""
    right = Leader._start_round

    def wrong(self: Leader) -> bool:
        if self.rounds.open and self.own_term_committed:
            last = self.rounds._open[-1]
            last.upto = self.core.reads.sent = self.core.reads.issued
            last.requests.extend(self.rounds.requests)
            self.rounds.requests = []
            return False
        return right(self)

    patch.setattr(Leader, "_start_round", wrong)


def read_without_round(patch: Patch) -> None:
    """The leader answers reads without asking anybody."""

    def wrong(self: Leader) -> bool:
        reads = self.core.reads
        if reads.waiting and self.own_term_committed:
            reads.sent = reads.issued
            reads.answer(reads.issued, self.core.commit)
        return False

    patch.setattr(Leader, "_start_round", wrong)


def read_before_own_commit(patch: Patch) -> None:
    """A new leader reads before it committed an entry of its term (R16)."""
    right = Leader._start_round

    def wrong(self: Leader) -> bool:
        known, self.own_term_committed = self.own_term_committed, True
        started = right(self)
        self.own_term_committed = known
        return started

    patch.setattr(Leader, "_start_round", wrong)


def reads_survive_leader_change(patch: Patch) -> None:
    """Outstanding reads outlive their leader, and any leader's answer is taken (R17)."""
    patch.setattr(Reads, "lose_all", lambda _: None)
    right = stepping.step

    def wrong(core: Core, message: Message) -> None:
        if isinstance(message, ReadIndexReply):
            core.reads.replied(message.number, message.index)
        else:
            right(core, message)

    patch.setattr(stepping, "step", wrong)


def read_numbers_repeat(patch: Patch) -> None:
    """A restarted member numbers its requests from the same base again (R17)."""
    right = Reads.__init__

    def wrong(self: Reads, source: Any) -> None:
        right(self, source)
        self.wire_base = 0

    patch.setattr(Reads, "__init__", wrong)


def joint_counts_new_only(patch: Patch) -> None:
    """While joint, only the new majority decides (Raft 6)."""
    right = Leader._rebuild

    def wrong(self: Leader) -> None:
        right(self)
        del self._groups[1:]

    patch.setattr(Leader, "_rebuild", wrong)


def change_in_one_step(patch: Patch) -> None:
    """Any change goes in one step, without a joint configuration (Raft 6)."""
    patch.setattr(leader, "next_step", lambda _, wanted: wanted)


def change_before_own_commit(patch: Patch) -> None:
    """Changes are taken before the leader committed in its term (R22)."""
    right = Leader.change

    def wrong(self: Leader, configuration: Configuration, context: bytes) -> int:
        known, self.own_term_committed = self.own_term_committed, True
        try:
            return right(self, configuration, context)
        finally:
            self.own_term_committed = known

    patch.setattr(Leader, "change", wrong)


def changes_overlap(patch: Patch) -> None:
    """A change does not wait for the one before it (R24)."""
    right = Leader.change

    def wrong(self: Leader, configuration: Configuration, context: bytes) -> int:
        core = self.core
        known, core.history.index = core.history.index, 0
        try:
            index = right(self, configuration, context)
        except Exception:
            core.history.index = known
            raise
        return index

    patch.setattr(Leader, "change", wrong)


def configuration_survives_truncation(patch: Patch) -> None:
    """A truncated configuration stays in force (Raft 6)."""

    def wrong(core: Core, first: int) -> None:
        core.log.truncate(first)

    patch.setattr(follower, "truncate", wrong)


def quorum_is_half(patch: Patch) -> None:
    """Half of the voters are taken for a majority."""

    def half(values: list[int]) -> int:
        if len(values) % 2 == 0:
            return sorted(values)[len(values) // 2]
        return majority_value(values)

    patch.setattr(leader, "majority_value", half)


def hand_out_before_durable(patch: Patch) -> None:
    """Entries are applied before the own log is durable: a crash leaves state without log."""
    right = core_module.Core._gather_committed

    def wrong(self: Core, ready: Any) -> None:
        known, self.log.stable_index = self.log.stable_index, self.log.last_index
        right(self, ready)
        self.log.stable_index = known

    patch.setattr(core_module.Core, "_gather_committed", wrong)


@dataclass(frozen=True)
class Mutant:
    """A wrong core, and the options of the world that shows it."""

    apply: Callable[[Patch], None]
    options: dict[str, Any] = field(default_factory=dict)
    first: int = 0  # seed to begin with: near one that shows it, to save time


_CRASHY = {"faults": Faults(crashes=0.3, losses=0.3, transfers=0.1)}
_ELECTIONS = {
    "faults": Faults(
        losses=0.5, crashes=0.1, cuts=0.1, late=0.1, voter_crashes=0.4, message_ticks=1.0
    )
}
_HASTE = {
    "faults": Faults(losses=0.5, crashes=0.1, voter_crashes=0.8, message_ticks=0.6, disk_ticks=1.5)
}
_SLOW_DISK = {
    "faults": Faults(crashes=0.3, losses=0.3, transfers=0.1, disk_ticks=3.0, checkpoints=0.5)
}
_READS = {"faults": Faults(reads=3.0, losses=0.1, transfers=0.1, cuts=0.3)}
_RESTARTS = {"faults": Faults(reads=4.0, crashes=0.4, late=0.3, losses=0.1)}
_CHANGES = {"spare": 2, "faults": Faults(changes=1.0, losses=0.1, transfers=0.1, late=0.15)}
_SPLITS = {"spare": 2, "faults": Faults(changes=1.0, cuts=0.3, transfers=0.1, late=0.1)}
_PAIRS = {"voters": 4, "faults": Faults(crashes=0.1, losses=0.1, transfers=0.1)}

STORMED = [
    Mutant(forget_vote, _ELECTIONS, 19),
    Mutant(forget_term, _CRASHY),
    Mutant(vote_before_durable, _HASTE, 37),
    Mutant(acknowledge_before_durable, _SLOW_DISK),
    Mutant(count_own_log_before_durable, _SLOW_DISK, 2),
    Mutant(commit_old_terms_by_counting, _CRASHY, 28),
    Mutant(vote_for_any_log, _CRASHY, 3),
    Mutant(vote_twice, _ELECTIONS),
    Mutant(truncate_on_stale_append),
    Mutant(no_consistency_check, _ELECTIONS),
    Mutant(keep_conflicting_entries, _CRASHY),
    Mutant(heartbeat_commit_unbounded),
    Mutant(join_round_in_flight, _READS),
    Mutant(read_without_round, _READS, 72),
    Mutant(read_before_own_commit, _READS),
    Mutant(read_numbers_repeat, _RESTARTS, 17),
    Mutant(joint_counts_new_only, _CHANGES, 5),
    Mutant(change_in_one_step, _SPLITS, 18),
    Mutant(configuration_survives_truncation, _SPLITS, 28),
    Mutant(quorum_is_half, _PAIRS),
    Mutant(hand_out_before_durable, _SLOW_DISK, 4),
]
