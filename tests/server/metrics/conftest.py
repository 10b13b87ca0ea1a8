"""Pages of metrics of a small cluster that has done known things, and of a real etcd."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from raftkv.pb import rpc_pb2
from tests import processes
from tests.server.harness import Client, RpcError, configs, replica_of, running, until
from tests.server.metrics.pages import fetch

PUTS = 30


class Pages:
    """The pages of three members. leader, follower: of who was asked what `ask` asks."""

    def __init__(self) -> None:
        self.leader = self.follower = self.other = ""

    def all(self) -> list[str]:
        """Every page."""
        return [self.leader, self.follower, self.other]


async def ask(client: Client) -> None:
    """Puts, a range, a delete, a transaction, a lease, a watch, and calls that fail."""
    for one in range(PUTS):
        await client.put(b"k%d" % one, b"v" * 100)
    await client.get(b"k1")
    delete = rpc_pb2.DeleteRangeRequest(key=b"k2")
    await client.call("/etcdserverpb.KV/DeleteRange", delete)
    put = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"t", value=b"v"))
    await client.call("/etcdserverpb.KV/Txn", rpc_pb2.TxnRequest(success=[put, _put(b"u")]))
    await client.call("/etcdserverpb.Lease/LeaseGrant", rpc_pb2.LeaseGrantRequest(TTL=60))
    with suppress(RpcError):
        await client.put(b"", b"v")
    with suppress(RpcError):
        await client.get(b"k", revision=10_000)
    stream = client.connection.request(b"/etcdserverpb.Watch/Watch")
    create = rpc_pb2.WatchCreateRequest(key=b"k1")
    request = rpc_pb2.WatchRequest(create_request=create)
    client.connection.send(stream, request.SerializeToString())
    client.flush()


def _put(key: bytes) -> rpc_pb2.RequestOp:
    return rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=b"v"))


async def gather(directory: Path) -> Pages:
    """Runs the cluster."""
    pages = Pages()
    async with running(configs(3, directory, metrics="extensive")) as nodes:
        leader = next(node for node in nodes if replica_of(node).is_leader)
        follower, other = (node for node in nodes if node is not leader)
        for node in (leader, follower):
            client = await Client.connect(node)
            await ask(client)
            hub = node.driver.watches.watches  # type: ignore[union-attr]
            await until(lambda hub=hub: hub.count == 1)
        index = replica_of(leader).machine.applied_index
        await until(lambda: all(replica_of(one).machine.applied_index >= index for one in nodes))
        reach = leader.driver.peers.links.values()  # type: ignore[union-attr]
        await until(lambda: all(link.round_trip_seconds for link in reach))
        for name, node in (("leader", leader), ("follower", follower), ("other", other)):
            assert node.exposition is not None
            kind, body = node.exposition.text("application/openmetrics-text;version=1.0.0")
            assert kind == "text/plain; version=0.0.4; charset=utf-8"
            setattr(pages, name, body.decode())
    return pages


@pytest.fixture(scope="package")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Pages:
    """Pages of three members."""
    return asyncio.run(gather(tmp_path_factory.mktemp("members")))


@pytest.fixture(scope="package")
def etcd_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page of a real etcd, alone."""
    directory = tmp_path_factory.mktemp("etcd")
    flags = ("--metrics", "extensive", "--unsafe-no-fsync")
    with processes.etcd(directory, *flags) as cluster:
        yield fetch(cluster.servers[0].client_port)
