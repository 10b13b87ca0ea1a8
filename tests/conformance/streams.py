"""Streams as the conformance tests see them: requests in, answers and one final status out.

A thread of its own reads every stream, so that a test can wait for the next answer with a
deadline and a driver can hold many streams open. Silence is never waited for: what a server
must not answer is followed by something that it must answer, and that has to come next.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Final, Generic, TypeVar

import grpc
import pytest

from raftkv.pb import kv_pb2, rpc_pb2, rpc_pb2_grpc
from tests.conformance.calls import every_rpc, status_of_empty_call
from tests.conformance.store import Store
from tests.conformance.target import Target

Req = TypeVar("Req")
Res = TypeVar("Res")

PATIENCE_SECONDS: Final = 60.0
STREAM_SECONDS: Final = 600.0

_RPCS: Final = {rpc.name: rpc for rpc in every_rpc()}
_offered: dict[tuple[str, str], bool] = {}


def skip_unless_offered(target: Target, rpc: str) -> None:
    """Skips the test if this server answers UNIMPLEMENTED to an empty call of `rpc`.

    rpc: as in the README, "Watch.Watch". The server itself is asked, once.
    """
    key = (target.endpoint, rpc)
    if key not in _offered:
        status = status_of_empty_call(target.channel, _RPCS[rpc])
        _offered[key] = status is not grpc.StatusCode.UNIMPLEMENTED
    if not _offered[key]:
        pytest.skip(f"the server does not implement {rpc}")


@dataclass(frozen=True)
class Ended:
    """The end of a stream: the status code's name and its exact text."""

    code: str
    text: str


class Stream(Generic[Req, Res]):
    """One call with a stream of answers.

    open: starts the call with an iterator of requests (which a call that sends one request
    ignores) and a deadline in seconds.
    """

    def __init__(self, open_: Callable[[Iterator[Req], float], Any]) -> None:
        self._requests: SimpleQueue[Req | None] = SimpleQueue()
        self._answers: SimpleQueue[Res | Ended] = SimpleQueue()
        self._call = open_(iter(self._requests.get, None), STREAM_SECONDS)
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            for answer in self._call:
                self._answers.put(answer)
            self._answers.put(Ended("OK", ""))
        except grpc.RpcError as error:
            self._answers.put(Ended(error.code().name, error.details() or ""))

    def send(self, request: Req) -> None:
        """Sends one message."""
        self._requests.put(request)

    def half_close(self) -> None:
        """No more messages follow."""
        self._requests.put(None)

    def take(self, timeout_seconds: float = PATIENCE_SECONDS) -> Res | Ended:
        """The next answer, or the end. Errors: queue.Empty when nothing comes in time."""
        return self._answers.get(timeout=timeout_seconds)

    def come(self) -> list[Res | Ended]:
        """What has come and was not taken yet."""
        found: list[Res | Ended] = []
        with suppress(Empty):
            while True:
                found.append(self.take(0.0))
        return found

    def next(self) -> Res:
        """The next answer, which must come."""
        try:
            answer = self.take()
        except Empty:
            raise AssertionError("no answer came") from None
        assert not isinstance(answer, Ended), answer
        return answer

    def end(self) -> Ended:
        """The end of the stream, which must be what comes next."""
        answer = self.take()
        assert isinstance(answer, Ended), answer
        return answer

    def close(self) -> None:
        """Hangs up."""
        self._call.cancel()
        self._requests.put(None)
        self._reader.join(PATIENCE_SECONDS)


Event = tuple[str, bytes, bytes, int, int, int, int]


def event_tuple(event: kv_pb2.Event) -> Event:
    """(PUT or DELETE, key, value, create and mod revision, version, lease)."""
    kv = event.kv
    kind = kv_pb2.Event.EventType.Name(event.type)
    return kind, kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease


class WatchStream(Stream[rpc_pb2.WatchRequest, rpc_pb2.WatchResponse]):
    """One Watch stream."""

    def __init__(self, target: Target) -> None:
        stub = rpc_pb2_grpc.WatchStub(target.channel)
        super().__init__(lambda requests, seconds: stub.Watch(requests, timeout=seconds))

    def ask(self, key: bytes, range_end: bytes = b"", **options: Any) -> None:
        """Sends a create request."""
        create = rpc_pb2.WatchCreateRequest(key=key, range_end=range_end, **options)
        self.send(rpc_pb2.WatchRequest(create_request=create))

    def create(self, key: bytes, range_end: bytes = b"", **options: Any) -> rpc_pb2.WatchResponse:
        """A new watch; what comes next must say that it is created."""
        self.ask(key, range_end, **options)
        answer = self.next()
        assert answer.created, answer
        assert not answer.events
        return answer

    def cancel(self, watch_id: int) -> None:
        """Sends a cancel request."""
        request = rpc_pb2.WatchCancelRequest(watch_id=watch_id)
        self.send(rpc_pb2.WatchRequest(cancel_request=request))

    def progress(self) -> rpc_pb2.WatchResponse:
        """Asks for progress; what comes next must be the answer to it."""
        self.send(rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest()))
        answer = self.next()
        assert (answer.watch_id, answer.created, answer.canceled) == (-1, False, False), answer
        assert not answer.events
        return answer

    def events(self, count: int, watch_id: int = 0) -> list[kv_pb2.Event]:
        """At least `count` events of one watch, which must be all that comes, whole revisions."""
        found: list[kv_pb2.Event] = []
        last = 0
        while len(found) < count:
            answer = self.next()
            assert answer.watch_id == watch_id, answer
            assert answer.events, answer
            assert not answer.fragment
            assert last < answer.events[0].kv.mod_revision, "a revision came in two responses"
            last = answer.events[-1].kv.mod_revision
            assert answer.header.revision >= last
            found.extend(answer.events)
        return found


class KeepAliveStream(Stream[rpc_pb2.LeaseKeepAliveRequest, rpc_pb2.LeaseKeepAliveResponse]):
    """One LeaseKeepAlive stream."""

    def __init__(self, target: Target) -> None:
        stub = rpc_pb2_grpc.LeaseStub(target.channel)
        super().__init__(lambda requests, seconds: stub.LeaseKeepAlive(requests, timeout=seconds))

    def renew(self, lease: int) -> tuple[int, int]:
        """(ID, TTL) of the answer to one renewal."""
        self.send(rpc_pb2.LeaseKeepAliveRequest(ID=lease))
        answer = self.next()
        return answer.ID, answer.TTL


def revision_of(store: Store) -> int:
    """The current revision, which the node that was asked has applied."""
    return store.range("nothing").header.revision


def grant(store: Store, ttl_seconds: int = 600) -> int:
    request = rpc_pb2.LeaseGrantRequest(TTL=ttl_seconds)
    return store.call(request, rpc_pb2.LeaseGrantResponse).ID


def kinds(store: Store, events: list[kv_pb2.Event]) -> list[tuple[str, str]]:
    """(PUT or DELETE, name of the key) of each event."""
    return [
        (kv_pb2.Event.EventType.Name(e.type), e.kv.key.removeprefix(store.prefix).decode())
        for e in events
    ]
