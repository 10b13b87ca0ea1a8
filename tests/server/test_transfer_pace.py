"""How much of a member's time sending a state takes: a share of it, or all while it is idle."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from raftkv.replica.housekeeping import FOLLOWED_CHECKPOINTS
from raftkv.server import intake
from raftkv.server.calls import Call
from raftkv.server.pace import MAX_REST_SECONDS
from raftkv.server.transfer import (
    BUSY_SHARE,
    HURRY_CHECKPOINTS,
    HURRY_SHARE,
    KEPT_SECONDS,
    STALL_SECONDS,
    Outgoing,
    Transfers,
)
from raftkv.storage.snapshots import REMEMBERED_CHUNKS

CHUNKS = 400
CHUNK_SECONDS = 0.004  # to make one
TURNS_PER_SECOND = 1000  # of a busy member
SNAPSHOT_COUNT = 1000
INDEX = 5000


class _Bench:
    """A transfer on a clock of its own; every pause is noted.

    entries_per_second: what is written meanwhile.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, busy: bool, entries_per_second: float = 0.0
    ) -> None:
        self.now = self.worked = 0.0
        self.pauses: list[float] = []
        self.sent: list[bytes] = []
        self.core = SimpleNamespace(last_index=INDEX)
        housekeeping = SimpleNamespace(snapshot_count=SNAPSHOT_COUNT)
        replica = SimpleNamespace(core=self.core, housekeeping=housekeeping)
        self.driver = SimpleNamespace(work_done=0, replica=replica)
        self._turns_per_second = TURNS_PER_SECOND * busy
        self._entries_per_second = entries_per_second
        monkeypatch.setattr(asyncio, "sleep", self._sleep)
        monkeypatch.setattr(time, "thread_time", lambda: self.worked)

    def _pass_by(self, seconds: float) -> None:
        self.now += seconds
        self.driver.work_done = int(self.now * self._turns_per_second)
        self.core.last_index = INDEX + int(self.now * self._entries_per_second)

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self._pass_by(seconds)

    def chunks(self, start: int) -> Any:
        for number in range(start, CHUNKS):
            self.worked += CHUNK_SECONDS
            self._pass_by(CHUNK_SECONDS)
            yield b"%d" % number

    def run(self) -> None:
        transfers = Transfers.__new__(Transfers)
        transfers._driver = cast(Any, self.driver)
        transfers._loop = cast(Any, SimpleNamespace(time=lambda: self.now))
        call = SimpleNamespace(
            send=self.sent.append,
            queued_bytes=lambda: 0,
            take=lambda: None,
            half_close=lambda: self.sent.append(b"end"),
        )
        message = SimpleNamespace(snapshot=SimpleNamespace(index=INDEX))
        outgoing = SimpleNamespace(chunks=self.chunks, message=message)
        asyncio.run(transfers._feed(cast(Outgoing, outgoing), cast(Call, call), 0))
        assert len(self.sent) == CHUNKS + 1


def test_a_busy_member_gives_a_transfer_a_share_of_a_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = _Bench(monkeypatch, busy=True)
    bench.run()
    assert bench.worked / bench.now == pytest.approx(1 / BUSY_SHARE, rel=0.05)


def test_an_idle_member_sends_as_fast_as_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = _Bench(monkeypatch, busy=False)
    bench.run()
    assert bench.pauses == [0] * CHUNKS  # a turn of the loop, no more


def test_a_transfer_that_the_log_runs_away_from_takes_a_larger_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R36: the log behind the state is kept, but not for ever."""
    hurry_seconds = 10.0
    rate = HURRY_CHECKPOINTS * SNAPSHOT_COUNT / hurry_seconds
    bench = _Bench(monkeypatch, busy=True, entries_per_second=rate)
    bench.run()
    part = CHUNK_SECONDS * BUSY_SHARE
    before = int(hurry_seconds / part)
    pauses = bench.pauses[30 : before - 1]  # from when it is known that the member is busy
    assert pauses == [pytest.approx(CHUNK_SECONDS * (BUSY_SHARE - 1))] * len(pauses)
    hurried = bench.pauses[before + 30 :]
    assert len(hurried) > CHUNKS / 2
    assert hurried == [pytest.approx(CHUNK_SECONDS * (HURRY_SHARE - 1))] * len(hurried)


def test_a_hurried_transfer_has_more_than_half_of_the_log_that_is_kept_left_for_it() -> None:
    """R36: so that no second state follows the first one."""
    assert HURRY_SHARE < BUSY_SHARE
    assert HURRY_CHECKPOINTS < FOLLOWED_CHECKPOINTS / 2


def test_a_transfer_at_its_slowest_is_far_from_being_given_up() -> None:
    """Each end of it waits for progress, which is told every few chunks."""
    silent_seconds = intake.PROGRESS_CHUNKS * MAX_REST_SECONDS
    assert silent_seconds < min(STALL_SECONDS, KEPT_SECONDS, intake.KEPT_SECONDS) / 2
    assert intake.PROGRESS_CHUNKS < REMEMBERED_CHUNKS
