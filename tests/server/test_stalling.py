"""A backend that reports that it cannot keep up: the driver tells the replica, clients wait."""

import asyncio
from pathlib import Path
from typing import Any

from raftkv import limits
from raftkv.storage.leveldb import LevelBackend
from tests.server.harness import Client, configs, replica_of, running, until
from tests.server.logged import Lines


def test_puts_become_slower_while_the_backend_stalls_and_nothing_fails(
    tmp_path: Path, lines: Lines, monkeypatch: Any
) -> None:
    stalls = [True]
    asked = [0]

    def stalling(self: LevelBackend) -> bool:
        asked[0] += 1
        return stalls[0]

    monkeypatch.setattr(LevelBackend, "stalling", stalling)
    monkeypatch.setattr(limits, "STALLED_INTAKE_BYTES_PER_SECOND", 200_000)

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,):
            loop = asyncio.get_running_loop()
            await until(lambda: replica_of(node).writes.throttle.stalling)
            term = replica_of(node).core.term
            client = await Client.connect(node)
            began, asked[0] = loop.time(), 0
            writing = asyncio.gather(*(client.put(b"%02d" % one, bytes(5000)) for one in range(60)))
            read = asyncio.ensure_future(client.get(b"00"))
            async with asyncio.timeout(60):
                await read
            assert not writing.done()
            async with asyncio.timeout(60):
                await writing
            took = loop.time() - began
            assert took > 0.8  # 300,000 bytes, of which 50,000 may go at once
            assert asked[0] <= 2 + took / 0.1  # some times a second, not per put
            stalls[0] = False
            await until(lambda: not replica_of(node).writes.throttle.stalling)
            await client.put(b"after", b"")
            assert replica_of(node).core.term == term
            client.close()

    asyncio.run(scenario())
    said = [one for one in lines.records if "taken in slowly" in one.getMessage()]
    assert len(said) == 1
    assert not lines.broken()


def test_the_backend_of_a_server_answers(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,):
            backend = replica_of(node).machine.backend
            assert type(backend) is LevelBackend
            assert not backend.stalling()

    asyncio.run(scenario())
