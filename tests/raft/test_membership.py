"""Configurations: bytes, transitions, history (Raft 6; dissertation 4.1, 4.3)."""

from itertools import combinations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from raftkv.errors import ProtocolError
from raftkv.raft.membership import (
    ConfigurationHistory,
    check,
    decode_change,
    encode_change,
    enter_joint,
    is_simple_change,
    leave_joint,
    next_step,
    plain,
)
from raftkv.raft.roles import BadChange
from raftkv.raft.types import Configuration

IDS = st.sets(st.integers(1, 7), max_size=5)


@st.composite
def plains(draw: st.DrawFn) -> Configuration:
    voters = draw(IDS.filter(bool))
    return plain(voters, draw(IDS) - voters)


@st.composite
def configurations(draw: st.DrawFn) -> Configuration:
    current = draw(plains())
    if draw(st.booleans()):
        return current
    target = draw(plains())
    return enter_joint(current, target.voters, target.learners)


@given(configurations(), st.binary(max_size=60))
def test_a_change_survives_its_bytes(configuration: Configuration, context: bytes) -> None:
    assert decode_change(encode_change(configuration, context)) == (configuration, context)


@given(configurations(), st.binary(max_size=9), st.data())
def test_no_cut_or_extended_change_is_taken(
    configuration: Configuration, context: bytes, data: st.DataObject
) -> None:
    payload = encode_change(configuration, context)
    cut = data.draw(st.integers(0, len(payload) - 1))
    for wrong in (payload[:cut], payload + b"x"):
        with pytest.raises(ProtocolError):
            decode_change(wrong)


@given(st.binary(max_size=80))
def test_garbage_is_refused_or_is_exactly_a_change(payload: bytes) -> None:
    try:
        decoded = decode_change(payload)
    except ProtocolError:
        return
    assert encode_change(*decoded) == payload


@given(plains(), plains())
def test_a_joint_configuration_joins_both_and_leaves_to_the_target(
    current: Configuration, target: Configuration
) -> None:
    joint = enter_joint(current, target.voters, target.learners)
    check(joint)
    assert joint.joint
    assert (joint.voters, joint.outgoing) == (target.voters, current.voters)
    assert not set(joint.learners) & {*joint.voters, *joint.outgoing}
    assert leave_joint(joint) == target


def majorities(voters: tuple[int, ...]) -> list[set[int]]:
    return [set(m) for m in combinations(voters, len(voters) // 2 + 1)]


@given(plains(), plains())
def test_a_simple_change_keeps_all_majorities_overlapping(
    current: Configuration, target: Configuration
) -> None:
    """Dissertation 4.1."""
    assume(is_simple_change(current, target))
    assert all(a & b for a in majorities(current.voters) for b in majorities(target.voters))


@given(plains(), plains())
def test_the_next_step_never_lets_two_majorities_decide_alone(
    current: Configuration, target: Configuration
) -> None:
    step = next_step(current, target)
    if step.joint:
        assert step.outgoing == current.voters
        assert leave_joint(step) == target
    else:
        assert step == target
        assert all(a & b for a in majorities(current.voters) for b in majorities(step.voters))


def test_one_voter_or_any_learners_change_in_one_step() -> None:
    three = plain((1, 2, 3))
    assert is_simple_change(three, plain((1, 2, 3, 4)))
    assert is_simple_change(three, plain((1, 2)))
    assert is_simple_change(three, plain((1, 2), (3,)))
    assert is_simple_change(three, plain((1, 2, 3), (4, 5, 6)))
    assert not is_simple_change(three, plain((1, 2, 4)))
    assert not is_simple_change(three, plain((1,)))
    assert not is_simple_change(enter_joint(three, (1,)), plain((1,)))


def test_a_joint_configuration_cannot_be_entered_from_a_joint_one() -> None:
    joint = enter_joint(plain((1, 2, 3)), (4, 5))
    with pytest.raises(BadChange):
        enter_joint(joint, (1, 2))
    with pytest.raises(BadChange):
        next_step(joint, joint)


@pytest.mark.parametrize(
    "wrong",
    [
        Configuration((1, 2), (1, 3), (), (2,)),  # not outgoing
        Configuration((1, 2), (1, 2), (), (2,)),  # votes in both
        Configuration((1,), (2,), (2,)),  # learner and outgoing voter
        Configuration((1, 1)),
        Configuration((1,), (), (), (1,)),
    ],
)
def test_contradictions_are_refused(wrong: Configuration) -> None:
    with pytest.raises(BadChange):
        check(wrong)
    with pytest.raises(ProtocolError):
        decode_change(encode_change(wrong, b""))


@given(st.lists(st.tuples(st.sampled_from("atc"), st.integers(1, 5)), max_size=30))
def test_the_history_is_the_newest_configuration_of_a_truncated_log(
    steps: list[tuple[str, int]],
) -> None:
    history = ConfigurationHistory(0, plain((1,)))
    model = [(0, plain((1,)))]
    committed = 0
    for step, amount in steps:
        if step == "a":
            index = model[-1][0] + amount
            model.append((index, plain((amount, amount + 1))))
            history.append(*model[-1])
        elif step == "t":
            first = committed + amount
            model = [(i, c) for i, c in model if i < first]
            history.truncate(first)
        else:
            committed = min(committed + amount, model[-1][0])
            history.commit(committed)
        assert (history.index, history.newest) == model[-1]
        uncommitted = [c for i, c in model if i > committed]
        base = [c for i, c in model if i <= committed][-1]
        for member in range(1, 8):
            expected = any(c.is_voter(member) for c in [base, *uncommitted])
            assert history.votes_anywhere(member) == expected
