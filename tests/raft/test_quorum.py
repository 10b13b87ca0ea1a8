"""Majorities against their definition (Raft 5.2, 6)."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from raftkv.raft.quorum import LOST, PENDING, WON, agreed_value, majority_value, vote_result
from raftkv.raft.types import Configuration

MEMBERS = st.sets(st.integers(1, 7), min_size=1, max_size=5).map(lambda s: tuple(sorted(s)))
CONFIGURATIONS = st.builds(Configuration, MEMBERS, st.one_of(st.just(()), MEMBERS), st.just((8, 9)))
VALUES = st.dictionaries(st.integers(1, 9), st.integers(0, 20))


def is_quorum(configuration: Configuration, members: set[int]) -> bool:
    groups = [g for g in (configuration.voters, configuration.outgoing) if g]
    return all(2 * len(members.intersection(group)) > len(group) for group in groups)


@given(CONFIGURATIONS, VALUES)
def test_the_agreed_value_is_the_largest_that_a_quorum_reaches(
    configuration: Configuration, values: dict[int, int]
) -> None:
    agreed = agreed_value(configuration, values)
    reach = {m for m in range(1, 8) if values.get(m, 0) >= agreed}
    beyond = {m for m in range(1, 8) if values.get(m, 0) > agreed}
    assert is_quorum(configuration, reach)
    assert not is_quorum(configuration, beyond)


@given(CONFIGURATIONS, st.dictionaries(st.integers(1, 9), st.booleans()))
def test_votes_are_won_by_a_quorum_and_lost_when_no_quorum_is_left(
    configuration: Configuration, votes: dict[int, bool]
) -> None:
    granted = {m for m, vote in votes.items() if vote}
    possible = {m for m in range(1, 8) if votes.get(m, True)}
    expected = PENDING
    if is_quorum(configuration, granted):
        expected = WON
    elif not is_quorum(configuration, possible):
        expected = LOST
    assert vote_result(configuration, votes) == expected


@given(st.lists(st.integers(0, 9), min_size=1, max_size=7))
def test_a_majority_reaches_its_value_and_none_reaches_more(values: list[int]) -> None:
    agreed = majority_value(values)
    assert 2 * sum(v >= agreed for v in values) > len(values)
    assert 2 * sum(v > agreed for v in values) <= len(values)


def test_any_two_quorums_of_a_joint_configuration_meet_in_both_halves() -> None:
    """R23."""
    configuration = Configuration((3, 4, 5), outgoing=(1, 2, 3))
    quorums = [
        set(members)
        for size in range(6)
        for members in combinations(range(1, 6), size)
        if is_quorum(configuration, set(members))
    ]
    for group in (configuration.voters, configuration.outgoing):
        assert all((a & b).intersection(group) for a in quorums for b in quorums)


def test_nobody_is_no_majority() -> None:
    assert majority_value([]) == 0
    assert vote_result(Configuration(), {1: True}) == LOST
