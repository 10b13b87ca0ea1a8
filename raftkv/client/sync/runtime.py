"""What the synchronous face is made of: threads, conditions and grpcio's blocking calls.

`aio/runtime.py` has the same names for asyncio; see there. Written by hand, unlike the modules
beside it.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from typing import Annotated, Any, Final, Generic, ParamSpec, TypeVar

import grpc
from google.protobuf.message import Message

P = ParamSpec("P")
T = TypeVar("T")
Reply = TypeVar("Reply", bound=Message)
Metadata = Sequence[tuple[str, str]]
Prepared = Collection[tuple[str, str]]  # metadata as calls take it best

READ_AHEAD: Final = 16  # answers of a stream that its thread takes before they are asked for

Eventually = Annotated[T, "at once"]  # what a user's function returns
Mutex = threading.Lock  # used by `with`


def sleep(seconds: float) -> None:
    """Waits."""
    time.sleep(seconds)


def _waitable(timeout: float | None) -> float | None:
    """A timeout that a lock takes: None for more seconds than it can count."""
    return timeout if timeout is None or timeout < threading.TIMEOUT_MAX else None


class Event:
    """Once set it stays set."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.set: Callable[[], None] = self._event.set
        self.is_set: Callable[[], bool] = self._event.is_set

    def wait(self, timeout: float | None = None) -> bool:
        """Waits for `set`, at most so many seconds; returns whether it was set."""
        return self._event.wait(_waitable(timeout))


class Mailbox(Generic[T]):
    """A queue for one reader. `put` and `close` may be called from any thread.

    Whoever puts must bound what lies in it: `size` says how much that is.
    """

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    @property
    def size(self) -> int:
        """How many items wait to be taken."""
        return len(self._items)

    def put(self, item: T) -> None:
        """Appends an item; after `close` nothing happens."""
        with self._changed:
            if self._error is None:
                self._items.append(item)
                self._changed.notify()

    def close(self, error: BaseException) -> None:
        """What `get` raises when the items before it are taken. Only the first call counts."""
        with self._changed:
            if self._error is None:
                self._error = error
                self._changed.notify_all()

    def get(self, timeout: float | None = None) -> T:
        """The next item. Errors: TimeoutError after so many seconds, or what `close` was given."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._items or self._error is not None, timeout):
                raise TimeoutError
            if self._items:
                return self._items.popleft()
            assert self._error is not None
            raise self._error


class Task:
    """A function that runs by itself until it returns.

    No thread can be cancelled: who stops one first sets or closes what the function waits for.
    """

    def __init__(self, thread: threading.Thread) -> None:
        self._thread = thread

    def stop(self, timeout: float | None = None) -> None:
        """Waits until it has ended. timeout: seconds. Called by the function itself: nothing."""
        self.join(timeout)

    def join(self, timeout: float | None = None) -> bool:
        """Waits until it has ended, at most so many seconds; returns whether it has."""
        if self._thread is threading.current_thread():
            return False
        self._thread.join(timeout)
        return not self._thread.is_alive()


def spawn(function: Callable[P, None], *args: P.args, **kw: P.kwargs) -> Task:
    """Runs a function beside the caller. It must keep its errors to itself."""
    name = f"raftkv {getattr(function, '__name__', 'task')}"
    thread = threading.Thread(target=function, args=args, kwargs=kw, name=name, daemon=True)
    thread.start()
    return Task(thread)


def caller() -> object:
    """The thread that runs this: whom a reentrant lock belongs to."""
    return threading.current_thread()


def finish(function: Callable[P, T], *args: P.args, **kw: P.kwargs) -> T:
    """Runs clean-up to its end; it bounds its own time."""
    return function(*args, **kw)


# An acquisition is over when the method that makes it returns.
Acquiring = Annotated[T, "acquired"]


def acquiring(held: T) -> T:
    """What a method returns that acquires something."""
    return held


# --- calls --------------------------------------------------------------------------
class Stream(Generic[Reply]):
    """A bidirectional call. `read` is for one reader.

    A thread takes the answers off grpcio, which has no read with a timeout.
    """

    def __init__(self, method: Callable[..., Any], metadata: Metadata) -> None:
        self._requests: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._replies: queue.Queue[Reply | BaseException | None] = queue.Queue(READ_AHEAD)
        self._closed = threading.Event()
        self._call = method(iter(self._requests.get, None), metadata=metadata)
        self._thread = threading.Thread(target=self._receive, name="raftkv stream", daemon=True)
        self._thread.start()

    def write(self, request: Message) -> None:
        """Sends a request, behind earlier ones. Whether that works is heard by `read`."""
        self._requests.put(request)

    def done_writing(self) -> None:
        """Tells the server that no request follows."""
        self._requests.put(None)

    def read(self, timeout: float | None = None) -> Reply | None:
        """The next answer, or None when the server has ended the call well, or `close` has.

        Errors: TimeoutError after so many seconds (the call goes on, nothing is lost);
        grpc.RpcError when the call has failed.
        """
        if self._closed.is_set():
            return None
        try:
            reply = self._replies.get(timeout=None if timeout is None else max(timeout, 0.0))
        except queue.Empty:
            raise TimeoutError from None
        if reply is None or isinstance(reply, BaseException):
            with suppress(queue.Full):
                self._replies.put_nowait(reply)  # for whoever reads on
            if self._closed.is_set():
                return None
        if isinstance(reply, BaseException):
            raise reply
        return reply

    def close(self) -> None:
        """Cancels the call and waits for its thread."""
        self._closed.set()
        self._requests.put(None)
        self._call.cancel()
        while self._thread.is_alive() and self._thread is not threading.current_thread():
            with suppress(queue.Empty):
                self._replies.get_nowait()
            self._thread.join(0.01)
        with suppress(queue.Full):
            self._replies.put_nowait(None)  # for a thread that waits in `read`

    def _receive(self) -> None:
        last: BaseException | None = None
        try:
            replies: Iterator[Reply] = self._call
            for reply in replies:
                self._replies.put(reply)
                if self._closed.is_set():
                    break
        except grpc.RpcError as error:
            last = error
        self._requests.put(None)
        if not self._closed.is_set():
            self._replies.put(last)


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
        self._channel = (
            grpc.insecure_channel(address, given)
            if credentials is None
            else grpc.secure_channel(address, credentials, given)
        )
        self._calls = (
            grpc.intercept_channel(self._channel, *interceptors) if interceptors else self._channel
        )
        self._methods: dict[str, Callable[..., Any]] = {}

    def unary(
        self, path: str, request: Message, reply: type[Reply], timeout: float, metadata: Prepared
    ) -> Reply:
        """One call. path: "/package.Service/Method". Errors: grpc.RpcError."""
        method = self._methods.get(path)
        if method is None:
            method = self._methods[path] = self._calls.unary_unary(
                path,
                request_serializer=type(request).SerializeToString,
                response_deserializer=reply.FromString,
            )
        answer: Reply = method(request, timeout=timeout, metadata=metadata)
        return answer

    def stream(self, path: str, reply: type[Reply], metadata: Metadata) -> Stream[Reply]:
        """A bidirectional call without a deadline. Errors: grpc.RpcError, from its methods."""
        method = self._calls.stream_stream(
            path,
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=reply.FromString,
        )
        return Stream(method, metadata)

    def close(self) -> None:
        """Ends the calls that still run."""
        self._channel.close()


def prepared(metadata: Metadata) -> Prepared:
    """Metadata as grpcio uses it."""
    return tuple(metadata)


def is_cancelled() -> bool:
    """Whether somebody is cancelling the caller: nobody can cancel a thread."""
    return False


# What a call raises when it is cancelled without having failed.
INTERRUPTED: Final = ()
# What grpcio raises when a channel is used after its end.
CHANNEL_CLOSED: Final = (ValueError,)
THREADS: Final = True
