"""Events of the past, read from a watch that ends where the present begins.

A watch from an old revision gives what happened since, and then goes on for ever. Where the past
ends is told by raftkv's bookmarks, which come behind every event up to their revision. etcd's did
not before 3.5.8; but every revision has an event, so a watch of all keys shows where the present
revision is reached. That costs the whole history instead of the key's own.

A stream that breaks is begun anew at the next endpoint; half of a past is never returned.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue

from raftkv.cli.connection import DEADLINE_TEXT, CallFailed, Connection, error_text
from raftkv.cli.paging import EVERYTHING, compacted_revision
from raftkv.cli.watching import WATCH, cancel_text
from raftkv.pb import kv_pb2, rpc_pb2


@dataclass(frozen=True, slots=True)
class Past:
    """events: in order, behind the compacted revision.

    compacted_revision: history was forgotten up to here; 0: it is whole. revision: the last one
    that was looked at.
    """

    events: tuple[kv_pb2.Event, ...]
    compacted_revision: int
    revision: int


def past_of(connection: Connection, key: bytes) -> Past:
    """Everything that is kept of a key. Errors: CallFailed."""
    present = connection.read(
        "KV/Range", rpc_pb2.RangeRequest(key=key, count_only=True), rpc_pb2.RangeResponse
    ).header.revision
    request = rpc_pb2.WatchCreateRequest(key=key, start_revision=1)
    if compacted_revision(connection) is None:  # etcd
        request.key = request.range_end = EVERYTHING
    compacted = 0
    while request.start_revision <= present:
        found = _replay(connection, request, present)
        if not isinstance(found, int):
            return Past(tuple(one for one in found if one.kv.key == key), compacted, present)
        compacted, request.start_revision = found, found + 1  # perhaps while we read
    return Past((), compacted, present)


def _replay(
    connection: Connection, request: rpc_pb2.WatchCreateRequest, until: int
) -> list[kv_pb2.Event] | int:
    """The events, or the revision that was compacted. Errors: CallFailed."""
    import grpc

    endpoints = connection.target.endpoints
    for endpoint in endpoints:
        try:
            return _replay_at(connection, endpoint, request, until)
        except grpc.RpcError as error:
            text = error_text(error, endpoint)
            if error.code() == grpc.StatusCode.CANCELLED:
                text = DEADLINE_TEXT
            if endpoint == endpoints[-1]:
                raise CallFailed(text) from None
    raise AssertionError("a target has endpoints")


def _replay_at(
    connection: Connection, endpoint: str, request: rpc_pb2.WatchCreateRequest, until: int
) -> list[kv_pb2.Event] | int:
    requests: SimpleQueue[rpc_pb2.WatchRequest | None] = SimpleQueue()
    requests.put(rpc_pb2.WatchRequest(create_request=request))
    source: Iterator[rpc_pb2.WatchRequest] = iter(requests.get, None)
    call = connection.stream(endpoint, WATCH, source, rpc_pb2.WatchResponse)
    patience = _Patience(connection.target.command_timeout_seconds, call.cancel)
    bookmarks = not request.range_end
    progress = rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest())
    events: list[kv_pb2.Event] = []
    try:
        for response in call:
            patience.renew()
            if response.canceled:
                if response.compact_revision:
                    return int(response.compact_revision)
                raise CallFailed(cancel_text(response))
            events += [one for one in response.events if one.kv.mod_revision <= until]
            if response.events:
                newest = response.events[-1].kv.mod_revision
                if newest >= until:
                    return events
            elif bookmarks and not response.created and response.header.revision >= until:
                return events
            elif bookmarks:  # it is there now, or the bookmark of a member that is behind
                requests.put(progress)
    finally:
        patience.end()
        requests.put(None)
        call.cancel()
    raise CallFailed("the watch ended before its past had come")


class _Patience:
    """Calls `give_up` when nothing came for so many seconds."""

    def __init__(self, seconds: float, give_up: Callable[[], object]) -> None:
        self._seconds = seconds
        self._give_up = give_up
        self._start()

    def _start(self) -> None:
        self._timer = threading.Timer(self._seconds, self._give_up)
        self._timer.daemon = True
        self._timer.start()

    def renew(self) -> None:
        """Something came."""
        self._timer.cancel()
        self._start()

    def end(self) -> None:
        """It does not matter any more."""
        self._timer.cancel()
