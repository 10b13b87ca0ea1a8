"""Runs a function on one of many processes: on the leader, and only while it leads.

    async def work(shift: Shift) -> None:
        while not shift.stop.is_set():
            await do_something(shift.term)
            await shift.stop.wait(1)

    await client.leader_runner("cron", work).run()

`run` campaigns, runs the function once it leads, tells it to stop when the leadership is about to
be lost, and campaigns again. It returns when the function returns, and raises what the function
raises; a failure behind the loss of leadership is logged and the next campaign begins.

When things go wrong:

* The servers cannot be reached while it campaigns: it goes on trying, and says so on the log.
* The servers cannot be reached while it leads: as long as the lease has more than `grace` seconds
  left the work goes on. Then `shift.stop` is set, and with asyncio the function is cancelled, so
  that it has `grace` seconds to come to an end before another process can lead.
* The function does not stop in time: this runner cannot kill it. It is told on the log, the
  function goes on beside the next leader's, and this runner waits for it before it
  campaigns again. A function that runs in a thread must look at `shift.stop`; one that runs in an
  event loop must not block it.
* The process is paused: the function goes on for a moment when the next leader works already. As
  with every leader: write through `shift.term.guard`, or send `shift.term.fencing_token`.

So at most one function is active by the clocks of all processes, as long as functions stop within
their grace. That is the limit of what can be promised without fencing.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from raftkv.client.aio import runtime
from raftkv.client.aio.recipes.election import Election, Term
from raftkv.client.errors import (
    BadRequest,
    LeaseLost,
    Misused,
    NotAcquired,
    OutcomeUnknown,
    TimedOut,
    Unavailable,
)
from raftkv.client.keys import Key, encoded
from raftkv.client.logger import log
from raftkv.client.patience import Patience

if TYPE_CHECKING:
    from raftkv.client.aio.client import Client

__all__ = ["LeaderRunner", "Shift"]

GRACE_SHARE: Final = 0.25  # of the TTL: a renewal that is late by half of the TTL ends the shift
RETRY_SECONDS: Final = 1.0  # after a campaign that servers or the network ended
WARN_SECONDS: Final = 10.0  # between two warnings about a function that does not stop


class Shift:
    """What the function is given: one leadership of this process.

    term: the leadership. stop: set when the function should come to an end.
    """

    def __init__(self, term: Term) -> None:
        self.term = term
        self.stop: runtime.Event = runtime.Event()

    @property
    def is_leader(self) -> bool:
        """Whether the work may go on: leading, and not told to stop."""
        return self.term.is_leader and not self.stop.is_set()


class LeaderRunner:
    """See the module's docstring. Made by `Client.leader_runner`.

    name: of the election. function: is given a Shift. value: what observers of the election see.
    ttl: seconds that a leadership outlives a leader that is gone. grace: seconds before the end of
    the lease at which the function is told to stop; a quarter of the TTL if not given.
    """

    def __init__(
        self,
        client: "Client",
        name: Key,
        function: Callable[[Shift], runtime.Eventually[None]],
        *,
        value: Key = b"",
        ttl: float = 10.0,
        grace: float | None = None,
    ) -> None:
        self._election = Election(client, name, ttl=ttl)
        self._function = function
        self._value = encoded(value)
        self._grace = GRACE_SHARE * ttl if grace is None else grace
        if not 0 <= self._grace < 0.6 * ttl:
            raise BadRequest("the grace must be less than 60 % of the TTL, or no shift could last")
        self._stopping = runtime.Event()
        self._woken = runtime.Event()
        self._shift: Shift | None = None
        self._error: BaseException | None = None
        self._is_finished = False
        self._is_running = False

    @property
    def shift(self) -> Shift | None:
        """The present shift, None while another process leads."""
        return self._shift

    def stop(self) -> None:
        """Makes `run` stop the function and return. May be called from any thread."""
        self._stopping.set()
        self._woken.set()

    async def run(self) -> None:
        """Campaigns and works until the function returns or `stop` is called.

        Errors: the function's own, and those of a campaign (`Election.campaign`) that do not
        pass by themselves; Misused if it runs already.
        """
        if self._is_running:
            raise Misused("this leader runner runs already")
        self._is_running = True
        try:
            await self._campaign()
        finally:
            self._is_running = False

    async def _campaign(self) -> None:
        """Shift after shift."""
        while not self._stopping.is_set():
            try:
                term = await self._election.campaigning(
                    self._value, Patience(None, self._stopping.is_set)
                )
            except NotAcquired:
                break  # called off
            except (LeaseLost, OutcomeUnknown, TimedOut, Unavailable) as error:
                log.warning("campaigns again: %s", error)
                await self._stopping.wait(RETRY_SECONDS)
                continue
            async with term:
                await self._lead(term)
            if self._is_finished:
                break

    async def _lead(self, term: Term) -> None:
        """One shift, from the first instruction of the function to its last."""
        shift = self._shift = Shift(term)
        self._error, self._is_finished = None, False
        self._woken = runtime.Event()
        if self._stopping.is_set():
            self._woken.set()  # stopped before the event was there to be set
        term.on_loss(self._woken.set)
        task = runtime.spawn(self._work, shift)
        try:
            while not self._woken.is_set():
                left = term.lease.remaining - self._grace
                if left <= 0:
                    break
                await self._woken.wait(left)
        finally:
            shift.stop.set()
            await runtime.finish(self._end, task, shift)
            self._shift = None
        if self._error is not None:
            raise self._error

    async def _work(self, shift: Shift) -> None:
        try:
            await self._function(shift)
            self._is_finished = not shift.stop.is_set()
        except Exception as error:  # noqa: BLE001 - whatever it is, `run` raises or logs it
            if shift.is_leader:
                self._error = error
            else:
                log.warning("a function ended badly after its leadership: %r", error)
        finally:
            self._woken.set()

    async def _end(self, task: runtime.Task, shift: Shift) -> None:
        """Waits until the function has ended, and complains meanwhile."""
        await task.stop(max(shift.term.lease.remaining, self._grace))
        while not await task.join(WARN_SECONDS):
            log.warning("a function goes on although its leadership is over")
