"""From the header fields of a request to a `RequestHead`, or to the reason against it.

Rules: RFC 9113 8.2 and 8.3 (malformed requests reset the stream), PROTOCOL-HTTP2.md
(what gRPC answers to a wrong method, content type, encoding or timeout).
"""

import re
from collections.abc import Container, Mapping
from typing import Final, NamedTuple

from raftkv.errors import SESSION_MISPLACED, Code, ProtocolError
from raftkv.wire.grpc import (
    SESSION_METADATA,
    RequestHead,
    decode_binary,
    decode_timeout,
    encode_text,
    parse_timeout,
)
from raftkv.wire.hpack import Field
from raftkv.wire.tally import UNCOUNTED, Tally

_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
_VALUE: Final = re.compile(rb"(?:[^\x00\r\n\t ](?:[^\x00\r\n]*[^\x00\r\n\t ])?)?").fullmatch
_PSEUDO: Final = frozenset((b":method", b":scheme", b":path", b":authority"))
_FORBIDDEN: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
# Read here and of no use to a handler.
_TRANSPORT: Final = frozenset(
    (b"te", b"content-type", b"grpc-encoding", b"grpc-accept-encoding", b"grpc-timeout")
)
_ENCODINGS: Final = frozenset((b"identity", b"gzip", b""))
_NO_TALLIES: Final[Mapping[bytes, Tally]] = {}
_REMEMBERED_HEADS: Final = 64


class Refusal(NamedTuple):
    """Why a request is not taken.

    status: HTTP status of the answer; 0: malformed, the stream is reset instead.
    code, text: gRPC status of the answer.
    """

    status: int
    code: int
    text: str

    def fields(self) -> list[Field]:
        """The header fields of the answer."""
        fields = [
            (b":status", b"%d" % self.status),
            (b"content-type", b"application/grpc"),
            (b"grpc-status", b"%d" % self.code),
            (b"grpc-message", encode_text(self.text)),
        ]
        if self.code == Code.UNIMPLEMENTED:
            fields.append((b"grpc-accept-encoding", b"identity,gzip"))
        elif self.status == 405:
            fields.append((b"allow", b"POST"))
        return fields


def _malformed(text: str) -> Refusal:
    return Refusal(0, Code.INTERNAL, text)


def check_fields(fields: list[Field]) -> str:
    """What is wrong with the form of header fields or trailers, "" if nothing (RFC 9113 8.2)."""
    for name, value in fields:
        if name[:1] != b":" and _NAME(name) is None:
            return "a header name has a character that is not allowed"
        if _VALUE(value) is None:
            return "a header value has a character that is not allowed"
        if name in _FORBIDDEN or (name == b"te" and value != b"trailers"):
            return f"the header {name.decode('latin-1')} does not belong into HTTP/2"
    return ""


def parse_request(
    fields: list[Field],
    unary_paths: Container[bytes],
    session_paths: Container[bytes] = (),
    tallies: Mapping[bytes, Tally] = _NO_TALLIES,
) -> RequestHead | Refusal:
    """The head of a call from its decoded header fields.

    unary_paths, session_paths: see `h2.ServerConnection`. tallies: count the calls of paths.
    """
    wrong = check_fields(fields)
    if wrong:
        return _malformed(wrong)
    pseudo: dict[bytes, bytes] = {}
    plain: dict[bytes, bytes] = {}
    for name, value in fields:
        if name[0] == 58:
            if plain or name in pseudo or name not in _PSEUDO:
                return _malformed("a pseudo-header is unknown, repeated or behind a header")
            pseudo[name] = value
        else:
            plain[name] = plain[name] + b"," + value if name in plain else value
    path = pseudo.get(b":path", b"")
    method = pseudo.get(b":method")
    if not path or method is None or b":scheme" not in pseudo:
        return _malformed(":path, :method or :scheme is missing")
    if method != b"POST":
        return Refusal(405, Code.INTERNAL, "gRPC calls are POST requests")
    content_type = plain.get(b"content-type", b"")
    if not content_type.startswith(b"application/grpc") or content_type[16:17] not in b"+;":
        return Refusal(415, Code.INVALID_ARGUMENT, "the content-type is not application/grpc")
    encoding = plain.get(b"grpc-encoding", b"")
    if encoding not in _ENCODINGS:
        label = encoding[:32].decode("latin-1")
        text = f'grpc: Decompressor is not installed for grpc-encoding "{label}"'
        return Refusal(200, Code.UNIMPLEMENTED, text)
    try:
        timeout = decode_timeout(plain[b"grpc-timeout"]) if b"grpc-timeout" in plain else None
        metadata = {
            name: decode_binary(value) if name[-4:] == b"-bin" else value
            for name, value in plain.items()
            if name not in _TRANSPORT
        }
    except ProtocolError as error:
        return Refusal(200, Code.INTERNAL, str(error))
    in_session = not SESSION_METADATA.isdisjoint(metadata)
    if in_session and path not in session_paths:
        # Not ignored: whoever sends it believes that the call may be repeated.
        return Refusal(200, SESSION_MISPLACED.code, SESSION_MISPLACED.text)
    return RequestHead(
        path,
        metadata,
        timeout,
        authority=pseudo.get(b":authority", plain.get(b"host", b"")),
        unary=path in unary_paths,
        gzip=encoding == b"gzip",
        in_session=in_session,
        tally=tallies.get(path, UNCOUNTED),
    )


class RequestParser:
    """`parse_request` for one connection, which remembers requests but for their timeouts.

    tallies: count the calls of paths.
    """

    def __init__(self, unary_paths: Container[bytes], session_paths: Container[bytes]) -> None:
        self.tallies = _NO_TALLIES
        self.paths = unary_paths, session_paths
        self._untimed: dict[tuple[Field, ...], RequestHead] = {}

    def parse(self, fields: list[Field]) -> RequestHead | Refusal:
        """The head of a call from its decoded header fields."""
        return self._timed(fields) or parse_request(fields, *self.paths, self.tallies)

    def _timed(self, fields: list[Field]) -> RequestHead | None:
        """The head of a request that differs from an earlier one in its grpc-timeout only.

        Go's clients put every new timeout into the table, so their blocks never repeat.
        None: no timeout, or one that needs the general way. Only timeouts behind the first
        four fields count, so that no misplaced pseudo-header escapes the rules.
        """
        at = next((i for i, field in enumerate(fields) if field[0] == b"grpc-timeout"), 0)
        timeout = parse_timeout(fields[at][1]) if at >= 4 else None
        if timeout is None:
            return None
        key = (*fields[:at], *fields[at + 1 :])
        base = self._untimed.get(key)
        if base is None:
            parsed = parse_request(list(key), *self.paths, self.tallies)
            if isinstance(parsed, Refusal):
                return None
            if len(self._untimed) >= _REMEMBERED_HEADS:
                self._untimed.clear()
            base = self._untimed[key] = parsed
        return base.with_timeout(timeout)
