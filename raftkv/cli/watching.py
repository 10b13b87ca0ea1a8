"""A watch as raftctl keeps it: it goes on at another endpoint when its own is lost.

The next revision that is needed is known at any time, so nothing is missed and nothing comes
twice. A watch ends when the server cancels it, and when its stream ends with an error that would
be the same elsewhere. The first connection has the dial timeout to come about; a watch that once
was connected looks for an endpoint as long as it takes.
"""

import itertools
import time
from collections.abc import Iterator
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from raftkv.cli.connection import (
    DEADLINE_TEXT,
    NO_LEADER_TEXT,
    ROUND_PAUSE_SECONDS,
    CallFailed,
    Connection,
    error_text,
)
from raftkv.pb import kv_pb2, rpc_pb2

if TYPE_CHECKING:
    import grpc

WATCH: Final = "/etcdserverpb.Watch/Watch"
COMPACTED_TEXT: Final = "etcdserver: mvcc: required revision has been compacted"
FUTURE_TEXT: Final = "etcdserver: mvcc: required revision is a future revision"


def cancel_text(response: rpc_pb2.WatchResponse) -> str:
    """Why a server cancelled a watch, as Go's client says it."""
    if response.compact_revision:
        return COMPACTED_TEXT
    return response.cancel_reason or FUTURE_TEXT


class Watch:
    """See the module's docstring. `responses` is for one thread; the rest for any.

    request: its start_revision may be 0: from now on.
    """

    def __init__(self, connection: Connection, request: rpc_pb2.WatchCreateRequest) -> None:
        self._connection = connection
        self._request = request
        self._requests = self._new_requests()
        self._call: Any = None
        self._closed = False
        self._leaderless = 0  # endpoints in a row that knew no leader

    def ask_progress(self) -> None:
        """Asks for a bookmark: a response without events comes."""
        progress = rpc_pb2.WatchProgressRequest()
        self._requests.put(rpc_pb2.WatchRequest(progress_request=progress))

    def close(self) -> None:
        """`responses` ends."""
        self._closed = True
        self._requests.put(None)
        if self._call is not None:
            self._call.cancel()

    def responses(self) -> Iterator[rpc_pb2.WatchResponse]:
        """What comes, without the confirmation that the watch is there. Ends with a response that
        is canceled, or after `close`. Errors: CallFailed.
        """
        import grpc

        give_up = time.monotonic() + self._connection.target.dial_timeout_seconds
        connected = False
        endpoints = self._connection.target.endpoints
        for number, endpoint in enumerate(itertools.cycle(endpoints), 1):
            reason = "the stream ended"
            try:
                for response in self._open(endpoint):
                    connected = True
                    if self._note(response):
                        yield response
                    if response.canceled:
                        return
            except grpc.RpcError as error:
                reason = self._judge(error, endpoint)
            finally:
                ended, self._requests = self._requests, self._new_requests()
                ended.put(None)
            if self._closed:
                return
            if not connected and time.monotonic() > give_up:
                raise CallFailed(f"{DEADLINE_TEXT}: no endpoint could be reached ({reason})")
            if number % len(endpoints) == 0:
                time.sleep(ROUND_PAUSE_SECONDS)

    def _new_requests(self) -> "SimpleQueue[rpc_pb2.WatchRequest | None]":
        requests: SimpleQueue[rpc_pb2.WatchRequest | None] = SimpleQueue()
        requests.put(rpc_pb2.WatchRequest(create_request=self._request))
        return requests

    def _open(self, endpoint: str) -> Iterator[rpc_pb2.WatchResponse]:
        requests = iter(self._requests.get, None)
        self._call = self._connection.stream(endpoint, WATCH, requests, rpc_pb2.WatchResponse)
        if self._closed:
            self._call.cancel()
        answers: Iterator[rpc_pb2.WatchResponse] = self._call
        return answers

    def _note(self, response: rpc_pb2.WatchResponse) -> bool:
        """Remembers what comes next. True: the response is for the caller."""
        self._leaderless = 0
        if response.created and not response.canceled:
            if not self._request.start_revision:
                self._request.start_revision = response.header.revision + 1
            return False
        if response.events:
            self._request.start_revision = response.events[-1].kv.mod_revision + 1
        elif not response.canceled:
            seen = response.header.revision + 1
            self._request.start_revision = max(self._request.start_revision, seen)
        return True

    def _judge(self, error: "grpc.RpcError", endpoint: str) -> str:
        """Why a stream has ended. Errors: CallFailed, if it would end elsewhere too."""
        import grpc

        text = error_text(error, endpoint)
        if text == NO_LEADER_TEXT:
            self._leaderless += 1
            if self._leaderless < len(self._connection.target.endpoints):
                return text
        elif error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL):
            return text
        if self._closed:
            return text
        raise CallFailed(text)


def wait_for_deletion(watch: Watch) -> None:
    """Returns when a deletion comes, or the watch ends. Errors: CallFailed."""
    for response in watch.responses():
        if response.canceled or any(
            event.type == kv_pb2.Event.EventType.DELETE for event in response.events
        ):
            watch.close()
            return
