"""The leader's clock of leases: who is renewed, what is left, what is over.

The log says which leases exist (`kv.leases`); when one is over only the leader's clock says, and it
tells by an entry (M06). Nothing here is stored: a new leader begins with what the log has, the TTL
of each lease or what a checkpoint left of it.

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

With a checkpoint of `r` in the log the new leader counts r instead of the TTL. An old leader that
proposed it at p had r = deadline - p, so b + r >= p + r is no earlier than its own deadline was,
and it has answered no keepalive since: it treats the lease as checkpointed from the moment when it
proposes the checkpoint, and a renewal waits until an entry that clears it is applied. Whoever leads
later has that entry if the keepalive was answered, for it was committed.

Whatever was committed when a question arrived is applied before the answer, as for a read. A
keepalive of a lease that does not exist is answered only when a quorum acknowledged a message
sent after the keepalive arrived, as a read is: the lease may have been granted by a new leader, and
its holder must not be told that it is gone. After an attempt to hand over the leadership all
answers are like that, because the other may lead any moment. What remains: within E of an election
that no handing over caused, a deposed leader can renew a lease which a client has revoked at the
new one. That harms nobody, for its keys are gone, and the next keepalive says so.

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
queued up outside is heard first.

The driver's clock must be monotonic (R20) and must not stand still while those of other members
run: a leader on a host that was suspended together with its clock would think that it spoke with
its quorum a moment ago, and could answer the keepalives that it finds in its sockets.

A lease of TTL that was silent for half of it gets a checkpoint, and another one after each further
quarter: then a change of the leader gives it back at most a quarter (M07). All of a turn
share one entry.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from raftkv.errors import ApiError
from raftkv.kv import commands
from raftkv.kv.leases import (
    GRANTED,
    REVOKED,
    Lease,
    Leases,
    checkpoint_request,
    expire_request,
)
from raftkv.kv.machine import Result
from raftkv.raft.messages import RENEW
from raftkv.replica.effects import LeaseAnswer, Ticket
from raftkv.replica.wheel import Wheel

EXPIRIES_PER_SECOND: Final = 1000
EXPIRY_BURST: Final = 200  # what may be saved up: ticks come ten times a second
MAX_EXPIRED_LEASES: Final = 64  # of one entry
MAX_EXPIRED_KEYS: Final = 512  # of one entry, beyond those of its first lease
SLICE: Final = 2000  # clocks that one turn may begin or look at: about 2 ms
EXTRA_ELECTION_TIMEOUTS: Final = 1.1  # what a new leader adds to every deadline

# Stages of a clock.
RUNNING: Final = 0
CHECKPOINTED: Final = 1  # the log has, or may have, a checkpoint of it: a renewal clears it first
CLEARING: Final = 2  # to be cleared, because somebody waits to renew it
EXPIRING: Final = 3  # its end is proposed
OVER: Final = 4  # it does not exist any more

WAIT: Final = -1  # `Lessor.renew`: an entry of the log has to decide first

Question = tuple[int, int, Ticket]  # (kind, lease, ticket)
Reply = tuple[Ticket, Result | LeaseAnswer | ApiError]
Propose = Callable[[int, bytes], bool]  # (command, request) -> False if refused for now


class Leased(Protocol):
    """What the lessor needs of the state machine."""

    leases: Leases
    lease_events: list[tuple[int, int]]

    def lease_keys(self, lease: int) -> list[bytes]:
        """The live keys attached to a lease."""


class Clock:
    """One lease's clock. Times in seconds of `Lessor.time`.

    check_at: when the lease has been silent for so long that its remaining time goes to the log.
    answer: to a renewal.
    """

    __slots__ = ("answer", "check_at", "deadline", "id", "stage", "ttl")

    def __init__(self, lease: int, ttl: float, deadline: float, check_at: float) -> None:
        self.id = lease
        self.ttl = ttl
        self.deadline = deadline
        self.check_at = check_at
        self.stage = RUNNING
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
        self._pause = pause_seconds
        self.term = 0  # in which this member leads; 0: it does not
        self.renewed = 0  # how often a lease was, in all terms
        self._reset(0.0)

    def _reset(self, now: float) -> None:
        self._clocks: dict[int, Clock] = {}
        self._wheel: Wheel[Clock] = Wheel(now)
        self._due: deque[Clock] = deque()  # past their deadline, to be looked at once more
        self._clearing: list[int] = []  # to be proposed
        self._unloaded: list[int] = []
        self._last_turn = now
        self._lost = 0.0  # seconds in which this process was stopped
        self.time = now
        self._began = now
        self._quiet_until = now
        self._budget = 0.0

    # --- leadership ---------------------------------------------------------

    def begin(self, term: int, now: float, machine: Leased) -> None:
        """This member leads `term` and has applied an entry of it.

        The clocks of the leases there are begin lazily, in slices: `load`.
        """
        self._reset(now)
        self.term = term
        self._unloaded = list(machine.leases.by_id)
        self._unloaded.reverse()  # taken from the end: the oldest first
        machine.lease_events.clear()

    def end(self) -> None:
        """This member leads no more: what it knew is worth nothing."""
        self._reset(0.0)
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
            ttl = known.ttl_ms / 1000
            left = known.remaining_ms / 1000 if known.remaining_ms else ttl
            share = ttl / 4 if known.remaining_ms else ttl / 2
            clock = Clock(lease, ttl, self._began + left + self._extra, self._began + share)
            clock.stage = CHECKPOINTED if known.remaining_ms else RUNNING
            self._clocks[lease] = clock
            self._put(clock)
        return clock

    def _put(self, clock: Clock) -> None:
        due = min(clock.deadline, clock.check_at)
        self._wheel.put(clock, due, self.time)

    # --- time and the log -----------------------------------------------------

    def advance(self, now: float, machine: Leased) -> None:
        """Once per turn: takes the time and what the log has told since."""
        gap = now - self._last_turn
        self._last_turn = now
        if not 0 <= gap <= self._pause:
            self._lost += gap
            self._quiet_until = self.time + self._quiet
        else:
            budget = self._budget + gap * EXPIRIES_PER_SECOND
            self._budget = budget if budget < EXPIRY_BURST else EXPIRY_BURST
        self.time = now - self._lost
        if machine.lease_events:
            self._take_events(machine)

    def _take_events(self, machine: Leased) -> None:
        clocks, time = self._clocks, self.time
        by_id = machine.leases.by_id
        for kind, lease in machine.lease_events:
            if kind == REVOKED:
                clock = clocks.pop(lease, None)
                if clock is not None:
                    clock.stage = OVER  # the wheel drops it when it comes up
                continue
            known = by_id.get(lease)
            if known is None:
                continue  # its end is among these events
            if kind == GRANTED:
                if lease not in clocks:
                    ttl = known.ttl_ms / 1000
                    clock = clocks[lease] = Clock(lease, ttl, time + ttl, time + ttl / 2)
                    self._put(clock)
            elif lease in clocks:
                clock = clocks[lease]
                if known.remaining_ms:
                    if clock.stage == RUNNING:
                        clock.stage = CHECKPOINTED
                elif clock.stage in (CHECKPOINTED, CLEARING):
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
        if clock.stage == CHECKPOINTED:
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

    def remaining(self, lease: int, machine: Leased) -> tuple[float, float]:
        """Seconds that are left, and that were granted; (-1, 0) if there is no such lease."""
        clock = self._clock(lease, machine)
        if clock is None:
            return -1, 0
        if clock.stage == EXPIRING:
            return 0, clock.ttl
        return min(max(clock.deadline - self.time, 0), clock.ttl), clock.ttl

    def expiry(self, lease: Lease) -> float:
        """When a lease that exists ends if nobody renews it, in seconds of `time`."""
        clock = self._clocks.get(lease.id)
        if clock is not None:
            return clock.deadline
        return self._began + (lease.remaining_ms or lease.ttl_ms) / 1000 + self._extra

    def spare(self, lease: int, machine: Leased) -> None:
        """Somebody waits to renew it: an answer can be given soon, so it lives until then."""
        clock = self._clock(lease, machine)
        if clock is not None:
            clock.deadline = max(clock.deadline, self.time + self._quiet)

    # --- what goes to the log -----------------------------------------------------

    @property
    def clearing(self) -> bool:
        """True if renewals wait for a clearing entry that is not proposed yet."""
        return bool(self._clearing)

    def clear(self, propose: Propose) -> None:
        """Proposes one clearing entry for all checkpointed leases that somebody renews."""
        request = checkpoint_request([(lease, 0) for lease in self._clearing])
        if propose(commands.LEASE_CHECKPOINT, request):
            self._clearing = []

    def work(self, machine: Leased, propose: Propose) -> bool:
        """Looks at the clocks that are due, and proposes checkpoints and expiries.

        To be called only while a quorum is heard, after the keepalives of the turn. Returns True
        if more clocks are due than one turn looks at.
        """
        silent = self._look()
        if silent:
            self._checkpoint(silent, propose)
        if self._due and self.time >= self._quiet_until:
            self._expire(machine, propose)
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

    def _checkpoint(self, silent: list[Clock], propose: Propose) -> None:
        time = self.time
        left = [(clock.id, max(int((clock.deadline - time) * 1000) + 1, 1)) for clock in silent]
        proposed = propose(commands.LEASE_CHECKPOINT, checkpoint_request(left))
        for clock in silent:
            if proposed:
                clock.stage = CHECKPOINTED
                clock.check_at = time + clock.ttl / 4
            self._put(clock)

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
            if not propose(
                commands.LEASE_EXPIRE, expire_request(self.term, [clock.id for clock in batch])
            ):
                self._due.extendleft(reversed(batch))
                return
            self._budget -= len(batch)
            for clock in batch:
                clock.stage = EXPIRING
