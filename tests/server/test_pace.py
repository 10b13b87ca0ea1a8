"""How long work rests beside clients: one part in a share of a processor, or nothing while idle."""

import pytest

from raftkv.server.pace import (
    BUSY_PER_SECOND,
    BUSY_SECONDS,
    MAX_REST_SECONDS,
    WINDOW_SECONDS,
    Pace,
)


class Member:
    """A member on a clock of its own, with a steady rate of turns that have work."""

    def __init__(self, turns_per_second: float) -> None:
        self.now = 0.0
        self.turns = 0.0
        self.turns_per_second = turns_per_second
        self.pace = Pace(lambda: int(self.turns), lambda: self.now)

    def pass_by(self, seconds: float) -> None:
        self.now += seconds
        self.turns += seconds * self.turns_per_second

    def work(self, parts: int, part_seconds: float, share: float) -> float:
        """Does the parts, each with its rest; how much time the work took of the member's."""
        began = self.now
        for _ in range(parts):
            self.pass_by(part_seconds)
            self.pass_by(self.pace.rest_seconds(part_seconds, share))
        return parts * part_seconds / (self.now - began)


@pytest.mark.parametrize("share", [4.0, 10.0, 32.0])
def test_beside_clients_work_takes_its_share_and_no_more(share: float) -> None:
    member = Member(turns_per_second=2000)
    member.pass_by(2 * WINDOW_SECONDS)
    assert member.work(500, 0.0005, share) == pytest.approx(1 / share)


def test_an_idle_member_is_not_held_back() -> None:
    """Neither by its clock and its heartbeats, some tens of turns a second."""
    for turns_per_second in (0, 30):
        member = Member(turns_per_second)
        member.pass_by(2 * WINDOW_SECONDS)
        assert member.work(1000, 0.0005, 10.0) == pytest.approx(1.0)


def test_a_burst_of_turns_is_no_load_unless_it_lasts() -> None:
    member = Member(0)
    few = int(BUSY_PER_SECOND * WINDOW_SECONDS) - 1
    for _ in range(10):
        member.turns += few
        member.pass_by(WINDOW_SECONDS)
        assert member.pace.rest_seconds(0.001, 10.0) == 0.0


def test_clients_that_come_and_go_are_noticed_soon() -> None:
    member = Member(0)
    assert member.work(200, 0.001, 10.0) == pytest.approx(1.0)
    member.turns_per_second = 1000
    member.work(int(2 * WINDOW_SECONDS / 0.001), 0.001, 10.0)
    assert member.work(20, 0.001, 10.0) == pytest.approx(0.1)
    member.turns_per_second = 0
    member.pass_by(WINDOW_SECONDS)
    assert member.pace.rest_seconds(0.001, 10.0) > 0, "it may have got no processor"
    member.pass_by(BUSY_SECONDS)
    assert member.work(20, 0.001, 10.0) == pytest.approx(1.0)


def test_no_rest_is_long_and_a_share_of_one_needs_none() -> None:
    """So that a transfer makes progress long before anybody calls it stalled."""
    member = Member(1000)
    member.pass_by(2 * WINDOW_SECONDS)
    assert member.pace.rest_seconds(60.0, 32.0) == MAX_REST_SECONDS
    assert member.pace.rest_seconds(1.0, 1.0) == 0.0
    assert member.pace.rest_seconds(1.0, 0.5) == 0.0
