"""Golden transcripts of a server connection, frame by frame.

    python -m tests.wire.transcripts --rewrite      writes tests/wire/transcripts/*.txt anew

A line is `> frame` for what the client sends, `< frame` for what the server answers,
`. event` for what its handler saw. Whoever changes a byte on the wire sees it in a diff.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from raftkv.wire import frames
from raftkv.wire.frames import frame, rst_stream, settings, window_update
from raftkv.wire.h2 import ServerConnection
from tests.wire.frame_tools import Frame, block, call, frames_in, headers, message
from tests.wire.serving import serve_in_memory

DIRECTORY = Path(__file__).parent / "transcripts"
KINDS = [
    "DATA",
    "HEADERS",
    "PRIORITY",
    "RST_STREAM",
    "SETTINGS",
    "PUSH_PROMISE",
    "PING",
    "GOAWAY",
    "WINDOW_UPDATE",
    "CONTINUATION",
]

Step = bytes | Callable[[ServerConnection], None]
HELLO = frames.PREFACE + settings([(2, 0), (3, 0), (4, 4194304), (5, 4194304), (6, 16384)])

SCENARIOS: dict[str, list[Step]] = {
    "unary": [
        HELLO + window_update(0, 4128769),
        frame(4, 1, 0),
        call(1, b"one"),
        call(3, b"two") + call(5, b"three"),
        headers(7, block(path=b"/t.T/Fail")) + message(7, b""),
        headers(9, block(path=b"/t.T/Missing")) + message(9, b""),
    ],
    "stream": [
        HELLO,
        headers(1, block(path=b"/t.T/Bidi")),
        message(1, b"a", end=False) + message(1, b"b", end=False),
        frame(0, 1, 1),
        headers(3, block(path=b"/t.T/Bidi")) + message(3, b"c", end=False),
        rst_stream(3, 8),
    ],
    "small-windows": [
        frames.PREFACE + settings([(4, 4)]),
        call(1, b"hello"),
        window_update(1, 3),
        settings([(4, 0)]),
        window_update(1, 100),
    ],
    "small-table": [
        frames.PREFACE + settings([(1, 0)]),
        call(1, b"one"),
        call(3, b"two"),
    ],
    "drain": [
        HELLO,
        headers(1, block(path=b"/t.T/Bidi")),
        ServerConnection.go_away,
        call(3),
        frame(0, 1, 1),
    ],
    "broken": [
        HELLO,
        headers(1, block(path=b"")),
        headers(3, block(method=b"GET"), 5),
        call(5),
        frame(0, 0, 99, b"x"),
    ],
    "http1": [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"],
}


def _line(found: Frame) -> str:
    kind = KINDS[found.kind] if found.kind < len(KINDS) else str(found.kind)
    return f"{kind} stream={found.stream} flags={found.flags:#x} {found.payload.hex()}".rstrip()


def _lines(sign: str, data: bytes) -> Iterator[str]:
    if data.startswith((b"GET", b"HTTP/1")):
        yield from (f"{sign} {line!r}" for line in data.splitlines())
        return
    if data.startswith(frames.PREFACE):
        yield f"{sign} preface"
    for found in frames_in(data):
        yield f"{sign} {_line(found)}"


def play(name: str) -> str:
    """The transcript of a scenario."""
    server, service = serve_in_memory()
    lines: list[str] = []
    for step in SCENARIOS[name]:
        if isinstance(step, bytes):
            lines += _lines(">", step)
            server.receive(step, 0.0)
        else:
            lines.append(f"! {step.__name__}")
            step(server)
        lines += [f". {' '.join(map(repr, event))}" for event in service.events]
        service.events.clear()
        lines += _lines("<", server.take_output())
    if server.closing:
        lines.append(f"= closing: {server.close_reason}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Writes every transcript."""
    if sys.argv[1:] != ["--rewrite"]:
        sys.exit(__doc__)
    DIRECTORY.mkdir(exist_ok=True)
    for name in SCENARIOS:
        (DIRECTORY / f"{name}.txt").write_text(play(name))


if __name__ == "__main__":
    main()
