"""Known-wrong variants of how raftkv changes its members, and of what guards a write.

Each breaks one rule of Raft's membership changes (Raft 6; dissertation 4) or of etcd's API: who
counts, what becomes of an id; when a compare holds.
"""

from typing import Any, Final

from raftkv.kv import swaps, txn
from raftkv.kv.members import Member, Roster
from raftkv.kv.store import Store
from raftkv.raft.leader import Leader
from raftkv.raft.types import Configuration
from raftkv.sim.hunting import Mutant

_rebuild = Leader._rebuild
_configure = Roster.configure
_without_keys = txn.holds_without_keys
_swap = swaps._holds


def _rebuild_with_learners(self: Leader) -> None:
    """A learner counts like a voter."""
    core = self.core
    true = core.history.newest
    if true.learners and not true.joint:
        core.history.newest = Configuration((*true.voters, *true.learners))
    try:
        _rebuild(self)
    finally:
        core.history.newest = true


def _forget_the_removed(
    self: Roster, configuration: Configuration, joining: Member | None
) -> tuple[list[Member], list[int]]:
    """Nobody remembers which ids were removed, so who has one is told nothing and goes on."""
    added, _ = _configure(self, configuration, joining)
    self.removed.clear()
    return added, []


def _holds_without_keys(compare: Any) -> bool:
    """A compare with the create revision of a key that is gone holds."""
    guards = compare.target == txn._CREATE and compare.create_revision > 0
    return guards or _without_keys(compare)


def _swap_holds(store: Store, compare: swaps.Compare) -> bool:
    target, _, key, given = compare
    if target == txn._CREATE and given and store.numbers(key) is None:
        return True
    return _swap(store, compare)


MUTANTS: Final = (
    Mutant(
        "count learners as voters",
        ((Leader, "_rebuild", _rebuild_with_learners),),
        ("replace member", "isolate one", "crash one"),
    ),
)

# Nothing in the simulator stands behind a guard; workloads with locks find it, simulated too.
GUARD_BY_A_KEY_THAT_IS_GONE: Final = Mutant(
    "guard by a key that is gone",
    ((txn, "holds_without_keys", _holds_without_keys), (swaps, "_holds", _swap_holds)),
    (),
)

# A simulated administrator ends processes by itself: whole runs with real members find it.
FORGET_THE_REMOVED: Final = Mutant(
    "forget which members were removed", ((Roster, "configure", _forget_the_removed),), ()
)
