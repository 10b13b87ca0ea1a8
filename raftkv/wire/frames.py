"""HTTP/2 frames as bytes (RFC 9113 section 4 and 6).

    frame := length u24 | type u8 | flags u8 | stream u32 (top bit reserved) | payload

`HEADER` reads length and type as one number (length << 8 | type), because three
fields unpack faster than five and most frames are recognised by that number alone.
`MESSAGE` reads a DATA header and the gRPC prefix behind it at once:

    message := compressed u8 | length u32 | bytes          (gRPC over HTTP/2)
"""

from struct import Struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

HEADER: Final = Struct(">IBI")
MESSAGE: Final = Struct(">IBIBI")
PREFIX: Final = Struct(">BI")
SETTING: Final = Struct(">HI")
U32: Final = Struct(">I")

HEADER_BYTES: Final = 9
PREFIX_BYTES: Final = 5
MAX_FRAME_BYTES: Final = 16384  # we keep the default SETTINGS_MAX_FRAME_SIZE
MAX_FRAME_LIMIT: Final = 2**24 - 1
MAX_WINDOW_BYTES: Final = 2**31 - 1
MAX_STREAM: Final = 2**31 - 1
DEFAULT_WINDOW_BYTES: Final = 65535

# --- types --------------------------------------------------------------------
DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

# --- flags --------------------------------------------------------------------
END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
WITH_PRIORITY: Final = 0x20

# --- settings -----------------------------------------------------------------
HEADER_TABLE_SIZE: Final = 1
ENABLE_PUSH: Final = 2
MAX_CONCURRENT_STREAMS: Final = 3
INITIAL_WINDOW_SIZE: Final = 4
MAX_FRAME_SIZE: Final = 5
MAX_HEADER_LIST_SIZE: Final = 6

# --- error codes --------------------------------------------------------------
NO_ERROR: Final = 0
PROTOCOL_ERROR: Final = 1
INTERNAL_ERROR: Final = 2
FLOW_CONTROL_ERROR: Final = 3
SETTINGS_TIMEOUT: Final = 4
STREAM_CLOSED: Final = 5
FRAME_SIZE_ERROR: Final = 6
REFUSED_STREAM: Final = 7
CANCEL: Final = 8
COMPRESSION_ERROR: Final = 9
CONNECT_ERROR: Final = 10
ENHANCE_YOUR_CALM: Final = 11
INADEQUATE_SECURITY: Final = 12
HTTP_1_1_REQUIRED: Final = 13

ERROR_NAMES: Final = (
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
)


def error_name(code: int) -> str:
    """The RFC's name of an HTTP/2 error code, or its number."""
    return ERROR_NAMES[code] if code < len(ERROR_NAMES) else f"error {code}"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One whole frame. The caller keeps `payload` within the other end's frame size."""
    return HEADER.pack(len(payload) << 8 | kind, flags, stream) + payload


def settings(pairs: list[tuple[int, int]]) -> bytes:
    """A SETTINGS frame of (identifier, value) pairs."""
    return frame(SETTINGS, 0, 0, b"".join(SETTING.pack(key, value) for key, value in pairs))


def window_update(stream: int, increment_bytes: int) -> bytes:
    """A WINDOW_UPDATE frame; stream 0 is the connection."""
    return HEADER.pack(4 << 8 | WINDOW_UPDATE, 0, stream) + U32.pack(increment_bytes)


def rst_stream(stream: int, error_code: int) -> bytes:
    """A RST_STREAM frame."""
    return HEADER.pack(4 << 8 | RST_STREAM, 0, stream) + U32.pack(error_code)


def goaway(last_stream: int, error_code: int, debug: bytes = b"") -> bytes:
    """A GOAWAY frame; `debug` is shown by clients in their error texts."""
    return frame(GOAWAY, 0, 0, U32.pack(last_stream) + U32.pack(error_code) + debug)


def header_frames(stream: int, block: bytes, end_stream: bool, max_frame_bytes: int) -> bytes:
    """HEADERS, and CONTINUATION frames where the block is longer than a frame may be."""
    flags = END_STREAM if end_stream else 0
    if len(block) <= max_frame_bytes:
        return HEADER.pack(len(block) << 8 | HEADERS, flags | END_HEADERS, stream) + block
    parts = [frame(HEADERS, flags, stream, block[:max_frame_bytes])]
    for at in range(max_frame_bytes, len(block), max_frame_bytes):
        piece = block[at : at + max_frame_bytes]
        last = at + max_frame_bytes >= len(block)
        parts.append(frame(CONTINUATION, END_HEADERS if last else 0, stream, piece))
    return b"".join(parts)
