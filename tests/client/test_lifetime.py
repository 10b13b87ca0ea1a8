"""A lease's deadline by this process's own clock."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.client import lifetime
from raftkv.client.lifetime import Lifetime, margin, now


class Clock:
    """Stands in for `lifetime.now`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(lifetime, "now", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_the_deadline_counts_from_the_moment_of_sending(clock: Clock) -> None:
    """C05, C07: the grant took three seconds to be answered; none of them is added."""
    sent = clock.now
    clock.now += 3.0
    life = Lifetime(10.0, sent)
    assert life.deadline == pytest.approx(sent + 10.0 - margin(10.0))
    assert life.remaining == pytest.approx(7.0 - margin(10.0))


def test_it_is_over_before_the_ttl_has_passed(clock: Clock) -> None:
    life = Lifetime(10.0, clock.now)
    clock.now += 10.0 - margin(10.0) - 0.001
    seen = [(life.alive, life.remaining > 0)]
    clock.now += 0.001
    seen.append((life.alive, life.remaining > 0))
    assert seen == [(True, True), (False, False)]


def test_a_renewal_counts_from_its_own_sending(clock: Clock) -> None:
    life = Lifetime(10.0, clock.now)
    clock.now += 4.0
    assert life.renew(10.0, clock.now - 1.0)
    assert life.deadline == pytest.approx(clock.now - 1.0 + 10.0 - margin(10.0))


def test_a_late_answer_never_takes_time_away(clock: Clock) -> None:
    life = Lifetime(10.0, clock.now)
    clock.now += 3.0
    assert life.renew(10.0, clock.now)
    deadline = life.deadline
    assert life.renew(10.0, clock.now - 2.0)
    assert life.deadline == deadline


def test_an_answer_behind_the_deadline_does_not_bring_it_back(clock: Clock) -> None:
    """Somebody may have acted on the loss already."""
    life = Lifetime(10.0, clock.now)
    clock.now += 10.0
    assert not life.renew(10.0, clock.now - 1.0)
    assert not life.alive
    clock.now -= 5.0  # not even if the clock were wrong
    assert not life.alive


def test_what_was_ended_stays_over(clock: Clock) -> None:
    life = Lifetime(10.0, clock.now)
    life.end()
    assert not life.alive
    assert life.remaining == 0.0
    assert not life.renew(10.0, clock.now)


@given(
    ttl=st.floats(0.05, 1e6),
    delay=st.floats(0.0, 1e4),
    rate=st.floats(1 - lifetime.RATE_ERROR / 2, 1 + lifetime.RATE_ERROR / 2),
)
def test_a_server_whose_clock_runs_fast_has_not_ended_it(
    ttl: float, delay: float, rate: float
) -> None:
    """The server starts to count after the sending and its clock runs up to half a percent fast."""
    life = Lifetime(ttl, 0.0)
    ends_here = delay + ttl / rate  # when the server ends it, by this process's clock
    assert life.deadline <= ends_here


def test_the_margin_takes_no_more_than_a_ninth_of_any_ttl() -> None:
    for ttl in (0.01, 0.1, 1.0, 2.0, 10.0, 3600.0):
        assert 0 < margin(ttl) <= ttl / 9


def test_the_clock_is_not_wall_time_and_counts_sleep() -> None:
    """CLOCK_BOOTTIME where there is one: CLOCK_MONOTONIC stands still in a suspended machine."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        before = time.clock_gettime(time.CLOCK_BOOTTIME)
        assert before <= now() <= time.clock_gettime(time.CLOCK_BOOTTIME)
    first = now()
    assert now() >= first
