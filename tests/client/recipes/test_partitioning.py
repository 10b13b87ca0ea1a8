"""The division of partitions and its keys, without any server."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.client import BadRequest, membership
from raftkv.client.partitioning import Layout, Owner, divide, names
from tests.client.recipes.store import Store

PARTITIONS = st.integers(1, 12).map(lambda count: tuple(b"%02d" % n for n in range(count)))
MEMBERS = st.lists(st.integers(1, 9), unique=True, min_size=1, max_size=6)


@st.composite
def situations(draw: st.DrawFn) -> tuple[tuple[bytes, ...], list[int], dict[bytes, int]]:
    partitions = draw(PARTITIONS)
    owners = draw(st.dictionaries(st.sampled_from(partitions), st.integers(1, 9)))
    return partitions, draw(MEMBERS), owners


def sizes(division: dict[bytes, int], members: list[int]) -> list[int]:
    return [list(division.values()).count(member) for member in members]


@given(situations())
def test_every_partition_has_one_member_and_nobody_has_two_more_than_another(
    situation: tuple[tuple[bytes, ...], list[int], dict[bytes, int]],
) -> None:
    partitions, members, owners = situation
    division = divide(partitions, members, owners)
    assert sorted(division) == list(partitions)
    assert set(division.values()) <= set(members)
    assert max(sizes(division, members)) - min(sizes(division, members)) <= 1


@given(situations())
def test_no_even_division_moves_fewer_partitions(
    situation: tuple[tuple[bytes, ...], list[int], dict[bytes, int]],
) -> None:
    """Against every choice of those who get one more."""
    partitions, members, owners = situation
    division = divide(partitions, members, owners)
    kept = sum(owners.get(each) == member for each, member in division.items())
    has = {member: list(owners.values()).count(member) for member in members}
    least, extra = divmod(len(partitions), len(members))
    best = max(
        sum(min(has[member], least + (member in more)) for member in members)
        for more in combinations(members, extra)
    )
    assert kept == best


@given(situations())
def test_a_division_that_has_come_about_stays(
    situation: tuple[tuple[bytes, ...], list[int], dict[bytes, int]],
) -> None:
    partitions, members, owners = situation
    division = divide(partitions, members, owners)
    assert divide(partitions, members, division) == division


@given(situations(), st.integers(10, 12))
def test_one_who_comes_takes_from_others_only_what_evenness_asks_for(
    situation: tuple[tuple[bytes, ...], list[int], dict[bytes, int]], newcomer: int
) -> None:
    partitions, members, owners = situation
    before = divide(partitions, members, owners)
    after = divide(partitions, [*members, newcomer], before)
    moved = [each for each in partitions if before[each] != after[each]]
    assert {after[each] for each in moved} <= {newcomer}


@given(situations())
def test_one_who_goes_leaves_all_others_what_they_have(
    situation: tuple[tuple[bytes, ...], list[int], dict[bytes, int]],
) -> None:
    partitions, members, owners = situation
    before = divide(partitions, members, owners)
    gone, *rest = members
    if rest:
        after = divide(partitions, rest, before)
        moved = {each for each in partitions if before[each] != after[each]}
        assert moved == {each for each in partitions if before[each] == gone}


def test_without_members_nobody_has_anything() -> None:
    assert divide((b"a",), (), {}) == {}


@pytest.mark.parametrize("wrong", [[], ["a", b"a"], ["a", ""]])
def test_partitions_must_have_names_of_their_own(wrong: list[str | bytes]) -> None:
    with pytest.raises(BadRequest):
        names(wrong)


def test_keys_are_read_as_they_are_written() -> None:
    store = Store()
    store.leases |= {0xAB, 7}
    layout = Layout(b"shards")
    for lease, identity in ((0xAB, b"host/a"), (7, b"")):
        own = layout.member(identity, lease)
        assert store.apply(membership.joining(own, b"", lease)).succeeded
    taken = store.apply(layout.taking(b"p/1", b"host/a", 0xAB))
    assert taken.succeeded
    assert not store.apply(layout.taking(b"p/1", b"", 7)).succeeded
    board = layout.read(store.find(b"shards/", b"shards0"), store.revision)
    assert board.members == (0xAB, 7)
    assert board.owners == {b"p/1": Owner(0xAB, taken.revision)}
    store.apply(layout.giving(b"p/1", taken.revision - 1))
    assert b"shards/owners/p/1" in store.kvs
    store.apply(layout.giving(b"p/1", taken.revision))
    assert b"shards/owners/p/1" not in store.kvs


def test_what_is_no_membership_is_left_out() -> None:
    store = Store()
    store.leases.add(5)
    assert store.apply(membership.joining(b"p/a/5", b"v", 5)).succeeded
    assert store.apply(membership.joining(b"p/a/6", b"v", 5)).succeeded  # another lease's place
    assert store.apply(membership.joining(b"p/limit", b"v", 5)).succeeded
    found = membership.participants(b"p", store.kvs.values())
    assert [(one.identity_text, one.text, one.lease) for one in found] == [("a", "v", 5)]
