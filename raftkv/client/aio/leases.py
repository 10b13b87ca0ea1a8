"""The verbs of leases that keep nothing: grant, revoke, what is left, which there are.

`Client.lease` is what most want: a lease that the library keeps (`lease.py`).
"""

from typing import Final

from raftkv.client.aio.connection import Connection
from raftkv.client.keys import Namespace
from raftkv.client.results import Header, LeaseResult, RevokeResult, TimeToLive
from raftkv.client.txn import HasLeaseId, lease_id
from raftkv.pb import rpc_pb2

LEASE: Final = "/etcdserverpb.Lease/"


class LeaseVerbs:
    """Single calls about leases. Part of `Client`.

    In every method `timeout` is in seconds, None = the client's own, and every error is a
    ClientError.
    """

    _connection: Connection
    _namespace: Namespace

    async def grant(self, ttl: int, *, id: int = 0, timeout: float | None = None) -> LeaseResult:
        """Creates a lease that nobody keeps (etcd Lease.LeaseGrant).

        ttl: seconds. id: 0 = the server chooses. timeout: seconds, None = the client's.
        Errors: LeaseExists, LeaseTtlTooLarge, OutcomeUnknown.
        """
        answer = await self._connection.call(
            LEASE + "LeaseGrant",
            rpc_pb2.LeaseGrantRequest(TTL=ttl, ID=id),
            rpc_pb2.LeaseGrantResponse,
            write=True,
            timeout=timeout,
        )
        return LeaseResult(Header.read(answer.header), answer.ID, answer.TTL)

    async def revoke(
        self, lease: int | HasLeaseId, *, timeout: float | None = None
    ) -> RevokeResult:
        """Ends a lease now; its keys go with it (etcd Lease.LeaseRevoke).

        lease: a Lease or an id. One that this client keeps is better ended by its own `revoke`,
        which knows at once; otherwise the loss is told with the next renewal. timeout: seconds,
        None = the client's.
        Errors: LeaseNotFound, OutcomeUnknown.
        """
        answer = await self._connection.call(
            LEASE + "LeaseRevoke",
            rpc_pb2.LeaseRevokeRequest(ID=lease_id(lease)),
            rpc_pb2.LeaseRevokeResponse,
            write=True,
            timeout=timeout,
        )
        return RevokeResult(Header.read(answer.header))

    async def time_to_live(
        self, lease: int | HasLeaseId, *, keys: bool = False, timeout: float | None = None
    ) -> TimeToLive:
        """What is left of a lease; ttl -1 if there is none (etcd Lease.LeaseTimeToLive).

        lease: a Lease or an id. keys: tell its keys too; those outside the client's namespace
        are left out. timeout: seconds, None = the client's. Errors: Unavailable, TimedOut.
        """
        answer = await self._connection.call(
            LEASE + "LeaseTimeToLive",
            rpc_pb2.LeaseTimeToLiveRequest(ID=lease_id(lease), keys=keys),
            rpc_pb2.LeaseTimeToLiveResponse,
            write=False,
            timeout=timeout,
        )
        own = tuple(
            self._namespace.own(key)
            for key in answer.keys
            if key.startswith(self._namespace.prefix)
        )
        return TimeToLive(Header.read(answer.header), answer.ID, answer.TTL, answer.grantedTTL, own)

    async def leases(self, *, timeout: float | None = None) -> tuple[int, ...]:
        """The ids of all leases (etcd Lease.LeaseLeases).

        timeout: seconds, None = the client's. Errors: Unavailable, TimedOut.
        """
        answer = await self._connection.call(
            LEASE + "LeaseLeases",
            rpc_pb2.LeaseLeasesRequest(),
            rpc_pb2.LeaseLeasesResponse,
            write=False,
            timeout=timeout,
        )
        return tuple(lease.ID for lease in answer.leases)
