"""One lease in the hands of a keeper, and those who want to hear of its end.

Whether it lives is `Lifetime`'s to say, at any moment and without a lock. What is told, and once
only, is that somebody has noticed its end.
"""

import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Final

from raftkv.client.lifetime import Lifetime
from raftkv.client.logger import log

RENEW_SHARE: Final = 1 / 3  # of the TTL

Callback = Callable[[], object]
Renewed = Callable[[bool], object]


class Kept:
    """See the module's docstring. Any thread may use it.

    id: the lease's. lifetime: its deadline. reason: why it is over; empty until that is told.

    The keeper's own, behind its lock: renewing, whether to ask for renewals; answered, when the
    last answered request was sent; due, when to ask next; asked, the stream that was asked;
    warned, whether a late renewal was logged.
    """

    def __init__(self, lease_id: int, lifetime: Lifetime, renewing: bool, sent: float) -> None:
        self.id = lease_id
        self.lifetime: Lifetime = lifetime
        self.reason: str = ""
        self.renewing = renewing
        self.answered = sent
        self.due: float = sent + lifetime.ttl * RENEW_SHARE
        self.asked: object = None
        self.warned: bool = False
        self._when_renewed: list[Renewed] = []
        self._when_over: list[Callback] = []
        self._when_lost: list[Callback] = []
        self._guard = threading.Lock()
        self._pid = os.getpid()
        self._told = self._is_lost = False

    @property
    def alive(self) -> bool:
        """Whether no server can have ended it yet. Never in a forked child: it is the parent's."""
        return self.lifetime.alive and os.getpid() == self._pid

    @property
    def wanted(self) -> bool:
        """Whether to ask for a renewal when it is due."""
        return self.renewing or bool(self._when_renewed)

    def when_over(self, callback: Callback) -> None:
        """`callback` is called once, when it is over for whatever reason; at once if it is.

        It is called in the thread that noticed and must not block.
        """
        with self._guard:
            if not self._told:
                self._when_over.append(callback)
                return
        callback()

    def when_lost(self, callback: Callback) -> None:
        """`callback` is called once, in a thread of its own, when it is over unasked.

        At once, and in the caller's thread, if that was told; never when its owner ended it.
        """
        with self._guard:
            if not self._told:
                self._when_lost.append(callback)
                return
        if self._is_lost:
            callback()

    def when_renewed(self, callback: Renewed) -> bool:
        """`callback` is called once, with True for the next renewal or False if it is over.

        Returns False, and calls nothing, if it is over already.
        """
        with self._guard:
            if not self._told:
                self._when_renewed.append(callback)
            return not self._told

    def renewed(self) -> list[Renewed]:
        """Who waits for a renewal that has now come."""
        with self._guard:
            waiting, self._when_renewed = self._when_renewed, []
        return waiting

    def tell(self, reason: str, lost: bool) -> None:
        """It is over. Only the first call counts. lost: its owner did not ask for that."""
        self.lifetime.end()
        with self._guard:
            if self._told:
                return
            self._told, self._is_lost, self.reason = True, lost, reason
            when_over, self._when_over = self._when_over, []
            when_lost, self._when_lost = self._when_lost, []
            when_renewed, self._when_renewed = self._when_renewed, []
        for over in when_over:
            guarded(over)
        for renewed in when_renewed:
            guarded(partial(renewed, False))
        if lost:
            for callback in when_lost:
                in_own_thread(callback)


def guarded(callback: Callback) -> None:
    """Calls a function of the user's, whose errors must not keep others from being told."""
    try:
        callback()
    except Exception:  # noqa: BLE001 - the user's code
        log.exception("a callback of a lease failed")


def in_own_thread(callback: Callback) -> None:
    """Calls what may block, and so must not hold up a keeper."""
    thread = threading.Thread(target=guarded, args=(callback,), name="raftkv lease", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the interpreter is shutting down
        guarded(callback)
