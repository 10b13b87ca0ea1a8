"""From the header fields of a response to its status (for clients)."""

from typing import Final, NamedTuple

from raftkv.errors import Code
from raftkv.wire.grpc import HTTP_CODES, decode_text
from raftkv.wire.hpack import Field

NO_STATUS: Final = -1
_MAX_TEXT_BYTES: Final = 4096


class Response(NamedTuple):
    """What one header block of a response says.

    code: gRPC status, NO_STATUS if the block carries none. text: of the status.
    informational: a 1xx block, more follow. gzip: flagged messages are gzip.
    wrong: why this is no gRPC response, with `code` mapped from the HTTP status; "" if it is.
    """

    code: int
    text: str
    informational: bool = False
    gzip: bool = False
    wrong: str = ""


def parse_response(fields: list[Field], trailers: bool) -> Response:
    """Reads response headers, or trailers (which have no :status)."""
    values = dict(fields)
    status = values.get(b":status", b"")
    raw_code = values.get(b"grpc-status")
    text = decode_text(values.get(b"grpc-message", b"")[:_MAX_TEXT_BYTES])
    if raw_code is None:
        code = NO_STATUS
    else:
        code = int(raw_code) if raw_code.isdigit() and len(raw_code) < 10 else Code.UNKNOWN
    if trailers:
        return Response(code, text)
    if len(status) != 3 or not status.isdigit():
        return Response(Code.INTERNAL, "", wrong="a response without :status")
    if status[:1] == b"1":
        return Response(NO_STATUS, "", informational=True)
    content_type = values.get(b"content-type", b"")
    if raw_code is None and (status != b"200" or content_type[:16] != b"application/grpc"):
        shown = content_type[:64].decode("latin-1")
        wrong = f"no gRPC response: HTTP status {status.decode()}, content-type {shown!r}"
        code = HTTP_CODES.get(int(status), Code.UNKNOWN)
        return Response(code, "", wrong=wrong)
    return Response(code, text, gzip=values.get(b"grpc-encoding") == b"gzip")
