"""Generators that decide when and how much: cycles, phases, limits, pauses."""

from typing import Any

from jepsen_lite.generator.base import (
    NOTHING,
    PENDING,
    SECOND_NS,
    Answer,
    Context,
    Generator,
    Pending,
    Source,
    lift,
)
from jepsen_lite.history import Op


class _Cycle(Generator):
    def __init__(self, parts: tuple[Generator, ...], place: int, current: Generator) -> None:
        self._parts = parts
        self._place = place
        self._current = current
        self.listens = any(part.listens for part in parts)

    def op(self, context: Context) -> Answer:
        place, current = self._place, self._current
        for _ in range(len(self._parts) + 1):
            found, after = current.op(context)
            if found is not None:
                if after is self._current and place == self._place:
                    return found, self
                return found, _Cycle(self._parts, place, after)
            place = (place + 1) % len(self._parts)
            current = self._parts[place]
        return None, NOTHING

    def update(self, context: Context, event: Op) -> Generator:
        current = self._current.update(context, event)
        return self if current is self._current else _Cycle(self._parts, self._place, current)


def cycle(sources: list[Any]) -> Generator:
    """One after the other, and from the beginning again, for ever."""
    parts = tuple(map(lift, sources))
    return _Cycle(parts, 0, parts[0]) if parts else NOTHING


class _Phases(Generator):
    """Each begins when nothing is under way any more."""

    def __init__(self, parts: tuple[Generator, ...], begun: bool = False) -> None:
        self._parts = parts
        self._begun = begun
        self.listens = any(part.listens for part in parts)

    def op(self, context: Context) -> Answer:
        parts, begun = self._parts, self._begun
        while parts:
            if not begun and not context.all_free:
                return PENDING, (self if parts is self._parts else _Phases(parts))
            found, after = parts[0].op(context)
            if found is not None:
                same = after is parts[0] and begun and parts is self._parts
                return found, (self if same else _Phases((after, *parts[1:]), True))
            parts, begun = parts[1:], False
        return None, NOTHING

    def update(self, context: Context, event: Op) -> Generator:
        if not self._begun:
            return self
        first = self._parts[0].update(context, event)
        return self if first is self._parts[0] else _Phases((first, *self._parts[1:]), True)


def phases(*sources: Source) -> Generator:
    """One after the other; each waits until every thread has ended what it did before."""
    return _Phases(tuple(map(lift, sources)))


# --- how much, how fast --------------------------------------------------------------------


class _Limit(Generator):
    def __init__(self, left: int, inner: Generator) -> None:
        self._left = left
        self._inner = inner
        self.listens = inner.listens

    def op(self, context: Context) -> Answer:
        if self._left <= 0:
            return None, NOTHING
        found, after = self._inner.op(context)
        if isinstance(found, Op):
            return found, _Limit(self._left - 1, after)
        return found, (self if after is self._inner else _Limit(self._left, after))

    def update(self, context: Context, event: Op) -> Generator:
        inner = self._inner.update(context, event)
        return self if inner is self._inner else _Limit(self._left, inner)


def limit(count: int, source: Source) -> Generator:
    """At most so many operations."""
    return _Limit(count, lift(source))


def once(source: Source) -> Generator:
    """One operation only."""
    return limit(1, source)


class _TimeLimit(Generator):
    def __init__(self, seconds: float, inner: Generator, end_ns: int | None = None) -> None:
        self._seconds = seconds
        self._inner = inner
        self._end_ns = end_ns
        self.listens = inner.listens

    def op(self, context: Context) -> Answer:
        end_ns = self._end_ns
        if end_ns is None:
            end_ns = context.time_ns + int(self._seconds * SECOND_NS)
        if context.time_ns >= end_ns:
            return None, NOTHING
        found, after = self._inner.op(context)
        rest = (
            self
            if after is self._inner and end_ns == self._end_ns
            else _TimeLimit(self._seconds, after, end_ns)
        )
        if isinstance(found, Pending):
            if found.until_ns is None or found.until_ns > end_ns:
                found = Pending(end_ns)
        elif found is not None and found.time_ns >= end_ns:
            # Not before the end: what is under way still counts for those who wait for it.
            return Pending(end_ns), _TimeLimit(self._seconds, self._inner, end_ns)
        return found, rest

    def update(self, context: Context, event: Op) -> Generator:
        inner = self._inner.update(context, event)
        if inner is self._inner:
            return self
        return _TimeLimit(self._seconds, inner, self._end_ns)


def time_limit(seconds: float, source: Source) -> Generator:
    """Ends so many seconds after it was first asked; what is under way then goes on."""
    return _TimeLimit(seconds, lift(source))


class _Spaced(Generator):
    """At least a pause between operations: fixed, or drawn from 0 to twice as much."""

    def __init__(
        self, pause_ns: int, drawn: bool, inner: Generator, next_ns: int | None = None
    ) -> None:
        self._pause_ns = pause_ns
        self._drawn = drawn
        self._inner = inner
        self._next_ns = next_ns
        self.listens = inner.listens

    def op(self, context: Context) -> Answer:
        found, after = self._inner.op(context)
        if not isinstance(found, Op):
            rest = self if after is self._inner else self._with(after, self._next_ns)
            return found, rest
        time_ns = found.time_ns
        if self._next_ns is not None and self._next_ns > time_ns:
            time_ns = self._next_ns
            found = Op(found.process, found.type, found.f, found.value, time_ns)
        pause_ns = self._pause_ns
        if self._drawn:
            pause_ns = int(context.random.random() * 2 * pause_ns)
        # Of the time that was due, not of now: a late start is made up for, as a rate demands.
        due_ns = time_ns if self._next_ns is None or not self._drawn else self._next_ns
        return found, self._with(after, max(due_ns, time_ns - self._pause_ns * 10) + pause_ns)

    def _with(self, inner: Generator, next_ns: int | None) -> Generator:
        return _Spaced(self._pause_ns, self._drawn, inner, next_ns)

    def update(self, context: Context, event: Op) -> Generator:
        inner = self._inner.update(context, event)
        return self if inner is self._inner else self._with(inner, self._next_ns)


def stagger(seconds: float, source: Source) -> Generator:
    """An operation every so many seconds in the mean, over all processes together; 0 = at once."""
    inner = lift(source)
    return _Spaced(int(seconds * SECOND_NS), True, inner) if seconds > 0 else inner


def delay(seconds: float, source: Source) -> Generator:
    """Exactly so many seconds between the beginnings of operations, at least."""
    return _Spaced(int(seconds * SECOND_NS), False, lift(source))
