"""The leader's clock of leases: who is renewed, what is left, what is over.

The log says which leases exist (`kv.leases`); when one is over only the leader's clock says, and it
tells by an entry (M06). Nothing here is stored: a new leader begins with what the log has, the TTL
of each lease or what a checkpoint left of it, and with when this member has seen that.

Why nobody loses a lease early
------------------------------
The promise: a lease lives at least until (last answered keepalive + TTL). With one leader this is
plain, for an answer moves the deadline. Let E be the election timeout, the same at all members, and
let an old leader of term T answer a keepalive at time a.

 1. It did so because a quorum had acknowledged messages of term T that were sent at some s with
    a - E <= s. Sent, not heard: an acknowledgement that was under way for a minute says nothing
    about this minute, so `contact` dates it by the sending. Seconds, not ticks: a process that was
    stopped has missed its ticks.
 2. A new leader of a higher term was elected by a quorum, which shares a voter with that one. This
    voter took a message of term T at or after s, and left term T later than that, for it never
    goes back. So the new leader was elected after s, and counts from a moment b >= s >= a - E.
 3. Its deadline is b + TTL + 1.1 E > a + TTL.

It does not matter how the election came about: no step needs that voters stick to a leader they
hear, so a leadership that was handed over, or one that voters gave up because connections closed,
is covered. The tenth of E pays for clocks that run at different rates. What a client has to do is
to count its TTL from when it SENT the keepalive, for an answer may be on its way for any time.

Under whom it was renewed last
------------------------------
A leader that answered nothing about a lease must not give it back the time that had passed (M07).
So the first renewal of a lease under each leader is an entry, one for all of a turn, applied before
the answer; the later ones are none. If the log has none of a lease in some term, nobody renewed it
in that term. Let T be the term of its newest grant or renewal in the log. Then (2) holds with any
later term that has an entry in the log: whoever was its leader was elected after s. A member that
applied this term's first entry at q, however long ago, may count from q when it leads: q >= s, and
the deadline is q + TTL + 1.1 E > a + TTL. Changes of the leader after q give nothing back.

Before q its leader may have seen it silent for long. So a lease that was silent for half its TTL
gets a checkpoint, and another one after each further quarter: what is left, r = deadline - p for a
checkpoint proposed at p. Whoever applied that at q' >= p counts from q' and adds nothing, because
q' + r >= p + r is no earlier than the deadline was, and nothing was answered since: from the
proposal on the lease counts as checkpointed, and its next renewal is an entry too. All checkpoints
of a turn share one entry.

q and q' are dated in served time (`replica.served`): seconds in which the member ran and knew a
leader. So a silent lease overruns its TTL by at most TTL/2, if its leader went just before the
checkpoint, and 1.1 E, however many leaders come and go; and by the time without any leader, in
which nobody could have renewed it. A member that restarts has lost its dates. It counts from its
start what the newest checkpoint has left, or the whole TTL if there is none.

Answers
-------
Whatever was committed when a question arrived is applied before the answer, as for a read. A
keepalive of a lease that does not exist is answered only when a quorum acknowledged a message
sent after the keepalive arrived, as a read is: the lease may have been granted by a new leader, and
its holder must not be told that it is gone. After an attempt to hand over the leadership all
answers are like that, because the other may lead any moment. What remains: within E of an election
that no handing over caused, a deposed leader can renew a lease which a client has revoked at the
new one. That harms nobody, for its keys are gone, and the next keepalive says so.

What is told of the time that is left holds under later leaders, too. Of a lease that was granted or
renewed under this leader it does, by the above. Of another one q is this member's own: one that
restarted, or was cut off for a while, has a later q than the others, and who leads next may end the
lease earlier. So may it if this process was stopped behind a checkpoint: its own time has stood
still. The first question about such a lease is answered when a checkpoint of it, proposed since,
is applied, again one for all of a turn. What this member had missed is then given back everywhere.

Expiry
------
An expiry entry carries the term in which it was decided and is void in any other (M09). From its
proposal until it is applied the lease answers nothing (M08); then it is unknown. A leader without
contact to a quorum proposes nothing. At most `EXPIRIES_PER_SECOND` are proposed, in entries of at
most 64 leases, so that a flood of them delays nobody (O03); until its turn comes a lease may still
be renewed.

A stopped process must not conclude that its clients were silent (M10): when the time between two
turns exceeds half an election timeout, that whole gap does not count (`Lessor.time` lags behind the
driver's clock by the sum of gaps), and nothing expires for an election timeout more, so that what
queued up outside is heard first. A shorter hold-up counts, but what is found due after it ends in
a later turn, so that what has come in meanwhile is heard first all the same.

The driver's clock must be monotonic (R20) and must not stand still while those of other members
run: a leader on a host that was suspended together with its clock would think that it spoke with
its quorum a moment ago, and could answer the keepalives that it finds in its sockets.

A new leader ends nothing for an election timeout, so that those who waited for it are heard first.
Every decision names the index that was applied when it was made: the log keeps it from a lease that
was granted later under the same id.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from raftkv.errors import ApiError
from raftkv.kv import commands
from raftkv.kv.leases import (
    GRANTED,
    REVOKED,
    Lease,
    checkpoint_request,
    expire_request,
)
from raftkv.kv.machine import Result
from raftkv.raft.messages import RENEW
from raftkv.replica.effects import LeaseAnswer, Ticket
from raftkv.replica.served import Leased, Served
from raftkv.replica.wheel import Wheel

EXPIRIES_PER_SECOND: Final = 1000
EXPIRY_BURST: Final = 200  # what may be saved up: ticks come ten times a second
MAX_EXPIRED_LEASES: Final = 64  # of one entry
MAX_RENEWED_LEASES: Final = 2000  # of one entry
MAX_EXPIRED_KEYS: Final = 512  # of one entry, beyond those of its first lease
SLICE: Final = 2000  # clocks that one turn may begin or look at: about 2 ms
EXTRA_ELECTION_TIMEOUTS: Final = 1.1  # what a new leader adds to every deadline

# Stages of a clock.
RUNNING: Final = 0
DATED: Final = 1  # the log has, or may have, a checkpoint, or no renewal of this term
CLEARING: Final = 2  # its renewal goes to the log, because somebody waits for it
EXPIRING: Final = 3  # its end is proposed
OVER: Final = 4  # it does not exist any more

WAIT: Final = -1  # `Lessor.renew` and `tell`: an entry of the log has to decide first

Question = tuple[int, int, Ticket]  # (kind, lease, ticket)
Reply = tuple[Ticket, Result | LeaseAnswer | ApiError]
Propose = Callable[[int, bytes], bool]  # (command, request) -> False if refused for now


class Clock:
    """One lease's clock. Times in seconds of served time.

    check_at: when the lease has been silent for so long that its remaining time goes to the log.
    answer: to a renewal. proposed: how many entries are on their way that say what it has. stops:
    how often the process had been stopped at the newest of them, -1: there was none.
    """

    __slots__ = ("answer", "check_at", "deadline", "id", "proposed", "stage", "stops", "ttl")

    def __init__(self, lease: int, ttl: float, deadline: float, check_at: float) -> None:
        self.id = lease
        self.ttl = ttl
        self.deadline = deadline
        self.check_at = check_at
        self.stage = RUNNING
        self.proposed = 0
        self.stops = -1
        self.answer = renewed(lease, round(ttl * 1000))


def renewed(lease: int, granted_ms: int) -> LeaseAnswer:
    """The answer to a renewal. etcd counts in whole seconds, and 0 means that there is no lease,
    so what lies between is rounded up.
    """
    seconds = -(-granted_ms // 1000)
    return LeaseAnswer(lease, seconds, seconds)


class Lessor:
    """See the module's docstring.

    election_timeout_seconds: E, the same at all members.
    pause_seconds: a longer time between two turns means that this process was stopped.
    """

    def __init__(self, election_timeout_seconds: float, pause_seconds: float) -> None:
        self._extra = election_timeout_seconds * EXTRA_ELECTION_TIMEOUTS
        self._quiet = election_timeout_seconds
        self._served = Served(pause_seconds)
        self.term = 0  # in which this member leads; 0: it does not
        self.renewed = 0  # how often a lease was, in all terms
        self._reset()

    def _reset(self) -> None:
        self._clocks: dict[int, Clock] = {}
        self.time = self._served.time
        self._wheel: Wheel[Clock] = Wheel(self.time)
        self._due: deque[Clock] = deque()  # past their deadline, to be looked at once more
        self._clearing: list[int] = []  # to be proposed
        self._unsaid: dict[int, Clock] = {}  # whose checkpoint somebody waits for
        self._stops = 0
        self._unloaded: list[int] = []
        self._began = self.time
        self._quiet_until = self.time + self._quiet
        self._budget = 0.0

    # --- leadership ---------------------------------------------------------

    def begin(self, term: int, machine: Leased) -> None:
        """This member leads `term` and has applied an entry of it. To be called after `advance`.

        The clocks of the leases there are begin lazily, in slices: `load`.
        """
        self._served.follow(machine)
        self._reset()
        self.term = term
        self._unloaded = list(machine.leases.by_id)
        self._unloaded.reverse()  # taken from the end: the oldest first

    def end(self) -> None:
        """This member leads no more: what it knew is worth nothing."""
        self._reset()
        self.term = 0

    def load(self, machine: Leased) -> bool:
        """Begins the clocks of some more leases that the log had already. True if any are left."""
        unloaded = self._unloaded
        for lease in unloaded[-SLICE:]:
            self._clock(lease, machine)
        del unloaded[-SLICE:]
        return bool(unloaded)

    def _clock(self, lease: int, machine: Leased) -> Clock | None:
        """The clock of a lease; begun now if it was the log's before this leadership."""
        clock = self._clocks.get(lease)
        if clock is None:
            known = machine.leases.get(lease)
            if known is None:
                return None
            since, deadline = self._dates(known)
            ttl = known.ttl_ms / 1000
            share = ttl / 4 if known.remaining_ms else ttl / 2
            clock = Clock(lease, ttl, deadline, since + share)
            clock.stage = DATED
            self._clocks[lease] = clock
            self._put(clock)
        return clock

    def _dates(self, known: Lease) -> tuple[float, float]:
        """Of a lease from before this leadership: since when it counts as silent, and its end."""
        if known.remaining_ms:
            since = min(self._served.checkpointed_at(known.id), self._began)
            return since, since + known.remaining_ms / 1000
        since = min(self._served.leadership_ended_at(known.renewed_index), self._began)
        return since, since + known.ttl_ms / 1000 + self._extra

    def _put(self, clock: Clock) -> None:
        due = min(clock.deadline, clock.check_at)
        self._wheel.put(clock, due, self.time)

    # --- time and the log -----------------------------------------------------

    def advance(self, now: float, machine: Leased, *, led: bool = True) -> None:
        """Once per turn, also where this member does not lead: takes the time and what the log has
        told since. led: whether it knows a leader.
        """
        gap = self._served.advance(now, machine, led=led)
        self.time = self._served.time
        if not self.term:
            if machine.lease_events:
                self._served.follow(machine)
            return
        if gap < 0:
            self._quiet_until = self.time + self._quiet
            self._stops += 1
        else:
            budget = self._budget + gap * EXPIRIES_PER_SECOND
            self._budget = budget if budget < EXPIRY_BURST else EXPIRY_BURST
        if machine.lease_events:
            self._take_events(machine)

    def _take_events(self, machine: Leased) -> None:
        clocks, time = self._clocks, self.time
        by_id = machine.leases.by_id
        for kind, lease in machine.lease_events:
            known = by_id.get(lease)
            self._served.note(kind, lease, 0 if known is None else known.remaining_ms)
            if kind == REVOKED:
                clock = clocks.pop(lease, None)
                if clock is not None:
                    clock.stage = OVER  # the wheel drops it when it comes up
                continue
            if known is None:
                continue  # its end is among these events
            if kind == GRANTED:
                if lease not in clocks:
                    ttl = known.ttl_ms / 1000
                    clock = clocks[lease] = Clock(lease, ttl, time + ttl, time + ttl / 2)
                    self._put(clock)
            elif lease in clocks:
                clock = clocks[lease]
                if clock.proposed:
                    clock.proposed -= 1
                if known.remaining_ms:
                    if clock.stage == RUNNING:
                        clock.stage = DATED
                elif clock.stage in (DATED, CLEARING):
                    clock.stage = RUNNING
                    clock.check_at = time + clock.ttl / 2
        machine.lease_events.clear()

    # --- questions --------------------------------------------------------------

    def renew(self, lease: int, machine: Leased) -> float:
        """A keepalive that may be answered now. Returns the TTL in seconds (0: no such lease), or
        WAIT if an entry decides first; then the same question is to be asked again.
        """
        clock = self._clocks.get(lease) or self._clock(lease, machine)
        if clock is None:
            return 0
        if clock.stage == RUNNING:
            ttl = clock.ttl
            clock.deadline = self.time + ttl
            clock.check_at = self.time + ttl / 2
            self.renewed += 1
            return ttl
        if clock.stage == DATED:
            clock.stage = CLEARING
            self._clearing.append(lease)
        return WAIT

    def renew_running(self, questions: list[Question], replies: list[Reply]) -> list[Question]:
        """Answers what comes most by far: renewals of leases whose clock runs. Returns the rest."""
        rest: list[Question] = []
        clocks, time = self._clocks, self.time
        for question in questions:
            kind, lease, ticket = question
            clock = clocks.get(lease)
            if clock is None or clock.stage or kind != RENEW:  # stage: not RUNNING
                rest.append(question)
                continue
            ttl = clock.ttl
            clock.deadline = time + ttl
            clock.check_at = time + ttl / 2
            replies.append((ticket, clock.answer))
        self.renewed += len(questions) - len(rest)
        return rest

    def tell_running(
        self, asks: list[tuple[int, int, int]], told: list[tuple[int, int, int]]
    ) -> list[tuple[int, int, int]]:
        """Like `renew_running`, for the questions of another member: (number, kind, lease).

        told: takes the answers (number, milliseconds that are left, that were granted).
        """
        rest: list[tuple[int, int, int]] = []
        clocks, time = self._clocks, self.time
        for ask in asks:
            number, kind, lease = ask
            clock = clocks.get(lease)
            if clock is None or clock.stage or kind != RENEW:  # stage: not RUNNING
                rest.append(ask)
                continue
            ttl = clock.ttl
            clock.deadline = time + ttl
            clock.check_at = time + ttl / 2
            granted_ms = round(ttl * 1000)
            told.append((number, granted_ms, granted_ms))
        self.renewed += len(asks) - len(rest)
        return rest

    def remaining(self, lease: int, machine: Leased) -> tuple[float, float]:
        """Seconds that are left as this member counts them, and that were granted; (-1, 0) if there
        is no such lease.
        """
        clock = self._clock(lease, machine)
        if clock is None:
            return -1, 0
        if clock.stage == EXPIRING:
            return 0, clock.ttl
        return min(max(clock.deadline - self.time, 0), clock.ttl), clock.ttl

    def tell(self, lease: int, machine: Leased) -> tuple[float, float]:
        """`remaining` as it may be answered, or (WAIT, seconds granted) if the log has to say first
        what is left; then the same question is to be asked again.
        """
        left, granted = self.remaining(lease, machine)
        if left > 0:
            clock = self._clocks[lease]
            if clock.stage and clock.stops != self._stops:  # stage: not RUNNING
                self._unsaid[lease] = clock
                return WAIT, granted
            if clock.proposed:
                return WAIT, granted
        return left, granted

    def expiry(self, lease: Lease) -> float:
        """When a lease that exists ends if nobody renews it, in seconds of `time`."""
        clock = self._clocks.get(lease.id)
        return self._dates(lease)[1] if clock is None else clock.deadline

    def spare(self, lease: int, machine: Leased) -> None:
        """Somebody waits to renew it: an answer can be given soon, so it lives until then."""
        clock = self._clock(lease, machine)
        if clock is not None:
            clock.deadline = max(clock.deadline, self.time + self._quiet)

    # --- what goes to the log -----------------------------------------------------

    @property
    def clearing(self) -> bool:
        """True if answers wait for an entry that is not proposed yet."""
        return bool(self._clearing or self._unsaid)

    def clear(self, machine: Leased, propose: Propose) -> None:
        """Proposes the renewals and checkpoints that answers wait for, many in one entry."""
        known = machine.applied_index
        while self._clearing:
            renewed = [(lease, 0) for lease in self._clearing[:MAX_RENEWED_LEASES]]
            if not propose(commands.LEASE_CHECKPOINT, checkpoint_request(known, renewed)):
                return
            for lease, _ in renewed:
                if lease in self._clocks:
                    self._clocks[lease].proposed += 1
            del self._clearing[:MAX_RENEWED_LEASES]
        if self._unsaid:
            asked = [one for one in self._unsaid.values() if one.stage == DATED]
            if not asked or self._propose_checkpoint(asked, known, propose):
                self._unsaid.clear()

    def work(self, machine: Leased, propose: Propose) -> bool:
        """Looks at the clocks that are due, and proposes checkpoints and expiries.

        To be called only while a quorum is heard, after the keepalives of the turn. Returns True
        if more clocks are due than one turn looks at.
        """
        # What an earlier turn has found due. The timer of a process that was held up for a moment
        # comes before what waits in its sockets: those clients are heard in between.
        if self._due and self.time >= self._quiet_until:
            self._expire(machine, propose)
        silent = self._look()
        if silent:
            self._checkpoint(silent, machine.applied_index, propose)
        return self._wheel.more

    def _look(self) -> list[Clock]:
        """Takes what came up from the wheel. Returns the leases to be checkpointed."""
        silent: list[Clock] = []
        time = self.time
        for clock in self._wheel.take(time, SLICE):
            stage = clock.stage
            if stage >= EXPIRING:
                continue  # over, or decided by its entry
            if stage == CLEARING:
                self._wheel.put(clock, time + self._quiet, time)
            elif clock.deadline <= time:
                self._due.append(clock)
            elif clock.check_at <= time:
                silent.append(clock)
            else:
                self._put(clock)
        return silent

    def _checkpoint(self, silent: list[Clock], known_index: int, propose: Propose) -> None:
        proposed = self._propose_checkpoint(silent, known_index, propose)
        for clock in silent:
            if proposed:
                clock.stage = DATED
                clock.check_at = self.time + clock.ttl / 4
            self._put(clock)

    def _propose_checkpoint(self, clocks: list[Clock], known_index: int, propose: Propose) -> bool:
        time = self.time
        left = [(clock.id, max(int((clock.deadline - time) * 1000) + 1, 1)) for clock in clocks]
        if not propose(commands.LEASE_CHECKPOINT, checkpoint_request(known_index, left)):
            return False
        for clock in clocks:
            clock.proposed += 1
            clock.stops = self._stops
        return True

    def _expire(self, machine: Leased, propose: Propose) -> None:
        """Proposes the end of as many leases as the rate admits, the longest due first."""
        while self._due and self._budget >= 1:
            batch: list[Clock] = []
            keys = 0
            while self._due and len(batch) < min(MAX_EXPIRED_LEASES, int(self._budget)):
                clock = self._due[0]
                if clock.stage >= CLEARING or clock.deadline > self.time:
                    self._due.popleft()  # renewed, about to be, or over by another way
                    if clock.stage < EXPIRING:
                        self._put(clock)
                    continue
                own = len(machine.lease_keys(clock.id))
                if batch and keys + own > MAX_EXPIRED_KEYS:
                    break
                keys += own if batch else 0
                batch.append(self._due.popleft())
            if not batch:
                return
            over = [clock.id for clock in batch]
            request = expire_request(self.term, machine.applied_index, over)
            if not propose(commands.LEASE_EXPIRE, request):
                self._due.extendleft(reversed(batch))
                return
            self._budget -= len(batch)
            for clock in batch:
                clock.stage = EXPIRING
