"""One face of the client library; `raftkv.client.shared` is what both have in common."""

from typing import TYPE_CHECKING

from raftkv.client import lazily, shared
from raftkv.client.aio.client import Client
from raftkv.client.aio.conversation import Conversation
from raftkv.client.aio.kv import Transaction
from raftkv.client.aio.lease import Lease
from raftkv.client.aio.watch import Watch, WatchCallback
from raftkv.client.shared import *  # noqa: F403

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
    from raftkv.client.aio.recipes.barrier import Barrier
    from raftkv.client.aio.recipes.cache import Cache, Changes, Snapshot, Subscription
    from raftkv.client.aio.recipes.counter import Counter
    from raftkv.client.aio.recipes.double_barrier import DoubleBarrier
    from raftkv.client.aio.recipes.election import Election, Observation, Term
    from raftkv.client.aio.recipes.leader_runner import LeaderRunner, Shift
    from raftkv.client.aio.recipes.lock import Lock
    from raftkv.client.aio.recipes.partitioner import Partitioner, Share
    from raftkv.client.aio.recipes.party import Membership, Participant, Party
    from raftkv.client.aio.recipes.priority_queue import PriorityQueue
    from raftkv.client.aio.recipes.queue import Claim, Queue
    from raftkv.client.aio.recipes.queued import Holding
    from raftkv.client.aio.recipes.registry import Instance, Registration, Replaced, ServiceRegistry
    from raftkv.client.aio.recipes.rwlock import RWLock
    from raftkv.client.aio.recipes.semaphore import Semaphore
    from raftkv.client.aio.recipes.stm import stm
    from raftkv.client.aio.recipes.view import View
else:

    def __getattr__(name: str) -> object:
        return lazily.imported("raftkv.client.aio", name)
