# Made by scripts/generate_sync.py from raftkv/client/aio: edit that.
"""Whether a write whose answer was lost was carried out.

`repeated`: it is sent again, which is for those that do no more when they are sent twice.

`carried_out`: a mark that it leaves in the history tells. The write puts a mark of its own to a key
that every such write puts, and its condition can hold only once. So it may be sent again, and if
that is refused, the history of the key tells.
"""

from typing import TYPE_CHECKING, Final

from raftkv.client.errors import ClientError, LeaseError, OutcomeUnknown, TimedOut, Unavailable
from raftkv.client.patience import Patience
from raftkv.client.results import TxnResult
from raftkv.client.sync import runtime
from raftkv.client.txn import Get, Txn

if TYPE_CHECKING:
    from raftkv.client.sync.client import Client

MARK_BYTES: Final = 16
RETRY_SECONDS: Final = 0.1  # after a request that no server could serve


def repeated(client: "Client", txn: Txn, patience: Patience) -> TxnResult:
    """The result of a transaction, sent again, once, if its answer is lost.

    Errors: OutcomeUnknown, other ClientErrors.
    """
    try:
        return client.txn(txn, timeout=patience.call_timeout())
    except OutcomeUnknown as error:
        return again(client, txn, patience, error)


def again(client: "Client", txn: Txn, patience: Patience, error: OutcomeUnknown) -> TxnResult:
    """The result of the second attempt, when the answer to the first was lost.

    Errors: `error`, also when the second surely was not carried out: the first may have been.
    LeaseError: the lease that it puts with is gone, and so is what the first may have put.
    """
    try:
        return client.txn(txn, timeout=patience.call_timeout())
    except LeaseError:
        raise
    except ClientError as second:
        raise error from second


def carried_out(
    client: "Client",
    txn: Txn,
    key: bytes,
    mark: bytes,
    revision: int,
    patience: Patience,
    error: OutcomeUnknown,
) -> bool:
    """Whether `txn` was carried out, now or before.

    key, mark: what it puts. revision: of the reading that its condition is based on: it holds no
    more after any write of `key` behind that. Errors: `error`, when it cannot be found out.
    """
    while not patience.is_over:
        try:
            if (client.txn(txn, timeout=patience.call_timeout())).succeeded:
                return True
            return _is_marked(client, key, mark, revision, patience)
        except (Unavailable, TimedOut, OutcomeUnknown):
            runtime.sleep(min(RETRY_SECONDS, patience.left))
        except ClientError as failure:  # history that is gone among them
            raise error from failure
    raise error


def _is_marked(
    client: "Client", key: bytes, mark: bytes, revision: int, patience: Patience
) -> bool:
    """Whether the mark is in the key's history behind `revision`, from the newest backwards.

    Errors: Compacted when the history does not reach back that far.
    """
    at = 0
    while True:
        found = client.read(Get(key, revision=at), timeout=patience.call_timeout())
        if not found.kvs or found.kvs[0].mod_revision <= revision:
            return False
        if found.kvs[0].value == mark:
            return True
        at = found.kvs[0].mod_revision - 1
        if at <= revision:
            return False
