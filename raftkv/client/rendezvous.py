"""How many stand at a double barrier, and whose round it is. Pure.

    <name>/waiters/<lease id in hex>    one per process, kept by its lease
    <name>/ready                        written when enough are there

A round begins with the first waiter after the last round's end and is complete when `count` waiters
are there; its `ready` key is then younger than all of them. So whoever is older than `ready` has
entered, and whoever is younger belongs to the next round, even while the last one is still leaving.
The layout and the rules of leaving are those of etcd's Go recipes; a `ready` that a round of
crashed processes has left behind does no harm, and the next round's end takes it away.
"""

from dataclasses import dataclass
from enum import Enum

from raftkv.client.errors import LeaseLost, RecipeError
from raftkv.client.results import KeyValue
from raftkv.client.txn import Delete, Put, Txn, key


class TooMany(RecipeError):
    """More came to a double barrier than it is for; this one was not let in."""


class Step(Enum):
    """What is to be done next."""

    ENTERED = "entered"  # the round is complete
    COMPLETE = "complete"  # enough are there: write `ready`
    LEFT = "left"  # all of the round have left
    GO = "go"  # take away the own key, then wait until the others have left


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """A double barrier's keys. count: how many it is for, >= 1."""

    name: bytes
    count: int

    @property
    def ready(self) -> bytes:
        """The key that lets all in."""
        return self.name + b"/ready"

    @property
    def waiters(self) -> bytes:
        """What the waiters' keys begin with."""
        return self.name + b"/waiters/"

    def waiter(self, lease: int) -> bytes:
        """The key of who holds this lease."""
        return self.waiters + b"%x" % lease

    def joining(self, own: bytes, value: bytes, lease: int) -> Txn:
        """Puts the own key unless it is there: to be sent as often as necessary."""
        return Txn().when(key(own).missing()).then(Put(own, value, lease=lease))

    def completing(self, own: bytes, seen: int) -> Txn:
        """Writes `ready` once per round, however many see that it is complete.

        seen: the revision of the `ready` that was there, 0: none.
        """
        return (
            Txn()
            .when(key(own).exists(), key(self.ready).mod_revision == seen)
            .then(Put(self.ready))
        )

    def clearing(self, opened: int) -> Txn:
        """Takes away the `ready` of a round that is over, and no later one."""
        return Txn().when(key(self.ready).mod_revision == opened).then(Delete(self.ready))

    def opened(self, kvs: tuple[KeyValue, ...]) -> int:
        """The revision of `ready`, which tells the round; 0: it is not there."""
        return self._read(kvs)[0]

    def _read(self, kvs: tuple[KeyValue, ...]) -> tuple[int, list[KeyValue]]:
        """The revision of `ready` (0: not there) and the waiters in the order of their coming."""
        ready = 0
        waiters = []
        for kv in kvs:
            if kv.key == self.ready:
                ready = kv.mod_revision
            elif kv.key.startswith(self.waiters):
                waiters.append(kv)
        waiters.sort(key=lambda kv: kv.create_revision)
        return ready, waiters

    def entering(self, kvs: tuple[KeyValue, ...], own: bytes) -> Step | None:
        """What who has joined does next; None: wait.

        kvs: all keys below `<name>/`, of one revision. Errors: LeaseLost, TooMany.
        """
        ready, waiters = self._read(kvs)
        mine = next((kv for kv in waiters if kv.key == own), None)
        if mine is None:
            raise LeaseLost(f"the place at the double barrier {self.name!r} is lost")
        if mine.create_revision < ready:
            return Step.ENTERED
        round_ = [kv for kv in waiters if kv.create_revision > ready]
        if round_.index(mine) >= self.count:
            raise TooMany(f"{self.count} others stand at the double barrier {self.name!r}")
        return Step.COMPLETE if len(round_) >= self.count else None

    def leaving(self, kvs: tuple[KeyValue, ...], own: bytes, opened: int) -> Step | None:
        """What who leaves does next; None: wait.

        opened: the revision of `ready` by which this one had entered. The oldest of the round stays
        until the others are gone, so that the round can be seen to last.
        """
        round_ = [kv for kv in self._read(kvs)[1] if kv.create_revision < opened]
        if not round_:
            return Step.LEFT
        if all(kv.key != own for kv in round_):
            return None
        return Step.GO if len(round_) == 1 or round_[0].key != own else None
