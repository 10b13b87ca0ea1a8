"""A member takes its files, its row stores and its clocks from what its root was given."""

import os
import time
from pathlib import Path
from typing import Any

import uvloop

from raftkv.pb import inspect_pb2
from raftkv.server.node import Node
from raftkv.server.services.inspect import PATH
from raftkv.server.surroundings import PLAIN, Surroundings
from raftkv.storage.backend import LogRows, StateBackend
from raftkv.storage.files import REAL, RealFileSystem
from raftkv.storage.leveldb import LEVELDB, LevelEngine
from tests.server.harness import Client, configs, until


class _CountingFiles(RealFileSystem):
    def __init__(self) -> None:
        self.created: list[str] = []

    def create(self, path: str) -> Any:
        self.created.append(os.path.basename(path))
        return super().create(path)


class _CountingEngine(LevelEngine):
    def __init__(self) -> None:
        self.opened: list[str] = []

    def open_log(self, path: str, *, paranoid: bool = True) -> LogRows:
        self.opened.append(os.path.basename(path))
        return super().open_log(path, paranoid=paranoid)

    def open_state(self, path: str, *, buffer_bytes: int, create: bool = False) -> StateBackend:
        self.opened.append(os.path.basename(path))
        return super().open_state(path, buffer_bytes=buffer_bytes, create=create)


def test_a_member_reaches_the_disk_and_the_wall_clock_only_through_its_surroundings(
    tmp_path: Path,
) -> None:
    files, engine = _CountingFiles(), _CountingEngine()
    around = Surroundings(files=files, engine=engine, wall_clock_ns=lambda: 1_234)
    (config,) = configs(1, tmp_path)

    async def scenario() -> inspect_pb2.InspectResponse:
        node = Node(config, around)
        try:
            await node.start()
            await until(lambda: node.driver is not None and node.driver.replica.is_leader)
            client = await Client.connect(node)
            try:
                answer = await client.call(PATH.decode(), inspect_pb2.InspectRequest())
            finally:
                client.close()
            return inspect_pb2.InspectResponse.FromString(answer)
        finally:
            await node.stop()

    answer = uvloop.run(scenario())
    assert answer.wall_clock_ns == 1_234
    assert {"creating", "mark.a.tmp", "mark.b.tmp", "identity.tmp", "peers.tmp"} <= set(
        files.created
    )
    assert set(engine.opened) == {"log", "state-1"}


def test_without_other_surroundings_a_member_uses_the_plain_functions_themselves() -> None:
    assert PLAIN.files is REAL
    assert PLAIN.engine is LEVELDB
    assert PLAIN.wall_clock_ns is time.time_ns
    assert PLAIN.new_loop is uvloop.new_event_loop
    loop = PLAIN.new_loop()
    try:
        assert type(loop) is uvloop.Loop
    finally:
        loop.close()
