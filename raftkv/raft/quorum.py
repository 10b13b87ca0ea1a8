"""Majorities, single and joint (Raft 5.2, 5.3, 6).

A quorum of a configuration is a majority of `voters` and, while the configuration
is joint, also a majority of `outgoing`. Learners never count.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from raftkv.raft.types import Configuration

WON: Final = "won"
LOST: Final = "lost"
PENDING: Final = "pending"


def majority_value(values: Sequence[int]) -> int:
    """The largest value that a majority of `values` reaches; 0 if there are none."""
    count = len(values)
    if count == 0:
        return 0
    return sorted(values)[(count - 1) // 2]


def agreed_value(configuration: Configuration, values: Mapping[int, int]) -> int:
    """The largest value that a quorum of `configuration` reaches; a missing member has 0.

    With match indexes it is the highest index that may be committed by counting.
    """
    agreed = majority_value([values.get(member, 0) for member in configuration.voters])
    if configuration.outgoing:
        old = majority_value([values.get(member, 0) for member in configuration.outgoing])
        agreed = min(agreed, old)
    return agreed


def _majority_vote(voters: Sequence[int], votes: Mapping[int, bool]) -> str:
    needed = len(voters) // 2 + 1
    granted = sum(1 for member in voters if votes.get(member) is True)
    refused = sum(1 for member in voters if votes.get(member) is False)
    if granted >= needed:
        return WON
    return LOST if len(voters) - refused < needed else PENDING


def vote_result(configuration: Configuration, votes: Mapping[int, bool]) -> str:
    """WON, LOST or PENDING from the votes known so far; votes of non-voters do not count."""
    result = _majority_vote(configuration.voters, votes)
    if configuration.outgoing:
        old = _majority_vote(configuration.outgoing, votes)
        if LOST in (result, old):
            return LOST
        if PENDING in (result, old):
            return PENDING
    return result
