"""The window of durations that a thread writes and the event loop reads."""

import pytest

from raftkv.server.latency import SLOTS, Latency, Summary


def test_nothing_was_noted_yet() -> None:
    assert Latency().summary() == Summary()


def test_quantiles_are_of_the_noted_durations() -> None:
    latency = Latency()
    for milliseconds in range(1, 101):
        latency.note(milliseconds / 1000)
    summary = latency.summary()
    assert summary.count == 100
    assert summary.p50_seconds == pytest.approx(0.050)
    assert summary.p99_seconds == pytest.approx(0.099)
    assert summary.max_seconds == pytest.approx(0.100)


def test_old_durations_are_forgotten_and_still_counted() -> None:
    latency = Latency()
    latency.note(9.0)
    for _ in range(SLOTS):
        latency.note(0.001)
    assert latency.summary() == Summary(SLOTS + 1, 0.001, 0.001, 0.001)
