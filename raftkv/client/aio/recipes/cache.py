"""The keys below a prefix, kept in memory: read without asking anybody, always as of one revision.

    async with client.cache("config/") as cache:
        cache.get("config/limit")            # no request
        cache.snapshot()                     # all of it, as of cache.revision
        async for changes in cache.changes(): ...

When things go wrong:

* The connection breaks, a server dies: the cache goes on serving what it has, the watch behind it
  goes on elsewhere from the next revision, and nothing is missed. `stale_for` says for how many
  seconds nobody has confirmed what the cache has; it is never wrong in the cache's favour, for it
  goes by linearizable reads, not by silence.
* The history between was compacted: the whole is read again, and what is different is told as
  changes (`is_merged`).
* The store was put back from a backup, or is another one (C15): the same. `revision` may then be
  lower than before, and a revision that somebody waits for may never come; `loads` has grown.
* A reader of `changes` is too slow: what waits for it is merged, so it costs bounded memory and
  sees the difference, if not every step.
* Permission is withdrawn, or anything else that does not pass by itself: `error` is set, and all
  that waits raises it. `get` and `snapshot` go on with what there was.

A write and a read behind it: `await cache.wait_for(put.revision)`. Everything that anybody has
written so far: `await cache.catch_up()`. Both ask the servers one small question if the watch says
nothing, because a watch whose keys are left alone says nothing for minutes.
"""

import logging
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from raftkv.client.aio import runtime
from raftkv.client.aio.watch import Watch
from raftkv.client.errors import (
    BadRequest,
    ClientClosed,
    ClientError,
    ClusterChanged,
    Compacted,
    Misused,
    NotAcquired,
    TimedOut,
)
from raftkv.client.keys import Key, encoded, prefix_end
from raftkv.client.lifetime import now
from raftkv.client.mirror import Backlog, Changes, Mirror, Snapshot
from raftkv.client.patience import Patience
from raftkv.client.results import KeyValue
from raftkv.client.resuming import Pacing, goes_on
from raftkv.client.txn import Get

if TYPE_CHECKING:
    from raftkv.client.aio.client import Client

__all__ = ["Cache", "Changes", "Snapshot", "Subscription"]

PAGE_KEYS: Final = 1000
CHECKED_KEYS: Final = 1000  # caches of more keys are checked less often, in proportion
PROBE_SECONDS: Final = 1.0  # for one question whether the cache is current
FIRST_PAUSE_SECONDS: Final = 0.02  # in which the watch may bring by itself what is waited for
LAST_PAUSE_SECONDS: Final = 1.0
STOP_SECONDS: Final = 5.0

_log = logging.getLogger(__name__)


class Subscription:
    """The changes of a cache from some moment on, for one reader. Ends with `close`."""

    def __init__(self, cache: "Cache") -> None:
        self._cache = cache
        self._backlog = Backlog()
        self._is_closed = False

    def add(self, changes: Changes) -> None:
        """The cache's own: appends `changes`."""
        self._backlog.add(changes)

    async def next(self, timeout: float | None = None) -> Changes:
        """The next changes.

        timeout: seconds, None = for ever. Errors: TimedOut (a TimeoutError; nothing is lost),
        ClientClosed after `close`, what has ended the cache.
        """
        patience = Patience(timeout)
        while True:
            changed = self._cache.changed
            if self._is_closed:
                raise ClientClosed("the subscription is closed")
            changes = self._backlog.take()
            if changes is not None:
                return changes
            self._cache.check()
            if not await changed.wait(None if patience.is_endless else patience.left):
                raise TimedOut(f"no change of {self._cache.prefix!r} in {timeout:g} s")

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Changes:
        try:
            return await self.next()
        except ClientClosed:
            raise StopAsyncIteration from None

    async def close(self) -> None:
        """Ends it; who waits for it stops waiting."""
        self._is_closed = True
        self._cache.unsubscribe(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


class Cache:
    """See the module's docstring. Made by `Client.cache`; any thread may read.

    prefix: of the keys. check_seconds: how often the servers are asked whether the cache is
    current, which `stale_for` goes by; less often for more than a thousand keys; 0 = never, and
    then a store that was put back is noticed only when the connection breaks. changed: set at the
    next change of anything.
    error: what has ended it, or None.
    """

    def __init__(self, client: "Client", prefix: Key, *, check_seconds: float = 5.0) -> None:
        if check_seconds < 0:
            raise BadRequest(f"a check each {check_seconds} s")
        self.prefix: bytes = encoded(prefix)
        self.error: ClientError | None = None
        self.changed: runtime.Event = runtime.Event()
        self._client = client
        self._check_seconds = check_seconds
        self._mirror = Mirror()
        self._pacing = Pacing(len(client.endpoints))
        self._watch: Watch | None = None
        self._task: runtime.Task | None = None
        self._closing = runtime.Event()
        self._is_started = False
        self._subscriptions: list[Subscription] = []
        self._callbacks: list[Callable[[Changes], object]] = []
        self._must_load = False
        self._jump: tuple[int, int] | None = None  # from this revision to that: nothing changed
        self._checked = now()

    # --- beginning and end --------------------------------------------------------------------
    async def start(self, timeout: float | None = None) -> None:
        """Reads the keys and begins to follow them; once.

        timeout: seconds, None = the client's. Errors: Misused, other ClientErrors.
        """
        if self._is_started:
            raise Misused("this cache was started already")
        self._is_started = True
        try:
            await self._load(timeout)
        except BaseException:
            self._is_started = False
            raise
        self._task = runtime.spawn(self._run)

    async def close(self) -> None:
        """Ends it. What it has can still be read."""
        self._closing.set()
        self._wake()
        watch = self._watch
        if watch is not None:
            await watch.close()
        if self._task is not None:
            await self._task.stop(STOP_SECONDS)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await runtime.finish(self.close)

    # --- reading ------------------------------------------------------------------------------
    @property
    def revision(self) -> int:
        """The revision of the store that the cache is a copy of."""
        return self._mirror.revision

    @property
    def loads(self) -> int:
        """How often the whole was read: 1, and once more for each gap in the history."""
        return self._mirror.loads

    @property
    def stale_for(self) -> float:
        """Seconds since the cache surely had what the store had."""
        return self._mirror.stale_for(now())

    def get(self, name: Key) -> KeyValue | None:
        """One pair, None if there is none. name: its key. Asks nobody."""
        return self._mirror.get(encoded(name))

    def snapshot(self) -> Snapshot:
        """All pairs as of one revision, as a mapping that does not change. Asks nobody."""
        return self._mirror.snapshot()

    def changes(self) -> Subscription:
        """The changes from now on, to be iterated. To miss none, take a `snapshot` after this."""
        subscription = Subscription(self)
        self._subscriptions.append(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Ends a subscription, see its `close`."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
        self._wake()

    def on_change(self, callback: Callable[[Changes], object]) -> None:
        """Calls `callback` with every change, in order, in the cache's own thread or task.

        It must not block: the cache stands still meanwhile. Its errors are logged.
        """
        self._callbacks.append(callback)

    def check(self) -> None:
        """Errors: what has ended the cache; ClientClosed behind its end."""
        if self.error is not None:
            raise self.error
        if self._closing.is_set():
            raise ClientClosed("the cache is closed")

    # --- waiting ------------------------------------------------------------------------------
    async def wait_for(self, revision: int, timeout: float | None = None) -> int:
        """Waits until the cache has everything up to a revision; returns its own.

        timeout: seconds, None = for ever. Errors: NotAcquired (a TimeoutError), what has ended
        the cache.
        """
        patience = Patience(timeout)
        pause = FIRST_PAUSE_SECONDS
        while True:
            changed = self.changed
            if self._mirror.revision >= revision:
                return self._mirror.revision
            self.check()
            if patience.is_over:
                raise patience.over(f"revision {revision} of {self.prefix!r}")
            if not await changed.wait(min(pause, patience.left)):
                await self._ask_for(revision, patience)
                pause = min(2 * pause, LAST_PAUSE_SECONDS)

    async def catch_up(self, timeout: float | None = None) -> int:
        """Waits until the cache has everything that was written before this call.

        Returns its revision. timeout, errors: as `wait_for`, and those of a read.
        """
        patience = Patience(timeout)
        newest = Get(self.prefix, prefix=True, limit=1, keys_only=True)
        found = await self._client.read(newest, timeout=patience.call_timeout())
        try:
            return await self.wait_for(found.revision, patience.left if timeout else timeout)
        except NotAcquired:
            raise patience.over(f"the present of {self.prefix!r}") from None

    async def _ask_for(self, revision: int, patience: Patience) -> None:
        """The watch is silent: perhaps there is nothing to say up to this revision."""
        at = self._mirror.revision
        try:
            is_same, there = await self._asked(min(patience.left, PROBE_SECONDS))
        except ClientError as error:
            if not goes_on(error) and not isinstance(error, ClusterChanged):
                raise
            self._must_load = self._must_load or isinstance(error, ClusterChanged)
        else:
            if is_same and there >= revision and self._mirror.revision == at:
                self._jump = (at, there)
        watch = self._watch
        if (self._must_load or self._jump is not None) and watch is not None:
            await watch.close()  # the task sees why, and opens another one

    async def _asked(self, timeout: float) -> tuple[bool, int]:
        """Whether the store has what the cache has, and at which revision. Errors: ClientError."""
        found = await self._client.read(self._mirror.question(self.prefix), timeout=timeout)
        return self._mirror.compare(found), found.revision

    # --- the task -----------------------------------------------------------------------------
    async def _run(self) -> None:
        try:
            while not self._closing.is_set():
                await self._turn()
        except ClientError as error:
            if not self._closing.is_set():
                _log.warning("the cache of %r has ended: %s", self.prefix, error)
                self.error = error
        except Exception as error:  # noqa: BLE001 - no thread to be had, or a fault of this library
            self.error = ClientError(f"the cache has failed: {error!r}")
            _log.exception("the cache of %r has failed", self.prefix)
        finally:
            self._wake()

    async def _turn(self) -> None:
        """One load, or one watch from its beginning to its end."""
        try:
            if self._must_load:
                await self._load(None)
            else:
                await self._follow()
        except (Compacted, ClusterChanged) as error:
            _log.info("the cache of %r is read again: %s", self.prefix, error)
            self._must_load = True
            await self._closing.wait(self._pacing.pause())
        except ClientError as error:
            if not goes_on(error):
                raise
            await self._closing.wait(self._pacing.pause())

    async def _load(self, timeout: float | None) -> None:
        """Reads the whole at one revision. timeout: seconds for each request."""
        asked = now()
        first = Get(self.prefix, prefix=True, limit=PAGE_KEYS)
        found = await self._client.read(first, timeout=timeout)
        kvs = {kv.key: kv for kv in found.kvs}
        if found.more:
            rest = self._client.iterate(
                found.kvs[-1].key + b"\0",
                end=prefix_end(self.prefix),
                page_size=PAGE_KEYS,
                revision=found.revision,
                timeout=timeout,
            )
            kvs.update({kv.key: kv async for kv in rest})
        changes = self._mirror.load(kvs.values(), found.revision, asked)
        self._must_load, self._jump, self._checked = False, None, now()
        self._pacing.well()
        if self._mirror.loads > 1:
            self._tell(changes)

    async def _follow(self) -> None:
        watch = self._watch = self._client.watch(
            self.prefix,
            prefix=True,
            start_revision=self._mirror.revision + 1,
            progress_notify=True,
        )
        try:
            while not self._closing.is_set() and not self._must_load and not self._jump:
                await self._step(watch)
        except ClientClosed:
            if self._jump is None and not self._must_load:
                raise  # the client was closed, or this cache
        finally:
            self._watch = None
            await runtime.finish(watch.close)
        jump, self._jump = self._jump, None
        if jump is not None and jump[0] == self._mirror.revision:
            self._mirror.advance(jump[1])
            self._wake()

    async def _step(self, watch: Watch) -> None:
        due = None
        if self._check_seconds:
            # A question costs the server time for each key.
            share = max(1.0, len(self._mirror) / CHECKED_KEYS)
            due = self._checked + self._check_seconds * share
        try:
            batch = await watch.next(None if due is None else max(due - now(), 0.0))
        except TimedOut:
            await self._check_current()
            return
        changes = self._mirror.feed(batch)
        if changes is not None:
            self._tell(changes)
        else:
            self._wake()
        if due is not None and now() >= due:
            await self._check_current()

    async def _check_current(self) -> None:
        """Asks the servers, so that `stale_for` knows. Errors: ClusterChanged."""
        asked = self._checked = now()
        at = self._mirror.revision
        try:
            is_same, revision = await self._asked(PROBE_SECONDS)
        except ClusterChanged:
            raise
        except ClientError:
            return  # then it is not known to be current, which `stale_for` says
        if is_same and self._mirror.revision == at:
            self._mirror.current(asked)
        else:
            self._mirror.expect(revision, asked)

    def _tell(self, changes: Changes) -> None:
        if changes.events:
            for subscription in tuple(self._subscriptions):
                subscription.add(changes)
            for callback in tuple(self._callbacks):
                try:
                    callback(changes)
                except Exception:  # noqa: BLE001 - a user's error must not end the cache
                    _log.exception("a callback of the cache of %r failed", self.prefix)
        self._wake()

    def _wake(self) -> None:
        changed, self.changed = self.changed, runtime.Event()
        changed.set()
