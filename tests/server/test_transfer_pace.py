"""How much of a member's time sending a state takes: a share of it, or all while it is idle."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from raftkv.server.calls import Call
from raftkv.server.transfer import BUSY_SHARE, Outgoing, Transfers

CHUNKS = 5
CHUNK_SECONDS = 0.004  # to make one


class _Bench:
    """A transfer on a clock of its own; every pause is noted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, busy: bool) -> None:
        self.now = 0.0
        self.pauses: list[float] = []
        self.sent: list[bytes] = []
        self.driver = SimpleNamespace(turns=0)
        self._busy = busy
        monkeypatch.setattr(asyncio, "sleep", self._sleep)
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds
        self.driver.turns += self._busy

    def chunks(self, start: int) -> Any:
        for number in range(start, CHUNKS):
            self.now += CHUNK_SECONDS
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
        outgoing = SimpleNamespace(chunks=self.chunks)
        asyncio.run(transfers._feed(cast(Outgoing, outgoing), cast(Call, call), 0))


def test_a_busy_member_gives_a_transfer_a_share_of_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = _Bench(monkeypatch, busy=True)
    bench.run()
    assert len(bench.sent) == CHUNKS + 1
    working = CHUNKS * CHUNK_SECONDS
    assert bench.now == pytest.approx(working * BUSY_SHARE)


def test_an_idle_member_sends_as_fast_as_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = _Bench(monkeypatch, busy=False)
    bench.run()
    assert len(bench.sent) == CHUNKS + 1
    assert bench.pauses == [0] * CHUNKS  # a turn of the loop, no more
