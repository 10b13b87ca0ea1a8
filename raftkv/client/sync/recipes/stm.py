# Made by scripts/generate_sync.py from raftkv/client/aio: edit that.
"""Software transactions: a function that reads and writes keys takes effect as a whole, or not.

    def move(tx: Transaction) -> None:
        balance = int(tx.get("alice") or b"0")
        tx.put("alice", str(balance - 10))
        tx.put("bob", str(int(tx.get("bob") or b"0") + 10))

    client.stm(move)

Nothing is locked. The reads are compared when the writes are made, in one transaction of the store;
if somebody was faster, the function is run again from its beginning. So it must have no effects
of its own but through `tx`.

When things go wrong:

* The function raises: nothing was written, the error goes through.
* Others are faster time after time: TooManyConflicts after `attempts` runs, nothing was written.
* The answer to the commit is lost. It is never taken for a conflict: to run the function again
  might do twice what was done already (C01). Where the commit cannot take effect twice (it puts a
  key that it has read) it is asked again; if that is refused, everything is read back (C02). If
  that does not show that nothing was written and nothing ever will be, the caller gets
  OutcomeUnknown. With `marker`, a key that nobody else uses, it is always found out as long as a
  server answers: each commit writes a token of its own there.

Isolation is that of etcd's Go `concurrency.STM`; see `raftkv.client.isolation`.
"""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar
from uuid import uuid4

from raftkv.client.errors import ClientError, Compacted, OutcomeUnknown, TimedOut, Unavailable
from raftkv.client.isolation import Attempt, Isolation, Marker, Pairs, TooManyConflicts
from raftkv.client.keys import Key, encoded
from raftkv.client.patience import Patience
from raftkv.client.sync import runtime
from raftkv.client.txn import Delete, LeaseLike, Put, lease_id

if TYPE_CHECKING:
    from raftkv.client.sync.client import Client

__all__ = ["Isolation", "TooManyConflicts", "Transaction", "stm"]

T = TypeVar("T")

ATTEMPTS: Final = 64
BACKOFF_SECONDS: Final = 0.002  # doubled per conflict, up to:
MAX_BACKOFF_SECONDS: Final = 0.1
RETRY_SECONDS: Final = 0.2  # between questions about an outcome
UNKNOWN_SECONDS: Final = 15.0  # for finding an outcome out, if there is no timeout


class Transaction:
    """What the function reads and writes through. Of one run only."""

    def __init__(self, client: "Client", attempt: Attempt, patience: Patience) -> None:
        self._client = client
        self._attempt = attempt
        self._patience = patience

    def get(self, key: Key) -> bytes | None:
        """The value of a key, None if there is none: what this run has written, or has read."""
        name = encoded(key)
        self._see(name)
        return self._attempt.value(name)

    def mod_revision(self, key: Key) -> int:
        """At which revision the key was last written before this run; 0 if it is missing."""
        name = encoded(key)
        if name not in self._attempt.reads:
            self._read(name)
        kv = self._attempt.reads[name]
        return 0 if kv is None else kv.mod_revision

    def put(self, key: Key, value: Key, *, lease: LeaseLike = None) -> None:
        """Writes a key when the transaction commits. lease: a Lease or its id."""
        name = encoded(key)
        self._attempt.writes[name] = Put(name, encoded(value), lease=lease_id(lease))

    def delete(self, key: Key) -> None:
        """Deletes a key when the transaction commits."""
        name = encoded(key)
        self._attempt.writes[name] = Delete(name)

    def _see(self, name: bytes) -> None:
        if not self._attempt.seen(name):
            self._read(name)

    def _read(self, name: bytes) -> None:
        found = self._client.get(
            name,
            revision=self._attempt.pinned_revision,
            timeout=self._patience.call_timeout(),
        )
        self._attempt.found(name, found.kv, found.revision)


def stm(
    client: "Client",
    function: Callable[[Transaction], runtime.Eventually[T]],
    *,
    isolation: Isolation = Isolation.SERIALIZABLE_SNAPSHOT,
    attempts: int = ATTEMPTS,
    marker: Key | None = None,
    timeout: float | None = None,
) -> T:
    """Runs a function as a transaction; returns what it returns.

    isolation: see `Isolation`. attempts: how often the function is run at most. marker: a key that
    only this caller, in one call at a time, writes; see the module's docstring. timeout: seconds
    for all of it; None = as long as the client gives each request.
    Errors: TooManyConflicts, OutcomeUnknown, what the function raises, and other ClientErrors.
    """
    patience = Patience(timeout)
    name = None if marker is None else encoded(marker)
    known: Pairs = {}
    revision = 0
    for number in range(attempts):
        if number:
            bound = min(BACKOFF_SECONDS * 2**number, MAX_BACKOFF_SECONDS)
            runtime.sleep(min(random.uniform(0, bound), patience.left))
        attempt = Attempt(isolation, _marker(client, name, patience), known, revision)
        try:
            result = function(Transaction(client, attempt, patience))
        except Compacted:
            known, revision = {}, 0
            continue  # the run took so long that what it read is no longer kept
        refusal = _commit(client, attempt, patience) if attempt.needs_commit else None
        if refusal is None:
            return result
        known, revision = refusal
    raise TooManyConflicts(f"others were faster {attempts} times")


def _marker(client: "Client", name: bytes | None, patience: Patience) -> Marker | None:
    if name is None:
        return None
    found = client.get(name, timeout=patience.call_timeout())
    return Marker(name, uuid4().hex.encode(), found.mod_revision)


Refusal = tuple[Pairs, int]  # what was read at which revision instead


def _commit(client: "Client", attempt: Attempt, patience: Patience) -> Refusal | None:
    """None: it is done. Errors: ClientError; OutcomeUnknown if that cannot be found out."""
    txn = attempt.commit()
    try:
        answer = client.txn(txn, timeout=patience.call_timeout())
    except OutcomeUnknown as error:
        return _find_out(client, attempt, patience, error)
    return None if answer.succeeded else (attempt.refused(answer), answer.revision)


def _find_out(
    client: "Client", attempt: Attempt, patience: Patience, unknown: OutcomeUnknown
) -> Refusal | None:
    """What became of a commit whose answer was lost."""
    if patience.is_endless:
        patience = Patience(UNKNOWN_SECONDS)
    asking = attempt.is_idempotent
    back = attempt.reading_back()
    while back is not None and not patience.is_over:
        try:
            answer = client.txn(
                attempt.commit() if asking else back, timeout=patience.call_timeout()
            )
        except (OutcomeUnknown, Unavailable, TimedOut):
            runtime.sleep(min(RETRY_SECONDS, patience.left))
            continue
        except ClientError as error:
            raise unknown from error
        if not asking:
            now = attempt.read_back(answer)
            if attempt.surely_done(now):
                return None
            if attempt.surely_not(now):
                return {k: now[k] for k in attempt.reads}, answer.revision
            break
        if answer.succeeded:
            return None
        asking = False  # refused: by somebody else's write, or by its own
    raise unknown
