"""Questions to the clock of leases: keepalives and remaining times, on the leader and elsewhere.

A question is in one of these places until it is answered:

    new      arrived since the last turn
    waiting  on the leader: for contact with a quorum, an entry of the log, or the first entry of
             the leadership (`replica.lessor` says why). Elsewhere: no leader is known
    asked    elsewhere: it went to the leader, with all others of its turn in one message

What is asked has no side effect but to prolong a lease, so it is simply asked again: of a new
leader at once, of the same one if it has said nothing for an election timeout (the message was
lost with a connection). What a leader holds of others it may forget for the same reason.

Times out like a read, after the request timeout.
"""

from collections.abc import Callable
from math import ceil
from typing import Final, NamedTuple

from raftkv import limits
from raftkv.kv.leases import Lease
from raftkv.kv.machine import StateMachine
from raftkv.raft import describe
from raftkv.raft.core import Core
from raftkv.raft.messages import RENEW, LeaseAsk, LeaseTold
from raftkv.raft.types import NOBODY
from raftkv.replica.contact import Contact
from raftkv.replica.effects import Effects, LeaseAnswer, Ticket
from raftkv.replica.lessor import WAIT, Lessor, Propose, renewed

MAX_HELD: Final = limits.MAX_PENDING_READS  # of other members' questions: more are forgotten


class Ask(NamedTuple):
    """A question that was not answered in the turn of its arrival.

    ticket: of an own client. asker: (member, boot, number) of another member's question.
    deadline, arrived: seconds of the driver's clock. Elsewhere than on the leader it arrived when
    it was last asked.
    commit: on the leader its commit index then, which has to be applied before the answer: if its
    disk is slow another member may have applied that earlier, and told its client of it (M08).
    """

    kind: int
    lease: int
    deadline: float
    arrived: float
    commit: int
    ticket: Ticket
    asker: tuple[int, int, int] | None


class Keepalives:
    """See the module's docstring.

    boot: a number that no earlier process of this member used.
    election_timeout_seconds: within which a quorum must have been heard.
    timeout_seconds: how long a question may wait. max_questions: of own clients, without an answer.
    room: how many are taken before the next turn.
    """

    def __init__(
        self,
        core: Core,
        boot: int,
        election_timeout_seconds: float,
        timeout_seconds: float,
        max_questions: int,
    ) -> None:
        self._core = core
        self._boot = boot
        self._election_timeout = election_timeout_seconds
        self._timeout = timeout_seconds
        # A tick is the longest time between two turns of a process that runs.
        tick_seconds = election_timeout_seconds / core.settings.election_timeout_ticks
        self.lessor = Lessor(
            election_timeout_seconds, max(election_timeout_seconds / 2, 3 * tick_seconds)
        )
        self._contact = Contact()
        self._cautious = False  # leadership was, or is being, handed over: see `replica.lessor`
        self._ticked = False
        self.new: list[tuple[int, int, Ticket]] = []  # (kind, lease, ticket)
        self._heard: list[LeaseAsk] = []
        self._told: list[LeaseTold] = []
        self._waiting: list[Ask] = []
        self._held: dict[tuple[int, int, int], Ask] = {}  # other members' waiting questions
        self._asked: dict[int, Ask] = {}  # by number, the longest ago first
        self._asked_of = (NOBODY, 0)  # leader and term
        self._oldest_asked_at = 0.0  # none of them was asked, or asked again, earlier
        self._number = 0
        self._max_questions = self.room = max_questions

    def __len__(self) -> int:
        """Own clients' questions without an answer."""
        return len(self.new) + len(self._waiting) + len(self._asked)

    def has_work(self) -> bool:
        """True if a turn now may answer or ask something."""
        return bool(
            self._told
            or self._heard
            or self.new
            or ((self._waiting or self._held) and self._core.is_leader)
        )

    @property
    def more(self) -> bool:
        """True if another turn is due at once."""
        return self._ticked and self.lessor.term != 0

    # --- facts in -----------------------------------------------------------

    def on_ask(self, message: LeaseAsk) -> None:
        """Another member asks the leader."""
        self._heard.append(message)

    def on_told(self, message: LeaseTold) -> None:
        """The leader answers."""
        if not self._core.is_leader:
            self._told.append(message)

    def tick(self) -> None:
        """A tick of Raft's clock."""
        self._ticked = True

    def expired(self, now: float) -> list[Ticket]:
        """Removes the questions whose deadline has passed; returns their tickets."""
        tickets: list[Ticket] = []
        if any(ask.deadline <= now for ask in self._waiting):
            tickets.extend(ask.ticket for ask in self._waiting if ask.deadline <= now)
            self._waiting = [ask for ask in self._waiting if ask.deadline > now]
        late = [number for number, ask in self._asked.items() if ask.deadline <= now]
        tickets.extend(self._asked.pop(number).ticket for number in late)
        for asker in [asker for asker, ask in self._held.items() if ask.deadline <= now]:
            del self._held[asker]
        return tickets

    def drain(self) -> list[Ticket]:
        """Removes every question of an own client; returns their tickets."""
        tickets = [ticket for _, _, ticket in self.new]
        tickets.extend(ask.ticket for ask in (*self._waiting, *self._asked.values()))
        self.new, self._waiting = [], []
        self._asked.clear()
        return tickets

    @property
    def renewed(self) -> int:
        """Renewals that this member has granted as the leader."""
        return self.lessor.renewed

    def expiry(self, lease: Lease) -> float:
        """What orders leases by their ends: on the leader a time, elsewhere always 0."""
        return self.lessor.expiry(lease) if self.lessor.term else 0.0

    # --- the turn -------------------------------------------------------------

    def turn(self, now: float, machine: StateMachine, propose: Propose, effects: Effects) -> None:
        """Answers and asks what can be, and on the leader does what is due.

        To be called after the turn's entries were applied. propose: (command, request) appends an
        entry and returns True, or False if none can be appended now.
        """
        core = self._core
        if core.is_leader and machine.applied_term == core.term:
            self._lead(now, machine, propose, effects)
        else:
            self._serve(now, machine, effects)
        self.room = self._max_questions - len(self._waiting) - len(self._asked)

    def _serve(self, now: float, machine: StateMachine, effects: Effects) -> None:
        """A turn of a member that does not lead, or not yet."""
        if self.lessor.term:
            self.lessor.end()
        self.lessor.advance(now, machine, led=self._core.leader != NOBODY)
        if self._told:
            self._take_answers(effects)
        if self._heard or self._held:
            self._hold_unready(now)
        if self.new or self._waiting or self._asked:
            self._follow(now, effects)

    def _hold_unready(self, now: float) -> None:
        """What others ask waits for the leader's first entry; who does not lead forgets it."""
        core = self._core
        heard, self._heard = self._heard, []
        if not core.is_leader:
            self._held.clear()
            return
        for message in heard:
            if message.term == core.term:
                for number, kind, lease in message.asks:
                    self._hold(message, number, kind, lease, now)

    def _hold(self, message: LeaseAsk, number: int, kind: int, lease: int, now: float) -> None:
        asker = (message.sender, message.boot, number)
        if asker not in self._held and len(self._held) < MAX_HELD:
            index = self._core.commit
            self._held[asker] = Ask(kind, lease, now + self._timeout, now, index, None, asker)

    # --- elsewhere than on the leader -----------------------------------------

    def _take_answers(self, effects: Effects) -> None:
        told, self._told = self._told, []
        pop, replies = self._asked.pop, effects.replies
        for message in told:
            if message.boot != self._boot or message.term != self._core.term:
                continue
            for number, ttl_ms, granted_ms in message.answers:
                ask = pop(number, None)
                if ask is not None:
                    answer = _seconds(ask.kind, ask.lease, (ttl_ms, granted_ms))
                    replies.append((ask.ticket, answer))

    def _follow(self, now: float, effects: Effects) -> None:
        core, leader = self._core, self._core.leader
        deadline = now + self._timeout
        if leader in (NOBODY, core.member):
            self._waiting += [
                Ask(kind, lease, deadline, now, 0, ticket, None) for kind, lease, ticket in self.new
            ]
            self.new = []
            return
        asked, number = self._asked, self._number
        asks: list[tuple[int, int, int]] = []
        due = now - self._oldest_asked_at >= self._election_timeout
        if asked and (due or self._asked_of != (leader, core.term)):
            for old, ask in self._lost(now):
                asked[old] = ask._replace(arrived=now)
                asks.append((old, ask.kind, ask.lease))
            oldest = next(iter(asked.values())).arrived
        else:
            oldest = self._oldest_asked_at if asked else now
        self._oldest_asked_at, self._asked_of = oldest, (leader, core.term)
        if self._waiting:
            for ask in self._waiting:
                number += 1
                asked[number] = ask._replace(arrived=now)
                asks.append((number, ask.kind, ask.lease))
            self._waiting = []
        for kind, lease, ticket in self.new:
            number += 1
            asked[number] = Ask(kind, lease, deadline, now, 0, ticket, None)
            asks.append((number, kind, lease))
        self.new = []
        self._number = number
        if asks:
            effects.messages.append(LeaseAsk(leader, core.member, core.term, self._boot, asks))

    def _lost(self, now: float) -> list[tuple[int, Ask]]:
        """Removes the questions that were asked and have to be asked again, with their numbers."""
        asked = self._asked
        if self._asked_of != (self._core.leader, self._core.term):
            lost = list(asked.items())
        else:
            lost = []
            for number, ask in asked.items():
                if now - ask.arrived < self._election_timeout:
                    break
                lost.append((number, ask))
        for number, _ in lost:
            del asked[number]
        return lost

    # --- on the leader ----------------------------------------------------------

    def _lead(self, now: float, machine: StateMachine, propose: Propose, effects: Effects) -> None:
        core, lessor = self._core, self.lessor
        if lessor.term == core.term:
            lessor.advance(now, machine)
        else:
            self._begin(now, machine)
        questions = self.new or self._heard or self._waiting or self._held
        if not (questions or self._ticked):
            return
        contact = self._contact
        contact.mark(now, describe.newest_round(core))
        if core.transferee != NOBODY:
            self._cautious = True
        older = self._ticked or self._waiting or self._held
        if not older and now - contact.proved <= self._election_timeout:
            self._renew_running(machine, effects)
            if not (self.new or self._heard):
                return  # as nearly always
        sent_at = contact.sent_at(now, describe.rounds(core)[1])
        in_contact = now - sent_at <= self._election_timeout
        if questions:
            self._answer(now, sent_at, in_contact, machine, effects)
        if lessor.clearing and in_contact:
            lessor.clear(machine, propose)
        if self._ticked:
            # What one slice leaves comes in the next turn, which is due at once.
            self._ticked = in_contact and self._work(machine, propose)

    def _work(self, machine: StateMachine, propose: Propose) -> bool:
        more = self.lessor.work(machine, propose)
        return self.lessor.load(machine) or more

    def _begin(self, now: float, machine: StateMachine) -> None:
        if self.lessor.term:  # it led another term a moment ago
            self.lessor.end()
        self.lessor.advance(now, machine)
        self.lessor.begin(self._core.term, machine)
        self._contact = Contact()
        self._cautious = False
        self._ticked = True
        self._told = []
        asks = (*self._waiting, *self._asked.values())
        self._waiting = [ask._replace(arrived=now, commit=self._core.commit) for ask in asks]
        self._asked.clear()

    def _answer(
        self,
        now: float,
        sent_at: float,
        in_contact: bool,
        machine: StateMachine,
        effects: Effects,
    ) -> None:
        """Answers all questions that can be, the oldest first."""
        judge = self._judge(now, sent_at, in_contact, machine)
        answers: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
        core = self._core
        commit = core.commit
        if in_contact and (self._waiting or self._held):
            self._answer_waiting(judge, answers, effects)
        if in_contact:
            self._renew_running(machine, effects)
        if self.new:
            self._answer_new(now, judge, effects)
        for message in self._heard:
            if message.term == core.term:
                told = answers.setdefault((message.sender, message.boot), [])
                for number, kind, lease in message.asks:
                    answer = judge(kind, lease, now, commit)
                    if answer is None:
                        self._hold(message, number, kind, lease, now)
                    else:
                        told.append((number, *answer))
        self._heard = []
        effects.messages.extend(
            LeaseTold(member, core.member, core.term, boot, told)
            for (member, boot), told in answers.items()
            if told
        )

    def _renew_running(self, machine: StateMachine, effects: Effects) -> None:
        """Answers the new renewals of leases whose clock runs. Only while in contact."""
        core, lessor = self._core, self.lessor
        if self._cautious or machine.applied_index < core.commit:
            return
        if self.new:
            self.new = lessor.renew_running(self.new, effects.replies)
        heard, self._heard = self._heard, []
        for message in heard:
            if message.term != core.term:
                continue
            told: list[tuple[int, int, int]] = []
            rest = lessor.tell_running(message.asks, told)
            if rest:
                message.asks = rest
                self._heard.append(message)
            if told:
                effects.messages.append(
                    LeaseTold(message.sender, core.member, core.term, message.boot, told)
                )

    def _answer_waiting(
        self,
        judge: "Judge",
        answers: dict[tuple[int, int], list[tuple[int, int, int]]],
        effects: Effects,
    ) -> None:
        """What was asked before this turn. answers: takes those for other members' processes."""
        waiting, self._waiting = self._waiting, []
        for ask in waiting:
            answer = judge(ask.kind, ask.lease, ask.arrived, ask.commit)
            if answer is None:
                self._waiting.append(ask)
            else:
                effects.replies.append((ask.ticket, _seconds(ask.kind, ask.lease, answer)))
        for asker, ask in list(self._held.items()):
            answer = judge(ask.kind, ask.lease, ask.arrived, ask.commit)
            if answer is not None:
                del self._held[asker]
                answers.setdefault(asker[:2], []).append((asker[2], *answer))

    def _answer_new(self, now: float, judge: "Judge", effects: Effects) -> None:
        """What own clients have asked since the last turn."""
        new, self.new = self.new, []
        replies = effects.replies
        deadline = now + self._timeout
        commit = self._core.commit
        for kind, lease, ticket in new:
            answer = judge(kind, lease, now, commit)
            if answer is None:
                self._waiting.append(Ask(kind, lease, deadline, now, commit, ticket, None))
            else:
                replies.append((ticket, _seconds(kind, lease, answer)))

    def _judge(
        self, now: float, sent_at: float, in_contact: bool, machine: StateMachine
    ) -> "Judge":
        """What answers a question in this turn."""
        lessor, cautious, applied = self.lessor, self._cautious, machine.applied_index

        def judge(kind: int, lease: int, arrived: float, index: int) -> tuple[int, int] | None:
            if not in_contact:
                return None
            if applied < index or (cautious and sent_at < arrived):
                if kind == RENEW:
                    lessor.spare(lease, machine)
                return None
            if kind == RENEW:
                ttl = lessor.renew(lease, machine)
                if ttl > 0:
                    granted_ms = round(ttl * 1000)
                    return granted_ms, granted_ms
                if ttl == WAIT or sent_at < arrived:
                    return None
                return 0, 0
            left, granted = lessor.tell(lease, machine)
            if left < 0:  # if something was granted, the log has to say first what is left
                return (-1, 0) if not granted and sent_at >= arrived else None
            # Some time has passed since it was granted, if less than the clock's step: etcd never
            # answers the whole TTL.
            return max(ceil(left * 1000) - 1, 0), round(granted * 1000)

        return judge


# (kind, lease, arrived, index) -> (ttl_ms, granted_ms), None if it has to wait
Judge = Callable[[int, int, float, int], tuple[int, int] | None]


def _seconds(kind: int, lease: int, answer: tuple[int, int]) -> LeaseAnswer:
    """What an own client is told, from what another member would be told."""
    ttl_ms, granted_ms = answer
    if kind == RENEW:
        return renewed(lease, granted_ms)
    ttl = ttl_ms // 1000 if ttl_ms > 0 else ttl_ms
    return LeaseAnswer(lease, ttl, -(-granted_ms // 1000))
