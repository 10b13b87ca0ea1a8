# Made by scripts/generate_sync.py from raftkv/client/aio: edit that.
"""What some keys mean, kept up to date: a cache, and a reading of its snapshots.

    with client.party("workers").watch() as members:
        members.value                       # now
        for everybody in members: ... # first what there is, then after each change

When things go wrong it is as with `cache`: `value` is what there was at `revision`, and while no
server can be reached it gets older (`stale_for`). A reader that is slow sees the newest value and
not each one between; one that is never older than the one before, unless the store was put back.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

from raftkv.client.errors import ClientClosed, TimedOut
from raftkv.client.mirror import Snapshot
from raftkv.client.patience import Patience
from raftkv.client.sync import runtime
from raftkv.client.sync.recipes.cache import Cache

T = TypeVar("T")


class View(Generic[T]):
    """See the module's docstring. For one reader of `next`; `value` may be read by any thread.

    read: what a snapshot means. Equal meanings are not told twice.
    """

    def __init__(self, cache: Cache, read: Callable[[Snapshot], T]) -> None:
        self._cache = cache
        self._read = read
        self._seen: T | None = None
        self._is_seen = False
        self._at: Snapshot | None = None

    @property
    def value(self) -> T:
        """What the keys mean, as of `revision`. Asks nobody."""
        return self._read(self._cache.snapshot())

    @property
    def revision(self) -> int:
        """The revision of the store that `value` is of."""
        return self._cache.revision

    @property
    def stale_for(self) -> float:
        """Seconds since this was surely what the store had."""
        return self._cache.stale_for

    def catch_up(self, timeout: float | None = None) -> T:
        """What the keys mean with everything that was written before this call.

        timeout: seconds, None = for ever. Errors: NotAcquired (a TimeoutError).
        """
        self._cache.catch_up(timeout)
        return self.value

    def next(self, timeout: float | None = None) -> T:
        """The next meaning that differs from the last one handed out; the first time, the first.

        timeout: seconds, None = for ever. Errors: TimedOut (a TimeoutError), ClientClosed after
        `close`, what has ended the cache.
        """
        patience = Patience(timeout)
        while True:
            changed = self._cache.changed
            self._cache.check()
            snapshot = self._cache.snapshot()
            if self._at is None or snapshot.kvs is not self._at.kvs:
                self._at = snapshot
                value = self._read(snapshot)
                if not self._is_seen or value != self._seen:
                    self._is_seen, self._seen = True, value
                    return value
            if not changed.wait(None if patience.is_endless else patience.left):
                raise TimedOut(f"no change of {self._cache.prefix!r} in {timeout:g} s")

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        try:
            return self.next()
        except ClientClosed:
            raise StopIteration from None

    def close(self) -> None:
        """Ends it; who waits for it stops waiting."""
        self._cache.close()

    def __enter__(self) -> Self:
        self._cache.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        runtime.finish(self.close)
