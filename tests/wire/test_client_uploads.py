"""Messages of a client that are larger than the server's windows."""

import pytest

from raftkv.wire import frames
from raftkv.wire.frames import settings, window_update
from raftkv.wire.h2_client import ClientConnection
from tests.wire.frame_tools import frames_in


class _Nobody:
    def headers(self, stream: int) -> None: ...
    def message(self, stream: int, message: bytes) -> None: ...
    def finished(self, stream: int, code: int, text: str) -> None: ...


@pytest.mark.parametrize("late", [False, True], ids=["unary", "half-closed-later"])
def test_a_message_beyond_the_windows_ends_its_stream_exactly_once(late: bool) -> None:
    client = ClientConnection(_Nobody(), b"test")
    client.take_output()
    client.receive(settings([]), 0.0)
    client.take_output()
    stream = client.request(b"/t.T/Upload", bytes(200_000), end=not late)
    if late:
        client.half_close(stream)
    output = client.take_output()
    for _ in range(4):
        client.receive(window_update(0, 65_535) + window_update(stream, 65_535), 0.0)
        output += client.take_output()
    data = [one for one in frames_in(output) if one.kind == frames.DATA]
    assert sum(len(one.payload) for one in data) == 200_005
    ends = [bool(one.flags & frames.END_STREAM) for one in data]
    assert ends.count(True) == 1
    assert ends[-1]
