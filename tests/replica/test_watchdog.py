"""When a leader gives leadership away because of its disk (D14), rule by rule.

Time, log and followers are made up; `tests/sim/test_slow_disks.py` has whole clusters.
"""

from typing import Any, cast

import pytest

from raftkv.raft import describe
from raftkv.raft.core import Core
from raftkv.raft.describe import FollowerView
from raftkv.raft.types import NOBODY
from raftkv.replica.watchdog import (
    PAUSE_SECONDS,
    REST_SECONDS,
    SLOW_SECONDS,
    STREAK_COUNT,
    STREAK_SECONDS,
    DiskWatchdog,
)

ME, OTHER, THIRD = 1, 2, 3
STEP_SECONDS = 0.25  # between two writes
TICKS_PER_ELECTION = 10


class _Log:
    stable_index = 1


class _Settings:
    election_timeout_ticks = TICKS_PER_ELECTION


class _Core:
    """A leader with two followers that have everything."""

    def __init__(self) -> None:
        self.log = _Log()
        self.settings = _Settings()
        self.is_leader = True
        self.commit = 1
        self.transferee = NOBODY
        self.transfers: list[int] = []
        self.answering = [ME, OTHER, THIRD]
        self.behind: dict[int, int] = {}
        self.voters = [OTHER, THIRD]

    def progress(self) -> dict[int, FollowerView]:
        views = {}
        for member in (OTHER, THIRD):
            match = self.commit - self.behind.get(member, 0)
            voter = member in self.voters
            views[member] = FollowerView(match, match + 1, "replicate", True, voter, 0, 0, False)
        return views

    def transfer(self, target: int) -> None:
        self.transfers.append(target)


class Bench:
    """One watchdog, driven by writes whose excess is chosen."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.core = _Core()
        self.now = 100.0
        self.dog = DiskWatchdog(cast(Core, self.core), 1.0)
        answering: Any = lambda core: core.answering  # noqa: E731
        monkeypatch.setattr(describe, "answering", answering)

    def write(self, excess_seconds: float) -> None:
        """An entry that the others have at once and this disk so much later."""
        self.now += STEP_SECONDS
        self.core.commit += 1
        self.dog.observe(self.now)
        self.now += excess_seconds
        self.core.log.stable_index = self.core.commit
        self.dog.observe(self.now)

    def slow_for(self, seconds: float, excess_seconds: float = 2 * SLOW_SECONDS) -> None:
        until = self.now + seconds
        while self.now < until:
            self.write(excess_seconds)

    def due(self) -> bool:
        return self.dog.behind(self.now)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_a_leader_whose_disk_was_slow_for_some_seconds_gives_way(bench: Bench) -> None:
    """D14."""
    bench.slow_for(STREAK_SECONDS - 0.5)
    assert not bench.due()
    bench.slow_for(1.0)
    assert bench.due()
    assert bench.dog.hand_over(bench.now) == OTHER
    assert bench.core.transfers == [OTHER]
    assert bench.dog.handovers == 1


def test_a_disk_that_is_not_much_slower_than_the_others_costs_no_leadership(bench: Bench) -> None:
    """D14: what counts is how much longer than a majority's it takes."""
    bench.slow_for(4 * STREAK_SECONDS, SLOW_SECONDS * 0.9)
    assert not bench.due()


def test_one_good_write_begins_the_count_anew(bench: Bench) -> None:
    """D14: hiccups are not slowness."""
    for _ in range(4):
        bench.slow_for(STREAK_SECONDS - 0.5)
        bench.write(SLOW_SECONDS / 2)
        assert not bench.due()


def test_a_pause_without_writes_begins_the_count_anew(bench: Bench) -> None:
    bench.slow_for(STREAK_SECONDS - 0.5)
    bench.now += PAUSE_SECONDS
    bench.write(2 * SLOW_SECONDS)
    assert not bench.due()
    bench.slow_for(STREAK_SECONDS + 0.5)
    assert bench.due()
    bench.now += PAUSE_SECONDS + 0.1
    assert not bench.due()


def test_few_very_slow_writes_are_not_yet_a_streak(bench: Bench) -> None:
    for _ in range(STREAK_COUNT - 1):
        bench.write(STREAK_SECONDS / 2)
    assert not bench.due()


def test_it_rests_after_a_try_and_hands_over_again_only_then(bench: Bench) -> None:
    """D14: leadership does not go round in circles."""
    bench.slow_for(STREAK_SECONDS + 1)
    bench.dog.hand_over(bench.now)
    tried = bench.now
    while bench.now < tried + REST_SECONDS - 1:
        bench.write(2 * SLOW_SECONDS)
        assert not bench.due()
    bench.slow_for(STREAK_SECONDS)
    assert bench.due()


@pytest.mark.parametrize("missing", ["silent", "behind", "learners"])
def test_it_stays_while_no_other_voter_is_fit(bench: Bench, missing: str) -> None:
    """D14: only a caught-up voter that answers can do better."""
    if missing == "silent":
        bench.core.answering = [ME]
    elif missing == "behind":
        bench.core.behind = {OTHER: 1, THIRD: 1}
    else:
        bench.core.voters = []
    bench.slow_for(STREAK_SECONDS + 1)
    assert bench.due()
    assert bench.dog.hand_over(bench.now) == NOBODY
    assert (bench.core.transfers, bench.dog.handovers) == ([], 0)
    bench.core.answering, bench.core.behind = [ME, THIRD], {}
    bench.core.voters = [THIRD]
    bench.write(2 * SLOW_SECONDS)
    assert bench.due()  # nothing was tried, so it does not rest
    assert bench.dog.hand_over(bench.now) == THIRD


def test_a_transfer_that_is_under_way_is_left_alone(bench: Bench) -> None:
    bench.core.transferee = THIRD
    bench.slow_for(STREAK_SECONDS + 1)
    assert bench.dog.hand_over(bench.now) == NOBODY
    assert bench.core.transfers == []


def test_a_new_leadership_begins_without_the_measurements_of_the_last(bench: Bench) -> None:
    bench.slow_for(STREAK_SECONDS + 1)
    bench.dog.forget()
    bench.write(2 * SLOW_SECONDS)
    assert not bench.due()


def test_a_disk_that_stands_still_gives_way_after_half_an_election_timeout(bench: Bench) -> None:
    """D14, D15: there is nothing to measure any more."""
    bench.core.commit += 1
    due = [bench.due() for _ in range(TICKS_PER_ELECTION)]
    assert due.index(True) == TICKS_PER_ELECTION // 2
