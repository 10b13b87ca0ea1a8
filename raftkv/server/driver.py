"""The driver: runs turns of the replica on the event loop and executes their effects.

Whoever gives the replica a fact calls `wake`, or `heard` for messages of members, many of which
leave nothing to do; one `call_soon` then runs one turn for the whole burst. A turn ends with one
write per connection that has something to say: peers first, because they have disk and network
latency ahead of them.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Final, Protocol, cast

from raftkv.errors import STOPPED, ApiError, StorageError
from raftkv.raft.messages import InstallSnapshot, Message
from raftkv.raft.types import NOBODY, SnapshotMeta
from raftkv.replica.effects import Effects, Ticket
from raftkv.replica.replica import Replica
from raftkv.server.disk import Disk
from raftkv.server.logs import Repeats
from raftkv.server.slices import Progress, Slices
from raftkv.server.timings import Timings
from raftkv.server.watching import Watching
from raftkv.storage.backend import StateBackend
from raftkv.storage.recovery import DataDirectory

log = logging.getLogger("raftkv.server")

# How long a follower may not know of a commit while nothing else is sent to it.
NEWS_SECONDS: Final = 0.002
# How often the state's backend is asked whether it keeps up.
LOOK_SECONDS: Final = 0.1


class PeerSender(Protocol):
    """What the driver needs of the links to the other members."""

    def send(self, messages: list[Message]) -> None:
        """Sends each message to the member it names; drops it if there is no connection."""

    def send_state(self, message: InstallSnapshot) -> None:
        """Starts a transfer of the whole state; its end goes to `Driver.state_sent`."""

    def role_changed(self) -> None:
        """Leader, term or role changed."""

    def members_changed(self) -> None:
        """The configuration or the member table may have changed."""

    def reach(self, member: int) -> tuple[bool, float]:
        """Whether the link to a member is up, and its newest round trip in seconds (0: none)."""


class Flushable(Protocol):
    """A connection that has output for the end of a turn."""

    dirty: bool

    def flush(self) -> None:
        """Writes what is queued to the transport, at most once per turn."""


class Driver:
    """Executes the effects of one replica on an event loop.

    failed: called when the disk failed for good, or a turn ended in an error: the process
    must stop and say nothing more.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        replica: Replica,
        directory: DataDirectory,
        tick_seconds: float,
        failed: Callable[[Exception], None],
        timings: Timings | None = None,
    ) -> None:
        self.loop = loop
        self.replica = replica
        self.timings = timings or Timings(0.0, 0.0)
        self.directory = directory
        self.tick_seconds = tick_seconds
        self.peers: PeerSender | None = None
        self._watching: Watching | None = None
        self.turns = 0
        self._working_turns = 0  # of these, how many were not only there to write output
        self.disk = Disk(loop, directory.log, self._persisted, failed, self._synced_slowly)
        self.fail = failed
        self.woken = False  # a turn is due
        self._turning = False
        self._held: deque[tuple[int, list[Message]]] = deque()
        self._dirty: list[Flushable] = []
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="housekeeping")
        self.slices = Slices(loop, lambda: self.turns, failed)
        self.slices.timed = self.timings.sliced
        self._compacting: _Compacting | None = None
        self._tending = False
        self._next_tick = 0.0
        self._next_look = 0.0
        self._repeats = Repeats()
        self._stopped = False
        self._chores = 0  # in the housekeeping thread, or waiting for it
        self._old_states = False  # replaced states wait to be removed
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._news: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.role_listeners: list[Callable[[], None]] = []
        # Called when alarms have changed or the rows are to be hashed; `guard` is who listens.
        self.upkeep: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Starts the disk thread and Raft's clock."""
        self.disk.start()
        # Members of one cluster start together: their clocks should not tick together.
        self._next_tick = self.loop.time() + self.tick_seconds * random.random()
        self._timer = self.loop.call_at(self._next_tick, self._tick)
        self._housekeep(Effects())  # what the last process has left to do
        self.wake()  # the first turn tells the replica the time

    @property
    def watches(self) -> Watching:
        """Who watches the applied state."""
        if self._watching is None:
            self._watching = Watching(self)
        return self._watching

    @property
    def work_done(self) -> int:
        """Grows with all that clients have this member do: turns with work, and entries applied."""
        return self._working_turns + self.replica.machine.applied_index

    # --- facts --------------------------------------------------------------

    def wake(self) -> None:
        """Runs a turn soon; many calls before it make one turn."""
        if not self.woken:
            self.woken = True
            self.loop.call_soon(self._turn)

    def mark_dirty(self, connection: Flushable) -> None:
        """`connection` has output: it is flushed at the end of this turn or of the next one."""
        if not connection.dirty:
            connection.dirty = True
            self._dirty.append(connection)
            if not self._turning:
                self.wake()

    def between_turns(self, work: Callable[[], None]) -> None:
        """Runs a slice of work that reads the state; its output is written at its end."""
        if self._stopped:
            return
        self._turning = True
        try:
            work()
        except Exception as error:  # noqa: BLE001
            self.fail(error)  # the rows are not what they should be
            return
        finally:
            self._turning = False
        if self._dirty:
            self._flush()

    def heard(self) -> None:
        """The replica was given messages of other members: a turn, if they left work for one."""
        if self.woken:
            return
        if self.replica.has_work():
            self.wake()
        elif self._news is None and self.replica.core.has_news():
            self._defer_news()

    def _tick(self) -> None:
        # A loop that was late ticks once, not as often as it missed: a stalled process must
        # first hear what its peers sent meanwhile before it concludes that they are silent.
        now = self.loop.time()
        late = now - self._next_tick
        if late > self.tick_seconds:
            leads = self.replica.is_leader
            self.timings.ticked(late, self.tick_seconds, leads=leads, now=now)
        self._next_tick = max(self._next_tick + self.tick_seconds, now + self.tick_seconds / 2)
        self._timer = self.loop.call_at(self._next_tick, self._tick)
        self.replica.tick()
        if now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            self._look(now)
        self.wake()

    def _look(self, now: float) -> None:
        """Tells the replica whether the state's backend keeps up."""
        stalling = cast(StateBackend, self.replica.machine.backend).stalling()
        self.replica.on_backend(stalling=stalling)
        replica = self.replica
        failed = replica.writes.failed, replica.reading.failed
        self.timings.failing(*failed, has_leader=replica.leader != NOBODY, now=now)
        if stalling and self._repeats.times("stalling", now):
            log.warning("writes are taken in slowly until the state's tables are merged")

    def _persisted(self, number: int) -> None:
        self.replica.on_persisted(number)
        held = self._held
        if held and held[0][0] <= number:
            messages = held.popleft()[1]
            while held and held[0][0] <= number:  # one sync made several batches durable
                messages += held.popleft()[1]
            assert self.peers is not None
            self.peers.send(messages)
        if self._watching is not None:
            self._watching.disk_begins()  # if it was not announced
        if self._old_states:
            self._drop_old_states()
        if self.replica.core.has_ready():
            self.wake()

    # --- the turn -----------------------------------------------------------

    def _turn(self) -> None:
        self.woken = False
        if self._stopped:
            return
        self.turns += 1
        self._turning = True  # who is answered now needs no other turn to be flushed
        try:
            if self._watching is not None:
                self._watching.before_turn()
            effects = self.replica.turn(self.loop.time())
            if effects.brief:
                self._working_turns += bool(effects.replies)
                self._say(effects)
            else:
                self._working_turns += 1
                self._execute(effects)
        except Exception as error:  # noqa: BLE001
            # Whatever it is, this member's state is no longer known to be the log's.
            self.fail(error)
            return
        finally:
            self._turning = False
        if effects.more:
            self.wake()
        if self._dirty:
            self._flush()

    def _say(self, effects: Effects) -> None:
        """All that a brief turn asks for."""
        if effects.messages:
            assert self.peers is not None
            self.peers.send(effects.messages)
        for ticket, result in effects.replies:
            ticket[0](ticket, result)  # type: ignore[index]

    def _execute(self, effects: Effects) -> None:
        peers = self.peers
        assert peers is not None
        if effects.messages:
            peers.send(effects.messages)
        if effects.installed is not None:
            self._installed(effects.installed)
        for machine in effects.discarded:
            self.directory.discard_state(cast(StateBackend, machine.backend))
        if effects.batch is not None:
            self.disk.submit(effects.batch)
        if effects.after:
            if effects.after_number <= self.disk.durable_number:
                peers.send(effects.after)
            else:
                self._held.append((effects.after_number, effects.after))
        for ticket, result in effects.replies:
            ticket[0](ticket, result)  # type: ignore[index]
        if effects.reads:
            self._serve(effects.reads)
        if self._watching is not None and effects.applied:
            self._watching.publish(effects.changes, waiting=effects.batch is not None)
            if effects.batch is not None and effects.changes:
                self.disk.announce(self._watching.disk_begins)
        if effects.timing is not None:
            self.timings.applied(effects.timing, self.replica.writes.stopwatch.durable_at)
        if effects.members_changed or effects.installed is not None:
            peers.members_changed()
        if effects.news and self._news is None:
            self._defer_news()
        if effects.role_changed:
            peers.role_changed()
            for listener in self.role_listeners:
                listener()
        if effects.alarms_changed or self.replica.caretaker.rows_wanted is not None:
            self.upkeep()
        for message in effects.snapshots:
            peers.send_state(message)
        if effects.applied or effects.checkpoint or effects.truncate or effects.installed:
            self._housekeep(effects)

    def _serve(self, reads: list[Ticket]) -> None:
        """Answers linearizable reads."""
        now, replica = self.loop.time(), self.replica
        asked = replica.reading.first_deadline - replica.settings.request_timeout_seconds
        self.timings.served(now - asked, len(reads), now)
        for ticket in reads:
            ticket[0](ticket, None)  # type: ignore[index]

    def _synced_slowly(self, seconds: float) -> None:
        self.timings.synced(seconds, self.loop.time())

    def _defer_news(self) -> None:
        self._news = self.loop.call_later(NEWS_SECONDS, self._tell_news)

    def _tell_news(self) -> None:
        self._news = None
        self.replica.tell_news()
        if self.replica.core.has_ready():
            self.wake()

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for connection in dirty:
            connection.dirty = False
            connection.flush()

    # --- long work ----------------------------------------------------------

    def start_task(self, work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        """Runs rare, long work (a state transfer) beside the turns."""
        task = self.loop.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        return task

    def state_sent(self, to: int, ok: bool, index: int, *, kept: bool = False) -> None:
        """The transfer of the state at `index` to member `to` has ended. kept: it broke and
        may be continued until `state_dropped`.
        """
        self.replica.on_snapshot_sent(to, ok, index, kept=kept)
        self.wake()

    def state_dropped(self, to: int) -> None:
        """The broken transfer to member `to` will not be continued."""
        self.replica.on_snapshot_dropped(to)
        self.wake()

    def _drop_old_states(self) -> None:
        """Removes replaced states once nothing can need them: no transfer reads one, no chore uses
        one in its thread, and the log's reset is durable (`drop_old_states` knows).
        """
        if not self._tasks and not self._chores:
            self._old_states = self.directory.drop_old_states() == 0

    def _installed(self, meta: SnapshotMeta) -> None:
        backend = self.replica.machine.backend
        self.slices.state_replaced()
        cast(StateBackend, backend).write_seconds = self.directory.state.write_seconds
        self.directory.switch_state(cast(StateBackend, backend), meta)
        self._old_states = True
        if self._watching is not None:
            self._watching.replaced(self.replica.machine)

    def _housekeep(self, effects: Effects) -> None:
        if effects.checkpoint:
            index = effects.checkpoint
            backend = self.replica.machine.backend
            self.keep_house(backend.sync, lambda _: self.replica.on_checkpoint(index))
        if effects.truncate is not None:
            first, term = effects.truncate
            self.keep_house(
                lambda: self.directory.log.truncate_front(first, term),
                lambda _: self.replica.on_truncated(first),
            )
        if self.directory.log.untended and not self._tending:
            self._tending = True
            self.keep_house(self.directory.log.tend, self._tended)
        machine = self.replica.machine
        behind = machine.physically_compacted < machine.compacted_revision
        if behind and self._compacting is None:
            self._compacting = _Compacting(self)
            self.slices.resume(self._compacting)

    def _tended(self, _: object) -> None:
        self._tending = False

    def keep_house(self, work: Callable[[], object], done: Callable[[object], None]) -> None:
        """Runs `work` in the housekeeping thread, then `done` on the loop.

        What `work` raises ends the process.
        """
        self._chores += 1

        def finished(future: Future[object]) -> None:
            self.loop.call_soon_threadsafe(self._submitted, future, done)

        self._worker.submit(work).add_done_callback(finished)

    def _submitted(self, future: Future[object], done: Callable[[object], None]) -> None:
        self._chores -= 1
        error = future.exception()
        if error is not None:
            assert isinstance(error, Exception)
            self.fail(error)
        else:
            done(future.result())
            if self._old_states:
                self._drop_old_states()
            self.wake()

    def compacted(self, areas: list[tuple[bytes, bytes]]) -> None:
        """The removal of compacted history has ended, and has emptied these areas."""
        self._compacting = None
        for start, stop in areas:
            compact = self.replica.machine.backend.compact
            self.keep_house(partial(compact, start, stop), lambda _: None)

    # --- the end ------------------------------------------------------------

    def stop(self) -> None:
        """Answers all that waits, flushes, writes out the disk queue and takes a checkpoint."""
        if self._watching is not None:
            self._watching.stop()
        for ticket, error in self.replica.close():
            ticket[0](ticket, error)  # type: ignore[index]
        self.slices.stop(STOPPED)
        self._flush()
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        self.disk.stop()
        self._worker.shutdown(wait=True)
        self.replica.machine.flush()

    def halt(self) -> None:
        """Takes no turn and makes no tick any more, as if the process had ended here."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def abandon(self) -> None:
        """After `halt`: ends the threads; waits for what they do now, forgets what is queued."""
        self.directory.log.failure = self.directory.log.failure or StorageError("abandoned")
        self.disk.stop()
        self._worker.shutdown(wait=True, cancel_futures=True)


class _Compacting:
    """The removal of compacted history, as a piece of long work."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def wanted(self) -> bool:
        """Always."""
        return True

    def step(self) -> Progress:
        """Removes some rows."""
        machine = self._driver.replica.machine
        if machine.compact_slice():
            return Progress.MORE
        self._driver.compacted(machine.compaction_areas())
        return Progress.DONE

    def drop(self, error: ApiError | None) -> None:
        """Another state has come; what is left to remove there is found out anew."""
        self._driver.compacted([])
