"""A leader's rules (Raft 5.3, 5.4.2, 6; dissertation 3.10, 4.2.2, 6.2, 6.4, 10.2.1).

Appends are not sent one by one: facts mark what is due, and `gather`, once per Ready,
sends each follower everything it may get now. So a burst of proposals is one message.
What it sends, and to whom, is decided in replication.py.
"""

from collections import deque
from itertools import repeat
from typing import TYPE_CHECKING

from raftkv.raft.membership import encode_change, leave_joint, next_step
from raftkv.raft.messages import (
    AppendReply,
    HeartbeatReply,
    ReadIndexReply,
    ReadIndexRequest,
    TimeoutNow,
)
from raftkv.raft.progress import EVER, PROBE, REPLICATE, SNAPSHOT, Progress
from raftkv.raft.quorum import majority_value
from raftkv.raft.reads import Rounds
from raftkv.raft.replication import Replication
from raftkv.raft.roles import (
    LEADER,
    BadTransferTarget,
    ChangePending,
    ChangeTooEarly,
    TransferInProgress,
    UncommittedFull,
)
from raftkv.raft.types import CONFIG, NOBODY, NOOP, Configuration, Entry

if TYPE_CHECKING:
    from raftkv.raft.core import Core


class Leader:
    """Role state of a leader; lives for one leadership."""

    role = LEADER

    def __init__(self, core: "Core") -> None:
        self.core = core
        self.progress: dict[int, Progress] = {}
        self.others: list[Progress] = []  # in member order
        self._groups: list[list[Progress]] = []  # voters; outgoing voters while joint
        self.rounds = Rounds()
        self.replication = Replication(core, self.rounds)
        self.first_index = core.log.last_index + 1  # of this term
        self.since = core.now  # the tick of its election
        self.own_term_committed = False
        self.change_open = True  # the newest configuration is not known to be dealt with
        self.transferee = NOBODY
        self._transfer_elapsed = 0
        self._heartbeat_elapsed = 0
        self._beat = True
        self._beats: deque[tuple[int, int]] = deque([(core.now, self.rounds.newest)])
        self._check_elapsed = 0
        self._check_round = self.rounds.newest

    def begin(self) -> None:
        """The first entry of the term is empty, so that it can commit (Raft 8)."""
        self._rebuild()
        self._append([b""], NOOP)

    # --- time -------------------------------------------------------------------

    def tick(self) -> None:
        """Heartbeats, CheckQuorum (6.2), and the end of a transfer that does not happen."""
        settings = self.core.settings
        self._heartbeat_elapsed += 1
        if self._heartbeat_elapsed >= settings.heartbeat_ticks:
            self._heartbeat_elapsed = 0
            self._due_heartbeat()
        if self.transferee != NOBODY:
            self._transfer_elapsed += 1
            if self._transfer_elapsed >= settings.election_timeout_ticks:
                self.transferee = NOBODY
                self.core.dirty = True
        self._check_elapsed += 1
        if self._check_elapsed >= settings.election_timeout_ticks:
            self._check_elapsed = 0
            if self._acked_round() < self._check_round:
                self.core.become_follower(self.core.term, NOBODY)
                return
            self._check_round = self.rounds.newest

    def _due_heartbeat(self) -> None:
        """A new interval: a new round, so that answers tell when they were caused."""
        core = self.core
        core.dirty = True
        self._beat = True
        self._beats.append((core.now, self.rounds.advance()))
        oldest = core.now - core.settings.election_timeout_ticks
        while self._beats[0][0] < oldest:
            self._beats.popleft()
        leaving = False
        for known in self.others:
            if known.state == PROBE:
                known.paused = False
            elif known.state == REPLICATE:
                # Nothing came back since the last heartbeat: was an append lost?
                if known.match + 1 < known.next and known.match == known.match_at_beat:
                    known.verify = True
                known.match_at_beat = known.match
            if known.leaving_ticks:
                known.leaving_ticks -= core.settings.heartbeat_ticks
                leaving = leaving or known.leaving_ticks <= 0
        if leaving:
            self._rebuild()

    # --- the log ----------------------------------------------------------------

    def propose(self, payloads: list[bytes], kind: int) -> int:
        """See `Core.propose`."""
        if self.transferee != NOBODY:
            raise TransferInProgress
        core = self.core
        pending = core.uncommitted_bytes
        if pending and (pending + sum(map(len, payloads)) > core.settings.max_uncommitted_bytes):
            raise UncommittedFull
        return self._append(payloads, kind)

    def _append(self, payloads: list[bytes], kind: int) -> int:
        core = self.core
        first = core.log.last_index + 1
        indexes = range(first, first + len(payloads))
        core.log.append(list(map(Entry, indexes, repeat(core.term), repeat(kind), payloads)))
        core.dirty = True
        return first

    def own_log_durable(self) -> None:
        """The own log is durable further than before."""
        own = self.progress.get(self.core.member)
        if own is not None:
            own.match = self.core.log.stable_index
            self._advance_commit()

    def _advance_commit(self) -> None:
        """Commit what a quorum has, if it is of this term (Raft 5.3, 5.4.2)."""
        core = self.core
        agreed = min([majority_value([p.match for p in group]) for group in self._groups])
        if agreed <= core.commit or agreed < self.first_index:
            return  # entries of older terms commit only with one of this term behind them
        core.commit_to(agreed)
        self.own_term_committed = True
        if self.change_open and core.history.index <= agreed:
            self._configuration_committed()

    # --- answers of followers -----------------------------------------------------

    def _heard(self, sender: int, echoed: int) -> Progress | None:
        known = self.progress.get(sender)
        if known is None or known.regressed or echoed > self.rounds.newest:
            return None
        if echoed > known.acked_round:
            known.acked_round = echoed
            if self.rounds.open and known.voter:
                self._confirm_reads()
        return known

    def heartbeat_reply(self, reply: HeartbeatReply) -> None:
        """A follower heard us."""
        self._heard(reply.sender, reply.read_round)

    def append_reply(self, reply: AppendReply) -> None:
        """A follower took or refused an append."""
        known = self._heard(reply.sender, reply.read_round)
        if known is None or reply.index > self.core.log.last_index:
            return
        if not reply.success:
            self.core.dirty = True
            self.replication.refused(known, reply)
            if known.regressed:
                self.core.regressed_now.append(known.member)
            return
        grew = known.acknowledge(reply.index, self.rounds.newest)
        if known.next <= self.core.log.last_index or self.replication.owes_news(known):
            self.core.dirty = True
        if grew:
            if known.voter:
                self._advance_commit()
            if reply.sender == self.transferee:
                self._hand_over()

    def snapshot_sent(self, to: int, ok: bool, index: int) -> None:
        """See `Core.snapshot_sent`: go on behind the state, or try again next interval."""
        known = self.progress.get(to)
        if known is None or known.state != SNAPSHOT:
            return
        last = self.core.log.last_index
        known.become_probe(min(index, last) + 1 if ok else known.match + 1)
        known.paused = not ok

    @property
    def regressed(self) -> tuple[int, ...]:
        """Members that lost acknowledged entries (R33)."""
        return tuple(known.member for known in self.others if known.regressed)

    # --- reads ------------------------------------------------------------------

    def read_request(self, message: ReadIndexRequest) -> None:
        """A follower's reads join the next round."""
        self.rounds.requests.append((message.sender, message.number))

    def _start_round(self) -> bool:
        """Begin a round for all reads that wait, if the commit index is current (R16)."""
        reads = self.core.reads
        if not (reads.waiting or self.rounds.requests) or not self.own_term_committed:
            return False
        reads.sent = reads.issued
        self.rounds.start(self.core.commit, reads.issued)
        self._confirm_reads()
        return self.rounds.open

    def _confirm_reads(self) -> None:
        core = self.core
        for done in self.rounds.confirm(self._acked_round()):
            core.dirty = True
            core.reads.answer(done.upto, done.index)
            for member, number in done.requests:
                self.want_commit(member, done.index)
                core.send(ReadIndexReply(member, core.member, core.term, number, done.index))

    def want_commit(self, member: int, index: int) -> None:
        """Somebody at `member` waits for entry `index`: tell it there at once when committed."""
        known = self.progress.get(member)
        if known is not None and index > known.urgent:
            known.urgent = index
            self.core.dirty = True

    def has_news(self) -> bool:
        """See `Core.has_news`."""
        return self.replication.has_news(self.others)

    def _acked_round(self) -> int:
        """The newest round that a quorum, ourselves included, has answered."""
        return min([majority_value([p.acked_round for p in group]) for group in self._groups])

    def rounds_now(self) -> tuple[int, int]:
        """The newest round there is, and the newest that a quorum has answered (`progress.EVER`
        if this member alone is one). Whatever answers a later round was sent after now.
        """
        return self.rounds.newest, self._acked_round()

    def answers(self, member: int) -> bool:
        """True if `member` answered something that was sent within the last election timeout."""
        known = self.progress.get(member)
        return known is not None and 0 < known.acked_round >= self._beats[0][1]

    def quorum_active(self) -> bool:
        """See `Core.quorum_active`."""
        oldest = self.core.now - self.core.settings.election_timeout_ticks
        for tick, number in self._beats:
            if tick >= oldest:
                return self._acked_round() >= number
        return False

    # --- output -------------------------------------------------------------------

    def gather(self) -> bool:
        """Send every follower what it may get now; once per Ready. True: there is more to send."""
        started = self._start_round()
        beat, self._beat = self._beat, False
        return self.replication.gather(self.others, beat, started)

    # --- configurations -------------------------------------------------------------

    def change(self, configuration: Configuration, context: bytes) -> int:
        """See `Core.change`."""
        core = self.core
        if self.transferee != NOBODY:
            raise TransferInProgress
        if not self.own_term_committed:
            raise ChangeTooEarly
        if core.history.index > core.commit or core.configuration.joint:
            raise ChangePending
        return self._append_configuration(next_step(core.configuration, configuration), context)

    def _append_configuration(self, configuration: Configuration, context: bytes) -> int:
        core = self.core
        index = self._append([encode_change(configuration, context)], CONFIG)
        core.history.append(index, configuration)
        self.change_open = True
        self._rebuild()
        if not configuration.is_voter(self.transferee):
            self.transferee = NOBODY
        self._advance_commit()
        return index

    def _rebuild(self) -> None:
        """Follow the configuration in force: who gets the log, and who counts."""
        core = self.core
        configuration = core.configuration
        members = configuration.members()
        old, self.progress = self.progress, {}
        for member in sorted({*members, *old}):
            known = old.get(member)
            if known is None:
                known = Progress(member, core.log.last_index + 1, False)
                if member == core.member:
                    known.match = core.log.stable_index
                    known.acked_round = EVER
            elif member not in members and not self._keeps(known):
                continue
            if member in members:
                known.leaving_ticks = 0
            known.voter = configuration.is_voter(member)
            self.progress[member] = known
        self.others = [p for member, p in self.progress.items() if member != core.member]
        groups = [configuration.voters, *([configuration.outgoing] if configuration.joint else [])]
        self._groups = [[self.progress[member] for member in group] for group in groups]

    def _keeps(self, known: Progress) -> bool:
        """A removed member still gets the log until it can know of its removal, for a while."""
        if self.change_open:
            known.leaving_ticks = self.core.settings.election_timeout_ticks
        return known.leaving_ticks > 0

    def _configuration_committed(self) -> None:
        """Leave a joint configuration (Raft 6), or step down if no longer a voter (R30)."""
        core = self.core
        self.change_open = False
        for known in self.others:
            if known.leaving_ticks:  # from now on they can learn that they are removed
                known.leaving_ticks = core.settings.election_timeout_ticks
        configuration = core.configuration
        if configuration.joint:
            self._append_configuration(leave_joint(configuration), b"")
        elif not configuration.is_voter(core.member):
            heirs = [known for known in self.others if known.voter and not known.regressed]
            if heirs:
                heir = max(heirs, key=lambda known: known.match)
                core.send(TimeoutNow(heir.member, core.member, core.term))
            core.become_follower(core.term, NOBODY)

    # --- transfer (dissertation 3.10) -----------------------------------------------

    def transfer(self, target: int) -> None:
        """See `Core.transfer`."""
        if target == self.core.member:
            return
        known = self.progress.get(target)
        if known is None or not known.voter or known.regressed:
            raise BadTransferTarget
        if target == self.transferee:
            return
        self.transferee = target
        self._transfer_elapsed = 0
        self.core.dirty = True
        self._hand_over()

    def _hand_over(self) -> None:
        """Once the target has the whole log, it may campaign."""
        core = self.core
        known = self.progress.get(self.transferee)
        if known is not None and known.match == core.log.last_index:
            core.send(TimeoutNow(known.member, core.member, core.term))
