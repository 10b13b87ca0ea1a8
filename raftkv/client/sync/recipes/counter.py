# Made by scripts/generate_sync.py from raftkv/client/aio: edit that.
"""A number that many processes add to, each addition counted once.

    total = client.counter("jobs/done").add(1)

When things go wrong:

* Two add at the same time: one of them is refused by its condition and tries again, with a pause
  that grows. Nothing is lost, and under much contention additions are slow: a counter is no
  replacement for a metric.
* The answer to an addition is lost: the write says who made it (a second key, written in the same
  transaction), so it is found out from the history whether it was carried out, and it is neither
  lost nor counted twice. Only when that history was compacted meanwhile, or the servers stay
  away for the whole timeout, the outcome stays OutcomeUnknown.
* The key is deleted while an addition is under way: the counter begins again at 0, with that
  addition or without it.
* Somebody writes what is no number: NotANumber, and the value is left alone.

The keys are `<name>`, with the number as decimal text that any client can read, and `<name>/by`,
whose value is the mark of the newest addition.
"""

import random
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from raftkv.client.counting import NotANumber, number
from raftkv.client.errors import (
    NotAcquired,
    OutcomeUnknown,
)
from raftkv.client.keys import Key, encoded
from raftkv.client.patience import Patience
from raftkv.client.sync import runtime
from raftkv.client.sync.recipes.marks import MARK_BYTES, carried_out
from raftkv.client.txn import Put, Txn, key

if TYPE_CHECKING:
    from raftkv.client.sync.client import Client

__all__ = ["Counter", "NotANumber"]

FIRST_PAUSE_SECONDS: Final = 0.002
LAST_PAUSE_SECONDS: Final = 0.25

Change = Callable[[int], int]


class Counter:
    """See the module's docstring. Made by `Client.counter`.

    In its methods timeout: seconds for all of it, None = the client's default for one call.
    """

    def __init__(self, client: "Client", name: Key) -> None:
        self.name: bytes = encoded(name)
        self._by = self.name + b"/by"
        self._client = client

    def get(self, timeout: float | None = None) -> int:
        """The number; 0 if nobody has added yet. Errors: NotANumber, other ClientErrors."""
        found = self._client.get(self.name, timeout=timeout)
        return number(self.name, found.value)

    def add(self, delta: int = 1, timeout: float | None = None) -> int:
        """Adds `delta`, and returns the number with this addition in it.

        Errors: NotANumber; OutcomeUnknown (see above); NotAcquired (a TimeoutError) when others
        were always faster: nothing was added.
        """
        return self._change(lambda present: present + delta, timeout)

    def set(self, value: int, timeout: float | None = None) -> None:
        """Writes `value`, whatever there was. Errors: as `add`."""
        self._change(lambda _: value, timeout, replacing=True)

    def _change(self, change: Change, timeout: float | None, *, replacing: bool = False) -> int:
        patience = Patience(self._client.timeout if timeout is None else timeout)
        pause = FIRST_PAUSE_SECONDS
        while True:
            found = self._client.get(self.name, timeout=patience.call_timeout())
            wanted = change(0 if replacing else number(self.name, found.value))
            mark = secrets.token_bytes(MARK_BYTES)
            txn = (
                Txn()
                .when(key(self.name).mod_revision == found.mod_revision)
                .then(Put(self.name, b"%d" % wanted), Put(self._by, mark))
            )
            try:
                done = (self._client.txn(txn, timeout=patience.call_timeout())).succeeded
            except OutcomeUnknown as error:
                done = carried_out(
                    self._client, txn, self._by, mark, found.revision, patience, error
                )
            if done:
                return wanted
            if patience.is_over:
                raise NotAcquired(f"others always changed the counter {self.name!r} first")
            runtime.sleep(min(random.uniform(0, pause), patience.left))
            pause = min(2 * pause, LAST_PAUSE_SECONDS)
