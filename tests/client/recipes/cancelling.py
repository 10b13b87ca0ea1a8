"""Cancelling a task at one chosen point of all at which it waits, and what to cancel so."""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any

Recipes = dict[str, Callable[[], Any]]


class Cut(Awaitable[Any]):
    """An awaitable whose task is cancelled where it waits for the `number`th time (from 1).

    late: what it waits for comes about first, and the cancellation before the task runs again, so
    that its servers have carried out what it asked for and it never learns that. Otherwise it is
    cancelled before anybody can have done anything.
    was_reached: whether it has waited so often.
    """

    def __init__(self, awaitable: Awaitable[Any], number: int, *, late: bool) -> None:
        self._awaitable = awaitable
        self._left = number
        self._late = late
        self.was_reached = False

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._awaitable.__await__()
        resume: Callable[[], Any] = lambda: next(steps)  # noqa: E731
        while True:
            try:
                waited_for = resume()
            except StopIteration as end:
                return end.value
            self._left -= 1
            if self._left == 0:
                self._cut(waited_for)
            try:
                yield waited_for
            except BaseException as error:  # noqa: BLE001 - goes where it was meant to go
                resume = _thrower(steps, error)
            else:
                resume = lambda: next(steps)  # noqa: E731

    def _cut(self, waited_for: "asyncio.Future[Any] | None") -> None:
        self.was_reached = True
        task = asyncio.current_task()
        assert task is not None
        if self._late and waited_for is not None:
            waited_for.add_done_callback(lambda _: task.cancel())
        else:
            task.cancel()


def _thrower(steps: Generator[Any, Any, Any], error: BaseException) -> Callable[[], Any]:
    return lambda: steps.throw(error)


async def used(acquiring: Any) -> None:
    """Acquires something, uses it for a moment, and gives it back."""
    async with acquiring:
        await asyncio.sleep(0.001)


def all_recipes(client: Any, prefix: str, lease: Any) -> Recipes:
    """What acquires something, by a name. lease: of the caller's own, for one of them."""
    return {
        "lock": lambda: client.lock(prefix + "l").acquire(),
        "whole lock": lambda: client.lock(prefix + "w"),
        "lock of a given lease": lambda: client.lock(prefix + "g", lease=lease).acquire(),
        "reader": lambda: client.rwlock(prefix + "rw").read(),
        "writer": lambda: client.rwlock(prefix + "rw").write(),
        "semaphore": lambda: client.semaphore(prefix + "s", 2).acquire(),
        "election": lambda: client.election(prefix + "e").campaign("x"),
        "barrier": lambda: client.barrier(prefix + "b").hold(),
        "endless barrier": lambda: client.barrier(prefix + "b0").hold(ttl=None),
        "double barrier": lambda: client.double_barrier(prefix + "d", 1),
        "claim": lambda: client.queue(prefix + "q").claim(),
        "party": lambda: client.party(prefix + "p").join("me"),
        "registry": lambda: client.registry(prefix + "r").register("web", "a", "1.2.3.4"),
        "view": lambda: client.party(prefix + "p").watch(),
        "lease": lambda: client.lease(60),
    }


def waiting_recipes(client: Any, prefix: str, lease: Any) -> Recipes:
    """What waits as long as `others_hold` does."""
    return {
        "lock": lambda: client.lock(prefix + "l").acquire(),
        "lock of a given lease": lambda: client.lock(prefix + "l", lease=lease).acquire(),
        "reader": lambda: client.rwlock(prefix + "rw").read(),
        "writer": lambda: client.rwlock(prefix + "rw").write(),
        "semaphore": lambda: client.semaphore(prefix + "s", 1).acquire(),
        "election": lambda: client.election(prefix + "e").campaign("x"),
        "double barrier": lambda: client.double_barrier(prefix + "d", 2),
        "claim": lambda: client.queue(prefix + "q").claim(),
    }


async def others_hold(client: Any, prefix: str) -> None:
    """Another client that holds everything which `waiting_recipes` wants, until it is closed."""
    await client.lock(prefix + "l").acquire()
    await client.rwlock(prefix + "rw").write()
    await client.semaphore(prefix + "s", 1).acquire()
    await client.election(prefix + "e").campaign("y")
    await client.queue(prefix + "q").put("an item")
    await client.queue(prefix + "q").claim()
