"""Bidirectional calls as they are, by both faces against raftkv and etcd."""

from collections.abc import Iterator
from typing import Final

import pytest

from raftkv.client import ClientClosed, NotConnected, TimedOut, Unsupported
from raftkv.pb import rpc_pb2
from tests.client.conftest import Served
from tests.client.faces import Faces
from tests.processes import free_ports

WATCH: Final = "/etcdserverpb.Watch/Watch"
KEEP_ALIVE: Final = "/etcdserverpb.Lease/LeaseKeepAlive"
READ_SECONDS: Final = 30.0


@pytest.fixture(params=["sync", "aio"])
def connect(request: pytest.FixtureRequest) -> Iterator[Faces]:
    """Makes clients of each face in turn."""
    faces = Faces(request.param)
    yield faces
    faces.close()


def test_two_watches_on_one_stream(server: Served, connect: Faces, prefix: str) -> None:
    """What the library's watches do not offer: watch ids and streams of one's own."""
    client = connect(server.endpoints)
    names = [f"{prefix}{letter}".encode() for letter in "ab"]
    stream = client.stream(WATCH, rpc_pb2.WatchResponse)
    for number, name in enumerate(names):
        create = rpc_pb2.WatchCreateRequest(key=name, watch_id=5 + number)
        stream.write(rpc_pb2.WatchRequest(create_request=create))
        made = stream.read(READ_SECONDS)
        assert made.created
        assert made.watch_id == 5 + number
    with pytest.raises(TimedOut):
        stream.read(0.01)
    assert not stream.over
    for name in names:
        client.put(name, "x")
    told = [stream.read(READ_SECONDS) for _ in names]
    assert [one.watch_id for one in told] == [5, 6]
    assert [one.events[0].kv.key for one in told] == names
    stream.close()
    assert stream.over
    with pytest.raises(ClientClosed):
        stream.read(READ_SECONDS)


def test_an_end_that_the_server_makes_is_none_and_stays_so(server: Served, connect: Faces) -> None:
    client = connect(server.endpoints)
    granted = client.grant(60)
    with client.stream(KEEP_ALIVE, rpc_pb2.LeaseKeepAliveResponse) as stream:
        stream.write(rpc_pb2.LeaseKeepAliveRequest(ID=granted.id))
        assert stream.read(READ_SECONDS).TTL == 60
        stream.done_writing()
        assert stream.read(READ_SECONDS) is None
        assert stream.over
        assert stream.read(READ_SECONDS) is None
    client.revoke(granted.id)


def test_a_call_that_there_is_not_is_unsupported(server: Served, connect: Faces) -> None:
    stream = connect(server.endpoints).stream("/no.Service/Here", rpc_pb2.WatchResponse)
    for _ in range(2):
        with pytest.raises(Unsupported):
            stream.read(READ_SECONDS)
        assert stream.over
    stream.close()


@pytest.mark.parametrize("given_up", [False, True])
def test_an_endpoint_whose_conversation_failed_is_asked_later(
    raftkv_served: Served, connect: Faces, given_up: bool
) -> None:
    """By itself where the call fails; by `give_up` where its user has waited long enough."""
    nobody = f"127.0.0.1:{free_ports(1)[0]}"
    client = connect(f"{nobody},{raftkv_served.endpoints}")
    first = client.stream(KEEP_ALIVE, rpc_pb2.LeaseKeepAliveResponse)
    assert first.endpoint == nobody
    if given_up:
        first.give_up()
    else:
        with pytest.raises(NotConnected):
            first.read(READ_SECONDS)
    first.close()
    second = client.stream(KEEP_ALIVE, rpc_pb2.LeaseKeepAliveResponse)
    assert second.endpoint == raftkv_served.endpoints
    second.write(rpc_pb2.LeaseKeepAliveRequest(ID=1))
    assert second.read(READ_SECONDS).TTL == 0
    second.close()


def test_a_conversation_of_a_closed_client_is_over(raftkv_served: Served, connect: Faces) -> None:
    client = connect(raftkv_served.endpoints)
    stream = client.stream(WATCH, rpc_pb2.WatchResponse)
    client.close()
    with pytest.raises(ClientClosed):
        stream.read(READ_SECONDS)
    stream.close()
