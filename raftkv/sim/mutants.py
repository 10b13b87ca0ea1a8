"""Known-wrong variants: each breaks one rule, and the simulator must notice (`sim.hunting`).

What kills them is whatever fails a run: an invariant, a checker, an assertion of the
code itself, or a state that cannot be opened again.
"""

import multiprocessing
from typing import Any, Final

import click

from raftkv.errors import NO_LEADER, DiskFailure
from raftkv.kv import commands
from raftkv.kv.machine import Result, StateMachine
from raftkv.raft import follower, leader, voting
from raftkv.raft.core import Core
from raftkv.raft.leader import Leader
from raftkv.raft.log import Log
from raftkv.raft.messages import AppendEntries, VoteReply, VoteRequest
from raftkv.raft.quorum import majority_value
from raftkv.raft.reads import Rounds
from raftkv.raft.types import NOBODY, Entry, HardState, LogBatch
from raftkv.replica.effects import Effects
from raftkv.replica.housekeeping import Housekeeping
from raftkv.replica.reading import Reading
from raftkv.replica.replica import Replica
from raftkv.replica.writes import Writes
from raftkv.sim import lease_mutants, session_mutants, ttl_mutants, watch_mutants
from raftkv.sim.hunting import Mutant, applied, hunt
from raftkv.sim.process import Home
from raftkv.storage.mark import Mark
from raftkv.storage.memory import MemoryBackend, MemorySegment
from raftkv.storage.snapshots import StateSender

__all__ = ["MUTANTS", "Mutant", "applied", "hunt", "print_kill_list"]

_CRASHES: Final = ("crash all", "crash leader", "crash some", "slow disk")
_NETWORK: Final = ("partition", "isolate leader", "deaf leader", "mute leader", "bad weather")
_WATCHED: Final = ("crash one", "isolate one", "slow disk")
_VIEWED: Final = ("crash one", "isolate one", "transfer")
_DEPOSED: Final = ("crash leader", "transfer", "isolate leader")
_OVERTAKEN: Final = ("slow disk",)  # decisions are long on their way
_REPEATED: Final = ("crash leader", "crash some", "isolate one", "bad weather")
_MIXED: Final = ("crash leader", "crash some", "partition", "isolate leader", "slow disk")


# --- durability -----------------------------------------------------------------


def _send_after_at_once(self: Core, message: Any) -> None:
    if message.to == self.member:
        self.after.append(message)
    else:
        self.messages.append(message)
    self.dirty = True


_take_batch = Log.take_batch


def _take_batch_without_vote(self: Log, number: int, hard_state: HardState | None) -> LogBatch:
    forgetful = hard_state and HardState(hard_state.term, NOBODY)
    return _take_batch(self, number, forgetful)


_append_own = Leader._append


def _append_counts_at_once(self: Leader, payloads: list[bytes], kind: int) -> int:
    first = _append_own(self, payloads, kind)
    own = self.progress.get(self.core.member)
    if own is not None:
        own.match = self.core.log.last_index
        self.core.log.stable_index = own.match
        self._advance_commit()
    return first


def _commit_nothing(self: MemorySegment, batch: Any) -> None:
    """A disk that says that it has synced and has not: what is written is lost by a crash."""
    if self._boot != self._disk.boot:
        raise DiskFailure("the disk lost power")
    if not hasattr(self, "_unsynced"):
        self._unsynced = True  # type: ignore[attr-defined]
        self._rows = self._rows.picture()
        self._rows.shared = True
    self._rows.apply(batch.rows)


def _update_mark_in_memory(self: Mark, **changes: Any) -> None:
    value = self.value
    hard_state, last = changes.get("hard_state"), changes.get("last")
    if hard_state is not None:
        value = value._replace(term=hard_state[0], vote=hard_state[1])
    if last is not None:
        value = value._replace(last_term=last[0], last_index=last[1])
    if changes.get("coming") is not None:
        _update_mark(self, **{**changes, "hard_state": None, "last": None})
        return
    self.value = value


_update_mark = Mark.update


def _flush_in_two_writes(self: StateMachine) -> None:
    """Rows and applied index in two writes: a crash may come between them."""
    backend = self.backend
    write = backend.write

    def torn(rows: list[Any]) -> None:
        write(rows[:-1])
        write(rows[-1:])

    backend.write = torn  # type: ignore[method-assign]
    try:
        _flush_rows(self)
    finally:
        backend.write = write  # type: ignore[method-assign]


_flush_rows = StateMachine._flush_rows


_checkpoint_due = Housekeeping.checkpoint_due


def _checkpoint_counts_at_once(self: Housekeeping, applied_index: int) -> bool:
    """Takes a checkpoint for finished when it starts."""
    due = _checkpoint_due(self, applied_index)
    if due:
        self.checkpoint_index = applied_index
    return due


# --- consensus ------------------------------------------------------------------


def _highest_value(values: list[int]) -> int:
    return max(values)


def _advance_by_counting(self: Leader) -> None:
    agreed = min(majority_value([p.match for p in group]) for group in self._groups)
    if agreed > self.core.commit:
        self.core.commit_to(agreed)
        self.own_term_committed = True
        if self.change_open and self.core.history.index <= agreed:
            self._configuration_committed()


def _vote_for_everyone(core: Core, message: VoteRequest) -> None:
    newer = core.log.is_up_to_date(message.last_index, message.last_term)
    if not newer:
        voting.refuse(core, message)
    elif message.pre:
        core.answer(VoteReply(message.sender, core.member, message.term, True, True))
    else:
        core.vote = message.sender
        core.send_after(VoteReply(message.sender, core.member, core.term, True))


def _always(*_: Any) -> bool:
    return True


def _matches_by_length(self: Log, index: int, term: int) -> bool:
    return index <= self.last_index


def _truncate_always(core: Core, message: AppendEntries) -> None:
    """Cuts the log behind every append, also a late and short one."""
    log = core.log
    last = message.previous_index + len(message.entries)
    if core.commit <= last < log.last_index and log.matches(
        message.previous_index, message.previous_term
    ):
        follower.truncate(core, last + 1)
    _append_entries(core, message)


_append_entries = follower.append_entries


def _commit_unverified(core: Core, message: AppendEntries) -> None:
    """Believes the leader's commit index also for entries that it did not compare."""
    _append_entries(core, message)
    core.commit_to(min(message.commit, core.log.last_index))


# --- reads ----------------------------------------------------------------------


def _start_no_round(self: Leader) -> bool:
    reads = self.core.reads
    if not reads.waiting or not self.own_term_committed:
        return _start_round(self)
    reads.sent = reads.issued
    reads.answer(reads.issued, self.core.commit)
    return False


_start_round = Leader._start_round


def _join_the_open_round(self: Rounds, index: int, upto: int) -> None:
    if self._open:
        self._open[-1].upto = upto
        self._open[-1].requests += self.requests
        self.requests = []
        return
    _rounds_start(self, index, upto)


_rounds_start = Rounds.start


def _start_round_early(self: Leader) -> bool:
    known, self.own_term_committed = self.own_term_committed, True
    try:
        return _start_round(self)
    finally:
        self.own_term_committed = known


_served = Reading.served


def _serve_before_applied(self: Reading, applied_index: int) -> list[Any]:
    return _served(self, 1 << 62)


# --- commands -------------------------------------------------------------------


def _take_every_forward(self: Writes, now: float) -> None:
    taken, self._taken = self._taken, []
    for forward in taken:
        self._append_forward(forward, forward.proposals, now, full=False)


_forward_waiting = Writes._forward_waiting


def _repeat_undecided(self: Writes) -> None:
    """Sends writes of an earlier term again although they may still be applied."""
    self.pending.take_back(self.core.term)
    _forward_waiting(self)


_place = Writes.place


def _answer_at_once(self: Writes, now: float, machine: StateMachine, effects: Effects) -> None:
    """A leader answers puts when it has appended them, with the revision they will get."""
    proposals = list(self.proposals)
    _place(self, now, machine, effects)
    if self.core.is_leader:
        for place, (_, command, ticket, _) in enumerate(proposals):
            if command == commands.PUT:
                effects.replies.append((ticket, Result(machine.revision + 1 + place, b"")))


def _expire_definitely(self: Writes, now: float, effects: Effects) -> None:
    """Tells the clients of writes that took too long that nothing was done."""
    effects.replies.extend((ticket, NO_LEADER) for ticket in self.pending.expired(now))


_apply = Replica._apply


def _own_by_index(self: Replica, entries: list[Entry], effects: Effects) -> None:
    """Takes an entry at the index of an own one for the own one, whatever its term."""
    terms = {entry.index: entry.term for entry in entries}
    local = self.writes.pending.local
    for place, own in enumerate(local):
        if terms.get(own[0], own[1]) < own[1]:
            local[place] = (own[0], terms[own[0]], *own[2:])
    _apply(self, entries, effects)


def _sync_nothing(self: MemoryBackend) -> None:
    """A checkpoint that forces nothing out."""


_next_rows = StateSender._next_rows


def _lose_a_row(self: StateSender, last_key: bytes) -> tuple[bytes, bytes]:
    """The sender skips the first row behind the last key it sent."""
    found = self._view.seek(last_key + b"\0") if last_key else None
    return _next_rows(self, found[0] if found and self.rows > 3 else last_key)


MUTANTS: Final = (
    # durability
    Mutant("acknowledge before durable", ((Core, "send_after", _send_after_at_once),), _CRASHES),
    Mutant("a disk that does not sync", ((MemorySegment, "commit", _commit_nothing),), _CRASHES),
    Mutant("forget the vote", ((Log, "take_batch", _take_batch_without_vote),), _CRASHES),
    Mutant("never write the mark", ((Mark, "update", _update_mark_in_memory),), _CRASHES),
    Mutant("own log counts at once", ((Leader, "_append", _append_counts_at_once),), _CRASHES),
    Mutant(
        "rows and applied index apart",
        ((StateMachine, "_flush_rows", _flush_in_two_writes),),
        _CRASHES,
    ),
    Mutant(
        "drop the log before the checkpoint ends",
        ((Housekeeping, "checkpoint_due", _checkpoint_counts_at_once),),
        _CRASHES,
        snapshot_count=20,
    ),
    # consensus
    Mutant("commit without a majority", ((leader, "majority_value", _highest_value),), _MIXED),
    Mutant(
        "commit by counting old terms",
        ((Leader, "_advance_commit", _advance_by_counting),),
        ("crash leader", "isolate leader", "crash some", "mute leader", "slow disk"),
    ),
    Mutant("vote twice in a term", ((voting, "vote_request", _vote_for_everyone),), _MIXED),
    Mutant("vote for any log", ((Log, "is_up_to_date", _always),), _MIXED),
    Mutant(
        "append without a check",
        ((Log, "matches", _matches_by_length),),
        ("usurp", "isolate leader"),
        nodes=5,
    ),
    Mutant(
        "truncate on a stale append",
        ((follower, "append_entries", _truncate_always),),
        ("bad weather", "slow disk", "crash leader"),
    ),
    Mutant(
        "commit what was not compared",
        ((follower, "append_entries", _commit_unverified),),
        _MIXED,
        200,
    ),
    # reads
    Mutant(
        "read without a round",
        ((Leader, "_start_round", _start_no_round),),
        ("isolate leader", "mute leader", "pause"),
        reads=True,
    ),
    Mutant(
        "read joins the open round",
        ((Rounds, "start", _join_the_open_round),),
        ("bad weather", "isolate leader", "pause"),
        200,
        reads=True,
    ),
    Mutant(
        "read before the own term commits",
        ((Leader, "_start_round", _start_round_early),),
        ("crash leader", "isolate leader", "transfer", "slow disk"),
        200,
        reads=True,
    ),
    Mutant(
        "read before applied",
        ((Reading, "served", _serve_before_applied),),
        ("slow disk", "isolate one"),
        reads=True,
    ),
    # commands
    Mutant(
        "keep forwarded duplicates",
        ((Writes, "_take_forwards", _take_every_forward),),
        ("bad weather", "transfer"),
    ),
    Mutant("repeat undecided writes", ((Writes, "_forward_waiting", _repeat_undecided),), _NETWORK),
    Mutant("answer before commit", ((Writes, "place", _answer_at_once),), _MIXED),
    Mutant(
        "call a late write undone",
        ((Writes, "expire", _expire_definitely),),
        ("isolate leader", "partition", "mute leader", "stalled disk"),
        impatient=True,
    ),
    Mutant("own entries by index", ((Replica, "_apply", _own_by_index),), ("usurp",), 3),
    # snapshots and members
    Mutant(
        "a checkpoint that syncs nothing",
        ((MemoryBackend, "sync", _sync_nothing),),
        _CRASHES,
        snapshot_count=20,
    ),
    Mutant(
        "listen to a wiped member",
        ((Home, "meets", _always),),
        ("wipe member", "usurp"),
    ),
    Mutant(
        "a state without one row",
        ((StateSender, "_next_rows", _lose_a_row),),
        ("isolate one", "crash one", "replace member"),
        snapshot_count=20,
    ),
    # watches
    *(
        Mutant(name, patches, _WATCHED, snapshot_count=20, watched=True)
        for name, patches in watch_mutants.PATCHES
    ),
    *(
        Mutant(name, patches, _VIEWED, 10, viewed=True)
        for name, patches in watch_mutants.VIEWED_PATCHES
    ),
    # sessions
    *(Mutant(*one, _REPEATED, snapshot_count=20, sessions=4) for one in session_mutants.PATCHES),
    # leases
    *(Mutant(*one, _DEPOSED, watched=True) for one in lease_mutants.PATCHES),
    *(
        Mutant(*one, _OVERTAKEN, watched=True, holders=15)
        for one in lease_mutants.OVERTAKEN_PATCHES
    ),
    *(Mutant(*one, _DEPOSED, watched=True) for one in ttl_mutants.PATCHES),
)


def _hunt_by_number(number: int) -> tuple[int, int, str]:
    taken, summary = hunt(MUTANTS[number])
    return number, taken, summary.failure.splitlines()[0] if summary.failure else ""


def print_kill_list(processes: int) -> bool:
    """Hunts every mutant; prints what killed it. Returns whether all were killed."""
    survivors = 0
    context = multiprocessing.get_context("spawn")  # a fork would share threads that it lacks
    with context.Pool(processes) as pool:
        for number, taken, failure in pool.imap(_hunt_by_number, range(len(MUTANTS)), 1):
            name = MUTANTS[number].name
            if taken:
                click.echo(f"killed   {name:40} seeds {taken:4}  {failure[:100]}")
            else:
                survivors += 1
                click.echo(f"SURVIVED {name:40} seeds {MUTANTS[number].seeds:4}")
    click.echo(f"{len(MUTANTS) - survivors} of {len(MUTANTS)} mutants killed")
    return survivors == 0
