"""A profile of the running process: which functions its threads are in, looked at again and again.

A thread of its own wakes about a hundred times a second, notes the stack of every other thread and
goes back to sleep. It needs Python's lock once per look, which is what a profile costs; a process
that is not profiled pays nothing.

What is counted is time that passes, so a thread that waits is shown where it waits: the event
loop's in `asyncio.runners.Runner.run`, as long as nothing below runs. Pauses between two looks are
random: the member's own clocks tick regularly, and looks in step with them would see always the
same.

The result has a line per different stack, outermost function first and the thread's name before
it, with the number of looks that found it:

    MainThread;raftkv.server.node.run;...;raftkv.server.driver.Driver._turn 17

which flamegraph.pl, speedscope and inferno read as it is ("collapsed" or "folded" stacks).
"""

import asyncio
import random
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import CodeType, FrameType
from typing import Final

from raftkv.server.stacks import function_name, thread_names

INTERVAL_SECONDS: Final = 0.01
MAX_SECONDS: Final = 60.0

_DEPTH: Final = 256  # of a stack; what is further out is not noted
_busy: Final = threading.Lock()  # of the process: two profiles would show each other


class Counts:
    """How often each stack was met.

    own: identifier of the thread that looks; it is left out.
    """

    def __init__(self, own: int) -> None:
        self._own = own
        self._threads: dict[int, str] = {}
        # Code is known by its address, because its own hash goes through all of its bytes. What is
        # in here stays alive, so no other code gets that address.
        self._functions: dict[int, tuple[CodeType, str]] = {}
        self._counts: dict[tuple[int, ...], int] = {}

    def look(self) -> None:
        """Counts the stacks that there are now."""
        counts = self._counts
        for ident, frame in sys._current_frames().items():
            if ident == self._own:
                continue
            if ident not in self._threads:
                self._threads = {**self._threads, ident: str(ident), **thread_names()}
            stack = (ident, *self._addresses(frame))
            counts[stack] = counts.get(stack, 0) + 1

    def _addresses(self, frame: FrameType | None) -> list[int]:
        functions = self._functions
        found: list[int] = []
        while frame is not None and len(found) < _DEPTH:
            code = frame.f_code
            address = id(code)
            if address not in functions:
                name = function_name(code, frame.f_globals.get("__name__", "?"))
                functions[address] = (code, name)
            found.append(address)
            frame = frame.f_back
        return found

    def text(self) -> str:
        """A line per stack, the most frequent first."""
        lines: dict[str, int] = {}
        for (ident, *stack), count in self._counts.items():
            thread = self._threads[ident].replace(";", "_").replace(" ", "_")
            line = ";".join((thread, *(self._functions[one][1] for one in reversed(stack))))
            lines[line] = lines.get(line, 0) + count
        ordered = sorted(lines.items(), key=lambda item: (-item[1], item[0]))
        return "".join(f"{line} {count}\n" for line, count in ordered)


class Profile:
    """One profile. Made by `begin`."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, done: Callable[[str], None]
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._done = done
        self._over = threading.Event()
        self._wanted = True
        self.thread = threading.Thread(target=self._run, name="profiling", daemon=True)

    def give_up(self) -> None:
        """Nobody wants it any more: it ends, and is told to nobody."""
        self._wanted = False
        self._over.set()

    def finish(self) -> None:
        """It ends before its time, and tells what it has seen."""
        self._over.set()

    def _run(self) -> None:
        try:
            text = self._observe()
        finally:
            _busy.release()
        with suppress(RuntimeError):  # the loop was closed meanwhile
            self._loop.call_soon_threadsafe(self._tell, text)

    def _observe(self) -> str:
        counts = Counts(threading.get_ident())
        end = time.monotonic() + self._seconds
        is_over = False
        while not is_over and (left := end - time.monotonic()) > 0:
            pause = random.uniform(0.5, 1.5) * INTERVAL_SECONDS
            is_over = self._over.wait(min(pause, left))
            counts.look()
        return counts.text()

    def _tell(self, text: str) -> None:
        if self._wanted:
            self._done(text)


def begin(
    loop: asyncio.AbstractEventLoop, seconds: float, done: Callable[[str], None]
) -> Profile | None:
    """Profiles the process for some seconds; None if that is being done already.

    seconds: at most MAX_SECONDS. done: called in the loop with the profile's text.
    """
    assert 0 < seconds <= MAX_SECONDS
    if not _busy.acquire(blocking=False):
        return None
    profile = Profile(loop, seconds, done)
    try:
        profile.thread.start()
    except BaseException:
        _busy.release()
        raise
    return profile
