"""The voter's side of an election (Raft 5.2, 5.4.1; dissertation 3.8, 4.2.3, 9.6).

A vote is given to one candidate per term, to a log at least as new as ours, and not
while a leader is known to be alive ("stickiness"): that keeps a member that was cut off
or removed from disturbing a working cluster. Two exceptions: the leader itself ordered
the election (`force`, 3.10), or candidate and voter both lost their connection to it
(`leader_gone`).

A learner, or a member that knows no configuration yet, answers too: whoever asks counts
only the voters of its own, maybe newer, configuration, and without the vote of a member
that does not yet know of its promotion a cluster could be stuck for ever (4.2.1).
"""

from typing import TYPE_CHECKING

from raftkv.raft.messages import TimeoutNow, VoteReply, VoteRequest
from raftkv.raft.types import NOBODY

if TYPE_CHECKING:
    from raftkv.raft.core import Core


def may_campaign(core: "Core") -> bool:
    """True if this member may try to become leader: it votes, and nobody has barred it.

    A barred member still votes and acknowledges: its log is as good as any; only what it made of
    it is wrong.
    """
    return not core.barred and core.history.votes_anywhere(core.member)


def sticks_to_leader(core: "Core", message: VoteRequest) -> bool:
    """True if a leader is alive as far as we know, so that nobody else gets our vote."""
    if message.force:
        return False
    if core.is_leader:
        return True
    if core.heard_elapsed >= core.settings.election_timeout_ticks:
        return False
    return not (message.leader_gone and (core.leader_is_gone or not core.leader_open))


def vote_request(core: "Core", message: VoteRequest) -> None:
    """Answer a (pre-)vote request whose term is not below ours."""
    free = core.vote == message.sender or (core.vote == NOBODY and core.leader == NOBODY)
    if message.pre and message.term > core.term:
        free = True
    newer = core.log.is_up_to_date(message.last_index, message.last_term)
    if not (free and newer):
        refuse(core, message)
    elif message.pre:
        core.answer(VoteReply(message.sender, core.member, message.term, True, True))
    else:
        core.vote = message.sender
        core.reset_election_timer()
        core.send_after(VoteReply(message.sender, core.member, core.term, True))


def refuse(core: "Core", message: VoteRequest) -> None:
    """Refuse with our own term."""
    core.answer(VoteReply(message.sender, core.member, core.term, False, message.pre))


def timeout_now(core: "Core", message: TimeoutNow) -> None:
    """The leader of our term hands over (3.10): campaign without waiting and without pre-vote."""
    if core.leader == message.sender and may_campaign(core):
        core.start_campaign(force=True)
