"""gRPC over HTTP/2: what a call is, and its header fields as values.

A message travels as `compressed u8 | length u32 | bytes` in DATA frames whose borders
mean nothing. A status travels in trailers: grpc-status, grpc-message (UTF-8,
percent-encoded). Binary metadata (names that end in -bin) is base64 on the wire.
Source: grpc/doc/PROTOCOL-HTTP2.md.
"""

import binascii
import re
import zlib
from collections.abc import Sequence
from typing import Final, Protocol

from raftkv.errors import Code, ProtocolError
from raftkv.wire.tally import UNCOUNTED, Tally

# Metadata that puts a call into a session of raftkv.v1.
SESSION_METADATA: Final = frozenset((b"raftkv-session", b"raftkv-sequence", b"raftkv-unanswered"))

_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])").fullmatch
_UNIT_SECONDS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_UNSAFE: Final = re.compile(rb"[^ -$&-~]")
_ESCAPED: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
_BASE64: Final = re.compile(rb" *([A-Za-z0-9+/]*)={0,2} *")
_MAX_TIMEOUT_DIGITS: Final = 99_999_999

# HTTP/2 error code of a RST_STREAM -> gRPC status (PROTOCOL-HTTP2.md, "Errors").
RESET_CODES: Final = {
    0: Code.INTERNAL,
    1: Code.INTERNAL,
    2: Code.INTERNAL,
    3: Code.INTERNAL,
    4: Code.INTERNAL,
    6: Code.INTERNAL,
    7: Code.UNAVAILABLE,
    8: Code.CANCELLED,
    9: Code.INTERNAL,
    10: Code.INTERNAL,
    11: Code.RESOURCE_EXHAUSTED,
    12: Code.PERMISSION_DENIED,
}
# HTTP status without a grpc-status -> gRPC status (http-grpc-status-mapping.md).
HTTP_CODES: Final = {
    400: Code.INTERNAL,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.UNIMPLEMENTED,
    429: Code.UNAVAILABLE,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.UNAVAILABLE,
}


class RequestHead:
    """What a call says before its messages. Shared between calls with equal headers: read only.

    path: "/package.Service/Method". authority: the host the client asked for.
    metadata: lower-case names; -bin values decoded; repeated values joined with b",".
    timeout: seconds the client is willing to wait, None: for ever.
    unary: `path` is one of the connection's unary paths. gzip: flagged messages are gzip.
    in_session: there is some SESSION_METADATA. tally: counts the calls of this path.
    """

    __slots__ = (
        "authority",
        "gzip",
        "in_session",
        "metadata",
        "path",
        "tally",
        "timeout",
        "unary",
    )

    def __init__(
        self,
        path: bytes,
        metadata: dict[bytes, bytes],
        timeout: float | None = None,
        *,
        authority: bytes = b"",
        unary: bool = False,
        gzip: bool = False,
        in_session: bool = False,
        tally: Tally = UNCOUNTED,
    ) -> None:
        self.path = path
        self.metadata = metadata
        self.timeout = timeout
        self.authority = authority
        self.unary = unary
        self.gzip = gzip
        self.in_session = in_session
        self.tally = tally

    def with_timeout(self, timeout: float) -> "RequestHead":
        """The same head with another timeout in seconds; shares the metadata."""
        return RequestHead(
            self.path,
            self.metadata,
            timeout,
            authority=self.authority,
            unary=self.unary,
            gzip=self.gzip,
            in_session=self.in_session,
            tally=self.tally,
        )

    def __repr__(self) -> str:
        # Metadata stays out: it may hold a password's token.
        return f"RequestHead({self.path!r}, timeout={self.timeout})"


class ServerHandler(Protocol):
    """Who answers the calls of a ServerConnection. May answer from inside these methods."""

    def unary(self, stream: int, head: RequestHead, message: bytes) -> None:
        """A whole unary request arrived; answer with `reply` or `finish`."""

    def opened(self, stream: int, head: RequestHead) -> None:
        """A call of a path that is not unary (or not known) begins."""

    def message(self, stream: int, message: bytes) -> None:
        """One message of a call that `opened` announced."""

    def half_closed(self, stream: int) -> None:
        """The client will send no more on this call."""

    def cancelled(self, stream: int) -> None:
        """The call is gone: whatever is sent on it from now on is dropped.

        Also called for calls that were not announced yet (a unary request cut short).
        """

    def writable(self, stream: int) -> None:
        """The call's queue drained below the low-water mark."""


def parse_timeout(value: bytes) -> float | None:
    """Seconds of a grpc-timeout, None if it is not 1-8 digits and a unit."""
    match = _TIMEOUT(value)
    return None if match is None else int(match[1]) * _UNIT_SECONDS[match[2]]


def decode_timeout(value: bytes) -> float:
    """Seconds of a grpc-timeout. Raises ProtocolError if it is malformed."""
    seconds = parse_timeout(value)
    if seconds is None:
        raise ProtocolError(f"malformed grpc-timeout {value[:32]!r}")
    return seconds


def encode_timeout(seconds: float) -> bytes:
    """The grpc-timeout of `seconds`, rounded up; never below one microsecond."""
    for unit, factor in ((b"u", 1e6), (b"m", 1e3), (b"S", 1.0), (b"M", 1 / 60), (b"H", 1 / 3600)):
        count = -int(-seconds * factor // 1)
        if count <= _MAX_TIMEOUT_DIGITS:
            return b"%d%s" % (max(count, 1), unit)
    return b"%dH" % _MAX_TIMEOUT_DIGITS


def encode_text(text: str) -> bytes:
    """A status text as grpc-message: UTF-8, percent-encoded outside 0x20-0x7e."""
    raw = text.encode("utf-8", "replace")
    return _UNSAFE.sub(lambda match: b"%%%02X" % match[0][0], raw)


def decode_text(value: bytes) -> str:
    """The status text of a grpc-message; broken escapes stay as they are."""
    raw = _ESCAPED.sub(lambda match: bytes((int(match[1], 16),)), value)
    return raw.decode("utf-8", "replace")


def encode_status(
    code: int, text: str, metadata: Sequence[tuple[bytes, bytes]]
) -> list[tuple[bytes, bytes]]:
    """The trailers of a call. metadata: lower-case names; the values of -bin names are raw."""
    fields = [(b"grpc-status", b"%d" % code)]
    if text:
        fields.append((b"grpc-message", encode_text(text)))
    for name, value in metadata:
        fields.append((name, encode_binary(value) if name[-4:] == b"-bin" else value))
    return fields


def encode_binary(value: bytes) -> bytes:
    """A -bin value: base64 without padding."""
    return binascii.b2a_base64(value, newline=False).rstrip(b"=")


def decode_binary(value: bytes) -> bytes:
    """A -bin value; several in one field are joined with b",". Raises ProtocolError."""
    parts: list[bytes] = []
    for field in value.split(b","):
        match = _BASE64.fullmatch(field)
        if match is None or len(match[1]) % 4 == 1:
            raise ProtocolError("a -bin header is not base64")
        parts.append(binascii.a2b_base64(match[1] + b"=" * (-len(match[1]) % 4)))
    return b",".join(parts)


def gunzip(message: bytes, max_bytes: int) -> bytes | None:
    """The bytes of a gzip message, or None if they are more than `max_bytes`.

    Never inflates beyond the limit. Raises ProtocolError if it is no whole gzip stream.
    """
    parts: list[bytes] = []
    room = max_bytes
    rest = message
    while True:
        inflater = zlib.decompressobj(wbits=31)
        try:
            part = inflater.decompress(rest, room + 1)
        except zlib.error:
            raise ProtocolError("grpc: failed to decompress the received message") from None
        parts.append(part)
        room -= len(part)
        if room < 0:
            return None
        if not inflater.eof:
            raise ProtocolError("grpc: failed to decompress the received message")
        if inflater.unused_data == b"":
            return b"".join(parts)
        rest = inflater.unused_data  # gzip members follow one another
