"""The steps of workloads: an operation by its number, and by what was heard so far. Pure."""

import asyncio
from collections.abc import Callable
from random import Random
from typing import Final, Generic, TypeVar

from jepsen_lite.generator import PENDING, Answer, Context, Generator, Pending, Wish, lift
from jepsen_lite.history import Op

Known = TypeVar("Known")

FIRST_PAUSE_SECONDS: Final = 0.004


class _Numbered(Generator):
    def __init__(self, make: Callable[[int, Context], Wish | None], number: int) -> None:
        self._make = make
        self._number = number

    def op(self, context: Context) -> Answer:
        if not context.free:
            return PENDING, self
        found, _ = lift(self._make(self._number, context)).op(context)
        if isinstance(found, Op):
            return found, _Numbered(self._make, self._number + 1)
        return found, self


def numbered(make: Callable[[int, Context], Wish | None]) -> Generator:
    """Operations that know which they are: 0, 1, 2, ... make: must be pure; None ends it."""
    return _Numbered(make, 0)


class _Learning(Generator, Generic[Known]):
    listens = True

    def __init__(
        self,
        make: Callable[[int, Known, Context], Wish | None],
        learn: Callable[[Known, Op], Known],
        known: Known,
        number: int = 0,
    ) -> None:
        self._make = make
        self._learn = learn
        self._known = known
        self._number = number

    def _with(self, known: Known, number: int) -> Generator:
        return _Learning(self._make, self._learn, known, number)

    def op(self, context: Context) -> Answer:
        if not context.free:
            return PENDING, self
        found, _ = lift(self._make(self._number, self._known, context)).op(context)
        if found is None or isinstance(found, Pending):
            return found, self
        return found, self._with(self._known, self._number + 1)

    def update(self, context: Context, event: Op) -> Generator:
        known = self._learn(self._known, event)
        return self if known is self._known else self._with(known, self._number)


def learning(
    make: Callable[[int, Known, Context], Wish | None],
    learn: Callable[[Known, Op], Known],
    known: Known,
) -> Generator:
    """The same, with what is known from earlier operations.

    make: of the number and what is known; None ends it. learn: what is known after an event, the
    very same object if that taught nothing. known: at the beginning. Both functions must be pure.
    """
    return _Learning(make, learn, known)


def latest_revision(known: int, event: Op) -> int:
    """To be learnt: the highest revision that any answer told of."""
    if event.type != "ok" or not isinstance(event.value, dict):
        return known
    revision = event.value.get("revision", 0)
    return revision if revision > known else known


async def back_off(op: Op, attempt: int) -> None:
    """Waits before an operation that was overtaken tries again: a drawn time that doubles.

    attempt: how many there were. The draw follows from the operation, so a run can be repeated.
    """
    longest = FIRST_PAUSE_SECONDS * 2 ** min(attempt, 6)
    await asyncio.sleep(Random(f"{op.process}/{op.index}/{attempt}").random() * longest)
