"""Bugs that etcd had, rebuilt as known-wrong variants of raftkv.

Each breaks in raftkv the rule that etcd's bug broke. Where `raftkv.sim.mutants` has the variant
already, `mutants.TEETH` names etcd's bug beside it; here are those that only etcd taught.
"""

from collections.abc import Iterator
from typing import Any, Final

from raftkv.kv import loading
from raftkv.kv.encoding import SUB_BITS
from raftkv.kv.machine import StateMachine
from raftkv.kv.store import Store
from raftkv.raft.leader import Leader
from raftkv.raft.reads import Reads
from raftkv.replica.lessor import Lessor
from raftkv.replica.served import Leased
from raftkv.server.services.queueing import Place, Queues
from raftkv.sim.hunting import Mutant

_start_round = Leader._start_round
_lose_all = Reads.lose_all
_open = StateMachine._open
_delete_range = StateMachine._delete_range
_load_keys = loading.load_keys
_renew = Lessor.renew


def _read_by_checked_quorum(self: Leader) -> bool:
    """etcd #20418: a leader that had its quorum a moment ago answers from what it has.

    It counts in ticks, and a process that stands still has none.
    """
    reads = self.core.reads
    if not reads.waiting or not self.own_term_committed or not self.quorum_active():
        return _start_round(self)
    reads.sent = reads.issued
    reads.answer(reads.issued, self.core.commit)
    return False


def _answer_at_a_change(self: Reads) -> None:
    """etcd pull request 21387: an answer is taken although the leader changed meanwhile."""
    if self.sent > self.answered:
        self.answer(self.sent, 1)
    _lose_all(self)


def _open_and_remember(self: StateMachine, *arguments: Any) -> Iterator[None]:
    yield from _open(self, *arguments)
    self.__dict__["older"] = self.applied_index > 1


def _skip_what_is_unknown(self: StateMachine, payload: bytes, at: int) -> bytes | Any:
    """etcd #11689: a member of another version skips an entry that it does not know.

    Who has started again is the older one here, and deletions are what it does not know.
    """
    return b"" if self.__dict__.get("older") else _delete_range(self, payload, at)


def _revision_of_the_live_keys(store: Store) -> Iterator[None]:
    """etcd #17780: after a restart the revision is that of the newest row that is left."""
    yield from _load_keys(store)
    ids = [value if isinstance(value, int) else 0 for value in store.live.values()]
    newest = max((value & ((1 << 96) - 1) for value in ids), default=0) >> SUB_BITS
    if 1 < newest < store.revision:
        store.revision = newest
        store.next_id = (newest + 1) << SUB_BITS


def _renew_what_is_gone(self: Lessor, lease: int, machine: Leased) -> float:
    """etcd pull request 20615: a renewal of a lease that was revoked meanwhile succeeds."""
    return _renew(self, lease, machine) or 5.0


def _always_there(self: Queues, place: Place) -> bool:
    """Jepsen on etcd 3.4.3: who was waiting for a lock never asks whether its lease still lives."""
    return True


_READS: Final = ("pause", "isolate leader", "mute leader", "crash leader", "transfer")

MUTANTS: Final = (
    Mutant(
        "read by a quorum that was checked before",
        ((Leader, "_start_round", _read_by_checked_quorum),),
        ("pause", "isolate leader", "mute leader"),
        200,
        reads=True,
    ),
    Mutant(
        "take a read's answer after the leader changed",
        ((Reads, "lose_all", _answer_at_a_change),),
        _READS,
        200,
        reads=True,
    ),
    Mutant(
        "skip an entry that is unknown",
        (
            (StateMachine, "_open", _open_and_remember),
            (StateMachine, "_delete_range", _skip_what_is_unknown),
        ),
        ("crash one", "crash some"),
    ),
    Mutant(
        "take the revision from the rows that are left",
        ((loading, "load_keys", _revision_of_the_live_keys),),
        ("crash one", "crash some", "crash all"),
        snapshot_count=20,
    ),
    Mutant(
        "renew a lease that is gone",
        ((Lessor, "renew", _renew_what_is_gone),),
        ("crash leader", "transfer", "isolate leader"),
        watched=True,
    ),
)

# The server's own queues are beyond the simulator: a scenario with a real process (`teeth`).
LOCK_WITHOUT_A_SECOND_LOOK: Final = Mutant(
    "wait for a lock without a second look at the lease",
    ((Queues, "_is_there", _always_there),),
    (),
)
