"""How much of a member's time a snapshot's sending takes, on clocks of the test."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from raftkv.server.services.backups import BUSY_SHARE, BackupService, SnapshotCall

BLOBS = 300
BLOB_BYTES = 1000
READ_SECONDS = 0.0002  # processor time of the reading thread, for one
FRAME_SECONDS = 0.0003  # of the event loop


class _Bench:
    """One Snapshot call whose copy has been made; what it does costs time, and rests are noted.

    turns_per_second: that have work.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, turns_per_second: float) -> None:
        self.now = self.worked = 0.0
        self.rests: list[float] = []
        self.sent: list[bytes] = []
        self.ends = 0
        self.flushes = 0
        self._left = BLOBS
        self._turns_per_second = turns_per_second
        self.driver = SimpleNamespace(
            work_done=0,
            loop=SimpleNamespace(time=lambda: self.now, run_in_executor=self._read),
            timings=SimpleNamespace(snapshot_seconds=SimpleNamespace(note=lambda seconds: None)),
            mark_dirty=lambda client: None,
        )
        monkeypatch.setattr(asyncio, "sleep", self._sleep)
        monkeypatch.setattr(time, "thread_time", lambda: self.worked)

    def pass_by(self, seconds: float) -> None:
        self.now += seconds
        self.driver.work_done = int(self.now * self._turns_per_second)

    def _work(self, seconds: float) -> None:
        self.worked += seconds
        self.pass_by(seconds)

    async def _sleep(self, seconds: float) -> None:
        self.rests.append(seconds)
        self.pass_by(seconds)

    async def _read(self, executor: object, work: Any, copy: object) -> Any:
        return work(copy)

    def read(self) -> bytes:
        """As StateCopy.read."""
        if not self._left:
            return b""
        self._left -= 1
        self._work(READ_SECONDS)
        return bytes(BLOB_BYTES)

    def flush(self) -> None:
        """As ClientProtocol.flush."""
        self.flushes += 1
        self._work(FRAME_SECONDS)

    def _end(self, *_: object) -> None:
        self.ends += 1

    def run(self) -> None:
        context = SimpleNamespace(driver=self.driver, header=lambda revision: b"")
        service = SimpleNamespace(context=context, readers=None)
        connection = SimpleNamespace(
            send=lambda stream, message: self.sent.append(message),
            queued=lambda stream: 0,
            finish=self._end,
        )
        client = SimpleNamespace(
            connection=connection,
            flush=self.flush,
            routes=SimpleNamespace(finished=lambda client, stream: None),
        )
        call = SnapshotCall(cast(BackupService, service), cast(Any, client), 1, cast(Any, None))
        self.pass_by(0.2)  # the copy is made
        copy = SimpleNamespace(
            read=self.read,
            total_bytes=BLOBS * BLOB_BYTES,
            applied=SimpleNamespace(revision=1),
        )
        began = self.now
        asyncio.run(call._send_all(cast(Any, copy)))
        assert (len(self.sent), self.flushes, self.ends) == (BLOBS, BLOBS, 1)
        self.seconds = self.now - began


def test_beside_clients_a_snapshot_takes_one_part_in_its_share_of_a_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Reading, which another thread does, counts as much as what the event loop does."""
    bench = _Bench(monkeypatch, turns_per_second=3000)
    bench.run()
    worked = BLOBS * (READ_SECONDS + FRAME_SECONDS)
    assert bench.worked == pytest.approx(worked)
    assert bench.seconds == pytest.approx(worked * BUSY_SHARE)


def test_an_idle_member_sends_its_snapshot_without_a_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = _Bench(monkeypatch, turns_per_second=30)
    bench.run()
    assert bench.rests == []
