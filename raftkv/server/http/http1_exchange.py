"""One request of an HTTP/1 connection and the bytes of its answer."""

import time
from collections.abc import Iterable
from email.utils import formatdate
from typing import Final, Protocol

from raftkv.server.http.messages import REASONS, Fields, Receiver, Request

_CACHED_HEADS: Final = 128
_CLOSE: Final = b"Connection: close\r\n"


class Carrier(Protocol):
    """The connection of a request."""

    def write(self, data: bytes) -> None:
        """Writes to the client."""

    def queued_bytes(self) -> int:
        """What the kernel has not taken."""

    def answered(self, call: "Http1Exchange") -> None:
        """An answer is complete."""


class _Clock:
    """The Date field's value, made once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._text = b""

    def text(self) -> bytes:
        """Now, as HTTP writes it (RFC 9110 5.6.7)."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._text = b"Date: " + formatdate(second, usegmt=True).encode() + b"\r\n"
        return self._text


_clock: Final = _Clock()
_heads: dict[tuple[int, Fields, Fields], bytes] = {}


def _render(status: int, extra: Fields, fields: Fields) -> bytes:
    """Status line without the version, and fields. The same few come again and again."""
    key = (status, extra, fields)
    head = _heads.get(key)
    if head is None:
        lines = [b" %d %s\r\n" % (status, REASONS[status])]
        lines += [b"%s: %s\r\n" % field for field in (*extra, *fields)]
        if len(_heads) >= _CACHED_HEADS:
            _heads.clear()
        head = _heads[key] = b"".join(lines)
    return head


class Http1Exchange:
    """One request of the connection and its answer (messages.Exchange)."""

    __slots__ = (
        "_chunked",
        "body",
        "complete",
        "connection",
        "done",
        "extra",
        "is_open",
        "keep",
        "old",
        "receiver",
        "request",
        "started",
        "upgrade",
    )

    def __init__(self, connection: Carrier, request: Request, old: bool, keep: bool) -> None:
        self.connection = connection
        self.request = request
        self.receiver: Receiver | None = None  # None: its turn has not come
        self.body: list[bytes] = []  # meanwhile
        self.old = old  # HTTP/1.0
        self.keep = keep  # the connection afterwards
        self.extra: Fields = ()
        self.is_open = True
        self.upgrade = False  # to a WebSocket
        self.complete = False  # all of the request is here
        self.started = False  # the answer
        self.done = False
        self._chunked = False

    # --- the answer ---------------------------------------------------------

    def _head(self, status: int, fields: Fields) -> list[bytes]:
        self.started = True
        parts = [
            b"HTTP/1.0" if self.old else b"HTTP/1.1",
            _render(status, self.extra, fields),
            _clock.text(),
        ]
        if not self.keep:
            if not self.old:
                parts.append(_CLOSE)
        elif self.old:
            parts.append(b"Connection: keep-alive\r\n")
        return parts

    def respond(self, status: int, fields: Fields, body: bytes) -> None:
        """The whole answer."""
        if not self.is_open or self.started:
            return
        parts = self._head(status, fields)
        parts.append(b"Content-Length: %d\r\n\r\n" % len(body))
        if self.request.method != b"HEAD":
            parts.append(body)
        self.connection.write(b"".join(parts))
        self._finish()

    def begin(self, status: int, fields: Fields) -> None:
        """The head of an answer in chunks; a client of HTTP/1.0 reads until the end."""
        if not self.is_open or self.started:
            return
        if self.old:
            self.keep = False
        else:
            self._chunked = True
            fields = (*fields, (b"Transfer-Encoding", b"chunked"))
        self.connection.write(b"".join((*self._head(status, fields), b"\r\n")))

    def write_all(self, pieces: Iterable[bytes]) -> None:
        """Pieces of the body, a chunk each."""
        if not self.is_open:
            return
        if self._chunked:
            pieces = [b"%x\r\n%b\r\n" % (len(one), one) for one in pieces]
        self.connection.write(b"".join(pieces))

    def end(self) -> None:
        """The answer is complete."""
        if not self.is_open:
            return
        if self._chunked:
            self.connection.write(b"0\r\n\r\n")
        self._finish()

    def _finish(self) -> None:
        self.is_open = False
        self.done = True
        self.connection.answered(self)

    def queued_bytes(self) -> int:
        """What the kernel has not taken."""
        return self.connection.queued_bytes()

    # --- the body -----------------------------------------------------------

    def hear(self, data: bytes) -> None:
        """Bytes of the body, now or when its turn comes."""
        if self.receiver is None:
            self.body.append(data)
        else:
            self.receiver.piece(data)

    def begin_receiving(self, receiver: Receiver) -> None:
        """Its turn has come."""
        self.receiver = receiver
        body, self.body = self.body, []
        for data in body:
            receiver.piece(data)
        if self.complete:
            receiver.ended()

    def ended(self) -> None:
        """The whole request is here."""
        self.complete = True
        if self.receiver is not None:
            self.receiver.ended()
