"""etcdserverpb.KV/RangeStream: a long range in pieces, at one pinned revision (etcd 3.7).

A linearizable stream waits for its read index once, at the start. Work goes on in slices
(`server.slices`), and stops while the client has not taken what was sent: a slow reader
costs one chunk of memory and one picture of the store, nothing else.
"""

from collections.abc import Generator
from typing import Any, Final

from google.protobuf.message import DecodeError

from raftkv.errors import ApiError, Code
from raftkv.kv.encoding import bytes_field
from raftkv.kv.machine import Result
from raftkv.kv.txn import validate_range
from raftkv.pb import rpc_pb2
from raftkv.server.clients import ClientProtocol
from raftkv.server.routes import Call, Routes
from raftkv.server.services.context import CANNOT_DECODE, Context
from raftkv.server.slices import Progress
from raftkv.wire.grpc import RequestHead

QUEUED_BYTES: Final = 4 * 1024 * 1024  # not yet taken by the client: wait before more
_RESPONSE_TAG: Final = 0x0A  # RangeStreamResponse.range_response

Steps = Generator[bytes | None, None, Result | ApiError]


class RangeStreamService:
    """Makes one `RangeStreamCall` per call."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def register(self, routes: Routes) -> None:
        """Adds the path."""
        routes.streams[b"/etcdserverpb.KV/RangeStream"] = self.open

    def open(self, client: ClientProtocol, stream: int, head: RequestHead) -> Call:
        """A call begins."""
        return RangeStreamCall(self._context, client, stream, head)


class RangeStreamCall:
    """One call: waits for its request, then for its read index, then sends."""

    def __init__(
        self, context: Context, client: ClientProtocol, stream: int, head: RequestHead
    ) -> None:
        self._context = context
        self._client = client
        self._stream = stream
        self._head = head
        self._request: rpc_pb2.RangeRequest | None = None
        self._steps: Steps | None = None
        self._waiting = False  # for the client to take what was sent

    # --- what the client says -------------------------------------------------

    def message(self, message: bytes) -> None:
        """The request; a second one is an error."""
        if self._request is not None:
            self._end(ApiError(Code.INVALID_ARGUMENT, "RangeStream takes one request"))
            return
        try:
            request = rpc_pb2.RangeRequest.FromString(message)
        except DecodeError:
            self._end(CANNOT_DECODE)
            return
        self._request = request
        error = self._context.refusal(self._head) or validate_range(request)
        if error is None and not request.serializable:
            error = self._context.read((self._confirmed,))
            self._context.driver.wake()
        elif error is None:
            error = self._context.driver.slices.add(self)
        if error is not None:
            self._end(error)

    def half_closed(self) -> None:
        """Nothing more to hear."""

    def cancelled(self) -> None:
        """The client is gone: `wanted` says so, unless the work is stalled."""
        self._context.driver.slices.cancel(self)

    def writable(self) -> None:
        """The client has taken what was sent."""
        if self._waiting:
            self._waiting = False
            self._context.driver.slices.resume(self)

    # --- the work (slices.Piece) --------------------------------------------------

    def _confirmed(self, ticket: Any, error: ApiError | None) -> None:
        error = error or self._context.driver.slices.add(self)
        if error is not None:
            self._end(error)

    def wanted(self) -> bool:
        """Whether the client is still there."""
        return self._client.connection.is_open(self._stream)

    def drop(self, error: ApiError | None) -> None:
        """Gives the picture of the store back."""
        self._waiting = False
        if self._steps is not None:
            self._steps.close()
        if error is not None and self.wanted():
            self._end(error)

    def step(self) -> Progress:
        """Looks for more keys; sends them when they make a chunk."""
        if self._steps is None:
            assert self._request is not None
            self._steps = self._context.replica.machine.range_stream(self._request)
        try:
            body = next(self._steps)
        except StopIteration as end:
            result: Result | ApiError = end.value
            if isinstance(result, ApiError):
                self._end(result)
            else:
                self._send(self._context.header(result.revision) + result.body)
                self._end(None)
            return Progress.DONE
        if body is not None:
            self._send(body)
        if self._client.connection.queued(self._stream) > QUEUED_BYTES:
            self._waiting = True
            return Progress.STALLED
        return Progress.MORE

    def _send(self, body: bytes) -> None:
        self._client.connection.send(self._stream, bytes_field(_RESPONSE_TAG, body))
        self._client.driver.mark_dirty(self._client)

    def _end(self, error: ApiError | None) -> None:
        if error is None:
            self._client.connection.finish(self._stream)
        else:
            self._client.fail(self._stream, error)
        self._client.routes.finished(self._client, self._stream)
        self._client.driver.mark_dirty(self._client)
