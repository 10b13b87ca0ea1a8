"""Puts at a steady rate, and how long they took: the load of `raftctl check perf`.

One thread starts a put whenever one is due and one of the `clients` is free; answers come on
grpcio's threads. Puts that are due while every client waits for an answer are made up for as soon
as one is free, but not more than BURST of them, so that a pause of the servers does not end in a
burst that no client asked for. The puts are spread over the endpoints, with one connection to each.
"""

import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from raftkv.cli.connection import Connection, error_text
from raftkv.pb import rpc_pb2

KEY_BYTES: Final = 256
VALUE_BYTES: Final = 1024
BURST: Final = 50
PUT_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Load:
    """limit: puts per second. clients: that may wait for an answer at once."""

    limit: int
    clients: int
    duration_seconds: float


@dataclass(slots=True)
class Measured:
    """What came of a load. Times in seconds; errors by text.

    busy: how much of one processor this process had while it ran.
    """

    count: int = 0
    elapsed_seconds: float = 0.0
    slowest_seconds: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)
    busy: float = 0.0
    _sum: float = 0.0
    _sum_of_squares: float = 0.0

    def note(self, seconds: float) -> None:
        """One put that succeeded."""
        self.count += 1
        self._sum += seconds
        self._sum_of_squares += seconds * seconds
        self.slowest_seconds = max(self.slowest_seconds, seconds)

    @property
    def per_second(self) -> float:
        """Puts that succeeded, per second."""
        return self.count / self.elapsed_seconds if self.elapsed_seconds else 0.0

    @property
    def stddev_seconds(self) -> float:
        """Standard deviation of the time that a put took."""
        if not self.count:
            return 0.0
        mean = self._sum / self.count
        return math.sqrt(max(self._sum_of_squares / self.count - mean * mean, 0.0))


def run(
    connection: Connection, prefix: bytes, load: Load, progress: Callable[[float], None]
) -> Measured:
    """Puts random keys under `prefix` until the time is over and all have been answered.

    progress: is told the seconds that have passed, some times a second.
    """
    return _Run(connection, prefix, load).run(progress)


class _Run:
    def __init__(self, connection: Connection, prefix: bytes, load: Load) -> None:
        self._connection = connection
        self._prefix = prefix
        self._load = load
        self._free = threading.BoundedSemaphore(load.clients)
        self._lock = threading.Lock()
        self._measured = Measured()
        self._value = bytes(VALUE_BYTES)

    def run(self, progress: Callable[[float], None]) -> Measured:
        load, endpoints = self._load, self._connection.target.endpoints
        began, used = time.monotonic(), time.process_time()
        end = began + load.duration_seconds
        due = began
        told = began
        number = 0
        while (now := time.monotonic()) < end:
            if now - told > 0.2:
                told = now
                progress(now - began)
            if due > now:
                time.sleep(min(due - now, end - now, 0.2))
                continue
            due = max(due + 1 / load.limit, now - BURST / load.limit)
            if self._free.acquire(timeout=min(end - now, 0.2)):
                self._put(endpoints[number % len(endpoints)])
                number += 1
        for _ in range(load.clients):
            self._free.acquire()
        self._measured.elapsed_seconds = time.monotonic() - began
        self._measured.busy = (time.process_time() - used) / self._measured.elapsed_seconds
        return self._measured

    def _put(self, endpoint: str) -> None:
        key = self._prefix + os.urandom(KEY_BYTES)
        request = rpc_pb2.PutRequest(key=key, value=self._value)
        began = time.monotonic()
        call = self._connection.begin(endpoint, "KV/Put", request, rpc_pb2.PutResponse, PUT_SECONDS)

        def done(call: Any) -> None:
            seconds = time.monotonic() - began
            error = call.exception()
            with self._lock:
                if error is None:
                    self._measured.note(seconds)
                else:
                    self._measured.errors[error_text(error, endpoint)] += 1
            self._free.release()

        call.add_done_callback(done)
