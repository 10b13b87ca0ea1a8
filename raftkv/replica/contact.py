"""When did a leader send the newest message that a quorum has acknowledged, in seconds?

Raft's ticks cannot say it: a process that was stopped for half a minute has missed its ticks, and
by them it spoke with its quorum a moment ago. So this counts the driver's clock, with the numbers
that Raft's rounds have anyway (`raft.progress`): a message carries the newest round there is and
its reply echoes it. At some moment the newest round is noted; once a quorum has echoed a later one,
it has acknowledged messages that were sent after that moment. So the answer is never too late; it
is too early by the distance of the notes.
"""

from collections import deque

from raftkv.raft.progress import EVER

NEVER = float("-inf")


class Contact:
    """A leader's contact with its quorum, in one leadership.

    proved: what `sent_at` found last of others, which stays true.
    """

    __slots__ = ("_marks", "_newest", "_newest_at", "proved")

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()  # of rounds that are not the newest
        self._newest = 0
        self._newest_at = NEVER  # the last moment at which that was the newest round
        self.proved = NEVER

    def mark(self, now: float, newest: int) -> None:
        """`newest` is the newest round at `now`; messages of later ones are sent later."""
        if newest != self._newest:
            self._marks.append((self._newest_at, self._newest))
            self._newest = newest
        self._newest_at = now

    def sent_at(self, now: float, echoed: int) -> float:
        """A time, at or after which messages were sent that a quorum acknowledged.

        echoed: the newest round that a quorum has echoed. now: returned if the quorum is this
        member alone.
        """
        if echoed >= EVER:
            return now
        marks = self._marks
        while marks and marks[0][1] < echoed:
            self.proved = marks.popleft()[0]
        if self._newest < echoed:
            self.proved = self._newest_at
        return self.proved
