"""The member's hub of watches on the event loop: when it is served, and for how long.

`Watching` owns the pure hub (`raftkv.kv.watches`). The driver tells it at the end of a turn what
the turn changed. The watchers hear of it behind everything that the turn has answered: when its
output is with the kernel, and if the disk thread was given a batch, when it has begun with that
(it cannot while the event loop is at work), but at most `WAIT_SECONDS` later; in any case before
the next turn changes more. So an acknowledgement does not wait for watchers. What is told to very
many takes several slices, with all waiting input between two of them; what changes meanwhile is
told then, together.

When turns follow one another so fast that a publication is due within `BUSY_SECONDS` of the last
one, the changes of all turns of the next `GATHER_SECONDS` are told together: one pass over the
watchers and one write per connection instead of one of each for every few changes.

Watchers that are behind are served between turns, in slices of a few
milliseconds. While turns have work, a slice is followed by as much rest as it took, so that
writes and reads keep at least half of the loop; on an idle loop the slices follow one another,
with all waiting input between two of them. Who waits for a full sink only is looked at now and
then, besides when the sink says that it has room.

A sink that was given something calls `touch`; it is flushed once, when everything of the turn or
slice is there.
"""

import asyncio
import time
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol

from raftkv.kv.machine import StateMachine
from raftkv.kv.store import Change
from raftkv.kv.watches import Watcher, Watches

if TYPE_CHECKING:
    from raftkv.server.driver import Driver

POLL_SECONDS: Final = 0.1
WAIT_SECONDS: Final = 0.002
BUSY_SECONDS: Final = 0.0007
GATHER_SECONDS: Final = 0.002
RETIRED: Final = 500  # watchers removed at a time


class Outlet(Protocol):
    """A sink that gathers."""

    def flush(self) -> None:
        """Sends what was gathered, if there is anything."""


class Asker(Protocol):
    """Who waits until certain watchers have got everything."""

    def settled(self) -> bool:
        """Asked after every turn and slice; True: not again."""


class Watching:
    """See the module's docstring. Every driver has one.

    watches: the hub itself, for what is asked of it. publishing: the events that are delivered
    are those of now, not of history. streams: Watch calls that are open.
    """

    def __init__(self, driver: "Driver") -> None:
        self.watches = Watches(driver.replica.machine)
        self.publishing = False
        self.streams = 0
        self._driver = driver
        self._changes: list[Change] | None = None  # not published yet
        self._publication: asyncio.Handle | None = None  # when that is due
        self._gathered_until = 0.0  # perf_counter; later turns add to `_changes`; 0: they do not
        self._published_at = 0.0  # perf_counter, the end of the last publication
        self._rest: asyncio.Handle | None = None  # the next slice of one that is under way
        self._touched: list[Outlet] = []
        self._inside = False  # a turn or slice that ends with `_settle`
        self._unsettled: dict[Asker, None] = {}
        self._retired: dict[Watcher, None] = {}
        self._next: asyncio.Handle | None = None  # slice
        self._polling = False  # `_next` is no slice of work, only a look at full sinks
        self._turns_seen = 0

    # --- who watches ------------------------------------------------------------------
    def add(self, watcher: Watcher) -> None:
        """Begins to serve a watcher; nothing is delivered before this returns."""
        self.watches.add(watcher)
        if not self.watches.is_synced(watcher):
            self._soon()

    def remove(self, watcher: Watcher) -> None:
        """Nothing more comes for it."""
        self.watches.remove(watcher)

    def retire(self, watchers: Iterable[Watcher]) -> None:
        """Removes many in a while; until then their sink must not mind deliveries."""
        first = not self._retired
        self._retired.update(dict.fromkeys(watchers))
        if first and self._inside:  # the hub is at work, perhaps with one of these
            self._driver.loop.call_soon(self._remove_retired)
        elif first:
            self._remove_retired()

    def _remove_retired(self) -> None:
        for watcher in list(islice(self._retired, RETIRED)):
            del self._retired[watcher]
            self.watches.remove(watcher)
        if self._retired:
            self._driver.loop.call_soon(self._remove_retired)

    def wake(self, watchers: Iterable[Watcher]) -> None:
        """The sink of these has room again."""
        self.watches.wake(watchers)
        if self.watches.behind:
            self._soon()

    # --- what sinks ask for -------------------------------------------------------------
    def touch(self, outlet: Outlet) -> None:
        """`outlet` has something to flush, which it had not before."""
        if not self._touched and not self._inside:
            self._driver.loop.call_soon(self._settle)
        self._touched.append(outlet)

    @property
    def gathering(self) -> bool:
        """Whether some outlet has something that is not flushed yet."""
        return bool(self._touched)

    def await_settled(self, asker: Asker) -> None:
        """`asker.settled` is asked after every turn and slice until it says True."""
        self._unsettled[asker] = None

    def forget(self, asker: Asker) -> None:
        """The opposite of `await_settled`."""
        self._unsettled.pop(asker, None)

    # --- what the driver says -------------------------------------------------------------
    def publish(self, changes: list[Change], *, waiting: bool) -> None:
        """What a turn changed, to be told soon. waiting: for `disk_begins`."""
        if self._changes is not None:
            assert self._gathered_until, "before_turn comes before a turn"
            self._changes += changes
        elif self.watches.count:
            self._changes = changes
            self._schedule(waiting)

    def _schedule(self, waiting: bool) -> None:
        loop = self._driver.loop
        if time.perf_counter() - self._published_at < BUSY_SECONDS:
            self._gathered_until = self._published_at + GATHER_SECONDS
            self._publication = loop.call_later(GATHER_SECONDS, self._publish)
        elif waiting:
            self._publication = loop.call_later(WAIT_SECONDS, self._publish)
        else:
            self._publication = loop.call_soon(self._publish)

    def disk_begins(self) -> None:
        """The disk thread is at work on what the turn gave it, or done."""
        if self._publication is not None and not self._gathered_until:
            self._publication.cancel()
            self._publication = self._driver.loop.call_soon(self._publish)

    def before_turn(self) -> None:
        """A turn follows: what the last ones changed is told now, unless more is gathered."""
        if self._changes is not None and time.perf_counter() >= self._gathered_until:
            self.publish_now()

    def _publish(self) -> None:
        self._driver.between_turns(self.publish_now)

    def publish_now(self) -> None:
        """Tells the watchers what the last turns changed, if they have not heard of it."""
        changes, self._changes = self._changes, None
        if changes is None:
            return
        self._gathered_until = 0.0
        if self._publication is not None:
            self._publication.cancel()
            self._publication = None
        watches = self.watches
        self._inside = self.publishing = True
        watches.publish(changes, watches.machine.revision)
        self._told()
        self._published_at = time.perf_counter()

    def _told(self) -> None:
        """The end of a publication's slice."""
        self.publishing = False
        self._settle()
        if self.watches.unfinished and self._rest is None:
            self._rest = self._driver.loop.call_soon(self._go_on)
        if self.watches.behind:
            self._poll()

    def _go_on(self) -> None:
        self._rest = None
        self._driver.between_turns(self._tell_more)

    def _tell_more(self) -> None:
        if self.watches.unfinished:
            self._inside = self.publishing = True
            self.watches.go_on()
            self._told()
        else:
            self._settle()  # the last watcher has gone: no other slice would do that

    def replaced(self, machine: StateMachine) -> None:
        """The state was replaced: everybody is behind now, and is served from the new rows, where
        what is gathered is found as well.
        """
        self._changes = None
        self._gathered_until = 0.0
        if self._publication is not None:
            self._publication.cancel()
            self._publication = None
        self.watches.replaced(machine)
        if self.watches.behind:
            self._soon()

    def stop(self) -> None:
        """No more slices."""
        self.publish_now()
        while self.watches.unfinished:
            self._tell_more()
        for handle in (self._next, self._rest):
            if handle is not None:
                handle.cancel()

    # --- slices -----------------------------------------------------------------------------
    def _settle(self) -> None:
        if self._unsettled:
            for asker in list(self._unsettled):
                if asker.settled():
                    self._unsettled.pop(asker, None)
        self._inside = False
        touched, self._touched = self._touched, []
        for outlet in touched:
            outlet.flush()

    def _soon(self) -> None:
        if self._next is not None:
            if not self._polling:
                return  # its time is set: it may be resting
            self._next.cancel()
        self._polling = False
        self._next = self._driver.loop.call_soon(self._slice)

    def _poll(self) -> None:
        if self._next is None:
            self._polling = True
            self._next = self._driver.loop.call_later(POLL_SECONDS, self._slice)

    def _slice(self) -> None:
        self._next = None
        self._driver.between_turns(self._work)

    def _work(self) -> None:
        self.publish_now()
        started = time.perf_counter()
        self._inside = True
        more = self.watches.catch_up()
        self._settle()
        driver = self._driver
        if self._next is not None and (more or self.watches.behind):
            self._next.cancel()  # a sink has woken its watchers: the rest comes first
            self._next = None
            more = True
        if more:
            self._polling = False
            if driver.turns == self._turns_seen:
                self._next = driver.loop.call_soon(self._slice)
            else:
                rest = time.perf_counter() - started
                self._next = driver.loop.call_later(rest, self._slice)
            self._turns_seen = driver.turns
        elif self.watches.behind:
            self._poll()
