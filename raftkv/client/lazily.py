"""Names that a package offers and that are imported when they are first used.

Recipes are many and most programs need one or two: `import raftkv.client` stays quick.
"""

from importlib import import_module
from typing import Final

# By name: the module below the face's package.
RECIPES: Final = {
    "Barrier": "recipes.barrier",
    "Cache": "recipes.cache",
    "Changes": "recipes.cache",
    "Claim": "recipes.queue",
    "Counter": "recipes.counter",
    "DoubleBarrier": "recipes.double_barrier",
    "Election": "recipes.election",
    "Holding": "recipes.queued",
    "Instance": "recipes.registry",
    "LeaderRunner": "recipes.leader_runner",
    "Lock": "recipes.lock",
    "Membership": "recipes.party",
    "Observation": "recipes.election",
    "Participant": "recipes.party",
    "Partitioner": "recipes.partitioner",
    "Party": "recipes.party",
    "PriorityQueue": "recipes.priority_queue",
    "Queue": "recipes.queue",
    "RWLock": "recipes.rwlock",
    "Registration": "recipes.registry",
    "Replaced": "recipes.registry",
    "Semaphore": "recipes.semaphore",
    "ServiceRegistry": "recipes.registry",
    "Share": "recipes.partitioner",
    "Shift": "recipes.leader_runner",
    "Snapshot": "recipes.cache",
    "Subscription": "recipes.cache",
    "Term": "recipes.election",
    "View": "recipes.view",
    "stm": "recipes.stm",
}


def imported(face: str, name: str) -> object:
    """A recipe's class or function. face: the package's name. Errors: AttributeError."""
    module = RECIPES.get(name)
    if module is None:
        raise AttributeError(f"module {face!r} has no attribute {name!r}")
    return getattr(import_module(f"{face}.{module}"), name)
