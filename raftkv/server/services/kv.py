"""etcdserverpb.KV: Range, Put, DeleteRange, Txn, Compact, RangeStream.

A write is checked for form, then proposed as the client's own bytes; its ticket is a tuple
whose first item answers. A linearizable read waits for its read index, a serializable one
is answered at once from the local state. Nothing here makes a task or a future per call.
"""

from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Final

from google.protobuf.message import DecodeError

from raftkv.errors import NOT_FOR_LEARNER, REQUEST_TOO_LARGE, ApiError
from raftkv.kv import commands
from raftkv.kv.machine import Result
from raftkv.kv.runs import plain_put
from raftkv.kv.swaps import read_swap
from raftkv.kv.txn import validate_delete, validate_put, validate_range, validate_txn
from raftkv.kv.writes import is_read_only
from raftkv.pb import rpc_pb2
from raftkv.server.clients import ClientProtocol
from raftkv.server.routes import Routes
from raftkv.server.services.context import CANNOT_DECODE, ENVELOPE_BYTES, Context
from raftkv.server.services.once import propose_once
from raftkv.server.slices import LongRead
from raftkv.wire.grpc import RequestHead

_POLL_SECONDS: Final = 0.005
_KEY_TAG: Final = 0x0A  # RangeRequest.key
_SERIALIZABLE: Final = b"\x38\x01"  # RangeRequest.serializable = true


class KvService:
    """The KV service of one member."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def register(self, routes: Routes) -> None:
        """Adds the service's paths."""
        routes.unary[b"/etcdserverpb.KV/Put"] = self.put
        routes.unary[b"/etcdserverpb.KV/Range"] = self.range
        routes.unary[b"/etcdserverpb.KV/DeleteRange"] = self.delete_range
        routes.unary[b"/etcdserverpb.KV/Txn"] = self.txn
        routes.unary[b"/etcdserverpb.KV/Compact"] = self.compact
        routes.session_paths.update(
            (b"/etcdserverpb.KV/Put", b"/etcdserverpb.KV/DeleteRange", b"/etcdserverpb.KV/Txn")
        )

    # --- writes -------------------------------------------------------------

    def put(self, client: ClientProtocol, stream: int, head: RequestHead, message: bytes) -> None:
        """KV.Put."""
        self._context.puts += 1
        check = None if plain_put(message, 0, len(message)) else _check_put
        self._write(client, stream, head, message, commands.PUT, check)

    def delete_range(
        self, client: ClientProtocol, stream: int, head: RequestHead, message: bytes
    ) -> None:
        """KV.DeleteRange."""
        self._context.deletes += 1
        self._write(client, stream, head, message, commands.DELETE_RANGE, _check_delete)

    def compact(
        self, client: ClientProtocol, stream: int, head: RequestHead, message: bytes
    ) -> None:
        """KV.Compact; with `physical` the answer waits until the rows are gone."""
        try:
            request = rpc_pb2.CompactionRequest.FromString(message)
        except DecodeError:
            client.fail(stream, CANNOT_DECODE)
            return
        ticket: tuple[Any, ...] = (self._answer, client, stream)
        if request.physical:
            ticket = (self._answer_physical, client, stream, request.revision)
        error = self._context.refusal(head)
        if error is None:
            error = self._context.propose(commands.COMPACT, message, ticket)
        if error is not None:
            client.fail(stream, error)

    def _write(
        self,
        client: ClientProtocol,
        stream: int,
        head: RequestHead,
        message: bytes,
        command: int,
        check: Callable[[bytes], ApiError | None] | None,
    ) -> None:
        """check: of the message's form; None: it is known to be well."""
        context = self._context
        error = context.refusal(head)
        if error is None and check is not None:
            try:
                error = check(message)
            except DecodeError:
                error = CANNOT_DECODE
        if error is None and len(message) + ENVELOPE_BYTES > context.max_request_bytes:
            error = REQUEST_TOO_LARGE
        if error is None:
            ticket = (self._answer, client, stream)
            if head.in_session:
                error = propose_once(context, head, command, message, ticket)
            else:
                error = context.propose(command, message, ticket)
        if error is not None:
            client.fail(stream, error)

    def _answer(self, ticket: Any, result: Result | ApiError) -> None:
        client = ticket[1]
        if type(result) is Result:
            client.reply(ticket[2], self._context.header(result[0]) + result[1])
        else:
            client.fail(ticket[2], result)
        if not client.dirty:
            client.driver.mark_dirty(client)

    def _answer_physical(self, ticket: Any, result: Result | ApiError) -> None:
        machine = self._context.replica.machine
        if isinstance(result, ApiError) or machine.physically_compacted >= ticket[3]:
            self._answer(ticket, result)
        else:
            loop = self._context.driver.loop
            loop.call_later(_POLL_SECONDS, self._answer_physical, ticket, result)

    def txn(self, client: ClientProtocol, stream: int, head: RequestHead, message: bytes) -> None:
        """KV.Txn; one without writes is a read, unless it is in a session."""
        self._context.txns += 1
        swap = read_swap(message, 0)
        if swap is not None and len(swap[0]) <= self._context.max_txn_ops:
            self._write(client, stream, head, message, commands.TXN, None)
        else:
            self._general_txn(client, stream, head, message)

    def _general_txn(
        self, client: ClientProtocol, stream: int, head: RequestHead, message: bytes
    ) -> None:
        context = self._context
        error = context.refusal(head)
        if error is None:
            try:
                request = rpc_pb2.TxnRequest.FromString(message)
            except DecodeError:
                error = CANNOT_DECODE
            else:
                error = validate_txn(request, context.max_txn_ops)
                if error is None and not head.in_session and is_read_only(request):
                    ticket = (self._serve_txn, client, stream, request)
                    error = context.read(ticket)
                elif len(message) + ENVELOPE_BYTES > context.max_request_bytes:
                    error = error or REQUEST_TOO_LARGE
                elif error is None:
                    ticket = (self._answer, client, stream)  # type: ignore[assignment]
                    error = propose_once(context, head, commands.TXN, message, ticket)
        if error is not None:
            client.fail(stream, error)

    def _serve_txn(self, ticket: Any, error: ApiError | None) -> None:
        replica, request = self._context.replica, ticket[3]
        if error is None and replica.machine.is_long_txn(request):
            self._slice(ticket, lambda: replica.machine.read_txn_steps(request))
        else:
            self._answer(ticket, error or replica.machine.read_txn(request))

    # --- reads --------------------------------------------------------------

    def range(self, client: ClientProtocol, stream: int, head: RequestHead, message: bytes) -> None:
        """KV.Range."""
        context = self._context
        context.ranges += 1
        request: rpc_pb2.RangeRequest | bytes = message
        serializable = _point_read(message)
        error = None
        if serializable is None:
            try:
                request = rpc_pb2.RangeRequest.FromString(message)
            except DecodeError:
                client.fail(stream, CANNOT_DECODE)
                return
            serializable = request.serializable
            error = validate_range(request)
        refusal = context.refusal(head)
        if refusal is not None and not (serializable and refusal is NOT_FOR_LEARNER):
            error = refusal
        if error is None:
            ticket = (self._serve_range, client, stream, request)
            if serializable:
                self._serve_range(ticket, None)
                return
            error = context.read(ticket)
        if error is not None:
            client.fail(stream, error)

    def _serve_range(self, ticket: Any, error: ApiError | None) -> None:
        request = ticket[3]
        replica = self._context.replica
        machine = replica.machine
        if error is not None:
            self._answer(ticket, error)
        elif type(request) is not bytes and machine.is_long(request):
            self._slice(ticket, lambda: replica.machine.range_steps(request))
        else:
            self._answer(ticket, machine.range(request))

    def _slice(
        self, ticket: Any, begin: Callable[[], Generator[None, None, Result | ApiError]]
    ) -> None:
        """Answers a long read when all long work has had its turns."""
        read = LongRead(ticket[1], ticket[2], begin, partial(self._answer, ticket))
        error = self._context.driver.slices.add(read)
        if error is not None:
            self._answer(ticket, error)


def _check_put(message: bytes) -> ApiError | None:
    return validate_put(rpc_pb2.PutRequest.FromString(message))


def _check_delete(message: bytes) -> ApiError | None:
    return validate_delete(rpc_pb2.DeleteRangeRequest.FromString(message))


def _point_read(message: bytes) -> bool | None:
    """Is this the read of one key and nothing else? Then whether it is serializable, else None."""
    size = len(message)
    if size < 3 or message[0] != _KEY_TAG or message[1] > 127:
        return None
    end = message[1] + 2
    if size == end:
        return False
    if size == end + 2 and message[end:] == _SERIALIZABLE:
        return True
    return None
