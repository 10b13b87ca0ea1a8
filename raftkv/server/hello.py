"""What a TLS client offers by ALPN (RFC 7301), read from its first bytes.

Python's ssl cannot refuse a client whose offer has nothing in common with the server's, and
does not even tell such a client from one that offers nothing. So the first record is read
before the handshake begins:

    record    := 22 u8 | version u16 | length u16 | ClientHello
    ClientHello := 1 u8 | length u24 | version u16 | random 32 | session (u8 length)
                 | suites (u16 length) | compressions (u8 length) | extensions (u16 length)
    extension := kind u16 | body (u16 length);  ALPN's body: names (u16 length), each (u8 length)

Whatever is not understood, such as a hello in several records, counts as no offer: the
handshake proper judges it.
"""

from typing import Final

# A fatal alert no_application_protocol (RFC 7301 3.2) before anything is encrypted.
NO_APPLICATION_PROTOCOL: Final = b"\x15\x03\x03\x00\x02\x02\x78"

_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_ALPN: Final = 16
_RECORD_HEAD_BYTES: Final = 5
_MAX_RECORD_BYTES: Final = 1 << 14


class _Reader:
    """Takes fields from the front of some bytes. Raises IndexError when they end early."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        self._at += count
        if self._at > len(self._data):
            raise IndexError
        return self._data[self._at - count : self._at]

    def number(self, size_bytes: int) -> int:
        """The next bytes as a number."""
        return int.from_bytes(self.take(size_bytes), "big")

    def vector(self, size_bytes: int) -> "_Reader":
        """What follows a length of `size_bytes` bytes."""
        return _Reader(self.take(self.number(size_bytes)))

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._data) - self._at)


def offered_protocols(data: bytes) -> list[bytes] | None:
    """The protocols that a client offers, its favourite first; [] if it offers none.

    data: all that it has sent so far. None: ask again when there is more.
    """
    if data[:1] != bytes((_HANDSHAKE,)):
        return [] if data else None
    if len(data) < _RECORD_HEAD_BYTES:
        return None
    length = int.from_bytes(data[3:5], "big")
    if length > _MAX_RECORD_BYTES:
        return []
    if len(data) < _RECORD_HEAD_BYTES + length:
        return None
    try:
        return _alpn(_Reader(data[_RECORD_HEAD_BYTES : _RECORD_HEAD_BYTES + length]))
    except IndexError:
        return []


def _alpn(record: _Reader) -> list[bytes]:
    if record.number(1) != _CLIENT_HELLO:
        return []
    hello = record.vector(3)
    hello.take(2 + 32)
    hello.vector(1)
    hello.vector(2)
    hello.vector(1)
    extensions = hello.vector(2)
    while extensions:
        kind, body = extensions.number(2), extensions.vector(2)
        if kind == _ALPN:
            names, found = body.vector(2), []
            while names:
                found.append(names.vector(1).rest())
            return found
    return []
