"""Rejoin: a member with an empty directory is replaced by a new one, at the peer port.

Any member may be asked. It finds the member that has the caller's peer URLs in its own member
table and asks the leader to replace that one by a learner with a new id (MEMBER_REPLACE: one
entry). The leader refuses while the old member answers it. A call may be repeated: each names the
id that it wants to replace, and only the first that the leader carries out finds it. A learner that
was added and has never begun has nothing to lose, so it is what the caller becomes. Whoever has no
member in the table was never added, or was removed: that is an operator's to decide.
"""

import logging
import random
from collections.abc import Callable
from typing import Any

from raftkv.config import member_id
from raftkv.errors import MEMBER_BAD_URLS, MEMBER_NOT_FOUND, ApiError
from raftkv.kv import commands
from raftkv.kv.machine import Result
from raftkv.kv.members import Member, encode_replacement
from raftkv.pb import peer_pb2
from raftkv.replica.replica import Replica

log = logging.getLogger("raftkv.peers")


def new_member_id(cluster: int, urls: tuple[str, ...]) -> int:
    """An id that no member has had: it depends on chance, so that none ever comes back."""
    salt = str(random.SystemRandom().getrandbits(64))
    return member_id(urls, f"{cluster:016x}", salt)


def rejoin(
    replica: Replica,
    request: peer_pb2.IdentifyRequest,
    incarnation: Callable[[int], int],
    answer: Callable[[int | ApiError], None],
) -> None:
    """Asks the leader for the change; `answer` gets the caller's new member id, or the error.

    request: its peer URLs are the caller's. incarnation: of a member's directory, 0 if none is
    known here.
    """
    urls = tuple(sorted(request.peer_urls))
    if not urls:
        answer(MEMBER_BAD_URLS)
        return
    machine = replica.machine
    heir = Member(new_member_id(machine.cluster, urls), peer_urls=urls)
    found = [one for one in machine.members.values() if tuple(sorted(one.peer_urls)) == urls]
    if not found:
        answer(MEMBER_NOT_FOUND)
        return
    gone = found[0].id
    if gone == replica.member:
        answer(MEMBER_BAD_URLS)  # whoever asks names this member's own URLs
        return
    if gone in machine.configuration.learners and not found[0].name and not incarnation(gone):
        answer(gone)
        return

    def answered(ticket: Any, result: Result | ApiError) -> None:
        if isinstance(result, ApiError):
            answer(result)
            return
        log.warning("member %016x has lost its data; member %016x replaces it", gone, heir.id)
        answer(heir.id)

    replica.change(commands.MEMBER_REPLACE, encode_replacement(gone, heir), (answered,))
