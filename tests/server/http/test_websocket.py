"""Streams of the gateway over WebSockets, with the wsproto package as the client."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    Pong,
    RejectConnection,
    Request,
    TextMessage,
)

from tests.server.http.asking import Wire, post, request

HANDSHAKE = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"


class Socket:
    """A client's end."""

    def __init__(self, wire: Wire, path: str, protocols: tuple[str, ...] = ()) -> None:
        self._wire = wire
        self._protocol = WSConnection(ConnectionType.CLIENT)
        wire.send(self._protocol.send(Request("x", path, subprotocols=list(protocols))))
        self._events: list[Event] = []

    def next(self) -> Event:
        """The next event."""
        while not self._events:
            self._protocol.receive_data(self._wire.some())
            self._events += self._protocol.events()
        return self._events.pop(0)

    def send(self, event: Event) -> None:
        """Sends an event."""
        self._wire.send(self._protocol.send(event))

    def text(self) -> dict[str, dict[str, str]]:
        """The next message, a line of JSON."""
        parts = []
        while True:
            event = self.next()
            assert isinstance(event, Message), event
            parts.append(event.data)
            if event.message_finished:
                read: dict[str, dict[str, str]] = json.loads("".join(parts))
                return read


@contextmanager
def opened(port: int, path: str, protocols: tuple[str, ...] = ()) -> Iterator[Socket]:
    with Wire(port) as wire:
        socket = Socket(wire, path, protocols)
        accepted = socket.next()
        assert isinstance(accepted, AcceptConnection)
        assert accepted.subprotocol == (protocols[0] if protocols else None)
        yield socket


def test_a_watch_takes_requests_and_gives_events(port: int) -> None:
    with opened(port, "/v3/watch") as socket:
        socket.send(TextMessage('{"create_request":{"key":"d3M="}}'))
        assert socket.text()["result"]["created"]
        assert post(port, "/v3/kv/put", '{"key":"d3M=","value":"dg=="}').code == 200
        assert socket.text()["result"]["events"][0]["kv"]["key"] == "d3M="  # type: ignore[index]
        socket.send(BytesMessage(b'{"cancel_request":', message_finished=False))
        socket.send(Ping(b"p"))
        socket.send(BytesMessage(b'{"watch_id":0}}'))
        assert isinstance(socket.next(), Pong)
        assert socket.text()["result"]["canceled"]
        socket.send(CloseConnection(1000))
        assert isinstance(socket.next(), CloseConnection)


def test_keepalives_are_answered_one_by_one(port: int) -> None:
    lease = json.loads(post(port, "/v3/lease/grant", '{"TTL":60}').body)["ID"]
    with opened(port, "/v3beta/lease/keepalive", ("Bearer", "token")) as socket:
        for _ in range(3):
            socket.send(TextMessage(json.dumps({"ID": lease})))
            assert socket.text()["result"]["TTL"] == "60"


@pytest.mark.parametrize(
    ("path", "body", "end"),
    [
        ("/v3/nope", "", "Not Found"),
        ("/v3/watch", "x", '"code":2'),
        ("/v3/election/observe", '{"name":1}', '"code":3'),
    ],
)
def test_what_ends_a_call_ends_its_socket(port: int, path: str, body: str, end: str) -> None:
    with Wire(port) as wire:
        socket = Socket(wire, path)
        assert isinstance(socket.next(), AcceptConnection)
        if path.endswith("observe"):
            return  # its body has no end here
        if body:
            socket.send(TextMessage(body))
        said = socket.next()
        assert isinstance(said, TextMessage)
        assert end in said.data
        closed = socket.next()
        assert isinstance(closed, CloseConnection)
        assert wire.rest() == b""


def test_bytes_that_are_no_frames_end_the_socket(port: int) -> None:
    with Wire(port) as wire:
        socket = Socket(wire, "/v3/watch")
        assert isinstance(socket.next(), AcceptConnection)
        wire.send(b"\xff" * 64)
        assert isinstance(socket.next(), CloseConnection)
        assert wire.rest() == b""


@pytest.mark.parametrize(
    "headers",
    [
        HANDSHAKE,
        HANDSHAKE + "Sec-WebSocket-Key: short\r\n",
        HANDSHAKE.replace("13", "12")
        + f"Sec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}\r\n",
    ],
)
def test_a_handshake_that_is_none_is_an_ordinary_bad_request(port: int, headers: str) -> None:
    with Wire(port) as wire:
        wire.send(request("/v3/watch", method="GET", headers=headers))
        answer = wire.answer()
        assert (answer.code, answer.headers["sec-websocket-version"]) == (400, "13")
        wire.send(request("/health", method="GET"))
        assert wire.answer().code == 200


def test_an_upgrade_to_something_else_is_not_taken_up(port: int) -> None:
    with Wire(port) as wire:
        headers = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"
        for path in ("/health", "/v3/kv/range"):
            wire.send(request(path, method="GET", headers=headers))
            assert wire.answer().code == (200 if path == "/health" else 405)


def test_scripts_of_hosts_that_are_not_listed_get_no_socket(port: int) -> None:
    """X15."""
    with Wire(port) as wire:
        key = base64.b64encode(bytes(16)).decode()
        headers = HANDSHAKE + f"Sec-WebSocket-Key: {key}\r\n"
        wire.send(request("/v3/watch", method="GET", headers=headers, host="evil.example"))
        assert wire.answer().code == 421


def test_rejections_are_what_the_client_library_calls_so(port: int) -> None:
    with Wire(port) as wire:
        socket = Socket(wire, "/health")
        assert isinstance(socket.next(), RejectConnection)
