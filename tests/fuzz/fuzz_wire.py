"""Feeds mutated frames and noise to the wire code: `python -m tests.fuzz.fuzz_wire --seconds 60`.

Targets: ServerConnection, ClientConnection, the peer message codec. O12, O13.

Each case starts from a valid conversation, breaks it a little (bits, bytes, whole frames,
lengths), cuts it anywhere and lets a handler answer in every way it may. It must hold that:

* nothing raises, except ProtocolError from the peer decoder;
* the connection ends with a reason, or its books still balance (see `check`);
* what it writes is a sequence of whole frames;
* what it keeps stays within its limits.

Every case has its own seed, printed when it fails: `--seed S --cases 1` runs it alone.
"""

import argparse
import contextlib
import random
import sys
import time
import traceback

import hpack

from raftkv.errors import ProtocolError
from raftkv.raft.messages import (
    REMAINING,
    RENEW,
    AppendEntries,
    AppendReply,
    Forward,
    ForwardReply,
    Heartbeat,
    InstallSnapshot,
    LeaseAsk,
    LeaseTold,
    Message,
    VoteRequest,
)
from raftkv.raft.types import Configuration, Entry, SnapshotMeta
from raftkv.wire import frames, peer
from raftkv.wire.connection import Connection
from raftkv.wire.frames import frame
from raftkv.wire.grpc import RequestHead
from raftkv.wire.h2 import ConnectionLimits, ServerConnection
from raftkv.wire.h2_client import ClientConnection

LIMITS = ConnectionLimits(
    max_concurrent_streams=20,
    max_message_bytes=40_000,
    max_buffered_bytes=100_000,
    max_header_list_bytes=4_000,
    stream_window_bytes=70_000,
    connection_window_bytes=200_000,
    low_water_bytes=2_000,
    max_output_bytes=200_000,
)
PATHS = [b"/f/Unary", b"/f/Stream"]


class ServerSide:
    """Answers at random, from inside the calls and later."""

    connection: ServerConnection

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.streams: list[int] = []
        self.cancelled_streams: set[int] = set()

    def unary(self, stream: int, head: RequestHead, message: bytes) -> None:
        assert head.unary
        assert len(message) <= LIMITS.max_message_bytes
        assert self.connection.is_open(stream)
        self.streams.append(stream)
        if self.rng.random() < 0.7:
            self.connection.reply(stream, message)

    def opened(self, stream: int, head: RequestHead) -> None:
        self.streams.append(stream)
        self.act()

    def message(self, stream: int, message: bytes) -> None:
        assert stream in self.streams
        assert stream not in self.cancelled_streams
        self.act()

    def half_closed(self, stream: int) -> None:
        assert stream in self.streams
        self.act()

    def cancelled(self, stream: int) -> None:
        assert not self.connection.is_open(stream)
        self.cancelled_streams.add(stream)

    def writable(self, stream: int) -> None:
        assert self.connection.is_open(stream)
        self.act()

    def act(self) -> None:
        """One thing a server may do, on any stream it ever saw."""
        rng, connection = self.rng, self.connection
        stream = rng.choice(self.streams) if self.streams else 1
        choice = rng.randrange(10)
        if choice < 3:
            connection.send(stream, rng.randbytes(rng.choice([0, 10, 3000, 30_000])))
        elif choice < 5:
            connection.finish(stream, rng.choice([0, 0, 5]), "t\xe9xt" * rng.randrange(3))
        elif choice == 5:
            connection.reply(stream, b"reply")
        elif choice == 6:
            connection.reset(stream)
        elif choice == 7:
            connection.send_headers(stream)
        elif choice == 8:
            connection.pause_output()
        else:
            connection.resume_output()
            if rng.random() < 0.02:
                connection.go_away()


class ClientSide:
    """Counts what ends."""

    def __init__(self) -> None:
        self.ended: set[int] = set()

    def headers(self, stream: int) -> None:
        assert stream not in self.ended

    def message(self, stream: int, message: bytes) -> None:
        assert stream not in self.ended
        assert len(message) <= LIMITS.max_message_bytes

    def finished(self, stream: int, code: int, text: str) -> None:
        assert stream not in self.ended
        self.ended.add(stream)


def request_frames(rng: random.Random) -> list[bytes]:
    """A client's valid conversation, frame by frame."""
    encoder = hpack.Encoder()
    made = [frames.settings([(rng.randrange(1, 7), rng.choice([0, 1, 100, 16384, 70_000]))])]
    for stream in range(1, 2 * rng.randrange(1, 12), 2):
        fields = [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", rng.choice(PATHS)),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
        ]
        if rng.random() < 0.3:
            fields.append((b"x-%d" % rng.randrange(3), rng.randbytes(5).hex().encode()))
        if rng.random() < 0.2:
            fields.append((b"grpc-timeout", b"%dm" % rng.randrange(1000)))
        block = encoder.encode(fields)
        if rng.random() < 0.2:
            cut = rng.randrange(len(block))
            made += [frame(1, 0, stream, block[:cut]), frame(9, 4, stream, block[cut:])]
        else:
            made.append(frame(1, 4, stream, block))
        made += data_frames(rng, stream, end=rng.random() < 0.8)
        made += control_frames(rng, stream)
    return made


def data_frames(rng: random.Random, stream: int, end: bool) -> list[bytes]:
    """Messages, cut into DATA frames."""
    body = b""
    for _ in range(rng.choice([1, 1, 1, 3])):
        message = rng.randbytes(rng.choice([0, 5, 100, 17_000]))
        body += frames.PREFIX.pack(0, len(message)) + message
    size = rng.choice([4, 1000, 16_384])
    pieces = [body[at : at + size] for at in range(0, len(body), size)][:50]
    made = [frame(0, 0, stream, piece) for piece in pieces[:-1]]
    return [*made, frame(0, 1 if end else 0, stream, pieces[-1])]


def control_frames(rng: random.Random, stream: int) -> list[bytes]:
    """What else a peer says now and then."""
    choices = [
        frames.window_update(0, rng.choice([1, 5000, 2**30])),
        frames.window_update(stream, rng.choice([1, 5000, 2**30])),
        frames.rst_stream(stream, 8),
        frames.settings([(4, rng.choice([0, 10, 65_535]))]),
        frames.settings([(1, rng.choice([0, 100, 4096]))]),
        frame(6, rng.choice([0, 1]), 0, bytes(8)),
        frame(2, 0, stream, bytes(5)),
        frame(4, 1, 0),
        frame(99, 3, stream, b"?"),
        frames.goaway(stream, 0, b"bye"),
    ]
    return rng.sample(choices, rng.choice([0, 0, 1, 2]))


def response_frames(rng: random.Random) -> list[bytes]:
    """A server's valid answers to streams 1, 3, ..."""
    encoder = hpack.Encoder()
    made = [frames.settings([(rng.choice([3, 4, 5]), rng.choice([5, 100, 16384]))])]
    for stream in range(1, 2 * rng.randrange(1, 12), 2):
        if rng.random() < 0.8:
            fields = [(b":status", b"200"), (b"content-type", b"application/grpc")]
            made.append(frame(1, 4, stream, encoder.encode(fields)))
            made += data_frames(rng, stream, end=False)
            fields = [(b"grpc-status", b"%d" % rng.choice([0, 0, 5]))]
        else:
            fields = [(b":status", b"200"), (b"grpc-status", b"9"), (b"grpc-message", b"a%20b%")]
        made.append(frame(1, 5, stream, encoder.encode(fields)))
        made += control_frames(rng, stream)
    return made


def mutate(rng: random.Random, parts: list[bytes]) -> bytes:
    """Breaks a conversation in a few places, or in none."""
    parts = list(parts)
    for _ in range(rng.choice([0, 0, 1, 1, 2, 5])):
        at = rng.randrange(len(parts))
        choice = rng.randrange(7)
        if choice == 0:
            parts[at] = b""
        elif choice == 1:
            parts.insert(at, rng.choice(parts))
        elif choice == 2:
            other = rng.randrange(len(parts))
            parts[at], parts[other] = parts[other], parts[at]
        elif choice == 3:
            parts[at] = rng.randbytes(rng.randrange(40))
        elif parts[at]:
            broken = bytearray(parts[at])
            where = rng.randrange(min(len(broken), 12) if choice < 6 else len(broken))
            broken[where] ^= 1 << rng.randrange(8)
            parts[at] = bytes(broken)
    return b"".join(parts)


def feed(rng: random.Random, connection: Connection, data: bytes, act: ServerSide | None) -> None:
    """Receives `data` in random chunks, with time and answers in between."""
    size = rng.choice([1, 9, 100, 5000, 100_000])
    if size == 1:
        data = data[:3000]
    now = 0.0
    pos = 0
    while pos < len(data):
        step = rng.randrange(1, size + 1)
        connection.receive(data[pos : pos + step], now)
        pos += step
        if act is not None and rng.random() < 0.3:
            act.act()
        if rng.random() < 0.1:
            now += rng.choice([0.0, 0.1, 4.0])
            connection.tick(now)
        check(connection)
        if rng.random() < 0.7:
            check_output(connection.take_output())
    check_output(connection.take_output())
    for _ in range(3):
        now += 3000.0
        connection.tick(now)
    check(connection)
    connection.connection_lost("the end")
    check(connection)


def check(connection: Connection) -> None:
    """The books balance, and nothing is larger than its limit."""
    assert connection.closing == bool(connection.close_reason)
    if connection.closing:
        assert connection.open_streams == 0
    states = [state for state in connection._streams.values() if state.id]
    assert connection._queued_bytes == sum(state.queued_bytes for state in states)
    assert connection._held_bytes == sum(state.held_bytes for state in states)
    assert connection._held_bytes <= LIMITS.max_buffered_bytes
    assert connection._queued_bytes <= LIMITS.max_output_bytes + 31_000
    for state in states:
        assert connection._streams[state.id] is state
        assert state.queued_bytes == sum(map(len, state.queue))
        assert bool(state.queue) == (state.id in connection._waiting)
        if state.partial is not None:
            assert len(state.partial) <= state.held_bytes
    assert len(connection._rest) <= 16_384 + 9
    assert len(connection._forgotten) <= 2048
    assert connection._window_bytes >= 0
    assert connection._decoder._used <= 4096
    block = connection._block
    assert block is None or len(block) <= LIMITS.max_header_list_bytes + 2 * 16_384


def check_output(output: bytes) -> None:
    """Whole frames only, none above the default frame size by more than settings allow."""
    output = output.removeprefix(frames.PREFACE)
    if output.startswith(b"HTTP/1.1 400"):
        return
    while output:
        kind, _, stream = frames.HEADER.unpack_from(output)
        assert kind & 0xFF in (0, 1, 3, 4, 6, 7, 8, 9)
        assert stream < 2**31
        assert len(output) >= 9 + (kind >> 8)
        output = output[9 + (kind >> 8) :]


def fuzz_server(rng: random.Random) -> None:
    """One case against ServerConnection."""
    side = ServerSide(rng)
    connection = ServerConnection(side, {PATHS[0]}, LIMITS)
    side.connection = connection
    if rng.random() < 0.05:
        feed(rng, connection, rng.randbytes(200), side)
    else:
        feed(rng, connection, frames.PREFACE + mutate(rng, request_frames(rng)), side)


def fuzz_client(rng: random.Random) -> None:
    """One case against ClientConnection."""
    side = ClientSide()
    connection = ClientConnection(side, b"fuzz", limits=LIMITS)
    opened = set()
    for _ in range(rng.randrange(15)):
        if not connection.can_request:
            break  # what is queued already exceeds `max_output_bytes`
        end = rng.random() < 0.7
        body = rng.randbytes(rng.choice([0, 10, 30_000]))
        opened.add(connection.request(rng.choice(PATHS), body, end=end))
    feed(rng, connection, mutate(rng, response_frames(rng)), None)
    assert side.ended == opened


def peer_messages(rng: random.Random) -> list[Message]:
    """A few valid messages between members."""
    entries = [
        Entry(rng.randrange(2**40), rng.randrange(9), rng.randrange(3), rng.randbytes(30))
        for _ in range(rng.randrange(4))
    ]
    who = Configuration((1, 2, 3), (1, 2), (4,), ())
    choices: list[Message] = [
        AppendEntries(1, 2, 3, 4, 5, entries, 6, 7),
        AppendReply(1, 2, 3, True, 4),
        Heartbeat(1, 2, 3, 4),
        VoteRequest(1, 2, 3, 4, 5, True),
        InstallSnapshot(1, 2, 3, SnapshotMeta(9, 8, who)),
        Forward(1, 2, 3, 4, [(5, b"abc"), (6, b"")]),
        ForwardReply(1, 2, 3, 4, [1, 2, 3], 8, "text"),
        LeaseAsk(1, 2, 3, 4, [(5, RENEW, -7), (6, REMAINING, 8)]),
        LeaseTold(1, 2, 3, 4, [(5, 0, 0), (6, -1, 60_000)]),
    ]
    return rng.choices(choices, k=rng.randrange(1, 5))


def fuzz_peer(rng: random.Random) -> None:
    """One case against the peer codec: what it accepts must encode to the same bytes."""
    messages = peer_messages(rng)
    body = peer.encode_messages(messages)
    assert peer.decode_messages(body) == messages
    packet = bytearray(peer.pack(body))
    for _ in range(rng.randrange(1, 4)):
        where = rng.randrange(len(packet))
        choice = rng.randrange(4)
        if choice == 0:
            packet[where] ^= 1 << rng.randrange(8)
        elif choice == 1:
            packet[where] = rng.choice([0, 255, 128])
        elif choice == 2:
            del packet[where : where + rng.randrange(1, 9)]
        else:
            packet[where:where] = rng.randbytes(rng.randrange(9))
        if not packet:
            break
    for data in (bytes(packet), rng.randbytes(rng.randrange(100))):
        with contextlib.suppress(ProtocolError):
            peer.unpack(data)
    try:
        decoded = peer.decode_messages(bytes(packet[2:]))
    except ProtocolError:
        return
    again = peer.decode_messages(peer.encode_messages(decoded))
    assert again == decoded


TARGETS = [fuzz_server, fuzz_server, fuzz_client, fuzz_peer]


def run_case(seed: int) -> None:
    """One case, the same for the same seed."""
    rng = random.Random(seed)
    rng.choice(TARGETS)(rng)


def main() -> int:
    """Runs cases until the time is over; 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, default=sys.maxsize)
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    seed = arguments.seed
    while time.monotonic() < end and seed - arguments.seed < arguments.cases:
        try:
            run_case(seed)
        except Exception:  # noqa: BLE001  (whatever it is, it is the find)
            traceback.print_exc()
            print(f"failed: --seed {seed} --cases 1")
            return 1
        seed += 1
    print(f"{seed - arguments.seed} cases without a find")
    return 0


if __name__ == "__main__":
    sys.exit(main())
