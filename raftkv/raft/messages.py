"""Messages between members (Raft fig. 2 and 13, dissertation 3.10, 4.2.3, 6.4, 9.6).

Every message carries `to`, `sender` and `term` (the sender's current term; for
a pre-vote request the term it would campaign in). Plain slots classes: they are
made on the hot path and never changed after they are handed out.

`read_round` in AppendEntries and Heartbeat is the leader's newest ReadIndex
round when the message was made; the reply echoes it. A reply that carries round
r (or a later one) of the same term confirms the leadership at the start of r.
"""

from dataclasses import dataclass, field
from typing import Final, TypeAlias

from raftkv.raft.types import Entry, SnapshotMeta


@dataclass(slots=True)
class AppendEntries:
    """Leader to follower: entries after (previous_index, previous_term)."""

    to: int
    sender: int
    term: int
    previous_index: int
    previous_term: int
    entries: list[Entry]
    commit: int  # leader's commit index; the receiver bounds it by what it verified
    read_round: int = 0


@dataclass(slots=True)
class AppendReply:
    """Follower to leader.

    success: `index` is the highest index known to match the leader's log AND durable.
    refusal: `index` is the refused previous_index; the follower's hint is the largest
    index <= previous_index whose term <= previous_term, with its term, so that one
    round trip skips one conflicting term (Raft 5.3, last paragraphs).
    """

    to: int
    sender: int
    term: int
    success: bool
    index: int
    hint_index: int = 0
    hint_term: int = 0
    read_round: int = 0


@dataclass(slots=True)
class Heartbeat:
    """Leader to follower, carries no log position; commit <= what the follower acknowledged.

    read_round 0: only news of the commit index, wants no answer.
    """

    to: int
    sender: int
    term: int
    commit: int
    read_round: int = 0


@dataclass(slots=True)
class HeartbeatReply:
    """Follower to leader."""

    to: int
    sender: int
    term: int
    read_round: int = 0


@dataclass(slots=True)
class VoteRequest:
    """Candidate to voter. pre: a pre-vote (dissertation 9.6): nothing changes at the receiver.

    force: ignore leader stickiness: set for a leadership transfer (dissertation 3.10).
    leader_gone: the candidate's connection to the leader was closed; a receiver whose own
    connection to it is closed too may grant although it heard the leader recently.
    """

    to: int
    sender: int
    term: int
    last_index: int
    last_term: int
    pre: bool = False
    force: bool = False
    leader_gone: bool = False


@dataclass(slots=True)
class VoteReply:
    """Voter to candidate. term: the receiver's term, or for a granted pre-vote the asked one."""

    to: int
    sender: int
    term: int
    granted: bool
    pre: bool = False


@dataclass(slots=True)
class InstallSnapshot:
    """Leader to follower: the follower needs state, not entries (Raft 7).

    The core hands it out once per transfer; the driver then streams the state itself
    and steps this message into the receiver's core when the state is complete there.
    """

    to: int
    sender: int
    term: int
    snapshot: SnapshotMeta


@dataclass(slots=True)
class TimeoutNow:
    """Leader to transfer target: campaign at once (dissertation 3.10)."""

    to: int
    sender: int
    term: int


@dataclass(slots=True)
class ReadIndexRequest:
    """Follower to leader: the index that a linearizable read must wait for (dissertation 6.4)."""

    to: int
    sender: int
    term: int
    number: int  # the follower's own number of this request, echoed


@dataclass(slots=True)
class ReadIndexReply:
    """Leader to follower. index 0: refused (no leader, or leadership lost): ask again."""

    to: int
    sender: int
    term: int
    number: int
    index: int


@dataclass(slots=True)
class Forward:
    """Follower to leader: client commands to propose.

    boot: random number of the sender's process, so that numbers never repeat.
    proposals: (number, payload) with strictly growing numbers; the payload is a whole
    envelope that names sender, boot and number, so that the sender recognises its own
    entries when it applies them. A leader takes each number once, in growing order.
    """

    to: int
    sender: int
    term: int
    boot: int
    proposals: list[tuple[int, bytes]] = field(default_factory=list)


@dataclass(slots=True)
class ForwardReply:
    """Leader to follower: these numbers were NOT appended and never will be from this message.

    code, text: the answer that the client gets (a gRPC code and its exact text);
    code 0: the receiver is no leader or is busy handing over: ask the next leader.
    """

    to: int
    sender: int
    term: int
    boot: int
    refused: list[int]
    code: int = 0
    text: str = ""


# What a LeaseAsk asks for.
RENEW: Final = 1  # that the lease begins anew (LeaseKeepAlive)
REMAINING: Final = 2  # how long it still has (LeaseTimeToLive)


@dataclass(slots=True)
class LeaseAsk:
    """Follower to leader, whose clock decides about leases. May be repeated.

    boot: random number of the sender's process. asks: (number, RENEW or REMAINING, lease id);
    the numbers are the sender's own and come back with the answers.
    """

    to: int
    sender: int
    term: int
    boot: int
    asks: list[tuple[int, int, int]] = field(default_factory=list)


@dataclass(slots=True)
class LeaseTold:
    """Leader to follower: the answers that it has, in any order and any grouping.

    answers: (number, ttl_ms, granted_ms). For RENEW ttl_ms is what was granted, 0 for a lease that
    does not exist; for REMAINING it is what is left, -1 for one that does not exist.
    """

    to: int
    sender: int
    term: int
    boot: int
    answers: list[tuple[int, int, int]] = field(default_factory=list)


@dataclass(slots=True)
class StateReport:
    """To the leader: what the sender's state was behind a CHECK entry (`replica/audit`).

    index, kind: of that entry. revision, compacted_revision: what HashKV covered; 0 if `hash` is
    the rolling one. Reports with different ones cannot be compared.
    """

    to: int
    sender: int
    term: int
    index: int
    kind: int
    revision: int
    compacted_revision: int
    hash: int


Message: TypeAlias = (
    AppendEntries
    | AppendReply
    | Heartbeat
    | HeartbeatReply
    | VoteRequest
    | VoteReply
    | InstallSnapshot
    | TimeoutNow
    | ReadIndexRequest
    | ReadIndexReply
    | Forward
    | ForwardReply
    | LeaseAsk
    | LeaseTold
    | StateReport
)
