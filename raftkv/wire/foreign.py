"""What to say to a first chunk that is not HTTP/2: it is a wrong port, or a scanner."""

import re
from typing import Final

_METHOD: Final = re.compile(rb"[A-Z]{1,16}(?: |$)")
_BODY: Final = (
    b"This port speaks gRPC over HTTP/2 (etcd's v3 API), not HTTP/1.\n"
    b"Use raftctl, etcdctl or any gRPC client.\n"
)
_HTTP1_ANSWER: Final = (
    b"HTTP/1.1 400 Bad Request\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: %d\r\n"
    b"Connection: close\r\n"
    b"\r\n" % len(_BODY)
) + _BODY


def is_http1(data: bytes) -> bool:
    """Whether a first chunk begins like a request of HTTP/1."""
    return _METHOD.match(data) is not None and not data.startswith(b"PRI ")


def describe_foreign(data: bytes) -> tuple[str, bytes]:
    """A line for the log about bytes that are no HTTP/2 preface, and the answer to write."""
    if data[:1] == b"\x16":
        return "a TLS handshake on a port without TLS", b""
    if is_http1(data):
        line = data.split(b"\r\n", 1)[0][:80].decode("latin-1")
        return f"an HTTP/1 request on a gRPC port: {line!r}", _HTTP1_ANSWER
    return f"not HTTP/2: the connection starts with {data[:16]!r}", b""
