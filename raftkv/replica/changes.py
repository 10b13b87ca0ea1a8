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

from raftkv.errors import (
    LEARNER_NOT_READY,
    MEMBER_EXISTS,
    MEMBER_IS_RUNNING,
    MEMBER_NOT_FOUND,
    MEMBER_NOT_LEARNER,
    PEER_URL_EXISTS,
    TOO_MANY_LEARNERS,
    UNHEALTHY_RECONFIG,
    ApiError,
)
from raftkv.kv import commands
from raftkv.kv.machine import StateMachine
from raftkv.kv.members import Member, decode_member, decode_replacement
from raftkv.raft import describe
from raftkv.raft.core import Core
from raftkv.raft.membership import plain
from raftkv.raft.types import Configuration
from raftkv.replica.pending import Write
from raftkv.replica.strictness import objection

MEMBER_ID: Final = Struct(">Q")
CHANGE_COMMANDS: Final = (
    commands.MEMBER_ADD,
    commands.LEARNER_ADD,
    commands.MEMBER_REMOVE,
    commands.MEMBER_PROMOTE,
    commands.MEMBER_UPDATE,
    commands.MEMBER_REPLACE,
)
# A learner may be promoted when it has this share of the leader's log (etcd: 0.9).
READY_PERCENT: Final = 90
# ... and lacks no more than this: in a long log a tenth is more than a voter should have to fetch
# before it helps anybody.
READY_BEHIND_ENTRIES: Final = 10_000


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


@dataclass(frozen=True, slots=True)
class Rules:
    """What an operator may choose about changes (`ServerConfig` has the same fields)."""

    max_learners: int
    strict: bool


def plan(
    core: Core, machine: StateMachine, change: Change, rules: Rules
) -> ApiError | Configuration:
    """The configuration after `change`, or the error that it earns (etcd's texts)."""
    wanted = _wanted(core, machine, change, rules)
    if rules.strict and isinstance(wanted, Configuration):
        return objection(core, machine, wanted) or wanted
    return wanted


def _wanted(
    core: Core, machine: StateMachine, change: Change, rules: Rules
) -> ApiError | Configuration:
    current = core.configuration
    voters, learners = current.voters, current.learners
    if change.command in (commands.MEMBER_ADD, commands.LEARNER_ADD):
        member = decode_member(change.request)
        error = _cannot_add(machine, member)
        if error is not None:
            return error
        if change.command == commands.MEMBER_ADD:
            return plain((*voters, member.id), learners)
        if len(learners) >= rules.max_learners:
            return TOO_MANY_LEARNERS
        return plain(voters, (*learners, member.id))
    if change.command == commands.MEMBER_UPDATE:
        return _update(machine, current, decode_member(change.request))
    if change.command == commands.MEMBER_REPLACE:
        return _replace(core, machine, rules, *decode_replacement(change.request))
    (number,) = MEMBER_ID.unpack(change.request)
    if number not in machine.members:
        return MEMBER_NOT_FOUND
    if change.command == commands.MEMBER_REMOVE:
        return _without(current, number) or UNHEALTHY_RECONFIG
    if number not in learners:
        return MEMBER_NOT_LEARNER
    if not _is_ready(core, number):
        return LEARNER_NOT_READY
    return plain((*voters, number), [learner for learner in learners if learner != number])


def _without(current: Configuration, number: int) -> Configuration | None:
    """`current` without a member; None if no voter would be left."""
    left = [voter for voter in current.voters if voter != number]
    learners = [learner for learner in current.learners if learner != number]
    return plain(left, learners) if left else None


def _update(
    machine: StateMachine, current: Configuration, member: Member
) -> ApiError | Configuration:
    """New peer URLs: the same configuration again, in an entry that carries them."""
    if member.id not in machine.members:
        return MEMBER_NOT_FOUND
    taken = _peer_urls(machine, but=member.id)
    return PEER_URL_EXISTS if taken.intersection(member.peer_urls) else current


def _replace(
    core: Core, machine: StateMachine, rules: Rules, gone: int, heir: Member
) -> ApiError | Configuration:
    """Removes a member that does not answer and adds a learner for it: one voter at most is
    another, so it is one step, and nobody sees the cluster between the two.
    """
    if gone not in machine.members:
        return MEMBER_NOT_FOUND
    if gone in describe.answering(core):
        return MEMBER_IS_RUNNING
    error = _cannot_add(machine, heir, instead=gone)
    if error is not None:
        return error
    left = _without(core.configuration, gone)
    if left is None:
        return UNHEALTHY_RECONFIG
    if len(left.learners) >= rules.max_learners:
        return TOO_MANY_LEARNERS
    return plain(left.voters, (*left.learners, heir.id))


def _is_ready(core: Core, learner: int) -> bool:
    """Whether a learner could vote from now on without being the one that others wait for."""
    match, last = core.match_index(learner), core.last_index
    return (
        match * 100 >= last * READY_PERCENT
        and last - match <= READY_BEHIND_ENTRIES
        and learner in describe.answering(core)
    )


def _cannot_add(machine: StateMachine, member: Member, instead: int = 0) -> ApiError | None:
    if member.id in machine.members or member.id in machine.removed:
        return MEMBER_EXISTS
    if _peer_urls(machine, but=instead).intersection(member.peer_urls):
        return PEER_URL_EXISTS
    return None


def _peer_urls(machine: StateMachine, but: int) -> set[str]:
    """The peer URLs of all members but one."""
    others = (member for member in machine.members.values() if member.id != but)
    return {url for member in others for url in member.peer_urls}


def context_of(change: Change) -> bytes:
    """What the CONFIG entry of `change` carries besides the configuration."""
    return commands.encode(change.command, change.request, change.origin)
