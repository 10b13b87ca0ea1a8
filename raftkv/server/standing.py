"""This member's standing in its cluster: what it tells of itself, and what becomes of it.

It publishes its name, client URLs and incarnation until the member table has them. A learner that
was started with --auto-promote asks for its vote once a second. The leader decides as if an
operator had asked: the learner must have caught up and answer, and the voters that answer, it
included, must be a quorum afterwards (`raftkv.replica.changes`, `strictness`). So nothing about
the wish is in the log, and it holds whoever leads and after every restart.

A member that was removed learns it from its own log, from a state, or from another member that
refuses it. It says so once and ends with an exit code of its own.
"""

import logging
from collections.abc import Callable
from typing import Final

from raftkv.config import ServerConfig
from raftkv.errors import ApiError
from raftkv.kv import commands
from raftkv.kv.members import Member, encode_member
from raftkv.replica.changes import MEMBER_ID
from raftkv.server.driver import Driver

log = logging.getLogger("raftkv.server")

ASK_SECONDS: Final = 1.0
REMOVED_TEXT: Final = (
    "this member has been removed from the cluster and stops: its id is never used again, and "
    "its data directory is of no further use. To take part again it starts with an empty one, "
    "with --rejoin or after `raftctl member add`"
)


class Standing:
    """See the module's docstring. removed: called once this member is known to be removed."""

    def __init__(
        self,
        config: ServerConfig,
        driver: Driver,
        incarnation: int,
        removed: Callable[[], None],
    ) -> None:
        self._driver = driver
        self._replica = driver.replica
        self._removed = removed
        self._name = config.name
        self._client_urls = tuple(str(url) for url in config.advertise_client_urls)
        self._incarnation = incarnation
        self._wants_vote = config.auto_promote or config.rejoin
        self._publishing = False
        self._asking = False
        self._ask_at = 0.0
        self._refusal = ""

    def review(self) -> None:
        """Called some times a second, and when the leader changes."""
        if self._replica.member in self._replica.machine.removed:
            self._removed()
            return
        self._publish()
        if self._wants_vote:
            self._ask_for_vote()

    def _publish(self) -> None:
        """Tells the cluster this member's name, client URLs and incarnation, until it knows."""
        replica = self._replica
        known = replica.machine.members.get(replica.member)
        if self._publishing or known is None or not replica.leader:
            return
        wanted = Member(known.id, self._name, known.peer_urls, self._client_urls, self._incarnation)
        if known == wanted:
            return
        ticket = (self._published,)
        if replica.propose(commands.PUBLISH, encode_member(wanted), ticket) is None:
            self._publishing = True
            self._driver.wake()

    def _published(self, ticket: object, result: object) -> None:
        self._publishing = False

    def _ask_for_vote(self) -> None:
        replica, now = self._replica, self._driver.loop.time()
        is_learner = replica.member in replica.machine.configuration.learners
        if not is_learner or self._asking or not replica.leader or now < self._ask_at:
            return
        self._asking = True
        self._ask_at = now + ASK_SECONDS
        request = MEMBER_ID.pack(replica.member)
        replica.change(commands.MEMBER_PROMOTE, request, (self._answered,))
        self._driver.wake()

    def _answered(self, ticket: object, result: object) -> None:
        self._asking = False
        if not isinstance(result, ApiError):
            log.info("this learner has caught up and has got its vote")
        elif result.text != self._refusal:
            self._refusal = result.text
            log.info("this learner waits for its vote: %s", result.text)
