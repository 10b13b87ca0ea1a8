"""Generators that join several, and those that are for some threads only."""

from collections.abc import Callable, Mapping
from typing import Any

from jepsen_lite.generator.base import (
    NOTHING,
    PENDING,
    Answer,
    Context,
    Generator,
    Pending,
    Source,
    lift,
)
from jepsen_lite.history import NEMESIS, Op

Parts = tuple[Generator, ...]


class _Race:
    """Of several answers the one that comes first; only its generator goes on.

    `won` tells that no other answer can come sooner. now_ns: the context's time.
    """

    def __init__(self, now_ns: int) -> None:
        self._now_ns = now_ns
        self._best: Op | None = None
        self._until_ns: int | None = None
        self._winner: tuple[Any, Generator] | None = None
        self._alive = False
        self.changed: dict[Any, Generator] = {}
        self.won = False

    def enter(
        self, place: Any, before: Generator, found: Op | Pending | None, after: Generator
    ) -> None:
        """One answer. place: where its generator stands."""
        if isinstance(found, Op):
            self._alive = True
            if self._best is None or found.time_ns < self._best.time_ns:
                self._best, self._winner = found, (place, after)
                self.won = found.time_ns <= self._now_ns
            return
        if after is not before:
            self.changed[place] = after
        if found is not None:
            self._alive = True
            until_ns = found.until_ns
            if until_ns is not None and (self._until_ns is None or until_ns < self._until_ns):
                self._until_ns = until_ns

    def result(self) -> Op | Pending | None:
        """The answer; `changed` has the generators that are others now."""
        best, until_ns = self._best, self._until_ns
        if best is not None and not self.won and until_ns is not None and until_ns < best.time_ns:
            return Pending(until_ns)
        if best is not None and self._winner is not None:
            place, after = self._winner
            self.changed[place] = after
            return best
        if not self._alive:
            return None
        return PENDING if until_ns is None else Pending(until_ns)


def _updated(parts: Parts, context: Context, event: Op) -> Parts:
    """The parts, each told of the event; the very same tuple if none of them minds."""
    fresh = tuple(part.update(context, event) if part.listens else part for part in parts)
    return parts if all(map(_same, fresh, parts)) else fresh


def _same(one: object, other: object) -> bool:
    return one is other


class _Mix(Generator):
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.listens = any(part.listens for part in parts)

    def op(self, context: Context) -> Answer:
        parts = self._parts
        if not context.free:
            return (PENDING if parts else None), self
        race = _Race(context.time_ns)
        ended: set[int] = set()
        order = list(range(len(parts)))
        while order:
            place = order.pop(int(context.random.random() * len(order)))
            found, after = parts[place].op(context)
            if found is None:
                ended.add(place)
                continue
            race.enter(place, parts[place], found, after)
            if isinstance(found, Op):
                break
        found = race.result()
        changed = race.changed
        if not ended and not changed:
            return found, self
        rest = [changed.get(place, part) for place, part in enumerate(parts) if place not in ended]
        return found, _Mix(tuple(rest))

    def update(self, context: Context, event: Op) -> Generator:
        parts = _updated(self._parts, context, event)
        return self if parts is self._parts else _Mix(parts)


def mix(*sources: Source) -> Generator:
    """One of them at random, each time; those that have ended are left out."""
    return _Mix(tuple(map(lift, sources)))


class _AnyOf(Generator):
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.listens = any(part.listens for part in parts)

    def op(self, context: Context) -> Answer:
        race = _Race(context.time_ns)
        for place, part in enumerate(self._parts):
            race.enter(place, part, *part.op(context))
            if race.won:
                break
        found = race.result()
        if not race.changed:
            return found, self
        changed = race.changed
        return found, _AnyOf(
            tuple(changed.get(place, part) for place, part in enumerate(self._parts))
        )

    def update(self, context: Context, event: Op) -> Generator:
        parts = _updated(self._parts, context, event)
        return self if parts is self._parts else _AnyOf(parts)


def any_of(*sources: Source) -> Generator:
    """Whichever has something soonest; on a tie the one that stands first."""
    return _AnyOf(tuple(map(lift, sources)))


# --- for some threads ----------------------------------------------------------------------


class _Clients(Generator):
    def __init__(self, inner: Generator) -> None:
        self._inner = inner
        self.listens = inner.listens

    def op(self, context: Context) -> Answer:
        found, after = self._inner.op(_clients_only(context))
        return found, (self if after is self._inner else _Clients(after))

    def update(self, context: Context, event: Op) -> Generator:
        if event.process == NEMESIS:
            return self
        inner = self._inner.update(_clients_only(context), event)
        return self if inner is self._inner else _Clients(inner)


def _clients_only(context: Context) -> Context:
    """The same without the nemesis, which stands first where it stands at all."""
    time_ns, free, random, threads, concurrency = context
    if NEMESIS in free:
        free = free[1:] if free[0] == NEMESIS else tuple(p for p in free if p != NEMESIS)
    if NEMESIS in threads:
        threads = threads[1:] if threads[0] == NEMESIS else tuple(t for t in threads if t >= 0)
    return Context(time_ns, free, random, threads, concurrency)


def clients(source: Source) -> Generator:
    """For clients only."""
    return _Clients(lift(source))


class _Nemesis(Generator):
    def __init__(self, inner: Generator) -> None:
        self._inner = inner
        self.listens = inner.listens

    def op(self, context: Context) -> Answer:
        free = (NEMESIS,) if NEMESIS in context.free else ()
        own = context._replace(free=free, threads=(NEMESIS,))
        found, after = self._inner.op(own)
        return found, (self if after is self._inner else _Nemesis(after))

    def update(self, context: Context, event: Op) -> Generator:
        if event.process != NEMESIS:
            return self
        inner = self._inner.update(context._replace(threads=(NEMESIS,)), event)
        return self if inner is self._inner else _Nemesis(inner)


def nemesis(source: Source) -> Generator:
    """For the nemesis only."""
    return _Nemesis(lift(source))


class _EachProcess(Generator):
    """own: the generators of the threads that have begun; the others begin with `fresh`."""

    def __init__(self, fresh: Generator, own: Mapping[int, Generator]) -> None:
        self._fresh = fresh
        self._own = own
        self.listens = fresh.listens

    def op(self, context: Context) -> Answer:
        race = _Race(context.time_ns)
        alive = False
        free = context.free
        start = int(context.random.random() * len(free)) if len(free) > 1 else 0
        for process in (*free[start:], *free[:start]):
            thread = context.thread(process)
            before = self._own.get(thread, self._fresh)
            if before is NOTHING:
                continue
            found, after = before.op(context._replace(free=(process,), threads=(thread,)))
            race.enter(thread, before, found, NOTHING if found is None else after)
            if race.won:
                break
        found = race.result()
        own = {**self._own, **race.changed} if race.changed else self._own
        rest = self if own is self._own else _EachProcess(self._fresh, own)
        if found is None:
            free_threads = set(map(context.thread, free))
            alive = any(
                own.get(thread, self._fresh) is not NOTHING
                for thread in context.scope
                if thread not in free_threads
            )
        return (PENDING if alive else found), rest

    def update(self, context: Context, event: Op) -> Generator:
        thread = context.thread(event.process)
        before = self._own.get(thread, self._fresh)
        after = before.update(context, event)
        if after is before:
            return self
        return _EachProcess(self._fresh, {**self._own, thread: after})


def each_process(source: Source) -> Generator:
    """The whole of it once for every thread."""
    return _EachProcess(lift(source), {})


class _Reserve(Generator):
    """bounds: the first thread behind each part's own; the last part has the rest."""

    def __init__(self, bounds: tuple[int, ...], parts: Parts) -> None:
        self._bounds = bounds
        self._parts = parts
        self.listens = any(part.listens for part in parts)

    def _place(self, thread: int) -> int:
        for place, bound in enumerate(self._bounds):
            if 0 <= thread < bound:
                return place
        return len(self._parts) - 1

    def _accepts(self, place: int) -> Callable[[int], bool]:
        return lambda thread: self._place(thread) == place

    def op(self, context: Context) -> Answer:
        race = _Race(context.time_ns)
        for place, part in enumerate(self._parts):
            race.enter(place, part, *part.op(context.within(self._accepts(place))))
            if race.won:
                break
        found = race.result()
        if not race.changed:
            return found, self
        changed = race.changed
        fresh = tuple(changed.get(place, part) for place, part in enumerate(self._parts))
        return found, _Reserve(self._bounds, fresh)

    def update(self, context: Context, event: Op) -> Generator:
        place = self._place(context.thread(event.process))
        part = self._parts[place].update(context.within(self._accepts(place)), event)
        if part is self._parts[place]:
            return self
        fresh = (*self._parts[:place], part, *self._parts[place + 1 :])
        return _Reserve(self._bounds, fresh)


def reserve(*rest: Any) -> Generator:
    """`reserve(2, a, 3, b, c)`: threads 0 and 1 do a, the next three b, all others c."""
    counts, sources = rest[:-1:2], (*rest[1::2], rest[-1])
    bounds: list[int] = []
    for count in counts:
        bounds.append((bounds[-1] if bounds else 0) + count)
    return _Reserve(tuple(bounds), tuple(map(lift, sources)))


class _UntilOk(Generator):
    """busy: processes that do what this generator said."""

    listens = True

    def __init__(self, inner: Generator, busy: frozenset[int] = frozenset()) -> None:
        self._inner = inner
        self._busy = busy

    def op(self, context: Context) -> Answer:
        found, after = self._inner.op(context)
        if isinstance(found, Op):
            return found, _UntilOk(after, self._busy | {found.process})
        return found, (self if after is self._inner else _UntilOk(after, self._busy))

    def update(self, context: Context, event: Op) -> Generator:
        busy = self._busy
        if event.type != "invoke" and event.process in busy:
            if event.type == "ok":
                return NOTHING
            busy = busy - {event.process}
        inner = self._inner.update(context, event)
        if inner is self._inner and busy is self._busy:
            return self
        return _UntilOk(inner, busy)


def until_ok(source: Source) -> Generator:
    """Goes on until one of its operations is carried out."""
    return _UntilOk(lift(source))
