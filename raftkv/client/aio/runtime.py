"""What the asynchronous face is made of: tasks, events and calls of asyncio and grpc.aio.

`sync/runtime.py` has the same names for threads; the modules beside them are written against
these names and know neither. Whatever other threads do (keepalives have their own) reaches a
loop through `Event.set` and `Mailbox.put` only, which any thread may call.
"""

import asyncio
import math
import threading
from collections import deque
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Generator,
    Iterator,
    Sequence,
)
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Generic, ParamSpec, Protocol, Self, TypeVar

import grpc
from google.protobuf.message import Message

from raftkv.client.errors import WrongLoop

P = ParamSpec("P")
T = TypeVar("T")
Reply = TypeVar("Reply", bound=Message)
Metadata = Sequence[tuple[str, str]]
Prepared = Collection[tuple[str, str]]  # metadata as calls take it best

READ_AHEAD: Final = 16  # answers of a stream that are taken before they are asked for

Eventually = Awaitable  # what a user's function returns: Callable[[...], Eventually[T]]
Mutex = asyncio.Lock  # used by `async with`


async def sleep(seconds: float) -> None:
    """Waits."""
    await asyncio.sleep(seconds)


class Event:
    """Once set it stays set. `set` and `is_set` may be called from any thread."""

    def __init__(self) -> None:
        self._is_set = False
        self._guard = threading.Lock()
        self._waiting: list[asyncio.Future[None]] = []

    def set(self) -> None:
        """Wakes all who wait."""
        with self._guard:
            self._is_set = True
            waiting, self._waiting = self._waiting, []
        for future in waiting:
            with suppress(RuntimeError):  # its loop has been closed, so nobody waits
                future.get_loop().call_soon_threadsafe(_resolve, future)

    def is_set(self) -> bool:
        """Whether it was set."""
        return self._is_set

    async def wait(self, timeout: float | None = None) -> bool:
        """Waits for `set`, at most so many seconds; returns whether it was set."""
        with self._guard:
            if self._is_set:
                return True
            future = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
        try:
            # uvloop has no timer for ever
            async with asyncio.timeout(None if timeout == math.inf else timeout):
                await future
        except TimeoutError:
            return self._is_set
        finally:
            with self._guard, suppress(ValueError):
                self._waiting.remove(future)
        return True


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Mailbox(Generic[T]):
    """A queue for one reader. `put` and `close` may be called from any thread.

    Whoever puts must bound what lies in it: `size` says how much that is.
    """

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._error: BaseException | None = None
        self._arrived = Event()

    @property
    def size(self) -> int:
        """How many items wait to be taken."""
        return len(self._items)

    def put(self, item: T) -> None:
        """Appends an item; after `close` nothing happens."""
        if self._error is None:
            self._items.append(item)
            self._arrived.set()

    def close(self, error: BaseException) -> None:
        """What `get` raises when the items before it are taken. Only the first call counts."""
        if self._error is None:
            self._error = error
            self._arrived.set()

    async def get(self, timeout: float | None = None) -> T:
        """The next item. Errors: TimeoutError after so many seconds, or what `close` was given."""
        while True:
            arrived = self._arrived
            if self._items:
                return self._items.popleft()
            if self._error is not None:
                raise self._error
            if arrived.is_set():
                self._arrived = arrived = Event()
                if self._items or self._error is not None:
                    continue
            if not await arrived.wait(timeout):
                raise TimeoutError


class Task:
    """A function that runs by itself until it returns or is stopped."""

    def __init__(self, task: "asyncio.Task[None]") -> None:
        self._task = task

    async def stop(self, timeout: float | None = None) -> None:
        """Cancels it and waits until it has ended; its own errors are dropped.

        timeout: seconds. Called by the function itself it does nothing.
        """
        if self._task is not asyncio.current_task():
            self._task.cancel()
            await self.join(timeout)

    async def join(self, timeout: float | None = None) -> bool:
        """Waits until it has ended, at most so many seconds; returns whether it has."""
        if self._task is asyncio.current_task():
            return False
        await asyncio.wait([self._task], timeout=timeout)
        return self._task.done()


_running: Final[set["asyncio.Task[None]"]] = set()  # a loop keeps no task alive by itself


def spawn(function: Callable[P, Coroutine[Any, Any, None]], *args: P.args, **kw: P.kwargs) -> Task:
    """Runs a function beside the caller. It must keep its errors to itself."""
    task = asyncio.get_running_loop().create_task(function(*args, **kw))
    _running.add(task)
    task.add_done_callback(_forget)
    return Task(task)


def _forget(task: "asyncio.Task[None]") -> None:
    _running.discard(task)
    _seen(task)


def _seen(task: "asyncio.Task[None]") -> None:
    """Keeps asyncio from reporting an error that nobody asks for."""
    if not task.cancelled():
        task.exception()


def caller() -> object:
    """The task that runs this: whom a reentrant lock belongs to."""
    return asyncio.current_task()


async def finish(function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kw: P.kwargs) -> T:
    """Runs clean-up to its end even while the caller is being cancelled.

    The function bounds its own time. A cancellation that comes meanwhile is raised at the end.
    """
    task = asyncio.get_running_loop().create_task(function(*args, **kw))
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # seen
        raise cancelled
    return task.result()


class Held(Protocol):
    """What is acquired: a holding, a term, a place."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


H = TypeVar("H", bound=Held)


class Acquiring(Coroutine[Any, Any, H]):
    """An acquisition: `held = await it`, or `async with it as held`. To be used once.

    It is a coroutine, too, so that `asyncio.create_task` and a TaskGroup take it.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, H]) -> None:
        self._coroutine = coroutine
        self._held: H | None = None

    def __await__(self) -> Generator[Any, None, H]:
        return self._coroutine.__await__()

    def send(self, value: Any) -> Any:
        """What a task calls to go on (collections.abc.Coroutine)."""
        return self._coroutine.send(value)

    def throw(self, *error: Any) -> Any:
        """What a task calls to raise an error inside (collections.abc.Coroutine)."""
        return self._coroutine.throw(*error)

    def close(self) -> None:
        """Gives it up before its beginning (collections.abc.Coroutine)."""
        self._coroutine.close()

    async def __aenter__(self) -> H:
        self._held = await self._coroutine
        return await self._held.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._held is not None
        await self._held.__aexit__(kind, error, traceback)


def acquiring(coroutine: Coroutine[Any, Any, H]) -> Acquiring[H]:
    """What a method returns that acquires something; the method itself is no `async def`."""
    return Acquiring(coroutine)


# --- calls --------------------------------------------------------------------------
class Stream(Generic[Reply]):
    """A bidirectional call. `read` is for one reader.

    A task takes the answers off grpcio, a bounded number ahead, and another one sends: a cancelled
    caller must not cancel the call, an answer that is there already costs its reader no switch, and
    nobody waits for a connection to come about but who reads.
    """

    def __init__(self, call: Any) -> None:
        self._call = call
        self._replies: deque[Reply] = deque()
        self._failure: BaseException | None = None
        self._ended = self._closed = False
        self._waiting: asyncio.Future[None] | None = None  # for an answer
        self._full: asyncio.Future[None] | None = None  # for room
        self._receiving: asyncio.Task[None] | None = None
        self._requests: deque[Message | None] = deque()
        self._sending: asyncio.Task[None] | None = None

    async def write(self, request: Message) -> None:
        """Sends a request, behind earlier ones. Whether that works is heard by `read`."""
        self._send(request)

    async def done_writing(self) -> None:
        """Tells the server that no request follows."""
        self._send(None)

    def _send(self, request: Message | None) -> None:
        self._requests.append(request)
        if self._sending is None or self._sending.done():
            self._sending = asyncio.ensure_future(self._send_all())

    async def _send_all(self) -> None:
        # The errors of a call that has ended are for who reads.
        with suppress(grpc.RpcError, asyncio.InvalidStateError):
            while self._requests:
                request = self._requests.popleft()
                if request is None:
                    await self._call.done_writing()
                else:
                    await self._call.write(request)

    async def read(self, timeout: float | None = None) -> Reply | None:
        """The next answer, or None when the server has ended the call well, or `close` has.

        Errors: TimeoutError after so many seconds (the call goes on, nothing is lost);
        grpc.RpcError when the call has failed.
        """
        if not self._replies and not self._ended and not self._closed:
            await self._wait(timeout)
        if self._closed:
            return None
        if self._replies:
            if self._full is not None:
                _resolve(self._full)
            return self._replies.popleft()
        if self._failure is not None:
            raise self._failure
        if not self._ended:
            raise TimeoutError
        return None

    async def _wait(self, timeout: float | None) -> None:
        """Until there is an answer or an end, at most so many seconds."""
        loop = asyncio.get_running_loop()
        if self._receiving is None:
            self._receiving = loop.create_task(self._receive())
        self._waiting = waiting = loop.create_future()
        timer = None
        if timeout is not None:
            timer = loop.call_later(max(timeout, 0.0), _resolve, waiting)
        try:
            await waiting
        finally:
            self._waiting = None
            if timer is not None:
                timer.cancel()

    async def _receive(self) -> None:
        try:
            while (reply := await self._call.read()) is not grpc.aio.EOF:
                self._replies.append(reply)
                self._wake()
                while len(self._replies) >= READ_AHEAD:
                    self._full = asyncio.get_running_loop().create_future()
                    await self._full
                self._full = None
        except grpc.RpcError as error:
            self._failure = error
        finally:
            self._ended = True
            self._wake()

    def _wake(self) -> None:
        if self._waiting is not None:
            _resolve(self._waiting)

    async def close(self) -> None:
        """Cancels the call."""
        self._closed = True
        self._call.cancel()
        tasks = [task for task in (self._receiving, self._sending) if task is not None]
        for task in tasks:
            task.cancel()  # of a call that never had a connection, nobody else ends them
            task.add_done_callback(_seen)
        self._wake()
        if tasks:
            await asyncio.wait(tasks)


class Channel:
    """A connection to one endpoint, opened when first used."""

    def __init__(
        self,
        address: str,
        options: Sequence[tuple[str, Any]],
        credentials: grpc.ChannelCredentials | None,
        interceptors: Sequence[Any],
    ) -> None:
        given = list(options)
        self._loop = asyncio.get_running_loop()
        self._channel = (
            grpc.aio.insecure_channel(address, given, interceptors=list(interceptors))
            if credentials is None
            else grpc.aio.secure_channel(
                address, credentials, given, interceptors=list(interceptors)
            )
        )
        self._methods: dict[str, Callable[..., Awaitable[Any]]] = {}

    def unary(
        self, path: str, request: Message, reply: type[Reply], timeout: float, metadata: Prepared
    ) -> Awaitable[Reply]:
        """One call. path: "/package.Service/Method". Errors: grpc.RpcError, INTERRUPTED."""
        if asyncio.get_running_loop() is not self._loop:
            raise _wrong_loop()
        method = self._methods.get(path)
        if method is None:
            method = self._methods[path] = self._channel.unary_unary(
                path,
                request_serializer=type(request).SerializeToString,
                response_deserializer=reply.FromString,
            )
        answer: Awaitable[Reply] = method(request, timeout=timeout, metadata=metadata)
        return answer

    def stream(self, path: str, reply: type[Reply], metadata: Metadata) -> Stream[Reply]:
        """A bidirectional call without a deadline. Errors: grpc.RpcError, from its methods."""
        if asyncio.get_running_loop() is not self._loop:
            raise _wrong_loop()
        method = self._channel.stream_stream(
            path,
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=reply.FromString,
        )
        return Stream(method(metadata=metadata))

    async def close(self) -> None:
        """Ends the calls that still run. From another loop it only lets go of the channel."""
        if asyncio.get_running_loop() is self._loop:
            await self._channel.close()


def _wrong_loop() -> WrongLoop:
    return WrongLoop(
        "an asynchronous client belongs to the event loop of its first call: "
        "make one in each loop, or use raftkv.client's"
    )


class _Pairs(grpc.aio.Metadata):  # type: ignore[misc]
    """Metadata that nobody changes: it need not be counted and collected in every call."""

    def __init__(self, *pairs: tuple[str, str]) -> None:
        super().__init__(*pairs)
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._pairs)


def prepared(metadata: Metadata) -> Prepared:
    """Metadata as grpcio uses it; of anything else it makes that anew in every call."""
    made: Prepared = _Pairs(*metadata)
    return made


def is_cancelled() -> bool:
    """Whether somebody is cancelling the task that runs this."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


# What a call raises when it is cancelled, its caller or its channel.
INTERRUPTED: Final = (asyncio.CancelledError,)
# What grpcio raises when a channel is used after its end.
CHANNEL_CLOSED: Final = (grpc.aio.UsageError,)
THREADS: Final = False
