"""Both ends against the `h2` package, with chunks cut anywhere."""

from collections.abc import Iterator

import h2.config
import h2.connection
import h2.events
import h2.settings
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.wire.h2_client import ClientConnection
from tests.wire.serving import serve_in_memory

HEADERS = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":authority", b"test"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
]
PATHS = [b"/t.T/Echo", b"/t.T/Bidi", b"/t.T/Sum", b"/t.T/Fail"]


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def messages_in(data: bytes) -> list[bytes]:
    found = []
    while data:
        size = int.from_bytes(data[1:5], "big")
        found.append(data[5 : 5 + size])
        assert data[0] == 0
        assert len(found[-1]) == size
        data = data[5 + size :]
    return found


def chunks(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    """`data` cut into pieces of these sizes, over and over."""
    pos = turn = 0
    while pos < len(data):
        size = sizes[turn % len(sizes)] if sizes else len(data)
        yield data[pos : pos + size]
        pos += size
        turn += 1


class Call:
    """One call a test makes: its path and messages, and how DATA frames cut them."""

    def __init__(self, path: bytes, messages: list[bytes], data_size: int, padding: int) -> None:
        if path in (b"/t.T/Echo", b"/t.T/Fail"):
            messages = messages[:1] or [b""]
        self.path = path
        self.messages = messages
        self.data_size = data_size
        self.padding = padding

    def expected(self) -> tuple[list[bytes], bytes]:
        if self.path == b"/t.T/Fail":
            return [], b"9"
        if self.path == b"/t.T/Sum":
            return [b"%d" % sum(map(len, self.messages))], b"0"
        return self.messages, b"0"


sizes = st.sampled_from([0, 1, 4, 5, 100, 1500, 17000])
calls = st.builds(
    Call,
    st.sampled_from(PATHS),
    st.lists(sizes.map(bytes), max_size=4),
    st.sampled_from([50, 900, 16384]),
    st.sampled_from([0, 0, 7]),
)
cuts = st.lists(st.sampled_from([1, 2, 8, 9, 10, 24, 500, 16384, 65536]), max_size=4)


class Package:
    """The client side, spoken by the h2 package."""

    def __init__(self, window: int, table: int) -> None:
        self.connection = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding=None)
        )
        self.connection.local_settings = h2.settings.Settings(
            client=True,
            initial_values={
                h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window,
                h2.settings.SettingCodes.HEADER_TABLE_SIZE: table,
            },
        )
        self.connection.initiate_connection()
        self.data: dict[int, bytes] = {}
        self.fields: dict[int, dict[bytes, bytes]] = {}
        self.ended: set[int] = set()
        self.to_send: list[tuple[int, bytes, Call]] = []

    def start(self, call: Call) -> int:
        stream = self.connection.get_next_available_stream_id()
        self.connection.send_headers(stream, [(b":path", call.path), *HEADERS])
        self.to_send.append((stream, b"".join(map(framed, call.messages)), call))
        return int(stream)

    def push_data(self) -> None:
        """Sends what the windows allow; keeps the rest."""
        waiting, self.to_send = self.to_send, []
        for stream, data, call in waiting:
            cost = call.padding + 1 if call.padding else 0
            while True:
                room = self.connection.local_flow_control_window(stream) - cost
                size = min(len(data), call.data_size, room, 16384 - cost)
                if size <= 0 and data:
                    self.to_send.append((stream, data, call))
                    break
                piece, data = data[:size], data[size:]
                self.connection.send_data(
                    stream, piece, end_stream=not data, pad_length=call.padding or None
                )
                if not data:
                    break

    def receive(self, data: bytes) -> None:
        for event in self.connection.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                self.data[event.stream_id] = self.data.get(event.stream_id, b"") + event.data
                self.connection.acknowledge_received_data(
                    event.flow_controlled_length, event.stream_id
                )
            elif isinstance(event, (h2.events.ResponseReceived, h2.events.TrailersReceived)):
                self.fields.setdefault(event.stream_id, {}).update(event.headers)
            elif isinstance(event, h2.events.StreamEnded):
                self.ended.add(event.stream_id)
            assert not isinstance(event, (h2.events.ConnectionTerminated, h2.events.StreamReset))


@given(
    st.lists(calls, min_size=1, max_size=5),
    cuts,
    st.sampled_from([40, 1000, 65535, 1 << 20]),
    st.sampled_from([0, 60, 4096]),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_server_and_h2_package_client_agree_however_the_bytes_are_cut(
    made: list[Call], sizes: list[int], window: int, table: int
) -> None:
    package = Package(window, table)
    server, service = serve_in_memory()
    streams = {package.start(call): call for call in made}
    for _ in range(300_000):
        package.push_data()
        sent = package.connection.data_to_send()
        for piece in chunks(sent, sizes):
            server.receive(piece, 0.0)
        answer = server.take_output()
        package.receive(answer)
        if not sent and not answer:
            break
    assert not server.closing, server.close_reason
    for stream, call in streams.items():
        messages, status = call.expected()
        assert package.fields[stream][b"grpc-status"] == status
        assert messages_in(package.data.get(stream, b"")) == messages
    assert package.ended == set(streams)
    assert server.open_streams == 0
    assert server.queued_total() == 0
    assert server._held_bytes == 0
    assert not any(event[0] == "cancelled" for event in service.events)


class Calls:
    """What the client's handler heard."""

    def __init__(self) -> None:
        self.opened: list[int] = []
        self.messages: dict[int, list[bytes]] = {}
        self.ends: dict[int, tuple[int, str]] = {}

    def headers(self, stream: int) -> None:
        self.opened.append(stream)

    def message(self, stream: int, message: bytes) -> None:
        assert stream in self.opened
        self.messages.setdefault(stream, []).append(message)

    def finished(self, stream: int, code: int, text: str) -> None:
        assert stream not in self.ends
        self.ends[stream] = (code, text)


class PackageServer:
    """An echo server spoken by the h2 package."""

    def __init__(self, window: int, table: int) -> None:
        self.connection = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding=None)
        )
        self.connection.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window,
                h2.settings.SettingCodes.HEADER_TABLE_SIZE: table,
            },
        )
        self.connection.initiate_connection()
        self.requests: dict[int, dict[bytes, bytes]] = {}
        self.data: dict[int, bytes] = {}
        self.answers: dict[int, bytes] = {}

    def receive(self, data: bytes) -> None:
        for event in self.connection.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                self.requests[event.stream_id] = dict(event.headers)
                self.data[event.stream_id] = b""
            elif isinstance(event, h2.events.DataReceived):
                self.data[event.stream_id] += event.data
                self.connection.acknowledge_received_data(
                    event.flow_controlled_length, event.stream_id
                )
            elif isinstance(event, h2.events.StreamEnded):
                stream = event.stream_id
                self.connection.send_headers(
                    stream, [(b":status", b"200"), (b"content-type", b"application/grpc")]
                )
                self.answers[stream] = self.data[stream]
            assert not isinstance(event, (h2.events.ConnectionTerminated, h2.events.StreamReset))

    def push(self, data_size: int) -> None:
        for stream in list(self.answers):
            while data := self.answers[stream]:
                room = min(self.connection.local_flow_control_window(stream), data_size)
                if room <= 0:
                    break
                self.connection.send_data(stream, data[:room])
                self.answers[stream] = data[room:]
            if not self.answers[stream]:
                del self.answers[stream]
                fields = [(b"grpc-status", b"0"), (b"grpc-message", b"fine%20%E2%98%83")]
                self.connection.send_headers(stream, fields, end_stream=True)


@given(
    st.lists(st.lists(sizes.map(bytes), max_size=4), min_size=1, max_size=5),
    cuts,
    st.sampled_from([40, 1000, 65535, 1 << 20]),
    st.sampled_from([0, 60, 4096]),
    st.sampled_from([50, 900, 16384]),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_client_and_h2_package_server_agree_however_the_bytes_are_cut(
    made: list[list[bytes]], sizes: list[int], window: int, table: int, data_size: int
) -> None:
    package = PackageServer(window, table)
    calls = Calls()
    client = ClientConnection(calls, b"test")
    # The package holds us to its settings before we can know them, so let it speak first.
    client.receive(package.connection.data_to_send(), 0.0)
    streams = {}
    for number, messages in enumerate(made):
        extra = [(b"n", b"%d" % number), (b"x-bin", b"\0\xff")]
        if len(messages) == 1:
            stream = client.request(b"/e", messages[0], end=True, metadata=extra)
        else:
            stream = client.request(b"/e", metadata=extra, timeout=1.5)
            for message in messages:
                client.send(stream, message)
            client.half_close(stream)
        streams[stream] = (messages, number)
    for _ in range(300_000):
        sent = client.take_output()
        package.receive(sent)
        package.push(data_size)
        answer = package.connection.data_to_send()
        for piece in chunks(answer, sizes):
            client.receive(piece, 0.0)
        if not sent and not answer:
            break
    assert not client.closing, client.close_reason
    for stream, (messages, number) in streams.items():
        assert calls.ends[stream] == (0, "fine \u2603")
        assert calls.messages.get(stream, []) == messages
        assert package.requests[stream][b":path"] == b"/e"
        assert package.requests[stream][b"n"] == b"%d" % number
        assert package.requests[stream][b"x-bin"] == b"AP8"
    assert client.open_streams == 0
    assert client.queued_total() == 0
