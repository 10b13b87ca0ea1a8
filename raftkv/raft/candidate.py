"""An election from the candidate's side (Raft 5.2; dissertation 9.6, 3.10).

First a pre-vote asks whether a vote could be won; it changes no term anywhere. Then the
term grows, the own vote is written, and only when it is durable do requests leave; the
own vote counts only then, too.
"""

from typing import TYPE_CHECKING

from raftkv.raft.messages import VoteReply, VoteRequest
from raftkv.raft.quorum import LOST, WON, vote_result
from raftkv.raft.roles import CANDIDATE, PRE_CANDIDATE
from raftkv.raft.types import NOBODY
from raftkv.raft.voting import may_campaign

if TYPE_CHECKING:
    from raftkv.raft.core import Core


class Candidate:
    """Role state of a pre-candidate (`pre`) or candidate.

    force: the leader ordered this election. leader_gone: the own connection to it is dead.
    """

    def __init__(self, core: "Core", *, pre: bool, force: bool, leader_gone: bool) -> None:
        self.core = core
        self.pre = pre
        self.force = force
        self.leader_gone = leader_gone
        self.role = PRE_CANDIDATE if pre else CANDIDATE
        self.votes: dict[int, bool] = {}

    def begin(self) -> None:
        """Ask every other voter, and oneself."""
        core = self.core
        if not self.pre:
            core.enter_term(core.term + 1, core.member)
        asked_term = core.term + 1 if self.pre else core.term
        configuration = core.configuration
        send = core.send if self.pre else core.send_after
        for member in configuration.members():
            if member != core.member and configuration.is_voter(member):
                send(
                    VoteRequest(
                        member,
                        core.member,
                        asked_term,
                        core.log.last_index,
                        core.log.last_term,
                        self.pre,
                        self.force,
                        self.leader_gone,
                    )
                )
        if self.pre:
            self._count(core.member, True)
        else:
            core.send_after(VoteReply(core.member, core.member, core.term, True))

    def tick(self) -> None:
        """No decision within an election timeout: begin again (split vote, Raft 5.2)."""
        core = self.core
        core.election_elapsed += 1
        if core.election_elapsed >= core.election_timeout:
            if may_campaign(core):
                core.start_campaign()
            else:
                core.become_follower(core.term, NOBODY)

    def vote_reply(self, reply: VoteReply) -> None:
        """A voter answered."""
        if reply.pre != self.pre:
            return
        if self.pre and reply.granted and reply.term != self.core.term + 1:
            return  # granted for another attempt
        self._count(reply.sender, reply.granted)

    def _count(self, member: int, granted: bool) -> None:
        core = self.core
        self.votes.setdefault(member, granted)
        result = vote_result(core.configuration, self.votes)
        if result == WON:
            if self.pre:
                core.state = Candidate(
                    core, pre=False, force=self.force, leader_gone=self.leader_gone
                )
                core.reset_election_timer()
                core.state.begin()
            else:
                core.become_leader()
        elif result == LOST:
            core.become_follower(core.term, NOBODY, reset_timer=False)
