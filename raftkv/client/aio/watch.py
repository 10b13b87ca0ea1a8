"""A watch that goes on: what happens to some keys, without a gap, over whatever servers there are.

Failure story. The stream breaks, its server dies, is cut off from its leader, or just falls
silent: the watch goes on at the next endpoint from the next revision that it needs, and its user
notices only the delay (`raftkv.client.resuming` keeps the books). While no endpoint answers it
tries on, in rounds that slow down to one in two seconds, for as long as it takes: `next` has a
timeout for those who cannot wait, and a warning is logged. It ends by itself only with an error
that would be the same everywhere: its history was compacted (`Compacted`), the cluster is another
or was put back (`ClusterChanged`), permission is missing, the client was closed.

A silent server is found by asking: when nothing has come from it for `keepalive_time`, a progress
request goes out, and without any answer within `keepalive_timeout` the server is left. Watches at
the same endpoint ask in turn, not each for itself.

Each watch has a stream of its own, and nothing reads ahead of its user but a bounded number of
answers: who reads slowly is held back by the flow control of HTTP/2, and the server serves the
rest from its history. Who falls behind a compaction is told so.

A watch is for one reader; `close` may be called by anybody.
"""

import math
import random
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Final, Self

import grpc

from raftkv.client.aio.connection import Connection
from raftkv.client.aio.runtime import Event as Signal
from raftkv.client.aio.runtime import Stream, Task, finish, spawn
from raftkv.client.errors import (
    BadRequest,
    ClientClosed,
    ClientError,
    ForkedClient,
    NotConnected,
    TimedOut,
    Unavailable,
)
from raftkv.client.keys import Key, Namespace
from raftkv.client.lifetime import now
from raftkv.client.logger import log
from raftkv.client.results import Event, Header, WatchBatch
from raftkv.client.resuming import Pacing, Resuming, Wanted, goes_on
from raftkv.errors import Code
from raftkv.pb import rpc_pb2

WATCH: Final = "/etcdserverpb.Watch/Watch"
RANGE: Final = "/etcdserverpb.KV/Range"
STEADY_SECONDS: Final = 5.0  # a stream that stood so long was well
JITTER: Final = 0.5  # of a pause: many watches must not come back in the same moment
STOP_SECONDS: Final = 5.0
SETTLE_SECONDS: Final = 0.5  # the least for a read on which all depends, even if the user polls
PROGRESS: Final = rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest())


class Watch:
    """See the module's docstring. Made by `Client.watch`.

    To be iterated for batches (one or more whole revisions each), or for single events by
    `events()`. A watch from now on begins when the server has confirmed it: `async with` and
    `open` wait for that, and so does the first `next`.
    """

    def __init__(self, connection: Connection, wanted: Wanted, namespace: Namespace) -> None:
        self._connection = connection
        self._namespace = namespace
        self._state = Resuming(wanted, self._batch)
        self._pacing = Pacing(connection.places.count)
        self._stream: Stream[rpc_pb2.WatchResponse] | None = None
        self._place = 0
        self._opened_at = self._heard_at = 0.0
        self._probed = False
        self._not_before = 0.0
        self._confirmed = False
        self._trouble: ClientError | None = None  # why the last stream ended
        self._warned = False
        self._login_tried = False
        self._ended: ClientError | None = None
        self._closing = Signal()

    @property
    def next_revision(self) -> int:
        """Everything before it has been handed out; 0 = not known yet. Where to resume later."""
        return self._state.next_revision

    # --- reading ----------------------------------------------------------------------------
    async def open(self, timeout: float | None = None) -> None:
        """Waits until a server has confirmed the watch; the first time only.

        timeout: seconds, None = the client's. Errors: NotConnected, TimedOut, Compacted, ...
        """
        if timeout is None:
            timeout = self._connection.settings.timeout
        started = now()
        dialled = started + self._connection.settings.dial_timeout
        while not self._confirmed:
            batch = await self._step(started + timeout)
            assert batch is None, "nothing comes before the confirmation"
            if isinstance(self._trouble, NotConnected) and now() >= dialled:
                raise self._trouble

    async def next(self, timeout: float | None = None) -> WatchBatch:
        """The next batch.

        timeout: seconds, None = for ever. Errors: TimedOut (a TimeoutError; nothing is lost, ask
        again), ClientClosed after `close`, and what ends the watch, again at each call.
        """
        give_up = math.inf if timeout is None else now() + timeout
        if not self._confirmed:
            await self.open(timeout)
        while True:
            batch = await self._step(give_up)
            if batch is not None:
                return batch

    async def events(self) -> AsyncIterator[Event]:
        """The events one by one, until `close`. Errors: what ends the watch."""
        async for batch in self:
            for event in batch.events:
                yield event

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> WatchBatch:
        try:
            return await self.next()
        except ClientClosed:
            if self._closing.is_set():
                raise StopAsyncIteration from None
            raise

    async def close(self) -> None:
        """Ends the watch; whoever waits for it stops waiting."""
        self._closing.set()
        await self._hang_up()

    async def __aenter__(self) -> Self:
        try:
            await self.open()
        except BaseException:
            await finish(self.close)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await finish(self.close)

    # --- one step ---------------------------------------------------------------------------
    async def _step(self, give_up: float) -> WatchBatch | None:
        """Opens a stream or takes one answer. Errors: TimedOut at `give_up`; what ends it."""
        if self._closing.is_set():
            raise ClientClosed("the watch is closed")
        if self._ended is not None:
            raise self._ended
        try:
            self._connection.check()
            if self._stream is None:
                await self._connect(give_up)
            elif self._state.doubt:
                await self._settle(give_up)
            else:
                return await self._read(give_up)
        except TimedOut as error:
            if now() >= give_up:
                raise self._late() from None
            await self._broken(error)
        except grpc.RpcError as error:
            await self._broken(self._connection.failure(error, self._place))
        except ClientError as error:
            await self._broken(error)
        return None

    def _late(self) -> ClientError:
        """What to raise at the end of the user's time."""
        if self._trouble is not None and not self._confirmed:
            return self._trouble
        return TimedOut("nothing came in time", code=Code.DEADLINE_EXCEEDED)

    async def _connect(self, give_up: float) -> None:
        pause = min(self._not_before, give_up) - now()
        if pause > 0 and await self._closing.wait(pause):
            return
        if now() < self._not_before:
            raise TimedOut("no stream in time")
        self._place, stream = await self._connection.stream(WATCH, rpc_pb2.WatchResponse)
        self._stream = stream
        self._opened_at = self._heard_at = now()
        self._probed = True  # the request is the first thing that wants an answer
        if self._closing.is_set():  # by another thread, which did not see this stream
            await self._hang_up()
            return
        await stream.write(self._state.begin())

    async def _read(self, give_up: float) -> WatchBatch | None:
        stream, settings = self._stream, self._connection.settings
        if stream is None:
            return None  # closed by another thread just now
        if self._probed:
            patience = self._heard_at + settings.keepalive_timeout
        else:
            heard = max(self._heard_at, self._connection.heard[self._place])
            patience = heard + settings.keepalive_time
        try:
            response = await stream.read(max(min(patience, give_up) - now(), 0.0))
        except TimeoutError:
            if self._closing.is_set():
                return None
            if now() >= patience:
                await self._silent(stream)
            elif now() >= give_up:
                raise TimedOut("nothing came in time") from None
            return None
        if self._closing.is_set():
            return None
        if response is None:
            raise Unavailable("the server ended the stream", code=Code.UNAVAILABLE)
        self._heard()
        batch = self._state.feed(response)
        if response.created:
            self._confirmed = True
            self._login_tried = False
            self._connection.healthy(self._place)
        elif self._warned or self._trouble is not None:
            self._well()
        return batch

    def _heard(self) -> None:
        moment = now()
        self._heard_at = self._connection.heard[self._place] = moment
        self._probed = False
        if moment - self._opened_at > STEADY_SECONDS:
            self._pacing.well()

    def _well(self) -> None:
        self._pacing.well()
        self._trouble = None
        self._warned = False

    async def _silent(self, stream: Stream[rpc_pb2.WatchResponse]) -> None:
        """Nothing came for a while: ask, or leave if that was done."""
        if self._probed:
            raise Unavailable("the server does not answer", code=Code.UNAVAILABLE)
        heard = self._connection.heard[self._place]
        if heard + self._connection.settings.keepalive_time > now():
            return  # another watch has just heard from it
        self._probed = True
        self._heard_at = now()
        await stream.write(PROGRESS)

    async def _settle(self, give_up: float) -> None:
        """Asks a quorum whether the store was put back, or this server is just behind."""
        default = self._connection.settings.timeout
        request = rpc_pb2.RangeRequest(key=self._state.wanted.key, limit=1, keys_only=True)
        answer = await self._connection.call(
            RANGE,
            request,
            rpc_pb2.RangeResponse,
            write=False,
            timeout=max(min(give_up - now(), default), SETTLE_SECONDS),
        )
        self._state.settle(answer.header.revision)

    async def _broken(self, error: ClientError) -> None:
        """The stream is over. Errors: the error, if the watch is."""
        had_stream = self._stream is not None
        await self._hang_up()
        if self._closing.is_set():
            raise ClientClosed("the watch is closed")
        if goes_on(error):
            if had_stream:
                self._connection.broken(self._place)
        elif not await self._logged_in(error):
            self._ended = error
            raise error
        self._trouble = error
        if now() - self._opened_at > STEADY_SECONDS and self._state.created:
            self._pacing.well()
        pause = self._pacing.pause() * random.uniform(1 - JITTER, 1)
        self._not_before = now() + pause
        if pause and self._confirmed and not self._warned:
            self._warned = True
            log.warning(
                "a watch finds no endpoint to go on from revision %d: %s",
                self._state.next_revision,
                error,
            )

    async def _logged_in(self, error: ClientError) -> bool:
        """Whether a new login may help, once until the watch stands again."""
        if self._login_tried:
            return False
        self._login_tried = True
        try:
            return await self._connection.renew_token(error)
        except ClientError as failure:
            if not goes_on(failure):
                self._ended = failure
                raise
            self._login_tried = False  # nobody could be asked
            return True

    async def _hang_up(self) -> None:
        stream, self._stream = self._stream, None
        if stream is None:
            return
        try:
            self._connection.check()
        except ForkedClient:
            return  # it is the parent's
        except ClientClosed:
            pass
        await stream.close()

    def _batch(self, response: rpc_pb2.WatchResponse) -> WatchBatch:
        events = tuple([Event.read(event, self._namespace) for event in response.events])
        return WatchBatch(Header.read(response.header), events)


class WatchCallback:
    """A watch that calls a function. Made by `Client.add_watch_callback`.

    ended: set when nothing will be called any more. error: why it ended by itself, or None.
    """

    def __init__(
        self,
        watch: Watch,
        callback: Callable[[WatchBatch], object],
        on_error: Callable[[Exception], object] | None,
    ) -> None:
        self.ended: Signal = Signal()
        self.error: Exception | None = None
        self._watch = watch
        self._callback = callback
        self._on_error = on_error
        self._task: Task | None = None

    def start(self) -> None:
        """Begins to call."""
        self._task = spawn(self._run)

    async def close(self) -> None:
        """Ends it and waits, at most five seconds, until the function has returned.

        The function is not called again. By the function itself it may be called, too.
        """
        await self._watch.close()
        if self._task is not None:
            await self._task.stop(STOP_SECONDS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await finish(self.close)

    async def _run(self) -> None:
        try:
            async for batch in self._watch:
                self._callback(batch)
        except Exception as error:  # noqa: BLE001 - of the watch or of the function: told below
            self.error = error
            await self._watch.close()
            self._tell(error)
        finally:
            self.ended.set()

    def _tell(self, error: Exception) -> None:
        if self._on_error is None:
            log.warning("a watch with a callback has ended: %s", error)
            return
        try:
            self._on_error(error)
        except Exception:  # noqa: BLE001 - the user's code
            log.exception("a watch's on_error failed")


class WatchVerbs:
    """Watching keys. Part of `Client`."""

    _connection: Connection
    _namespace: Namespace

    def watch(
        self,
        key: Key,
        *,
        end: Key | None = None,
        prefix: bool = False,
        start_revision: int = 0,
        prev_kv: bool = False,
        no_put: bool = False,
        no_delete: bool = False,
        progress_notify: bool = False,
        fragment: bool = False,
    ) -> Watch:
        """Watches a key, the keys of [key, end), or all that begin with `key` (etcd Watch.Watch).

        end, prefix: make it a range; end = b"\\0": all keys from `key` on.
        start_revision: the first revision wanted, 0 = from when the server confirms the watch.
        prev_kv: events carry the pair before. no_put, no_delete: leave these out.
        progress_notify: hand out batches without events now and then, which say how far it is.
        fragment: let the server cut very large answers; they are joined again.
        Errors: BadRequest; the rest comes from the watch (see `Watch`).
        """
        if prefix:
            first, last = self._namespace.prefixed(key)
        else:
            first, last = self._namespace.range(key, b"" if end is None else end)
        if start_revision < 0:
            raise BadRequest(f"a start at revision {start_revision}", code=Code.INVALID_ARGUMENT)
        wanted = Wanted(
            first, last, start_revision, prev_kv, no_put, no_delete, progress_notify, fragment
        )
        return Watch(self._connection, wanted, self._namespace)

    async def add_watch_callback(
        self,
        key: Key,
        callback: Callable[[WatchBatch], object],
        *,
        on_error: Callable[[Exception], object] | None = None,
        end: Key | None = None,
        prefix: bool = False,
        start_revision: int = 0,
        prev_kv: bool = False,
        no_put: bool = False,
        no_delete: bool = False,
        progress_notify: bool = False,
        timeout: float | None = None,
    ) -> WatchCallback:
        """Calls a function with each batch of a watch; returns when the watch is confirmed.

        callback: called in order, one at a time, in a thread of its own (synchronous) or in the
        event loop (asyncio). on_error: called once if the watch ends by itself, with the error
        that `callback` raised or that ended the watch. timeout: seconds for the confirmation.
        key, end, prefix, start_revision, prev_kv, no_put, no_delete, progress_notify: as `watch`.
        Errors: as `Watch.open`.
        """
        watch = self.watch(
            key,
            end=end,
            prefix=prefix,
            start_revision=start_revision,
            prev_kv=prev_kv,
            no_put=no_put,
            no_delete=no_delete,
            progress_notify=progress_notify,
        )
        handle = WatchCallback(watch, callback, on_error)
        try:
            await watch.open(timeout)
        except BaseException:
            await finish(watch.close)
            raise
        handle.start()
        return handle
