# Made by scripts/generate_sync.py from raftkv/client/aio: edit that.
"""One face of the client library; `raftkv.client.shared` is what both have in common."""

from typing import TYPE_CHECKING

from raftkv.client import lazily, shared
from raftkv.client.shared import *  # noqa: F403
from raftkv.client.sync.client import Client
from raftkv.client.sync.conversation import Conversation
from raftkv.client.sync.kv import Transaction
from raftkv.client.sync.lease import Lease
from raftkv.client.sync.watch import Watch, WatchCallback

__all__ = [
    "Barrier",
    "Cache",
    "Changes",
    "Claim",
    "Client",
    "Conversation",
    "Counter",
    "DoubleBarrier",
    "Election",
    "Holding",
    "Instance",
    "LeaderRunner",
    "Lease",
    "Lock",
    "Membership",
    "Observation",
    "Participant",
    "Partitioner",
    "Party",
    "PriorityQueue",
    "Queue",
    "RWLock",
    "Registration",
    "Replaced",
    "Semaphore",
    "ServiceRegistry",
    "Share",
    "Shift",
    "Snapshot",
    "Subscription",
    "Term",
    "Transaction",
    "View",
    "Watch",
    "WatchCallback",
    "stm",
]
__all__ += shared.__all__

if TYPE_CHECKING:
    from raftkv.client.sync.recipes.barrier import Barrier
    from raftkv.client.sync.recipes.cache import Cache, Changes, Snapshot, Subscription
    from raftkv.client.sync.recipes.counter import Counter
    from raftkv.client.sync.recipes.double_barrier import DoubleBarrier
    from raftkv.client.sync.recipes.election import Election, Observation, Term
    from raftkv.client.sync.recipes.leader_runner import LeaderRunner, Shift
    from raftkv.client.sync.recipes.lock import Lock
    from raftkv.client.sync.recipes.partitioner import Partitioner, Share
    from raftkv.client.sync.recipes.party import Membership, Participant, Party
    from raftkv.client.sync.recipes.priority_queue import PriorityQueue
    from raftkv.client.sync.recipes.queue import Claim, Queue
    from raftkv.client.sync.recipes.queued import Holding
    from raftkv.client.sync.recipes.registry import (
        Instance,
        Registration,
        Replaced,
        ServiceRegistry,
    )
    from raftkv.client.sync.recipes.rwlock import RWLock
    from raftkv.client.sync.recipes.semaphore import Semaphore
    from raftkv.client.sync.recipes.stm import stm
    from raftkv.client.sync.recipes.view import View
else:

    def __getattr__(name: str) -> object:
        return lazily.imported("raftkv.client.sync", name)
