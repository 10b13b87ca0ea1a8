"""Watches at servers that do not behave: none is asked in a busy loop, none makes one hang."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from raftkv.client import TimedOut
from raftkv.client.aio.watch import WATCH
from raftkv.pb import kv_pb2, rpc_pb2
from tests.client.faces import Faces

Requests = Iterator[rpc_pb2.WatchRequest]
Responses = Iterator[rpc_pb2.WatchResponse]


def header(revision: int) -> rpc_pb2.ResponseHeader:
    return rpc_pb2.ResponseHeader(cluster_id=1, member_id=1, revision=revision, raft_term=1)


def created(revision: int = 5) -> rpc_pb2.WatchResponse:
    return rpc_pb2.WatchResponse(header=header(revision), created=True)


def put(revision: int) -> rpc_pb2.WatchResponse:
    kv = kv_pb2.KeyValue(key=b"k", mod_revision=revision)
    return rpc_pb2.WatchResponse(header=header(revision), events=[kv_pb2.Event(kv=kv)])


class Server(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Does with each watch stream what `behave` says. asked: the start revisions, in order."""

    def __init__(self, behave: Callable[[int, Requests], Responses]) -> None:
        self.asked: list[int] = []
        self._behave = behave
        self._server = grpc.server(ThreadPoolExecutor(8), handlers=[self])
        self.endpoint = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Called by grpcio."""
        if details.method != WATCH:
            return None
        return grpc.stream_stream_rpc_method_handler(
            self._watch,
            request_deserializer=rpc_pb2.WatchRequest.FromString,
            response_serializer=rpc_pb2.WatchResponse.SerializeToString,
        )

    def _watch(self, requests: Requests, context: grpc.ServicerContext) -> Responses:
        self.asked.append(next(requests).create_request.start_revision)
        return self._behave(len(self.asked), requests)

    def stop(self) -> None:
        """Ends it."""
        self._server.stop(0).wait()


@pytest.fixture(params=["sync", "aio"])
def connect(request: pytest.FixtureRequest) -> Iterator[Faces]:
    faces = Faces(request.param)
    yield faces
    faces.close()


def test_a_server_that_confirms_and_breaks_is_not_asked_in_a_busy_loop(connect: Faces) -> None:
    server = Server(lambda number, requests: iter([created()]))
    watch = connect(server.endpoint).watch("k")
    with pytest.raises(TimedOut):
        watch.next(2)
    assert len(server.asked) < 15
    while len(server.asked) < 3:  # it goes on
        with pytest.raises(TimedOut):
            watch.next(1)
    assert server.asked[1:] == [6] * (len(server.asked) - 1)
    server.stop()


def test_each_stream_that_brings_one_event_and_breaks_is_followed_at_once(connect: Faces) -> None:
    """What brings something is well: no pause, no event lost or repeated."""
    server = Server(lambda number, requests: iter([created(4 + number), put(5 + number)]))
    with connect(server.endpoint).watch("k") as watch:
        began = time.monotonic()
        revisions = [watch.next(60).events[0].revision for _ in range(20)]
        assert time.monotonic() - began < 25, "pauses before each would take longer"
    assert revisions == list(range(6, 26))
    assert server.asked[:20] == [0, *range(7, 26)]
    server.stop()


def test_a_stream_without_a_confirmation_is_left(connect: Faces) -> None:
    """It is open and says nothing; the next one does."""

    def behave(number: int, requests: Requests) -> Responses:
        if number > 1:
            yield created()
            yield put(6)
        yield from (created() for _ in requests if number > 1)

    server = Server(behave)
    with connect(server.endpoint, keepalive_timeout=0.3).watch("k") as watch:
        assert watch.next(60).events[0].revision == 6
    assert len(server.asked) == 2
    server.stop()


def test_events_before_the_confirmation_are_not_believed(connect: Faces) -> None:
    def behave(number: int, requests: Requests) -> Responses:
        yield from [put(3)] if number == 1 else [created(), put(6)]
        yield from (created() for _ in requests)

    server = Server(behave)
    with connect(server.endpoint).watch("k") as watch:
        assert watch.next(60).events[0].revision == 6
    server.stop()
