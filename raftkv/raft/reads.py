"""ReadIndex (dissertation 6.4): linearizable reads without log entries.

A member numbers its reads 1, 2, ... . They are answered or lost in order, so three
numbers describe them all:  answered <= sent <= issued.

    issued     the newest read asked for
    sent       reads up to here are in a round (leader) or a request (follower)
    answered   reads up to here are confirmed or lost

A leader's round: remember the commit index, let every append and heartbeat from now on
carry the round's number, and wait until a quorum echoed it (or a later one) in this term.
Then nobody else was leader when the round began, so that commit index covers every write
answered before the reads of the round arrived. A read joins only a round that starts
after it arrived: an older round may have begun before a write that the reader knows of.
Before the leader committed an entry of its term its commit index may be behind (R16),
so no round starts until then.

A follower asks the leader; its request joins the leader's next round. On the wire the
numbers are shifted by a random base, so that an answer meant for an earlier process of
the same member is never taken for one of this process (R17).
"""

from collections import deque
from dataclasses import dataclass, field
from random import Random

from raftkv.raft.ready import ReadState


class Reads:
    """Own reads of this member, whatever its role."""

    def __init__(self, source: Random) -> None:
        self.issued = 0
        self.sent = 0
        self.answered = 0
        self.wire_base = source.getrandbits(62)
        self.states: list[ReadState] = []
        self.lost: list[int] = []
        self._requests: deque[tuple[int, int]] = deque()  # (number, tick) sent to the leader

    def issue(self) -> int:
        """Number of a new read."""
        self.issued += 1
        return self.issued

    @property
    def waiting(self) -> bool:
        """True if reads are in no round and no request yet."""
        return self.issued > self.sent

    def answer(self, number: int, index: int) -> None:
        """Reads up to `number` may be served once `index` is applied."""
        if number > self.answered:
            self.answered = number
            self.states.append(ReadState(number, index))

    def lose(self, number: int) -> None:
        """Give up the reads up to `number`."""
        if number > self.answered:
            self.lost.extend(range(self.answered + 1, number + 1))
            self.answered = number
            self.sent = max(self.sent, number)

    def lose_all(self) -> None:
        """Leader or term changed: no outstanding read may be answered any more (R17)."""
        self._requests.clear()
        self.lose(self.issued)
        self.sent = self.issued

    def request(self, tick: int) -> int:
        """All waiting reads go to the leader in one request. Returns its wire number."""
        self.sent = self.issued
        self._requests.append((self.sent, tick))
        return self.wire_base + self.sent

    def replied(self, wire_number: int, index: int) -> None:
        """The leader answered a request; index 0 is a refusal."""
        number = wire_number - self.wire_base
        if not self.answered < number <= self.sent:
            return  # late, doubled, or for an earlier process
        if index > 0:
            self.answer(number, index)
        else:
            self.lose(number)

    def expire(self, tick: int, timeout_ticks: int) -> bool:
        """Give up requests that the leader did not answer in time. True if any was lost."""
        before = self.answered
        requests = self._requests
        while requests and (
            requests[0][0] <= self.answered or tick - requests[0][1] >= timeout_ticks
        ):
            number, _ = requests.popleft()
            self.lose(number)
        return self.answered > before


@dataclass(slots=True)
class Round:
    """One ReadIndex round of a leader."""

    number: int
    index: int  # commit index when it began
    upto: int  # own reads up to here joined
    requests: list[tuple[int, int]] = field(default_factory=list)  # (member, wire number)


class Rounds:
    """A leader's counter of rounds and the reads waiting in them."""

    def __init__(self) -> None:
        self.newest = 1
        self.requests: list[tuple[int, int]] = []  # of followers, in no round yet
        self._open: deque[Round] = deque()

    def advance(self) -> int:
        """Begin a new number: whatever echoes it was sent after now."""
        self.newest += 1
        return self.newest

    def start(self, index: int, upto: int) -> None:
        """Begin a round for own reads up to `upto` and all waiting requests."""
        self._open.append(Round(self.advance(), index, upto, self.requests))
        self.requests = []

    @property
    def open(self) -> bool:
        """True if a round waits for its quorum."""
        return bool(self._open)

    def confirm(self, echoed: int) -> list[Round]:
        """The rounds that a quorum echoed, oldest first; `echoed`: highest such number."""
        done: list[Round] = []
        while self._open and self._open[0].number <= echoed:
            done.append(self._open.popleft())
        return done
