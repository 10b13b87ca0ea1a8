# Made by scripts/generate_sync.py from raftkv/client/aio: edit that.
"""Ranges of any size, piece by piece, all as of one revision.

The first piece is an ordinary page, which tells the revision that the rest is pinned to. The
rest comes as one RangeStream where the server offers it (raftkv, etcd 3.7), else as pages. A
stream that breaks, or falls silent, is followed by pages from the next key on: nothing is lost
or repeated.
"""

from collections.abc import Iterator
from typing import Final

import grpc

from raftkv.client.errors import TimedOut, Unavailable, Unsupported
from raftkv.client.sync.connection import Connection
from raftkv.client.sync.runtime import Stream
from raftkv.pb import kv_pb2, rpc_pb2

RANGE: Final = "/etcdserverpb.KV/Range"
RANGE_STREAM: Final = "/etcdserverpb.KV/RangeStream"


class Pages:
    """Reads ranges for one client. offered: False once a server did not know RangeStream."""

    def __init__(self, connection: Connection) -> None:
        self.offered: bool = True
        self._connection = connection

    def read(
        self, request: rpc_pb2.RangeRequest, timeout: float | None
    ) -> Iterator[kv_pb2.KeyValue]:
        """All pairs of the range. The request's limit is the size of a page.

        The request is changed as the reading goes on: its key is the next one to read, its
        revision the pinned one. timeout: seconds for each piece.
        """
        while True:
            page = self._connection.call(
                RANGE,
                request,
                rpc_pb2.RangeResponse,
                write=False,
                linearizable=True,
                timeout=timeout,
            )
            request.revision = request.revision or page.header.revision
            for kv in page.kvs:
                yield kv
            if not page.more:
                return
            request.key = page.kvs[-1].key + b"\0"
            if self.offered:
                place, stream = self._connection.stream(RANGE_STREAM, rpc_pb2.RangeStreamResponse)
                try:
                    asking: rpc_pb2.RangeRequest | None = _whole(request)
                    while chunk := self._next(stream, place, asking, timeout):
                        asking = None
                        for kv in chunk.kvs:
                            yield kv
                        if chunk.kvs:
                            request.key = chunk.kvs[-1].key + b"\0"
                        if chunk.HasField("header"):
                            return  # only the last one has it
                finally:
                    stream.close()

    def _next(
        self,
        stream: Stream[rpc_pb2.RangeStreamResponse],
        place: int,
        request: rpc_pb2.RangeRequest | None,
        timeout: float | None,
    ) -> rpc_pb2.RangeResponse | None:
        """The next piece of a stream; None if it has failed: what is wrong, a page will tell.

        request: sent first, if given.
        """
        seconds = self._connection.settings.timeout if timeout is None else timeout
        try:
            if request is not None:
                stream.write(request)
                stream.done_writing()
            answer = stream.read(seconds)
        except TimeoutError:
            self._connection.broken(place)
            return None
        except grpc.RpcError as error:
            failure = self._connection.failure(error, place)
            if isinstance(failure, Unsupported):
                self.offered = False
            elif isinstance(failure, Unavailable | TimedOut):
                self._connection.broken(place)
            return None
        return None if answer is None else answer.range_response


def _whole(request: rpc_pb2.RangeRequest) -> rpc_pb2.RangeRequest:
    """All that is left of a range."""
    whole = rpc_pb2.RangeRequest()
    whole.CopyFrom(request)
    whole.limit = 0
    return whole
