"""What a software transaction has read and written, and when it may be committed. Pure.

The function of a transaction reads and writes through an `Attempt`, which turns into one
transaction of the store: compares that say "what I read is still so", and the writes. The
levels, from the strictest, are those of etcd's Go package `concurrency`:

    SERIALIZABLE_SNAPSHOT   all reads at the first one's revision; commits if nothing that was read
                            or is written has changed since
    SERIALIZABLE            the same reads; commits if nothing that was read has changed
    REPEATABLE_READS        each key is read when it is asked for, once; commits as before
    READ_COMMITTED          the same reads; commits always

After a commit whose outcome is unknown, three questions are decided here (C01, C02):

* May it be asked again? Only if it cannot be carried out twice (`is_idempotent`): its own writes
  then break one of its compares for good, so that of all its copies one at most gets through.
* Was it carried out? Only a marker tells: a key that nobody else writes, and that this attempt
  puts its own token to. A value that was read back may have been written by anybody.
* Was it surely not, and never will be (`surely_not`)? One of its compares is broken for good, and
  something that it would have written is older than its reads.

Whatever is none of these stays unknown, and is said to be.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from raftkv.client.errors import RecipeError
from raftkv.client.results import KeyValue, RangeResult, TxnResult
from raftkv.client.txn import Delete, Get, Put, Txn, key

MAX_READ_BACK: Final = 128  # operations that servers take in one transaction


class Isolation(Enum):
    """See the module's docstring."""

    SERIALIZABLE_SNAPSHOT = "serializable snapshot"
    SERIALIZABLE = "serializable"
    REPEATABLE_READS = "repeatable reads"
    READ_COMMITTED = "read committed"

    @property
    def is_pinned(self) -> bool:
        """Whether all reads are made at one revision."""
        return self in (Isolation.SERIALIZABLE_SNAPSHOT, Isolation.SERIALIZABLE)


class TooManyConflicts(RecipeError):
    """A transaction met others' writes as often as it was allowed to try. Nothing was written."""


Pairs = Mapping[bytes, KeyValue | None]


@dataclass(frozen=True, slots=True)
class Marker:
    """A key that one user of one transaction at a time writes.

    token: of one attempt. mod_revision: of the key's last write before, 0 = it was missing.
    """

    key: bytes
    token: bytes
    mod_revision: int


@dataclass(slots=True)
class Attempt:
    """One run of the function.

    known: what the last attempt's refusal found, all at `revision`; 0 = nothing was.
    """

    isolation: Isolation
    marker: Marker | None = None
    known: Pairs = field(default_factory=dict)
    revision: int = 0
    reads: dict[bytes, KeyValue | None] = field(default_factory=dict)
    writes: dict[bytes, Put | Delete] = field(default_factory=dict)

    @property
    def pinned_revision(self) -> int:
        """Where the next read is to be made; 0 = at the present."""
        return self.revision if self.isolation.is_pinned else 0

    def seen(self, name: bytes) -> bool:
        """Whether a read of this key needs no server: it was written or read before."""
        if name not in self.reads and name in self.known:
            self.reads[name] = self.known[name]
        return name in self.writes or name in self.reads

    def value(self, name: bytes) -> bytes | None:
        """The value of a key that was seen, None if there is none."""
        written = self.writes.get(name)
        if written is not None:
            value = written.value if isinstance(written, Put) else None
            assert not isinstance(value, str), "the recipe encodes values"
            return value
        kv = self.reads[name]
        return None if kv is None else kv.value

    def found(self, name: bytes, kv: KeyValue | None, revision: int) -> None:
        """A read's answer. revision: of the store when it was read."""
        self.reads[name] = kv
        self.revision = self.revision or revision

    @property
    def needs_commit(self) -> bool:
        """Whether the servers have to be asked at the end.

        Reads at one revision alone are consistent as they are; those of READ_COMMITTED need
        not be.
        """
        if self.writes:
            return True
        return self.isolation is Isolation.REPEATABLE_READS and len(self.reads) > 1

    def commit(self) -> Txn:
        """The transaction to carry out. Refused, it reads what was read, for the next attempt."""
        txn = Txn()
        if self.isolation is not Isolation.READ_COMMITTED:
            txn = txn.when(*(key(k).mod_revision == _mod(kv) for k, kv in self.reads.items()))
        if self.isolation is Isolation.SERIALIZABLE_SNAPSHOT and self.revision:
            blind = [k for k in self.writes if k not in self.reads]
            txn = txn.when(*(key(k).mod_revision < self.revision + 1 for k in blind))
        txn = txn.then(*self.writes.values())
        if self.marker is not None:
            unmarked = key(self.marker.key).mod_revision == self.marker.mod_revision
            txn = txn.when(unmarked).then(Put(self.marker.key, self.marker.token))
        return txn.otherwise(*(Get(k) for k in self.reads))

    def refused(self, answer: TxnResult) -> Pairs:
        """What the refused commit found under the keys that were read, at one revision."""
        return dict(zip(self.reads, map(_first, answer.results), strict=True))

    # --- an unknown outcome -----------------------------------------------------------------
    @property
    def is_idempotent(self) -> bool:
        """Whether the commit, asked twice, is carried out once at most.

        So it is with a marker; and if a key that it puts was there when it was read, for the put
        gives it another revision for good. (One that was missing may be missing again.)
        """
        if self.marker is not None:
            return True
        return self.isolation is not Isolation.READ_COMMITTED and any(
            isinstance(write, Put) and self.reads.get(name) is not None
            for name, write in self.writes.items()
        )

    def reading_back(self) -> Txn | None:
        """Reads at one revision what was read and written; None: it is too much."""
        names = self._concerned()
        if len(names) > MAX_READ_BACK:
            return None
        return Txn().then(*(Get(k) for k in names))

    def read_back(self, answer: TxnResult) -> Pairs:
        """What `reading_back` found."""
        return dict(zip(self._concerned(), map(_first, answer.results), strict=True))

    def surely_done(self, now: Pairs) -> bool:
        """Whether the commit was carried out."""
        if self.marker is None:
            return False
        kv = now[self.marker.key]
        return kv is not None and kv.value == self.marker.token

    def surely_not(self, now: Pairs) -> bool:
        """Whether the commit was not carried out and never will be. now: as of one revision."""
        return self._is_broken(now) and self._is_untouched(now)

    def _concerned(self) -> list[bytes]:
        names = list({**self.reads, **self.writes})
        return names if self.marker is None else [*names, self.marker.key]

    def _is_broken(self, now: Pairs) -> bool:
        """A key that was read has changed. One that was missing may be missing again."""
        if self.isolation is Isolation.READ_COMMITTED:
            return False
        return any(kv is not None and _mod(now[k]) != _mod(kv) for k, kv in self.reads.items())

    def _is_untouched(self, now: Pairs) -> bool:
        """Something that the commit would have put has not been written since it was read."""
        if self.marker is not None:
            return not self.surely_done(now)
        for name, write in self.writes.items():
            kv = now[name]
            if isinstance(write, Put) and kv is not None:
                before = self.reads.get(name)
                if before is not None and _mod(before) == _mod(kv):
                    return True
                if self.isolation.is_pinned and 0 < self.revision >= _mod(kv):
                    return True
        return False


def _mod(kv: KeyValue | None) -> int:
    return 0 if kv is None else kv.mod_revision


def _first(result: object) -> KeyValue | None:
    assert isinstance(result, RangeResult), "what was asked here is a read"
    return result.kvs[0] if result.kvs else None
