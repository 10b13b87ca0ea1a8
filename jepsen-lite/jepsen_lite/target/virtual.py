"""An asyncio event loop whose time is a simulated world's.

The loop asks its selector to wait; this one runs the world's events instead, until one of them
has given the loop something to do or the time has come that the loop waits for. So a coroutine
that sleeps a second costs nothing but the world's events in it, and equal seeds give equal runs:
nothing here knows true time or a thread.
"""

import asyncio
import selectors
from collections.abc import Callable
from contextvars import Context
from math import ceil
from typing import Final, TypeVarTuple

from raftkv.errors import RaftkvError
from raftkv.sim.world import SECOND, World

Arguments = TypeVarTuple("Arguments")
_FAR_US: Final = 10**15


class NothingLeft(RaftkvError):
    """The loop waits for something, and the world has no event that could bring it."""


class _WorldSelector(selectors.SelectSelector):
    """Waits by running the world. Files are registered with it, and never looked at."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self.stirred = False
        self.frozen = False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Runs events for so many virtual seconds at most, or until the loop has work."""
        world = self._world
        until_us = None if timeout is None else world.now_us + ceil(max(timeout, 0.0) * SECOND)
        if self.frozen and until_us is not None:
            world.now_us = until_us
            return []
        self.stirred = False
        done = world.run_while(lambda: not self.stirred, _FAR_US if until_us is None else until_us)
        if until_us is None and not done:
            raise NothingLeft("the simulated world has no more events, and the run waits for one")
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module's docstring."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._waiter = _WorldSelector(world)
        super().__init__(self._waiter)

    def time(self) -> float:
        """Virtual seconds."""
        return self._world.now_us / SECOND

    def freeze(self) -> None:
        """The world stands still from now on, because it is broken; only time goes by."""
        self._waiter.frozen = True

    def call_at(
        self,
        when: float,
        callback: Callable[[*Arguments], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """As every loop's, but never early: time stands still for who finds that it is not yet so
        far, so a part of a microsecond that is left would be waited for for ever.
        """
        now_us = self._world.now_us
        if when > now_us / SECOND:
            when = max(ceil(when * SECOND), now_us + 1) / SECOND
        return super().call_at(when, callback, *args, context=context)

    def call_soon_threadsafe(
        self,
        callback: Callable[[*Arguments], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """As `call_soon`: there is no other thread, and nothing outside that must be woken."""
        return self.call_soon(callback, *args, context=context)

    def call_soon(
        self,
        callback: Callable[[*Arguments], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """As every loop's; the world stops for it."""
        self._waiter.stirred = True
        return super().call_soon(callback, *args, context=context)
