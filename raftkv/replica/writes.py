"""Client writes from their arrival to their answer, on a leader and on a follower.

A leader appends what its clients and its followers send, one `propose` per turn. A follower
forwards to the leader and recognises its own entries by their origin when it applies them.
`raftkv.replica.pending` says why outcomes stay exact across leader changes.

A number that a follower used is taken once, in growing order, and only in the term that it
was sent in: a repeated or late forward appends nothing.
"""

from collections import deque
from typing import Final

from raftkv import limits
from raftkv.errors import TIMEOUT, TIMEOUT_LEADER_FAIL, TOO_MANY_REQUESTS, ApiError
from raftkv.kv import commands
from raftkv.kv.machine import Result, StateMachine
from raftkv.kv.members import Member, joining_member
from raftkv.raft.core import Core
from raftkv.raft.membership import decode_change
from raftkv.raft.messages import Forward, ForwardReply, Message
from raftkv.raft.roles import Refusal, UncommittedFull
from raftkv.raft.types import CONFIG, NOBODY, Entry, RecoveredLog
from raftkv.replica.changes import CHANGE_COMMANDS, Change, Changes, Rules, context_of, plan
from raftkv.replica.effects import Effects, Ticket
from raftkv.replica.pending import Pending, Write
from raftkv.replica.stopwatch import Stopwatch
from raftkv.replica.strictness import HEALTH_ERRORS, is_premature
from raftkv.replica.throttle import Throttle

MAX_PROCESSES: Final = 256  # whose newest forward a leader remembers


def _size(forward: Forward) -> int:
    """Payload bytes of a forward."""
    return sum(len(payload) for _, payload in forward.proposals)


def joining_in(recovered: RecoveredLog, applied_index: int) -> Member | None:
    """The member that the newest configuration of a log adds, if it is not applied yet."""
    for index, payload in recovered.configurations[-1:]:
        if index > applied_index:
            return joining_member(decode_change(payload)[1])
    return None


class Writes:
    """The writes of one member.

    timeout_seconds: how long a follower's membership change may wait here. rules: for changes.
    joining: the member that a configuration entry under way adds.
    """

    def __init__(self, core: Core, boot: int, timeout_seconds: float, rules: Rules) -> None:
        self.core = core
        self.rules = rules
        self.member = core.member
        self.boot = boot
        self._process = commands.process(self.member, boot)
        self.timeout_seconds = timeout_seconds
        self.pending = Pending()
        self.changes = Changes()
        self.throttle = Throttle()
        self.joining: Member | None = None
        self.proposals: list[tuple[float, int, Ticket, bytes]] = []  # since the last turn
        self.stopwatch = Stopwatch()
        self.failed = 0  # writes whose clients were not told what became of them
        self._forwarded_here: dict[tuple[int, int], int] = {}  # (sender, boot) -> newest number
        self._taken: list[Forward] = []
        self._outbox: list[Message] = []
        self._answers: list[tuple[Ticket, ApiError]] = []
        # The leader and term that sent a forward back in this tick: it would send the next one
        # back as well, and the two members would keep each other busy until a leader is known.
        self._sent_back_by = (NOBODY, 0)

    def __len__(self) -> int:
        return len(self.pending) + len(self.proposals)

    def has_work(self) -> bool:
        """True if something here waits for a turn."""
        return bool(
            self.proposals
            or self._taken
            or self._answers
            or self._outbox
            or self.pending.waiting
            or self.changes.queued
        )

    @property
    def has_more(self) -> bool:
        """True if another turn could send writes that came back to waiting in this one. Each
        is tried once: a leader that takes nothing now must not keep this member busy.
        """
        leader = self.core.leader
        return (
            self.pending.returned
            and leader != NOBODY
            and (leader == self.member or self._sent_back_by != (leader, self.core.term))
        )

    # --- facts in -----------------------------------------------------------

    def tick(self) -> None:
        """A tick of Raft's clock: whoever sent forwards back may be asked again."""
        self._sent_back_by = (NOBODY, 0)

    def on_forward(self, message: Forward) -> None:
        """A follower sent its clients' writes."""
        self._taken.append(message)

    def on_forward_reply(self, reply: ForwardReply) -> None:
        """The leader did not append some of ours."""
        if reply.boot != self.boot:
            return
        for number in reply.refused:
            if not reply.code:
                self.pending.refused(number)
                self._sent_back_by = (self.core.leader, self.core.term)
                continue
            write = self.pending.forwarded.pop(number, None)
            if write is not None:
                self._answers.append((write.ticket, ApiError(reply.code, reply.text)))

    # --- a turn -------------------------------------------------------------

    def place(self, now: float, machine: StateMachine, effects: Effects) -> None:
        """Appends or forwards all that can go now."""
        if self.throttle.stalling:
            self.throttle.refill(now)
        if self._taken:
            self._take_forwards(now)
        if self.proposals:
            self._place_proposals()
        self.pending.returned = False
        if self.pending.waiting and self.core.leader != NOBODY:
            if self.core.is_leader:
                self._append_waiting()
            elif self._sent_back_by != (self.core.leader, self.core.term):
                self._forward_waiting()
        if self.changes.queued:
            self._start_changes(machine, effects)

    def drain_output(self, effects: Effects) -> None:
        """Adds messages and answers that have come up since the last turn."""
        if self._outbox:
            effects.messages.extend(self._outbox)
            self._outbox = []
        if self._answers:
            effects.replies.extend(self._answers)
            self._answers = []

    def _place_proposals(self) -> None:
        proposals, self.proposals = self.proposals, []
        if self.core.is_leader and not self.pending.waiting and not self.throttle.stalling:
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
                self.stopwatch.appended(index - 1, len(proposals), term)
                return
        now = self.stopwatch.clock()
        self.pending.waiting.extend(
            Write(command, request, ticket, deadline, now)
            for deadline, command, ticket, request in proposals
        )

    def _append_waiting(self) -> None:
        waiting = self.pending.waiting
        if any(write.command in CHANGE_COMMANDS for write in waiting):
            waiting = self._divert_changes()
        if not waiting or self.core.uncommitted_bytes > limits.MAX_UNCOMMITTED_BYTES // 2:
            return  # below half, so that a full log does not encode the same writes every turn
        if self.throttle.stalling:
            self._append_slowly()
            return
        payloads = [commands.encode(write.command, write.request) for write in waiting]
        try:
            index = self.core.propose(payloads)
        except Refusal:
            return
        for write in waiting:
            self._note_local(index, write)
            index += 1
        waiting.clear()

    def _append_slowly(self) -> None:
        """Appends as many waiting writes as the throttle admits, oldest first."""
        waiting, throttle = self.pending.waiting, self.throttle
        while waiting and throttle.admits():
            payload = commands.encode(waiting[0].command, waiting[0].request)
            try:
                index = self.core.propose([payload])
            except Refusal:
                return
            throttle.took(len(payload))
            self._note_local(index, waiting.popleft())

    def _note_local(self, index: int, write: Write) -> None:
        self.pending.local.append(
            (index, self.core.term, write.deadline, write.command, write.ticket, write.request)
        )
        self.stopwatch.appended(index, 1, self.core.term, write.since)

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
        pending, term, now = self.pending, self.core.term, self.stopwatch.clock()
        proposals: list[tuple[int, bytes]] = []
        size = 0
        while pending.waiting and size < limits.MAX_APPEND_BYTES:
            write = pending.waiting.popleft()
            write.sent = now
            number = pending.forward(write, term)
            origin = (self.member, self.boot, number)
            payload = commands.encode(write.command, write.request, origin)
            size += len(payload)
            proposals.append((number, payload))
        pending.returned = bool(pending.waiting)  # the rest goes in the next turn
        self._outbox.append(Forward(self.core.leader, self.member, term, self.boot, proposals))

    # --- on the leader: what followers sent ------------------------------------

    def _take_forwards(self, now: float) -> None:
        taken, self._taken = self._taken, []
        held_bytes = self._held_bytes(taken)
        for at, forward in enumerate(taken):
            if held_bytes and not self.throttle.admits() and held_bytes <= limits.MAX_HELD_BYTES:
                self._taken = taken[at:]
                return
            # Too much is held: the oldest is refused, so that numbers are used in their order.
            full = bool(held_bytes) and not self.throttle.admits()
            held_bytes -= _size(forward) if held_bytes else 0
            process = (forward.sender, forward.boot)
            newest = self._forwarded_here.pop(process, 0)
            fresh = forward.proposals
            if fresh and fresh[0][0] <= newest:
                fresh = [proposal for proposal in fresh if proposal[0] > newest]
            # The latest last: a process that is no more must be remembered for a while, because
            # a message of it may still be repeated after its successor has spoken.
            self._forwarded_here[process] = fresh[-1][0] if fresh else newest
            if len(self._forwarded_here) > MAX_PROCESSES:
                del self._forwarded_here[next(iter(self._forwarded_here))]
            if fresh:
                self._append_forward(forward, fresh, now, full=full)

    def _held_bytes(self, taken: list[Forward]) -> int:
        """How much waits there if the throttle does not admit it; 0: nothing may be held.

        A membership change is not slowed down, nor is what came before it. Who does not lead
        sends everything back.
        """
        if not self.throttle.stalling or not self.core.is_leader:
            return 0
        if any(one[1][1] in CHANGE_COMMANDS for forward in taken for one in forward.proposals):
            return 0
        return sum(_size(forward) for forward in taken)

    def _append_forward(
        self, forward: Forward, fresh: list[tuple[int, bytes]], now: float, *, full: bool
    ) -> None:
        code, text = 0, ""
        if self.core.is_leader and forward.term == self.core.term:
            payloads = [payload for _, payload in fresh if payload[1] not in CHANGE_COMMANDS]
            if len(payloads) < len(fresh):
                self._queue_changes(fresh, now)
                fresh = [proposal for proposal in fresh if proposal[1][1] not in CHANGE_COMMANDS]
            try:
                if full:
                    raise UncommittedFull
                if payloads:
                    index = self.core.propose(payloads)
                    if self.throttle.stalling:
                        self.throttle.took(sum(map(len, payloads)))
                    self.core.want_commit(forward.sender, index + len(payloads) - 1)
                return
            except UncommittedFull:
                code, text = TOO_MANY_REQUESTS.code, TOO_MANY_REQUESTS.text
            except Refusal:
                pass  # handing over: the follower asks the next leader
        numbers = [number for number, _ in fresh]
        self._outbox.append(
            ForwardReply(
                forward.sender, self.member, self.core.term, forward.boot, numbers, code, text
            )
        )

    def _queue_changes(self, fresh: list[tuple[int, bytes]], now: float) -> None:
        """A follower's membership changes go to their own queue."""
        for _, payload in fresh:
            if payload[1] in CHANGE_COMMANDS:
                command = commands.decode(payload)
                self.changes.add(
                    Change(
                        command.command,
                        command.request,
                        now + self.timeout_seconds,
                        self.core.term,
                        origin=command.origin,
                    )
                )

    # --- membership -----------------------------------------------------------

    def _start_changes(self, machine: StateMachine, effects: Effects) -> None:
        """Carries out queued changes as far as Raft allows one now."""
        core, queued = self.core, self.changes.queued
        while queued:
            change = queued[0]
            if not core.is_leader or change.term != core.term:
                queued.popleft()
                self._send_back(change)
                continue
            if core.configuration_index > machine.applied_index:
                return  # judged by the member table, which must have caught up
            planned = plan(core, machine, change, self.rules)
            if planned in HEALTH_ERRORS and is_premature(core):
                return  # who is there shows soon
            if isinstance(planned, ApiError):
                queued.popleft()
                self._send_back(change, planned)
                continue
            context = context_of(change)
            try:
                index = core.change(planned, context)
            except Refusal:
                return  # not yet: one at a time, and after an entry of the own term
            queued.popleft()
            self.joining = joining_member(context)
            effects.members_changed = True
            if change.write is not None:
                self._note_local(index, change.write)

    def _send_back(self, change: Change, error: ApiError | None = None) -> None:
        """The change was not carried out: the error is final, without one it is asked again."""
        if change.write is not None and error is None:
            self.pending.waiting.append(change.write)
            self.pending.returned = True
        elif change.write is not None:
            assert error is not None
            self._answers.append((change.write.ticket, error))
        elif change.origin is not None:
            member, boot, number = change.origin
            reply = ForwardReply(member, self.member, self.core.term, boot, [number])
            if error is not None:
                reply.code, reply.text = error.code, error.text
            self._outbox.append(reply)

    # --- answers ------------------------------------------------------------

    def answer_forwarded(self, entry: Entry, result: Result | ApiError, effects: Effects) -> None:
        """An entry was applied: if this process forwarded it, its client gets the result."""
        payload = entry.payload if entry.kind != CONFIG else decode_change(entry.payload)[1]
        if payload[commands.PROCESS] != self._process:
            return  # most entries of a busy cluster
        origin = commands.origin(payload)
        if origin is None or origin[0] != self.member or origin[1] != self.boot:
            return
        write = self.pending.forwarded.pop(origin[2], None)
        if write is not None:
            self.stopwatch.answered(write.since, write.sent)
            effects.replies.append((write.ticket, result))

    def jumped(self, effects: Effects) -> None:
        """A snapshot jumped over entries: whether ours were among them is not to be known."""
        self.stopwatch.lost(self.core.term + 1)
        for ticket in self.pending.drop_sent():
            self.failed += 1
            effects.replies.append((ticket, TIMEOUT_LEADER_FAIL))

    def take_back(self, term: int) -> None:
        """An entry of `term` is applied: what was sent in earlier ones and was not is in no log."""
        self.pending.take_back(term, self.stopwatch.lost(term))

    def expire(self, now: float, effects: Effects) -> None:
        """Answers the writes that have waited too long."""
        for ticket in self.pending.expired(now):
            self.failed += 1
            effects.replies.append((ticket, TIMEOUT))
        for change in self.changes.expired(now):
            if change.write is not None:
                effects.replies.append((change.write.ticket, TIMEOUT))

    def drain(self) -> list[Ticket]:
        """Removes every write that has no answer; returns the tickets."""
        tickets = [ticket for _, _, ticket, _ in self.proposals]
        self.proposals.clear()
        tickets.extend(self.pending.drain())
        changes = self.changes.drain()
        tickets.extend(change.write.ticket for change in changes if change.write is not None)
        return tickets
