"""The consensus core of one member: facts in, one `Ready` per turn out.

Pure and synchronous. Facts (`step`, `tick`, `propose`, `read`, `persisted`, ...) only
change memory; `ready()` drains what follows from them: one disk batch, messages, committed
entries, answers to reads. The driver executes a Ready in the order of `raft/ready.py`.

Why it is safe to go on before the disk answers: memory runs ahead of the disk, but nothing
that depends on a state leaves before that state is durable. Votes, vote requests and
acknowledgements go to `Ready.after`, which waits for the newest batch; so every outside
observer sees a member that crashed at worst between two of its steps, exactly as if each
step had waited for the disk. A message to oneself (the own vote) waits the same way. Only
a leader's appends and heartbeats leave at once (dissertation 10.2.1): its term is durable,
because votes were asked for only then, and its own entries count only when `persisted`.

Committed entries are handed out only once they are durable here too, so the state machine
never holds what the own log could lose. Each role's own rules are in its own module.
"""

from random import Random

from raftkv.errors import CorruptionError
from raftkv.raft import describe, stepping, voting
from raftkv.raft.candidate import Candidate
from raftkv.raft.follower import Follower
from raftkv.raft.leader import Leader
from raftkv.raft.log import Log, LogReader
from raftkv.raft.membership import ConfigurationHistory, decode_change
from raftkv.raft.messages import Message, ReadIndexRequest
from raftkv.raft.reads import Reads
from raftkv.raft.ready import Ready
from raftkv.raft.roles import LEADER, NoLeader, NotLeader
from raftkv.raft.settings import CoreSettings
from raftkv.raft.types import (
    CONFIG,
    NOBODY,
    NORMAL,
    Configuration,
    Entry,
    HardState,
    RecoveredLog,
    SnapshotMeta,
)

__all__ = ["Core", "CoreSettings", "LogReader"]

MAX_COMMITTED_ENTRIES = 1000  # handed out per Ready; the rest follows in the next ones
MAX_COMMITTED_BYTES = 4 * 1024 * 1024


class Core:
    """One member's Raft state. See the module's docstring.

    Facts to read: `term`, `vote`, `leader` (NOBODY if unknown), `role` (raft/roles.py),
    `commit`, `last_index`, `configuration`, and the properties below.
    """

    def __init__(
        self,
        settings: CoreSettings,
        log: RecoveredLog,
        reader: LogReader,
        applied: SnapshotMeta,
        random: Random,
    ) -> None:
        """Start from what the disk holds, as a follower.

        log: what storage found. applied: what the state machine holds; commit starts there.
        random: source of election timeouts; must not repeat itself when a member restarts.
        Raises: CorruptionError if log, hard state and applied state contradict each other.
        """
        self.settings = settings
        self.member = settings.member
        self.random = random
        self.term, self.vote = log.hard_state
        self.log = Log(log, reader, settings.max_log_cache_bytes)
        self.log.check(self.term, applied)
        self.commit = self.applied = self._handed = applied.index
        self.snapshot = applied  # the state that can be sent to a follower
        self.history = ConfigurationHistory(applied.index, applied.configuration)
        for index, payload in log.configurations:
            if index > applied.index:
                self.history.append(index, decode_change(payload)[0])

        self.leader = NOBODY
        self.now = 0  # ticks of this process
        self.election_elapsed = 0  # ticks since the own timer was reset
        self.election_timeout = 0  # ticks, drawn in [T, 2T)
        self.heard_elapsed = settings.election_timeout_ticks  # ticks since the leader was heard
        self.leader_is_gone = False  # the driver says so, and the leader was not heard since
        self.leader_open = True  # the own connection to the leader is open, as the driver knows
        self.barred = False  # this member must not lead: its state is wrong
        self.gone_campaign_at = -settings.election_timeout_ticks  # tick of the last such election
        self.reads = Reads(random)
        self.state: Follower | Candidate | Leader = Follower(self)
        self.draw_timeout()
        self.messages: list[Message] = []
        self.after: list[Message] = []
        self.regressed_now: list[int] = []
        self._to_self: list[tuple[int, Message]] = []  # (batch number, message) waiting
        self._number = 0  # newest batch handed out
        self._persisted = 0
        self._saved = log.hard_state
        self._saved_number = 0  # the batch that carried it
        self._installed: SnapshotMeta | None = None
        self._shown = (NOBODY, self.term, self.role)
        self.defers_news = False  # see `tell_news`
        self.news_due = False  # followers are told the commit index in the next Ready
        self.dirty = False  # ready() may have something to say

    # --- facts out --------------------------------------------------------------

    @property
    def role(self) -> str:
        """FOLLOWER, PRE_CANDIDATE, CANDIDATE or LEADER."""
        return self.state.role

    @property
    def is_leader(self) -> bool:
        """True while this member is the leader of its term, as far as it knows."""
        return self.state.role is LEADER

    @property
    def last_index(self) -> int:
        """Index of the newest entry, durable or not."""
        return self.log.last_index

    @property
    def configuration(self) -> Configuration:
        """The newest configuration in the log, committed or not (Raft 6)."""
        return self.history.newest

    @property
    def configuration_index(self) -> int:
        """Index of the entry that brought the configuration in force."""
        return self.history.index

    @property
    def own_term_committed(self) -> bool:
        """True if this is a leader that committed an entry of its own term (Raft 5.4.2)."""
        return isinstance(self.state, Leader) and self.state.own_term_committed

    @property
    def uncommitted_bytes(self) -> int:
        """Payload bytes in the log beyond the commit index."""
        return self.log.bytes_after(self.commit)

    @property
    def regressed(self) -> tuple[int, ...]:
        """Members that lost acknowledged entries (R33), as this leader saw; ascending."""
        return self.state.regressed if isinstance(self.state, Leader) else ()

    @property
    def transferee(self) -> int:
        """The member that leadership is being handed to, or NOBODY."""
        return self.state.transferee if isinstance(self.state, Leader) else NOBODY

    def quorum_active(self) -> bool:
        """True if a quorum acknowledged messages sent within the last election timeout."""
        return isinstance(self.state, Leader) and self.state.quorum_active()

    def term_at(self, index: int) -> int:
        """Term of the entry at `index`, which the log must hold (or have as its anchor)."""
        return self.log.term_at(index)

    def match_index(self, member: int) -> int:
        """On a leader: the index up to which `member` is known to have the log; else 0."""
        known = self.state.progress.get(member) if isinstance(self.state, Leader) else None
        return known.match if known is not None else 0

    def progress(self) -> dict[int, describe.FollowerView]:
        """On a leader: what it knows about every other member; else empty."""
        return describe.followers(self)

    def has_news(self) -> bool:
        """True on a leader that has not told a follower the newest commit index it may know."""
        return isinstance(self.state, Leader) and self.state.has_news()

    # --- facts in ---------------------------------------------------------------

    def tick(self) -> None:
        """One logical tick passed."""
        self.now += 1
        self.heard_elapsed += 1
        self.state.tick()

    def step(self, message: Message) -> None:
        """A message of a member arrived.

        Raises: CorruptionError if it proves that data was lost or that two leaders
        share a term; ProtocolError if it contradicts itself.
        """
        if message.to != self.member or message.sender == self.member:
            return
        stepping.step(self, message)

    def propose(self, payloads: list[bytes], kind: int = NORMAL) -> int:
        """Append one entry per payload. Returns the index of the first one.

        Raises: NotLeader, TransferInProgress, UncommittedFull; nothing is appended then.
        """
        assert payloads, "nothing to propose"
        assert kind != CONFIG, "configurations go through change()"
        if not isinstance(self.state, Leader):
            raise NotLeader
        return self.state.propose(payloads, kind)

    def read(self) -> int:
        """Start a linearizable read. Returns its number; see `Ready.reads`, `lost_reads`.

        Raises: NoLeader.
        """
        if self.leader == NOBODY:
            raise NoLeader
        self.dirty = True
        return self.reads.issue()

    def change(self, configuration: Configuration, context: bytes) -> int:
        """Append a CONFIG entry on the way to `configuration`. Returns its index.

        A target that differs in more than one voter is reached through a joint
        configuration: that is what gets appended (with the context), and the leader
        leaves it by itself later (with an empty context).
        Raises: NotLeader, TransferInProgress, ChangePending, ChangeTooEarly, BadChange.
        """
        if not isinstance(self.state, Leader):
            raise NotLeader
        return self.state.change(configuration, context)

    def transfer(self, target: int) -> None:
        """Hand leadership to `target`; given up after an election timeout (3.10).

        Raises: NotLeader, BadTransferTarget.
        """
        if not isinstance(self.state, Leader):
            raise NotLeader
        self.state.transfer(target)

    def campaign(self) -> None:
        """Start an election now, with a pre-vote; nothing if leader, no voter or barred."""
        if not self.is_leader and voting.may_campaign(self):
            self.start_campaign()

    def leader_lost(self) -> None:
        """The driver's connection to the leader was closed and the redial refused.

        Starts a pre-vote that others grant if they lost the leader too; at most one per
        election timeout.
        """
        if self.leader in (NOBODY, self.member):
            return
        self.leader_is_gone = True
        due = self.now - self.gone_campaign_at >= self.settings.election_timeout_ticks
        if due and voting.may_campaign(self):
            self.gone_campaign_at = self.now
            self.start_campaign(leader_gone=True)

    def leader_connection(self, open: bool) -> None:
        """Whether the own connection to the present leader is open."""
        self.leader_open = open

    def persisted(self, number: int) -> None:
        """Disk batch `number` and all before it are durable."""
        assert number <= self._number, "persisted a batch that was never handed out"
        if number <= self._persisted:
            return
        self._persisted = number
        if self.log.persisted(number):
            if isinstance(self.state, Leader):
                self.state.own_log_durable()
            if self._handed < min(self.commit, self.log.stable_index):
                self.dirty = True
        if self._to_self:
            due = [message for waiting, message in self._to_self if waiting <= number]
            self._to_self = [pair for pair in self._to_self if pair[0] > number]
            for message in due:
                self.dirty = True
                stepping.step(self, message)

    def applied_to(self, index: int) -> None:
        """The state machine has applied everything up to `index`."""
        if index > self.applied:
            assert index <= self._handed, "applied an entry that was never handed out"
            self.applied = index
        self.log.evict(self.applied)

    def compacted(self, index: int, term: int) -> None:
        """Entries up to `index` were dropped from the disk log, behind a checkpoint."""
        assert index <= self.applied, "compacted beyond the applied state"
        self.log.compact(index, term)

    def tell_news(self) -> None:
        """Tell followers the commit index in the next Ready, without an append to carry it.

        With `defers_news` set, others than those where somebody waits learn it only so.
        """
        if self.has_news():
            self.news_due = self.dirty = True

    def want_commit(self, member: int, index: int) -> None:
        """On a leader: somebody at `member` waits for the commit of entry `index`."""
        if isinstance(self.state, Leader):
            self.state.want_commit(member, index)

    def snapshot_point(self, meta: SnapshotMeta) -> None:
        """The state that can be sent to followers from now on."""
        if meta.index >= self.snapshot.index:
            self.snapshot = meta
            self.dirty = self.dirty or self.is_leader

    def snapshot_sent(self, to: int, ok: bool, index: int) -> None:
        """The state transfer to `to` ended; ok: the member has the state at `index`."""
        if isinstance(self.state, Leader):
            self.dirty = True
            self.state.snapshot_sent(to, ok, index)

    # --- output -----------------------------------------------------------------

    def has_ready(self) -> bool:
        """True if `ready()` may have something to say."""
        return self.dirty

    def ready(self) -> Ready:
        """Drain everything that follows from the facts so far."""
        ready = Ready()
        if isinstance(self.state, Leader):
            self.dirty = self.state.gather()  # what it sends goes with this Ready
        else:
            if self.reads.waiting:
                self._request_reads()
            self.dirty = False
        self._gather_batch(ready)
        if self._handed < self.commit:
            self._gather_committed(ready)
        if self.messages:
            ready.messages, self.messages = self.messages, []
        reads = self.reads
        if reads.states:
            ready.reads, reads.states = reads.states, []
        if reads.lost:
            ready.lost_reads, reads.lost = reads.lost, []
        if self.regressed_now:
            ready.regressed, self.regressed_now = self.regressed_now, []
        shown = (self.leader, self.term, self.role)
        if shown != self._shown:
            self._shown = shown
            ready.role_changed = True
        return ready

    def _request_reads(self) -> None:
        """Ask the leader once for all reads that arrived since the last Ready."""
        if self.leader == NOBODY:
            self.reads.lose_all()
            return
        number = self.reads.request(self.now)
        self.send(ReadIndexRequest(self.leader, self.member, self.term, number))

    def _gather_batch(self, ready: Ready) -> None:
        changed = (self.term, self.vote) != self._saved
        if changed or self.log.has_batch:
            self._number += 1
            if changed:
                self._saved = HardState(self.term, self.vote)
                self._saved_number = self._number
            ready.batch = self.log.take_batch(self._number, self._saved if changed else None)
        if self._installed is not None:
            ready.installed, self._installed = self._installed, None
        ready.after_number = self._number
        for message in self.after:
            if message.to != self.member:
                ready.after.append(message)
            else:
                assert self._number > self._persisted, "an own vote comes with its hard state"
                self._to_self.append((self._number, message))
        self.after.clear()

    def _gather_committed(self, ready: Ready) -> None:
        limit = min(self.commit, self.log.stable_index)
        if self._handed >= limit:
            return
        last = min(limit, self._handed + MAX_COMMITTED_ENTRIES)
        ready.committed, _ = self.log.slice(self._handed + 1, last, MAX_COMMITTED_BYTES)
        self._handed += len(ready.committed)
        if self._handed < limit:
            self.dirty = True

    # --- for the role modules -----------------------------------------------------

    def send(self, message: Message) -> None:
        """Send at once, whatever the disk does."""
        self.messages.append(message)
        self.dirty = True

    def send_after(self, message: Message) -> None:
        """Send when everything that memory holds by the next Ready is durable."""
        self.after.append(message)
        self.dirty = True

    def answer(self, message: Message) -> None:
        """Send a reply that vouches only for our term: at once if that is durable (R04)."""
        durable = (self.term, self.vote) == self._saved and self._saved_number <= self._persisted
        (self.send if durable else self.send_after)(message)

    def draw_timeout(self) -> None:
        """A fresh random election timeout (Raft 5.2)."""
        base = self.settings.election_timeout_ticks
        self.election_timeout = self.random.randrange(base, 2 * base)

    def reset_election_timer(self) -> None:
        """Wait a whole, freshly drawn timeout from now on."""
        self.election_elapsed = 0
        self.draw_timeout()

    def enter_term(self, term: int, vote: int) -> None:
        """A new term: nothing that was known about its leader holds any more."""
        assert term > self.term, "terms only grow"
        self.term = term
        self.vote = vote
        self.heard_elapsed = self.settings.election_timeout_ticks
        self.leader_is_gone = False
        self.leader_open = True
        self.reads.lose_all()
        self.dirty = True

    def become_follower(self, term: int, known_leader: int, reset_timer: bool = True) -> None:
        """Follow `known_leader` (or nobody yet) in `term`."""
        if term != self.term:
            self.enter_term(term, NOBODY)
        self.state = Follower(self)
        self.set_leader(known_leader)
        if reset_timer:
            self.reset_election_timer()
        self.dirty = True

    def set_leader(self, known_leader: int) -> None:
        """Reads belong to one leader of one term (R17)."""
        if known_leader != self.leader:
            self.leader = known_leader
            self.reads.lose_all()
            self.dirty = True

    def hear_leader(self, sender: int) -> None:
        """A message of the leader of our term arrived.

        Raises: CorruptionError if the term has another leader already.
        """
        if self.leader != sender or not isinstance(self.state, Follower):
            if self.is_leader or self.leader not in (NOBODY, sender):
                raise CorruptionError(
                    f"members {self.leader} and {sender} both lead term {self.term}: "
                    "a member lost its vote, or two members share an id"
                )
            self.become_follower(self.term, sender)
        self.election_elapsed = 0
        self.heard_elapsed = 0
        self.leader_is_gone = False

    def start_campaign(self, *, force: bool = False, leader_gone: bool = False) -> None:
        """Begin with a pre-vote, or with a vote at once if the leader told us to (`force`)."""
        if not leader_gone:
            self.reset_election_timer()
        self.set_leader(NOBODY)
        candidate = Candidate(self, pre=not force, force=force, leader_gone=leader_gone)
        self.state = candidate
        self.dirty = True
        candidate.begin()

    def become_leader(self) -> None:
        """The election is won."""
        self.leader = self.member
        self.state = Leader(self)
        self.state.begin()
        self.dirty = True

    def append(self, entries: list[Entry]) -> None:
        """Append to the log; configurations are in force from now on (Raft 6)."""
        changes = [
            (entry.index, decode_change(entry.payload)[0])
            for entry in entries
            if entry.kind == CONFIG
        ]
        self.log.append(entries)
        for index, configuration in changes:
            self.history.append(index, configuration)

    def commit_to(self, index: int) -> None:
        """Everything up to `index` is committed."""
        if index > self.commit:
            assert index <= self.log.last_index, "commit beyond the log's end"
            self.commit = index
            self.history.commit(index)
            self.dirty = True

    def install(self, snapshot: SnapshotMeta) -> None:
        """The received state replaces state and log."""
        self.log.reset(snapshot)
        self.history.reset(snapshot.index, snapshot.configuration)
        self.commit = self.applied = self._handed = snapshot.index
        self.snapshot = snapshot
        self._installed = snapshot
        self.dirty = True
