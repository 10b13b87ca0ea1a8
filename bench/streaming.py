"""Runs of load on streams, done by the generator's process: watches and renewals of leases.

    watch-fanout    watchers of one key; puts on it in a closed loop of their own connection.
                    A success is a delivered event, its latency runs from the put's request.
    watch-hold      one watcher per key, held while somebody else puts; events are counted.
    watch-catch-up  one watcher from revision 1, until it has all or `seconds` are over. Events
                    of the past are counted; the successes and latencies are those of puts to
                    the same node meanwhile, one at a time.
    keepalive       one lease per stream, `outstanding` renewals of it under way.

Streams have a connection each. A stamp in the value of a put says when it was sent.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final

from bench import requests
from bench.load import Load, Tally
from bench.requests import Operation
from bench.streams import Call, Matches, Messages, message_frame, opened
from raftkv.pb import rpc_pb2

if TYPE_CHECKING:
    from bench.generator import Run

WATCH: Final = b"/etcdserverpb.Watch/Watch"
KEEP_ALIVE: Final = b"/etcdserverpb.Lease/LeaseKeepAlive"
FANOUT_KEY: Final = b"bench-fanout"
BESIDE_KEY: Final = b"beside"
SEEN_KEY: Final = rb"bench/\d{8}"
SEEN_KEY_BYTES: Final = 14
STAMP: Final = b"SENT"
STAMP_DIGITS: Final = 8
FIRST_LEASE: Final = 0x0B_E9_C4_A1_55_00_00_00
LEASE_SECONDS: Final = 60
CREATE_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.005


class StreamFailed(Exception):
    """A stream was refused, or broke, or did not say what it had to."""


def create(key: bytes, range_end: bytes = b"", start_revision: int = 0) -> bytes:
    """A frame that asks for a watch."""
    asked = rpc_pb2.WatchCreateRequest(key=key, range_end=range_end, start_revision=start_revision)
    return message_frame(rpc_pb2.WatchRequest(create_request=asked).SerializeToString())


def _check(calls: list[Call]) -> None:
    for call in calls:
        if call.failure:
            raise StreamFailed(call.failure)


async def _until(done: Callable[[], bool], calls: list[Call], seconds: float, what: str) -> None:
    deadline = time.perf_counter() + seconds
    while not done():
        _check(calls)
        if time.perf_counter() > deadline:
            raise StreamFailed(f"{what} took more than {seconds:g} s")
        await asyncio.sleep(POLL_SECONDS)


async def watching(endpoints: list[str], creates: list[bytes], stack: ExitStack) -> list[Call]:
    """Calls that hold these watches, dealt out in turn; all of them are created.

    Errors: StreamFailed, OSError.
    """
    counts = [Messages() for _ in endpoints]
    calls: list[Call] = []
    for count, endpoint in zip(counts, endpoints, strict=True):
        call = await opened(endpoint, WATCH, partial(_feed, count))
        stack.callback(call.close)
        calls.append(call)
    for number, call in enumerate(calls):
        call.write(b"".join(creates[number :: len(calls)]))
    await _until(
        lambda: sum(count.count for count in counts) >= len(creates),
        calls,
        CREATE_SECONDS,
        f"creating {len(creates)} watches",
    )
    return calls


def _feed(messages: Messages, call: Call, payload: bytes, now: float) -> None:
    messages.feed(payload)


# --- what the runs do ---------------------------------------------------------------


class Stamped:
    """Puts whose values say which put it was. sent: when each was handed out."""

    def __init__(self, key: bytes, value_bytes: int) -> None:
        self.sent: dict[bytes, float] = {}
        self._key = key
        self._padding = b"." * max(0, value_bytes - len(STAMP) - STAMP_DIGITS)

    def __iter__(self) -> Iterator[Operation]:
        number = 0
        while True:
            stamp = b"%0*d" % (STAMP_DIGITS, number)
            value = STAMP + stamp + self._padding
            message = rpc_pb2.PutRequest(key=self._key, value=value).SerializeToString()
            self.sent[stamp] = time.perf_counter()
            yield Operation(requests.PUT, message, 1)
            number += 1


class Fanout:
    """Delivered events of stamped puts, with the time from put to event."""

    def __init__(self, calls: list[Call], sent: dict[bytes, float]) -> None:
        self.tally = Tally()
        self._sent = sent
        pattern = STAMP + rb"(\d{%d})" % STAMP_DIGITS
        for call in calls:
            matches = Matches(pattern, len(STAMP) + STAMP_DIGITS)
            call.on_payload = partial(self._take, matches)

    def _take(self, matches: Matches, call: Call, payload: bytes, now: float) -> None:
        latencies = self.tally.latencies
        for stamp, times in Counter(matches.feed(payload)).items():
            latencies.extend([now - self._sent[stamp]] * times)

    def new_tally(self) -> Tally:
        """Counts from zero; returns what was counted up to now."""
        before, self.tally = self.tally, Tally()
        return before


class Renewing:
    """One lease on one call; every answer is followed by the next renewal."""

    def __init__(self, run: "Streaming", lease: int, outstanding: int) -> None:
        self._run = run
        message = rpc_pb2.LeaseKeepAliveRequest(ID=lease).SerializeToString()
        self._frame = message_frame(message)
        answer = rpc_pb2.LeaseKeepAliveResponse(ID=lease, TTL=LEASE_SECONDS).SerializeToString()
        self._messages = Messages()
        self._renewed = Matches(_literal(answer), len(answer))
        self._starts: deque[float] = deque()
        self._outstanding = outstanding

    def start(self, call: Call) -> None:
        """Sends the first renewals."""
        call.on_payload = self._take
        self._send(call, self._outstanding)

    def _send(self, call: Call, count: int) -> None:
        self._starts.extend([time.perf_counter()] * count)
        call.write(self._frame * count)

    def _take(self, call: Call, payload: bytes, now: float) -> None:
        tally = self._run.tally
        before = self._messages.count
        answers = self._messages.feed(payload) - before
        lost = answers - len(self._renewed.feed(payload))
        if lost > 0:
            tally.errors["the lease is gone"] += lost
        for _ in range(answers):
            tally.latencies.append(now - self._starts.popleft())
        self._send(call, answers)


def _literal(text: bytes) -> bytes:
    return b"".join(b"\\x%02x" % byte for byte in text)


class Streaming:
    """One run of one of the kinds, up to the start of its window and to its end."""

    def __init__(self, run: "Run", stack: ExitStack) -> None:
        self.run = run
        self.tally = Tally()
        self.calls: list[Call] = []
        self._stack = stack
        self._fanout: Fanout | None = None
        self._puts: Load | None = None
        self._wanted = 0
        self.finished = False

    async def prepare(self) -> None:
        """Everything up to full load. Errors: StreamFailed, OSError."""
        await KINDS[self.run.kind](self)

    async def wait(self) -> None:
        """The window. Errors: StreamFailed."""
        if self.run.kind == "watch-catch-up":
            start = create(b"bench/0", b"bench/:", start_revision=1)
            self.calls[0].write(start)
            stop = time.perf_counter() + self.run.seconds
            while not self.finished and time.perf_counter() < stop:
                _check(self.calls)
                await asyncio.sleep(POLL_SECONDS)
        else:
            await asyncio.sleep(self.run.seconds)
        _check(self.calls)
        if self._puts is not None and self._puts.tally.errors:
            raise StreamFailed(f"puts failed: {dict(self._puts.tally.errors)}")

    def new_tally(self) -> Tally:
        """Counts from zero; returns what was counted up to now."""
        if self._fanout is not None:
            return self._fanout.new_tally()
        if self.run.kind == "watch-catch-up" and self._puts is not None:
            return self._puts.new_tally()
        before, self.tally = self.tally, Tally()
        return before

    # --- kinds ------------------------------------------------------------------

    async def fanout(self) -> None:
        """Watchers of one key, and puts on it."""
        run = self.run
        creates = [create(FANOUT_KEY)] * run.watchers
        self.calls = await watching(list(run.endpoints), creates, self._stack)
        stamped = Stamped(FANOUT_KEY, run.value_bytes)
        self._fanout = Fanout(self.calls, stamped.sent)
        await self._put(iter(stamped), run.outstanding)

    async def hold(self) -> None:
        """A watcher per key."""
        run = self.run
        creates = [create(requests.key(number)) for number in range(run.watchers)]
        self.calls = await watching(list(run.endpoints), creates, self._stack)
        self._count_keys()

    async def catch_up(self) -> None:
        """Puts beside, and a call whose watch begins with the window."""
        run = self.run
        self.calls = await watching(list(run.endpoints), [], self._stack)
        self._wanted = run.keys
        self._count_keys()
        await self._put(iter(Stamped(BESIDE_KEY, run.value_bytes)), 1)

    async def keepalive(self) -> None:
        """A lease per call and its renewals."""
        run = self.run
        leases = [FIRST_LEASE + (run.seed << 12) + n for n in range(len(run.endpoints))]
        grants = [requests.lease_grant(lease, LEASE_SECONDS) for lease in leases]
        load = Load([run.endpoints[0]], iter(grants), 1)
        await load.connect()
        load.start()
        await asyncio.wait_for(load.drained.wait(), CREATE_SECONDS)
        load.close()
        if load.tally.errors:
            raise StreamFailed(f"leases were not granted: {dict(load.tally.errors)}")
        for endpoint, lease in zip(run.endpoints, leases, strict=True):
            call = await opened(endpoint, KEEP_ALIVE, lambda *_: None)
            self._stack.callback(call.close)
            self.calls.append(call)
            Renewing(self, lease, run.outstanding).start(call)

    async def _put(self, operations: Iterator[Operation], outstanding: int) -> None:
        self._puts = Load([self.run.endpoints[0]], operations, outstanding)
        self._stack.callback(self._puts.close)
        await self._puts.connect()
        self._puts.start()

    def _count_keys(self) -> None:
        for call in self.calls:
            matches = Matches(SEEN_KEY, SEEN_KEY_BYTES)
            call.on_payload = partial(self._seen_keys, matches)

    def _seen_keys(self, matches: Matches, call: Call, payload: bytes, now: float) -> None:
        self.tally.delivered += len(matches.feed(payload))
        if 0 < self._wanted <= self.tally.delivered:
            self.finished = True


KINDS: Final[dict[str, Callable[[Streaming], Awaitable[None]]]] = {
    "watch-fanout": Streaming.fanout,
    "watch-hold": Streaming.hold,
    "watch-catch-up": Streaming.catch_up,
    "keepalive": Streaming.keepalive,
}
