"""What must hold at every step of a run (Raft fig. 3), checked as it happens.

    election safety        at most one leader per term
    leader completeness    a new leader's log has every entry applied anywhere before
    state machine safety   one entry per index: same term, payload and kind everywhere
    state equality         after applying index i every member has the same state hash
    order of applying      a process applies index after index, and starts again where its
                           durable state stood, never behind its log
    terms never fall       not within a process and not across a restart (R04)
    one vote per term      across restarts (R03)
    told is durable        a vote or an acknowledgement leaves only when the disk has it (R03)
    commit is durable      an applied entry is on the disks of a majority of voters
    commit rule            a leader moves its commit index to entries of its own term (5.4.2)
    log matching           two logs that agree on (index, term) agree on all before

The checks keep one record per applied index, the union of what all members applied.
It is at the same time the committed log that the history is checked against.
"""

from collections.abc import Callable, Container, Iterable, Sequence
from typing import Final, NamedTuple, Protocol

from raftkv.raft.messages import (
    AppendReply,
    Forward,
    ForwardReply,
    LeaseAsk,
    LeaseTold,
    Message,
    ReadIndexRequest,
    StateReport,
    VoteReply,
    VoteRequest,
)
from raftkv.raft.types import CONFIG, NORMAL, Entry
from raftkv.sim.etcd import identity_of

# These ask for commands to be appended, or say that they were not, or speak about the leader's
# clock or the applied state: no promise of the sender depends on the term in them.
_WITHOUT_PROMISE: Final = (
    Forward,
    ForwardReply,
    LeaseAsk,
    LeaseTold,
    ReadIndexRequest,
    StateReport,
)


class InvariantBroken(Exception):
    """A run broke a promise. rule: which; the text says how."""

    def __init__(self, rule: str, explanation: str) -> None:
        super().__init__(f"{rule}: {explanation}")
        self.rule = rule


class Committed(NamedTuple):
    """What the first member to apply an index saw. identity: of the client's operation."""

    term: int
    kind: int
    payload: bytes
    state_hash: int
    identity: int | None
    applied_by: int


class Promised(NamedTuple):
    """What a member's disk holds: hard state and newest entry."""

    term: int
    vote: int
    last_index: int


class Terms(Protocol):
    """A log that can tell the term of an index."""

    def term_at(self, index: int) -> int:
        """The term of the entry at `index`."""


class Invariants:
    """Everything observed in one run."""

    def __init__(self) -> None:
        self.leaders: dict[int, int] = {}  # term -> member
        self.log: dict[int, Committed] = {}  # index -> entry
        self.last_committed = 0
        self.elections = 0
        self.configurations = 0
        self._applied: dict[int, int] = {}  # member -> index
        self._terms: dict[int, int] = {}
        self._votes: dict[tuple[int, int], int] = {}  # (member, term) -> candidate

    def leads(self, member: int, term: int) -> bool:
        """`member` acts as leader of `term`. True when that is new."""
        before = self.leaders.setdefault(term, member)
        if before != member:
            raise InvariantBroken(
                "election safety", f"members {before} and {member} both lead term {term}"
            )
        new = self.elections < len(self.leaders)
        self.elections = len(self.leaders)
        return new

    def completes(self, member: int, first: int, last: int, log: Terms) -> None:
        """A new leader's log, which holds entries first to last, has all that is committed."""
        if last < self.last_committed:
            raise InvariantBroken(
                "leader completeness",
                f"leader {member} has entries up to {last}, {self.last_committed} was applied",
            )
        for index in range(self.last_committed, max(first, self.last_committed - 500) - 1, -1):
            committed = self.log.get(index)
            if committed is not None and log.term_at(index) != committed.term:
                raise InvariantBroken(
                    "leader completeness",
                    f"leader {member} has term {log.term_at(index)} at {index}, "
                    f"term {committed.term} was applied",
                )

    def applies(self, member: int, entry: Entry, state_hash: int) -> bool:
        """`member` has applied `entry`; its state's hash is now `state_hash`.

        Returns True if no other member has applied it before.
        """
        index = entry.index
        expected = self._applied.get(member, 0) + 1
        if index != expected:
            raise InvariantBroken(
                "order of applying", f"member {member} applied {index}, {expected} was next"
            )
        self._applied[member] = index
        known = self.log.get(index)
        if known is None:
            identity = identity_of(entry.payload) if entry.kind == NORMAL else None
            self.log[index] = Committed(
                entry.term, entry.kind, entry.payload, state_hash, identity, member
            )
            self.last_committed = max(self.last_committed, index)
            self.configurations += entry.kind == CONFIG
            return True
        if (known.term, known.kind, known.payload) != (entry.term, entry.kind, entry.payload):
            raise InvariantBroken(
                "state machine safety",
                f"index {index}: member {known.applied_by} applied term {known.term} "
                f"{known.payload!r}, member {member} term {entry.term} {entry.payload!r}",
            )
        self._same_state(member, index, state_hash)
        return False

    def stands_at(self, member: int, index: int, state_hash: int) -> None:
        """`member` starts from a stored or received state that ends with `index`."""
        self._applied[member] = index
        self._same_state(member, index, state_hash)

    def _same_state(self, member: int, index: int, state_hash: int) -> None:
        known = self.log.get(index)
        if known is not None and known.state_hash != state_hash:
            raise InvariantBroken(
                "state equality",
                f"after index {index} member {member} has state {state_hash:x}, "
                f"member {known.applied_by} had {known.state_hash:x}",
            )

    def term_of(self, member: int, term: int) -> None:
        """`member` is in `term`, also after a restart; it may have told nobody yet."""
        if term < self._terms.get(member, 0):
            raise InvariantBroken(
                "terms never fall",
                f"member {member} is in term {term}, it has spoken for {self._terms[member]}",
            )

    def _speaks_for(self, member: int, term: int) -> None:
        if term > self._terms.get(member, 0):
            self._terms[member] = term

    def votes(self, member: int, term: int, candidate: int) -> None:
        """`member` tells `candidate` that it votes for it in `term`."""
        before = self._votes.setdefault((member, term), candidate)
        if before != candidate:
            raise InvariantBroken(
                "one vote per term",
                f"member {member} voted for {before} and {candidate} in term {term}",
            )

    def leader_commits(self, member: int, before: int, commit: int, log: Terms, term: int) -> None:
        """Leader `member` of `term` has moved its commit index."""
        if commit > before and log.term_at(commit) != term:
            raise InvariantBroken(
                "commit rule",
                f"leader {member} of term {term} committed {commit} of term {log.term_at(commit)}",
            )

    def on_disks(
        self, index: int, electorates: Iterable[Sequence[int]], have: Container[int]
    ) -> None:
        """Entry `index` is committed by one of these sets of voters.

        have: members that (may) have it on disk.
        """
        found = []
        for voters in electorates:
            count = sum(voter in have for voter in voters)
            if 2 * count > len(voters):
                return
            found.append(f"{count} disks of {voters}")
        raise InvariantBroken("commit is durable", f"entry {index} is on {' or '.join(found)}")

    def sends(self, messages: list[Message], disk: Callable[[], Promised]) -> None:
        """What leaves a member is durable there and does not contradict what it said before."""
        for message in messages:
            if not (isinstance(message, _WITHOUT_PROMISE) or getattr(message, "pre", False)):
                self._speaks_for(message.sender, message.term)
            if isinstance(message, VoteReply) and message.granted and not message.pre:
                self._votes_durably(message.sender, message.term, message.to, disk())
            elif isinstance(message, VoteRequest) and not message.pre:
                self._votes_durably(message.sender, message.term, message.sender, disk())
            elif isinstance(message, AppendReply) and message.success:
                promised = disk()
                if message.term == promised.term and message.index > promised.last_index:
                    raise InvariantBroken("told is durable", f"{message} with {promised}")

    def _votes_durably(self, member: int, term: int, candidate: int, promised: Promised) -> None:
        self.votes(member, term, candidate)
        if promised.term < term or (promised.term == term and promised.vote != candidate):
            raise InvariantBroken(
                "told is durable", f"{member} votes for {candidate} in {term} with {promised}"
            )

    def forget_member(self, member: int) -> None:
        """`member` lost its directory: what comes back under this id is another one."""
        self._applied.pop(member, None)
        self._terms.pop(member, None)
        for key in [key for key in self._votes if key[0] == member]:
            del self._votes[key]


def check_log_matching(
    left: tuple[int, int, int, Terms], right: tuple[int, int, int, Terms]
) -> None:
    """Raft 5.3: logs that agree on one (index, term) agree on everything before it.

    Each side: (member, first index, last index, terms).
    """
    first = max(left[1], right[1])
    last = min(left[2], right[2])
    agreed = 0
    for index in range(last, first - 1, -1):
        same = left[3].term_at(index) == right[3].term_at(index)
        if same and not agreed:
            agreed = index
        if agreed and not same:
            raise InvariantBroken(
                "log matching",
                f"members {left[0]} and {right[0]} agree on {agreed} but not on {index}",
            )
