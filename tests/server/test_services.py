"""Services beyond the conformance tests: RangeStream, health, automatic compaction."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from raftkv.pb import health_pb2, rpc_pb2
from raftkv.server.autocompaction import AutoCompaction
from tests.server.harness import Client, configs, replica_of, running, until


def channel(node: Any) -> grpc.aio.Channel:
    url = node.config.listen_client_urls[0]
    return grpc.aio.insecure_channel(f"{url.host}:{url.port}")


def test_a_range_stream_gives_all_keys_of_one_revision_in_pieces(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,):
            client = await Client.connect(node)
            for one in range(30):
                await client.put(b"k%02d" % one, b"v" * 100)
            async with channel(node) as grpc_channel:
                call = grpc_channel.unary_stream(
                    "/etcdserverpb.KV/RangeStream",
                    request_serializer=rpc_pb2.RangeRequest.SerializeToString,
                    response_deserializer=rpc_pb2.RangeStreamResponse.FromString,
                )
                request = rpc_pb2.RangeRequest(key=b"k", range_end=b"l")
                chunks = [chunk.range_response async for chunk in call(request, timeout=10)]
            keys = [kv.key for chunk in chunks for kv in chunk.kvs]
            assert keys == [b"k%02d" % one for one in range(30)]
            assert len(chunks[0].kvs) == 10
            assert [chunk.HasField("header") for chunk in chunks] == [False, True]
            assert chunks[-1].count == 30
            assert not chunks[-1].more
            client.close()

    asyncio.run(scenario())


def test_a_range_stream_of_a_compacted_revision_fails(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,):
            client = await Client.connect(node)
            for one in range(5):
                await client.put(b"k", b"%d" % one)
            await client.call("/etcdserverpb.KV/Compact", rpc_pb2.CompactionRequest(revision=4))
            async with channel(node) as grpc_channel:
                call = grpc_channel.unary_stream("/etcdserverpb.KV/RangeStream")
                request = rpc_pb2.RangeRequest(key=b"k", revision=2).SerializeToString()
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    async for _ in call(request, timeout=10):
                        pass
            assert caught.value.code() is grpc.StatusCode.OUT_OF_RANGE
            assert (
                caught.value.details() == "etcdserver: mvcc: required revision has been compacted"
            )
            client.close()

    asyncio.run(scenario())


def test_health_is_serving_until_the_server_drains(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,):
            client = await Client.connect(node)
            path = "/grpc.health.v1.Health/Check"
            reply = await client.call(path, health_pb2.HealthCheckRequest())
            status = health_pb2.HealthCheckResponse.FromString(reply).status
            assert status == health_pb2.HealthCheckResponse.SERVING
            node.health.drain()
            reply = await client.call(path, health_pb2.HealthCheckRequest())
            status = health_pb2.HealthCheckResponse.FromString(reply).status
            assert status == health_pb2.HealthCheckResponse.NOT_SERVING
            client.close()

    asyncio.run(scenario())


def test_revision_mode_keeps_the_newest_revisions() -> None:
    compaction = AutoCompaction(None, 0.0, 1000)  # type: ignore[arg-type]
    assert compaction.target(0.0, 400) == 0
    assert compaction.target(0.0, 5000) == 4000


def test_periodic_mode_compacts_to_the_revision_that_is_a_retention_old() -> None:
    compaction = AutoCompaction(None, 100.0, 0)  # type: ignore[arg-type]
    assert compaction.interval_seconds == 10.0
    assert [compaction.target(10.0 * one, 100 + one) for one in range(10)] == [0] * 10
    assert compaction.target(100.0, 110) == 100
    assert compaction.target(110.0, 111) == 101


def test_a_short_retention_compacts_a_running_cluster(tmp_path: Path) -> None:
    async def scenario() -> None:
        options = {"auto_compaction_retention_seconds": 0.2}
        async with running(configs(3, tmp_path, **options)) as nodes:
            client = await Client.connect(nodes[0])
            for one in range(20):
                await client.put(b"k", b"%d" % one)
            newest = replica_of(nodes[0]).machine.revision
            await until(
                lambda: all(
                    replica_of(node).machine.physically_compacted >= newest for node in nodes
                )
            )
            client.close()

    asyncio.run(scenario())


def test_a_physical_compaction_is_answered_when_the_rows_are_gone(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,):
            client = await Client.connect(node)
            for one in range(2000):
                client.start("/etcdserverpb.KV/Put", rpc_pb2.PutRequest(key=b"k%d" % (one % 7)))
            await client.put(b"last", b"")
            revision = replica_of(node).machine.revision
            request = rpc_pb2.CompactionRequest(revision=revision, physical=True)
            await client.call("/etcdserverpb.KV/Compact", request)
            assert replica_of(node).machine.physically_compacted == revision
            client.close()

    asyncio.run(scenario())
