"""What connections count about calls: every call begins once and ends once."""

import random

from raftkv.errors import Code
from raftkv.histogram import Histogram
from raftkv.wire.grpc import RequestHead
from raftkv.wire.h2 import ServerConnection
from raftkv.wire.h2_client import ClientConnection
from raftkv.wire.tally import Tally

UNARY, STREAM = b"/s/U", b"/s/S"


class Service:
    """Remembers its calls, for the test to answer."""

    def __init__(self) -> None:
        self.unanswered: list[int] = []
        self.streams: list[int] = []

    def unary(self, stream: int, head: RequestHead, message: bytes) -> None:
        self.unanswered.append(stream)

    def opened(self, stream: int, head: RequestHead) -> None:
        self.streams.append(stream)

    def message(self, stream: int, message: bytes) -> None: ...
    def half_closed(self, stream: int) -> None: ...

    def cancelled(self, stream: int) -> None:
        for calls in (self.unanswered, self.streams):
            if stream in calls:
                calls.remove(stream)

    def writable(self, stream: int) -> None: ...


class Caller:
    """Remembers how its calls ended."""

    def __init__(self) -> None:
        self.codes: dict[int, int] = {}
        self.messages = 0

    def headers(self, stream: int) -> None: ...

    def message(self, stream: int, message: bytes) -> None:
        self.messages += 1

    def finished(self, stream: int, code: int, text: str) -> None:
        self.codes[stream] = code

    def writable(self, stream: int) -> None: ...


class Pair:
    """Both ends, joined by hand, with a tally per path. measured: calls are timed."""

    def __init__(self, *, measured: bool = False) -> None:
        self.now = 100.0
        self.service, self.caller = Service(), Caller()
        seconds = (Histogram((1.0, 2.0)), Histogram((1.0, 2.0))) if measured else (None, None)
        self.unary, self.stream = (Tally(one) for one in seconds)
        self.server = ServerConnection(self.service, {UNARY})
        tallies = {UNARY: self.unary, STREAM: self.stream}
        self.server.count(tallies, (lambda: self.now) if measured else None)
        self.client = ClientConnection(self.caller, b"a")

    def call(self, path: bytes = UNARY, message: bytes | None = b"m", *, end: bool = True) -> int:
        stream = self.client.request(path, message, end=end)
        self.carry()
        return stream

    def carry(self) -> None:
        for _ in range(3):
            self.server.receive(self.client.take_output(), self.now)
            self.client.receive(self.server.take_output(), self.now)


def started(tally: Tally) -> int:
    return tally.started + tally.quick


def ended(tally: Tally) -> list[int]:
    counts = list(tally.ended)
    counts[0] += tally.answered
    return counts


def of(**codes: int) -> list[int]:
    counts = [0] * 17
    for name, count in codes.items():
        counts[getattr(Code, name)] = count
    return counts


def test_an_answered_call_is_one_start_one_message_each_way_and_one_end() -> None:
    pair = Pair()
    for count in range(1, 6):  # the first ones take the general way, the others the short one
        pair.call()
        pair.server.reply(pair.service.unanswered.pop(), b"r")
        pair.carry()
        tally = pair.unary
        assert (started(tally), ended(tally)) == (count, of(OK=count))
        assert tally.received + tally.quick == tally.sent + tally.answered == count
    assert pair.unary.quick > 0, "the short way was never taken"
    assert pair.unary.answered > 0
    assert pair.stream.ended == [0] * 17


def test_an_error_counts_under_its_own_code() -> None:
    pair = Pair()
    for _ in range(3):
        pair.call()
        pair.server.finish(pair.service.unanswered.pop(), Code.OUT_OF_RANGE, "no")
        pair.carry()
    assert ended(pair.unary) == of(OUT_OF_RANGE=3)
    assert pair.unary.sent + pair.unary.answered == 0


def test_a_call_that_the_client_gives_up_is_cancelled_once() -> None:
    pair = Pair()
    stream = pair.call()
    pair.client.reset(stream)
    pair.carry()
    pair.server.reply(stream, b"too late")
    assert ended(pair.unary) == of(CANCELLED=1)


def test_calls_of_a_connection_that_is_gone_are_cancelled() -> None:
    pair = Pair()
    pair.call()
    pair.call(STREAM, end=False)
    pair.server.abandon()
    pair.server.abandon()
    assert ended(pair.unary) == ended(pair.stream) == of(CANCELLED=1)
    for stream in (*pair.service.unanswered, *pair.service.streams):
        pair.server.finish(stream, Code.OK)
    assert sum(ended(pair.unary)) == sum(ended(pair.stream)) == 1


def test_a_stream_counts_every_message_and_its_one_end() -> None:
    pair = Pair()
    stream = pair.call(STREAM, end=False)
    for _ in range(4):
        pair.client.send(stream, b"m")
        pair.carry()
    heard: list[bytes] = []
    pair.server.listen(stream, heard.append)  # these take the short way
    for _ in range(3):
        pair.client.send(stream, b"m")
        pair.carry()
    pair.server.send(stream, b"a")
    pair.server.send_framed(stream, b"\0\0\0\0\1b\0\0\0\0\1c", 2)
    pair.server.finish(stream)
    pair.carry()
    tally = pair.stream
    assert heard == [b"m"] * 3
    assert (started(tally), tally.received, tally.sent) == (1, 8, 3)
    assert ended(tally) == of(OK=1)
    assert pair.caller.messages == 3


def test_every_call_of_a_random_mixture_begins_and_ends_once() -> None:
    source = random.Random(7)
    pair = Pair()
    calls = {UNARY: 0, STREAM: 0}
    for _ in range(400):
        path = source.choice((UNARY, STREAM))
        stream = pair.call(path, end=path == UNARY)
        calls[path] += 1
        choice = source.random()
        if choice < 0.4:
            pair.server.reply(stream, b"r")
        elif choice < 0.6:
            pair.server.finish(stream, source.randrange(1, 17), "no")
        elif choice < 0.8:
            pair.client.reset(stream)
        pair.carry()
    for path, tally in ((UNARY, pair.unary), (STREAM, pair.stream)):
        assert started(tally) == calls[path]
        assert sum(ended(tally)) < calls[path], "some are open"
    pair.server.abandon()
    for path, tally in ((UNARY, pair.unary), (STREAM, pair.stream)):
        assert sum(ended(tally)) == calls[path]


def test_calls_of_unknown_paths_are_not_counted_under_others() -> None:
    pair = Pair()
    pair.call(b"/s/Other")
    assert started(pair.unary) + started(pair.stream) == 0


def test_measured_calls_tell_how_long_they_took() -> None:
    pair = Pair(measured=True)
    for took in (0.5, 0.5, 1.5, 9.0):
        pair.call()
        pair.now += took
        pair.server.reply(pair.service.unanswered.pop(), b"r")
        pair.carry()
    pair.call()
    pair.now += 1.5
    pair.server.finish(pair.service.unanswered.pop(), Code.INTERNAL, "no")
    stream = pair.call(STREAM, end=False)
    pair.now += 5.0
    pair.client.reset(stream)
    pair.carry()
    assert pair.unary.seconds is not None
    assert pair.stream.seconds is not None
    assert (pair.unary.seconds.counts, pair.unary.seconds.sum) == ([2, 2, 1], 13.0)
    assert pair.stream.seconds.counts == [0, 0, 1]


def test_unmeasured_calls_ask_no_clock() -> None:
    pair = Pair()
    pair.call()
    pair.server.reply(pair.service.unanswered.pop(), b"r")
    assert pair.unary.seconds is None
