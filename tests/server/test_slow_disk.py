"""A running leader whose log takes long to sync: D14, through a member's surroundings."""

import asyncio
import threading
import time
from pathlib import Path

import pytest

from raftkv.server.node import Node
from raftkv.server.surroundings import Surroundings
from raftkv.storage.backend import LogRows, RowBatch
from raftkv.storage.leveldb import LevelEngine
from tests.server.harness import Client, configs, replica_of, until

SLOW_SECONDS = 0.15


class _SlowRows:
    """Rows of a Raft log whose every write takes longer while `slow` is set."""

    def __init__(self, rows: LogRows, slow: threading.Event) -> None:
        self._rows = rows
        self._slow = slow

    def __getattr__(self, name: str) -> object:
        return getattr(self._rows, name)

    def commit(self, batch: RowBatch, written_bytes: int, start: bytes | None) -> None:
        if self._slow.is_set():
            time.sleep(SLOW_SECONDS)
        self._rows.commit(batch, written_bytes, start)


class _SlowEngine(LevelEngine):
    def __init__(self) -> None:
        self.slow = threading.Event()

    def open_log(self, path: str, *, paranoid: bool = True) -> LogRows:
        return _SlowRows(super().open_log(path, paranoid=paranoid), self.slow)  # type: ignore[return-value]


@pytest.mark.slow
def test_a_leader_whose_log_syncs_slowly_hands_over_and_counts_it(tmp_path: Path) -> None:
    """D14: puts become as fast as before; nobody notices but by the counter."""

    async def scenario() -> None:
        config = configs(3, tmp_path, heartbeat_interval_ms=100, election_timeout_ms=1000)
        engines = [_SlowEngine() for _ in config]
        nodes = [
            Node(one, Surroundings(engine=engine))
            for one, engine in zip(config, engines, strict=True)
        ]
        try:
            await asyncio.gather(*(node.start() for node in nodes))
            await until(lambda: any(replica_of(node).is_leader for node in nodes))
            leader = next(node for node in nodes if replica_of(node).is_leader)
            asked = next(node for node in nodes if node is not leader)
            client = await Client.connect(asked)
            engines[nodes.index(leader)].slow.set()
            async with asyncio.timeout(60):
                number = 0
                while replica_of(leader).is_leader:
                    number += 1
                    await client.put(b"%d" % number, b"x")
            assert number > 5
            assert leader.counters()["slow_disk_handovers_total"] == 1
            await client.put(b"after", b"x")
            client.close()
        finally:
            for engine in engines:
                engine.slow.clear()
            await asyncio.gather(*(node.stop() for node in nodes))

    asyncio.run(scenario())
