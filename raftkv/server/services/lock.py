"""v3lockpb.Lock: Lock and Unlock.

A lock is a queue of keys (`services.queueing`); who has its oldest key holds it. The create
revision of that key is the fencing token: it grows from holder to holder, and a transaction that
compares it writes only while the lock is held (docs/locks.md).
"""

from typing import Final

from google.protobuf.message import DecodeError

from raftkv.errors import EMPTY_KEY, LOCK_SESSION_EXPIRED
from raftkv.kv import commands
from raftkv.kv.encoding import bytes_field
from raftkv.pb import lock_pb2, rpc_pb2
from raftkv.server.clients import ClientProtocol
from raftkv.server.routes import Routes
from raftkv.server.services.context import CANNOT_DECODE, Context
from raftkv.server.services.longcall import LongCall
from raftkv.server.services.queueing import Queues, copy_of
from raftkv.wire.grpc import RequestHead

_KEY_TAG: Final = 0x12  # LockResponse.key


class LockService:
    """The Lock service of one member."""

    def __init__(self, context: Context, queues: Queues) -> None:
        self._context = context
        self._queues = queues

    def register(self, routes: Routes) -> None:
        """Adds the service's paths."""
        routes.unary[b"/v3lockpb.Lock/Lock"] = self.lock
        routes.unary[b"/v3lockpb.Lock/Unlock"] = self.unlock

    def lock(self, client: ClientProtocol, stream: int, head: RequestHead, message: bytes) -> None:
        """Lock.Lock: answers when the caller's key is the oldest."""
        refusal = self._context.refusal(head)
        if refusal is not None:
            client.fail(stream, refusal)
            return
        try:
            request = lock_pb2.LockRequest.FromString(message)
        except DecodeError:
            client.fail(stream, CANNOT_DECODE)
            return
        LongCall(client, stream, self._lock(request, head))

    async def _lock(self, request: lock_pb2.LockRequest, head: RequestHead) -> bytes:
        first = await self._queues.become_first(
            request.name, request.lease, b"", LOCK_SESSION_EXPIRED, head
        )
        return self._context.header(first.revision) + bytes_field(_KEY_TAG, first.place.key)

    def unlock(
        self, client: ClientProtocol, stream: int, head: RequestHead, message: bytes
    ) -> None:
        """Lock.Unlock: deletes a key. Whoever knows the key may; an absent one is no error."""
        refusal = self._context.refusal(head)
        if refusal is not None:
            client.fail(stream, refusal)
            return
        try:
            request = lock_pb2.UnlockRequest.FromString(message)
        except DecodeError:
            client.fail(stream, CANNOT_DECODE)
            return
        LongCall(client, stream, self._unlock(request.key))

    async def _unlock(self, key: bytes) -> bytes:
        if not key:
            raise copy_of(EMPTY_KEY)
        request = rpc_pb2.DeleteRangeRequest(key=key).SerializeToString()
        result = await self._queues.propose(commands.DELETE_RANGE, request)
        return self._context.header(result.revision)
