"""One member: Raft and the state machine as a single synchronous object.

Facts come in by methods that only queue (`propose`, `read`, `on_message`, `on_persisted`,
`tick`, ...); `turn(now)` then does all the work and returns one `Effects`. A driver that
executes `Effects` in the documented order needs no rule of consensus of its own; the server
and the simulator are two such drivers.

A turn, in order: new writes are appended (leader) or forwarded (follower); new reads ask for
one read index; the core says what is to persist, to send and to apply; committed entries are
applied in log order and their tickets answered in that order; reads whose index is applied
are handed out; all rows of the turn go to the backend in one write.
"""

import random
from dataclasses import dataclass

from raftkv import limits
from raftkv.errors import (
    NO_LEADER,
    STOPPED,
    TIMEOUT,
    TOO_MANY_REQUESTS,
    ApiError,
)
from raftkv.kv import commands
from raftkv.kv.machine import Result, StateMachine
from raftkv.raft.core import Core, CoreSettings, LogReader
from raftkv.raft.messages import (
    REMAINING,
    RENEW,
    Forward,
    ForwardReply,
    InstallSnapshot,
    LeaseAsk,
    LeaseTold,
    Message,
    StateReport,
)
from raftkv.raft.ready import Ready
from raftkv.raft.roles import NoLeader, Refusal
from raftkv.raft.types import CONFIG, NOBODY, Entry, RecoveredLog, SnapshotMeta
from raftkv.replica.caretaker import NO_UPKEEP, Caretaker, UpkeepSettings
from raftkv.replica.changes import Rules
from raftkv.replica.effects import Effects, Ticket
from raftkv.replica.housekeeping import Housekeeping
from raftkv.replica.keepalives import Keepalives
from raftkv.replica.pending import TICKET, Write
from raftkv.replica.reading import Reading
from raftkv.replica.stopwatch import Applied
from raftkv.replica.watchdog import DiskWatchdog
from raftkv.replica.writes import Writes, joining_in

# Rows wait in memory for this many others, or for the next sweep, before the backend gets them
# in one write: nothing trusts the backend's newest rows anyway before a checkpoint. One write
# of so many takes about half a millisecond, which the next client has to wait for.
MAX_UNFLUSHED_ROWS = 300
# So many rows are of one entry that deletes a whole range. It has held up everybody already, so
# messages leave before its rows are written, which takes a microsecond each.
ROWS_OF_A_LONG_ENTRY = 20_000


@dataclass(frozen=True, slots=True)
class ReplicaSettings:
    """What a replica needs to know beyond its core's settings.

    request_timeout_seconds: how long a write or read may wait (etcd: 5 s + 2 elections).
    election_timeout_seconds: what the core's election_timeout_ticks take; the same at all members
        of a cluster, or leases are not safe (`raftkv.replica.lessor`).
    snapshot_count: entries between checkpoints of the state.
    catch_up_entries: log entries kept behind a checkpoint for slow followers.
    max_learners: in a configuration. strict_changes: see `raftkv.replica.strictness`.
    """

    core: CoreSettings
    request_timeout_seconds: float = 7.0
    election_timeout_seconds: float = 1.0
    snapshot_count: int = 10_000
    catch_up_entries: int = 5_000
    max_pending: int = limits.MAX_PENDING_PROPOSALS
    max_pending_reads: int = limits.MAX_PENDING_READS
    max_learners: int = limits.MAX_LEARNERS
    strict_changes: bool = False
    upkeep: UpkeepSettings = NO_UPKEEP


class Replica:
    """See the module's docstring.

    boot: a number that no earlier process of this member used (drawn at random).
    """

    def __init__(
        self,
        settings: ReplicaSettings,
        recovered: RecoveredLog,
        reader: LogReader,
        machine: StateMachine,
        source: random.Random,
        boot: int,
    ) -> None:
        self.settings = settings
        self.member = settings.core.member
        self.machine = machine
        self.boot = boot
        self.core = Core(settings.core, recovered, reader, self._point(), source)
        self.core.snapshot_point(self._point())
        self.core.defers_news = True
        rules = Rules(settings.max_learners, settings.strict_changes)
        self.writes = Writes(self.core, boot, settings.request_timeout_seconds, rules)
        self.writes.joining = joining_in(recovered, machine.applied_index)
        self.reading = Reading()
        self.keepalives = Keepalives(
            self.core,
            boot,
            settings.election_timeout_seconds,
            settings.request_timeout_seconds,
            settings.max_pending_reads,
        )
        self.caretaker = Caretaker(self.core, settings.upkeep, machine)
        self.watchdog = DiskWatchdog(self.core, settings.election_timeout_seconds)
        self.housekeeping = Housekeeping(
            settings.snapshot_count,
            settings.catch_up_entries,
            machine.applied_index,
            recovered.anchor_index,
            self._phase(),
        )
        self._discarded: list[StateMachine] = []
        self._received: StateMachine | None = None  # a state from another member
        self._applied_term = machine.applied_term
        self._next_sweep = 0.0
        self._now = 0.0
        self._write_deadline = settings.request_timeout_seconds
        # What is taken before the next turn: writes, and questions about leases.
        self._room = settings.max_pending
        self._brief = Effects()
        self._brief.brief = True
        self._stirred = True  # told of anything but questions about leases since the last turn

    def _phase(self) -> int:
        """This member's share of the way from one checkpoint to the next."""
        members = sorted(self.machine.members)
        if self.member not in members:
            return 0
        return self.settings.snapshot_count * members.index(self.member) // len(members)

    # --- facts in -----------------------------------------------------------

    def propose(self, command: int, request: bytes, ticket: Ticket) -> ApiError | None:
        """Queues a client's write; returns the error if it is refused at once.

        command: a constant of kv.commands. request: the client's own request bytes.
        ticket: comes back in `Effects.replies` exactly once, unless an error is returned.
        """
        proposals = self.writes.proposals
        if len(proposals) >= self._room:
            return TOO_MANY_REQUESTS
        self._stirred = True
        proposals.append((self._write_deadline, command, ticket, request))
        return None

    def change(self, command: int, request: bytes, ticket: Ticket) -> None:
        """Queues a membership change (kv.commands.MEMBER_ADD and the like), answered like a
        write once its configuration is applied here.
        """
        self._stirred = True
        deadline = self._now + self.settings.request_timeout_seconds
        since = self.writes.stopwatch.clock()
        self.writes.pending.waiting.append(Write(command, request, ticket, deadline, since))

    def read(self, ticket: Ticket) -> ApiError | None:
        """Queues a linearizable read; its ticket comes back in `Effects.reads` or `replies`."""
        if self.reading.count >= self.settings.max_pending_reads:
            return TOO_MANY_REQUESTS
        self._stirred = True
        self.reading.add(self._now + self.settings.request_timeout_seconds, ticket)
        return None

    def renew(self, lease: int, ticket: Ticket) -> ApiError | None:
        """Queues a keepalive (LeaseKeepAlive); a `LeaseAnswer` comes in `Effects.replies`."""
        keepalives = self.keepalives
        questions = keepalives.new
        if len(questions) >= keepalives.room:
            return TOO_MANY_REQUESTS
        questions.append((RENEW, lease, ticket))
        return None

    def time_to_live(self, lease: int, ticket: Ticket) -> ApiError | None:
        """Queues the question what is left of a lease (LeaseTimeToLive), answered likewise."""
        keepalives = self.keepalives
        questions = keepalives.new
        if len(questions) >= keepalives.room:
            return TOO_MANY_REQUESTS
        questions.append((REMAINING, lease, ticket))
        return None

    def on_message(self, message: Message) -> None:
        """A message of another member."""
        kind = type(message)
        if kind is LeaseAsk:
            self.keepalives.on_ask(message)  # type: ignore[arg-type]
            return
        if kind is LeaseTold:
            self.keepalives.on_told(message)  # type: ignore[arg-type]
            return
        self._stirred = True
        if kind is Forward:
            self.writes.on_forward(message)  # type: ignore[arg-type]
        elif kind is ForwardReply:
            self.writes.on_forward_reply(message)  # type: ignore[arg-type]
        elif kind is StateReport:
            self.caretaker.on_report(message)  # type: ignore[arg-type]
        else:
            self.core.step(message)

    def on_persisted(self, number: int) -> None:
        """Disk batch `number` and all before it are durable."""
        self._stirred = True
        self.core.persisted(number)
        self.writes.stopwatch.stable(self.core.log.stable_index)

    def has_work(self) -> bool:
        """False if a turn now would find nothing to do but what can wait for the next tick."""
        return (
            self.core.dirty
            or bool(self.writes.proposals or self.reading.new)
            or self.keepalives.has_work()
            or self.writes.has_work()
        )

    def tick(self) -> None:
        """One tick of Raft's clock has passed."""
        self._stirred = True
        self.core.tick()
        self.writes.tick()
        self.keepalives.tick()
        self.housekeeping.tick(self.core)
        if self.core.barred:
            self.caretaker.stand_down(self.transfer_target())
        if self.core.is_leader and self.watchdog.behind(self._now):
            self.watchdog.hand_over(self._now)

    def tell_news(self) -> None:
        """See `Effects.news`."""
        self.core.tell_news()

    def on_checkpoint(self, index: int) -> None:
        """The checkpoint asked for at `index` has finished."""
        self._stirred = True
        self.housekeeping.checkpointed(index)

    def on_backend(self, *, stalling: bool) -> None:
        """Whether the backend is about to slow its writer down; to be said some times a second."""
        self.writes.throttle.stalling = stalling

    def on_truncated(self, index: int) -> None:
        """The disk log no longer holds entries up to `index`."""
        self._stirred = True
        self.housekeeping.truncated(index)

    def on_snapshot_sent(self, to: int, ok: bool, index: int, *, kept: bool = False) -> None:
        """The state transfer to `to` has ended; ok: the receiver has the whole state.

        kept: it broke and may be continued, so the log behind its state stays until it ends
        or `on_snapshot_dropped` comes.
        """
        self._stirred = True
        if not kept:
            self.housekeeping.sent(to, index if ok and self.is_leader else 0)
        self.core.snapshot_sent(to, ok, index)

    def on_snapshot_dropped(self, to: int) -> None:
        """The broken transfer to `to` will not be continued; another may be asked for."""
        self._stirred = True
        self.housekeeping.sent(to)

    def on_state_received(self, message: InstallSnapshot, machine: StateMachine) -> None:
        """A whole state has arrived, complete and checked; `machine` is loaded from it.

        It comes back in `Effects.installed` (by its index) or in `Effects.discarded`.
        """
        assert machine.applied_index == message.snapshot.index
        self._stirred = True
        if self.core.log.stable_index < self.core.log.anchor_index:
            # The log's reset to an earlier state is not durable yet, and the disk can have one
            # state under way: a crash between two would leave the log of the first with the
            # state from before it (R36). The leader sends this one again.
            self._discarded.append(machine)
            return
        if self._received is not None:
            self._discarded.append(self._received)
        self._received = machine
        self.core.step(message)

    def close(self) -> list[tuple[Ticket, ApiError]]:
        """Ends every write and read that has no answer: the process stops."""
        replies: list[tuple[Ticket, ApiError]] = [
            (ticket, STOPPED) for ticket in self.writes.drain()
        ]
        replies.extend((ticket, NO_LEADER) for ticket in self.reading.drain())
        replies.extend((ticket, NO_LEADER) for ticket in self.keepalives.drain())
        return replies

    # --- facts out ----------------------------------------------------------

    @property
    def leader(self) -> int:
        """The member id of the leader of the current term, NOBODY if unknown."""
        return self.core.leader

    @property
    def is_leader(self) -> bool:
        """True while this member leads."""
        return self.core.is_leader

    @property
    def is_learner(self) -> bool:
        """True while this member has no vote."""
        return not self.core.configuration.is_voter(self.member)

    def transfer_target(self) -> int:
        """On a leader: the other voter that has most of the log and no CORRUPT alarm; or NOBODY."""
        names = self.machine.alarms.names
        followers = [view for view in self.core.progress().items() if not names(view[0])]
        matches = {one: view.match for one, view in followers if view.voter and view.active}
        return max(matches, key=lambda one: matches[one], default=NOBODY)

    def _point(self) -> SnapshotMeta:
        machine = self.machine
        return SnapshotMeta(machine.applied_index, machine.applied_term, machine.configuration)

    # --- the turn -----------------------------------------------------------

    def turn(self, now: float) -> Effects:
        """All work that is due. now: seconds of the driver's monotonic clock.

        What it returns is to be executed before the next turn.
        """
        self._now = now
        self._write_deadline = now + self.settings.request_timeout_seconds
        core = self.core
        if not (self._stirred or core.dirty or now >= self._next_sweep):
            # Only questions about leases: no write, no message of Raft and no tick since the last
            # turn, so that nothing else can have come up.
            effects = self._brief
            effects.messages, effects.replies = [], []
            self.keepalives.turn(now, self.machine, self._append, effects)
            effects.more = core.dirty or self.keepalives.more
            return effects
        effects = Effects()
        if self._discarded:
            effects.discarded, self._discarded = self._discarded, []
        self.writes.place(now, self.machine, effects)
        if self.reading.new and core.leader != NOBODY:
            self._ask_reads()
        if core.dirty:
            self._execute(core.ready(), effects)
            if self._received is not None:  # the log was further than the state by now
                effects.discarded.append(self._received)
                self._received = None
        if core.is_leader:
            self.watchdog.observe(now)
        self.writes.drain_output(effects)
        self.caretaker.send(effects)
        self.keepalives.turn(now, self.machine, self._append, effects)
        if self.reading.confirmed:
            effects.reads = self.reading.served(self.machine.applied_index)
        if now >= self._next_sweep:
            self._sweep(now, effects)
        self._housekeep(effects)
        effects.news = core.has_news()
        effects.more = core.dirty or self.writes.has_more or self.keepalives.more
        self._stirred = core.dirty or self.writes.has_work()
        lag = core.commit - self.machine.applied_index
        taken = len(self.writes.pending)
        self._room = 0 if lag > limits.MAX_APPLY_LAG_ENTRIES else self.settings.max_pending - taken
        return effects

    def _execute(self, ready: Ready, effects: Effects) -> None:
        effects.batch = ready.batch
        effects.messages = ready.messages
        effects.after = ready.after
        effects.after_number = ready.after_number
        effects.role_changed = ready.role_changed
        if ready.role_changed:
            self.watchdog.forget()
        if ready.installed is not None:
            self._install(ready.installed, effects)
        if ready.lost_reads or ready.role_changed:
            self.reading.lose(ready.lost_reads, again=ready.role_changed)
        for state in ready.reads:
            self.reading.confirm(state.number, state.index)
        if ready.committed:
            effects.applied = True
            self._apply(ready.committed, effects)
            effects.changes = self.machine.take_changes()
        if ready.committed or ready.installed is not None:
            self.caretaker.applied(self.machine, self.reading, effects)
        if effects.messages:
            self._divert_snapshots(effects)

    def _apply(self, entries: list[Entry], effects: Effects) -> None:
        apply_some = self.machine.apply_some
        writes = self.writes
        local = writes.pending.local
        forwarded = writes.pending.forwarded
        replies = effects.replies
        clock = writes.stopwatch.clock
        timing = effects.timing = Applied(entries, clock())
        at = 0
        if self.machine.unflushed_rows > MAX_UNFLUSHED_ROWS:
            self.machine.flush()  # of a long entry of the turn before
        while at < len(entries):
            first = at
            for result in apply_some(entries, at):
                entry = entries[at]
                at += 1
                if entry.term != self._applied_term:
                    self._applied_term = entry.term
                    writes.take_back(entry.term)
                if local and local[0][0] == entry.index and local[0][1] == entry.term:
                    replies.append((local.popleft()[TICKET], result or self._done()))
                elif forwarded:
                    writes.answer_forwarded(entry, result or self._done(), effects)
                if entry.kind == CONFIG:
                    writes.joining = None
                    effects.members_changed = True
            timing.lap(clock(), first, at)
        if MAX_UNFLUSHED_ROWS < self.machine.unflushed_rows < ROWS_OF_A_LONG_ENTRY:
            self.machine.flush()
        timing.runs = writes.stopwatch.applied(self.machine.applied_index)
        self.core.applied_to(self.machine.applied_index)

    def _done(self) -> Result:
        """The answer to a change of the configuration: that it is applied."""
        return Result(self.machine.revision, b"")

    def _append(self, command: int, request: bytes) -> bool:
        """Proposes a command of this member's own, for which nobody waits."""
        try:
            self.core.propose([commands.encode(command, request)])
        except Refusal:
            return False
        return True

    # --- reads --------------------------------------------------------------

    def _ask_reads(self) -> None:
        try:
            number = self.core.read()
        except NoLeader:
            return  # asked again in the next turn that knows a leader
        self.reading.ask(number)

    # --- snapshots and housekeeping -------------------------------------------

    def _install(self, meta: SnapshotMeta, effects: Effects) -> None:
        assert self._received is not None, "an installed state was received before"
        self._received.lease_counts.add(self.machine.lease_counts)
        self._received.store.inherit_counts(self.machine.store)
        self.machine, self._received = self._received, None
        assert self.machine.applied_index == meta.index
        self._applied_term = meta.term
        self.housekeeping.installed(meta.index)
        effects.installed = meta
        self.writes.jumped(effects)

    def _divert_snapshots(self, effects: Effects) -> None:
        for message in effects.messages:
            if type(message) is InstallSnapshot:
                message.snapshot = self._point()
                self.housekeeping.sending(message.to, message.snapshot.index)
                effects.snapshots.append(message)
        if effects.snapshots:
            messages = effects.messages
            effects.messages = [one for one in messages if type(one) is not InstallSnapshot]

    def _sweep(self, now: float, effects: Effects) -> None:
        """Answers what has waited too long. Ten times a second is precise enough."""
        self._next_sweep = now + 0.1
        if not effects.applied or self.machine.unflushed_rows < ROWS_OF_A_LONG_ENTRY:
            self.machine.flush()
        self.writes.expire(now, effects)
        if self.core.is_leader:
            self.caretaker.tend(now, self.machine, self._append)
        for ticket in (*self.reading.expired(now), *self.keepalives.expired(now)):
            effects.replies.append((ticket, TIMEOUT))

    def _housekeep(self, effects: Effects) -> None:
        housekeeping = self.housekeeping
        if housekeeping.checkpoint_due(self.machine.applied_index):
            self.machine.flush()
            effects.checkpoint = self.machine.applied_index
        index = housekeeping.truncation_due()
        if index:
            term = self.core.term_at(index)
            # Whoever needs what is dropped now gets a state, which the log must continue.
            self.core.snapshot_point(self._point())
            self.core.compacted(index, term)  # before the disk: nobody may ask for these now
            effects.truncate = (index, term)
