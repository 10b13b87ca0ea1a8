"""The keys of queues: which item is next, and who has claimed which. Pure.

    <name>/<nanoseconds>-<random>             an item of a queue: first come, first served
    <name>/<priority, 5 digits>/<16 digits>   an item of a priority queue: the lowest key goes first
    __<name>/<priority, 5 digits>             the newest put of that priority: its value is a mark
    _claims/<name>/<the same again>           a claim on an item, kept by its claimant's lease

Items lie as those of etcd's Go recipes do, so both serve one queue. A Go client knows nothing of
claims and takes a claimed item away: let it put, or use no claims. Names must not nest: the items
of a queue `a/b` are items of a queue `a`, too, as they are in Go.
"""

import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass

from raftkv.client.errors import BadRequest, RecipeError
from raftkv.client.results import KeyValue, RangeResult
from raftkv.client.txn import Compare, Delete, Get, Put, SortBy, Txn, key

MAX_PRIORITY = 99_999
SEARCHED = 64  # oldest items looked at for one without a claim, at first


class NotAnItem(RecipeError):
    """Somebody else's key lies behind a queue's last item, so the next number is not known."""


@dataclass(frozen=True, slots=True)
class Shelf:
    """Where a queue's items lie. sort_by: what makes one the next."""

    name: bytes
    sort_by: SortBy = SortBy.CREATE_REVISION

    @property
    def items(self) -> bytes:
        """What the items' keys begin with."""
        return self.name + b"/"

    @property
    def claims(self) -> bytes:
        """What the claims' keys begin with."""
        return b"_claims/" + self.items

    def claim(self, item: bytes) -> bytes:
        """The key of a claim on an item."""
        return self.claims + item.removeprefix(self.items)

    def fresh(self) -> bytes:
        """A key for a new item, which no other item ever has."""
        return self.items + b"%020d-%s" % (time.time_ns(), secrets.token_hex(8).encode())

    def look(self, count: int) -> Txn:
        """Reads the first `count` items, and the claims, at one revision."""
        return (
            Txn()
            .when(key(self.items).version < 0)  # never: reads alone need no branch
            .otherwise(
                Get(self.items, prefix=True, limit=count, sort_by=self.sort_by),
                Get(self.claims, prefix=True, keys_only=True),
            )
        )

    def free(self, items: Iterable[KeyValue], claims: RangeResult) -> KeyValue | None:
        """The first item without a claim."""
        claimed = {kv.key for kv in claims.kvs}
        return next((item for item in items if self.claim(item.key) not in claimed), None)

    def _there(self, item: KeyValue) -> tuple[Compare, Compare]:
        return (
            key(item.key).mod_revision == item.mod_revision,
            key(self.claim(item.key)).missing(),
        )

    def taking(self, item: KeyValue) -> Txn:
        """Takes an item away, if nobody else has done so or claimed it."""
        return Txn().when(*self._there(item)).then(Delete(item.key))

    def claiming(self, item: KeyValue, lease: int) -> Txn:
        """Claims an item; says whose claim there is otherwise. May be sent twice."""
        claim = self.claim(item.key)
        return Txn().when(*self._there(item)).then(Put(claim, lease=lease)).otherwise(Get(claim))

    def finishing(self, item: bytes, claimed: int) -> Txn:
        """Takes away an item and the claim that was made at revision `claimed`."""
        claim = self.claim(item)
        return (
            Txn()
            .when(key(claim).create_revision == claimed)
            .then(Delete(item), Delete(claim))
            .otherwise(Get(item))
        )


@dataclass(frozen=True, slots=True)
class Sequence:
    """The items of one priority, numbered in the order of their coming."""

    prefix: bytes

    @classmethod
    def of(cls, shelf: Shelf, priority: int) -> "Sequence":
        """priority: 0 (first) to MAX_PRIORITY. Errors: BadRequest."""
        if not 0 <= priority <= MAX_PRIORITY:
            raise BadRequest(f"a priority is 0 to {MAX_PRIORITY}, not {priority}")
        return cls(shelf.items + b"%05d" % priority)

    @property
    def base(self) -> bytes:
        """Written with each item: whose put was the newest, and whether there was a newer one."""
        return b"__" + self.prefix

    def last(self) -> Get:
        """Reads the item with the highest number, past keys that begin with no digit."""
        first, behind = self.prefix + b"/0", self.prefix + b"/:"
        return Get(first, end=behind, limit=1, descending=True, keys_only=True)

    def following(self, found: RangeResult) -> bytes:
        """The key behind the last one. found: by `last`. Errors: NotAnItem."""
        if not found.kvs:
            return self.prefix + b"/%016d" % 0
        last = found.kvs[0].key
        digits = last.removeprefix(self.prefix + b"/")
        if not digits.isdigit():
            raise NotAnItem(f"{last!r}, where a queue numbers its items, has no number of its own")
        return self.prefix + b"/%016d" % (int(digits) + 1)

    def appending(self, revision: int, fresh: bytes, value: bytes, mark: bytes) -> Txn:
        """Puts an item at the key `fresh`, if nobody has put any since `revision`."""
        return (
            Txn()
            .when(key(self.base).mod_revision < revision + 1)
            .then(Put(self.base, mark), Put(fresh, value))
        )
