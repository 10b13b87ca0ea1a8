"""What tests of locks and elections share: threads with outcomes, waiting, lost answers."""

import threading
import time
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from raftkv.client import NotConnected, OutcomeUnknown

T = TypeVar("T")

PATIENCE_SECONDS: Final = 60.0


class Beside(Generic[T]):
    """A function that runs in a thread beside the test. `result` is what came of it."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._outcome: T | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._outcome = self._function()
        except BaseException as error:  # noqa: BLE001 - `result` raises it in the test
            self._error = error

    @property
    def is_done(self) -> bool:
        """Whether it has ended."""
        return not self._thread.is_alive()

    def result(self, seconds: float = PATIENCE_SECONDS) -> T:
        """What it returned. Errors: what it raised; AssertionError if it has not ended in time."""
        self._thread.join(seconds)
        assert self.is_done, "it still goes on"
        if self._error is not None:
            raise self._error
        return self._outcome  # type: ignore[return-value]


def wait_until(true: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    """Waits for something that no event tells."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "did not come about"
        threading.Event().wait(0.01)


def queue_length(client: Any, prefix: str) -> int:
    """How many keys there are below a name."""
    count: int = client.count(prefix)
    return count


class LosesAnswers:
    """Stands before a client's transactions: each of the first `count` writes is carried out or
    not, as `carry_out` says, and its answer is lost.

    lost: how many were.
    """

    def __init__(self, client: Any, count: int, *, carry_out: bool) -> None:
        self._txn = client.txn
        self._count = count
        self._carry_out = carry_out
        self.lost = 0

    def _loses(self, transaction: Any) -> bool:
        if self.lost >= self._count or not transaction.writes:
            return False
        self.lost += 1
        return True

    def sync(self, transaction: Any, **options: Any) -> Any:
        """In place of a synchronous client's `txn`."""
        if not self._loses(transaction):
            return self._txn(transaction, **options)
        if self._carry_out:
            self._txn(transaction, **options)
        raise lost_answer()

    async def aio(self, transaction: Any, **options: Any) -> Any:
        """In place of an asynchronous client's `txn`."""
        if not self._loses(transaction):
            return await self._txn(transaction, **options)
        if self._carry_out:
            await self._txn(transaction, **options)
        raise lost_answer()


def lost_answer() -> OutcomeUnknown:
    """What a client raises when the connection breaks under a write."""
    return OutcomeUnknown(NotConnected("the connection broke"))


def bare(made: Any) -> Any:
    """The object of either face behind what `Faces` hands out, to be given to a recipe."""
    return getattr(made, "_wrapped", made)


def lose_answers(client: Any, count: int = 1, *, carry_out: bool = True) -> LosesAnswers:
    """Puts a LosesAnswers before a client of either face, as `Faces` makes them."""
    target = bare(client)
    losing = LosesAnswers(target, count, carry_out=carry_out)
    target.txn = losing.sync if target is client else losing.aio
    return losing
