"""What is done next: pure values that say which operation comes, after Jepsen's generators.

A generator is a value that never changes. Two questions are asked of it:

    op(context)          -> (operation, the generator after it)
                            (Pending, the generator from now on): nothing yet
                            (None, ...): there will be nothing more
    update(context, event) -> the generator that knows of this event (an operation of the history)

The context tells the time, which processes are free and the random numbers to draw from; nothing
else decides. An operation whose time lies in the future is asked for again if something happens
before: the generator after it counts only once it is dispatched. `PENDING` alone waits for an
event; `Pending(until_ns)` also for the time.

A process is done for when one of its operations ends with "info": its thread goes on as another
process. Threads are 0..concurrency-1, and NEMESIS; thread = process % concurrency.

Where a generator is expected, these will do as well:

    {"f": "read"}              that operation, once
    a function of the context  what it returns (such a mapping), again and again, until None
    a list                     one after the other
    None                       nothing

In mappings "f" is needed; "value" and "process" may be there.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from random import Random
from typing import Any, Final, NamedTuple, TypeAlias

from jepsen_lite.history import NEMESIS, Op

SECOND_NS: Final = 1_000_000_000

Wish: TypeAlias = Mapping[str, Any]


class Context(NamedTuple):
    """What a generator may know.

    time_ns: nanoseconds since the run began. free: processes that could begin something now,
    NEMESIS among them, if it is. random: where random numbers come from. threads: all of them,
    free or not, within what this generator is for; empty = those of the free processes.
    concurrency: of clients; 0 = a process is its own thread.
    """

    time_ns: int
    free: tuple[int, ...]
    random: Random
    threads: tuple[int, ...] = ()
    concurrency: int = 0

    def thread(self, process: int) -> int:
        """The thread that this process runs on."""
        if process == NEMESIS or not self.concurrency:
            return process
        return process % self.concurrency

    @property
    def scope(self) -> tuple[int, ...]:
        """All threads, free or not."""
        return self.threads or tuple(map(self.thread, self.free))

    @property
    def all_free(self) -> bool:
        """Whether nothing is under way."""
        return len(self.free) >= len(self.threads)

    def within(self, accepts: Callable[[int], bool]) -> "Context":
        """The same, of those threads only. accepts: is asked about each thread."""
        free = tuple(process for process in self.free if accepts(self.thread(process)))
        return self._replace(free=free, threads=tuple(filter(accepts, self.scope)))


class Pending(NamedTuple):
    """Nothing yet. until_ns: when to ask again at the latest; None = when something happens."""

    until_ns: int | None = None


PENDING: Final = Pending()
Answer: TypeAlias = "tuple[Op | Pending | None, Generator]"
Source: TypeAlias = "Generator | Wish | Callable[[Context], Wish | None] | list[Any] | None"


class Generator(ABC):
    """A value that says what comes next. listens: whether `update` ever changes anything."""

    listens: bool = False

    @abstractmethod
    def op(self, context: Context) -> Answer:
        """What comes next, and the generator after it."""

    def update(self, context: Context, event: Op) -> "Generator":
        """The generator that knows of this event."""
        return self


def lift(source: Source) -> Generator:
    """A generator of whatever stands for one (see the module's text). Errors: TypeError."""
    if isinstance(source, Generator):
        return source
    if source is None:
        return NOTHING
    if isinstance(source, Mapping):
        return Once(source)
    if callable(source):
        return Function(source)
    if isinstance(source, list | tuple):
        return Sequence(tuple(map(lift, source)))
    raise TypeError(f"{source!r} is no generator")


def _filled(wish: Wish, context: Context) -> Op | Pending:
    """The operation that a mapping asks for, by a free process."""
    process = wish.get("process")
    if process is None:
        free = context.free
        if not free:
            return PENDING
        process = free[0] if len(free) == 1 else free[int(context.random.random() * len(free))]
    elif process not in context.free:
        return PENDING
    return Op(process, "invoke", wish["f"], wish.get("value"), context.time_ns)


# --- the simplest --------------------------------------------------------------------------


class _Nothing(Generator):
    def op(self, context: Context) -> Answer:
        return None, self


NOTHING: Final = _Nothing()


class Once(Generator):
    def __init__(self, wish: Wish) -> None:
        self._wish = wish

    def op(self, context: Context) -> Answer:
        found = _filled(self._wish, context)
        return found, (self if isinstance(found, Pending) else NOTHING)


class Function(Generator):
    def __init__(self, function: Callable[[Context], Wish | None]) -> None:
        self._function = function

    def op(self, context: Context) -> Answer:
        if not context.free:
            return PENDING, self
        wish = self._function(context)
        return (None if wish is None else _filled(wish, context)), self


class Repeat(Generator):
    """The same again: its generator is asked, but never goes on."""

    def __init__(self, inner: Generator) -> None:
        self._inner = inner
        self.listens = inner.listens

    def op(self, context: Context) -> Answer:
        return self._inner.op(context)[0], self

    def update(self, context: Context, event: Op) -> Generator:
        inner = self._inner.update(context, event)
        return self if inner is self._inner else Repeat(inner)


def repeat(source: Source) -> Generator:
    """The same operation, or what the function returns, for ever."""
    return Repeat(lift(source))


class _Sleep(Generator):
    def __init__(self, seconds: float, until_ns: int | None = None) -> None:
        self._seconds = seconds
        self._until_ns = until_ns

    def op(self, context: Context) -> Answer:
        until_ns = self._until_ns
        if until_ns is None:
            until_ns = context.time_ns + int(self._seconds * SECOND_NS)
        if context.time_ns >= until_ns:
            return None, NOTHING
        return Pending(until_ns), _Sleep(self._seconds, until_ns)


def sleep(seconds: float) -> Generator:
    """Nothing for so many seconds; then it ends. For lists and `cycle`."""
    return _Sleep(seconds)


# --- one after the other -------------------------------------------------------------------


class Sequence(Generator):
    def __init__(self, parts: tuple[Generator, ...]) -> None:
        self._parts = parts
        self.listens = any(part.listens for part in parts)

    def op(self, context: Context) -> Answer:
        parts = self._parts
        for place, part in enumerate(parts):
            found, after = part.op(context)
            if found is not None:
                if place == 0 and after is part:
                    return found, self
                return found, Sequence((after, *parts[place + 1 :]))
        return None, NOTHING

    def update(self, context: Context, event: Op) -> Generator:
        if not self._parts or not self._parts[0].listens:
            return self
        first = self._parts[0].update(context, event)
        return self if first is self._parts[0] else Sequence((first, *self._parts[1:]))
