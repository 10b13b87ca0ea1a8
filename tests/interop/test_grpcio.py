"""grpcio, plain and asyncio, as the other end of raftkv's own HTTP/2."""

import asyncio

import grpc
import grpc.aio
import pytest

from raftkv.pb import health_pb2, health_pb2_grpc, rpc_pb2, rpc_pb2_grpc
from tests.processes import Server

BIG = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def test_the_generated_stub(node: Server) -> None:
    with grpc.insecure_channel(node.endpoint) as channel:
        kv = rpc_pb2_grpc.KVStub(channel)
        put = kv.Put(rpc_pb2.PutRequest(key=b"g", value=b"1"), timeout=10)
        read = kv.Range(rpc_pb2.RangeRequest(key=b"g"), timeout=10)
        assert read.kvs[0].mod_revision == put.header.revision


def test_an_error_carries_code_and_text(node: Server) -> None:
    with grpc.insecure_channel(node.endpoint) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            rpc_pb2_grpc.KVStub(channel).Put(rpc_pb2.PutRequest(), timeout=10)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == "etcdserver: key is not provided"


def test_a_large_answer_passes_flow_control(node: Server) -> None:
    """Ten values of 1 MB: a hundred times the initial HTTP/2 window."""
    with grpc.insecure_channel(node.endpoint, BIG) as channel:
        kv = rpc_pb2_grpc.KVStub(channel)
        for number in range(10):
            value = bytes([number]) * 1_000_000
            kv.Put(rpc_pb2.PutRequest(key=b"big/%d" % number, value=value), timeout=20)
        read = kv.Range(rpc_pb2.RangeRequest(key=b"big/", range_end=b"big0"), timeout=20)
        assert [kv.value for kv in read.kvs] == [bytes([n]) * 1_000_000 for n in range(10)]
        kv.DeleteRange(rpc_pb2.DeleteRangeRequest(key=b"big/", range_end=b"big0"), timeout=20)


def test_gzip_is_understood(node: Server) -> None:
    """etcd takes compressed requests too."""
    with grpc.insecure_channel(node.endpoint, compression=grpc.Compression.Gzip) as channel:
        kv = rpc_pb2_grpc.KVStub(channel)
        kv.Put(rpc_pb2.PutRequest(key=b"gz", value=b"z" * 5000), timeout=10)
        read = kv.Range(rpc_pb2.RangeRequest(key=b"gz"), timeout=10)
        assert read.kvs[0].value == b"z" * 5000


def test_health(node: Server) -> None:
    with grpc.insecure_channel(node.endpoint) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        stream = health.Watch(health_pb2.HealthCheckRequest(), timeout=10)
        assert next(stream).status == health_pb2.HealthCheckResponse.SERVING
        stream.cancel()
        with pytest.raises(grpc.RpcError) as caught:
            health.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=10)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_call_to_nothing_is_unimplemented(node: Server) -> None:
    with grpc.insecure_channel(node.endpoint) as channel:
        for path in ("/etcdserverpb.KV/Nothing", "/nobody.Nothing/Call"):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(path)(b"", timeout=10)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_broken_message_is_an_error_and_the_connection_lives_on(node: Server) -> None:
    with grpc.insecure_channel(node.endpoint) as channel:
        broken = channel.unary_unary("/etcdserverpb.KV/Range")
        with pytest.raises(grpc.RpcError) as caught:
            broken(b"\x0a\xff\xff\xff\xff\x0fnot a message", timeout=10)
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        rpc_pb2_grpc.KVStub(channel).Range(rpc_pb2.RangeRequest(key=b"g"), timeout=10)


def test_hundreds_of_concurrent_calls_over_one_asyncio_channel(node: Server) -> None:
    async def main() -> None:
        async with grpc.aio.insecure_channel(node.endpoint) as channel:
            put = channel.unary_unary(
                "/etcdserverpb.KV/Put",
                request_serializer=rpc_pb2.PutRequest.SerializeToString,
                response_deserializer=rpc_pb2.PutResponse.FromString,
            )
            requests = [rpc_pb2.PutRequest(key=b"c/%d" % n, value=b"v") for n in range(500)]
            answers = await asyncio.gather(*(put(request, timeout=20) for request in requests))
            revisions = [answer.header.revision for answer in answers]
            assert len(set(revisions)) == len(requests)

    asyncio.run(main())


def test_cancelled_and_expired_calls_leave_the_connection_usable(node: Server) -> None:
    async def main() -> None:
        async with grpc.aio.insecure_channel(node.endpoint) as channel:
            read = channel.unary_unary(
                "/etcdserverpb.KV/Range",
                request_serializer=rpc_pb2.RangeRequest.SerializeToString,
                response_deserializer=rpc_pb2.RangeResponse.FromString,
            )
            request = rpc_pb2.RangeRequest(key=b"g")
            calls = [read(request, timeout=0.0005 if n % 2 else 20) for n in range(200)]
            for call in calls[::3]:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            assert (await read(request, timeout=20)).header.revision > 0

    asyncio.run(main())
