"""Partitions have the shapes that their names say."""

from random import Random

import pytest

from jepsen_lite.nemesis.shapes import SHAPES, Pair, between

SIZES = (3, 5)
SEEDS = range(40)


def _heard(size: int, cut: frozenset[Pair], member: int) -> set[int]:
    """Whom a member hears and is heard by, itself among them."""
    return {
        other
        for other in range(size)
        if other == member or not {(member, other), (other, member)} & cut
    }


def _cuts(name: str, size: int, leader: int | None) -> list[frozenset[Pair]]:
    return [SHAPES[name](range(size), leader, Random(seed)) for seed in SEEDS]


@pytest.mark.parametrize("name", sorted(SHAPES))
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("leader", [None, 0, 2])
def test_every_shape_cuts_something_and_no_member_from_itself(
    name: str, size: int, leader: int | None
) -> None:
    for cut in _cuts(name, size, leader):
        assert cut
        assert all(a != b and a in range(size) and b in range(size) for a, b in cut)


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_a_shape_is_the_same_for_the_same_seed(name: str) -> None:
    assert _cuts(name, 5, 1) == _cuts(name, 5, 1)


@pytest.mark.parametrize("size", SIZES)
def test_halves_leave_a_majority_that_hears_itself(size: int) -> None:
    for cut in _cuts("halves", size, 0):
        sides = {frozenset(_heard(size, cut, member)) for member in range(size)}
        assert sorted(map(len, sides)) == [size // 2, size // 2 + 1]


def test_in_a_ring_of_five_everybody_hears_a_majority_and_no_two_the_same() -> None:
    for cut in _cuts("ring", 5, 0):
        views = {frozenset(_heard(5, cut, member)) for member in range(5)}
        assert len(views) == 5
        assert all(len(view) == 3 for view in views)


@pytest.mark.parametrize("name", ["bridge", "ring"])
def test_in_a_bridge_of_three_only_the_leader_hears_both(name: str) -> None:
    """R08: A and B are cut, both see C."""
    for cut in _cuts(name, 3, 2):
        assert cut == between([0], [1])


def test_tails_of_five_hang_on_one_member_of_a_full_majority_each() -> None:
    """R09: 1-2-3 full mesh, 4 only to 2, 5 only to 3."""
    for cut in _cuts("tails", 5, 0):
        sizes = sorted(len(_heard(5, cut, member)) for member in range(5))
        assert sizes == [2, 2, 3, 4, 4]
        friends = [_heard(5, cut, one) - {one} for one in range(5) if len(_heard(5, cut, one)) == 2]
        assert friends[0] != friends[1]


@pytest.mark.parametrize("size", SIZES)
def test_at_quorum_loss_only_one_member_that_does_not_lead_hears_a_majority(size: int) -> None:
    """R10."""
    for cut in _cuts("quorum-loss", size, 0):
        wide = [one for one in range(size) if len(_heard(size, cut, one)) > size // 2]
        # of three, everybody in the star hears two
        middle = max(range(size), key=lambda one: len(_heard(size, cut, one)))
        assert len(_heard(size, cut, middle)) == size
        assert middle != 0
        assert size == 3 or wide == [middle]


@pytest.mark.parametrize("size", SIZES)
def test_a_constrained_election_leaves_the_leader_alone_and_one_who_hears_the_rest(
    size: int,
) -> None:
    """R10."""
    for cut in _cuts("constrained", size, 1):
        assert _heard(size, cut, 1) == {1}
        assert max(len(_heard(size, cut, one)) for one in range(size)) == size - 1


@pytest.mark.parametrize("size", SIZES)
def test_in_a_chain_everybody_hears_neighbours_and_the_leader_stands_at_an_end(size: int) -> None:
    """R10."""
    for cut in _cuts("chain", size, 1):
        degrees = [len(_heard(size, cut, one)) - 1 for one in range(size)]
        assert sorted(degrees) == [1, 1, *[2] * (size - 2)]
        assert degrees[1] == 1


def test_a_deaf_leader_hears_nobody_and_a_mute_one_is_heard_by_nobody() -> None:
    """R07."""
    assert _cuts("deaf-leader", 3, 1)[0] == {(0, 1), (2, 1)}
    assert _cuts("mute-leader", 3, 1)[0] == {(1, 0), (1, 2)}


def test_one_way_cuts_never_cut_both_ways() -> None:
    for cut in _cuts("one-way", 5, None):
        assert not cut & {(b, a) for a, b in cut}
