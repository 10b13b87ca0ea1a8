"""An error that nobody expected ends the member: it must not go on beside the log (M24)."""

import asyncio
from pathlib import Path
from typing import Any

from raftkv.errors import INTERNAL_EXIT_CODE, DiskFailure
from raftkv.pb import rpc_pb2
from tests.server.harness import Client, configs, replica_of, running, until


def test_an_entry_that_cannot_be_applied_stops_every_member_without_an_answer(
    tmp_path: Path, monkeypatch: Any
) -> None:
    """M24: every member stops at the same index, nobody skips it, nobody acknowledges it."""

    async def scenario() -> None:
        async with running(configs(3, tmp_path)) as nodes:
            stopped: dict[str, tuple[int, Exception]] = {}

            def poison(payload: bytes, at: int) -> bytes:
                raise ZeroDivisionError("poison")

            for node in nodes:
                assert node.driver is not None
                name, replica = node.config.name, replica_of(node)
                replica.machine._handlers[1] = poison

                def failed(error: Exception, name: str = name, replica: Any = replica) -> None:
                    stopped.setdefault(name, (replica.machine.applied_index, error))

                monkeypatch.setattr(node.driver, "fail", failed)
            client = await Client.connect(nodes[0])
            answer = client.start("/etcdserverpb.KV/Put", rpc_pb2.PutRequest(key=b"k"))
            client.flush()
            await until(lambda: len(stopped) == 3)
            assert len({index for index, _ in stopped.values()}) == 1
            assert not answer.done()
            client.close()
            # The members cannot go on from here: only their files are closed below.
            for node in nodes:
                replica_of(node).machine.flush = lambda: None

    asyncio.run(scenario())


def test_the_exit_code_tells_a_disk_from_a_bug(tmp_path: Path, monkeypatch: Any) -> None:
    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,):
            codes: list[int] = []
            monkeypatch.setattr("os._exit", codes.append)
            node._failed(DiskFailure("no space left"))
            node._failed(AssertionError("a bug"))
            assert codes == [DiskFailure.exit_code, INTERNAL_EXIT_CODE]

    asyncio.run(scenario())
