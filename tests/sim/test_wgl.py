"""The search accepts every linearizable register history and rejects known-bad ones."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.sim.wgl import Interval, Read, Swap, Verdict, Write, check_register
from tests.sim.histories import register_history

OK, BAD = Verdict.LINEARIZABLE, Verdict.VIOLATION


def test_empty_history_is_linearizable() -> None:
    assert check_register([]) is OK


def test_read_of_the_last_write_is_accepted() -> None:
    assert check_register([Interval(0, 1, Write(b"x")), Interval(2, 3, Read(b"x"))]) is OK


def test_stale_read_is_rejected() -> None:
    history = [
        Interval(0, 1, Write(b"x")),
        Interval(2, 3, Write(b"y")),
        Interval(4, 5, Read(b"x")),
    ]
    assert check_register(history) is BAD


def test_read_concurrent_with_the_write_may_see_either() -> None:
    for value in (b"x", b"y"):
        history = [
            Interval(0, 1, Write(b"x")),
            Interval(2, 6, Write(b"y")),
            Interval(3, 5, Read(value)),
        ]
        assert check_register(history) is OK


def test_value_that_appears_and_disappears_is_rejected() -> None:
    history = [
        Interval(0, 1, Write(b"x")),
        Interval(2, 10, Write(b"y")),
        Interval(3, 4, Read(b"y")),
        Interval(5, 6, Read(b"x")),
    ]
    assert check_register(history) is BAD


def test_lost_update_by_two_swaps_from_one_value_is_rejected() -> None:
    history = [
        Interval(0, 1, Write(b"x")),
        Interval(2, 5, Swap(b"x", b"y", True, None)),
        Interval(3, 6, Swap(b"x", b"z", True, None)),
    ]
    assert check_register(history) is BAD


def test_failed_swap_that_read_the_expected_value_is_rejected() -> None:
    history = [Interval(0, 1, Write(b"x")), Interval(2, 3, Swap(b"x", b"y", False, b"x"))]
    assert check_register(history) is BAD


def test_reordered_writes_are_rejected() -> None:
    history = [
        Interval(0, 1, Write(b"x")),
        Interval(2, 3, Write(b"y")),
        Interval(4, 5, Read(b"y")),
        Interval(6, 7, Read(b"x")),
    ]
    assert check_register(history) is BAD


def test_unknown_write_may_take_effect_late_or_never() -> None:
    unknown = Interval(0, None, Write(b"late"))
    before = Interval(1, 2, Write(b"x"))
    assert check_register([unknown, before, Interval(3, 4, Read(b"x"))]) is OK
    assert check_register([unknown, before, Interval(3, 4, Read(b"late"))]) is OK


def test_unknown_write_takes_effect_once_only() -> None:
    history = [
        Interval(0, None, Write(b"late")),
        Interval(1, 2, Read(b"late")),
        Interval(3, 4, Write(b"x")),
        Interval(5, 6, Read(b"late")),
    ]
    assert check_register(history) is BAD


def test_read_of_a_value_nobody_wrote_is_rejected() -> None:
    assert check_register([Interval(0, 1, Read(b"ghost"))]) is BAD


def test_search_out_of_budget_says_undecided() -> None:
    history = [Interval(0, 1000, Write(b"v%d" % number)) for number in range(12)]
    history.append(Interval(1001, 1002, Read(b"ghost")))
    assert check_register(history, steps=1000) is Verdict.UNDECIDED


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from((0.0, 0.1, 0.3)))
def test_every_linearizable_history_is_accepted(seed: int, unknown: float) -> None:
    assert check_register(register_history(seed, unknown=unknown)) is OK


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_read_changed_to_an_unwritten_value_is_rejected(seed: int) -> None:
    history = register_history(seed)
    reads = [
        place
        for place, interval in enumerate(history)
        if isinstance(interval.action, Read) and interval.returned is not None
    ]
    if not reads:
        return
    place = Random(seed).choice(reads)
    history[place] = history[place]._replace(action=Read(b"ghost"))
    assert check_register(history) is BAD


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_late_read_of_an_overwritten_value_is_rejected(seed: int) -> None:
    history = register_history(seed, unknown=0.0)
    end = max(interval.returned or 0 for interval in history)
    history += [
        Interval(end + 1, end + 2, Write(b"old")),
        Interval(end + 3, end + 4, Write(b"new")),
        Interval(end + 5, end + 6, Read(b"old")),
    ]
    assert check_register(history) is BAD


@pytest.mark.parametrize("seed", range(3))
def test_long_history_fits_the_budget(seed: int) -> None:
    history = register_history(seed, operations=2000, clients=6, unknown=0.01)
    assert check_register(history) is OK
