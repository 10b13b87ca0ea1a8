"""The rules that come before any other: terms (Raft 5.1, fig. 2 "All servers").

A higher term makes its receiver a follower, except in a pre-vote request or its grant,
which only talk about a future term, and in a vote request that leader stickiness refuses
(dissertation 4.2.3). A lower term is answered with ours, so that a deposed leader or a
candidate that fell behind learns of it and nobody waits for ever (R06).
"""

from typing import TYPE_CHECKING

from raftkv.raft import follower, voting
from raftkv.raft.candidate import Candidate
from raftkv.raft.leader import Leader
from raftkv.raft.messages import (
    AppendEntries,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    InstallSnapshot,
    Message,
    ReadIndexReply,
    ReadIndexRequest,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from raftkv.raft.types import NOBODY

if TYPE_CHECKING:
    from raftkv.raft.core import Core

_OF_A_LEADER = (AppendEntries, Heartbeat, InstallSnapshot)


def step(core: "Core", message: Message) -> None:
    """Bring terms into line, then let the message's own rule decide."""
    if message.term > core.term:
        if not _meet_higher_term(core, message):
            return
    elif message.term < core.term:
        _answer_lower_term(core, message)
        return
    if isinstance(message, AppendEntries):
        core.hear_leader(message.sender)
        follower.append_entries(core, message)
    elif isinstance(message, AppendReply):
        if isinstance(core.state, Leader):
            core.state.append_reply(message)
    elif isinstance(message, Heartbeat):
        core.hear_leader(message.sender)
        follower.heartbeat(core, message)
    elif isinstance(message, HeartbeatReply):
        if isinstance(core.state, Leader):
            core.state.heartbeat_reply(message)
    elif isinstance(message, VoteRequest):
        voting.vote_request(core, message)
    elif isinstance(message, VoteReply):
        if isinstance(core.state, Candidate):
            core.state.vote_reply(message)
    else:
        _step_rare(core, message)


def _step_rare(core: "Core", message: Message) -> None:
    core.dirty = True
    if isinstance(message, InstallSnapshot):
        core.hear_leader(message.sender)
        follower.install_snapshot(core, message)
    elif isinstance(message, TimeoutNow):
        voting.timeout_now(core, message)
    elif isinstance(message, ReadIndexRequest):
        if isinstance(core.state, Leader):
            core.state.read_request(message)
        else:
            _refuse_read(core, message)
    else:
        assert isinstance(message, ReadIndexReply), "forwarded commands never reach the core"
        if core.leader == message.sender and not core.is_leader:
            core.reads.replied(message.number, message.index)


def _meet_higher_term(core: "Core", message: Message) -> bool:
    """Returns False if nothing more is to be done with the message."""
    if isinstance(message, VoteRequest):
        if voting.sticks_to_leader(core, message):
            voting.refuse(core, message)
            return False
        if message.pre:
            return True
    elif isinstance(message, VoteReply) and message.pre and message.granted:
        return True
    leader = message.sender if isinstance(message, _OF_A_LEADER) else NOBODY
    core.become_follower(message.term, leader)
    return True


def _answer_lower_term(core: "Core", message: Message) -> None:
    me, to = core.member, message.sender
    if isinstance(message, (AppendEntries, InstallSnapshot)):
        core.answer(AppendReply(to, me, core.term, False, 0))
    elif isinstance(message, Heartbeat):
        core.answer(HeartbeatReply(to, me, core.term))
    elif isinstance(message, VoteRequest):
        voting.refuse(core, message)
    elif isinstance(message, ReadIndexRequest):
        _refuse_read(core, message)


def _refuse_read(core: "Core", message: ReadIndexRequest) -> None:
    core.answer(ReadIndexReply(message.sender, core.member, core.term, message.number, 0))
