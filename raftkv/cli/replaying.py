"""Events of the past, read from a watch that ends where the present begins.

A watch from an old revision gives what happened since, and then goes on for ever. Asking it for a
bookmark tells where the past ends: the answer comes behind every event up to its revision, from
raftkv, and from etcd since 3.5.8. (Older etcd may answer before the past has come.)

A stream that breaks is begun anew at the next endpoint; half of a past is never returned.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue

from raftkv.cli.connection import DEADLINE_TEXT, CallFailed, Connection, error_text
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


def past_of(connection: Connection, key: bytes, range_end: bytes = b"") -> Past:
    """Everything that is kept of a key or range. Errors: CallFailed."""
    present = connection.read(
        "KV/Range",
        rpc_pb2.RangeRequest(key=key, range_end=range_end, count_only=True),
        rpc_pb2.RangeResponse,
    ).header.revision
    start, compacted = 1, 0
    while True:
        request = rpc_pb2.WatchCreateRequest(key=key, range_end=range_end, start_revision=start)
        found = _replay(connection, request, present)
        if isinstance(found, int):  # so far it has been compacted, also while we read
            compacted, start = found, found + 1
            if start > present:
                return Past((), compacted, present)
        else:
            return Past(found, compacted, present)


def _replay(
    connection: Connection, request: rpc_pb2.WatchCreateRequest, until: int
) -> tuple[kv_pb2.Event, ...] | int:
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
) -> tuple[kv_pb2.Event, ...] | int:
    requests: SimpleQueue[rpc_pb2.WatchRequest | None] = SimpleQueue()
    requests.put(rpc_pb2.WatchRequest(create_request=request))
    source: Iterator[rpc_pb2.WatchRequest] = iter(requests.get, None)
    call = connection.stream(endpoint, WATCH, source, rpc_pb2.WatchResponse)
    patience = _Patience(connection.target.command_timeout_seconds, call.cancel)
    events: list[kv_pb2.Event] = []
    try:
        for response in call:
            patience.renew()
            if response.canceled:
                if response.compact_revision:
                    return int(response.compact_revision)
                raise CallFailed(cancel_text(response))
            if response.created:
                progress = rpc_pb2.WatchProgressRequest()
                requests.put(rpc_pb2.WatchRequest(progress_request=progress))
            elif response.events:
                events += [one for one in response.events if one.kv.mod_revision <= until]
            elif response.header.revision >= until:
                return tuple(events)
            else:  # a bookmark of a member that is behind
                progress = rpc_pb2.WatchProgressRequest()
                requests.put(rpc_pb2.WatchRequest(progress_request=progress))
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
