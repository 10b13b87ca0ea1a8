# Made by scripts/generate_sync.py from raftkv/client/aio: edit that.
"""A queue whose most urgent items go first; of the same priority, the oldest.

    client.priority_queue("jobs").put("restore", priority=1)

What goes wrong goes as with `queue`, with one difference: an item's number is given in its
transaction, so two puts of the same priority at the same time cannot both be carried out. The
second tries again; and when the answer to a put is lost, the history tells whether it was carried
out (OutcomeUnknown only if that was compacted, or the servers stay away).

An urgent item that comes while less urgent ones are claimed does not take them back.
"""

import random
import secrets
from typing import Final

from raftkv.client import items
from raftkv.client.errors import NotAcquired, OutcomeUnknown
from raftkv.client.items import NotAnItem
from raftkv.client.keys import Key, encoded
from raftkv.client.patience import Patience
from raftkv.client.sync import runtime
from raftkv.client.sync.recipes.marks import MARK_BYTES, carried_out
from raftkv.client.sync.recipes.queue import Claim, Queue
from raftkv.client.txn import SortBy

__all__ = ["Claim", "NotAnItem", "PriorityQueue"]

FIRST_PAUSE_SECONDS: Final = 0.002
LAST_PAUSE_SECONDS: Final = 0.25


class PriorityQueue(Queue):
    """See the module's docstring. Made by `Client.priority_queue`."""

    def _make_shelf(self) -> items.Shelf:
        return items.Shelf(self.name, SortBy.KEY)

    def put(self, value: Key, timeout: float | None = None, *, priority: int = 0) -> bytes:
        """Adds an item with this value; returns its key.

        timeout: seconds, None = the client's. priority: 0 goes first, items.MAX_PRIORITY last.
        Errors: BadRequest, NotAnItem, OutcomeUnknown, other ClientErrors; NotAcquired (a
        TimeoutError) when others were always faster: nothing was put.
        """
        sequence = items.Sequence.of(self._shelf, priority)
        patience = Patience(self._client.timeout if timeout is None else timeout)
        pause = FIRST_PAUSE_SECONDS
        while True:
            found = self._client.read(sequence.last(), timeout=patience.call_timeout())
            mark = secrets.token_bytes(MARK_BYTES)
            fresh = sequence.following(found)
            txn = sequence.appending(found.revision, fresh, encoded(value), mark)
            try:
                done = (self._client.txn(txn, timeout=patience.call_timeout())).succeeded
            except OutcomeUnknown as error:
                done = carried_out(
                    self._client, txn, sequence.base, mark, found.revision, patience, error
                )
            if done:
                return fresh
            if patience.is_over:
                raise NotAcquired(f"others always put into {self.name!r} first")
            runtime.sleep(min(random.uniform(0, pause), patience.left))
            pause = min(2 * pause, LAST_PAUSE_SECONDS)
