"""Maintenance.Snapshot, Hash and Defragment of members that serve meanwhile."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest

import raftkv.server.node
from raftkv.errors import DiskFailure
from raftkv.kv.machine import MachineSettings, StateMachine
from raftkv.limits import MAX_SNAPSHOTS
from raftkv.pb import rpc_pb2
from raftkv.server import backup
from raftkv.server.node import Node
from raftkv.server.services.backups import SENT_AHEAD_BYTES
from raftkv.storage.backup import check_snapshot, unpack
from raftkv.storage.leveldb import LEVELDB
from tests.server.harness import Client, RpcError, configs, replica_of, running, until

MAINTENANCE = "/etcdserverpb.Maintenance/"
# So that a client that does not read has no more than this underway, however long it waits.
SMALL_WINDOW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1 << 16))


@asynccontextmanager
async def channel(node: Node) -> AsyncIterator[Any]:
    """Begins Snapshot calls of one member, each on the same connection."""
    url = node.config.listen_client_urls[0]
    async with grpc.aio.insecure_channel(f"{url.host}:{url.port}", SMALL_WINDOW) as opened:
        yield opened.unary_stream(
            MAINTENANCE + "Snapshot",
            request_serializer=rpc_pb2.SnapshotRequest.SerializeToString,
            response_deserializer=rpc_pb2.SnapshotResponse.FromString,
        )


async def pieces(node: Node) -> list[rpc_pb2.SnapshotResponse]:
    """All of one snapshot."""
    async with channel(node) as call:
        return [piece async for piece in call(rpc_pb2.SnapshotRequest(), timeout=60)]


def state_in(content: bytes, directory: Path) -> StateMachine:
    """The state in a snapshot's bytes, loaded."""
    (directory / "file").write_bytes(content)
    (directory / "state").mkdir()
    unpack(check_snapshot(str(directory / "file")), str(directory / "state"))
    state = LEVELDB.open_state(str(directory / "state"), buffer_bytes=1 << 20)
    return StateMachine(state, 0, MachineSettings())


def values(machine: StateMachine) -> dict[bytes, int]:
    """key -> mod revision of all that exists."""
    store = machine.store
    keys = list(store.index.keys(b"\0", b"\0"))
    return {key: record[1] >> 32 for key, record in zip(keys, store.records(keys), strict=True)}


def no_copies(node: Node) -> bool:
    """Whether nothing is left of copies."""
    path = node.config.data_dir / "copies"
    return not path.exists() or not os.listdir(path)


async def read_on(call: Any) -> None:
    """Reads to the end."""
    while await call.read() is not grpc.aio.EOF:
        pass


async def fill(client: Client, megabytes: int) -> None:
    """Puts keys of a megabyte."""
    for one in range(megabytes):
        await client.put(b"big%02d" % one, os.urandom(1 << 20))


def test_a_snapshot_is_the_state_of_one_revision_while_writes_go_on(tmp_path: Path) -> None:
    """Everything that was answered before it began is in it, nothing of a later revision is."""

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,):
            client = await Client.connect(node)
            written: dict[int, bytes] = {}
            stop = False

            async def write() -> None:
                number = 0
                while not stop:
                    number += 1
                    key = b"k%03d" % (number % 300)
                    reply = await client.put(key, b"v%d" % number)
                    written[reply.header.revision] = key

            writer = asyncio.create_task(write())
            await until(lambda: len(written) > 400)
            for one in range(3):
                before = max(written)
                answers = await pieces(node)
                content = b"".join(piece.blob for piece in answers)
                left = [piece.remaining_bytes for piece in answers]
                assert left == sorted(left, reverse=True)
                assert left[-1] == 0
                assert left[0] + len(answers[0].blob) == len(content)
                assert content[-32:] == sha256(content[:-32]).digest()
                (tmp_path / f"{one}").mkdir()
                machine = state_in(content, tmp_path / f"{one}")
                revision = machine.revision
                assert revision >= before
                await until(lambda reached=revision: max(written) >= reached)
                newest: dict[bytes, int] = {}
                for number in sorted(written):
                    if number <= revision:
                        newest[written[number]] = number
                assert values(machine) == newest
                description = check_snapshot(str(tmp_path / f"{one}" / "file")).description
                assert description["revision"] == revision
                assert description["index"] == machine.applied_index
                assert answers[0].header.revision == revision
            stop = True
            await writer
            client.close()
            await until(lambda: no_copies(node))

    asyncio.run(scenario())


def test_readers_that_stop_reading_cost_little_and_further_ones_are_refused(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,):
            client = await Client.connect(node)
            await fill(client, 12)
            async with channel(node) as call:
                slow = [call(rpc_pb2.SnapshotRequest()) for _ in range(MAX_SNAPSHOTS)]
                for one in slow:
                    assert (await one.read()).blob
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call(rpc_pb2.SnapshotRequest()).read()
                assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert node.clients is not None

                def queued() -> int:
                    assert node.clients is not None
                    return sum(one.connection.queued_total() for one in node.clients.connections)

                seen = 0
                for _ in range(200):  # other calls go on, and the queues stay short
                    await client.put(b"k", b"v")
                    seen = max(seen, queued())
                assert seen < MAX_SNAPSHOTS * (SENT_AHEAD_BYTES + 2 * backup.BLOB_BYTES)
                assert not no_copies(node)
                for one in slow:
                    one.cancel()
                await until(lambda: no_copies(node))
            assert b"".join(piece.blob for piece in await pieces(node))  # there is room again
            client.close()

    asyncio.run(scenario())


def test_a_member_stops_in_the_middle_of_a_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raftkv.server.node, "DRAIN_SECONDS", 0.1)

    async def scenario() -> None:
        config = configs(1, tmp_path)
        async with running(config) as (node,):
            client = await Client.connect(node)
            await fill(client, 8)
            async with channel(node) as call:
                slow = call(rpc_pb2.SnapshotRequest())
                await slow.read()
                client.close()
                await node.stop()
                with pytest.raises(grpc.aio.AioRpcError):
                    await read_on(slow)
        async with running(config) as (node,):
            assert no_copies(node)
            assert len(values(replica_of(node).machine)) == 8

    asyncio.run(scenario())


def test_a_copy_that_cannot_be_made_fails_the_call_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D12: no room for the copy."""

    def full(source: str, target: str) -> None:
        raise DiskFailure("copying failed: no space left on device")

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,):
            client = await Client.connect(node)
            await client.put(b"k", b"v")
            with monkeypatch.context() as patched:
                patched.setattr(backup, "link_tables", full)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await pieces(node)
            assert caught.value.code() is grpc.StatusCode.INTERNAL
            assert "no space left" in str(caught.value.details())
            await client.put(b"k", b"w")
            assert await pieces(node)
            client.close()

    asyncio.run(scenario())


def test_hash_changes_with_the_rows_and_with_nothing_else(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,):
            client = await Client.connect(node)

            async def asked() -> int:
                answer = await client.call(MAINTENANCE + "Hash", rpc_pb2.HashRequest())
                reply = rpc_pb2.HashResponse.FromString(answer)
                assert reply.header.revision
                return reply.hash

            seen = [await asked()]
            for one in range(3):
                await client.put(b"k%d" % one, b"v")
                seen.append(await asked())
                assert seen[-1] == await asked()
            assert len(set(seen)) == 4
            client.close()

    asyncio.run(scenario())


def test_defragment_merges_everything_while_the_member_serves(tmp_path: Path) -> None:
    """D21, in part: nothing is copied or replaced, so nothing can be half done."""

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,):
            client = await Client.connect(node)
            for one in range(300):
                await client.put(b"k%d" % (one % 50), os.urandom(2000))
            request = rpc_pb2.CompactionRequest(revision=300, physical=True)
            await client.call("/etcdserverpb.KV/Compact", request)
            machine = replica_of(node).machine
            await until(lambda: machine.physically_compacted == 300)
            machine.flush()
            machine.backend.sync()
            before, size = values(machine), machine.backend.size()
            calls = [
                client.start(MAINTENANCE + "Defragment", rpc_pb2.DefragmentRequest())
                for _ in range(3)
            ]
            client.flush()
            puts = 0
            while not all(call.done() for call in calls):
                await client.put(b"other", b"v")
                puts += 1
            assert [await call for call in calls] == [b"", b"", b""]
            assert puts
            machine.flush()
            after = values(machine)
            assert after.pop(b"other")
            assert after == before
            assert machine.backend.size() < size
            client.close()

    asyncio.run(scenario())


def test_a_member_without_a_leader_still_gives_its_snapshot(tmp_path: Path) -> None:
    """What is left of a cluster without a quorum can be saved; who asks for a leader is told."""

    async def scenario() -> None:
        async with running(configs(3, tmp_path)) as nodes:
            client = await Client.connect(nodes[0])
            await client.put(b"k", b"v")
            await asyncio.gather(nodes[1].stop(), nodes[2].stop())
            await until(lambda: not replica_of(nodes[0]).leader)
            content = b"".join(piece.blob for piece in await pieces(nodes[0]))
            assert values(state_in(content, tmp_path)) == {b"k": 2}
            async with channel(nodes[0]) as call:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call(rpc_pb2.SnapshotRequest(), metadata=[("hasleader", "true")]).read()
            assert caught.value.details() == "etcdserver: no leader"
            with pytest.raises(RpcError, match="no leader"):
                await client.call(
                    MAINTENANCE + "Defragment",
                    rpc_pb2.DefragmentRequest(),
                    metadata=[(b"hasleader", b"true")],
                )
            client.close()

    asyncio.run(scenario())
