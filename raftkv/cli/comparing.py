"""What differs between two states: two ranges of keys in order, walked side by side.

Only keys and revisions are compared; a pair with the same modification revision is the same pair.
The values of what differs are fetched afterwards, some dozens per transaction.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from raftkv.cli.connection import Connection
from raftkv.cli.paging import Pages
from raftkv.pb import kv_pb2, rpc_pb2

ADDED: Final = "added"
CHANGED: Final = "changed"
REMOVED: Final = "removed"
KEYS_PER_TXN: Final = 32


@dataclass(frozen=True, slots=True)
class Difference:
    """One key. before, after: its pair at either revision, None where it is not there."""

    key: bytes
    before: kv_pb2.KeyValue | None
    after: kv_pb2.KeyValue | None

    @property
    def kind(self) -> str:
        """ADDED, CHANGED or REMOVED."""
        if self.before is None:
            return ADDED
        return REMOVED if self.after is None else CHANGED


def compare(
    before: Iterator[kv_pb2.KeyValue], after: Iterator[kv_pb2.KeyValue]
) -> Iterator[Difference]:
    """What differs, in the order of the keys. Both come in that order."""
    old, new = next(before, None), next(after, None)
    while old is not None or new is not None:
        if new is None or (old is not None and old.key < new.key):
            assert old is not None
            yield Difference(old.key, old, None)
            old = next(before, None)
        elif old is None or new.key < old.key:
            yield Difference(new.key, None, new)
            new = next(after, None)
        else:
            if old.mod_revision != new.mod_revision:
                yield Difference(new.key, old, new)
            old, new = next(before, None), next(after, None)


def differences(
    connection: Connection, old: Pages, new: Pages, with_values: bool
) -> Iterator[Difference]:
    """Of two ranges that have begun. Errors: CallFailed, as while reading pages."""
    found = compare(old.pairs(), new.pairs())
    if not with_values:
        yield from found
        return
    while some := list(islice(found, KEYS_PER_TXN)):
        yield from _with_values(connection, some, old.revision, new.revision)


def _with_values(
    connection: Connection, some: Sequence[Difference], old: int, new: int
) -> list[Difference]:
    request = rpc_pb2.TxnRequest()
    for one in some:
        for pair, revision in ((one.before, old), (one.after, new)):
            if pair is not None:
                request.success.append(
                    rpc_pb2.RequestOp(
                        request_range=rpc_pb2.RangeRequest(key=one.key, revision=revision)
                    )
                )
    reply = connection.read("KV/Txn", request, rpc_pb2.TxnResponse)
    pairs = iter(reply.responses)

    def fetched(pair: kv_pb2.KeyValue | None) -> kv_pb2.KeyValue | None:
        return None if pair is None else next(pairs).response_range.kvs[0]

    return [Difference(one.key, fetched(one.before), fetched(one.after)) for one in some]
