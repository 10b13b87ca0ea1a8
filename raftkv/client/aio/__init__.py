"""One face of the client library; `raftkv.client.shared` is what both have in common."""

from typing import TYPE_CHECKING

from raftkv.client import lazily, shared
from raftkv.client.aio.client import Client
from raftkv.client.aio.kv import Transaction
from raftkv.client.aio.lease import Lease
from raftkv.client.aio.watch import Watch
from raftkv.client.shared import *  # noqa: F403

__all__ = [
    "Barrier",
    "Client",
    "Counter",
    "DoubleBarrier",
    "Election",
    "Holding",
    "LeaderRunner",
    "Lease",
    "Lock",
    "RWLock",
    "Semaphore",
    "Shift",
    "Term",
    "Transaction",
    "Watch",
    "stm",
]
__all__ += shared.__all__

if TYPE_CHECKING:
    from raftkv.client.aio.recipes.barrier import Barrier
    from raftkv.client.aio.recipes.counter import Counter
    from raftkv.client.aio.recipes.double_barrier import DoubleBarrier
    from raftkv.client.aio.recipes.election import Election, Term
    from raftkv.client.aio.recipes.leader_runner import LeaderRunner, Shift
    from raftkv.client.aio.recipes.lock import Lock
    from raftkv.client.aio.recipes.queued import Holding
    from raftkv.client.aio.recipes.rwlock import RWLock
    from raftkv.client.aio.recipes.semaphore import Semaphore
    from raftkv.client.aio.recipes.stm import stm
else:

    def __getattr__(name: str) -> object:
        return lazily.imported("raftkv.client.aio", name)
