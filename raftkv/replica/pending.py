"""Client writes on their way: who waits for which entry, and what became of it.

A write is in one of three places until its entry is applied here:

    waiting    no leader is known, or the leader sent it back: nothing was sent, or what was
               sent is known not to be in any log. It may be sent (again).
    local      this member, as leader of `term`, appended it at `index`.
    forwarded  it went to the leader of `term` under `number`; this member recognises the
               entry by the origin in its envelope.

What makes outcomes exact across leader changes: once an entry of term t' is applied here,
no entry of a term t < t' can be applied any more (terms never fall along a log), so every
write of term t that was not applied by then is in no log for good. It goes back to waiting
and is sent to the new leader; the client notices only the delay. A forwarded write is
covered too, because a leader takes only forwards of its own term. The one case that stays
unknown is a jump over entries by an installed snapshot.

Local writes are in log order, so one queue and a look at its head serve every applied entry.
Index and term must both match: what replaces an uncommitted entry may be of an older term.
"""

from collections import deque
from typing import Final

from raftkv.replica.effects import Ticket

TICKET: Final = 4  # position of the ticket in a Local tuple

# (index, term, deadline, command, ticket, request): a tuple, because one is made per put.
Local = tuple[int, int, float, int, Ticket, bytes]


class Write:
    """A write that is waiting or forwarded. deadline: seconds of the driver's clock.

    since, sent: when it was taken from its client, and forwarded, by the stopwatch's clock.
    """

    __slots__ = ("command", "deadline", "request", "sent", "since", "term", "ticket")

    def __init__(
        self, command: int, request: bytes, ticket: Ticket, deadline: float, since: float = 0.0
    ) -> None:
        self.command = command
        self.request = request
        self.ticket = ticket
        self.deadline = deadline
        self.since = self.sent = since
        self.term = 0


class Pending:
    """All client writes of one member that have no answer yet.

    returned: writes went back to waiting since it was last tried to send them.
    """

    __slots__ = ("forwarded", "local", "next_number", "returned", "waiting")

    def __init__(self) -> None:
        self.local: deque[Local] = deque()
        self.forwarded: dict[int, Write] = {}  # by number, which only grows
        self.waiting: deque[Write] = deque()
        self.next_number = 1
        self.returned = False

    def __len__(self) -> int:
        return len(self.local) + len(self.forwarded) + len(self.waiting)

    def forward(self, write: Write, term: int) -> int:
        """Notes that `write` goes to the leader of `term`; returns its new number."""
        number = self.next_number
        self.next_number = number + 1
        write.term = term
        self.forwarded[number] = write
        return number

    def take_back(self, term: int, since: float = 0.0) -> None:
        """Every write of a term below `term` that was not applied goes back to waiting.

        since: when those of the own log were taken from their clients.
        """
        back: list[Write] = []
        while self.local and self.local[0][1] < term:
            _, _, deadline, command, ticket, request = self.local.popleft()
            back.append(Write(command, request, ticket, deadline, since))
        stale = [number for number, write in self.forwarded.items() if write.term < term]
        back.extend(self.forwarded.pop(number) for number in stale)
        if back:
            self.returned = True
            self.waiting.extendleft(reversed(back))

    def refused(self, number: int) -> None:
        """The leader did not append this number: it may be sent again."""
        write = self.forwarded.pop(number, None)
        if write is not None:
            self.waiting.append(write)

    def expired(self, now: float) -> list[Ticket]:
        """Removes the writes whose deadline has passed; returns their tickets."""
        tickets: list[Ticket] = []
        while self.local and self.local[0][2] <= now:
            tickets.append(self.local.popleft()[TICKET])
        late = [number for number, write in self.forwarded.items() if write.deadline <= now]
        tickets.extend(self.forwarded.pop(number).ticket for number in late)
        if any(write.deadline <= now for write in self.waiting):
            tickets.extend(write.ticket for write in self.waiting if write.deadline <= now)
            self.waiting = deque(write for write in self.waiting if write.deadline > now)
        return tickets

    def drain(self) -> list[Ticket]:
        """Removes every write; returns their tickets, oldest first."""
        tickets = [local[TICKET] for local in self.local]
        tickets.extend(write.ticket for write in self.forwarded.values())
        tickets.extend(write.ticket for write in self.waiting)
        self.local.clear()
        self.forwarded.clear()
        self.waiting.clear()
        return tickets

    def drop_sent(self) -> list[Ticket]:
        """Removes the writes that may be in a log (a snapshot jumped over them)."""
        tickets = [local[TICKET] for local in self.local]
        tickets.extend(write.ticket for write in self.forwarded.values())
        self.local.clear()
        self.forwarded.clear()
        return tickets
