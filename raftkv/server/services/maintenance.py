"""etcdserverpb.Maintenance: Status, HashKV and MoveLeader. `alarms` has Alarm and Downgrade."""

from functools import partial

from google.protobuf.message import DecodeError

import raftkv
from raftkv.errors import BAD_TRANSFEREE, NOT_LEADER, TIMEOUT, ApiError
from raftkv.kv.machine import HashResult
from raftkv.pb import rpc_pb2
from raftkv.raft.roles import Refusal
from raftkv.raft.types import NOBODY
from raftkv.server.clients import ClientProtocol
from raftkv.server.routes import Routes
from raftkv.server.services.alarms import alarm_texts
from raftkv.server.services.context import CANNOT_DECODE, Context
from raftkv.server.slices import LongRead
from raftkv.wire.grpc import RequestHead

_POLL_SECONDS = 0.01


class MaintenanceService:
    """The Maintenance service of one member."""

    def __init__(self, context: Context, election_timeout_seconds: float) -> None:
        self._context = context
        self._transfer_seconds = election_timeout_seconds

    def register(self, routes: Routes) -> None:
        """Adds the service's paths."""
        routes.unary[b"/etcdserverpb.Maintenance/Status"] = self.status
        routes.unary[b"/etcdserverpb.Maintenance/HashKV"] = self.hash_kv
        routes.unary[b"/etcdserverpb.Maintenance/MoveLeader"] = self.move_leader

    def status(
        self, client: ClientProtocol, stream: int, head: RequestHead, message: bytes
    ) -> None:
        """Maintenance.Status: sizes, indexes and the leader as this member sees them."""
        context, replica = self._context, self._context.replica
        sizes = replica.machine.status()
        reply = rpc_pb2.StatusResponse(
            version=raftkv.ETCD_VERSION,
            dbSize=sizes.db_size,
            dbSizeInUse=sizes.db_size_in_use,
            leader=replica.leader,
            raftIndex=replica.core.last_index,
            raftTerm=replica.core.term,
            raftAppliedIndex=replica.machine.applied_index,
            isLearner=replica.is_learner,
            dbSizeQuota=context.quota_backend_bytes,
            storageVersion=".".join((*raftkv.ETCD_VERSION.split(".")[:2], "0")),
        )
        if replica.leader == NOBODY:
            reply.errors.append("etcdserver: no leader")
        reply.errors.extend(alarm_texts(replica.machine))
        client.reply(stream, context.header_now() + reply.SerializeToString())

    def hash_kv(
        self, client: ClientProtocol, stream: int, head: RequestHead, message: bytes
    ) -> None:
        """Maintenance.HashKV at a revision (0: the newest), computed in slices."""
        try:
            request = rpc_pb2.HashKVRequest.FromString(message)
        except DecodeError:
            client.fail(stream, CANNOT_DECODE)
            return
        replica = self._context.replica
        done = partial(self._hashed, client, stream)
        read = LongRead(client, stream, lambda: replica.machine.hash_kv(request.revision), done)
        error = self._context.driver.slices.add(read)
        if error is not None:
            client.fail(stream, error)

    def _hashed(self, client: ClientProtocol, stream: int, found: HashResult | ApiError) -> None:
        if isinstance(found, ApiError):
            client.fail(stream, found)
        else:
            reply = rpc_pb2.HashKVResponse(
                hash=found.hash,
                compact_revision=found.compacted_revision,
                hash_revision=found.hash_revision,
            )
            client.reply(stream, self._context.header_now() + reply.SerializeToString())
        client.driver.mark_dirty(client)

    # --- leadership transfer --------------------------------------------------

    def move_leader(
        self, client: ClientProtocol, stream: int, head: RequestHead, message: bytes
    ) -> None:
        """Maintenance.MoveLeader: answered when the target leads, or after an election timeout."""
        replica = self._context.replica
        try:
            target = rpc_pb2.MoveLeaderRequest.FromString(message).targetID
        except DecodeError:
            client.fail(stream, CANNOT_DECODE)
            return
        if not replica.is_leader:
            client.fail(stream, NOT_LEADER)
            return
        if target == replica.member:
            self._moved(client, stream)
            return
        if not replica.core.configuration.is_voter(target):
            client.fail(stream, BAD_TRANSFEREE)
            return
        try:
            replica.core.transfer(target)
        except Refusal:
            client.fail(stream, BAD_TRANSFEREE)
            return
        self._context.driver.wake()
        deadline = self._context.driver.loop.time() + 2 * self._transfer_seconds
        self._wait_for(client, stream, target, deadline)

    def _wait_for(self, client: ClientProtocol, stream: int, target: int, deadline: float) -> None:
        loop = self._context.driver.loop
        if self._context.replica.leader == target:
            self._moved(client, stream)
        elif loop.time() > deadline:
            client.fail(stream, TIMEOUT)
            client.driver.mark_dirty(client)
        elif client.connection.is_open(stream):
            loop.call_later(_POLL_SECONDS, self._wait_for, client, stream, target, deadline)

    def _moved(self, client: ClientProtocol, stream: int) -> None:
        client.reply(stream, self._context.header_now())
        client.driver.mark_dirty(client)
