"""What a small unary call costs in the wire code alone, without sockets.

    python bench/wire_cost.py [--calls N] [--repeat R]

Server: request bytes -> receive -> handler.reply -> take_output, at 1, 16 and 64 calls per
chunk. Client: request -> take_output, and the answer's bytes -> receive. Prints the best of
R repeats in microseconds of CPU per call, because the others measure the machine.
"""

import argparse
import time
from collections.abc import Callable

from raftkv.wire.grpc import RequestHead
from raftkv.wire.h2 import ServerConnection
from raftkv.wire.h2_client import ClientConnection

PATH = b"/etcdserverpb.KV/Put"
REQUEST = b"\x0a\x10" + b"k" * 16 + b"\x12\x40" + b"v" * 64
REPLY = b"\x0a\x10" + b"h" * 16


class Echo:
    """Answers every unary call with a constant."""

    connection: ServerConnection

    def unary(self, stream: int, head: RequestHead, message: bytes) -> None:
        self.connection.reply(stream, REPLY)

    def opened(self, stream: int, head: RequestHead) -> None: ...
    def message(self, stream: int, message: bytes) -> None: ...
    def half_closed(self, stream: int) -> None: ...
    def cancelled(self, stream: int) -> None: ...
    def writable(self, stream: int) -> None: ...


class Count:
    """Counts answers."""

    def __init__(self) -> None:
        self.finished_calls = 0

    def headers(self, stream: int) -> None: ...
    def message(self, stream: int, message: bytes) -> None: ...

    def finished(self, stream: int, code: int, text: str) -> None:
        assert code == 0, text
        self.finished_calls += 1


class Pair:
    """A client and a server joined by hand, past their first calls."""

    def __init__(self, timeout: float | None) -> None:
        self.timeout = timeout
        echo = Echo()
        self.server = echo.connection = ServerConnection(echo, {PATH})
        self.answers = Count()
        self.client = ClientConnection(self.answers, b"localhost:2379")
        for _ in range(5):
            self.request(1)
            self.server.receive(self.client.take_output(), 0.0)
            self.client.receive(self.server.take_output(), 0.0)

    def request(self, count: int) -> None:
        """Opens `count` calls."""
        for _ in range(count):
            self.client.request(PATH, REQUEST, end=True, timeout=self.timeout)


def measure(calls: int, batch: int, timeout: float | None) -> tuple[float, float]:
    """(server, client) microseconds of CPU per call, `batch` calls per chunk."""
    pair = Pair(timeout)
    server, client = pair.server, pair.client
    clock: Callable[[], int] = time.process_time_ns
    requests: list[bytes] = []
    replies: list[bytes] = []
    rounds = max(calls // batch, 1)
    chunk = min(rounds, 200)
    server_ns = client_ns = 0
    for _ in range(max(rounds // chunk, 1)):
        requests.clear()
        replies.clear()
        start = clock()
        for _ in range(chunk):
            pair.request(batch)
            requests.append(client.take_output())
        middle = clock()
        for data in requests:
            server.receive(data, 0.0)
            replies.append(server.take_output())
        end = clock()
        for data in replies:
            client.receive(data, 0.0)
        client_ns += middle - start + clock() - end
        server_ns += end - middle
        server.receive(client.take_output(), 0.0)
    done = max(rounds // chunk, 1) * chunk * batch
    assert pair.answers.finished_calls == done + 5
    assert not server.closing, server.close_reason
    assert not client.closing, client.close_reason
    return server_ns / done / 1000, client_ns / done / 1000


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--calls", type=int, default=50_000)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    print("calls per chunk   deadline   server us/call   client us/call")
    for timeout in (None, 5.0):
        for batch in (1, 16, 64):
            results = [measure(arguments.calls, batch, timeout) for _ in range(arguments.repeat)]
            server = min(result[0] for result in results)
            client = min(result[1] for result in results)
            shown = "none" if timeout is None else f"{timeout:g} s"
            print(f"{batch:>15}   {shown:>8}   {server:>14.2f}   {client:>14.2f}")


if __name__ == "__main__":
    main()
