"""Queues of keys: how one enters, who is before me, whom I wait for. Pure.

Locks, read-write locks, semaphores and elections are queues. A contender puts one key that is
attached to a lease of its own; its place is the key's create revision, which only grows. It holds
when fewer than `limit` of the keys that count as before it are older:

    lock, election    own <name>/<lease>           older than it: <name>/*
    reader            own <name>/read/<lease>      older than it: <name>/write/*
    writer            own <name>/write/<lease>     older than it: <name>/*
    semaphore         own <name>/holders/<lease>   older than it: the same, fewer than the limit

<lease> is the lease id in lower-case hex. Lock and election are laid out as etcd's Go package
`concurrency` has it (and so the v3lock and v3election services, etcdctl, raftctl); reader and
writer as its `contrib/recipes.RWMutex`, which puts a clock reading where we put the lease but,
like us, goes by the prefixes only. The semaphore is ours: `<name>/limit` holds the limit, in
decimal, that all who are in the queue agreed on; it is replaced only while the queue is empty.

Why at most `limit` hold: keys never get older, and a key that is deleted comes back with a greater
create revision. So once fewer than `limit` keys are before a contender it stays so, and at any
revision those who were told that they hold are among the `limit` oldest.

`contend` is one contender's way through a queue, as a generator: it yields what is to be asked of
the servers (`Ask`) or waited for (`Await`), and is sent what came of it. It returns a `Place`
when the contender holds. All that may go wrong on the way is decided here and nowhere else:

* The answer to the entering transaction is lost (C02). It is asked again as it was: its compare
  on a missing key lets at most one of all attempts through, however late the earlier ones arrive,
  and the key carries the lease's id, so a key that is there is the own one.
* The lease ends while the contender waits (C04). After every wait the own key is read together with
  the older ones, at one revision; if it is gone, the contender has lost (`LeaseLost`).
* The watch breaks or its revision is compacted. The answer to an `Await` says nothing at all; what
  counts is what is read afterwards.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeAlias

from raftkv.client.errors import LeaseLost, RecipeError
from raftkv.client.keys import prefix_end
from raftkv.client.results import KeyValue, RangeResult, TxnResult
from raftkv.client.txn import Delete, Get, Put, SortBy, Txn, key


class AlreadyQueued(RecipeError):
    """The lease has a place in this queue already: by another user of it, or an earlier call."""


class LimitDisagrees(RecipeError):
    """Those in a semaphore's queue have agreed on another limit (`limit`)."""

    limit: int = 0


@dataclass(frozen=True, slots=True)
class Queue:
    """What kind of place is wanted in which queue; see the module's docstring.

    own: the prefix of the key to put. before: the prefix of the keys that count.
    limit: how many may hold at once. limit_key: where the limit is written; empty = nowhere.
    """

    own: bytes
    before: bytes
    limit: int = 1
    limit_key: bytes = b""

    def key(self, lease_id: int) -> bytes:
        """The key of whoever has this lease."""
        return self.own + b"%x" % lease_id


def lock_queue(name: bytes) -> Queue:
    """The queue of a lock or an election."""
    return Queue(name + b"/", name + b"/")


def read_queue(name: bytes) -> Queue:
    """A reader's place in a read-write lock."""
    return Queue(name + b"/read/", name + b"/write/")


def write_queue(name: bytes) -> Queue:
    """A writer's place in a read-write lock."""
    return Queue(name + b"/write/", name + b"/")


def semaphore_queue(name: bytes, limit: int) -> Queue:
    """A place in a semaphore. limit: >= 1."""
    assert limit >= 1, "the recipe checks its argument"
    return Queue(name + b"/holders/", name + b"/holders/", limit, name + b"/limit")


@dataclass(frozen=True, slots=True)
class Place:
    """A key in a queue. create_revision: of the key: the fencing token of who holds."""

    key: bytes
    create_revision: int

    def guard(self, txn: Txn) -> Txn:
        """The transaction with the compare that this very key is still there."""
        return txn.when(key(self.key).create_revision == self.create_revision)


# --- what is asked and answered ------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Ask:
    """A transaction to carry out. Send its result, or None if a write's outcome is unknown."""

    txn: Txn
    is_write: bool


@dataclass(frozen=True, slots=True)
class Await:
    """Wait until at most `spare` of the `older` keys are left, then send None.

    key, end: the range to watch for deletions from `start_revision` on. To return early does no
    harm now and then.
    """

    key: bytes
    end: bytes
    start_revision: int
    older: frozenset[bytes]
    spare: int


Step: TypeAlias = Ask | Await
Way: TypeAlias = Generator[Step, TxnResult | None, Place]


def contend(queue: Queue, lease_id: int, value: bytes) -> Way:
    """One contender's way through a queue, from putting its key to holding.

    The lease must be the caller's alone in this queue. Errors: AlreadyQueued, LimitDisagrees,
    LeaseLost.
    """
    own = queue.key(lease_id)
    if queue.limit_key:
        created, older = yield from _enter_agreeing(queue, own, value, lease_id)
    else:
        created, older = yield from _enter(queue, own, value, lease_id)
    while True:
        if older is None:
            answer = yield Ask(_looking(queue, own, created), is_write=False)
            assert answer is not None, "only a write's outcome can be unknown"
            mine = found(answer, 0)
            if not mine or mine[0].create_revision != created:
                raise lost(own)
            revision = answer.header.revision
            older = found(answer, 1)
        else:
            revision = created
        if len(older) < queue.limit:
            return Place(own, created)
        yield _waiting(queue, older, revision)
        older = None


Entered: TypeAlias = Generator[Step, TxnResult | None, tuple[int, tuple[KeyValue, ...] | None]]


def _enter(queue: Queue, own: bytes, value: bytes, lease_id: int) -> Entered:
    """Puts the key; returns its create revision, and the older keys if they are known by then."""
    # The two youngest: the own one, where it counts itself, and the one before it.
    youngest = Get(
        queue.before,
        prefix=True,
        limit=2,
        sort_by=SortBy.CREATE_REVISION,
        descending=True,
        keys_only=True,
    )
    entering = (
        Txn()
        .when(key(own).missing())
        .then(Put(own, value, lease=lease_id), youngest)
        .otherwise(Get(own))
    )
    asked = False
    while True:
        answer = yield Ask(entering, is_write=True)
        if answer is None:
            asked = True
        elif answer.succeeded:
            created = answer.header.revision
            return created, _older(found(answer, 1), created)[:1]
        elif asked:
            return found(answer, 0)[0].create_revision, None
        else:
            raise already(own)


def _enter_agreeing(queue: Queue, own: bytes, value: bytes, lease_id: int) -> Entered:
    """The same for a queue whose limit must be agreed on."""
    limit = b"%d" % queue.limit
    everybody = key(queue.before).prefix()
    put = Put(own, value, lease=lease_id)
    both = (Get(own), Get(queue.limit_key))
    joining = (
        Txn()
        .when(key(queue.limit_key).value == limit, key(own).missing())
        .then(put)
        .otherwise(*both)
    )
    founding = (
        Txn().when(everybody.missing()).then(put, Put(queue.limit_key, limit)).otherwise(*both)
    )
    asked = False
    entering = joining
    while True:
        answer = yield Ask(entering, is_write=True)
        if answer is None:
            asked = True
            continue
        if answer.succeeded:
            return answer.header.revision, None
        mine, agreed = found(answer, 0), found(answer, 1)
        if mine and not asked:
            raise already(own)
        if mine:
            return mine[0].create_revision, None
        if agreed and agreed[0].value == limit:
            entering = joining
        elif entering is founding:
            raise _disagreement(queue, agreed)
        else:
            entering = founding


def _looking(queue: Queue, own: bytes, created: int) -> Txn:
    """Reads the own key and those before it at one revision."""
    older = Get(
        queue.before,
        prefix=True,
        limit=1 if queue.limit == 1 else 0,
        sort_by=SortBy.CREATE_REVISION,
        descending=True,
        max_create_revision=created - 1,
        keys_only=True,
    )
    return Txn().then(Get(own), older)


def _waiting(queue: Queue, older: tuple[KeyValue, ...], revision: int) -> Await:
    """For whom to wait: one key if one is to go, else any of several."""
    names = frozenset(kv.key for kv in older)
    if queue.limit == 1:
        return Await(older[0].key, b"", revision + 1, frozenset((older[0].key,)), 0)
    return Await(queue.before, prefix_end(queue.before), revision + 1, names, queue.limit - 1)


def _older(kvs: tuple[KeyValue, ...], created: int) -> tuple[KeyValue, ...]:
    return tuple(kv for kv in kvs if kv.create_revision < created)


def found(answer: TxnResult, number: int) -> tuple[KeyValue, ...]:
    """What a read of a transaction found. number: of the operation, from 0."""
    result = answer.results[number]
    assert isinstance(result, RangeResult), "what was asked here is a read"
    return result.kvs


# --- holding and leaving --------------------------------------------------------------------
def leaving(place: Place) -> Txn:
    """Deletes the key unless it is another one by now. May be asked as often as you like."""
    return place.guard(Txn()).then(Delete(place.key))


def withdrawing(own: bytes, lease_id: int) -> Txn:
    """Deletes a key whose create revision is not known: it is the own one if it has the lease."""
    return Txn().when(key(own).lease == lease_id).then(Delete(own))


def proclaiming(place: Place, mod_revision: int, value: bytes, lease_id: int) -> Txn:
    """Replaces the value of a key that is held, and reads it if that is refused.

    mod_revision: of the key's last write, as far as its holder knows. To compare it, too, keeps an
    attempt that arrives late from undoing a later one.
    """
    unchanged = key(place.key).mod_revision == mod_revision
    put = Put(place.key, value, lease=lease_id)
    return place.guard(Txn()).when(unchanged).then(put).otherwise(Get(place.key))


def lost(own: bytes) -> LeaseLost:
    """What a contender is told whose key went while it waited."""
    return LeaseLost(f"the lease of {_shown(own)} ended, and the place in the queue with it")


def already(own: bytes) -> AlreadyQueued:
    """What a caller is told whose lease has a place here already."""
    return AlreadyQueued(f"this lease is in the queue already, as {_shown(own)}")


def _disagreement(queue: Queue, agreed: tuple[KeyValue, ...]) -> LimitDisagrees:
    text = agreed[0].value.decode(errors="replace") if agreed else "no limit"
    error = LimitDisagrees(
        f"the limit of {_shown(queue.limit_key)} is {text} for those who are in the queue, "
        f"not {queue.limit}; it can be changed while nobody is"
    )
    error.limit = int(text) if text.isdecimal() else 0
    return error


def _shown(name: bytes) -> str:
    return name.decode(errors="backslashreplace")
