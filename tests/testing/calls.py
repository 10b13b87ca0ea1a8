"""Writes and reads at one member, without a client library: a test says who is asked."""

from typing import Final

from raftkv.pb import rpc_pb2
from raftkv.testing import probe
from raftkv.testing.cluster import Cluster

PATIENCE_SECONDS: Final = 30.0


def put(
    cluster: Cluster, index: int, key: bytes, value: bytes, seconds: float = PATIENCE_SECONDS
) -> None:
    """A put at a member. Raises probe.CallFailed."""
    probe.call(
        cluster.members[index].address,
        "/etcdserverpb.KV/Put",
        rpc_pb2.PutRequest(key=key, value=value),
        rpc_pb2.PutResponse,
        seconds,
    )


def get(
    cluster: Cluster, index: int, key: bytes, seconds: float = PATIENCE_SECONDS
) -> bytes | None:
    """A linearizable read at a member; None: no such key. Raises probe.CallFailed."""
    reply = probe.call(
        cluster.members[index].address,
        "/etcdserverpb.KV/Range",
        rpc_pb2.RangeRequest(key=key),
        rpc_pb2.RangeResponse,
        seconds,
    )
    return reply.kvs[0].value if reply.kvs else None


def grant(cluster: Cluster, index: int, ttl_seconds: int) -> int:
    """A lease's id."""
    reply = probe.call(
        cluster.members[index].address,
        "/etcdserverpb.Lease/LeaseGrant",
        rpc_pb2.LeaseGrantRequest(TTL=ttl_seconds),
        rpc_pb2.LeaseGrantResponse,
        PATIENCE_SECONDS,
    )
    return reply.ID
