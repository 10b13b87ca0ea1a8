"""What a leader sends to each follower, and how it reacts to refusals (Raft 5.3, 7).

Equal slices of the log are cut once per Ready and shared by all followers.
"""

from typing import TYPE_CHECKING

from raftkv.raft.messages import AppendEntries, AppendReply, Heartbeat, InstallSnapshot
from raftkv.raft.progress import PROBE, REPLICATE, SNAPSHOT, Progress
from raftkv.raft.reads import Rounds
from raftkv.raft.types import Entry

if TYPE_CHECKING:
    from raftkv.raft.core import Core

MAX_MESSAGES_PER_READY = 4  # per follower; the rest follows in the next ones


class Replication:
    """The sending half of a leader."""

    def __init__(self, core: "Core", rounds: Rounds) -> None:
        self._core = core
        self._rounds = rounds
        self._more = False
        self._cut: dict[int, tuple[list[Entry], int]] = {}  # slices of this Ready by first index

    def gather(self, followers: list[Progress], beat: bool, round_started: bool) -> bool:
        """Send what is due. Returns True if more could be sent in the next Ready.

        beat: a heartbeat interval began. round_started: a ReadIndex round began, so every
        voter must get something that carries its number.
        """
        core = self._core
        self._more = False
        last_index = core.log.last_index
        for known in followers:
            idle = known.next > last_index and known.state == REPLICATE and not known.verify
            if not idle and self._appends(known):
                continue
            asked = beat or (round_started and known.voter)
            if asked or self.owes_news(known):
                commit = known.commit_sent = min(core.commit, known.acknowledged)
                number = self._rounds.newest if asked else 0  # mere news needs no answer
                core.send(Heartbeat(known.member, core.member, core.term, commit, number))
        self._cut.clear()
        core.news_due = False
        return self._more

    def owes_news(self, known: Progress) -> bool:
        """Is mere news of the commit index due now? If not, the next append will carry it."""
        core = self._core
        if min(core.commit, known.acknowledged) <= known.commit_sent:
            return False
        if not core.defers_news or core.news_due:
            return True
        return known.commit_sent < known.urgent <= core.commit

    def has_news(self, followers: list[Progress]) -> bool:
        """True if a follower could know of a higher commit index than it was told."""
        commit = self._core.commit
        for known in followers:  # noqa: SIM110 - asked in every turn; `any` costs more
            if commit > known.commit_sent < known.acknowledged:
                return True
        return False

    def _appends(self, known: Progress) -> bool:
        """Send the appends that the follower's window admits. Returns True if any was sent."""
        if known.regressed:
            return False
        core, log = self._core, self._core.log
        settings = core.settings
        sent = False
        if known.verify:
            known.verify = False
            if known.state == REPLICATE and known.next > log.anchor_index:
                self._send(known, known.next - 1, [], 0)
                sent = True
            elif known.state == REPLICATE:
                known.become_probe(known.match + 1)  # what it waits for is gone: send the state
        for _ in range(MAX_MESSAGES_PER_READY):
            if known.next > log.last_index and known.state == REPLICATE:
                return sent
            if known.blocked(settings.max_inflight_bytes, settings.max_inflight_messages):
                return sent
            if known.next <= log.anchor_index:
                self._snapshot(known)
                return sent
            from_disk = not log.in_cache(known.next)
            entries, size = self._slice(known.next)
            self._send(known, known.next - 1, entries, size)
            known.sent(len(entries), size)
            sent = True
            if from_disk:
                break  # one read of the disk per follower and turn
        if known.next <= log.last_index and known.state == REPLICATE:
            self._more = True
        return sent

    def _slice(self, first: int) -> tuple[list[Entry], int]:
        cut = self._cut.get(first)
        if cut is None:
            log = self._core.log
            if first > log.last_index:
                cut = ([], 0)
            else:
                cut = log.slice(first, log.last_index, self._core.settings.max_append_bytes)
            self._cut[first] = cut
        return cut

    def _send(self, known: Progress, previous: int, entries: list[Entry], size: int) -> None:
        core = self._core
        core.send(
            AppendEntries(
                known.member,
                core.member,
                core.term,
                previous,
                core.log.term_at(previous),
                entries,
                core.commit,
                self._rounds.newest,
            )
        )
        known.commit_sent = max(known.commit_sent, min(core.commit, previous + len(entries)))

    def _snapshot(self, known: Progress) -> None:
        """The entries are gone: hand out the state, if there is one that the log continues."""
        core = self._core
        if known.acked_round == 0 or core.snapshot.index < core.log.anchor_index:
            known.paused = True  # nobody there, or nothing to send: look again next interval
            if known.state == REPLICATE:
                known.become_probe(known.match + 1)
                known.paused = True
            return
        known.become_snapshot(core.snapshot.index)
        core.send(InstallSnapshot(known.member, core.member, core.term, core.snapshot))

    def refused(self, known: Progress, reply: AppendReply) -> None:
        """Go back by one conflicting term, or find that acknowledged entries are lost (R33)."""
        core = self._core
        if known.state == SNAPSHOT:
            return
        if reply.index <= known.match or reply.hint_index < known.match:
            # It contradicts what the member acknowledged. Caused after that: entries are lost.
            # Else probably only late: ask again under a new round to be sure.
            if reply.read_round > known.match_round and known.match > 0:
                known.regress()
                return
            self._rounds.advance()
            if reply.index > known.match:
                known.become_probe(known.match + 1)
            else:
                known.verify = True
            return
        if known.state == PROBE and reply.index != known.next - 1:
            return  # late
        index, _ = core.log.newest_not_above(
            min(reply.hint_index, reply.index - 1), reply.hint_term
        )
        known.become_probe(index + 1)
