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
from collections import deque
from dataclasses import dataclass

from raftkv import limits
from raftkv.errors import (
    NO_LEADER,
    STOPPED,
    TIMEOUT,
    TIMEOUT_LEADER_FAIL,
    TOO_MANY_REQUESTS,
    ApiError,
)
from raftkv.kv import commands
from raftkv.kv.machine import Result, StateMachine
from raftkv.kv.members import Member, joining_member
from raftkv.raft.core import Core, CoreSettings, LogReader
from raftkv.raft.membership import decode_change
from raftkv.raft.messages import (
    Forward,
    ForwardReply,
    InstallSnapshot,
    Message,
)
from raftkv.raft.ready import Ready
from raftkv.raft.roles import NoLeader, Refusal, UncommittedFull
from raftkv.raft.types import CONFIG, NOBODY, Entry, RecoveredLog, SnapshotMeta
from raftkv.replica.changes import CHANGE_COMMANDS, Change, Changes, context_of, plan
from raftkv.replica.effects import Effects, Ticket
from raftkv.replica.housekeeping import Housekeeping
from raftkv.replica.pending import Pending, Write
from raftkv.replica.reading import Reading


@dataclass(frozen=True, slots=True)
class ReplicaSettings:
    """What a replica needs to know beyond its core's settings.

    request_timeout_seconds: how long a write or read may wait (etcd: 5 s + 2 elections).
    snapshot_count: entries between checkpoints of the state.
    catch_up_entries: log entries kept behind a checkpoint for slow followers.
    """

    core: CoreSettings
    request_timeout_seconds: float = 7.0
    snapshot_count: int = 10_000
    catch_up_entries: int = 5_000
    max_pending: int = limits.MAX_PENDING_PROPOSALS
    max_pending_reads: int = limits.MAX_PENDING_READS


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
        self.pending = Pending()
        self.reading = Reading()
        self.changes = Changes()
        self.housekeeping = Housekeeping(
            settings.snapshot_count,
            settings.catch_up_entries,
            machine.applied_index,
            recovered.anchor_index,
        )
        self.joining: Member | None = None  # of the configuration entry under way
        self._proposals: list[tuple[float, int, Ticket, bytes]] = []
        self._forwarded_here: dict[int, tuple[int, int]] = {}  # sender -> (boot, newest number)
        self._taken: list[Forward] = []
        self._outbox: list[Message] = []
        self._answers: list[tuple[Ticket, ApiError]] = []
        self._discarded: list[StateMachine] = []
        self._received: StateMachine | None = None  # a state from another member
        self._applied_term = machine.applied_term
        self._next_sweep = 0.0
        self._now = 0.0

    # --- facts in -----------------------------------------------------------

    def propose(self, command: int, request: bytes, ticket: Ticket) -> ApiError | None:
        """Queues a client's write; returns the error if it is refused at once.

        command: a constant of kv.commands. request: the client's own request bytes.
        ticket: comes back in `Effects.replies` exactly once, unless an error is returned.
        """
        if len(self.pending) + len(self._proposals) >= self.settings.max_pending or (
            self.core.commit - self.machine.applied_index > limits.MAX_APPLY_LAG_ENTRIES
        ):
            return TOO_MANY_REQUESTS
        deadline = self._now + self.settings.request_timeout_seconds
        self._proposals.append((deadline, command, ticket, request))
        return None

    def change(self, command: int, request: bytes, ticket: Ticket) -> None:
        """Queues a membership change (kv.commands.MEMBER_ADD and the like), answered like a
        write once its configuration is applied here.
        """
        deadline = self._now + self.settings.request_timeout_seconds
        self.pending.waiting.append(Write(command, request, ticket, deadline))

    def read(self, ticket: Ticket) -> ApiError | None:
        """Queues a linearizable read; its ticket comes back in `Effects.reads` or `replies`."""
        if self.reading.count >= self.settings.max_pending_reads:
            return TOO_MANY_REQUESTS
        self.reading.add(self._now + self.settings.request_timeout_seconds, ticket)
        return None

    def on_message(self, message: Message) -> None:
        """A message of another member."""
        kind = type(message)
        if kind is Forward:
            self._taken.append(message)  # type: ignore[arg-type]
        elif kind is ForwardReply:
            self._on_forward_reply(message)  # type: ignore[arg-type]
        else:
            self.core.step(message)

    def on_persisted(self, number: int) -> None:
        """Disk batch `number` and all before it are durable."""
        self.core.persisted(number)

    def tick(self) -> None:
        """One tick of Raft's clock has passed."""
        self.core.tick()

    def on_checkpoint(self, index: int) -> None:
        """The checkpoint asked for at `index` has finished."""
        self.housekeeping.checkpointed(index)

    def on_truncated(self, index: int) -> None:
        """The disk log no longer holds entries up to `index`."""
        self.housekeeping.truncated(index)

    def on_snapshot_sent(self, to: int, ok: bool, index: int) -> None:
        """The state transfer to `to` has ended; ok: the receiver has the whole state."""
        self.housekeeping.sent(to)
        self.core.snapshot_sent(to, ok, index)

    def on_state_received(self, message: InstallSnapshot, machine: StateMachine) -> None:
        """A whole state has arrived, complete and checked; `machine` is loaded from it.

        It comes back in `Effects.installed` (by its index) or in `Effects.discarded`.
        """
        assert machine.applied_index == message.snapshot.index
        if self._received is not None:
            self._discarded.append(self._received)
        self._received = machine
        self.core.step(message)

    def close(self) -> list[tuple[Ticket, ApiError]]:
        """Ends every write and read that has no answer: the process stops."""
        replies: list[tuple[Ticket, ApiError]] = [
            (ticket, STOPPED) for _, _, ticket, _ in self._proposals
        ]
        self._proposals.clear()
        replies.extend((ticket, STOPPED) for ticket in self.pending.drain())
        replies.extend(
            (change.write.ticket, STOPPED)
            for change in self.changes.drain()
            if change.write is not None
        )
        replies.extend((ticket, NO_LEADER) for ticket in self.reading.drain())
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
        """On a leader: the other voter that has most of the log; NOBODY if there is none."""
        followers = self.core.progress().items()
        matches = {one: view.match for one, view in followers if view.voter and view.active}
        return max(matches, key=lambda one: matches[one], default=NOBODY)

    def _point(self) -> SnapshotMeta:
        machine = self.machine
        return SnapshotMeta(machine.applied_index, machine.applied_term, machine.configuration)

    # --- the turn -----------------------------------------------------------

    def turn(self, now: float) -> Effects:
        """All work that is due. now: seconds of the driver's monotonic clock."""
        self._now = now
        effects = Effects()
        if self._discarded:
            effects.discarded, self._discarded = self._discarded, []
        if self._answers:
            effects.replies.extend(self._answers)
            self._answers = []
        if self._taken:
            self._take_forwards()
        if self._proposals:
            self._place_proposals()
        if self.pending.waiting and self.core.leader != NOBODY:
            self._place_waiting()
        if self.changes.queued:
            self._start_changes(effects)
        if self.reading.new and self.core.leader != NOBODY:
            self._ask_reads()
        if self.core.has_ready():
            self._execute(self.core.ready(), effects)
            if self._received is not None:  # the log was further than the state by now
                effects.discarded.append(self._received)
                self._received = None
        if self._outbox:
            effects.messages.extend(self._outbox)
            self._outbox = []
        if self.reading.confirmed:
            effects.reads = self.reading.served(self.machine.applied_index)
        if now >= self._next_sweep:
            self._sweep(now, effects)
        self._housekeep(effects)
        effects.more = self.core.has_ready()
        return effects

    def _execute(self, ready: Ready, effects: Effects) -> None:
        effects.batch = ready.batch
        effects.messages = ready.messages
        effects.after = ready.after
        effects.after_number = ready.after_number
        effects.role_changed = ready.role_changed
        if ready.installed is not None:
            self._install(ready.installed, effects)
        if ready.lost_reads:
            self.reading.lose(ready.lost_reads)
        for state in ready.reads:
            self.reading.confirm(state.number, state.index)
        if ready.committed:
            self._apply(ready.committed, effects)
        if effects.messages:
            self._divert_snapshots(effects)

    def _apply(self, entries: list[Entry], effects: Effects) -> None:
        apply = self.machine.apply
        local = self.pending.local
        forwarded = self.pending.forwarded
        replies = effects.replies
        for entry in entries:
            result = apply(entry)
            if entry.term != self._applied_term:
                self._applied_term = entry.term
                self.pending.take_back(entry.term)
            if local and local[0][0] == entry.index:
                replies.append((local.popleft()[4], result or self._done()))
            elif forwarded:
                self._answer_forwarded(entry, result, effects)
            if entry.kind == CONFIG:
                self.joining = None
                effects.members_changed = True
        self.machine.flush()
        self.core.applied_to(self.machine.applied_index)

    def _answer_forwarded(
        self, entry: Entry, result: Result | ApiError | None, effects: Effects
    ) -> None:
        payload = entry.payload if entry.kind != CONFIG else decode_change(entry.payload)[1]
        origin = commands.origin(payload)
        if origin is None or origin[0] != self.member or origin[1] != self.boot:
            return
        write = self.pending.forwarded.pop(origin[2], None)
        if write is not None:
            effects.replies.append((write.ticket, result or self._done()))

    def _done(self) -> Result:
        """The answer to a change of the configuration: that it is applied."""
        return Result(self.machine.revision, b"")

    # --- writes -------------------------------------------------------------

    def _place_proposals(self) -> None:
        proposals, self._proposals = self._proposals, []
        if self.core.is_leader:
            payloads = [commands.encode(command, request) for _, command, _, request in proposals]
            try:
                index = self.core.propose(payloads)
            except Refusal:
                pass  # handing over, or too much uncommitted: wait for room or the next leader
            else:
                term = self.core.term
                append = self.pending.local.append
                for deadline, command, ticket, request in proposals:
                    append((index, term, deadline, command, ticket, request))
                    index += 1
                return
        self.pending.waiting.extend(
            Write(command, request, ticket, deadline)
            for deadline, command, ticket, request in proposals
        )

    def _place_waiting(self) -> None:
        if self.core.is_leader:
            self._append_waiting()
        else:
            self._forward_waiting()

    def _append_waiting(self) -> None:
        waiting = self.pending.waiting
        if any(write.command in CHANGE_COMMANDS for write in waiting):
            waiting = self._divert_changes()
            if not waiting:
                return
        payloads = [commands.encode(write.command, write.request) for write in waiting]
        try:
            index = self.core.propose(payloads)
        except Refusal:
            return
        for write in waiting:
            self.pending.local.append(
                (index, self.core.term, write.deadline, write.command, write.ticket, write.request)
            )
            index += 1
        waiting.clear()

    def _divert_changes(self) -> deque[Write]:
        """Waiting membership changes go to their own queue; returns the other writes."""
        others: deque[Write] = deque()
        for write in self.pending.waiting:
            if write.command in CHANGE_COMMANDS:
                self.changes.add(
                    Change(write.command, write.request, write.deadline, self.core.term, write)
                )
            else:
                others.append(write)
        self.pending.waiting = others
        return others

    def _forward_waiting(self) -> None:
        pending, term = self.pending, self.core.term
        proposals: list[tuple[int, bytes]] = []
        size = 0
        while pending.waiting and size < limits.MAX_APPEND_BYTES:
            write = pending.waiting.popleft()
            number = pending.forward(write, term)
            origin = (self.member, self.boot, number)
            payload = commands.encode(write.command, write.request, origin)
            size += len(payload)
            proposals.append((number, payload))
        self._outbox.append(Forward(self.core.leader, self.member, term, self.boot, proposals))

    def _take_forwards(self) -> None:
        """Appends what followers sent; a number is taken once, in growing order."""
        taken, self._taken = self._taken, []
        for forward in taken:
            boot, newest = self._forwarded_here.get(forward.sender, (forward.boot, 0))
            if boot != forward.boot:
                newest = 0
            fresh = [proposal for proposal in forward.proposals if proposal[0] > newest]
            if not fresh:
                continue
            self._forwarded_here[forward.sender] = (forward.boot, fresh[-1][0])
            self._append_forward(forward, fresh)

    def _append_forward(self, forward: Forward, fresh: list[tuple[int, bytes]]) -> None:
        reply = ForwardReply(
            forward.sender, self.member, self.core.term, forward.boot, [n for n, _ in fresh]
        )
        if self.core.is_leader and forward.term == self.core.term:
            payloads = [payload for _, payload in fresh]
            if payloads[0][1] in CHANGE_COMMANDS or len(payloads) > 1:
                payloads = self._queue_changes(payloads)
            try:
                if payloads:
                    self.core.propose(payloads)
            except UncommittedFull:
                reply.code, reply.text = TOO_MANY_REQUESTS.code, TOO_MANY_REQUESTS.text
            except Refusal:
                pass
            else:
                return
        self._outbox.append(reply)

    def _queue_changes(self, payloads: list[bytes]) -> list[bytes]:
        """A follower's membership changes go to their own queue; returns the other payloads."""
        others: list[bytes] = []
        for payload in payloads:
            if payload[1] not in CHANGE_COMMANDS:
                others.append(payload)
                continue
            command = commands.decode(payload)
            deadline = self._now + self.settings.request_timeout_seconds
            self.changes.add(
                Change(
                    command.command,
                    command.request,
                    deadline,
                    self.core.term,
                    origin=command.origin,
                )
            )
        return others

    def _on_forward_reply(self, reply: ForwardReply) -> None:
        if reply.boot != self.boot:
            return
        for number in reply.refused:
            if not reply.code:
                self.pending.refused(number)
                continue
            write = self.pending.forwarded.pop(number, None)
            if write is not None:
                self._answers.append((write.ticket, ApiError(reply.code, reply.text)))

    # --- reads --------------------------------------------------------------

    def _ask_reads(self) -> None:
        try:
            number = self.core.read()
        except NoLeader:
            return  # asked again in the next turn that knows a leader
        self.reading.ask(number)

    # --- membership ---------------------------------------------------------

    def _start_changes(self, effects: Effects) -> None:
        """Carries out queued changes as far as Raft allows one now."""
        queued = self.changes.queued
        while queued:
            change = queued[0]
            if not self.core.is_leader or change.term != self.core.term:
                queued.popleft()
                self._send_back(change)
                continue
            if self.core.configuration_index > self.machine.applied_index:
                return  # judged by the member table, which must have caught up
            planned = plan(self.core, self.machine, change)
            if isinstance(planned, ApiError):
                queued.popleft()
                self._refuse_change(change, planned, effects)
                continue
            try:
                index = self.core.change(planned, context_of(change))
            except Refusal:
                return  # not yet: one at a time, and after an entry of the own term
            queued.popleft()
            self.joining = joining_member(context_of(change))
            effects.members_changed = True
            if change.write is not None:
                write = change.write
                self.pending.local.append(
                    (
                        index,
                        self.core.term,
                        write.deadline,
                        write.command,
                        write.ticket,
                        write.request,
                    )
                )

    def _send_back(self, change: Change) -> None:
        if change.write is not None:
            self.pending.waiting.append(change.write)
        elif change.origin is not None:
            member, boot, number = change.origin
            self._outbox.append(ForwardReply(member, self.member, self.core.term, boot, [number]))

    def _refuse_change(self, change: Change, error: ApiError, effects: Effects) -> None:
        if change.write is not None:
            effects.replies.append((change.write.ticket, error))
        elif change.origin is not None:
            member, boot, number = change.origin
            self._outbox.append(
                ForwardReply(
                    member, self.member, self.core.term, boot, [number], error.code, error.text
                )
            )

    # --- snapshots and housekeeping -------------------------------------------

    def _install(self, meta: SnapshotMeta, effects: Effects) -> None:
        assert self._received is not None, "an installed state was received before"
        self.machine, self._received = self._received, None
        assert self.machine.applied_index == meta.index
        self._applied_term = meta.term
        self.housekeeping.installed(meta.index)
        effects.installed = meta
        # Whether the jumped-over entries held our writes is not to be known from here.
        for ticket in self.pending.drop_sent():
            effects.replies.append((ticket, TIMEOUT_LEADER_FAIL))

    def _divert_snapshots(self, effects: Effects) -> None:
        if not any(type(message) is InstallSnapshot for message in effects.messages):
            return
        kept: list[Message] = []
        for message in effects.messages:
            if type(message) is InstallSnapshot:
                message.snapshot = self._point()
                self.housekeeping.sending(message.to, message.snapshot.index)
                effects.snapshots.append(message)
            else:
                kept.append(message)
        effects.messages = kept

    def _sweep(self, now: float, effects: Effects) -> None:
        """Answers what has waited too long. Ten times a second is precise enough."""
        self._next_sweep = now + 0.1
        for ticket in self.pending.expired(now):
            effects.replies.append((ticket, TIMEOUT))
        for ticket in self.reading.expired(now):
            effects.replies.append((ticket, TIMEOUT))
        for change in self.changes.expired(now):
            if change.write is not None:
                effects.replies.append((change.write.ticket, TIMEOUT))

    def _housekeep(self, effects: Effects) -> None:
        housekeeping = self.housekeeping
        if housekeeping.checkpoint_due(self.machine.applied_index):
            effects.checkpoint = self.machine.applied_index
        index = housekeeping.truncation_due()
        if index:
            term = self.core.term_at(index)
            # Whoever needs what is dropped now gets a state, which the log must continue.
            self.core.snapshot_point(self._point())
            self.core.compacted(index, term)  # before the disk: nobody may ask for these now
            effects.truncate = (index, term)
