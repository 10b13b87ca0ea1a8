"""Many long reads at once, and many in one transaction (O02, R44)."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raftkv import errors
from raftkv.pb import rpc_pb2
from tests.integration.calls import CallFailed, Wire
from tests.integration.test_overload import PATIENT, PUT, RANGE, fill, leader, status
from tests.processes import Cluster, raftkv

pytestmark = pytest.mark.slow

TXN = "/etcdserverpb.KV/Txn"


@pytest.fixture
def trio(tmp_path: Path) -> Iterator[Cluster]:
    with raftkv(tmp_path, 3, PATIENT) as cluster:
        yield cluster


def everything() -> rpc_pb2.RangeRequest:
    """All keys, sorted by value: nothing of it can be answered before all is read."""
    request = rpc_pb2.RangeRequest(key=b"k", range_end=b"l", keys_only=True, limit=1)
    request.sort_target = rpc_pb2.RangeRequest.VALUE
    request.sort_order = rpc_pb2.RangeRequest.DESCEND
    return request


@pytest.mark.parametrize("writes", [False, True], ids=["read-only", "with-a-put"])
def test_a_transaction_of_many_long_reads_disturbs_neither_writes_nor_the_leader(
    trio: Cluster, writes: bool
) -> None:
    """O02, R44: 50 ranges over 20,000 keys in one transaction. One that writes is refused."""
    server = leader(trio)
    fill(server, 20_000)
    before = status(server)
    heavy = rpc_pb2.TxnRequest()
    for _ in range(50):
        heavy.success.add().request_range.CopyFrom(everything())
    if writes:
        heavy.success.add().request_put.CopyFrom(rpc_pb2.PutRequest(key=b"a"))

    async def scenario() -> tuple[list[float], str]:
        heavy_wire, wire = [await Wire.connect(server.client_port) for _ in range(2)]
        txn = asyncio.create_task(heavy_wire.call(TXN, heavy, rpc_pb2.TxnResponse, 300.0))
        took: list[float] = []
        while not txn.done():
            started = time.monotonic()
            await wire.call(PUT, rpc_pb2.PutRequest(key=b"p"), rpc_pb2.PutResponse, 90.0)
            took.append(time.monotonic() - started)
        try:
            answer = await txn
        except CallFailed as failure:
            return took, str(failure)
        assert [one.response_range.count for one in answer.responses] == [20_000] * 50
        assert {one.response_range.kvs[0].key for one in answer.responses} == {b"k0000000"}
        return took, ""

    took, failure = asyncio.run(scenario())
    assert failure == (errors.TXN_READS_TOO_MUCH.text if writes else "")
    assert writes or len(took) > 20, took  # puts went on while the reads did
    assert {status(one).raftTerm for one in trio.servers} == {before.raftTerm}


def test_many_long_reads_at_once_elect_nobody(trio: Cluster) -> None:
    """R44, O02: each is worked on in slices, and all together get one slice between two turns."""
    server = leader(trio)
    fill(server, 30_000)
    before = status(server)

    async def scenario() -> list[float]:
        wire, other = [await Wire.connect(server.client_port) for _ in range(2)]
        calls = [wire.call(RANGE, everything(), rpc_pb2.RangeResponse, 300.0) for _ in range(80)]
        reads = asyncio.gather(*calls)
        took: list[float] = []
        while not reads.done():
            started = time.monotonic()
            await other.call(PUT, rpc_pb2.PutRequest(key=b"p"), rpc_pb2.PutResponse, 90.0)
            took.append(time.monotonic() - started)
        await reads
        return took

    took = asyncio.run(scenario())
    assert len(took) > 20, took  # puts went on while the reads did
    assert {status(one).raftTerm for one in trio.servers} == {before.raftTerm}
