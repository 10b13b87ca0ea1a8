"""Membership changes: from a request to the configuration entry that carries it out.

One change is in the log at a time (Raft 4.1 of the dissertation; R24): further ones wait in
a queue. Only the leader plans a change, and only when the newest configuration is applied
here, so it judges by the same member table that the entry will meet. The entry's context
names the command, the member and who asked, so every member updates its table from the log
and the asker recognises its own entry.
"""

from collections import deque
from dataclasses import dataclass
from struct import Struct
from typing import Final

from raftkv import limits
from raftkv.errors import (
    LEARNER_NOT_READY,
    MEMBER_EXISTS,
    MEMBER_NOT_FOUND,
    MEMBER_NOT_LEARNER,
    PEER_URL_EXISTS,
    TOO_MANY_LEARNERS,
    UNHEALTHY_RECONFIG,
    ApiError,
)
from raftkv.kv import commands
from raftkv.kv.machine import StateMachine
from raftkv.kv.members import decode_member
from raftkv.raft.core import Core
from raftkv.raft.membership import plain
from raftkv.raft.types import Configuration
from raftkv.replica.pending import Write

MEMBER_ID: Final = Struct(">Q")
CHANGE_COMMANDS: Final = (
    commands.MEMBER_ADD,
    commands.LEARNER_ADD,
    commands.MEMBER_REMOVE,
    commands.MEMBER_PROMOTE,
)
# A learner may be promoted when it has this share of the leader's log (etcd: 0.9).
READY_PERCENT: Final = 90


@dataclass(slots=True)
class Change:
    """A change that waits its turn.

    term: of the leadership that took it; a later one must not carry it out, because whoever
        asked takes an older term's request for lost and asks again.
    write: the local client's, None if a follower sent it. origin: who asked, None if local.
    """

    command: int
    request: bytes
    deadline: float
    term: int
    write: Write | None = None
    origin: commands.Triple | None = None


class Changes:
    """The changes that wait at the leader."""

    __slots__ = ("queued",)

    def __init__(self) -> None:
        self.queued: deque[Change] = deque()

    def add(self, change: Change) -> None:
        """Queues a change."""
        self.queued.append(change)

    def expired(self, now: float) -> list[Change]:
        """Removes the changes whose deadline has passed."""
        late = [change for change in self.queued if change.deadline <= now]
        if late:
            self.queued = deque(change for change in self.queued if change.deadline > now)
        return late

    def drain(self) -> list[Change]:
        """Removes all."""
        changes = list(self.queued)
        self.queued.clear()
        return changes


def plan(core: Core, machine: StateMachine, change: Change) -> ApiError | Configuration:
    """The configuration after `change`, or the error that it earns (etcd's texts)."""
    current = core.configuration
    voters, learners = current.voters, current.learners
    if change.command in (commands.MEMBER_ADD, commands.LEARNER_ADD):
        member = decode_member(change.request)
        error = _cannot_add(machine, member.id, member.peer_urls)
        if error is not None:
            return error
        if change.command == commands.MEMBER_ADD:
            return plain((*voters, member.id), learners)
        if len(learners) >= limits.MAX_LEARNERS:
            return TOO_MANY_LEARNERS
        return plain(voters, (*learners, member.id))
    (number,) = MEMBER_ID.unpack(change.request)
    if number not in machine.members:
        return MEMBER_NOT_FOUND
    if change.command == commands.MEMBER_REMOVE:
        left = [voter for voter in voters if voter != number]
        if not left:
            return UNHEALTHY_RECONFIG
        return plain(left, [learner for learner in learners if learner != number])
    if number not in learners:
        return MEMBER_NOT_LEARNER
    if core.match_index(number) * 100 < core.last_index * READY_PERCENT:
        return LEARNER_NOT_READY
    return plain((*voters, number), [learner for learner in learners if learner != number])


def _cannot_add(machine: StateMachine, number: int, urls: tuple[str, ...]) -> ApiError | None:
    if number in machine.members or number in machine.removed:
        return MEMBER_EXISTS
    taken = {url for member in machine.members.values() for url in member.peer_urls}
    if taken.intersection(urls):
        return PEER_URL_EXISTS
    return None


def context_of(change: Change) -> bytes:
    """What the CONFIG entry of `change` carries besides the configuration."""
    return commands.encode(change.command, change.request, change.origin)
