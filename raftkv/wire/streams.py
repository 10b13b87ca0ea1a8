"""One HTTP/2 stream: what it received but could not use yet, what it may not send yet."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from raftkv.wire.grpc import RequestHead
from raftkv.wire.hpack import Field
from raftkv.wire.tally import UNCOUNTED, Tally

NO_HEAD: Final = RequestHead(b"", {})


class Stream:
    """The state of one open stream. The usual unary call never needs one: see `Awaiting`.

    id: the HTTP/2 stream id. head: the request (servers).
    partial: received bytes of a message that is not complete; None: at a message border.
    message: a unary request that waits for END_STREAM.
    held_bytes: what `partial` and `message` keep in memory.
    received_bytes: DATA since the last WINDOW_UPDATE of this stream.
    remote_closed: the other end sent END_STREAM. local_closed: so did we.
    headers_sent, headers_received: response headers.
    window_bytes: how much DATA we may send; negative after a smaller initial window.
    queue, queued_bytes: framed messages that did not fit the windows, oldest first.
    deaf: what the other end still sends is dropped (servers: the answer is decided).
    ending: END_STREAM follows the queue, with `trailers` (servers).
    above: the queue rose above the low-water mark and `writable` is owed.
    hear: takes the messages instead of the connection's handler (servers); None: nobody does.
    tally: counts it. since: when it began, if that is to be measured, else 0.
    """

    __slots__ = (
        "above",
        "deaf",
        "ending",
        "gzip",
        "head",
        "headers_received",
        "headers_sent",
        "hear",
        "held_bytes",
        "id",
        "local_closed",
        "message",
        "partial",
        "queue",
        "queued_bytes",
        "received_bytes",
        "remote_closed",
        "since",
        "tally",
        "trailers",
        "window_bytes",
    )

    def __init__(self, stream: int, window_bytes: int, head: RequestHead = NO_HEAD) -> None:
        self.id = stream
        self.head = head
        self.gzip = head.gzip
        self.partial: bytearray | None = None
        self.message: bytes | None = None
        self.held_bytes = 0
        self.received_bytes = 0
        self.remote_closed = False
        self.local_closed = False
        self.headers_sent = False
        self.headers_received = False
        self.window_bytes = window_bytes
        self.queue: deque[bytes | memoryview] = deque()
        self.queued_bytes = 0
        self.deaf = False
        self.ending = False
        self.trailers: Sequence[Field] = ()
        self.above = False
        self.hear: Callable[[bytes], None] | None = None
        self.tally = head.tally
        self.since = 0.0


class Awaiting(Stream):
    """Stands in the table of streams for calls without any state of their own: on a server whole
    unary requests that wait for their replies, on a client unary calls without a response. All
    calls of a kind share one, so what is below cannot be set.
    """

    __slots__ = ()

    deaf = ending = local_closed = headers_received = headers_sent = False
    id = held_bytes = queued_bytes = window_bytes = 0
    hear = message = partial = None

    def __init__(self, tally: Tally, since: float = 0.0) -> None:
        self.tally = tally
        self.since = since


AWAITING: Final = Awaiting(UNCOUNTED)
