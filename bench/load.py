"""One run of load: connections, calls under way, latencies and counts.

Closed loop: every connection keeps a fixed number of calls under way; an answer is followed
by the next request. A call's latency runs from the moment its request is written.

Open loop: requests are due at fixed intervals whatever the answers do, and a call's latency
runs from the moment it was due, so that a server which stalls is charged for everybody who
would have waited.

An operation counts when its status is OK and its reply holds a real result. The time of an
answer is taken once per chunk from the socket: everything in the chunk has arrived by then.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final, cast

from bench.requests import Operation
from raftkv.wire.h2_client import ClientConnection
from raftkv.wire.policy import ConnectionLimits, Rate

CONNECT_SECONDS: Final = 10.0
RETRY_SECONDS: Final = 0.05
PACE_SECONDS: Final = 0.001
ERROR_PAUSE_SECONDS: Final = 0.01
MIB: Final = 1024 * 1024


def _limits() -> ConnectionLimits:
    """Windows that never make a server wait; grpc-go may ping after every request."""
    return ConnectionLimits(
        max_message_bytes=64 * MIB,
        stream_window_bytes=8 * MIB,
        connection_window_bytes=1024 * MIB,
        max_output_bytes=1024 * MIB,
        pings=Rate(1e9, 10**9),
        idle_frames=Rate(1e9, 10**9),
    )


class Tally:
    """What a run has counted. The times are perf_counter's, in seconds.

    latencies: of every success, in order. success_times: when it came, if asked for.
    errors: "CODE text" -> how often; a lost connection counts every call that was on it.
    delivered: events that have no latency.
    """

    def __init__(self, *, with_times: bool = False) -> None:
        self.latencies: list[float] = []
        self.success_times: list[float] | None = [] if with_times else None
        self.errors: Counter[str] = Counter()
        self.delivered = 0


class Session(asyncio.Protocol):
    """One connection and the calls on it."""

    def __init__(self, load: "Load", endpoint: str) -> None:
        self.endpoint = endpoint
        self._load = load
        self._transport: asyncio.Transport | None = None
        self._connection: ClientConnection | None = None
        self._calls: dict[int, tuple[float, Operation]] = {}  # stream -> (its start, what)
        self._replies: dict[int, bytes] = {}  # of calls without a status yet
        self._now = 0.0

    @property
    def outstanding(self) -> int:
        """Calls without an answer."""
        return len(self._calls)

    @property
    def alive(self) -> bool:
        """True if a call can be begun now."""
        return (
            self._transport is not None
            and self._connection is not None
            and self._connection.can_request
        )

    # --- asyncio ------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Sends the preface; calls may follow at once."""
        self._transport = cast(asyncio.Transport, transport)
        authority = self.endpoint.encode()
        self._connection = ClientConnection(
            self, authority, limits=_limits(), now=time.perf_counter()
        )

    def data_received(self, data: bytes) -> None:
        """Answers; in a closed loop as many requests follow."""
        connection = self._connection
        assert connection is not None
        self._now = now = time.perf_counter()
        connection.receive(data, now)
        if connection.closing and self._transport is not None:
            self._transport.abort()
            return
        self._load.answered(self)
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Everything that was under way on the connection has failed."""
        self._transport = None
        reason = "" if self._connection is None else self._connection.close_reason
        lost, self._calls = len(self._calls), {}
        self._replies.clear()
        if lost:
            self._load.tally.errors[f"connection lost: {exc or reason or 'closed'}"] += lost
        self._load.lost(self)

    # --- the handler of ClientConnection -------------------------------------

    def headers(self, stream: int) -> None:
        """Response headers say nothing that a unary call needs."""

    def message(self, stream: int, message: bytes) -> None:
        """A reply; it counts once the status is there."""
        self._replies[stream] = message

    def finished(self, stream: int, code: int, text: str) -> None:
        """The status of a call, which is a success if it is OK and the reply has the result."""
        call = self._calls.pop(stream, None)
        if call is None:
            return
        reply = self._replies.pop(stream, b"")
        operation = call[1]
        tally = self._load.tally
        if not code and len(reply) >= operation.reply_bytes and operation.proof in reply:
            tally.latencies.append(self._now - call[0])
            if tally.success_times is not None:
                tally.success_times.append(self._now)
            return
        tally.errors[f"{int(code)} {text}" if code else "OK, but the result is missing"] += 1
        self._load.failed(self)

    def writable(self, stream: int) -> None:
        """Requests are small: nobody waits for room."""

    # --- sending ------------------------------------------------------------

    def issue(self, operation: Operation, start: float) -> None:
        """Begins a call whose latency runs from `start`; `flush` writes it."""
        connection = self._connection
        assert connection is not None
        stream = connection.request(operation.path, operation.message, end=True)
        self._calls[stream] = (start, operation)

    def flush(self) -> None:
        """Writes what is queued."""
        if self._connection is not None and self._transport is not None:
            output = self._connection.take_output()
            if output:
                self._transport.write(output)

    def close(self) -> None:
        """Drops the connection at once."""
        if self._transport is not None:
            self._transport.abort()


class Load:
    """The connections of a run and what they do when an answer comes.

    endpoints: host:port per connection. operations: what to send, in this order; when they
    end, the run is over as soon as all are answered. outstanding: calls per connection
    (closed loop), or 0: `pace` sends.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        operations: Iterator[Operation],
        outstanding: int,
        *,
        with_times: bool = False,
    ) -> None:
        self.tally = Tally(with_times=with_times)
        self.drained = asyncio.Event()
        self.with_times = with_times
        self._operations = operations
        self._outstanding = outstanding
        self._sending = False
        self._exhausted = False
        self._paused: set[Session] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._sessions = [Session(self, endpoint) for endpoint in endpoints]
        self._next = 0

    # --- life ---------------------------------------------------------------

    async def connect(self) -> None:
        """Opens every connection. Errors: ConnectionError after ten seconds without one."""
        await asyncio.gather(*(self._dial(one, CONNECT_SECONDS) for one in self._sessions))

    def start(self) -> None:
        """Sends the first requests of a closed loop."""
        self._sending = True
        for session in self._sessions:
            self.answered(session)
            session.flush()

    async def pace(self, rate_per_second: float) -> None:
        """Sends at that rate, for ever, each on the next connection that lives."""
        self._sending = True
        due = time.perf_counter()
        interval = 1.0 / rate_per_second
        while self._sending:
            now = time.perf_counter()
            touched = set()
            while due <= now:
                session = self._alive()
                if session is None:
                    self.tally.errors["no connection"] += 1
                else:
                    session.issue(next(self._operations), due)
                    touched.add(session)
                due += interval
            for session in touched:
                session.flush()
            await asyncio.sleep(PACE_SECONDS)

    def new_tally(self) -> Tally:
        """Counts from zero; returns what was counted up to now."""
        before, self.tally = self.tally, Tally(with_times=self.with_times)
        return before

    def close(self) -> None:
        """Ends everything; answers that are under way are not awaited."""
        self._sending = False
        for task in self._tasks:
            task.cancel()
        for session in self._sessions:
            session.close()

    @property
    def outstanding(self) -> int:
        """Calls without an answer, on all connections."""
        return sum(session.outstanding for session in self._sessions)

    # --- what sessions report -------------------------------------------------

    def answered(self, session: Session) -> None:
        """Fills up the calls of a session (closed loop)."""
        room = self._outstanding - session.outstanding
        if room <= 0 or not self._sending or session in self._paused or not session.alive:
            return
        start = time.perf_counter()
        operations = self._operations
        for _ in range(room):
            operation = next(operations, None)
            if operation is None:
                self._exhausted = True
                break
            session.issue(operation, start)
        if self._exhausted and not self.outstanding:
            self.drained.set()

    def failed(self, session: Session) -> None:
        """A call failed: a short pause, so that errors do not turn into a storm."""
        if self._outstanding and session not in self._paused:
            self._paused.add(session)
            self._loop.call_later(ERROR_PAUSE_SECONDS, self._resume, session)

    def lost(self, session: Session) -> None:
        """Dials again, unless the run is over."""
        if self._sending:
            task = self._loop.create_task(self._redial(session))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _resume(self, session: Session) -> None:
        self._paused.discard(session)
        self.answered(session)
        session.flush()

    async def _redial(self, session: Session) -> None:
        await asyncio.sleep(RETRY_SECONDS)
        with contextlib.suppress(ConnectionError):
            await self._dial(session, 3600.0)
            self._resume(session)

    async def _dial(self, session: Session, patience_seconds: float) -> None:
        host, _, port = session.endpoint.rpartition(":")
        deadline = time.perf_counter() + patience_seconds
        while True:
            try:
                await self._loop.create_connection(lambda: session, host, int(port))
                return
            except OSError as error:
                if time.perf_counter() > deadline:
                    raise ConnectionError(f"{session.endpoint}: {error}") from error
            await asyncio.sleep(RETRY_SECONDS)

    def _alive(self) -> Session | None:
        for _ in self._sessions:
            session = self._sessions[self._next % len(self._sessions)]
            self._next += 1
            if session.alive:
                return session
        return None
