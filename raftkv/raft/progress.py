"""What a leader knows about one member, and how fast it may send to it.

PROBE      match unknown: one append per heartbeat interval or reply, to find it.
REPLICATE  match known: `next` runs ahead of the replies (pipelining, dissertation 10.2.1),
           bounded by a window of bytes and messages.
SNAPSHOT   the member needs entries that are gone: nothing but heartbeats until the
           state transfer ended.

Rounds: the leader numbers its heartbeats and ReadIndex rounds with one counter and every
append or heartbeat carries the newest number; replies echo it. So `acked_round` says how
fresh a member's newest answer is, and `match_round` which round was newest when `match`
grew: a refusal of a later round that contradicts `match` proves that the member lost
entries which it had acknowledged (R33), while one of an older round is only late.
"""

from collections import deque
from typing import Final

PROBE: Final = "probe"
REPLICATE: Final = "replicate"
SNAPSHOT: Final = "snapshot"

EVER: Final = 1 << 62  # own `acked_round`: a leader always hears itself


class Progress:
    """A leader's view of one member (its own one included, for counting)."""

    __slots__ = (
        "acked_round",
        "acknowledged",
        "commit_sent",
        "inflight",
        "inflight_bytes",
        "leaving_ticks",
        "match",
        "match_at_beat",
        "match_round",
        "member",
        "next",
        "paused",
        "regressed",
        "snapshot_index",
        "state",
        "urgent",
        "verify",
        "voter",
    )

    def __init__(self, member: int, next_index: int, voter: bool) -> None:
        self.member = member
        self.match = 0  # highest index known to be durable there; 0 while regressed
        self.next = next_index  # first index to send
        self.state = PROBE
        self.voter = voter
        self.paused = False  # PROBE: the message of this interval is sent
        self.inflight: deque[tuple[int, int]] = deque()  # (last index, bytes), unacknowledged
        self.inflight_bytes = 0
        self.acked_round = 0
        self.match_round = 0
        self.match_at_beat = -1  # match at the last heartbeat: nothing moved since?
        self.commit_sent = 0  # commit index that the member can know
        self.urgent = 0  # somebody waits there for the commit of this index
        self.snapshot_index = 0  # SNAPSHOT: index of the state on its way
        self.verify = False  # send one empty append at `match` (see module docstring)
        self.regressed = False
        self.acknowledged = 0  # highest match ever in this term
        self.leaving_ticks = 0  # > 0: removed; still told so for this many ticks

    def become_probe(self, next_index: int) -> None:
        """Find the place again, starting at `next_index`."""
        self.state = PROBE
        self.next = max(next_index, self.match + 1)
        self.paused = False
        self.inflight.clear()
        self.inflight_bytes = 0

    def become_replicate(self) -> None:
        """Match is known: stream from there."""
        self.state = REPLICATE
        self.next = max(self.next, self.match + 1)
        self.paused = False

    def become_snapshot(self, index: int) -> None:
        """The state at `index` is on its way."""
        self.become_probe(self.match + 1)
        self.state = SNAPSHOT
        self.snapshot_index = index

    def blocked(self, max_bytes: int, max_messages: int) -> bool:
        """True if no append may be sent now."""
        if self.state == REPLICATE:
            return len(self.inflight) >= max_messages or self.inflight_bytes >= max_bytes
        return self.paused or self.state == SNAPSHOT

    def sent(self, count: int, payload_bytes: int) -> None:
        """An append with `count` entries from `next` on was handed out."""
        if self.state == REPLICATE:
            if count:
                self.next += count
                self.inflight.append((self.next - 1, payload_bytes))
                self.inflight_bytes += payload_bytes
        else:
            self.paused = True

    def acknowledge(self, index: int, newest_round: int) -> bool:
        """The member has everything up to `index`. Returns True if match grew."""
        if index < self.match:
            return False  # a late reply
        grew = index > self.match
        if grew:
            self.match = self.acknowledged = index
            self.match_round = newest_round
            if self.next <= index:
                self.next = index + 1
        if self.state == REPLICATE:
            inflight = self.inflight
            while inflight and inflight[0][0] <= index:
                self.inflight_bytes -= inflight.popleft()[1]
        elif self.state == PROBE:
            # `next` may have run back below an older optimistic value: stream from match.
            self.next = self.match + 1
            self.become_replicate()
        elif index >= self.snapshot_index:
            self.become_probe(index + 1)
            self.become_replicate()
        return grew

    def regress(self) -> None:
        """The member lost acknowledged entries: it counts no more in this term."""
        self.regressed = True
        self.match = 0
        self.become_probe(1)
