"""Puts by the JSON gateway: connections of HTTP/1.1, one request at a time on each.

The requests are encoded before any clock starts. An answer counts when its status is 200 and its
body, of the announced length, has a revision. The loop is closed: an answer is followed by the
next request.
"""

import asyncio
import base64
import itertools
import json
import random
import re
import time
from collections.abc import Iterator, Sequence
from typing import Final, cast

from bench.load import Tally
from bench.requests import POOL_OPERATIONS, key

KINDS: Final = ("gateway-put",)
CONNECT_SECONDS: Final = 10.0

_LENGTH: Final = re.compile(rb"\r\nContent-Length: (\d+)\r\n", re.IGNORECASE)
_PROOF: Final = b'"revision":"'


def puts(keys: int, value_bytes: int, seed: int) -> Iterator[bytes]:
    """Requests without an end."""
    random_ = random.Random(seed)
    pool = []
    for _ in range(min(POOL_OPERATIONS, 2 * keys)):
        encoded = (
            base64.b64encode(one).decode()
            for one in (key(random_.randrange(keys)), random_.randbytes(value_bytes))
        )
        body = json.dumps(dict(zip(("key", "value"), encoded, strict=True)))
        pool.append(
            f"POST /v3/kv/put HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        )
    return itertools.cycle([one.encode() for one in pool])


class _Connection(asyncio.Protocol):
    """One connection: a request, its answer, the next request."""

    def __init__(self, load: "HttpLoad") -> None:
        self._load = load
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._start = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Waits for `issue`."""
        self._transport = cast(asyncio.Transport, transport)

    def issue(self) -> None:
        """Writes the next request."""
        assert self._transport is not None
        self._start = time.perf_counter()
        self._transport.write(next(self._load.requests))

    def data_received(self, data: bytes) -> None:
        """A piece of an answer."""
        received = self._received = self._received + data if self._received else data
        at = received.find(b"\r\n\r\n")
        if at < 0:
            return
        length = _LENGTH.search(received, 0, at + 2)
        if length is None:
            self._load.failed(received[:80])
            self.close()
            return
        if len(received) < at + 4 + int(length[1]):
            return
        self._received = b""
        if received.startswith(b"HTTP/1.1 200 ") and _PROOF in received:
            self._load.tally.latencies.append(time.perf_counter() - self._start)
        else:
            self._load.failed(received[at + 4 : at + 84])
        if not self._load.closed:
            self.issue()

    def connection_lost(self, exc: Exception | None) -> None:
        """The server has closed it."""
        if not self._load.closed:
            self._load.failed(b"connection lost")

    def close(self) -> None:
        """Cuts the connection."""
        if self._transport is not None:
            self._transport.abort()


class HttpLoad:
    """All connections of a run; see the module's docstring."""

    def __init__(self, endpoints: Sequence[str], requests: Iterator[bytes]) -> None:
        self.requests = requests
        self.tally = Tally()
        self.closed = False
        self._endpoints = endpoints
        self._connections: list[_Connection] = []

    async def connect(self) -> None:
        """Opens every connection. Errors: OSError, TimeoutError."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_SECONDS):
            for endpoint in self._endpoints:
                host, _, port = endpoint.rpartition(":")
                _, one = await loop.create_connection(lambda: _Connection(self), host, int(port))
                self._connections.append(one)

    def start(self) -> None:
        """The first request on each."""
        for connection in self._connections:
            connection.issue()

    def failed(self, reason: bytes) -> None:
        """An answer that is no success."""
        self.tally.errors[reason.decode("latin-1")] += 1

    def new_tally(self) -> Tally:
        """Counts anew; returns what was counted."""
        old, self.tally = self.tally, Tally()
        return old

    def close(self) -> None:
        """Cuts every connection."""
        self.closed = True
        for connection in self._connections:
            connection.close()
