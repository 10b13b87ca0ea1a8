"""Linearizable reads on their way (dissertation 6.4).

All reads of a turn ask the core once. A read goes through three places:

    new        arrived since the last turn, or given up by the core (leader changed): it
               asks (again) in the next turn that knows a leader; one that was refused by the
               leader that this member knows asks a tenth of a second later
    asked      the core confirms leadership (or the leader does, for a follower)
    confirmed  waits until the state machine has applied the read index

Nothing is ever served from `asked` of an older leadership: the core reports those as lost.
"""

from collections import deque

from raftkv.replica.effects import Ticket

Read = tuple[float, Ticket]  # deadline (seconds of the driver's clock), ticket


class Reading:
    """All linearizable reads of one member that have no answer yet."""

    __slots__ = ("asked", "confirmed", "count", "failed", "first_deadline", "new", "refused")

    def __init__(self) -> None:
        self.new: list[Read] = []
        self.refused: list[Read] = []  # become new with the next look at deadlines
        self.asked: deque[tuple[int, list[Read]]] = deque()  # (request number, reads)
        self.confirmed: deque[tuple[int, list[Read]]] = deque()  # (read index, reads)
        self.count = 0
        self.first_deadline = 0.0  # of those that `served` gave last
        self.failed = 0  # reads that expired

    def __len__(self) -> int:
        return self.count

    def add(self, deadline: float, ticket: Ticket) -> None:
        """A new read."""
        self.new.append((deadline, ticket))
        self.count += 1

    def ask(self, number: int) -> None:
        """The new reads ask under this request number of the core."""
        self.asked.append((number, self.new))
        self.new = []

    def confirm(self, number: int, index: int) -> None:
        """Requests up to `number` may be served once `index` is applied."""
        while self.asked and self.asked[0][0] <= number:
            self.confirmed.append((index, self.asked.popleft()[1]))

    def lose(self, numbers: list[int], *, again: bool = True) -> None:
        """The core gave these requests up: their reads ask again.

        again: at once, and so do those that were refused before: another leader may answer. Else
        later: a member that leads no more would refuse them as fast as they are asked, for as long
        as this one takes it for the leader.
        """
        lost = dict.fromkeys(numbers)
        kept: deque[tuple[int, list[Read]]] = deque()
        for number, reads in self.asked:
            if number in lost:
                self.refused.extend(reads)
            else:
                kept.append((number, reads))
        self.asked = kept
        if again:
            self._ask_refused()

    def _ask_refused(self) -> None:
        self.new += self.refused
        self.refused = []

    def served(self, applied_index: int) -> list[Ticket]:
        """Removes the reads that may be answered from a state at `applied_index`."""
        tickets: list[Ticket] = []
        while self.confirmed and self.confirmed[0][0] <= applied_index:
            reads = self.confirmed.popleft()[1]
            if not tickets and reads:
                self.first_deadline = reads[0][0]
            tickets.extend(ticket for _, ticket in reads)
        self.count -= len(tickets)
        return tickets

    def expired(self, now: float) -> list[Ticket]:
        """Removes the reads whose deadline has passed; returns their tickets."""
        tickets: list[Ticket] = []
        self._ask_refused()
        self.new = self._keep(self.new, now, tickets)
        for _, reads in (*self.asked, *self.confirmed):
            if reads and reads[0][0] <= now:
                reads[:] = self._keep(reads, now, tickets)
        self.count -= len(tickets)
        self.failed += len(tickets)
        return tickets

    @staticmethod
    def _keep(reads: list[Read], now: float, expired: list[Ticket]) -> list[Read]:
        expired.extend(ticket for deadline, ticket in reads if deadline <= now)
        return [read for read in reads if read[0] > now]

    def drain(self) -> list[Ticket]:
        """Removes every read; returns their tickets."""
        self._ask_refused()
        tickets = [ticket for _, ticket in self.new]
        for _, reads in (*self.asked, *self.confirmed):
            tickets.extend(ticket for _, ticket in reads)
        self.new = []
        self.asked.clear()
        self.confirmed.clear()
        self.count = 0
        return tickets
