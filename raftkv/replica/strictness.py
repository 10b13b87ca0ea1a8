"""Which configurations a leader may choose while members are down (etcd --strict-reconfig-check).

A change is refused if the voters that answer would not be a quorum of the new configuration:
then a cluster that works would stop. Two rules besides, both etcd's: of the voters a quorum must
have started at least once, and a cluster all of whose voters answer may grow whatever the
newcomer does, because one member could become two in no other way.

etcd 3.5 asks for more where a voter is added: every voter must have been connected for five
seconds. That refuses what would be safe, such as a sixth voter while one of five is down. Here a
member counts if it answered something that was sent within the last election timeout, and a
learner is added whoever is down, for it does not count.

A leader that was elected just now cannot know who answers. So a refusal for this reason is held
back until it has led for an election timeout.
"""

from typing import Final

from raftkv.errors import LEARNER_NOT_READY, UNHEALTHY, UNHEALTHY_RECONFIG, ApiError
from raftkv.kv.machine import StateMachine
from raftkv.raft import describe
from raftkv.raft.core import Core
from raftkv.raft.types import Configuration

# Refusals that depend on who answers at the moment.
HEALTH_ERRORS: Final = (UNHEALTHY, LEARNER_NOT_READY)


def quorum(voters: int) -> int:
    """How many of so many voters are a majority."""
    return voters // 2 + 1


def objection(core: Core, machine: StateMachine, wanted: Configuration) -> ApiError | None:
    """Why the leader should not go from its configuration to `wanted` now (etcd's errors).

    The error says: UNHEALTHY_RECONFIG that too few voters have ever started, UNHEALTHY that too
    few answer at the moment.
    """
    before, after = core.configuration.voters, wanted.voters
    if before == after:
        return None
    answering = describe.answering(core)
    new = [voter for voter in after if voter not in before]
    learners = core.configuration.learners
    unknown = [voter for voter in new if voter not in learners]  # a voter that nobody has met
    named = [number for number, member in machine.members.items() if member.name]
    promoted = [voter for voter in new if voter in learners]
    started = [voter for voter in after if voter in named or voter in (core.member, *promoted)]
    # Of a voter that is added nobody can expect that it has started; etcd does not count it.
    # etcd's exception: one started member of two that tries to restore its cluster.
    restores = len(unknown) == 1 and len(before) == 2 and len(started) == 1
    if len(started) < quorum(len(after) - len(unknown)) and not restores:
        return UNHEALTHY_RECONFIG
    if unknown and all(voter in answering for voter in before):
        return None
    healthy = sum(voter in answering for voter in after)
    return UNHEALTHY if healthy < quorum(len(after)) else None


def is_premature(core: Core) -> bool:
    """True while a leader has not led for long enough to know who answers."""
    return describe.leading_ticks(core) < core.settings.election_timeout_ticks
