"""Fast failover: what a closed connection to the leader tells.

A process that dies closes its connections at once, long before an election timeout. So:

    link to the leader closes      -> dial it again at once
    greeted, same leader and term  -> nothing happened
    refused, or closed again       -> after 20-80 ms (random): the leader is gone for this
                                      member; it starts a pre-vote that says so

No route, or no answer, is silence, and silence keeps Raft's election timeout. Members that
are still connected to the leader refuse such votes, so a majority must have lost it. At most
one such election per election timeout.

A member that has just started knows no leader. When it has reached a majority and none of
them follows one either, the cluster is starting: it campaigns after 10-150 ms (random)
instead of waiting for an election timeout. The pre-vote decides as always. A member without
others campaigns at once.
"""

import asyncio
import random
from collections.abc import Callable

from raftkv.raft.types import NOBODY
from raftkv.replica.replica import Replica


class Failover:
    """Watches this member's link to the leader.

    election_timeout_seconds: the least time between two such elections.
    """

    MIN_DELAY_SECONDS = 0.02
    MAX_DELAY_SECONDS = 0.08
    MIN_START_SECONDS = 0.01
    MAX_START_SECONDS = 0.15

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        replica: Replica,
        election_timeout_seconds: float,
    ) -> None:
        self._loop = loop
        self._replica = replica
        self._timeout = election_timeout_seconds
        self._suspect = (NOBODY, 0)  # leader and term whose connection closed
        self._timer: asyncio.TimerHandle | None = None
        self._not_before = 0.0
        self._starting = True  # no leader was known in this process yet
        self._start_timer: asyncio.TimerHandle | None = None
        self.wake: Callable[[], None] = lambda: None

    def started(self) -> None:
        """This member takes part from now on. The only voter need not wait for anybody."""
        configuration = self._replica.core.configuration
        if configuration.voters == (self._replica.member,) and not configuration.outgoing:
            self._campaign_at_start()

    def link_up(self, member: int, leader: int, term: int, *, majority: bool) -> None:
        """A greeting arrived from `member`, who follows `leader` in `term`.

        majority: this member is now connected to a majority, itself included.
        """
        if leader != NOBODY:
            self._leader_exists()
        elif majority and self._starting and self._start_timer is None:
            delay = random.uniform(self.MIN_START_SECONDS, self.MAX_START_SECONDS)
            self._start_timer = self._loop.call_later(delay, self._campaign_at_start)
        if member == self._replica.leader:
            self._replica.core.leader_connection(True)
        if member == self._suspect[0] and leader == member and term == self._suspect[1]:
            self._cancel()

    def link_down(self, member: int, *, refused: bool, was_ready: bool) -> None:
        """The link to `member` closed, or a dial ended without a connection."""
        replica = self._replica
        if member != replica.leader or replica.is_leader:
            return
        replica.core.leader_connection(False)
        again = self._suspect == (member, replica.core.term)
        self._suspect = (member, replica.core.term)
        if (refused or (again and was_ready)) and self._timer is None:
            delay = random.uniform(self.MIN_DELAY_SECONDS, self.MAX_DELAY_SECONDS)
            delay = max(delay, self._not_before - self._loop.time())
            self._timer = self._loop.call_later(delay, self._gone)

    def role_changed(self, *, link_ready: bool) -> None:
        """Leader or term changed: an old suspicion says nothing about a new leader."""
        replica = self._replica
        if replica.leader != NOBODY:
            self._leader_exists()
        if replica.leader not in (NOBODY, replica.member):
            replica.core.leader_connection(link_ready)
        if self._suspect != (replica.leader, replica.core.term):
            self._cancel()

    def _leader_exists(self) -> None:
        self._starting = False
        if self._start_timer is not None:
            self._start_timer.cancel()

    def _campaign_at_start(self) -> None:
        if self._starting and self._replica.leader == NOBODY:
            self._replica.core.campaign()
            self.wake()

    def _gone(self) -> None:
        self._timer = None
        leader, term = self._suspect
        if leader == self._replica.leader and term == self._replica.core.term:
            self._not_before = self._loop.time() + self._timeout
            self._replica.core.leader_lost()
            self.wake()

    def _cancel(self) -> None:
        self._suspect = (NOBODY, 0)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
