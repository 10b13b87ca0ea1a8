"""Both faces of the library, driven from plain synchronous tests.

`connect` makes a client whose methods block. For the asynchronous face it is one whose methods run
in an event loop of its own thread, so that the same lines of a test speak to both.
"""

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Final

from raftkv.client import aio, sync

CALL_SECONDS: Final = 60.0


class Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def call(self, function: Callable[[], Any]) -> Any:
        """Calls a function in the loop, awaits what it returns if that can be awaited."""
        future = asyncio.run_coroutine_threadsafe(_awaited(function), self.loop)
        return future.result(CALL_SECONDS)

    def close(self) -> None:
        """Ends it; tasks that are left are a fault of the test or the library."""
        left = self.call(_tasks_left)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(CALL_SECONDS)
        self.loop.close()
        assert not left, f"tasks are left: {left}"


async def _awaited(function: Callable[[], Any]) -> Any:
    result = function()
    return await result if inspect.isawaitable(result) else result


async def _tasks_left() -> "list[asyncio.Task[Any]]":
    """Those that do not end by themselves, as grpcio's do soon after their channel."""
    left: list[asyncio.Task[Any]] = []
    for _ in range(200):
        left = [one for one in asyncio.all_tasks() if not _is_call(one)]
        if not left:
            break
        await asyncio.sleep(0.01)
    return left


def _is_call(task: "asyncio.Task[Any]") -> bool:
    return getattr(task.get_coro(), "__name__", "") == _awaited.__name__


class Blocking:
    """An object of the asynchronous face whose methods block; what they return is wrapped too."""

    def __init__(self, wrapped: Any, loop: Loop) -> None:
        self._wrapped = wrapped
        self._loop = loop

    def _call(self, function: Callable[[], Any]) -> Any:
        return self._wrap(self._loop.call(function))

    def _wrap(self, value: Any) -> Any:
        if type(value).__module__.startswith("raftkv.client.aio"):
            return Blocking(value, self._loop)
        return value

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._wrapped, name)
        if inspect.isroutine(attribute):
            return lambda *args, **options: self._call(lambda: attribute(*args, **options))
        return self._wrap(attribute)

    def __iter__(self) -> Iterator[Any]:
        iterator = self._loop.call(lambda: aiter(self._wrapped))
        while True:
            try:
                yield self._call(lambda: anext(iterator))
            except StopAsyncIteration:
                return

    def __enter__(self) -> Any:
        return self._call(self._wrapped.__aenter__)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._call(lambda: self._wrapped.__aexit__(kind, error, traceback))


class Faces:
    """Makes clients of one face and closes them. name: "sync" or "aio"."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._clients: list[Any] = []
        self._loop = Loop() if name == "aio" else None

    def __call__(self, endpoints: str, **options: Any) -> Any:
        """A client of this face. A call may take half a minute, as on a busy machine."""
        client: Any
        options = {"timeout": 30.0, **options}
        if self._loop is None:
            client = sync.Client(endpoints, **options)
        else:
            loop = self._loop
            client = Blocking(loop.call(lambda: aio.Client(endpoints, **options)), loop)
        self._clients.append(client)
        return client

    def close_clients(self) -> None:
        """Closes all clients."""
        for client in self._clients:
            client.close()

    def close(self) -> None:
        """Closes all; nothing may be left of them."""
        self.close_clients()
        if self._loop is not None:
            self._loop.close()
